"""All names that the modules of a model have in any spelling, made from its canonical names by the rules.

LoRAs name modules as the program that trained them does. A name joined with `_` can't be taken apart, so all possible
names for a model are made, and the LoRA's names are looked up among them.
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
"""Values of `Row.how` for which several of our modules are in one of theirs one after another."""

Rows = tuple[int, int]


class Alias(NamedTuple):
    """Another name of a tensor, or of some of its rows."""

    part: Part | None
    """The part that the tensor is in; None if no rule covers it."""
    path: str
    """The name inside the part, in one of the part's spellings."""
    tensor: str
    """The canonical name."""
    rows: Rows | None = None
    """The rows of the canonical tensor that the name covers; None: all."""
    taken: Rows | None = None
    """The rows that these are in the tensor with this name; None: all of it."""
    total: int = 0
    """How many rows the tensor with this name has, if `taken` is not all of it."""
    transposed: bool = False
    """Whether the canonical tensor is the transpose of the one with this name."""


def aliases(shapes: Shapes, of: str) -> Iterator[Alias]:
    """Yield the names of a model's tensors.

    A tensor's canonical name comes after its other names, except those that functions make. If another name is the same
    text, it comes first, and is the one that is meant. If no rule covers the architecture, only canonical names are
    made.

    Args:
        shapes: The tensors' shapes by canonical name.
        of: The family of the model in the rules.
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
    """Return the part of a family that a canonical name is in; None if the family is unknown or has none for it."""
    return next((part for part in _by_prefix(of) if name.startswith(part.prefix)), None)


@cache
def _by_prefix(of: str) -> tuple[Part, ...]:
    parts = family(of).parts if of else ()
    return tuple(sorted(parts, key=lambda part: -len(part.prefix)))


def _made(part: Part, path: str, renamed: Renamed, state: Mapping[str, StoredTensor]) -> Iterator[Alias]:
    """Yield an alias for each canonical tensor that the tensor with the name `path` is made of."""
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
    """Return the rows of a part, by the template of each canonical module."""
    part = next(part for part in family(of).parts if part.name == name)
    found: dict[str, tuple[_Ours, ...]] = {}
    for spelling in part.spellings:
        for row in spelling.rows:
            for place, ours in enumerate(row.ours):
                known = pattern(ours)
                found[known.template] = (*found.get(known.template, ()), _Ours(row, place, known))
    return found


def _spelled(of: str, part: Part, inner: str, shapes: Shapes) -> Iterator[Alias]:
    """Yield the names of a tensor in the spellings that are given by rows."""
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
    if len(theirs) > 1:  # several of their modules are pieces of ours
        known = zip(row.theirs, theirs, _spans(row, len(theirs), rows), strict=False)
        yield from (Alias(part, path, name, span) for module, path, span in known if module)
    elif len(ours) > 1:  # our module is a piece of theirs
        yield from _as_piece(part, entry, ours, theirs[0], rows, shapes)
    elif row.how in HOWS:
        return
    elif row.is_swapped(shapes.get(f"{name.removesuffix(rest)}.weight", shape)) and rows % 2 == 0:
        yield from _swapped_halves(part, theirs[0], name, rows)
    else:
        yield Alias(part, theirs[0], name, transposed=row.how == "transposed")


def _swapped_halves(part: Part, path: str, name: str, rows: int) -> Iterator[Alias]:
    half = rows // 2
    yield Alias(part, path, name, (0, half), (half, rows), rows)
    yield Alias(part, path, name, (half, rows), (0, half), rows)


def _as_piece(part: Part, entry: _Ours, ours: list[str], path: str, rows: int, shapes: Shapes) -> Iterator[Alias]:
    """Yield the name of a module of ours, with `rows` rows, that is a piece of one of theirs, `path`."""
    sizes = [shapes[each][0] for each in ours if shapes.get(each)]
    if len(sizes) == len(ours) and entry.row.how in _IN_ORDER:
        begin = sum(sizes[: entry.place])
        yield Alias(part, path, ours[entry.place], None, (begin, begin + rows), sum(sizes))


def _spans(row: Row, count: int, rows: int) -> list[Rows]:
    """Return the rows of each of several consecutive pieces; empty if the rows can't be divided in these shares."""
    shares = row.shares or (1,) * count
    if rows % sum(shares):
        return []
    ends = [rows // sum(shares) * end for end in accumulate(shares)]
    return list(zip([0, *ends], ends, strict=False))
