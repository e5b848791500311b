"""Reads what a mergefile declares besides targets: variables, sources, layouts, and the project's options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, cast

from mergebuild.errors import did_you_mean
from mergebuild.recipe.files import File
from mergebuild.recipe.model import LayoutText, ProjectOptions, Source
from mergebuild.recipe.namespace import bad_name
from mergebuild.recipe.nodes import (
    Node,
    Reader,
    among,
    dotted_help,
    misspelt,
    plain,
    resolve,
    resolve_key,
)
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.target_table import Declaration
from mergebuild.recipe.targets import read_dtype
from mergebuild.recipe.variables import Scalar, Scope, VariableError, variables_of

__all__ = [
    "Declared",
    "DeclaredEntry",
    "declarations",
    "entries",
    "read_default_dtype",
    "read_layouts",
    "read_project",
    "read_sources",
    "read_variables",
]

_PROJECT = ("name", "default", "include", "link", "history", "store")
_PINS = {"sha256": (64,), "autov2": (10,), "autov3": (64, 12)}
"""The lengths that a pin may have, in digits; a site may show only the first 12 of an AutoV3."""
_SOURCE = ("path", *_PINS, "url")
_INPUTS = ("source", "target")
_NO_DIGIT = re.compile(r"[^0-9a-fA-F]")


class Declared:
    """The names of one kind of declaration over all files; each may be declared once."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._places: dict[str, At] = {}

    @property
    def names(self) -> frozenset[str]:
        """All names taken so far."""
        return frozenset(self._places)

    def at(self, name: str) -> At:
        """Return where a name is declared."""
        return self._places[name]

    def add(self, name: str, at: At, kind: str) -> bool:
        """Add a name and return True; if it is invalid or already declared, report that and return False."""
        reason = bad_name(name)
        if reason:
            self._problems.add("bad-name", f"`{name}` can't be the name of a {kind}: {reason}", at, key=True,
                               help="write it without `,`, `=`, `@` and blanks at its ends")  # fmt: skip
            return False
        if name in self._places:
            self._twice(name, at, kind)
            return False
        self._places[name] = at
        return True

    def _twice(self, name: str, at: At, kind: str) -> None:
        common = "; sources and targets have their names in common" if kind in _INPUTS else ""
        rows = (f"first declared at {self._places[name].place(key=True)}",)
        message, hint = f"`{name}` is declared twice", f"rename one of them{common}"
        self._problems.add("duplicate-name", message, at, key=True, help=hint, rows=rows)


class DeclaredEntry(NamedTuple):
    """A declaration with a name that the user chose."""

    name: str
    raw: object
    at: At
    file: File


def entries(
    files: Sequence[File], table: str, kind: str, scope: Scope, names: Declared, problems: Problems
) -> Iterator[DeclaredEntry]:
    """Yield the entries of a table in all files, with the variables in their names filled in; report invalid names."""
    for file in files:
        for raw_name, raw in file.table(table, problems).items():
            at = At(file.document, (table, raw_name))
            name = resolve_key(raw_name, at, scope, problems)
            if name is not None and names.add(name, at, kind):
                yield DeclaredEntry(name, raw, at, file)


def read_variables(files: Sequence[File], given: Mapping[str, tuple[object, str]], problems: Problems) -> Scope:
    """Return the value of every variable; None if it has none, which is reported.

    `given`: raw values from the command line, each with the option that gave it.
    """
    raw: dict[str, tuple[object, At]] = {}
    names = Declared(problems)
    for file in files:
        for name, value in file.table("vars", problems).items():
            at = At(file.document, ("vars", name))
            if names.add(name, at, "variable"):
                raw[name] = (value, at)
    _put_given(raw, given)
    return _Variables(raw, problems).all()


def _put_given(raw: dict[str, tuple[object, At]], given: Mapping[str, tuple[object, str]]) -> None:
    """Put values from the command line in the place of those of the files, and record that they are from there."""
    for name, (value, label) in given.items():
        if name in raw:
            at = raw[name][1]
            at.document.edits[at.path] = label
            raw[name] = (value, at)


class _Variables:
    def __init__(self, raw: Mapping[str, tuple[object, At]], problems: Problems) -> None:
        self._raw = raw
        self._problems = problems
        self._reader = Reader(problems)
        self._values: dict[str, Scalar | None] = dict.fromkeys(raw)
        self._done: set[str] = set()
        self._open: list[str] = []

    def all(self) -> Scope:
        for name in self._raw:
            self._value(name)
        return self._values

    def _value(self, name: str) -> None:
        if name in self._done:
            return
        raw, at = self._raw[name]
        self._open.append(name)
        usable = not isinstance(raw, str) or self._needed(raw, at)
        self._open.pop()
        self._done.add(name)
        if not usable:
            return
        node = resolve(raw, at, self._values, self._problems)
        if isinstance(node.value, (Fraction, str, bool)):
            self._values[name] = node.value
        else:
            kinds = "a number, a string or a boolean"
            self._reader.wrong(node, f"variable `{name}`", kinds, 'such as `0.3` or `"text"`', named=True)

    def _needed(self, raw: str, at: At) -> bool:
        """Compute the variables that this one names; return False if one of them has no value."""
        try:
            wanted = variables_of(raw, self._raw)
        except VariableError:
            return True  # reported later, when the string is rendered
        for name in wanted:
            if name in self._raw:
                if self._is_endless(name, at):
                    return False
                self._value(name)
        return all(self._values.get(name, True) is not None for name in wanted)

    def _is_endless(self, name: str, at: At) -> bool:
        """Report a variable that needs itself, or that is at the end of too long a chain."""
        if name in self._open:
            circle = " -> ".join([*self._open[self._open.index(name) :], name])
            self._problems.add("variable-cycle", f"variables need each other: {circle}", at,
                               help="give one of them a value of its own")  # fmt: skip
            return True
        if len(self._open) > 200:  # deeper than any real mergefile, and below Python's limit of recursion
            hint = "write the value itself instead of one of the variables"
            self._problems.add("too-deep", "variables need each other more than 200 deep", at, help=hint)
            return True
        return False


def read_sources(files: Sequence[File], scope: Scope, names: Declared, problems: Problems) -> dict[str, Source]:
    """Return the declared sources by name."""
    reader = Reader(problems)
    found = {
        each.name: _source(reader, each.name, resolve(each.raw, each.at, scope, problems), each.file)
        for each in entries(files, "sources", "source", scope, names, problems)
    }
    return {name: source for name, source in found.items() if source is not None}


def _source(reader: Reader, name: str, node: Node, file: File) -> Source | None:
    what = f"source `{name}`"
    table = node.value if isinstance(node.value, dict) else {"path": node}
    if not _has_known_keys(reader, table, node, what):
        return None
    if "path" not in table:
        _no_path(reader, table, node, what)
        return None
    path = _path_of(reader, table["path"], what)
    pins = {key: _pin(reader, table[key], key, what) for key in _PINS if key in table}
    url = reader.text(table["url"], f"`url` of {what}") if "url" in table else None
    if path is None:
        return None
    sha256, autov2, autov3 = (pins.get(key) for key in ("sha256", "autov2", "autov3"))
    return Source(name, path, Path(file.document.folder), sha256, url, node.at, autov2=autov2, autov3=autov3)


def _no_path(reader: Reader, table: Mapping[str, Node], node: Node, what: str) -> None:
    """Report a source without a path, unless it has a misspelt one."""
    if not misspelt("path", table, _SOURCE):
        hint = 'such as `path = "models/x.safetensors"`'
        reader.problems.add("missing-key", f"{what} has no `path`", node.at, help=hint)


def _no_pin(reader: Reader, node: Node, what: str) -> None:
    """Report a pin by AutoV1."""
    message = f"`autov1` can't pin {what}: it is of 64 KiB of a file, and many merges have the same"
    hint = "pin it by `sha256`, which `mergebuild inspect FILE` prints"
    reader.problems.add("bad-pin", message, node.at, key=True, help=hint)


def _has_known_keys(reader: Reader, table: Mapping[str, Node], node: Node, what: str) -> bool:
    """Report unknown keys of a source.

    Return whether it may be read: not if a name with a dot was split into tables.
    """
    for key, below in table.items():
        if key == "autov1":
            _no_pin(reader, below, what)
        elif key not in _SOURCE:
            hint = dotted_help(node) or did_you_mean(key, _SOURCE, otherwise=f"allowed: {among(_SOURCE)}")
            code = "dotted-key" if dotted_help(node) else "unknown-key"
            reader.problems.add(code, f"{what} has unknown key `{key}`", below.at, key=True, help=hint)
            if code == "dotted-key":
                return False
    return True


def _path_of(reader: Reader, node: Node, what: str) -> str | None:
    """Return the path of a source, with `~` replaced by the user's home."""
    text = _path(reader, node, f"the path of {what}", "models/x.safetensors")
    path = os.path.expanduser(text) if text is not None else None  # noqa: PTH111 -- never raises
    if path is not None and path.startswith("~"):
        message = f"the path of {what} begins with `~`, and there is no such user"
        reader.problems.add("bad-path", message, node.at, help="write the whole path")
        return None
    return path


def _path(reader: Reader, node: Node, what: str, example: str) -> str | None:
    text = reader.text(node, what, expected="a path", hint=f'such as `"{example}"`')
    if text is None:
        return None
    if not text or any(ord(sign) < ord(" ") for sign in text):
        shown = text.encode("unicode_escape").decode()
        message = f"{what} is `{shown}`, which has a sign that no path has" if text else f"{what} is empty"
        hint = (
            "in double quotes a backslash begins an escape; write paths with `/`, or in single quotes" if text
            else f'such as `"{example}"`'
        )  # fmt: skip
        reader.problems.add("bad-path", message, node.at, help=hint)
        return None
    return text


def _pin(reader: Reader, node: Node, key: str, what: str) -> str | None:
    """Return the digits of a pin in lower case."""
    lengths = _PINS[key]
    expected = f"{' or '.join(map(str, lengths))} hexadecimal digits"
    hint = f"`mergebuild inspect FILE` prints a file's {key}"
    text = reader.text(node, f"`{key}` of {what}", expected=expected, hint=hint)
    if text is None:
        return None
    digits = text.strip().removeprefix(f"{key}:")
    odd = _NO_DIGIT.search(digits)
    if len(digits) in lengths and odd is None:
        return digits.lower()
    found = f"`{odd[0]}` in it" if odd and len(digits) in lengths else f"{len(text)} signs"
    reader.problems.add("bad-pin", f"`{key}` of {what} has {found}, expected {expected}", node.at, help=hint)
    return None


def read_layouts(files: Sequence[File], scope: Scope, problems: Problems) -> dict[str, LayoutText]:
    """Return the layouts that the user declares, as plain TOML values."""
    found: dict[str, LayoutText] = {}
    reader = Reader(problems)
    for name, raw, at, _ in entries(files, "layouts", "layout", scope, Declared(problems), problems):
        node = resolve(raw, at, scope, problems)
        if reader.table(node, f"layout `{name}`", f"it is written `[layouts.{name}]`") is not None:
            found[name] = LayoutText(name, cast(Mapping[str, object], plain(node)), at)
    return found


def read_default_dtype(root: File, scope: Scope, problems: Problems) -> str:
    """Return the dtype for targets with an output and no `dtype`."""
    node = resolve(root.table("defaults", problems), At(root.document, ("defaults",)), scope, problems)
    assert isinstance(node.value, dict)  # `table` gives one
    reader = Reader(problems)
    reader.known_keys(node.value, "`[defaults]`", ("dtype",), "only `dtype` has a default")
    if "dtype" not in node.value:
        return "source"
    return read_dtype(reader, node.value["dtype"], "`dtype` of `[defaults]`") or "source"


def read_project(root: File, scope: Scope, problems: Problems) -> tuple[ProjectOptions, tuple[tuple[str, At], ...]]:
    """Return the project's options, and the names in `default` with their places."""
    node = resolve(root.table("project", problems), At(root.document, ("project",)), scope, problems)
    table = node.value
    assert isinstance(table, dict)  # `table` gives one
    reader = Reader(problems)
    reader.known_keys(table, "`[project]`", _PROJECT)
    default: list[tuple[str, At]] | None = None
    if "default" in table:
        default = reader.texts(table["default"], "`default` of `[project]`", 'such as `default = ["orange"]`')
    names = tuple(text for text, _ in default) if default is not None else None
    return _options(reader, table, names), tuple(default or ())


def _options(reader: Reader, table: Mapping[str, Node], default: tuple[str, ...] | None) -> ProjectOptions:
    """Return the options in `[project]`."""
    name = reader.text(table["name"], "`name` of `[project]`") if "name" in table else None
    link = reader.choice(table["link"], "`link` of `[project]`", ("auto", "hard", "copy")) if "link" in table else None
    store = _path(reader, table["store"], "`store` of `[project]`", ".mergebuild") if "store" in table else None
    history: int | None = None
    if "history" in table:
        hint = 'such as `history = "10GB"`; "0" keeps none'
        history = reader.size(table["history"], "`history` of `[project]`", hint)
    link = cast(Literal["auto", "hard", "copy"], link or "auto")
    return ProjectOptions(name=name, default=default, link=link, history_bytes=history, store=store)


def declarations(files: Sequence[File], scope: Scope, names: Declared, problems: Problems) -> dict[str, Declaration]:
    """Return the targets by name, as written."""
    found: dict[str, Declaration] = {}
    for name, raw, at, _ in entries(files, "targets", "target", scope, names, problems):
        if isinstance(raw, dict):
            found[name] = Declaration(name, raw, at)
        else:
            node, hint = resolve(raw, at, scope, problems), f"it is written `[targets.{name}]`"
            Reader(problems).wrong(node, f"target `{name}`", "a table", hint)
    return found
