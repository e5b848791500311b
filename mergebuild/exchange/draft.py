"""A mergefile in the making: what a reader found in a recipe of another tool.

Names of other tools may hold any sign; here they become names of a mergefile, each once. Numbers are `Decimal`s as the
recipe spelt them, so that `0.30` stays a decimal and never becomes a binary fraction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple, Union

__all__ = ["Draft", "DraftSource", "DraftTarget", "ModelName", "Unmapped", "Value"]

Value = Union[str, bool, int, Decimal, "list[Value]", "dict[str, Value]"]
"""What stands behind `=` in a mergefile."""

_UNSAYABLE: Final = re.compile(r"[^\w+-]+")
_HASH_BEHIND: Final = re.compile(r"\s*\[(?P<hash>[0-9a-fA-F]{8,64})\]\s*$")
_SUFFIX: Final = re.compile(r"\.(safetensors|ckpt|pt|pth|bin)$", re.IGNORECASE)


class ModelName(NamedTuple):
    """How a recipe names a model: by a file's name or path, by a repository, by hashes, or by several of these."""

    text: str
    """As the recipe has it: `xl/photoA.safetensors [abcdef0123]`, `org/name`; "" where only hashes are known."""
    sha256: str | None = None
    autov2: str | None = None
    """10 hexadecimal digits: the first of `sha256`."""
    autov3: str | None = None
    """12 hexadecimal digits, of the file without its header."""
    autov1: str | None = None
    """8 hexadecimal digits of a part of the file: a comment, never a match."""
    url: str | None = None
    comment: str | None = None
    is_folder: bool = False
    """Whether it is a folder, as repositories are."""


class Unmapped(NamedTuple):
    """What a mergefile does not say, of what the recipe said."""

    where: str
    """The file, and the line or the key."""
    message: str


@dataclass(slots=True)
class DraftSource:
    """A source: its model as the recipe named it, and the path to write once that was looked for."""

    name: str
    model: ModelName
    path: str
    pins: dict[str, str] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class DraftTarget:
    """A target: its keys in the order in which they are written."""

    name: str
    keys: dict[str, Value]
    comments: list[str] = field(default_factory=list)


@dataclass
class Draft:
    """All that is written, in order. Readers add to it; `written` makes the text."""

    sources: dict[str, DraftSource] = field(default_factory=dict)
    targets: dict[str, DraftTarget] = field(default_factory=dict)
    default: list[str] = field(default_factory=list)
    """The targets of a bare `mergebuild build`."""
    comments: list[str] = field(default_factory=list)
    """At the top of the file."""
    unmapped: list[Unmapped] = field(default_factory=list)

    def source(self, model: ModelName) -> str:
        """Return the name of the source that is this model, which is added where it is new."""
        for known in self.sources.values():
            if known.model == model:
                return known.name
        plain, found = _without_hash(model.text)
        if found and not (model.sha256 or model.autov2 or model.autov1):
            model = _with_hash(model, found)
        name = self.free_name(_SUFFIX.sub("", re.split(r"[\\/]", plain.rstrip("\\/"))[-1]) or (model.autov2 or "model"))
        self.sources[name] = DraftSource(name, model, plain, _pins(model))
        return name

    def target(self, name: str, keys: Mapping[str, Value], *, comments: Iterable[str] = ()) -> str:
        """Add a target and return its name: the one asked for, changed where a mergefile can't have it or has it."""
        free = self.free_name(name)
        self.targets[free] = DraftTarget(free, dict(keys), list(comments))
        return free

    def free_name(self, wished: str) -> str:
        """Return a name that neither a source nor a target has."""
        plain = _UNSAYABLE.sub("-", wished).strip("-") or "model"
        name, number = plain, 1
        while name in self.sources or name in self.targets:
            number += 1
            name = f"{plain}-{number}"
        return name

    def leave_out(self, where: str, message: str, *, target: str | None = None) -> None:
        """Say what could not be mapped: on stderr, and in a comment of the target that it belongs to, or at the top."""
        self.unmapped.append(Unmapped(where, message))
        comments = self.targets[target].comments if target else self.comments
        comments.append(f"not imported: {message}")


def _without_hash(text: str) -> tuple[str, str | None]:
    """Return a model's name without a hash in brackets behind it, and that hash."""
    found = _HASH_BEHIND.search(text)
    return (text[: found.start()], found["hash"].lower()) if found else (text, None)


def _with_hash(model: ModelName, digits: str) -> ModelName:
    """Return the model with a hash whose kind its length tells."""
    match len(digits):
        case 8:
            return model._replace(autov1=digits)
        case 10:
            return model._replace(autov2=digits)
        case 12:
            return model._replace(autov3=digits)
        case 64:
            return model._replace(sha256=digits)
    return model


def _pins(model: ModelName) -> dict[str, str]:
    pins = {"sha256": model.sha256, "autov2": model.autov2, "autov3": model.autov3}
    return {kind: digits for kind, digits in pins.items() if digits}
