"""The user's own methods: `[methods.NAME]`, each a row like those of the catalog, with a Python file as its kernel.

Everything that a mergefile is checked against is in the table, so that no code is run to read a recipe. The file's text
is read here, once: it is part of the method's digest, and exactly this text is run later.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from mergebuild.methods.catalog import METHODS, Method, Parameter
from mergebuild.methods.making import OwnProgram, Program
from mergebuild.recipe.declared import Declared, DeclaredEntry, entries
from mergebuild.recipe.files import File
from mergebuild.recipe.nodes import Invalid, Node, Reader, among, misspelt, plain, resolve
from mergebuild.recipe.paths import absolute
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.target_table import Methods
from mergebuild.recipe.variables import Scope
from mergebuild.recipe.vocabulary import COMMON_KEYS, INPUTS
from mergebuild.system.bounded_text import read_text

__all__ = ["OwnMethods", "read_methods"]

_LONGEST_PROGRAM = 1 << 20
"""The most bytes of a file with methods."""
_MOST_PROGRAMS = 16 << 20
"""The most characters of all of them together."""
_MOST_METHODS = 1000
_KEYS = ("file", "inputs", "optional", "parameters", "formula", "summary", "exact")
_OF_A_PARAMETER = ("default", "low", "high", "kind", "per", "choices", "summary")
_KINDS = ("number", "integer", "flag", "word")
_ROLES = ("base", *(role for role in INPUTS if role not in ("base", "loras")))
"""In the order that a method must list them. No `loras`: what LoRAs add is computed before a kernel runs."""
_SHARED = {"seed": "integer", "compat": "word"}
"""Keys of every target that a method may have as parameters, with the kind that they must have."""
_FILE = 'such as `file = "methods/my_blend.py"`'
_INPUTS_HINT = 'such as `inputs = ["a", "b"]` or `inputs = ["base", "models"]`'
_PARAMETERS = "such as `alpha = {}` (it must be given) or `gamma = 0.5` (its default)"
_PARAMETER = 'such as `{}`, `0.5`, `true` or `{ default = "soft", choices = ["soft", "hard"] }`'
_WORD = 'such as `{ kind = "word", choices = ["soft", "hard"] }`'
_WHOLE = "a whole number from 0 on"
_TAKEN = frozenset(word.casefold() for row in METHODS.values() for word in (row.name, *row.aliases))
"""Names in the catalog, in lower case."""


class OwnMethods(NamedTuple):
    """The methods that a recipe declares itself."""

    rows: Mapping[str, Method]
    texts: Mapping[Path, str]
    """The files that define them, with their texts as they were read."""
    broken: frozenset[str]
    """Names of invalid ones, which are reported."""

    @property
    def known(self) -> Methods:
        """All methods that a target may name."""
        return Methods({**METHODS, **self.rows}, self.broken)


def read_methods(files: Sequence[File], scope: Scope, problems: Problems) -> OwnMethods:
    """Return the methods that the files declare."""
    rows: dict[str, Method | None] = {}
    texts: dict[Path, str] = {}
    programs = _Programs()
    for each in entries(files, "methods", "method", scope, Declared(problems), problems):
        if _is_taken(each, problems):
            continue
        _check_count(rows, each, problems)
        node = resolve(each.raw, each.at, scope, problems)
        reading = _MethodReading(each.name, node, files[0].document.folder, programs, problems)
        rows[each.name] = reading.read()
        texts |= reading.texts
    broken = frozenset(name for name, row in rows.items() if row is None)
    return OwnMethods({name: row for name, row in rows.items() if row is not None}, texts, broken)


def _check_count(rows: Mapping[str, Method | None], each: DeclaredEntry, problems: Problems) -> None:
    """Report if there are as many methods before this one as there may be, and raise all problems then."""
    if sum(row is not None for row in rows.values()) == _MOST_METHODS:
        message = f"there are more than {_MOST_METHODS} methods"
        problems.add("too-much-text", message, each.at, key=True, help="one method can have many parameters")
        problems.fail()


def _is_taken(each: DeclaredEntry, problems: Problems) -> bool:
    """Whether a method of the catalog has this name, which is reported then."""
    is_taken = each.name.casefold() in _TAKEN or each.name == "formula"
    if is_taken:
        message = f"`{each.name}` can't be the name of a method of your own: it means another one"
        hint = f"take another name, such as `my_{each.name}`"
        problems.add("duplicate-name", message, each.at, key=True, help=hint)
    return is_taken


class _Programs:
    """The texts of the files that define methods, each read once."""

    def __init__(self) -> None:
        self._texts: dict[Path, str] = {}
        self._signs = 0

    def text(self, path: Path) -> str:
        """Return a file's text.

        Raises:
            OSError, UnicodeDecodeError: it can't be read, is too long, or is not UTF-8.
        """
        if path not in self._texts:
            text = read_text(path, most=_LONGEST_PROGRAM)
            self._signs += len(text)
            if self._signs > _MOST_PROGRAMS:
                raise OSError(errno.EFBIG, "with it, the methods have too much code")
            self._texts[path] = text
        return self._texts[path]


class _MethodReading:
    """Reads one table. Paths are shown relative to `root`, the project's folder."""

    def __init__(self, name: str, node: Node, root: str, programs: _Programs, problems: Problems) -> None:
        self._name = name
        self._node = node
        self._root = root
        self._programs = programs
        self._problems = problems
        self._reader = Reader(problems)
        self.texts: dict[Path, str] = {}

    def read(self) -> Method | None:
        """Return the row; None if something is wrong with it, which is reported."""
        hint = f"it is written `[methods.{self._name}]`, with a `file` and `inputs`"
        table = self._reader.table(self._node, f"method `{self._name}`", hint)
        return self._row(table) if table is not None else None

    def _row(self, table: Mapping[str, Node]) -> Method | None:
        before = len(self._problems)
        self._check_keys(table, _KEYS, f"method `{self._name}`", self._node, needed=("file", "inputs"))
        file, text = self._text(table["file"]) if "file" in table else ("", "")
        inputs = self._inputs(table["inputs"]) if "inputs" in table else ()
        optional = self._optional(table["optional"], inputs) if "optional" in table else ()
        parameters = self._parameters(table["parameters"], inputs) if "parameters" in table else ()
        formula, summary = (
            self._reader.text(table[key], self._what(key)) if key in table else "" for key in ("formula", "summary")
        )
        exact = self._reader.flag(table["exact"], self._what("exact")) if "exact" in table else False
        if len(self._problems) > before:
            return None
        return Method(
            self._name,
            inputs,
            parameters,
            formula or "",
            summary or "",
            OwnProgram(Program(file, text, json.dumps(plain(self._node), default=str))),
            optional=optional,
            exact=bool(exact),
        )

    def _what(self, key: str) -> str:
        return f"`{key}` of method `{self._name}`"

    def _check_keys(
        self, table: Mapping[str, Node], allowed: Sequence[str], what: str, node: Node, *, needed: Sequence[str] = ()
    ) -> None:
        self._reader.known_keys(table, what, allowed)
        for key in needed:
            if key not in table and not misspelt(key, table, allowed):
                help_ = _FILE if key == "file" else _INPUTS_HINT
                self._problems.add("missing-key", f"{what} has no `{key}`", node.at, help=help_)

    # -- its file

    def _text(self, node: Node) -> tuple[str, str]:
        """Return the file's path for messages, and its text."""
        what = self._what("file")
        named = self._reader.text(node, what, expected="the path of a Python file", hint=_FILE)
        if named is None:
            return "", ""
        if not named or min(named) < " ":
            shown = named.encode("unicode_escape").decode()
            message = f"{what} is `{shown}`, which is no path" if named else f"{what} is empty"
            self._problems.add("bad-path", message, node.at, help="write paths with `/`, or in single quotes")
            return "", ""
        path = Path(absolute(named, node.at.document.folder))
        return self._read_text(path, node, what)

    def _read_text(self, path: Path, node: Node, what: str) -> tuple[str, str]:
        """Return a file's path for messages, and its text; both empty if it can't be read, which is reported."""
        shown = self._shown(path)
        try:
            self.texts[path] = self._programs.text(path)
        except (OSError, UnicodeDecodeError) as error:
            message, hint = _unreadable(error)
            self._problems.add("no-program", f"{what} is `{shown}`, {message}", node.at, help=hint)
            return "", ""
        return shown, self.texts[path]

    def _shown(self, path: Path) -> str:
        try:
            return Path(os.path.relpath(path, self._root)).as_posix()
        except ValueError:  # another drive
            return path.as_posix()

    # -- its inputs

    def _inputs(self, node: Node) -> tuple[str, ...]:
        found = self._words(node, self._what("inputs"), _ROLES, _INPUTS_HINT)
        if list(found) != sorted(found, key=_ROLES.index):
            message = f"{self._what('inputs')} is {among(found)}, expected the order {among(_ROLES)}"
            self._problems.add("bad-value", message, node.at, help=f"write {among(sorted(found, key=_ROLES.index))}")
        return found

    def _optional(self, node: Node, inputs: Sequence[str]) -> tuple[str, ...]:
        what = self._what("optional")
        found = self._words(node, what, inputs[1:], 'such as `optional = ["c"]`') if len(inputs) > 1 else ()
        if not found and isinstance(node.value, list) and node.value and len(inputs) == 1:
            message = f"{what} lists what may be left out, and the first input may not"
            self._problems.add("bad-value", message, node.at, help="take it out, or name another input")
        return found

    def _words(self, node: Node, what: str, allowed: Sequence[str], hint: str) -> tuple[str, ...]:
        """Return a list of words; report those that are not allowed or repeated."""
        found = self._reader.texts(node, what, hint)
        if found == []:
            self._problems.add("bad-value", f"{what} is empty", node.at, help=hint)
        words: list[str] = []
        for text, at in found or ():
            if text not in allowed or text in words:
                expected = f"each of {among(allowed)} once at most" if text in words else f"one of {among(allowed)}"
                self._problems.add("bad-value", f"{what} has `{text}`, expected {expected}", at, help=hint)
            else:
                words.append(text)
        return tuple(words)

    # -- its parameters

    def _parameters(self, node: Node, inputs: Sequence[str]) -> tuple[Parameter, ...]:
        table = self._reader.table(node, self._what("parameters"), _PARAMETERS)
        taken = {*INPUTS, *COMMON_KEYS, "model", "tensors"}.difference(_SHARED)
        found = []
        for name, below in (table or {}).items():
            if name in taken or not name.strip():
                message = f"`{name}` can't be a parameter of method `{self._name}`: targets have a key of that name"
                self._problems.add("bad-name", message, below.at, key=True, help="take another name")
                continue
            parameter = self._parameter(name, below, inputs)
            if parameter is not None:
                found.append(parameter)
        return tuple(found)

    def _parameter(self, name: str, node: Node, inputs: Sequence[str]) -> Parameter | None:
        before = len(self._problems)
        what = f"parameter `{name}` of method `{self._name}`"
        table = node.value if isinstance(node.value, dict) else {"default": node}
        self._check_keys(table, _OF_A_PARAMETER, what, node)
        choices = self._choices(table["choices"], what) if "choices" in table else ()
        default = table.get("default")
        kind = self._kind(table, what, choices, default, node)
        if kind != _SHARED.get(name, kind):
            message = f"{what} is a {kind}, and every target's `{name}` is a {_SHARED[name]}"
            hint = f'such as `{name} = {{ kind = "integer" }}`' if name == "seed" else _WORD
            self._problems.add("bad-value", message, node.at, help=hint)
        per = self._per(table["per"], what, kind, inputs) if "per" in table else "target"
        low, high = (self._bound(key, table[key], what, kind) if key in table else None for key in ("low", "high"))
        summary = self._reader.text(table["summary"], f"`summary` of {what}") if "summary" in table else ""
        if len(self._problems) > before:
            return None
        value = self._default(default, what, kind, choices) if default is not None else None
        if default is not None and isinstance(value, Fraction):
            self._check_bounds(value, low, high, what, default)
        if len(self._problems) > before:
            return None
        value = False if kind == "flag" and value is None else value
        return Parameter(name, summary or "", kind, per or "target", value, low, high, choices)

    def _per(self, node: Node, what: str, kind: str, inputs: Sequence[str]) -> str | None:
        """Return whether there is one value for each model, or one for the target."""
        per = self._reader.choice(node, f"`per` of {what}", ("target", "model"))
        if per == "model" and (kind != "number" or "models" not in inputs):
            message = f"{what} is one for each model, expected a `number` of a method with `models`"
            self._problems.add("bad-value", message, node.at, help="leave `per` out, or add `models` to `inputs`")
        return per

    def _check_bounds(
        self, value: Fraction, low: Fraction | None, high: Fraction | None, what: str, default: Node
    ) -> None:
        """Report a default outside of the parameter's own bounds."""
        if (low is not None and value < low) or (high is not None and value > high):
            message = f"`default` of {what} is outside of what it may be"
            self._problems.add("bad-value", message, default.at, help="change it, or `low` and `high`")

    def _kind(
        self, table: Mapping[str, Node], what: str, choices: Sequence[str], default: Node | None, node: Node
    ) -> str:
        """Return the kind of a parameter: as declared, or as its default and choices show."""
        if "kind" in table:
            kind = self._reader.choice(table["kind"], f"`kind` of {what}", _KINDS) or "number"
        elif choices:
            kind = "word"
        elif default is not None and isinstance(default.value, bool):
            kind = "flag"
        elif default is None or isinstance(default.value, (Fraction, Invalid)):
            kind = "number"
        else:
            self._no_default(default, what, node)
            return "word"
        if kind == "word" and "choices" not in table:
            self._problems.add("missing-key", f"{what} has no `choices`", node.at, help=_WORD)
        elif kind != "word" and choices:
            message = f"{what} is a {kind}, and only a word has `choices`"
            self._problems.add("bad-value", message, table["choices"].at, key=True, help=_WORD)
        return kind

    def _no_default(self, default: Node, what: str, node: Node) -> None:
        """Report a default that is neither a number nor a flag, if no choices show that it is a word."""
        if isinstance(default.value, str):
            message = f"{what} is a word without `choices`"
            help_ = f'such as `{{ default = "{default.value}", choices = ["{default.value}", "other"] }}`'
            self._problems.add("missing-key", message, node.at, help=help_)
        else:
            self._reader.wrong(default, what, "a default or a table", _PARAMETER)

    def _choices(self, node: Node, what: str) -> tuple[str, ...]:
        hint = 'such as `choices = ["soft", "hard"]`'
        found = self._reader.texts(node, f"`choices` of {what}", hint)
        if found == []:
            self._problems.add("bad-value", f"`choices` of {what} is empty", node.at, help=hint)
        return tuple(dict.fromkeys(text for text, _ in found or ()))

    def _bound(self, key: str, node: Node, what: str, kind: str) -> Fraction | None:
        if kind not in ("number", "integer"):
            message = f"{what} is a {kind}, and only numbers have `{key}`"
            self._problems.add("bad-value", message, node.at, key=True, help="take it out")
            return None
        return self._number(node, f"`{key}` of {what}", kind)

    def _number(self, node: Node, what: str, kind: str) -> Fraction | None:
        found = self._reader.number(node, what)
        if found is not None and kind == "integer" and (found.denominator != 1 or found < 0):
            self._reader.wrong(node, what, _WHOLE, "such as `0` or `42`")
        return found

    def _default(self, node: Node, what: str, kind: str, choices: Sequence[str]) -> Fraction | bool | str | None:
        label = f"`default` of {what}"
        if kind == "flag":
            return self._reader.flag(node, label)
        if kind == "word":
            return self._reader.choice(node, label, choices)
        return self._number(node, label, kind)


def _unreadable(error: OSError | UnicodeDecodeError) -> tuple[str, str]:
    """Return what is wrong with a file of methods, as the end of a sentence, and help."""
    if isinstance(error, FileNotFoundError):
        return "and there is no such file", "paths are relative to the file that names them"
    if isinstance(error, UnicodeDecodeError):
        return f"which is not UTF-8: byte {error.start} is wrong", "save it as UTF-8"
    return f"which can't be read: {error.strerror or error}", "it must be a file, and one that you may read"
