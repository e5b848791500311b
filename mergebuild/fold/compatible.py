"""Checks whether the inputs of a target fit together, from headers, before any tensor is read.

Tensors that are merged must have one shape in all inputs. Checkpoints of different architectures are refused, and those
that share less than half of the smaller one's tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mergebuild.configuration.vocabulary import is_of_tokens
from mergebuild.errors import MergeBuildError, MismatchError, Problem, SourceError
from mergebuild.fold.counterparts import Accounting, Spec, percent
from mergebuild.layouts import Layout
from mergebuild.lora import Match, weight_of
from mergebuild.naming.canonical import is_first_layer
from mergebuild.naming.difference import explained
from mergebuild.recipe.model import Component, Input, Target
from mergebuild.results.quantities import count_text

__all__ = [
    "GENERAL",
    "Offer",
    "Spec",
    "check_accounts",
    "check_component",
    "check_latents",
    "check_layouts",
    "check_modules",
    "check_shapes",
    "doubtful_component",
    "misfits",
    "other_rows",
    "refusal",
    "unknown_in_component",
    "unmatched",
]

_NUMBER = re.compile(r"\.\d+\.")
_LISTED = 8
_WRITTEN_OUT = 3
_AMOUNTS = ("alpha", "t", "weight")
"""The names that methods give to the number by which an input takes part."""
GENERAL = frozenset({"transformer"})
"""Layouts of anything with layers: models with one of these may have different architectures."""
_LISTED_OF_A_LORA = 40


class Offer(NamedTuple):
    """An input as a target sees it: its name, its name for people, and its tensors."""

    ref: str
    shown: str
    layout: Layout | None
    specs: Mapping[str, Spec]

    def row(self, width: int = 0) -> str:
        """Return a line about it for an error, its name padded to a width."""
        return f"{self.ref:{width}}  {self.shown}"


def check_shapes(target: Target, offers: Sequence[Offer], unequal: Mapping[str, Collection[int]]) -> None:
    """Check that tensors have one shape in all inputs.

    Args:
        target: The target.
        offers: The inputs.
        unequal: Tensors with several shapes, and the indexes of the inputs that have them and are to be merged.

    Raises:
        MismatchError: there are such tensors.
    """
    if unequal:
        raise _shape_mismatch(target, offers, unequal, _of_another_layout(offers))


def check_layouts(target: Target, offers: Sequence[Offer]) -> None:
    """Check that all inputs have one layout, unless the target allows different architectures.

    Raises:
        MismatchError: they have not.
    """
    first, differ = offers[0], _of_another_layout(offers)
    if differ is not None and target.architectures != "allow":
        raise _layout_mismatch(target, first, differ)


def _layout_mismatch(target: Target, first: Offer, differ: Offer) -> MismatchError:
    """Return the error for an input whose layout is not the first input's."""
    assert first.layout is not None
    assert differ.layout is not None
    return MismatchError.one(
        "layout-mismatch",
        f"the inputs of `{target.name}` are of different architectures: `{first.layout.name}` and "
        f"`{differ.layout.name}`",
        where=target.where.place(),
        rows=(first.row(), differ.row()),
        help="checkpoints of different architectures can't be merged",
    )


def _of_another_layout(offers: Sequence[Offer]) -> Offer | None:
    return next((offer for offer in offers[1:] if _are_different(offers[0].layout, offer.layout)), None)


def _are_different(one: Layout | None, other: Layout | None) -> bool:
    """Whether two layouts mean different architectures. A layout that only knows layers may be any architecture."""
    return one is not None and other is not None and one.name != other.name and not {one.name, other.name} & GENERAL


def check_accounts(target: Target, accounts: Sequence[Accounting]) -> None:
    """Check that most of each input takes part; all of it, if the target says `missing = "error"`.

    Raises:
        MismatchError: too little of an input has a counterpart.
    """
    if target.missing == "error":
        _refuse_missing(target, [sentence for account in accounts for sentence in account.sentences])
    for account in accounts:
        if 2 * account.smaller.taken < account.smaller.asked or not account.first.taken:
            raise _too_little(target, account)


def _too_little(target: Target, account: Accounting) -> MismatchError:
    side = account.smaller
    opposite = account.first if side is account.other else account.other
    share = f"only {percent(side.taken, side.asked)}" if side.taken else "none"
    known = explained(account.first.apart, account.other.apart)
    return MismatchError.one(
        "too-little-in-common",
        f"{share} of what `{target.name}` asks of `{side.ref}` has a counterpart in `{opposite.ref}`",
        where=target.where.place(),
        rows=account.sentences[:_LISTED],
        help=known or "`mergebuild inspect FILE --tensors` shows the names",
    )


def check_modules(target: Target, others: Sequence[str], lacking: Sequence[Sequence[str]]) -> None:
    """Check that LoRAs have the same modules, if the target requires it.

    `others`: the LoRAs after the first; `lacking`: for each of these, the first one's modules that it lacks.

    Raises:
        MismatchError: the target says `missing = "error"`, and a LoRA lacks modules.
    """
    if target.missing == "error":
        pairs = zip(others, lacking, strict=True)
        _refuse_missing(target, [_lacks_modules(ref, names) for ref, names in pairs if names])


def _lacks_modules(ref: str, names: Sequence[str]) -> str:
    """Return a sentence about a LoRA that lacks modules of the first one."""
    return f"`{ref}` lacks {count_text(len(names), 'module')} of the first LoRA, such as `{names[0]}`"


def _refuse_missing(target: Target, rows: Sequence[str]) -> None:
    if rows:
        raise MismatchError.one(
            "missing-tensors",
            f'the inputs of `{target.name}` have different tensors, and it says `missing = "error"`',
            where=target.where.place(),
            rows=rows,
            help='`missing = "keep"` takes from the first input what another lacks',
        )


def _shape_mismatch(
    target: Target, offers: Sequence[Offer], unequal: Mapping[str, Collection[int]], other: Offer | None
) -> MismatchError:
    wrong = list(unequal)
    name = wrong[0]
    used = [offer for at, offer in enumerate(offers) if at in unequal[name]]
    specs = [offer.specs[name] for offer in used]
    mend = _by_channels(target, offers, unequal) or _by_tokens(name, specs) + _from_one_alone(target, wrong)
    if other and offers[0].layout and other.layout:
        mend = (
            f"these are `{offers[0].layout.name}` and `{other.layout.name}`; checkpoints of different"
            " architectures can't be merged"
        )
    sentence = _what_differs(target, name, specs)
    rows = _rows_of(used, wrong)
    return MismatchError.one("shape-mismatch", sentence, where=target.where.place(), rows=rows, help=mend)


def _what_differs(target: Target, name: str, specs: Sequence[Spec]) -> str:
    """Return the sentence of an error about a tensor that has several shapes in the inputs.

    If it has a row for each token and only the numbers of rows differ, the sentence says that the vocabularies do.
    """
    if _differ_in_tokens(name, specs):
        vocabularies = " and ".join(str(count) for count in dict.fromkeys(spec.shape[0] for spec in specs))
        return f"the vocabularies of the inputs of `{target.name}` differ: `{name}` has {vocabularies} rows"
    return f"`{name}` differs between the inputs of `{target.name}`"


def _differ_in_tokens(name: str, specs: Sequence[Spec]) -> bool:
    """Whether a tensor has a row for each token, and its shapes differ in the number of rows alone."""
    return is_of_tokens(name) and all(spec.shape for spec in specs) and len({spec.shape[1:] for spec in specs}) == 1


def _by_tokens(name: str, specs: Sequence[Spec]) -> str:
    """Return how to merge rows of different vocabularies, before other ways; empty if something else differs."""
    if not _differ_in_tokens(name, specs):
        return ""
    return "`tokenizer = { union = true }` merges rows token by token, in a folder; or "


def _rows_of(used: Sequence[Offer], names: Sequence[str]) -> list[str]:
    """Return lines with the first tensor's dtype and shape in each input, and one with the names of other tensors."""
    longest = max(len(offer.ref) for offer in used)
    cells = [(offer.row(longest), offer.specs[names[0]]) for offer in used]
    width = max(len(row) for row, _ in cells)
    rows = [f"{row:{width}}  {spec.dtype} {list(spec.shape)}" for row, spec in cells]
    if len(names) > 1:
        listed = ", ".join(names[1:4])
        rows.append(f"and {len(names) - 1} more: {listed}{', ...' if len(names) > 4 else ''}")
    return rows


def _by_channels(target: Target, offers: Sequence[Offer], unequal: Mapping[str, Collection[int]]) -> str:
    """Return how to merge first layers with different numbers of channels; empty if other tensors differ too."""
    for name, used in unequal.items():
        specs = [offers[at].specs[name] for at in used]
        if not is_first_layer(name) or any(_but_channels(each) != _but_channels(specs[0]) for each in specs):
            return ""
    name, used = next(iter(unequal.items()))
    channels = {offers[at].ref: offers[at].specs[name].shape[1] for at in sorted(used)}
    wide, narrow = max(channels, key=lambda ref: channels[ref]), min(channels, key=lambda ref: channels[ref])
    if target.on_channels == "common":
        return (
            f"`{wide}` has {channels[wide]} input channels and `{narrow}` {channels[narrow]}; channels are taken from "
            "sources, and from virtual targets of them, with one scale a row at most: take one, or leave the layer out"
        )
    return (
        f'`on_channels = "common"` merges the first {channels[narrow]} channels, which `{wide}` has too; '
        f"the result has the {offers[0].specs[name].shape[1]} of the first input, `{offers[0].ref}`"
    )


def _but_channels(spec: Spec) -> tuple[int, ...]:
    return (*spec.shape[:1], *spec.shape[2:])


def _from_one_alone(target: Target, names: Sequence[str]) -> str:
    """Return how to take some tensors from one input only, as an example to paste."""
    amount = next((each for each in _AMOUNTS if each in target.numbers), None)
    if amount is None:
        return "take such tensors from one input only: with `merge`, or by a rule whose method is `copy`"
    number = target.numbers[amount]
    constant = number[-1].constant if isinstance(number, tuple) else number.constant
    keys = ", ".join(f'"{name}" = 0' for name in names[:_WRITTEN_OUT])
    more = ", …" if len(names) > _WRITTEN_OUT else ""
    table = f"{{ default = {'…' if constant is None else f'{float(constant):g}'}, {keys}{more} }}"
    if isinstance(number, tuple):
        table = f"[{', '.join(['…'] * (len(number) - 1) + [table])}]"
    return f"take such tensors from one input only: `{amount} = {table}`"


def check_latents(target: Target, ours: frozenset[str], theirs: frozenset[str], ref: str, *where: str) -> None:
    """Check that an autoencoder's latents are those of the target's model.

    `ours`: the models with the target's latents.

    Raises:
        MismatchError: they are other models' latents, and the target does not allow different architectures.
    """
    if not ours or not theirs or ours & theirs or target.architectures == "allow":
        return
    raise MismatchError.one(
        "architectures-differ",
        f"the VAE of `{ref}` is one of {_one_of(theirs)}, and `{target.name}` is {_one_of(ours)}",
        where=target.where.place(*where),
        help="equal shapes mean other things there, and pictures would be noise; if it is meant all the same, say "
        '`architectures = "allow"`',
    )


def _one_of(titles: Collection[str]) -> str:
    return " or ".join(sorted(titles))


def check_component(target: Target, component: Component, specs: Mapping[str, Spec], taken: Mapping[str, Spec]) -> None:
    """Check that a component belongs to the kind of model: it has tensors of it, and in the right shapes.

    Raises:
        MismatchError: it does not.
    """
    if not taken:
        raise _component_missing(target, component)
    wrong = {
        name: (taken[name].shape, specs[name].shape)
        for name in taken
        if name in specs and taken[name].shape != specs[name].shape
    }
    if wrong:
        raise _component_mismatch(target, component, wrong)


def _ref_of(component: Component) -> str:
    """Return the name of the input from which a component is taken; empty if there is none."""
    return component.input.ref if component.input else ""


def _component_missing(target: Target, component: Component) -> MismatchError:
    """Return the error for a component that its input does not have."""
    return MismatchError.one(
        "component-missing",
        f"`{_ref_of(component)}` has no tensors of the `{component.name}` of `{target.name}`",
        where=target.where.place("components", component.name),
        help="`mergebuild inspect FILE` shows what a file has",
    )


def _component_mismatch(
    target: Target, component: Component, wrong: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> MismatchError:
    """Return the error for a component with other shapes. `wrong`: by tensor, the shape found and the one expected."""
    of = f"the `{component.name}` of `{_ref_of(component)}`"
    shapes = list(wrong.items())[:_LISTED]
    return MismatchError.one(
        "shape-mismatch",
        f"{len(wrong)} tensors of {of} have other shapes than in `{target.name}`",
        where=target.where.place("components", component.name),
        rows=[f"{name}  {list(found)}, expected {list(expected)}" for name, (found, expected) in shapes],
        help="it is of another architecture",
    )


def unknown_in_component(target: Target, component: Component, names: Sequence[str]) -> MismatchError:
    """Return the error for a standalone component with tensors that no checkpoint has."""
    return MismatchError.one(
        "component-unknown",
        f"{len(names)} tensors of `{_ref_of(component)}` are none of a `{component.name}`",
        where=target.where.place("components", component.name),
        rows=names[:_LISTED],
        help="`mergebuild inspect FILE --tensors` shows the names",
    )


def refusal(problems: Sequence[Problem]) -> MergeBuildError:
    """Return the error for LoRAs that can't be added to some tensors; it describes the first of these."""
    first = problems[0]
    if len(problems) > 1:
        first = first._replace(rows=(*first.rows, f"and {len(problems) - 1} more tensors like it"))
    return (MismatchError if first.code == "lora-rows" else SourceError)((first,))


def misfits(matched: Match) -> Mapping[str, Problem]:
    """Return the tensors of a model that a LoRA does not fit, each with the problem."""
    many = 2 * len(matched.misfits) > len(matched.misfits) + len(matched.deltas)
    found: dict[str, Problem] = {}
    for each in matched.misfits:
        mend = "`allow_unmatched = true` leaves it out, and so does a strength of 0 for this tensor"
        if many:
            mend = "the LoRA was made for another kind of model: take one of the kind that it was trained on"
        elif is_first_layer(each.tensor):
            mend = f'`on_channels = "common"` adds it to the channels that both have; {mend}'
        found.setdefault(each.tensor, each.problem._replace(help=mend))
    return found


def other_rows(ref: str, tensor: str, model: tuple[int, ...], lora: tuple[int, ...]) -> Problem:
    """Return the problem of a tensor with other rows than the model's that is not taken whole."""
    return Problem(
        "lora-rows",
        f"LoRA `{ref}` has {lora[0]} rows of `{tensor}`, and the model {model[0]}: its vocabulary is another",
        rows=(f"found   {list(lora)}", f"model   {list(model)}"),
        help="it can take the place of the model's, at strength 1 and as the only LoRA there, or be left at strength 0:"
        f' `strength = {{ default = 0.5, "{tensor}" = 1 }}`',
    )


def doubtful_component(target: Target, component: Component, names: Sequence[str]) -> MismatchError:
    """Return the error for a standalone component that may be one part of a model or another."""
    ref = _ref_of(component)
    either = " or ".join(f"`{name}`" for name in names)
    return MismatchError.one(
        "component-doubtful",
        f"`{ref}` may be {either} of `{target.name}`, and nothing in it tells which",
        where=target.where.place("components", component.name),
        help=f'say which: `components.{names[0]} = "{ref}"`',
    )


def unmatched(
    target: Target, lora: Input, names: Sequence[str], model: Collection[str], *, found: int
) -> MismatchError:
    """Return the error for a LoRA with tensors that belong to no tensor of the model.

    Args:
        target: The target that it is added to.
        lora: The LoRA.
        names: These tensors.
        model: The names of the model's tensors.
        found: How many tensors of the model its other tensors change.
    """
    most = _LISTED_OF_A_LORA
    listed = [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
    why = _why_unmatched(names, model, is_rest=bool(found))
    return MismatchError.one(
        "lora-unmatched",
        f"{len(names)} tensors of LoRA `{lora.ref}` have no place in the model of `{target.name}`"
        + (f"; the others change {found} tensors" if found else ""),
        where=target.where.place(),
        rows=listed,
        help=f"{why}; `allow_unmatched = true` leaves them out",
    )


def _why_unmatched(names: Sequence[str], model: Collection[str], *, is_rest: bool) -> str:
    """Return what a LoRA's tensors without a counterpart have in common, as far as their names tell."""
    weights = {weight_of(name) for name in names}
    first = {_NUMBER.sub(".0.", weight, count=1) for weight in weights}
    if first <= set(model) and not weights & first:
        return "the model has fewer layers: the LoRA was made for a deeper one"
    clause = explained(model, weights)
    if clause:
        return f"they seem to be the model's under other names, which no rule knows: {clause}"
    if is_rest:
        return "they are of parts that this model lacks"
    return "none of it is for this model: it was made for another one"
