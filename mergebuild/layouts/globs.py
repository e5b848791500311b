"""Globs over tensor names, as in `fnmatch`: `*` is any text, `?` any character, `[abc]` and `[!a-z]` one of a set.

A glob is a list of pieces separated by `*`. The first piece must be at the beginning of the name and the last at its
end; each of the others is searched from left to right, and the first match after the previous piece is taken. That is
always right, as a later match leaves less of the name for the rest, so nothing is ever tried twice.

A piece without sets is found by `str.find`. One with sets is found by a regular expression, which tries each place of
the name, so it takes time in proportion to both lengths. If these are large, all places are tried at once: they are the
bits of an integer, and each character of the piece clears the bits of places where it does not match. That takes one
step per character of the piece, each on an eighth of a byte per character of the name. The time that many such globs
take on many long names is limited besides (`patience.py`).

A mergefile may have thousands of globs over thousands of names, most of them with different beginnings. So names are
sorted by their beginnings and by their ends, and a glob is compared only with names that share its beginning or end. If
a glob has neither, names are first searched for its longest literal text, which is fast.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import cached_property
from typing import Final

__all__ = ["Glob", "SortedNames", "is_glob"]

_WILD: Final = re.compile(r"[*?\[]")
_FEW: Final = 4096
"""A piece with wildcards is searched with a regular expression if its length times the name's is at most this, and with
bits if it is more: each is faster there."""


def is_glob(text: str) -> bool:
    """Return whether a text has wildcards."""
    return _WILD.search(text) is not None


class _Marks(dict[int, str]):
    """By character code of a name: `1` if one item of a glob matches that character, else `0`."""

    def __init__(self, sign: str) -> None:
        super().__init__()
        self._pattern = re.compile(translate(sign))

    def __missing__(self, code: int) -> str:
        self[code] = found = "1" if self._pattern.match(chr(code)) else "0"
        return found


class _GlobPiece:
    """The text between two `*`, of fixed length; some of its characters may be `?` or sets."""

    def __init__(self, signs: Sequence[str]) -> None:
        """Take the items of the piece one by one: `a`, `?`, `[a-z]`."""
        self.length: Final = len(signs)
        self.is_plain: Final = all(len(sign) == 1 and sign != "?" for sign in signs)
        self.text: Final = "".join(signs)
        self._pattern = None if self.is_plain else re.compile(translate(f"{self.text}*"))
        """It ends in `*` and so matches to the end of the name; only the place where a match begins is used."""
        self._signs: Final = signs
        self._marks: Final[dict[str, _Marks]] = {}

    @cached_property
    def literals(self) -> list[str]:
        """The literal texts in it."""
        return [self.text] if self.is_plain else _literals(self.text)

    def stands_at(self, name: str, place: int) -> bool:
        """Return whether it matches at a place of a name."""
        if self._pattern is None:
            return name.startswith(self.text, place)
        return self._pattern.match(name, place) is not None

    def end_in(self, name: str, place: int) -> int:
        """Return where its first match at or after a place of a name ends; -1 if there is none."""
        if self._pattern is None:
            found = name.find(self.text, place)
        elif self.length * len(name) > _FEW:
            found = self._first_of_all(name, place)
        else:
            match = self._pattern.search(name, place)
            found = match.start() if match else -1
        return found + self.length if found >= 0 else -1

    def _first_of_all(self, name: str, place: int) -> int:
        """Return the first place, at or after `place`, where it matches; -1 if there is none."""
        places = (1 << len(name)) - (1 << place)  # as bits of an integer
        backward = name[::-1]  # the last digit is bit 0
        fitting: dict[str, int] = {}
        for before, sign in enumerate(self._signs):
            fits = fitting.get(sign)
            if fits is None:
                marks = self._marks.setdefault(sign, _Marks(sign))
                fits = fitting[sign] = int(backward.translate(marks), 2)
            places &= fits >> before
            if not places:
                return -1
        return (places & -places).bit_length() - 1


class Glob:
    """One glob."""

    def __init__(self, text: str) -> None:
        pieces = _pieces(text)
        self._first, *others = map(_GlobPiece, pieces)
        self._last = others[-1] if others else None
        self._between = [piece for piece in others[:-1] if piece.length]
        self._shortest = self._first.length + sum(piece.length for piece in others)
        whole = [self._first, *others]
        self.beginning: Final = _run(pieces[0])
        """The literal beginning of every name that it matches."""
        self.end: Final = _run(pieces[-1][::-1])[::-1]
        """The literal end of every name that it matches."""
        self.longest: Final = max((text for piece in whole for text in piece.literals), key=len, default="")
        """Its longest literal text."""
        self.is_beginning: Final = text == f"{self.beginning}*"
        """Whether it matches every name with its beginning."""

    def matches(self, name: str) -> bool:
        """Return whether it matches a whole name."""
        length = len(name)
        if self._last is None:
            return length == self._shortest and self._first.stands_at(name, 0)
        end = length - self._last.length
        if length < self._shortest or not self._first.stands_at(name, 0) or not self._last.stands_at(name, end):
            return False
        place = self._first.length
        for piece in self._between:
            place = piece.end_in(name, place)
            if place < 0:
                return False
        return place <= end


class SortedNames:
    """Distinct names, among which globs are searched."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._places = {name: place for place, name in enumerate(self._names)}

    def like(self, glob: Glob) -> tuple[str, ...]:
        """Return the names that a glob matches, in the order in which they were given."""
        begins = _range(self._sorted, glob.beginning)
        ends = _range(self._sorted_by_end, glob.end[::-1])
        if glob.is_beginning:
            return self._in_order(self._sorted[begins.start : begins.stop])
        if not glob.beginning and not glob.end:
            return tuple(name for name in self._names if glob.longest in name and glob.matches(name))
        if len(begins) <= len(ends):
            near = self._sorted[begins.start : begins.stop]
        else:
            near = [name[::-1] for name in self._sorted_by_end[ends.start : ends.stop]]
        return self._in_order(name for name in near if glob.longest in name and glob.matches(name))

    def _in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=self._places.__getitem__))

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._names)

    @cached_property
    def _sorted_by_end(self) -> list[str]:
        return sorted(name[::-1] for name in self._names)


def _range(ordered: Sequence[str], beginning: str) -> range:
    """Return the indexes of the items of a sorted list that have a beginning."""
    length = len(beginning)
    if not length:
        return range(len(ordered))
    first = bisect_left(ordered, beginning)
    return range(first, bisect_right(ordered, beginning, lo=first, key=lambda name: name[:length]))


def _pieces(text: str) -> list[list[str]]:
    """Return the items of each piece of a glob; pieces are separated by `*`."""
    pieces: list[list[str]] = [[]]
    for sign in _signs(text):
        if sign == "*":
            pieces.append([])
        else:
            pieces[-1].append(sign)
    return pieces


def _signs(text: str) -> Iterable[str]:
    """Yield the items of a glob: each matches one character, or is `*`. A `[` that is never closed matches itself."""
    place = 0
    while place < len(text):
        end = _end_of_set(text, place) if text[place] == "[" else 0
        if end:
            yield text[place:end]
        else:
            yield "[[]" if text[place] == "[" else text[place]
        place = end or place + 1


def _end_of_set(text: str, place: int) -> int:
    """Return the index after the set that begins at an index; 0 if no set begins there.

    Its first character may be `]`.
    """
    first = place + 1
    if text[first : first + 1] == "!":
        first += 1
    if text[first : first + 1] == "]":
        first += 1
    return text.find("]", first) + 1


def _run(signs: Iterable[str]) -> str:
    """Return the literal characters at the beginning, up to the first wildcard."""
    found: list[str] = []
    for sign in signs:
        if len(sign) > 1 or sign == "?":
            break
        found.append(sign)
    return "".join(found)


def _literals(text: str) -> list[str]:
    """Return the literal texts between the wildcards of a piece."""
    found = [""]
    for sign in _signs(text):
        if len(sign) > 1 or sign == "?":
            found.append("")
        else:
            found[-1] += sign
    return found
