"""Where files are while they are written, and what removes them if anything goes wrong.

A file is written beside its place; the files of a folder in a *stage*, where they wait for each other. All of them are
noted (`system/scratch.py`), so that they are removed even if the process must end at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mergebuild.errors import NoSpaceError
from mergebuild.plan.actions import FileAction
from mergebuild.plan.judgement import Judgement
from mergebuild.store import Shelf, Stage
from mergebuild.system import scratch
from mergebuild.system.publishing import temporary_path

__all__ = ["NO_SPACE", "Temporaries", "room"]

NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Errors of a system whose disk is full."""


class Temporaries:
    """The temporary files of one build."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.stack = ExitStack()
        """Removes them at the end, also after an error."""
        self._stage_of: dict[Judgement, tuple[Stage, ExitStack]] = {}
        """For a folder: its stage, and what removes that if the process ends early."""

    def of(self, action: FileAction) -> Path:
        """Return where a file is written first; for a file of a folder, in a stage.

        Raises:
            OSError: it can't be written there.
        """
        path = action.place(self._shelf)
        return self.stage(action.judgement)[0].place(path) if action.is_part else temporary_path(path)

    def stage(self, judgement: Judgement) -> tuple[Stage, ExitStack]:
        """Return the stage of a folder, and the context in which that is noted."""
        known = self._stage_of.get(judgement)
        if known is None:
            path = judgement.description.goal.path
            assert path is not None  # the store keeps no folders
            known = self._stage_of[judgement] = self._new_stage(path)
        return known

    def _new_stage(self, folder: Path) -> tuple[Stage, ExitStack]:
        """Make a stage that is noted, and removed at the end."""
        stage = Stage(folder)
        try:
            noted = self.stack.enter_context(ExitStack())
            noted.enter_context(scratch.noted([stage.path]))
            self.stack.callback(stage.remove)
        except BaseException:  # an interrupt may come here
            stage.remove()
            raise
        return stage, noted

    def by_themselves(self, actions: Iterable[FileAction]) -> list[Path]:
        """Return the temporary files that must be removed if something fails; a stage removes itself."""
        return [temporary_path(action.place(self._shelf)) for action in actions if not action.is_part]

    def can_write(self, action: FileAction) -> bool:
        """Whether a file can be written beside its place."""
        try:
            folder = self.of(action).parent
            folder.mkdir(parents=True, exist_ok=True)
            return os.access(folder, os.W_OK)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            return False


@contextmanager
def room(*temporary: Path) -> Iterator[None]:
    """Remove temporary files if anything goes wrong in this block.

    Raises:
        NoSpaceError: in place of the error of a full disk.
    """
    with scratch.noted(temporary):
        try:
            yield
        except BaseException as error:
            _remove(temporary)
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise _no_space(error) from error
            raise


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # the next build finds it by its name
            path.unlink(missing_ok=True)


def _no_space(error: OSError) -> NoSpaceError:
    return NoSpaceError.one(
        "no-space",
        f"no space: {error.strerror}",
        help="free some space (`mergebuild gc`), then build again: what was published stays",
    )
