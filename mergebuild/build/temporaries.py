"""Where files lie while they are written, and what takes them away when anything goes wrong.

A file is written beside its place; the files of a folder in a *stage*, where they wait for each other. All of it is
noted (`system/scratch.py`), so that it goes even if the process has to end at once.
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
"""What a system answers when a disk takes no more."""


class Temporaries:
    """The temporary places of one build."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.stack = ExitStack()
        """What is taken away at the end, also when that is an error."""
        self._stage_of: dict[Judgement, tuple[Stage, ExitStack]] = {}
        """Where the files of a folder wait for each other; and what has it removed if the process ends before."""

    def of(self, action: FileAction) -> Path:
        """Return where a file is written first: the files of a folder in a stage of their own.

        Raises:
            OSError: there can be none.
        """
        path = action.place(self._shelf)
        return self.stage(action.judgement)[0].place(path) if action.is_part else temporary_path(path)

    def stage(self, judgement: Judgement) -> tuple[Stage, ExitStack]:
        """Return the stage of a folder, and what keeps it noted."""
        known = self._stage_of.get(judgement)
        if known is None:
            path = judgement.description.goal.path
            assert path is not None  # what the store keeps is a file
            stage, noted = Stage(path), self.stack.enter_context(ExitStack())
            noted.enter_context(scratch.noted([stage.path]))
            self.stack.callback(stage.remove)
            known = self._stage_of[judgement] = (stage, noted)
        return known

    def by_themselves(self, actions: Iterable[FileAction]) -> list[Path]:
        """Return what must be removed when something fails; a stage is removed by itself, while it is one."""
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
    """Have temporary files removed when anything goes wrong in this block.

    Raises:
        NoSpaceError: in place of what a full disk raises.
    """
    with scratch.noted(temporary):
        try:
            yield
        except BaseException as error:
            for path in temporary:
                with suppress(OSError):  # of one that can't be removed, the next build is told by its name
                    path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise NoSpaceError.one(
                    "no-space",
                    f"no space: {error.strerror}",
                    help="free some space (`mergebuild gc`), then build again: what was published stays",
                ) from error
            raise
