"""Finds and loads the mergefile, and reads amounts and variables given on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from mergebuild.cli.settings import Settings
from mergebuild.errors import Place, RecipeError, UsageError
from mergebuild.system.filestate import is_file
from mergebuild.system.spans import span

if TYPE_CHECKING:
    from pathlib import Path

    from mergebuild.methods.method import Method
    from mergebuild.project.project import Project
    from mergebuild.recipe import Recipe
    from mergebuild.recipe.families import Family
    from mergebuild.report.builds import Shown

__all__ = [
    "MERGEFILE",
    "duration",
    "find_mergefile",
    "from_here",
    "open_methods",
    "open_names",
    "open_project",
    "open_recipe",
    "path_of_mergefile",
    "read_variables",
    "shown_from_here",
    "size",
    "targets_from_here",
    "timeout",
]

MERGEFILE = "mergefile.toml"

Amount = TypeVar("Amount", int, float)


def find_mergefile(settings: Settings) -> str | None:
    """Return the path of the mergefile: the one given, else the nearest in this folder or above; None if none is found.

    Raises:
        RecipeError: A folder can't be read, so it may have one; a mergefile further up would be another project's.
    """
    if settings.mergefile is not None:
        return settings.mergefile
    here = folder = os.getcwd()
    while not _is_file(os.path.join(folder, MERGEFILE), may_be_closed=folder != here):
        if folder == os.path.dirname(folder):
            return None
        folder = os.path.dirname(folder)
    return os.path.relpath(os.path.join(folder, MERGEFILE), here)


def _is_file(path: str, *, may_be_closed: bool = False) -> bool:
    """Return whether a path is a file. With `may_be_closed`, one that we have no permission to look at is not."""
    try:
        return is_file(path)
    except OSError as error:
        if may_be_closed and isinstance(error, PermissionError):
            return False
        raise RecipeError.one(
            "unreadable-mergefile",
            f"`{path}` can't be read: {error.strerror or error}",
            where=Place(path),
            help="check the disk and its permissions, or name another with `-f`",
        ) from None


def path_of_mergefile(settings: Settings) -> str:
    """Return the path of the mergefile.

    Raises:
        RecipeError: There is none.
    """
    found = find_mergefile(settings)
    if found is None:
        message = f"there is no `{MERGEFILE}` here, nor in a folder above"
        mend = "`mergebuild init` writes one; `-f FILE` and `-C DIR` name another"
        raise RecipeError.one("no-mergefile", message, help=mend)
    if not _is_file(found):
        raise _no_file(found)
    return found


def _no_file(mergefile: str) -> RecipeError:
    kind = "is a folder" if os.path.isdir(mergefile) else "does not exist"
    mend = "name a file with `-f`; `mergebuild init` writes one"
    return RecipeError.one("no-mergefile", f"the mergefile `{mergefile}` {kind}", where=Place(mergefile), help=mend)


def open_project(settings: Settings) -> Project:
    """Load the project of the mergefile that the settings name, with the values of `--set` and `--vars`."""
    from pathlib import Path

    with span("import"):
        from mergebuild.project.project import load

    return load(Path(path_of_mergefile(settings)), overrides=settings.overrides, variables=settings.variables)


def open_recipe(settings: Settings) -> Recipe:
    """Load the recipe alone, from text: sources and the store are not opened."""
    from pathlib import Path

    from mergebuild.recipe import load_recipe

    return load_recipe(Path(path_of_mergefile(settings)), overrides=settings.overrides, variables=settings.variables)


def open_names(settings: Settings) -> tuple[tuple[str, ...], Mapping[str, Family | None]]:
    """Load only names: those of sources, and those of targets with the family that each one is (None: no family)."""
    from pathlib import Path

    from mergebuild.recipe import load_names

    return load_names(Path(path_of_mergefile(settings)), overrides=settings.overrides, variables=settings.variables)


def open_methods(settings: Settings) -> Mapping[str, Method]:
    """Load only the methods that the mergefile declares, by name."""
    from pathlib import Path

    from mergebuild.recipe import load_methods

    return load_methods(Path(path_of_mergefile(settings)))


def shown_from_here(settings: Settings) -> Shown:
    """Return a function from an output's path, relative to the project, to one relative to the current folder."""
    root = os.path.dirname(path_of_mergefile(settings))

    def shown(path: str) -> str:
        if not root or os.path.isabs(path) or path.startswith("~"):
            return path
        joined = os.path.join(root, path)
        joined = os.path.normpath(joined) if os.path.isabs(root) else os.path.relpath(joined)
        return f"{joined}{os.sep}" if path.endswith("/") else joined

    return shown


def from_here(path: Path) -> Path:
    """Return a path below the current folder relative to it, and any other as it is."""
    from pathlib import Path

    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def targets_from_here(settings: Settings, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Return targets; those given as paths, relative to the current folder, become relative to the project's folder."""
    root = os.path.dirname(path_of_mergefile(settings))
    if not root:
        return targets
    return tuple(os.path.relpath(each, root) if _is_path(each) else each for each in targets)


def _is_path(target: str) -> bool:
    from mergebuild.formats import registry

    return target.endswith((*registry.SUFFIXES, "/")) and not os.path.isabs(target)


def read_variables(file: str) -> Mapping[str, object]:
    """Return the variables of a TOML or JSON file or pipe (`-`: standard input); numbers are exact, as in mergefiles.

    Raises:
        UsageError: It can't be read, or is neither TOML nor a JSON object.
    """
    from mergebuild.system.bounded_text import what_is_wrong

    text = _text_of_variables(file)
    try:
        return _parsed(text)
    except RecursionError:
        raise _invalid(f"`--vars {file}` nests too deep") from None
    except ValueError as error:
        raise _invalid(f"`--vars {file}` is neither TOML nor a JSON object: {what_is_wrong(error)}") from error


def _invalid(message: str) -> UsageError:
    return UsageError.one("vars-invalid", message, help='write `m = 0.4` a line, or `{"m": 0.4}`')


def _text_of_variables(file: str) -> str:
    from pathlib import Path

    from mergebuild.system.bounded_text import MAX_VARIABLES, read_stream, read_text_or_pipe

    if file == "-" and sys.stdin is None:
        raise UsageError.one("vars-unreadable", "cannot read variables from `-`: standard input is closed")
    try:
        if file == "-":
            return read_stream(sys.stdin.buffer, most=MAX_VARIABLES)
        return read_text_or_pipe(Path(file), most=MAX_VARIABLES)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: str, error: OSError | UnicodeDecodeError) -> UsageError:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"
    message = f"cannot read variables from `{file}`: {reason[:1].lower()}{reason[1:]}"
    mend = "" if file == "-" else "`--vars -` reads what a command writes"
    return UsageError.one("vars-unreadable", message, help=mend)


def _parsed(text: str) -> dict[str, object]:
    """Return the table or object of a TOML or JSON text; raise ValueError for any other text."""
    import json
    import tomllib

    from mergebuild.recipe.toml_text import excess, toml_number

    # JSON objects begin with a brace, TOML documents never
    if text.lstrip().startswith("{"):
        found: dict[str, object] = json.loads(text, parse_float=toml_number)
        return found
    if too_much := excess(text):
        message = f"it has {too_much}"
        raise ValueError(message)
    return tomllib.loads(text, parse_float=toml_number)


def _amount(parse: Callable[[str], Amount], option: str, text: str) -> Amount:
    from mergebuild.recipe.sizes import AmountError

    try:
        return parse(text)
    except AmountError as error:
        raise UsageError.one("wrong-amount", f"`{option}`: {error}", help=error.hint) from error


def size(option: str, text: str) -> int:
    """Return the bytes of an option's value such as `20GB`.

    Raises:
        UsageError: It is not a size.
    """
    from mergebuild.recipe.sizes import parse_size

    return _amount(parse_size, option, text)


def duration(option: str, text: str) -> float:
    """Return the seconds of an option's value such as `30d`.

    Raises:
        UsageError: It is not a time.
    """
    from mergebuild.recipe.sizes import parse_duration

    return _amount(parse_duration, option, text)


def timeout(option: str, text: str) -> float:
    """Return the seconds of an option's value such as `5m`; a number without a unit is seconds.

    Raises:
        UsageError: It is not a time.
    """
    bare = text.replace(".", "", 1).isdecimal() and text.isascii()
    return duration(option, f"{text}s" if bare else text)
