"""Which kinds of recipes there are, and what is in a path that `import` is given.

A kind is told by the content, never by the name: the first row of the table whose reader recognizes a file reads it.
Of a model file only the header is read, of a picture only its text chunks, and of a text no more than a bound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

from mergebuild.errors import Place, SourceError, UsageError
from mergebuild.exchange import png
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.recipe_file import MOST_BYTES, RecipeFile
from mergebuild.formats.header import read_header
from mergebuild.formats.registry import READ_SUFFIXES

__all__ = ["KINDS", "RecipeReader", "files_at", "opened", "reader_of"]

KINDS: Final[tuple[str, ...]] = (
    "model_metadata",
    "mecha",
    "comfyui",
    "model_mixer_picture",
    "supermerger_history",
    "supermerger_loras",
    "block_weighted_history",
    "block_weight_presets",
    "merge_board_history",
    "bayesian_merger",
    "auto_mbw",
    "mergekit",
    "shell_commands",
    "merge_board",
    "block_weights",
)
"""Modules of `exchange/readers`, in the order in which they are asked; what a file itself carries comes first."""

_RECIPE_OF_A_FOLDER: Final = "mergekit_config.yml"
"""mergekit writes it beside every result: the recipe of the folder, whatever else is there."""
_MOST_FILES: Final = 10_000
"""Files of a folder that are looked at."""
_ZIP: Final = b"PK\x03\x04"


class RecipeReader(Protocol):
    """A module of `exchange/readers`."""

    def recognizes(self, file: RecipeFile) -> bool:
        """Whether a file is a recipe of this kind, by its content. Never raises."""

    def read(self, file: RecipeFile, draft: Draft) -> None:
        """Add what the recipe says to a draft.

        Raises:
            RecipeError: it breaks a rule of its own kind, so that it says nothing.
        """


def reader_of(file: RecipeFile) -> RecipeReader | None:
    """Return the reader of a file's kind; None: it is no recipe."""
    for name in KINDS:
        reader = cast(RecipeReader, import_module(f"mergebuild.exchange.readers.{name}"))
        if reader.recognizes(file):
            return reader
    return None


def files_at(path: Path) -> Iterator[RecipeFile]:
    """Yield the recipe file at a path; of a folder its `mergekit_config.yml`, else all its files that are recipes.

    Raises:
        UsageError: there is nothing, it can't be read, or nothing there is a recipe.
        SourceError: a model file whose header is broken.
    """
    if path.is_dir():
        yield from _in_folder(path)
        return
    file = opened(path)
    if reader_of(file) is None:
        carries = path.suffix.lower() in (".safetensors", ".png")
        raise _no_recipe(path, "it carries none" if carries else "it is of no kind of recipe that is known")
    yield file


def _in_folder(folder: Path) -> Iterator[RecipeFile]:
    own = folder / _RECIPE_OF_A_FOLDER
    if own.is_file():
        yield from files_at(own)
        return
    found = 0
    for path in sorted(each for each in folder.iterdir() if each.is_file())[:_MOST_FILES]:
        try:
            file = opened(path)
        except (UsageError, SourceError):
            continue
        if reader_of(file) is not None:
            found += 1
            yield file
    if not found:
        raise _no_recipe(folder, f"none of its files is a recipe, and there is no `{_RECIPE_OF_A_FOLDER}`")


def opened(path: Path) -> RecipeFile:
    """Return a file as readers get it.

    Raises:
        UsageError: it is missing, can't be read, or is too long.
        SourceError: a model file whose header is broken.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
            if head.startswith(png.SIGNATURE):
                stream.seek(0)
                return RecipeFile(path, b"", png.texts(stream))
            if _is_model(path, head):
                return RecipeFile(path, b"", _bounded(path, dict(read_header(path, shown=path.as_posix()).metadata)))
            if os.fstat(stream.fileno()).st_size > MOST_BYTES:
                raise _too_long(path)
            data = head + stream.read(MOST_BYTES + 1 - len(head))
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        message = f"`{path.as_posix()}` can't be read: {reason}"
        raise UsageError.one("unreadable-recipe", message, help="check the path") from error
    if len(data) > MOST_BYTES:
        raise _too_long(path)
    return RecipeFile(path, data)


def _is_model(path: Path, head: bytes) -> bool:
    """Whether it is a safetensors file, which has texts in its header.

    Raises:
        UsageError: it is a model of another kind, which has none.
    """
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:  # a text of ours would be a larger number
        return True
    if head.startswith(_ZIP) or path.suffix.lower() in set(READ_SUFFIXES) - {".safetensors"}:
        raise _no_recipe(path, "a checkpoint carries no recipe")
    return False


def _bounded(path: Path, texts: dict[str, str]) -> dict[str, str]:
    if sum(map(len, texts.values())) > MOST_BYTES:
        raise _too_long(path)
    return texts


def _too_long(path: Path) -> UsageError:
    message = f"`{path.as_posix()}` holds more than {MOST_BYTES:,} bytes of text"
    return UsageError.one("unreadable-recipe", message, help="no recipe is so long")


def _no_recipe(path: Path, why: str) -> UsageError:
    shown = path.as_posix()
    hint = "`mergebuild import --help` names the kinds; a list of block weights is no recipe, but a number: `mbw = […]`"
    return UsageError.one("no-recipe", f"`{shown}` is no recipe: {why}", where=Place(shown), help=hint)
