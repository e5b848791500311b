"""Which parameter each tensor of a file is by a family's rules: a whole one, a piece of one, or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from mergebuild.naming import fusing
from mergebuild.naming.functions import FUNCTIONS
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes
from mergebuild.naming.rules import NUMBER, FamilyRules, Part, Pattern, Row, Spelling, family, pattern
from mergebuild.naming.templates import Templates, model_types

__all__ = ["Claim", "PieceOf", "Pieces", "WholeParameter", "claims"]


class WholeParameter(NamedTuple):
    """A tensor that is one parameter."""

    name: str
    renamed: Renamed


class PieceOf(NamedTuple):
    """A tensor that is some rows of a parameter; the other tensors of its row have the rest."""

    name: str
    place: int
    """Its index among the row's tensors."""
    row: Row
    shape: tuple[int, ...]
    alone: tuple[str, Renamed]
    """What it is if one of the others is missing."""


class Pieces(NamedTuple):
    """A tensor that holds several parameters."""

    parts: tuple[tuple[str, Renamed], ...]


Claim = WholeParameter | PieceOf | Pieces


class _RowEntry(NamedTuple):
    """One of the names of a row in a spelling."""

    row: Row
    place: int
    theirs: Pattern


class _Use(NamedTuple):
    """One meaning of the names with a template."""

    fixed: tuple[tuple[int, str], ...]
    """The numbers that a name must have for this meaning, by index."""
    part: Part
    before: int
    """How many words the prefix has."""
    numbers: int
    """How many of these words are numbers."""
    entry: _RowEntry | None

    def fits(self, numbers: list[str]) -> bool:
        """Return whether a name with these numbers has this meaning."""
        return all(numbers[place] == number for place, number in self.fixed)


def claims(templates: Templates, of: str, facts: Mapping[str, object] | None = None) -> Mapping[str, Claim]:
    """Return what each tensor of a file is by the rules of a family, by stored name, in the file's order.

    Args:
        templates: The file's names.
        of: The family.
        facts: `config.json`, parsed; None if there is none.
    """
    rules = _rules(of, _left_out(templates, family(of), model_types(facts)))
    heads = fusing.heads_of(facts)
    found: dict[str, Claim] = {}
    through: dict[str, tuple[Part, dict[str, str]]] = {}
    for template, stored in templates.stored.items():
        uses = rules.uses(template)
        for name in stored:
            bare = templates.bare[name]
            use, numbers = _fitting(uses, bare)
            if use is None:
                found[name] = WholeParameter(bare, _same(name, templates.shapes[name]))
                continue
            inner = _behind(bare, use.before)
            if use.entry is not None:
                found[name] = _claim(use, use.entry, inner, numbers[use.numbers :], name, templates, heads)
            elif use.part.through:
                through.setdefault(use.part.name, (use.part, {}))[1][name] = inner
            else:
                found[name] = WholeParameter(use.part.prefix + inner, _same(name, templates.shapes[name]))
    for part, inners in through.values():
        found |= _through(part, inners, templates.shapes)
    return {name: found[name] for name in templates.shapes}


def _left_out(templates: Templates, of: FamilyRules, types: frozenset[str]) -> frozenset[str]:
    """Return the spellings that a file does not use, and the parts whose additional prefixes don't count in it."""
    absent = {each.name for part in of.parts for each in part.spellings if not _is_spelled(templates, each, types)}
    return frozenset(
        absent | {part.name for part in of.parts if part.single and len(_prefixes_in(templates, part)) > 1}
    )


def _is_spelled(templates: Templates, spelling: Spelling, types: frozenset[str]) -> bool:
    if spelling.model_types and types:
        return bool(types & spelling.model_types)
    has_signs = not spelling.signs or any(map(templates.have, spelling.signs))
    return has_signs and not any(map(templates.have, spelling.unless))


def _prefixes_in(templates: Templates, part: Part) -> list[str]:
    return [prefix for prefix in part.prefixes if f"\n{prefix}" in templates.text]


def _through(part: Part, inners: Mapping[str, str], shapes: Shapes) -> dict[str, Claim]:
    """Return what the tensors of a part are that a function spells. A name that the function does not know is kept."""
    spelled = FUNCTIONS[part.through].ours({inner: shapes[name] for name, inner in inners.items()})
    found: dict[str, Claim] = {}
    for name, inner in inners.items():
        new, shape = spelled.get(inner) or (inner, shapes[name])
        found[name] = WholeParameter(part.prefix + new, _same(name, shape))
    return found


def _fitting(uses: tuple[_Use, ...], bare: str) -> tuple[_Use | None, list[str]]:
    """Return the meaning of a name, and its numbers if they matter."""
    if len(uses) == 1 and not uses[0].fixed and uses[0].entry is None:
        return uses[0], []
    numbers = NUMBER.findall(bare)
    return next((use for use in uses if use.fits(numbers)), None), numbers


def _behind(name: str, words: int) -> str:
    return name.split(".", words)[-1] if words else name


def _same(name: str, shape: tuple[int, ...]) -> Renamed:
    return Renamed(shape, (RowsOf("", name),))


def _claim(
    use: _Use, entry: _RowEntry, inner: str, numbers: list[str], name: str, templates: Templates, heads: int | None
) -> Claim:
    row, shape = entry.row, templates.shapes[name]
    free = [numbers[place] for place in entry.theirs.free]
    words = inner.split(".", entry.theirs.parts)
    rest = f".{words[-1]}" if len(words) > entry.theirs.parts else ""
    ours = [f"{use.part.prefix}{pattern(each).filled(free)}{rest}" for each in row.ours]
    alone = WholeParameter(use.part.prefix + inner, _same(name, shape))
    if len(row.theirs) > 1:
        return PieceOf(ours[0], entry.place, row, shape, alone)
    if row.how in fusing.HOWS:
        beside = f"{templates.bare[name].removesuffix(inner)}{pattern(row.beside).filled(free)}"
        fused = fusing.Fused(name, shape, templates.shape_of(beside), heads)
        parts = fusing.cut(row.how, ours, fused)
        return alone if parts is None else Pieces(tuple(parts))
    if len(row.ours) > 1:
        return _cut(ours, row, name, shape) or alone
    renamed = _changed(row, name, shape, rest, templates.shapes)
    return WholeParameter(ours[0], renamed) if renamed else alone


def _cut(ours: list[str], row: Row, name: str, shape: tuple[int, ...]) -> Pieces | None:
    """Return the parameters that are one after another in a tensor.

    None if its rows can't be divided in their shares.
    """
    shares = row.shares or (1,) * len(ours)
    if not shape or shape[0] % sum(shares):
        return None
    unit, at, parts = shape[0] // sum(shares), 0, []
    for each, share in zip(ours, shares, strict=True):
        end = at + unit * share
        parts.append((each, Renamed((end - at, *shape[1:]), (RowsOf("", name, (at, end)),))))
        at = end
    return Pieces(tuple(parts))


def _swapped(name: str, shape: tuple[int, ...]) -> Renamed | None:
    """Return a tensor with its halves swapped; None if it has an odd number of rows."""
    if not shape or shape[0] % 2:
        return None
    half = shape[0] // 2
    return Renamed(shape, (RowsOf("", name, (half, shape[0])), RowsOf("", name, (0, half))))


def _changed(row: Row, name: str, shape: tuple[int, ...], rest: str, shapes: Shapes) -> Renamed | None:
    """Return a tensor with the change that the row describes; None if that does not fit its shape."""
    match row.how:
        case "swapped":
            is_swapped = row.is_swapped(shapes.get(f"{name.removesuffix(rest)}.weight", shape))
            return _swapped(name, shape) if is_swapped else _same(name, shape)
        case "transposed":
            return Renamed(shape[::-1], (RowsOf("", name, transposed=True),)) if len(shape) == 2 else None
        case "convolution" if len(shape) == 2:
            return Renamed((*shape, 1, 1), (RowsOf("", name),))
        case "linear" if shape[2:] == (1, 1):
            return Renamed(shape[:2], (RowsOf("", name),))
    return _same(name, shape)


class _Rules:
    """A family's rows, found by template, without some spellings and without the additional prefixes of some parts."""

    def __init__(self, of: FamilyRules, left_out: frozenset[str]) -> None:
        prefixes = [
            (each, part)
            for part in of.parts
            for each in (part.prefix, *(() if part.name in left_out else part.prefixes))
            if each
        ]
        begins = [(each, part) for part in of.parts for each in part.begins]
        self._prefixes = [(pattern(text), part) for text, part in sorted(prefixes, key=lambda each: -len(each[0]))]
        self._begins = [(pattern(text), part) for text, part in sorted(begins, key=lambda each: -len(each[0]))]
        self._rest = next((part for part in of.parts if not part.prefix), None)
        self._entries = {part.name: _entries(part, left_out) for part in of.parts}
        self._uses: dict[str, tuple[_Use, ...]] = {}

    def uses(self, template: str) -> tuple[_Use, ...]:
        """Return the meanings of names with a template; the first that fits a name's numbers applies."""
        known = self._uses.get(template)
        if known is None:
            known = self._uses[template] = tuple(self._found(template))
        return known

    def _found(self, template: str) -> Iterator[_Use]:
        for prefix, part in self._prefixes:
            if template.startswith(prefix.template) and not template.startswith(part.outside, len(prefix.template)):
                numbers = len(prefix.fixed) + len(prefix.free)
                yield from self._inner(prefix.fixed, part, template[len(prefix.template) :], prefix.parts, numbers)
                if not prefix.fixed:
                    return
        for begin, part in self._begins:
            if template.startswith(begin.template):
                yield from self._inner(begin.fixed, part, template, 0, 0)
                if not begin.fixed:
                    return
        if self._rest is not None:
            yield from self._inner((), self._rest, template, 0, 0)

    def _inner(
        self, fixed: tuple[tuple[int, str], ...], part: Part, inner: str, before: int, numbers: int
    ) -> Iterator[_Use]:
        entries, words = self._entries[part.name], inner.split(".")
        for count in range(len(words), 0, -1):
            for entry in entries.get(".".join(words[:count]), ()):
                if entry.row.whole and count < len(words):
                    continue
                said = tuple((numbers + place, number) for place, number in entry.theirs.fixed)
                yield _Use(fixed + said, part, before, numbers, entry)
        yield _Use(fixed, part, before, numbers, None)


def _entries(part: Part, left_out: frozenset[str]) -> Mapping[str, list[_RowEntry]]:
    """Return the names of a part's modules by template, in all spellings of models that are not left out."""
    found: dict[str, list[_RowEntry]] = {}
    for spelling in part.spellings:
        if not spelling.lora and spelling.name not in left_out:
            for row in spelling.rows:
                for place, theirs in enumerate(row.theirs):
                    known = pattern(theirs)
                    found.setdefault(known.template, []).append(_RowEntry(row, place, known))
    return found


@cache
def _rules(name: str, left_out: frozenset[str]) -> _Rules:
    return _Rules(family(name), left_out)
