"""What a target is made of, as exact proportions: of sources for `lineage`, of contents for a file's metadata.

Most targets have the same proportions in every tensor; others have them by block. If tensors of one block differ, the
block shows the proportions that most of them have, and the others are shown as a group of it (`IN04 attn`) or by their
own names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar
from weakref import WeakKeyDictionary

from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Blueprint, Kinds, Slot
from mergebuild.layouts import Layout
from mergebuild.naming.canonical import is_constant
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Slice, Target
from mergebuild.results.looks import Lineage

__all__ = ["Shares", "lineage", "proportions", "summarize"]

Shares = tuple[tuple[str, Fraction], ...]
"""The proportions of a tensor: (source, share), sorted by source."""


def summarize(
    shares: Mapping[str, Shares], layout: Layout | None
) -> tuple[dict[str, str] | None, dict[str, dict[str, str]]]:
    """Return the proportions of all tensors together, and those by block; one of the two is empty."""
    whole, by_block = _summary(shares, layout)
    if not by_block:
        return ({} if whole is None else _shown(whole)), {}
    return None, {label: _shown(each) for label, each in by_block.items()}


Value = TypeVar("Value", Shares, int)


def _summary(values: Mapping[str, Value], layout: Layout | None) -> tuple[Value | None, dict[str, Value]]:
    """Return the value that all tensors have (None if there are no tensors), or else the values by block."""
    distinct = set(values.values())
    if len(distinct) <= 1:
        return next(iter(distinct), None), {}
    by_block: dict[str, dict[str, Value]] = {}
    for name, each in values.items():
        block = layout.block(name) if layout else None
        by_block.setdefault(block or "*", {})[name] = each
    found: dict[str, Value] = {}
    for block in sorted(by_block):
        found |= _of_block(block, by_block[block], layout)
    return None, found


def _of_block(block: str, members: Mapping[str, Value], layout: Layout | None) -> dict[str, Value]:
    """Return the value that most tensors of a block have, and those of the others, by group or by name."""
    ((common, _count),) = Counter(members.values()).most_common(1)
    found = {block: common}
    others: dict[Value, list[str]] = {}
    for name in sorted(members):
        if members[name] != common:
            others.setdefault(members[name], []).append(name)
    for each, names in others.items():
        group = _group(names, members, layout)
        found |= {f"{block} {group}": each} if group else dict.fromkeys(names, each)
    return found


def proportions(
    blueprint: Blueprint, names: Mapping[str, str]
) -> tuple[dict[str, str] | None, dict[str, dict[str, str]]]:
    """Return `summarize` for a target's own slots, with owners by `names`; nothing if some forms are operations.

    Which tensors have equal shares is the same for nearly all members of a family, so it is computed once.
    """
    if blueprint.forms.operates:
        return None, {}
    shares = [_shown(each) for each in _of_kinds(blueprint, names)]
    whole, by_block = _summary_of_kinds(blueprint, _first_alike(shares))
    if not by_block:
        return ({} if whole is None else shares[whole]), {}
    return None, {label: shares[kind] for label, kind in by_block.items()}


_summaries: WeakKeyDictionary[Kinds, dict[tuple[int, ...], tuple[int | None, dict[str, int]]]] = WeakKeyDictionary()
"""By kinds, and by the first kind that has each kind's shares: which kinds are shown."""


def _first_alike(shares: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    """Return for each kind the first kind that has the same shares."""
    first: dict[tuple[tuple[str, str], ...], int] = {}
    return tuple([first.setdefault(tuple(each.items()), kind) for kind, each in enumerate(shares)])


def _summary_of_kinds(blueprint: Blueprint, alike: tuple[int, ...]) -> tuple[int | None, dict[str, int]]:
    """Return the kind that all tensors are like, or else the kinds by block. `alike`: as from `_first_alike`."""
    kinds = blueprint.forms.kinds
    known = _summaries.get(kinds)
    if known is None:
        known = _summaries[kinds] = {}
    found = known.get(alike)
    if found is None:
        found = known[alike] = _summary({name: alike[kinds.of[name]] for name in kinds.floats}, blueprint.layout)
    return found


def _of_kinds(blueprint: Blueprint, names: Mapping[str, str]) -> list[Shares]:
    return [_gathered([(names[slot.owner], share) for slot, share in form.terms]) for form in blueprint.forms.palette]


def lineage(folder: Folding, recipe: Recipe, target: str) -> Lineage:
    """Return the proportions of sources in a target, through virtual targets and files."""
    expanded: dict[str, dict[str, Shares]] = {}
    rounded = _rounded_below(folder, target)
    order = [name for name in recipe.below(target) if name in rounded or name == target]
    if any(folder.blueprint(name).forms.operates for name in order):
        files = tuple(name for name in order[:-1] if not recipe.target(name).folds)
        tree = tuple(_tree(recipe, target))
        return Lineage(target, linear=False, proportions=None, by_block={}, rounded_at=files, tree=tree)
    for name in order:
        expanded[name] = _expand(folder, name, expanded)
    proportions, by_block = summarize(expanded[target], folder.blueprint(target).layout)
    return Lineage(
        target,
        linear=True,
        proportions=proportions,
        by_block=by_block,
        rounded_at=tuple(order[:-1]),
        tree=tuple(_tree(recipe, target)),
    )


def _rounded_below(folder: Folding, target: str) -> set[str]:
    """Return the targets that a target reads, directly or not, and whose tensors are rounded or made by operations."""
    found: set[str] = set()
    waiting = [target]
    while waiting:
        for owner in folder.blueprint(waiting.pop()).owners:
            if not folder.is_leaf(owner) and owner not in found:
                found.add(owner)
                waiting.append(owner)
    return found


def _expand(folder: Folding, name: str, below: Mapping[str, Mapping[str, Shares]]) -> dict[str, Shares]:
    """Return a target's shares of sources, given those of the file targets that it reads."""
    forms = folder.blueprint(name).forms
    known: dict[tuple[int, tuple[Shares, ...]], Shares] = {}
    found: dict[str, Shares] = {}
    specs = folder.blueprint(name).specs
    for tensor in forms.kinds.floats:
        if is_constant(tensor, specs[tensor].shape):  # always taken from the first input
            continue
        kind = forms.kinds.of[tensor]
        terms = forms.palette[kind].terms
        parts = tuple(_shares_of(folder, slot, tensor, below) for slot, _ in terms)
        key = (kind, parts)
        if key not in known:
            pairs = zip(terms, parts, strict=True)
            known[key] = _gathered((source, share * part) for (_, share), of in pairs for source, part in of)
        found[tensor] = known[key]
    return found


def _shares_of(folder: Folding, slot: Slot, tensor: str, below: Mapping[str, Mapping[str, Shares]]) -> Shares:
    """Return the shares of sources in the tensor that a slot reads for `tensor`."""
    if slot.owner in below:
        return below[slot.owner].get(slot.tensor(tensor), ())
    return ((folder.known_as(slot.owner), Fraction(1)),)


def _tree(recipe: Recipe, target: str) -> Iterator[str]:
    """Yield a line for a target and each target and source below it, indented; each target is expanded once."""
    shown: set[str] = set()
    stack = [(target, 0)]
    while stack:
        name, depth = stack.pop()
        indent = "  " * depth
        if name in recipe.sources:
            yield f"{indent}{name}"
            continue
        made = recipe.target(name)
        how = [_slice(each) for each in made.slices] or [_method(made)]
        how += [f"{_method(rule.target)} for {', '.join(each.text for each in rule.tensors)}" for rule in made.rules]
        line = f"{indent}{name} ({_kept(made)}): {'; '.join(how)}"
        yield f"{line} (as above)" if name in shown else line
        if name not in shown:
            shown.add(name)
            stack += [(ref, depth + 1) for ref in reversed(dict.fromkeys(each.ref for each in made.reads))]


def _kept(target: Target) -> str:
    """Return where a target is written, or what is done with it instead."""
    return target.output or ("virtual" if target.folds else f"rounded to {target.dtype}")


def _slice(each: Slice) -> str:
    """Return how a slice of a stack is made, and of which layers."""
    pairs = zip(each.target.inputs, each.layers, strict=True)
    return f"{_method(each.target)} of {', '.join(f'{layers.text} of {given.ref}' for given, layers in pairs)}"


def _method(target: Target) -> str:
    return target.formula.text if target.formula else target.method


def _group(names: Sequence[str], block: Iterable[str], layout: Layout | None) -> str | None:
    """Return the group of the layout that is exactly these tensors of a block; None if there is none."""
    for group, pattern in layout.groups if layout else ():
        if names == sorted(name for name in block if pattern.search(name)):
            return group
    return None


def _gathered(parts: Iterable[tuple[str, Fraction]]) -> Shares:
    total: dict[str, Fraction] = {}
    for source, share in parts:
        known = total.get(source)
        total[source] = share if known is None else known + share
    return tuple([(source, total[source]) for source in sorted(total) if total[source]])


def _shown(shares: Shares) -> dict[str, str]:
    return {source: str(share) for source, share in shares}
