"""Finding and loading the mergefile, and reading amounts and variables that the command line gives."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mergebuild.cli.options import Settings
from mergebuild.errors import Place, RecipeError, UsageError
from mergebuild.report.answers import Shown

if TYPE_CHECKING:
    from mergebuild.project import Project
    from mergebuild.recipe import Recipe

__all__ = [
    "MERGEFILE",
    "duration",
    "find_mergefile",
    "from_here",
    "mergefile_of",
    "open_project",
    "open_recipe",
    "read_variables",
    "shown_from_here",
    "size",
    "targets_from_here",
]

MERGEFILE = "mergefile.toml"

Amount = TypeVar("Amount", int, float)


def find_mergefile(settings: Settings) -> Path | None:
    """Return the mergefile: the one given, else the nearest here or above; None when there is none."""
    if settings.mergefile is not None:
        return settings.mergefile
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / MERGEFILE).is_file():
            return Path(os.path.relpath(folder / MERGEFILE, here))
    return None


def mergefile_of(settings: Settings) -> Path:
    """Return the mergefile.

    Raises:
        RecipeError: there is none.
    """
    found = find_mergefile(settings)
    if found is None:
        raise RecipeError.one(
            "no-mergefile",
            f"there is no `{MERGEFILE}` here, nor in a folder above",
            help="`mergebuild init` writes one; `-f FILE` and `-C DIR` name another",
        )
    if not found.is_file():
        kind = "is a folder" if found.is_dir() else "does not exist"
        raise RecipeError.one(
            "no-mergefile",
            f"the mergefile `{found}` {kind}",
            where=Place(str(found)),
            help="name a file with `-f`; `mergebuild init` writes one",
        )
    return found


def open_project(settings: Settings) -> Project:
    """Load the mergefile that the settings name, with what `--set` and `--vars` say."""
    from mergebuild.project import load

    return load(mergefile_of(settings), overrides=settings.overrides, variables=settings.variables)


def open_recipe(settings: Settings) -> Recipe:
    """Load the text alone: no sources, no store."""
    from mergebuild.recipe import load_recipe

    return load_recipe(mergefile_of(settings), overrides=settings.overrides, variables=settings.variables)


def shown_from_here(settings: Settings) -> Shown:
    """Return a function from an output's path, relative to the project, to one relative to the current folder."""
    root = mergefile_of(settings).parent

    def shown(path: str) -> str:
        if root == Path() or Path(path).is_absolute() or path.startswith("~"):
            return path
        joined = os.path.normpath(root / path) if root.is_absolute() else os.path.relpath(root / path)
        return f"{joined}{os.sep}" if path.endswith("/") else joined

    return shown


def from_here(path: Path) -> Path:
    """Return a path below the current folder relative to it, and any other as it is."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def targets_from_here(settings: Settings, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Return targets, with those that are paths of files turned from the current folder's to the project's."""
    root = mergefile_of(settings).parent
    if root == Path():
        return targets
    return tuple(os.path.relpath(each, root) if _is_path(each) else each for each in targets)


def _is_path(target: str) -> bool:
    return target.endswith((".safetensors", ".ckpt", "/")) and not Path(target).is_absolute()


def read_variables(file: str) -> Mapping[str, object]:
    """Return the variables of a TOML or JSON file (`-`: standard input), numbers as decimals.

    Raises:
        UsageError: it cannot be read, or is neither.
    """
    import tomllib
    from decimal import Decimal

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError.one("vars-unreadable", f"cannot read variables from `{file}`: {reason}") from error
    try:
        # no TOML document begins with a brace, and every JSON object does
        if text.lstrip().startswith("{"):
            found = json.loads(text, parse_float=Decimal)
        else:
            found = tomllib.loads(text, parse_float=Decimal)
    except ValueError as error:
        message = f"`--vars {file}` is neither TOML nor a JSON object: {error}"
        raise UsageError.one("vars-invalid", message, help='write `m = 0.4` a line, or `{"m": 0.4}`') from error
    assert isinstance(found, dict)
    return found


def _amount(parse: Callable[[str], Amount], option: str, text: str) -> Amount:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError.one("wrong-amount", f"`{option}`: {error}") from error


def size(option: str, text: str) -> int:
    """Return the bytes of an option's value such as `20GB`.

    Raises:
        UsageError: it is no size.
    """
    from mergebuild.recipe.sizes import parse_size

    return _amount(parse_size, option, text)


def duration(option: str, text: str) -> float:
    """Return the seconds of an option's value such as `30d`; a bare number is seconds.

    Raises:
        UsageError: it is no time.
    """
    from mergebuild.recipe.sizes import parse_duration

    bare = text.replace(".", "", 1).isdecimal() and text.isascii()
    return _amount(parse_duration, option, f"{text}s" if bare else text)
