"""Globs over tensor names: `*` is any text, `?` any sign, `[abc]` and `[!a-z]` one of a set, as `fnmatch` has them.

A glob is texts with a `*` between two. The first stands at the beginning of a name and the last at its end; the others
are looked for from left to right, each at the first place behind the one before. That is always right, as a later
place leaves less of the name to the rest, so nothing is ever tried twice.

A text without sets is looked for by `str.find`. One with sets is by a regular expression, which tries each place of the
name, and so takes the signs of the name times those of the text. Where that is much, all places are tried at once: they
are the bits of a whole number, and each sign of the text leaves those that it may stand behind. That takes as many
steps as the text has signs, each over an eighth of a byte for a sign of the name. What many such globs take over many
long names is bounded by time all the same, see `patience.py`.

A mergefile may have thousands of globs over thousands of names, mostly with a beginning of their own. So the names are
kept in the order of their beginnings and in that of their ends, and only those that begin (or end) as a glob does are
compared with it. Names without either in common with it are asked for its longest text first, which is a search in C.
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
"""Signs of a name times those of a text with sets: up to so many an expression is quicker than bits."""


def is_glob(text: str) -> bool:
    """Return whether a text has signs that stand for others."""
    return _WILD.search(text) is not None


class _Marks(dict[int, str]):
    """By the code of a sign of a name: `1` if one sign of a glob may stand for it, else `0`."""

    def __init__(self, sign: str) -> None:
        super().__init__()
        self._pattern = re.compile(translate(sign))

    def __missing__(self, code: int) -> str:
        self[code] = found = "1" if self._pattern.match(chr(code)) else "0"
        return found


class _GlobPiece:
    """What stands between two `*`: a text of fixed length, in which some signs may be any, or any of a set."""

    def __init__(self, signs: Sequence[str]) -> None:
        """Take the signs one by one: `a`, `?`, `[a-z]`."""
        self.length: Final = len(signs)
        self.is_plain: Final = all(len(sign) == 1 and sign != "?" for sign in signs)
        self.text: Final = "".join(signs)
        self._pattern = None if self.is_plain else re.compile(translate(f"{self.text}*"))
        """It matches to the end of a name, so where it begins to match is all that is asked of it."""
        self._signs: Final = signs
        self._marks: Final[dict[str, _Marks]] = {}

    @cached_property
    def literals(self) -> list[str]:
        """The texts in it that stand for themselves."""
        return [self.text] if self.is_plain else _literals(self.text)

    def stands_at(self, name: str, place: int) -> bool:
        """Return whether a name has it at a place."""
        if self._pattern is None:
            return name.startswith(self.text, place)
        return self._pattern.match(name, place) is not None

    def end_in(self, name: str, place: int) -> int:
        """Return where it ends in a name when it begins as early as it can from a place on; -1 where it doesn't."""
        if self._pattern is None:
            found = name.find(self.text, place)
        elif self.length * len(name) > _FEW:
            found = self._first_of_all(name, place)
        else:
            match = self._pattern.search(name, place)
            found = match.start() if match else -1
        return found + self.length if found >= 0 else -1

    def _first_of_all(self, name: str, place: int) -> int:
        """Return where it begins in a name, at a place or behind; -1 where it doesn't. Places are bits of a number."""
        places = (1 << len(name)) - (1 << place)
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
        pieces: list[list[str]] = [[]]
        for sign in _signs(text):
            if sign == "*":
                pieces.append([])
            else:
                pieces[-1].append(sign)
        self._first, *others = map(_GlobPiece, pieces)
        self._last = others[-1] if others else None
        self._between = [piece for piece in others[:-1] if piece.length]
        self._shortest = self._first.length + sum(piece.length for piece in others)
        whole = [self._first, *others]
        self.beginning: Final = _run(pieces[0])
        """What each name that it matches begins with."""
        self.end: Final = _run(pieces[-1][::-1])[::-1]
        """What each name that it matches ends with."""
        self.longest: Final = max((text for piece in whole for text in piece.literals), key=len, default="")
        """The longest text that stands for itself."""
        self.is_beginning: Final = text == f"{self.beginning}*"
        """Whether it matches whatever has its beginning."""

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
    """Names, each once, in which globs are looked for."""

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
    """Return the places of what begins so, in a sorted list."""
    length = len(beginning)
    if not length:
        return range(len(ordered))
    first = bisect_left(ordered, beginning)
    return range(first, bisect_right(ordered, beginning, lo=first, key=lambda name: name[:length]))


def _signs(text: str) -> Iterable[str]:
    """Yield what stands for one sign, and each `*`; a bracket that is never closed is one itself."""
    place = 0
    while place < len(text):
        end = _end_of_set(text, place) if text[place] == "[" else 0
        if end:
            yield text[place:end]
        else:
            yield "[[]" if text[place] == "[" else text[place]
        place = end or place + 1


def _end_of_set(text: str, place: int) -> int:
    """Return where the set that begins at a place ends; 0 where it doesn't. Its first sign may be a bracket."""
    first = place + 1
    if text[first : first + 1] == "!":
        first += 1
    if text[first : first + 1] == "]":
        first += 1
    return text.find("]", first) + 1


def _run(signs: Iterable[str]) -> str:
    """Return the first signs up to one that is none for itself."""
    found: list[str] = []
    for sign in signs:
        if len(sign) > 1 or sign == "?":
            break
        found.append(sign)
    return "".join(found)


def _literals(text: str) -> list[str]:
    """Return the runs of signs that stand for themselves in a piece with others."""
    found = [""]
    for sign in _signs(text):
        if len(sign) > 1 or sign == "?":
            found.append("")
        else:
            found[-1] += sign
    return found
