"""A full disk: the errors for it, and whether it is why a file could not grow."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Final

from mergebuild.system import platform

__all__ = ["NO_SPACE", "is_kept_from_growing"]

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Errors for a file that can't grow: a full disk, a limit on file sizes, a quota."""

_PROBE: Final = 1 << 16
"""Bytes that are written to find out."""


def is_kept_from_growing(path: Path) -> bool:
    """Whether a full disk, a quota or a limit on file sizes keeps a file from growing: found out by trying.

    A nameless file beside it is written to, at the offset where `path` ends, or the longest of SQLite's files beside
    it.
    """
    try:
        if platform.is_full(path.parent):
            return True
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            platform.pwrite_all(file.fileno(), bytes(_PROBE), _end(path))
    except OSError as error:
        return error.errno in NO_SPACE
    return False


def _end(path: Path) -> int:
    """Return the size of the largest of a file and SQLite's files beside it."""
    files = (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm")))
    return max((each.stat().st_size for each in files if each.exists()), default=0)
