"""Finds the file of a source: at the path as written, or in the folders of `MERGEBUILD_MODELS`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mergebuild.errors import SourceError
from mergebuild.recipe.model import Source
from mergebuild.system.filestate import is_gone
from mergebuild.system.missing import brought_back_by, near

__all__ = ["folders_of_models", "locate", "shown_in"]


def locate(source: Source, root: Path) -> Path:
    """Return the path of a source; `root` is the folder that paths in messages are relative to.

    Raises:
        SourceError: it is in none of the folders.
    """
    written = Path(source.path)
    candidates = [source.folder / written]
    if not written.is_absolute():
        candidates += [folder / written for folder in folders_of_models()]
    for candidate in candidates:
        if not is_gone(candidate):
            return candidate
    raise _missing(source, root, candidates)


def _missing(source: Source, root: Path, candidates: Sequence[Path]) -> SourceError:
    mend = f"get it from {source.url}" if source.url else "check the path, or add its folder to MERGEBUILD_MODELS"
    rows = [f"looked for {shown_in(candidate, root)}" for candidate in candidates]
    beside = next((found for candidate in candidates if (found := near(candidate))), None)
    command = next((word for candidate in candidates if (word := brought_back_by(candidate))), None)
    if beside is not None:
        rows.append(f"there is   {shown_in(beside.path, root)}: {beside.why}")
        mend = beside.help
    elif command is not None:
        mend = f"another program keeps it: {command} brings it back"
    message = f"source `{source.name}` is missing: no file `{source.path}`"
    return SourceError.one("source-missing", message, where=source.where.place(), rows=rows, help=mend)


def folders_of_models() -> list[Path]:
    """Return the folders of `MERGEBUILD_MODELS`."""
    folders = os.environ.get("MERGEBUILD_MODELS", "").split(os.pathsep)
    return [Path(folder).expanduser() for folder in folders if folder]


def shown_in(path: Path, folder: Path) -> str:
    """Return a path for messages: relative to a folder, if it is in it."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.as_posix()
