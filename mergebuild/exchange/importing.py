"""Recipes of other tools as the text of one mergefile: reads each, finds its models, writes, and loads what it wrote.

What is written must load: it is read as any mergefile before anybody sees it, and a mistake there is a bug of ours.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import tomli

from mergebuild.errors import InternalError, MergeBuildError, RecipeError, together
from mergebuild.exchange.draft import Draft, Said, Unmapped
from mergebuild.exchange.found_models import settle
from mergebuild.exchange.kinds import files_at, reader_of
from mergebuild.exchange.models import ModelFolders
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of
from mergebuild.recipe.loading import recipe_of

__all__ = ["Imported", "import_recipes"]


@dataclass(frozen=True, slots=True)
class Imported:
    """A mergefile made of recipes: its text, what it does not say, and what people should know."""

    text: str
    unmapped: tuple[Unmapped, ...]
    notices: tuple[Said, ...]


def import_recipes(
    paths: Sequence[Path], root: Path, *, models: Sequence[Path] = (), hash_all: bool = False
) -> Imported:
    """Return recipes as one mergefile.

    Args:
        paths: Recipe files, and folders of such.
        root: The folder of the mergefile, which its paths are relative to.
        models: Folders in which models are looked for, besides those of `MERGEBUILD_MODELS`.
        hash_all: Whether to hash all files in these folders for a source that only a hash names.

    Raises:
        UsageError: a path is missing, or is no recipe.
        RecipeError: the only recipe breaks a rule of its kind; of several it is left out, and told.
        SourceError: a model file has a broken header.
    """
    files = [file for path in paths for file in files_at(path)]
    folders = ModelFolders(root, [file.path.parent for file in files], models, hash_all=hash_all)
    draft = _read(files, Draft(find=folders.find))
    if not draft.targets and not draft.sources and not draft.notices:
        lost = draft.unmapped[:20] or [Unmapped(", ".join(file.path.name for file in files[:5]), "it has no merge")]
        raise together([RecipeError.one("bad-recipe", f"{one.where}: {one.message}") for one in lost])
    folders.look_up(draft)
    settle(draft, root)
    _move_outputs_from_sources(draft, [os.path.relpath(file.path, root) for file in files])
    text = text_of(draft)
    _check(text, root, files)
    return Imported(text, tuple(draft.unmapped), tuple(draft.notices))


def _read(files: Sequence[RecipeFile], draft: Draft) -> Draft:
    """Return a draft with all recipes added; where some name default targets, outputs of the others are of them too."""
    others: list[str] = []
    for file in files:
        grown = _with(draft, file, is_alone=len(files) == 1)
        if grown.default == draft.default:
            added = (name for name in grown.targets if name not in draft.targets)
            others += [name for name in added if "output" in grown.targets[name].keys]
        draft = grown
    if draft.default:
        draft.default += others
    return draft


def _with(draft: Draft, file: RecipeFile, *, is_alone: bool) -> Draft:
    """Return a draft with a recipe added; one that can't be read leaves it as it was, and is told of."""
    reader = reader_of(file)
    assert reader is not None, "files that no reader recognizes are not read"
    grown = _copied(draft)
    grown.beside = file.path.parent
    try:
        reader.read(file, grown)
    except RecipeError as error:
        if is_alone:
            raise
        where = file.path.as_posix()
        draft.leave_out(where, str(error).removeprefix(f"`{where}`: "))
        return draft
    return grown


def _copied(draft: Draft) -> Draft:
    """Return a draft that may grow without the other; sources and targets that are there already are shared."""
    grown = copy(draft)
    grown.sources, grown.targets = dict(draft.sources), dict(draft.targets)
    grown.default, grown.comments = list(draft.default), list(draft.comments)
    grown.unmapped, grown.notices = list(draft.unmapped), list(draft.notices)
    grown.once_found, grown.once_counted = list(draft.once_found), list(draft.once_counted)
    return grown


def _move_outputs_from_sources(draft: Draft, recipes: Sequence[str]) -> None:
    """Put outputs that are a source, lie in one, or are a recipe's own file, into the folder `out`."""
    taken = [_normal(path) for path in (*(source.path for source in draft.sources.values()), *recipes)]
    for target in draft.targets.values():
        output = target.keys.get("output")
        if isinstance(output, str) and _is_at_or_near(_normal(output), taken):
            target.keys["output"] = draft.free_output(f"out/{output}")


def _is_at_or_near(output: str, taken: Iterable[str]) -> bool:
    return any(output == path or output.startswith(f"{path}/") or path.startswith(f"{output}/") for path in taken)


def _normal(path: str) -> str:
    return posixpath.normpath(path).lower()


def _check(text: str, root: Path, files: Sequence[RecipeFile]) -> None:
    """Load what is to be written.

    Raises:
        RecipeError: it is more than a mergefile may have.
        InternalError: it is no valid mergefile, a bug of a reader.
    """
    try:
        recipe_of(tomli.loads(text, parse_float=Decimal), Path(os.path.abspath(root)))  # noqa: PTH100
    except (MergeBuildError, tomli.TOMLDecodeError) as error:
        if isinstance(error, MergeBuildError) and all(each.code == "too-much-text" for each in error.problems):
            message = f"what it says is more than a mergefile may have: {error.problems[0].message}"
            raise RecipeError.one("bad-recipe", message, help="no merge that people make is as long") from error
        kinds = sorted({str(getattr(reader_of(file), "__name__", "")).rpartition(".")[2] for file in files})
        message = f"what the reader of {', '.join(kinds)} made is no valid mergefile: {error}"
        raise InternalError.one("bad-import", message, help="please report it, with the recipe") from error
