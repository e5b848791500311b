"""Waits until a source has *settled*: no process writes to it, and any later change will show in its stat data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mergebuild.errors import SourceError
from mergebuild.formats.model import Model
from mergebuild.recipe.model import Source
from mergebuild.sources.opening import KeepsNames, read_model
from mergebuild.sources.source_file import decisive
from mergebuild.system import filestate, platform
from mergebuild.system.filestate import Identity, Moment, grain_of, is_racy

__all__ = ["settled"]

_PATIENCE = 10.0
"""Seconds that a source may go on changing before this is an error."""


def settled(
    source: Source, path: Path, shown: str, within: Sequence[Path], keeps_names: KeepsNames
) -> tuple[Model, Mapping[Path, Identity]]:
    """Return the header of a source and the stat data of its files, once any later change will show in these.

    Args:
        source: What the recipe says of it.
        path: Its path.
        shown: Its path for messages.
        within: The folders that links of its small files may lead to.
        keeps_names: Whether its tensors keep their stored names.

    Raises:
        SourceError: it goes on changing, or is no model.
        OSError: it can't be read.
    """
    began = time.monotonic()
    while True:
        seen = _look(path, shown, within, keeps_names)
        if not seen.has_writer and not seen.is_racy:
            if isinstance(seen.found, SourceError):
                raise seen.found
            return seen.found, seen.states
        if time.monotonic() - began > _PATIENCE:
            raise _being_written(source, shown, has_writer=seen.has_writer)
        time.sleep(max(map(grain_of, seen.states.values())) / 1e9)


def _being_written(source: Source, shown: str, *, has_writer: bool) -> SourceError:
    what = "a process has it open for writing" if has_writer else f"it changed for {_PATIENCE:.0f} seconds"
    return SourceError.one(
        "source-changed",
        f"source `{source.name}` is being written: {what}",
        where=source.where.place(),
        rows=(shown,),
        help="let whatever writes it finish, then build again",
    )


class _SourceLook(NamedTuple):
    """The result of one look at a source, and whether it may be a mixture of two contents."""

    found: Model | SourceError
    """Its header, or what is wrong with it: perhaps only because it is half written."""
    states: Mapping[Path, Identity]
    """The stat data of its files, as far as these are known."""
    has_writer: bool
    is_racy: bool


def _look(path: Path, shown: str, within: Sequence[Path], keeps_names: KeepsNames) -> _SourceLook:
    """Read the header of a source, and after that the stat data of its files.

    Raises:
        OSError: it can't be read.
    """
    since, there = Moment.now(), filestate.identity(path)
    has_writer = platform.has_writer(path)
    found: Model | SourceError
    try:
        found = read_model(path, shown=shown, within=within, keeps_names=keeps_names)
    except SourceError as error:
        found, states = error, {path: there}
    else:
        states = {each: filestate.identity(each) for each in decisive(found)}
        has_writer = has_writer or (found.home is not None and any(map(platform.has_writer, states)))
    is_same, until = filestate.identity(path) == there, Moment.now()
    racy = not is_same or any(is_racy(each, since, until) for each in states.values())
    return _SourceLook(found, states, has_writer, racy)
