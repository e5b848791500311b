"""Which tensors of an input take part in a target, and which don't because the other input has no counterpart.

Tensors of different inputs are matched by name. One that another input lacks stays unchanged, or is left out. That may
be intended, as for a UNet without text encoders, or it may be a case of two names for one thing. So such tensors are
reported by component and block, with their share of the bytes, and a merge in which most of an input takes no part is
refused (`compatible.check_accounts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.layouts import Layout
from mergebuild.layouts.blocks import drawn_together
from mergebuild.results.quantities import count_text, size_text

__all__ = ["Accounting", "Side", "Spec", "bytes_of", "percent", "together"]

_LISTED = 3
"""How many tensors are named one by one."""


class Spec(NamedTuple):
    """A tensor's dtype and shape."""

    dtype: str
    shape: tuple[int, ...]
    is_float: bool


class Side(NamedTuple):
    """One of two inputs that are compared."""

    ref: str
    layout: Layout | None
    specs: Mapping[str, Spec]
    asked: int = 0
    """Bytes of its floating-point tensors that the recipe asks for."""
    taken: int = 0
    """Bytes of those that take part."""
    apart: tuple[str, ...] = ()
    """The tensors asked for without a counterpart, by name."""


@dataclass(frozen=True)
class Accounting:
    """How an input compares with the first one."""

    first: Side
    other: Side
    is_copied: bool = True
    """Whether tensors that the other input lacks are taken from the first; else they are left out."""

    @property
    def is_even(self) -> bool:
        """Whether everything that is asked for takes part."""
        return all(side.taken == side.asked and not side.apart for side in (self.first, self.other))

    @property
    def smaller(self) -> Side:
        """The side of which fewer bytes are asked for."""
        return min(self.first, self.other, key=lambda side: side.asked)

    def of(self, first: str, other: str) -> Accounting:
        """Return the same comparison for inputs with other names."""
        if (first, other) == (self.first.ref, self.other.ref):
            return self
        return Accounting(self.first._replace(ref=first), self.other._replace(ref=other), is_copied=self.is_copied)

    @property
    def lacking(self) -> int:
        """How many tensors of the first input the other one lacks."""
        return len(self.first.apart)

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """What takes no part, one sentence each."""
        ref = self.other.ref
        found = [
            f"{group.counted} that `{ref}` lacks {self._fate(group)}: {group.told}" for group in _groups(self.first)
        ]
        found += [
            f"{group.counted} that only `{ref}` has {group.verb('is', 'are')} left out: {group.told}"
            for group in _groups(self.other)
        ]
        pair = self._two_names_for_one()
        if pair is not None:
            mine, theirs = pair
            found.append(
                f"`{ref}` lacks as many tensors as only it has: `{mine}` and its `{theirs}` may be two names for one"
            )
        return tuple(found)

    def _fate(self, group: _Group) -> str:
        """Return what happens to tensors that the other input lacks."""
        return (
            f"{group.verb('stays', 'stay')} the first input's"
            if self.is_copied
            else f"{group.verb('is', 'are')} left out"
        )

    def _two_names_for_one(self) -> tuple[str, str] | None:
        """Return a tensor that only the first input has and one that only the other has.

        None unless both lack equally many.

        A pair with equal shapes is preferred.
        """
        mine, theirs = self.first.apart, [name for name in self.other.apart if self.other.specs[name].is_float]
        if not mine or len(mine) != len(theirs):
            return None
        by_shape = {self.other.specs[name].shape: name for name in reversed(theirs)}
        alike = ((name, by_shape.get(self.first.specs[name].shape)) for name in mine)
        return next(((name, other) for name, other in alike if other is not None), (mine[0], theirs[0]))


def together(accounts: Iterable[Accounting]) -> tuple[Accounting, ...]:
    """Return one comparison for each input, given those of the parts of a target that has rules."""
    found: dict[str, Accounting] = {}
    for each in accounts:
        known = found.get(each.other.ref)
        found[each.other.ref] = (
            each if known is None else Accounting(_sum(known.first, each.first), _sum(known.other, each.other))
        )
    return tuple(found.values())


def _sum(one: Side, other: Side) -> Side:
    return one._replace(
        asked=one.asked + other.asked,
        taken=one.taken + other.taken,
        apart=tuple(dict.fromkeys(one.apart + other.apart)),
    )


def bytes_of(specs: Mapping[str, Spec], names: Iterable[str]) -> int:
    """Return the size in bytes of the floating-point tensors among some."""
    return sum(_size(spec) for name in names if (spec := specs[name]).is_float)


def _size(spec: Spec) -> int:
    return prod(spec.shape) * DTYPES_BY_WORD[spec.dtype].size


# For people


class _Group(NamedTuple):
    """Tensors of one component without a counterpart."""

    what: str
    """A description: all of a component, or some blocks; empty without a layout."""
    names: Sequence[str]
    nbytes: int
    of: str
    """The share of what is asked of the input, and the input's name."""

    @property
    def counted(self) -> str:
        """Their number, as text."""
        return count_text(len(self.names), "tensor")

    @property
    def told(self) -> str:
        """Their description, size, and some names."""
        few = len(self.names) <= _LISTED
        listed = ", ".join(f"`{name}`" for name in self.names) if few else f"such as `{self.names[0]}`"
        return ", ".join(part for part in (self.what, f"{size_text(self.nbytes)}{self.of}", listed) if part)

    def verb(self, one: str, many: str) -> str:
        """Return the singular or plural form, by their number."""
        return one if len(self.names) == 1 else many


def _groups(side: Side) -> Iterator[_Group]:
    """Yield an input's tensors that take no part, by component: all of it, or whole blocks of it, then the rest."""
    apart = set(side.apart)
    layout = side.layout
    for component, names in _apart_by_component(side).items():
        there = _floats_of(side, component)
        beginning = _beginning(names)
        if component is not None and apart.issuperset(there):
            yield _group(side, f"all of `{component}`", names)
        elif beginning and apart.issuperset(name for name in there if name.startswith(beginning)):
            yield _group(side, f"all of `{beginning}`", names)
        elif layout is None:
            yield _group(side, "", names)
        else:
            yield from _groups_of_blocks(side, layout, names, [name for name in there if name not in apart])


def _apart_by_component(side: Side) -> Mapping[str | None, Sequence[str]]:
    """Return an input's tensors that take no part, by component; all under None if it has no layout."""
    components: dict[str | None, list[str]] = {}
    for name in side.apart:
        components.setdefault(side.layout.component(name) if side.layout else None, []).append(name)
    return components


def _floats_of(side: Side, component: str | None) -> Sequence[str]:
    """Return the floating-point tensors of a component of an input; all of them if it has no layout."""
    layout = side.layout
    return [
        name
        for name, spec in side.specs.items()
        if spec.is_float and (layout is None or layout.component(name) == component)
    ]


def _groups_of_blocks(side: Side, layout: Layout, names: Sequence[str], others: Iterable[str]) -> Iterator[_Group]:
    """Yield some tensors of a component: those of whole blocks, and of blocks that have `others`, too."""
    cut = {layout.block(name) for name in others}
    whole = [name for name in names if layout.block(name) not in cut]
    rest = [name for name in names if layout.block(name) in cut]
    for some, word in ((whole, ""), (rest, "some of ")):
        if some:
            yield _group(side, word + _blocks(layout, some), some)


def _beginning(names: Sequence[str]) -> str:
    """Return the common beginning of several names, up to a dot; empty if there is none."""
    low, high = min(names), max(names)
    alike = next((at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    head, dot, _ = low[:alike].rpartition(".")
    return head + dot if len(names) > 1 else ""


def _blocks(layout: Layout, names: Sequence[str]) -> str:
    blocks = drawn_together(layout.blocks(names))
    return f"{'block' if len(blocks) == 1 and '-' not in blocks[0] else 'blocks'} {', '.join(blocks)}" if blocks else ""


def _group(side: Side, what: str, names: Sequence[str]) -> _Group:
    size = bytes_of(side.specs, names)
    return _Group(what, names, size, f" ({percent(size, side.asked)} of `{side.ref}`)" if side.asked else "")


def percent(part: int, whole: int) -> str:
    """Return a share for people: `12 %`, `0.3 %`, `under 0.1 %`."""
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "under 0.1 %"
    return f"{share:.0f} %" if share >= 10 or not share else f"{share:.1f} %"
