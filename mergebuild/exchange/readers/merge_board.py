"""Recipes of Merge Board, an extension of AUTOMATIC1111's web UI: a line a merge, `NAME = A + B, 0.3, fp16`.

A line is what that tool makes of it: two models are a weighted sum, three an add difference; `__O1__` is the result of
the first line, and any other name in double underscores a model that is chosen when the recipe runs. Each line wrote a
file there. Here the lines that others use are virtual, and their values are never rounded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.figures import figure, sigmoid_of
from mergebuild.exchange.file_names import without_suffix
from mergebuild.exchange.merges.chain import Chain, Merge
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.formats.registry import READ_SUFFIXES
from mergebuild.sources.locating import folders_of_models

__all__ = ["read", "recognizes"]

_NOTE: Final = re.compile(r"__(?P<name>.+?)__(?P<behind>.*)")
_REFERENCE: Final = re.compile(r"__O(?P<number>\d{1,6})__")
_VARIABLE: Final = re.compile(r"__(?P<name>.+)__")
_WIDE: Final = str.maketrans("\uff0b\uff1d\uff0c\uff03", "+=,#")
_UNNAMEABLE: Final = re.compile(r'[\\|:?"<>*]')
_MOST_LINES: Final = 10
_MOST_TOLD: Final = 100
_MOST_TEXT: Final = 200_000
"""Signs that are looked through for a line of this kind; such files are a page at most."""
_MOST_FILES: Final = 20_000
_FOREIGN: Final = re.compile(r"\s*(\{|\[|<|version \d|dict |ID,time,|#!)")


def recognizes(file: RecipeFile) -> bool:
    """Whether a text has a line `NAME = A + B, number`."""
    text = file.text[:_MOST_TEXT]
    if _FOREIGN.match(text):
        return False
    return any(_is_recipe(line.translate(_WIDE)) for line in text.splitlines())


def _is_recipe(line: str) -> bool:
    """Whether a line has the form of a recipe, with a number."""
    parts = _cut(line.partition("#")[0].strip(), "")
    try:
        return parts is not None and all(parts.models[:2]) and figure(parts.multiplier) is not None
    except ValueError:
        return False


def read(file: RecipeFile, draft: Draft) -> None:
    """Add a target for each line.

    Raises:
        RecipeError: no line is a recipe.
    """
    board = _Board(file, draft)
    for number, line in enumerate(file.text.splitlines(), 1):
        board.take(number, line)
    if not board.count:
        place = Place(str(file.path))
        raise RecipeError.one("bad-recipe", "no line is `NAME = A + B, number`", where=place, help="see its first line")
    board.finish()


class _BoardLine(NamedTuple):
    """A line, cut at its signs."""

    out: str
    models: tuple[str, ...]
    multiplier: str
    flags: tuple[str, ...]
    comment: str


@dataclass
class _Board:
    """The lines so far. Lines of recipes are counted from 1, as `__O1__` counts them."""

    file: RecipeFile
    draft: Draft
    count: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    chain: Chain = field(init=False)

    def __post_init__(self) -> None:
        self.chain = Chain(self.draft)

    def take(self, number: int, line: str) -> None:
        """Take a line of the file, of any kind."""
        where = f"{self.file.path}:{number}"
        plain, _, comment = self._normal(line).strip().partition("#")
        plain = plain.strip()
        if not plain:
            if comment.strip():
                self.draft.comments.append(comment.strip())
        elif (parts := _cut(plain, comment.strip())) is not None:
            self.count += 1
            self._recipe(where, plain, parts)
        elif plain.startswith("_"):
            self._note(where, plain)
        else:
            self.draft.leave_out(where, f"`{plain}` is neither a recipe `NAME = A + B, number` nor a note")

    def finish(self) -> None:
        """Write the targets."""
        if self.count > _MOST_TOLD:
            text = f"Merge Board passes over {self.count - _MOST_TOLD} lines more"
            self.draft.say(str(self.file.path), text)
        self.chain.write(last_is_default=True)

    def _normal(self, line: str) -> str:
        """Return a line with plain signs for full-width ones, but in names that files have."""
        if line.translate(_WIDE) == line:
            return line
        kept = [name for name in self._wide_names if name in line]
        for place, name in enumerate(kept):
            line = line.replace(name, f"\x00{place}\x00")
        line = line.translate(_WIDE)
        return re.sub("\x00(\\d+)\x00", lambda found: kept[int(found[1])], line)

    @cached_property
    def _wide_names(self) -> list[str]:
        """The names of models with full-width signs, the longest first, with and without the end of a file's name."""
        found: set[str] = set()
        folders = (self.file.path.parent, *folders_of_models())
        walked = (name for folder in folders for _, _, files in os.walk(folder) for name in files)
        for name in islice(walked, _MOST_FILES):
            if name.translate(_WIDE) != name and name.endswith(READ_SUFFIXES):
                found |= {name, without_suffix(name)}
        return sorted(found, key=len, reverse=True)

    def _note(self, where: str, plain: str) -> None:
        found = _NOTE.match(plain)
        name, text = (found["name"], found["behind"].lstrip(" ,")) if found else ("", "")
        if found and "," in found["behind"]:
            self.notes[name] = text
        else:
            self.draft.say(where, f"`{plain}` has no comma: Merge Board passes over such a note")

    def _recipe(self, where: str, plain: str, parts: _BoardLine) -> None:
        if self.count > _MOST_LINES:
            if self.count <= _MOST_TOLD:
                self.draft.say(where, f"Merge Board passes over all lines but the first {_MOST_LINES}: `{plain}`")
            return
        self.chain.add(self._merge(where, plain, parts))

    def _merge(self, where: str, plain: str, parts: _BoardLine) -> Merge | None:
        """Return what a line merges; None where it can't be said, which is told."""
        try:
            multiplier = figure(parts.multiplier)
        except ValueError:
            self.draft.leave_out(where, f"`{plain}` has no number behind its models, on which Merge Board ends")
            return None
        models = [each for each in parts.models if each]
        if len(models) < 2:
            self.draft.leave_out(where, f"`{plain}` has one model where two or three are merged")
            return None
        inputs = [self._input(where, each) for each in models]
        if None in inputs:
            return None
        return self._made(where, parts, [each for each in inputs if each is not None], multiplier)

    def _made(self, where: str, parts: _BoardLine, inputs: list[int | str], multiplier: Decimal) -> Merge:
        comments = [parts.comment] if parts.comment else []
        for flag in parts.flags:
            if flag not in ("fp16", "safetensors"):
                hint = "; a decimal comma is none there" if flag.isdigit() else ""
                self.draft.say(where, f"`{flag}` is no flag, and Merge Board passes over it{hint}")
                comments.append(f"`{flag}` is no flag of Merge Board{hint}")
        suffix = ".safetensors" if "safetensors" in parts.flags else ".ckpt"
        out = _UNNAMEABLE.sub("-", parts.out)
        return Merge(
            where=where,
            name=out or _automatic(parts.models, multiplier, len(inputs)),
            inputs=inputs,
            keys=_keys(len(inputs), multiplier),
            notes=_notes(multiplier),
            suffix=suffix,
            dtype="float16" if "fp16" in parts.flags else None,
            comments=comments,
        )

    def _input(self, where: str, name: str) -> int | str | None:
        """Return the number of the line whose result an input is, counted from 0, or the name of a source."""
        if found := _REFERENCE.fullmatch(name):
            return self._line(where, name, int(found["number"]))
        if (earlier := self.chain.latest(name)) is not None:
            return earlier
        if found := _VARIABLE.fullmatch(name):
            said = self.notes.get(found["name"])
            comment = f"{name}: {said}" if said else f"{name}: a model that is chosen when the recipe runs"
            return self.draft.source(ModelName(found["name"], comment=f"{comment}; fill in the file"))
        return self.draft.source(ModelName(name))

    def _line(self, where: str, name: str, number: int) -> int | None:
        if not 1 <= number < self.count:
            self.draft.leave_out(where, f"`{name}` is the result of no line before this one, an error of Merge Board")
            return None
        if self.chain.merges[number - 1] is None:
            self.draft.leave_out(where, f"`{name}` is the result of a line that was not imported")
            return None
        return number - 1


def _cut(plain: str, comment: str) -> _BoardLine | None:
    """Return the parts of a recipe; None where it has not its form."""
    out, equals, rest = plain.partition("=")
    if not equals or "+" not in rest:
        return None
    models, *behind = rest.partition("=")[0].split(",")
    spaced = models.split(" + ")
    found = spaced if len(spaced) in (2, 3) else models.split("+")
    if len(found) not in (2, 3):
        return None
    multiplier, *flags = (each.strip() for each in behind) if behind else ("",)
    return _BoardLine(
        out.strip(), tuple(each.strip() for each in found), multiplier, tuple(filter(None, flags)), comment
    )


def _keys(count: int, multiplier: Decimal) -> Mapping[str, Value]:
    return {"method": "weighted_sum" if count == 2 else "add_difference", "alpha": multiplier}


def _notes(multiplier: Decimal) -> dict[str, str]:
    short = sigmoid_of(multiplier)
    return {} if short is None else {"alpha": f"sigmoid of {short}?"}


def _automatic(models: tuple[str, ...], multiplier: Decimal, count: int) -> str:
    """Return the name that the web UI gives to a result without one."""
    first, second = (f"{float(each):.2f}".rstrip("0").ljust(3, "0") for each in (1 - multiplier, multiplier))
    word = "Weighted_sum" if count == 2 else "Add_difference"
    return "-".join([f"{models[0]}_{first}", f"{models[1]}_{second}", *models[2:count], f"{word}-merged"])
