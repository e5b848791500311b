"""Where keys and values are in the text of a mergefile.

The TOML reader returns values without positions. So the text is kept, and only if an error shows a place is it scanned
again, by a small scanner that trusts it to be valid TOML and records where each key and each value begins.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tomli

from mergebuild.errors import Place

__all__ = ["At", "Document", "Keys"]

Keys = tuple[str | int, ...]
"""A path of keys from the top of a file; numbers count the items of a list from 0."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Offsets of a key and of its value. A table with a header has no value; `header` is the text of the header."""

    key: tuple[int, int]
    value: tuple[int, int] | None
    header: str = ""


class Document:
    """One file of the recipe: its text, and the places in it.

    If `is_shown` is False, problems don't show its text: an untrusted mergefile may include any file.
    """

    def __init__(self, path: Path, name: str, text: str, *, is_shown: bool = True) -> None:
        self.path = path
        self.is_shown = is_shown
        self.name = name
        self.text = text
        self.edits: dict[Keys, str] = {}
        """Values that the command line set, and the options that did."""
        self._spans: dict[Keys, _Span] | None = None
        self._starts: list[int] = []
        self.folder = str(path.parent)
        """The absolute folder that relative paths in this file start from."""

    def __repr__(self) -> str:
        return f"Document({self.name!r})"

    def place(self, path: Keys, *, key: bool = False) -> Place:
        """Return the place of a value or a key, or of the nearest value around it."""
        for length in range(len(path), 0, -1):
            label = self.edits.get(path[:length])
            if label is not None:
                return Place(label)
            span = self._found().get(path[:length])
            if span is not None:
                return self._shown(span, key=key and length == len(path))
        return Place(self.name, is_closed=not self.is_shown)

    def inside_string(self, path: Keys, text: str, start: int, end: int) -> Place:
        """Return the place of a part of a string value; of all of it if it is written with escapes."""
        whole = self.place(path)
        span = self._found().get(path)
        if path in self.edits or span is None or span.value is None:
            return whole
        first, last = span.value
        if last - first != len(text) + 2 or not self.text.startswith(text, first + 1):
            return whole
        return self.at_offset(first + 1 + start, max(end - start, 1))

    def is_implied(self, path: Keys) -> bool:
        """Return whether a table exists only because a longer key or header names it: `v4` in `v4.5 = ...`."""
        span = self._found().get(path)
        return span is not None and span.value is None and not span.header and path not in self.edits

    def at_offset(self, offset: int, length: int) -> Place:
        """Return the place of `length` characters, at most to the end of the line."""
        line, column, text = self._position(offset)
        if len(text) > _LONGEST_LINE or not self.is_shown:
            return Place(self.name, line, column, is_closed=not self.is_shown)
        return Place(self.name, line, column, max(min(length, len(text) - column + 1), 1), text)

    def at_line(self, line: int, column: int) -> Place:
        """Return the place of one character, both counted from 1."""
        lines = self.text.split("\n")
        text = lines[line - 1].rstrip("\r") if 0 < line <= len(lines) else ""
        if len(text) > _LONGEST_LINE or not self.is_shown:
            return Place(self.name, line, column, is_closed=not self.is_shown)
        return Place(self.name, line, column, 1, text)

    def _found(self) -> dict[Keys, _Span]:
        if self._spans is None:
            self._spans = _Scanner(self.text).scan()
        return self._spans

    def _position(self, offset: int) -> tuple[int, int, str]:
        if not self._starts:
            self._starts = [0, *(found.end() for found in re.finditer("\n", self.text))]
        line = bisect_right(self._starts, offset)
        start = self._starts[line - 1]
        end = self.text.find("\n", start)
        return line, offset - start + 1, self.text[start : end if end >= 0 else len(self.text)].rstrip("\r")

    def _shown(self, span: _Span, *, key: bool) -> Place:
        if not key and span.value is None and span.header:
            line = self._position(span.key[0])[0]
            return Place(self.name, line, note=span.header if self.is_shown else "", is_closed=not self.is_shown)
        start, end = span.key if key or span.value is None else span.value
        return self.at_offset(start, end - start)


class At(NamedTuple):
    """A value's path of keys in a file: the recipe's `Where`."""

    document: Document
    path: Keys = ()

    def place(self, *path: str | int, key: bool = False) -> Place:
        """Return the place of the value (or key) at `path` below this one, or of the nearest value around it."""
        return self.document.place((*self.path, *path), key=key)

    def child(self, *path: str | int) -> At:
        """Return the place of a key below this one."""
        return At(self.document, (*self.path, *path))

    def is_implied(self) -> bool:
        """Return whether this is a table that only a longer key or header names."""
        return self.document.is_implied(self.path)

    def inside(self, text: str, start: int, end: int) -> Place:
        """Return the place of a part of this string."""
        return self.document.inside_string(self.path, text, start, end)


_LONGEST_LINE = 10_000
"""The most characters of a line that is shown: each problem keeps its line in memory."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[^\s.=\]}\"'#,]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n\r]*")
_STRING = re.compile(
    r'''
      """(?:[^"\\]++|\\.|"(?!""))*+"{3,5}
    | '{3}(?:[^']++|'(?!''))*+'{3,5}
    | "(?:[^"\\\n]++|\\.)*+"
    | '[^'\n]*'
    ''',
    re.DOTALL | re.VERBOSE,
)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._spans: dict[Keys, _Span] = {}
        self._items: dict[Keys, int] = {}

    def scan(self) -> dict[Keys, _Span]:
        """Return a span for every key of a valid TOML text; if it is invalid, for the keys before the mistake."""
        table: Keys = ()
        while True:
            self._skip()
            if self._at >= len(self._text):
                return self._spans
            before = self._at
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            if self._at == before:
                return self._spans

    def _skip(self) -> None:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _next_is(self, sign: str) -> bool:
        self._skip()
        return self._text.startswith(sign, self._at)

    def _header(self) -> Keys:
        repeated = self._text.startswith("[[", self._at)
        start = self._at
        self._at += 2 if repeated else 1
        parts = self._keys()
        self._skip()
        self._at = min(self._at + (2 if repeated else 1), len(self._text))
        shown = self._text[start : self._at]
        path: Keys = ()
        for number, (name, first, last) in enumerate(parts, 1):
            path = (*path, name)
            if number < len(parts) and path in self._items:
                path = (*path, self._items[path])
            elif number == len(parts) and repeated:
                self._spans.setdefault(path, _Span((first, last), None, shown))
                self._items[path] = self._items.get(path, -1) + 1
                path = (*path, self._items[path])
            if number == len(parts):
                self._spans[path] = _Span((first, last), None, shown)
            else:
                self._spans.setdefault(path, _Span((first, last), None))
        return path

    def _keys(self) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        while True:
            self._skip()
            start = self._at
            match = (_STRING if self._text[start : start + 1] in ("'", '"') else _BARE_KEY).match(self._text, start)
            if match is None:
                return found
            self._at = match.end()
            found.append((_unquoted(match[0]), start, self._at))
            if not self._next_is("."):
                return found
            self._at += 1

    def _pair(self, table: Keys) -> None:
        parts = self._keys()
        if not parts or not self._next_is("="):
            return
        self._at += 1
        path = table
        for name, first, last in parts:
            path = (*path, name)
            self._spans.setdefault(path, _Span((first, last), None))
        self._spans[path] = _Span(self._spans[path].key, self._value(path))

    def _value(self, path: Keys) -> tuple[int, int]:
        self._skip()
        start = self._at
        opening = self._text[start : start + 1]
        if opening in ("'", '"'):
            match = _STRING.match(self._text, start)
            self._at = match.end() if match else len(self._text)
        elif opening == "[":
            self._list(path)
        elif opening == "{":
            self._inline(path)
        else:
            match = _BARE_VALUE.match(self._text, start)
            self._at = start + len(match[0].rstrip()) if match else start
        return start, self._at

    def _list(self, path: Keys) -> None:
        self._at += 1
        number = 0
        while not self._next_is("]") and self._at < len(self._text):
            item = (*path, number)
            span = self._value(item)
            self._spans[item] = _Span(span, span)
            number += 1
            if self._next_is(","):
                self._at += 1
            elif not self._next_is("]"):
                return
        self._at += 1

    def _inline(self, path: Keys) -> None:
        self._at += 1
        while not self._next_is("}") and self._at < len(self._text):
            before = self._at
            self._pair(path)
            if self._next_is(","):
                self._at += 1
            elif self._at == before:
                return
        self._at += 1


def _unquoted(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    if key[0] == '"':
        try:
            return str(tomli.loads(f"x = {key}")["x"])
        except tomli.TOMLDecodeError:  # the text is no TOML, which is reported elsewhere
            return key[1:-1]
    return key
