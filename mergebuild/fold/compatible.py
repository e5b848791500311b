"""Do the inputs of a target fit together? Decided from headers, before any tensor is read.

What is merged must be of one shape everywhere; checkpoints of different architectures, or that share less than half of
the smaller one's tensors, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mergebuild.errors import MismatchError
from mergebuild.layouts import Layout
from mergebuild.recipe.model import Component, Input, Target

__all__ = ["Offer", "Spec", "check", "check_component", "check_missing", "unknown_in_component", "unmatched"]

_LISTED = 8
_LISTED_OF_A_LORA = 40


class Spec(NamedTuple):
    """What a tensor is from outside."""

    dtype: str
    shape: tuple[int, ...]
    is_float: bool


class Offer(NamedTuple):
    """An input as a target sees it: its name, what people know it by, and its tensors."""

    ref: str
    shown: str
    layout: Layout | None
    specs: Mapping[str, Spec]

    def row(self, width: int = 0) -> str:
        """Return a line about it for an error, its name filled up to a width."""
        return f"{self.ref:{width}}  {self.shown}"


def check(target: Target, offers: Sequence[Offer], common: Sequence[str]) -> None:
    """Refuse inputs that do not fit. `common`: the tensors that are merged.

    Raises:
        MismatchError: shapes or architectures differ, or there is too little in common.
    """
    first = offers[0]
    for offer in offers[1:]:
        wrong = [name for name in common if offer.specs[name].shape != first.specs[name].shape]
        ours, theirs = first.layout, offer.layout
        differ = ours is not None and theirs is not None and ours.name != theirs.name
        if wrong:
            raise _shape_mismatch(target, offers, wrong, offer if differ else None)
        if differ:
            assert ours is not None
            assert theirs is not None
            raise MismatchError.one(
                "layout-mismatch",
                f"the inputs of `{target.name}` are of different architectures: `{ours.name}` and `{theirs.name}`",
                where=target.where.place(),
                rows=(first.row(), offer.row()),
                help="checkpoints of different architectures can't be merged",
            )
        shared = sum(name in first.specs for name in offer.specs)
        smaller = min(len(first.specs), len(offer.specs))
        if 2 * shared < smaller and not target.making.union_of_tensors:
            raise MismatchError.one(
                "too-little-in-common",
                f"inputs of `{target.name}` share only {shared} tensors, less than half of the smaller one's {smaller}",
                where=target.where.place(),
                rows=(first.row(), offer.row()),
                help="`mergebuild inspect FILE --tensors` shows the names",
            )


def _shape_mismatch(
    target: Target, offers: Sequence[Offer], wrong: Sequence[str], other: Offer | None
) -> MismatchError:
    name = wrong[0]
    longest = max(len(offer.ref) for offer in offers)
    cells = [(offer.row(longest), offer.specs[name]) for offer in offers if name in offer.specs]
    width = max(len(row) for row, _ in cells)
    rows = [f"{row:{width}}  {spec.dtype} {list(spec.shape)}" for row, spec in cells]
    if len(wrong) > 1:
        listed = ", ".join(wrong[1:4])
        rows.append(f"and {len(wrong) - 1} more: {listed}{', ...' if len(wrong) > 4 else ''}")
    mend = "take tensors that differ from one input only, with `merge` or a number that does not reach them"
    if name.endswith("input_blocks.0.0.weight") and len({spec.shape[::2] for _, spec in cells}) == 1:
        mend = '`on_channels = "common"` merges the channels that all have, and keeps the rest of the first input'
    if other and offers[0].layout and other.layout:
        mend = (
            f"these are `{offers[0].layout.name}` and `{other.layout.name}`; checkpoints of different"
            " architectures can't be merged"
        )
    return MismatchError.one(
        "shape-mismatch",
        f"`{name}` differs between the inputs of `{target.name}`",
        where=target.where.place(),
        rows=rows,
        help=mend,
    )


def check_component(target: Target, component: Component, specs: Mapping[str, Spec], taken: Mapping[str, Spec]) -> None:
    """Refuse a component that is not one for the model: it has no tensors of it, or some of another shape.

    Raises:
        MismatchError: so it is.
    """
    where = target.where.place("components", component.name)
    ref = component.input.ref if component.input else ""
    if not taken:
        raise MismatchError.one(
            "component-missing",
            f"`{ref}` has no tensors of the `{component.name}` of `{target.name}`",
            where=where,
            help="`mergebuild inspect FILE` shows what a file has",
        )
    wrong = [name for name in taken if name in specs and taken[name].shape != specs[name].shape]
    if wrong:
        raise MismatchError.one(
            "shape-mismatch",
            f"{len(wrong)} tensors of the `{component.name}` of `{ref}` have other shapes than in `{target.name}`",
            where=where,
            rows=[f"{name}  {list(taken[name].shape)}, expected {list(specs[name].shape)}" for name in wrong[:_LISTED]],
            help="it is of another architecture",
        )


def unknown_in_component(target: Target, component: Component, names: Sequence[str]) -> MismatchError:
    """Return the error of a standalone component with tensors that no checkpoint has."""
    ref = component.input.ref if component.input else ""
    return MismatchError.one(
        "component-unknown",
        f"{len(names)} tensors of `{ref}` are none of a `{component.name}`",
        where=target.where.place("components", component.name),
        rows=names[:_LISTED],
        help="`mergebuild inspect FILE --tensors` shows the names",
    )


def unmatched(target: Target, lora: Input, names: Sequence[str], *, found: int) -> MismatchError:
    """Return the error of a LoRA some of whose tensors find no place in the model."""
    most = _LISTED_OF_A_LORA
    listed = [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
    return MismatchError.one(
        "lora-unmatched",
        f"{len(names)} tensors of LoRA `{lora.ref}` have no place in the model of `{target.name}`"
        + (f"; the others change {found} tensors" if found else ""),
        where=target.where.place(),
        rows=listed,
        help="it was made for another model, or parts that this one lacks; `allow_unmatched = true` leaves them out",
    )


def check_missing(target: Target, others: Sequence[str], missing: Sequence[int], left_out: Sequence[int]) -> None:
    """Refuse inputs with different tensors where the target says so; by input behind the first, how many.

    Raises:
        MismatchError: it says `missing = "error"`, and some do.
    """
    if target.missing != "error":
        return
    rows = [
        f"{ref}  lacks {count} tensors of the first input" for ref, count in zip(others, missing, strict=True) if count
    ]
    rows += [
        f"{ref}  has {count} tensors that the first input lacks"
        for ref, count in zip(others, left_out, strict=True)
        if count
    ]
    if rows:
        raise MismatchError.one(
            "missing-tensors",
            f'the inputs of `{target.name}` have different tensors, and it says `missing = "error"`',
            where=target.where.place(),
            rows=rows,
            help='`missing = "keep"` takes from the first input what another lacks',
        )
