"""A mergefile that a program gives as Python values: converted to the values that TOML would give.

A float means its shortest decimal, like those of variables, and a `Decimal` is exact. A value has no line in a file, so
its place in a problem is its keys: `targets.mix.alpha`.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from pathlib import Path
from typing import Any

from mergebuild.errors import Place
from mergebuild.recipe.nodes import BadNumber
from mergebuild.recipe.places import At, Document, Keys
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.toml_text import toml_number

__all__ = ["GivenDocument", "given_tables"]

_NAME = "the mergefile"
_DEEPEST = 50
"""Deeper than any real value; a table that contains itself would never end."""
_MOST_VALUES = 400_000
"""The most values of a mergefile given by a program; the files of a project have the same limit."""
_BARE = re.compile(r"[\w-]+", re.ASCII)


class GivenDocument(Document):
    """Replaces the file in places. Paths in the values are relative to `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "mergefile of a program", _NAME, "")

    def place(self, path: Keys, *, key: bool = False) -> Place:  # noqa: ARG002 -- key and value have one place
        """Return the keys of a value as its place."""
        edits = (self.edits.get(path[:length]) for length in range(len(path), 0, -1))
        label = next((each for each in edits if each is not None), None)
        return Place(label or _dotted(path) or self.name)


def given_tables(contents: Mapping[str, object], document: GivenDocument, problems: Problems) -> dict[str, object]:
    """Return values as TOML would give them; values of other types are reported."""
    return _Converting(document, problems).table(contents, ())


class _Converting:
    def __init__(self, document: GivenDocument, problems: Problems) -> None:
        self._document = document
        self._problems = problems
        self._values = 0

    def table(self, found: Mapping[Any, object], path: Keys) -> dict[str, object]:
        """Return a table, without keys that are not strings, which are reported."""
        made = {}
        for key, value in found.items():
            if isinstance(key, str) and self._text(key, path) == key:
                made[key] = self._value(value, (*path, key))
            elif not isinstance(key, str):
                self._wrong(f"the key `{key!r}` is {_told(key)}", "keys are strings", path)
        return made

    def _count(self) -> None:
        """Count one value, and raise all problems if there are too many."""
        self._values += 1
        if self._values > _MOST_VALUES:
            self._problems.add("too-much-text", f"{_NAME} goes beyond {_MOST_VALUES:,} values", At(self._document, ()),
                               help="write fewer; families make targets of one table")  # fmt: skip
            self._problems.fail()

    def _value(self, found: object, path: Keys) -> object:
        self._count()
        if isinstance(found, (Mapping, list, tuple)):
            return self._inside(found, path)
        if isinstance(found, (float, Decimal)):
            return _number(found)
        if isinstance(found, (str, os.PathLike)):
            return self._text(os.fspath(found), path)
        if isinstance(found, (bool, dt.date, dt.time)):
            return found
        if isinstance(found, Integral):
            return int(found)
        message = f"`{_dotted(path)}` is {_told(found)}"
        self._wrong(message, "expected a number, a string, a boolean, a list or a table", path)
        return ""

    def _text(self, found: str | bytes, path: Keys) -> str:
        if isinstance(found, str) and found.isascii():
            return found
        try:
            return found.encode().decode() if isinstance(found, str) else found.decode()
        except UnicodeError:
            self._wrong(f"`{_dotted(path)}` is no text of Unicode", "a mergefile is UTF-8", path)
            return ""

    def _inside(self, found: Mapping[str, object] | list[object] | tuple[object, ...], path: Keys) -> object:
        if len(path) > _DEEPEST:
            self._problems.add("too-deep", f"values nest more than {_DEEPEST} deep", At(self._document, path[:4]),
                               help="nothing of a mergefile lies so deep")  # fmt: skip
            self._problems.fail()
        if isinstance(found, Mapping):
            return self.table(found, path)
        return [self._value(each, (*path, number)) for number, each in enumerate(found)]

    def _wrong(self, message: str, help_: str, path: Keys) -> None:
        self._problems.add("wrong-type", message, At(self._document, path), help=help_)


def _number(found: float | Decimal) -> Fraction | BadNumber:
    """Return the number that a float's shortest decimal means, also for a subclass such as NumPy's."""
    return toml_number(float.__repr__(found) if isinstance(found, float) else str(found))


def _told(found: object) -> str:
    return "`None`" if found is None else f"of the type `{type(found).__name__}`"


def _dotted(path: Keys) -> str:
    """Return keys as in TOML, with indices for items of lists: `targets.mix.rules[0].alpha`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            shown = key if _BARE.fullmatch(key) else repr(key)
            text += f".{shown}" if text else shown
    return text
