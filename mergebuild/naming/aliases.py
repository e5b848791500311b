"""Every name that the modules of a model have somewhere: the rules, read from the canonical names outwards.

LoRAs name modules in the spelling of the program that trained them. Joined with `_` such a name can't be taken apart,
so the names that there are for a model are made, and looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate
from typing import Final, NamedTuple

from mergebuild.naming.functions import FUNCTIONS
from mergebuild.naming.fusing import HOWS
from mergebuild.naming.renamed import Renamed, Shapes, StoredTensor
from mergebuild.naming.rules import NUMBER, Part, Pattern, Row, family, pattern

__all__ = ["Alias", "aliases", "part_of"]

_IN_ORDER: Final = ("", "queries")
"""How several of ours lie in one of theirs, where that is one after another."""

Rows = tuple[int, int]


class Alias(NamedTuple):
    """A name of a tensor, or of some of its rows."""

    part: Part | None
    """The part that it is in; None where no rule is of it."""
    path: str
    """Its name in the part, in one of the part's spellings."""
    tensor: str
    """The canonical name."""
    rows: Rows | None = None
    """Which rows of the canonical tensor it is; None: all."""
    taken: Rows | None = None
    """Which rows of what has this name they are; None: all."""
    total: int = 0
    """How many rows that has, where not all are meant."""
    transposed: bool = False
    """Whether the canonical tensor is the transpose of it."""


def aliases(shapes: Shapes, of: str) -> Iterator[Alias]:
    """Yield the names of tensors, given their shapes by canonical name, and what the rules call the architecture.

    The canonical name of each is the last but for those of functions: where another one looks the same, that is meant.
    Of an architecture that no rule knows there is the canonical one alone.
    """
    through: dict[str, tuple[Part, dict[str, StoredTensor]]] = {}
    for name, shape in shapes.items():
        part = part_of(of, name)
        inner = name[len(part.prefix) :] if part is not None else name
        if part is not None:
            yield from _spelled(of, part, inner, shapes)
        yield Alias(part, inner, name)
        if part is not None and part.through:
            through.setdefault(part.name, (part, {}))[1][inner] = StoredTensor("", inner, shape)
    for part, state in through.values():
        for path, renamed in FUNCTIONS[part.through].theirs(state).items():
            yield from _made(part, path, renamed, state)


def part_of(of: str, name: str) -> Part | None:
    """Return which part of a family a canonical name is in; None where the family is not known, or has none for it."""
    return next((part for part in _by_prefix(of) if name.startswith(part.prefix)), None)


@cache
def _by_prefix(of: str) -> tuple[Part, ...]:
    parts = family(of).parts if of else ()
    return tuple(sorted(parts, key=lambda part: -len(part.prefix)))


def _made(part: Part, path: str, renamed: Renamed, state: Mapping[str, StoredTensor]) -> Iterator[Alias]:
    """Yield a name for each tensor that what has it is made of."""
    at, total = 0, renamed.shape[0] if renamed.shape else 1
    for cut in renamed.cuts:
        shape = state[cut.tensor].shape
        begin, end = cut.rows or (0, shape[0] if shape else 1)
        taken = (at, at + end - begin) if len(renamed.cuts) > 1 else None
        yield Alias(part, path, part.prefix + cut.tensor, cut.rows, taken, total if taken else 0, cut.transposed)
        at += end - begin


class _Ours(NamedTuple):
    """One of the canonical names of a row."""

    row: Row
    place: int
    pattern: Pattern


@cache
def _rows(of: str, name: str) -> Mapping[str, tuple[_Ours, ...]]:
    """Return the rows of a part by the template of each canonical module."""
    part = next(part for part in family(of).parts if part.name == name)
    found: dict[str, tuple[_Ours, ...]] = {}
    for spelling in part.spellings:
        for row in spelling.rows:
            for place, ours in enumerate(row.ours):
                known = pattern(ours)
                found[known.template] = (*found.get(known.template, ()), _Ours(row, place, known))
    return found


def _spelled(of: str, part: Part, inner: str, shapes: Shapes) -> Iterator[Alias]:
    """Yield the names of a tensor in the spellings that are rows."""
    rows = _rows(of, part.name)
    if not rows:
        return
    numbers = NUMBER.findall(inner)
    words = NUMBER.sub("{n}", inner).split(".")
    for count in range(len(words), 0, -1):
        for entry in rows.get(".".join(words[:count]), ()):
            if entry.pattern.fits(numbers) and (count == len(words) or not entry.row.whole):
                free = [numbers[place] for place in entry.pattern.free]
                rest = "".join(f".{word}" for word in inner.split(".", count)[count:])
                ours = [part.prefix + pattern(each).filled(free) + rest for each in entry.row.ours]
                theirs = [pattern(each).filled(free) + rest for each in entry.row.theirs]
                yield from _of_row(part, entry, ours, theirs, rest, shapes)


def _of_row(part: Part, entry: _Ours, ours: list[str], theirs: list[str], rest: str, shapes: Shapes) -> Iterator[Alias]:
    row, name = entry.row, ours[entry.place]
    shape = shapes[name]
    rows = shape[0] if shape else 1
    if len(theirs) > 1:  # theirs are pieces of ours
        known = zip(row.theirs, theirs, _spans(row, len(theirs), rows), strict=False)
        yield from (Alias(part, path, name, span) for module, path, span in known if module)
    elif len(ours) > 1:  # ours is a piece of theirs
        sizes = [shapes[each][0] for each in ours if shapes.get(each)]
        if len(sizes) == len(ours) and row.how in _IN_ORDER:
            begin = sum(sizes[: entry.place])
            yield Alias(part, theirs[0], name, None, (begin, begin + rows), sum(sizes))
    elif row.how in HOWS:
        return
    elif row.is_swapped(shapes.get(f"{name.removesuffix(rest)}.weight", shape)) and rows % 2 == 0:
        half = rows // 2
        yield Alias(part, theirs[0], name, (0, half), (half, rows), rows)
        yield Alias(part, theirs[0], name, (half, rows), (0, half), rows)
    else:
        yield Alias(part, theirs[0], name, transposed=row.how == "transposed")


def _spans(row: Row, count: int, rows: int) -> list[Rows]:
    """Return which rows each of several has that lie one after another; none where they can't be shared so."""
    shares = row.shares or (1,) * count
    if rows % sum(shares):
        return []
    ends = [rows // sum(shares) * end for end in accumulate(shares)]
    return list(zip([0, *ends], ends, strict=False))
