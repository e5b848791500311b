"""The files of a recipe: the mergefile and what it includes, each read once.

Includes are relative to the file that names them and may nest. A cycle is an error, and so are more levels or files
than anybody writes by hand. Settings from the command line are added later, as edits of the raw tables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mergebuild.errors import Place, Problem, RecipeError, did_you_mean
from mergebuild.recipe.given import GivenDocument, given_tables
from mergebuild.recipe.later import LATER_TABLES
from mergebuild.recipe.nodes import Reader, among, resolve
from mergebuild.recipe.paths import absolute
from mergebuild.recipe.places import At, Document
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.toml_text import count_values, read_toml
from mergebuild.system.bounded_text import read_text

__all__ = ["File", "given_files", "read_files"]

_DEEPEST = 8
_MOST_FILES = 256
_MOST_VALUES = 400_000
"""In all files together: a script that writes 50,000 targets makes as many keys and tables."""
_TABLES = ("project", "defaults", "vars", "sources", "targets", "layouts", "methods")
_INCLUDED_TABLES = ("project", "vars", "sources", "targets", "layouts", "methods")
_FOREIGN = frozenset("merge_method base_model models dtype parameters method formula output alpha".split())


@dataclass(frozen=True, slots=True)
class File:
    """One file: its text and its raw tables."""

    document: Document
    raw: dict[str, object]

    def table(self, name: str, problems: Problems) -> dict[str, object]:
        """Return a top-level table, empty if it is missing; if it is something else, report that."""
        found = self.raw.get(name, {})
        if isinstance(found, dict):
            return found
        if isinstance(found, list) and found and all(isinstance(item, dict) for item in found):
            help_ = f"write `[{name}.NAME]` with single brackets"
        else:
            help_ = f"it is written `[{name}]`"
        problems.add("wrong-type", f"`{name}` is no table", At(self.document, (name,)), key=True, help=help_)
        return {}


def read_files(path: Path, problems: Problems) -> list[File]:
    """Return the mergefile and everything that it includes, the mergefile first.

    Raises:
        RecipeError: a file is missing, can't be read, or is no TOML. Nothing else is checked then, since names that the
            file declares would seem unknown.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 -- links stay: the path that the user gave is shown
    text = _text_of_mergefile(path)
    files = _FileReading(path.parent, problems)
    files.add(Document(path, path.name, text), ())
    if not files.complete:
        problems.fail()
    return files.found


def _text_of_mergefile(path: Path) -> str:
    """Return the text of the mergefile; raise `RecipeError` if it is missing or can't be read."""
    try:
        return read_text(path)
    except FileNotFoundError:
        hint = "`mergebuild init` writes one; `-f FILE` or `-C DIR` name another"
        raise RecipeError.one("no-mergefile", f"no mergefile at `{path}`", where=Place(path.name), help=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([_unreadable(path.name, error)]) from None


def given_files(contents: Mapping[str, object], root: Path, problems: Problems) -> list[File]:
    """Return a mergefile that a program gives as values, and everything that it includes; `root`: its folder.

    Raises:
        RecipeError: as `read_files`; or a value is of a type that TOML does not have.
    """
    document = GivenDocument(Path(os.path.abspath(root)))  # noqa: PTH100 -- as there
    files = _FileReading(document.path.parent, problems)
    raw = given_tables(contents, document, problems)
    if problems:
        problems.fail()
    files.add_tables(document, raw, ())
    if not files.complete:
        problems.fail()
    return files.found


def _unreadable(name: str, error: OSError | UnicodeDecodeError) -> Problem:
    if isinstance(error, UnicodeDecodeError):
        return Problem(
            "not-utf8", f"`{name}` is not UTF-8: byte {error.start} is wrong", Place(name), "save it as UTF-8"
        )
    message = f"`{name}` can't be read: {error.strerror or error}"
    return Problem("unreadable-mergefile", message, Place(name), "it must be a file, and one that you may read")


class _FileReading:
    def __init__(self, root: Path, problems: Problems) -> None:
        self.found: list[File] = []
        self.complete = True
        self._root = root
        self._problems = problems
        self._seen: set[str] = set()
        self._values = 0

    def add(self, document: Document, above: Sequence[Document]) -> None:
        """Read a file and what it includes; `above` are the files by which it was included, the mergefile first."""
        self._problems.expect(document.name)
        self._seen.add(os.path.realpath(document.path))
        self._values += count_values(document.text)
        if self._values > _MOST_VALUES:
            self._problems.add("too-much-text", f"`{document.name}` goes beyond {_MOST_VALUES:,} values",
                               document.place(()), help="write fewer; families make targets of one table")  # fmt: skip
            self._problems.fail()
        raw = read_toml(document, self._problems)
        if raw is None:
            self.complete = False
            return
        self.add_tables(document, raw, above)

    def add_tables(self, document: Document, raw: dict[str, object], above: Sequence[Document]) -> None:
        """Add the tables of a file, and read what it includes."""
        self.found.append(File(document, raw))
        self._check_tables(document, raw, included=bool(above))
        project = raw.get("project")
        if isinstance(project, dict) and "include" in project:
            self._include_all(project["include"], At(document, ("project", "include")), (*above, document))

    def _include_all(self, raw: object, at: At, stack: tuple[Document, ...]) -> None:
        node = resolve(raw, at, {}, self._problems)
        named = Reader(self._problems).texts(node, "`include`", 'such as `include = ["more.toml"]`') or []
        if len(named) > _MOST_FILES:
            self._too_many(f"{_MOST_FILES} files", at)
            return
        for text, where in named:
            self._include(text, where, stack)

    def _too_many(self, limit: str, at: At) -> None:
        self._problems.add("too-many-includes", f"includes go beyond {limit}", at,
                           help="put some of the files together")  # fmt: skip
        self.complete = False

    def _include(self, text: str, at: At, stack: tuple[Document, ...]) -> None:
        if not text or min(text) < " ":
            self._no_path(text, at)
            return
        path = Path(absolute(text, at.document.folder))
        name = self._name(path)
        real = os.path.realpath(path)
        names = [document.name for document in stack if os.path.realpath(document.path) == real]
        if names:
            self._circle(names, at, stack)
        elif len(stack) > _DEEPEST or len(self._seen) >= _MOST_FILES:
            self._too_many(f"{_DEEPEST} deep" if len(stack) > _DEEPEST else f"{_MOST_FILES} files", at)
        elif real not in self._seen:
            self._read(path, name, at, stack)

    def _no_path(self, text: str, at: At) -> None:
        shown = text.encode("unicode_escape").decode()
        message = f"`include` has `{shown}`, which is no path"
        self._problems.add("bad-path", message, at, help="write paths with `/`, or in single quotes")
        self.complete = False

    def _circle(self, names: list[str], at: At, stack: tuple[Document, ...]) -> None:
        """Report files that include each other; `names`: of the file in `stack` that is included again."""
        start = [document.name for document in stack].index(names[0])
        circle = " -> ".join([document.name for document in stack[start:]] + names)
        self._problems.add("include-cycle", f"files include each other: {circle}", at,
                           help="take one `include` out; all files know each other's names")  # fmt: skip

    def _read(self, path: Path, name: str, at: At, stack: tuple[Document, ...]) -> None:
        try:
            document = Document(path, name, read_text(path), is_shown=self._is_own(path))
        except FileNotFoundError:
            self._problems.add("no-such-include", f"included file `{name}` is missing", at,
                               help="paths are relative to the file that includes")  # fmt: skip
        except (OSError, UnicodeDecodeError) as error:
            problem = _unreadable(name, error)
            self._problems.add(problem.code, problem.message, at, help=problem.help)
        else:
            self.add(document, stack)
            return
        self.complete = False

    def _is_own(self, path: Path) -> bool:
        """Whether a file is one of the project's.

        The text of other files is not shown: an untrusted project may include any.
        """
        real = Path(os.path.realpath(path))
        return real.suffix == ".toml" and real.is_relative_to(os.path.realpath(self._root))

    def _name(self, path: Path) -> str:
        try:
            return Path(os.path.relpath(path, self._root)).as_posix()
        except ValueError:  # another drive
            return path.as_posix()

    def _check_tables(self, document: Document, raw: dict[str, object], *, included: bool) -> None:
        for name, value in raw.items():
            at = At(document, (name,))
            if name in LATER_TABLES:
                hint = f"take it out; {LATER_TABLES[name]}"
                self._problems.add("not-in-this-version", f"`{name}` is not in this version", at, key=True, help=hint)
            elif name not in _TABLES:
                self._unknown(name, value, at)
            elif included and name not in _INCLUDED_TABLES:
                message = f"`[{name}]` in the included file `{document.name}`"
                hint = "an included file has `[sources]`, `[targets]`, `[vars]`, `[layouts]`, `[methods]`"
                self._problems.add("not-in-an-include", message, at, key=True, help=hint)
        project = raw.get("project")
        if included and isinstance(project, dict):
            self._check_included_project(document, project)

    def _check_included_project(self, document: Document, project: dict[str, object]) -> None:
        for key in project:
            if key != "include":
                message = f"`{key}` of `[project]` in the included file `{document.name}`"
                hint = "only `include` stands there; the rest belongs in the mergefile"
                at = At(document, ("project", key))
                self._problems.add("not-in-an-include", message, at, key=True, help=hint)

    def _unknown(self, name: str, value: object, at: At) -> None:
        if name == "include":
            hint = "write it in `[project]`"
        elif name in _FOREIGN:
            hint = "it belongs in a target: `[targets.NAME]`"
        else:
            hint = did_you_mean(name, _TABLES, otherwise=f"allowed: {among(_TABLES)}")
        if isinstance(value, dict):
            self._problems.add("unknown-table", f"unknown table `{name}`", at, key=True, help=hint)
        else:
            self._problems.add("unknown-key", f"unknown key `{name}`", at, key=True, help=hint)
