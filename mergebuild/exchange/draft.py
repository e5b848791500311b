"""A mergefile in the making: what a reader found in a recipe of another tool.

Names of other tools may hold any sign; here they become names of a mergefile, each once. Numbers are `Decimal`s as the
recipe spelt them, so that `0.30` stays a decimal and never becomes a binary fraction.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple, Union

from mergebuild.exchange.file_names import last_step, split_hash, suffix_of, without_suffix

__all__ = ["Draft", "DraftSource", "DraftTarget", "ModelName", "Said", "Unmapped", "Value"]

Value = Union[str, bool, int, Decimal, "list[Value]", "dict[str, Value]"]
"""What stands behind `=` in a mergefile."""

_UNSAYABLE: Final = re.compile(r"[^\w+.-]+")
"""Signs that names don't get: those of families (`@,=`), of variables (`${`), blanks, and all that is hard to type."""
_OUTSIDE: Final = re.compile(r'[\x00-\x1f\x7f:*?"<>|$]+')
"""Signs that file names don't get."""
_MOST_BYTES: Final = 200
"""Of the name of a file, without its end."""
_DEEPEST: Final = 10
"""Folders of a path, with the file."""


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


class Said(NamedTuple):
    """A sentence about a place of a recipe."""

    where: str
    """The file, and the line or the key."""
    message: str


class Unmapped(Said):
    """What a mergefile does not say, of what the recipe said."""


@dataclass(slots=True)
class DraftSource:
    """A source: its model as the recipe named it, and the path to write once that was looked for."""

    name: str
    model: ModelName
    path: str
    pins: dict[str, str] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    beside: Path | None = None
    """The folder of the recipe that names it."""


@dataclass(slots=True)
class DraftTarget:
    """A target: its keys in the order in which they are written."""

    name: str
    keys: dict[str, Value]
    comments: list[str] = field(default_factory=list)
    """Lines above its keys."""
    notes: dict[str, str] = field(default_factory=dict)
    """By key, what stands behind it as a comment."""


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
    notices: list[Said] = field(default_factory=list)
    """What is said to people, although all was mapped: an invented seed, a key that its own tool ignores."""

    beside: Path | None = None
    """The folder of the recipe that is read."""
    once_found: list[tuple[str, Callable[[DraftTarget, str | None], None]]] = field(default_factory=list)
    """What is decided once the models were looked for: by target, a function of it and the layout of its first model
    (None: the model was not found, or has none that is known)."""
    once_counted: list[tuple[str, int, Callable[[DraftTarget, int], None]]] = field(default_factory=list)
    """What is done where models are found that have more or fewer layers than were taken to be all: by target, the
    number that was taken, and a function of the target and that number."""

    find: Callable[[DraftSource], Path | None] = lambda _: None
    """Looks for the model of a source: its file or folder, if one alone fits."""

    def source(self, model: ModelName) -> str:
        """Return the name of the source that is this model, which is added where it is new."""
        model, path = _told(model)
        for known in self.sources.values():
            if known.model == model and not self._is_elsewhere(known, path):
                return known.name
        name = self.free_name(without_suffix(last_step(path)) or model.autov2 or (model.sha256 or "model")[:10])
        path = path or f"{name}.safetensors"
        written = f"{path.rstrip('/')}/" if model.is_folder else path
        self.sources[name] = DraftSource(name, model, written, _pins(model), beside=self.beside)
        return name

    def _is_elsewhere(self, known: DraftSource, path: str) -> bool:
        """Whether a path that is read now is of another model than the same path of another recipe: beside its own."""
        folders = {known.beside, self.beside} - {None}
        return bool(path) and len(folders) > 1 and any(os.path.lexists(folder / path) for folder in folders if folder)

    def target(
        self,
        name: str,
        keys: Mapping[str, Value],
        *,
        comments: Iterable[str] = (),
        output: str | None = None,
        dtype: str | None = None,
    ) -> str:
        """Add a target and return its name: the one asked for, changed where a mergefile can't have it or has it.

        `output`: the path wished for its file; without one it is a step, which has no dtype.
        """
        free, whole = self.free_name(name), dict(keys)
        if output is not None:
            whole["output"] = self.free_output(output)
            whole |= {"dtype": dtype} if dtype else {}
        self.targets[free] = DraftTarget(free, whole, list(comments))
        return free

    def free_name(self, wished: str) -> str:
        """Return a name that neither a source nor a target has."""
        plain = _UNSAYABLE.sub("-", wished).strip("-.") or "model"
        name, number = plain, 1
        while name in self.sources or name in self.targets:
            number += 1
            name = f"{plain}-{number}"
        return name

    def free_output(self, wished: str) -> str:
        """Return a path for an output that no target has, below the mergefile's folder, whatever a recipe asks for.

        Args:
            wished: A path of a file, or with `/` at its end of a folder.
        """
        is_folder = wished.endswith(("/", "\\"))
        steps = (_short(_OUTSIDE.sub("-", step).strip(". ")) for step in re.split(r"[\\/]", wished)[-_DEEPEST:])
        plain = "/".join(step for step in steps if step) or "model"
        plain = re.sub("^~", "-", plain)  # it would be somebody's home
        plain = without_suffix(plain) if is_folder else plain
        if not is_folder and (end := suffix_of(wished)) and not suffix_of(plain):
            plain = f"model{end}"
        taken = {str(target.keys.get("output", "")).rstrip("/").lower() for target in self.targets.values()}
        path, number = plain, 1
        while path.lower() in taken:
            number += 1
            stem, dot, suffix = plain.rpartition(".") if not is_folder else ("", "", "")
            path = f"{stem}-{number}{dot}{suffix}" if stem else f"{plain}-{number}"
        return f"{path}/" if is_folder else path

    def leave_out(self, where: str, message: str, *, target: str | None = None) -> None:
        """Say what could not be mapped: on stderr, and in a comment of the target that it belongs to, or at the top."""
        self.unmapped.append(Unmapped(where, message))
        self._comments(target).append(f"not imported: {message}")

    def say(self, where: str, message: str, *, target: str | None = None) -> None:
        """Say what people should know although all was mapped: on stderr, and in a comment."""
        self.notices.append(Said(where, message))
        self._comments(target).append(message)

    def _comments(self, target: str | None) -> list[str]:
        return self.targets[target].comments if target else self.comments


def _short(step: str) -> str:
    """Return the name of a file with no more bytes than disks take."""
    if len(step.encode(errors="replace")) <= _MOST_BYTES:
        return step
    return step.encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore").strip(". ") + suffix_of(step)


def _told(model: ModelName) -> tuple[ModelName, str]:
    """Return a model with the hash that stands in its name, and its path: with `/`, and no sign that no path has."""
    plain, found = split_hash(model.text)
    if found and not (model.sha256 or model.autov2 or model.autov1):
        model = _with_hash(model, found)
    path = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", plain.strip()).replace("\\", "/")
    if path.rstrip("/").rpartition("/")[2] in ("", ".", ".."):  # no name of a model
        path = ""
    if model.is_folder and model.url:  # a repository: its owner is no folder here
        path = path.rpartition("/")[2]
    return model, f"./{path}" if path.startswith("~") else path


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
