"""Want of space: how systems say it, and whether it is why a file did not get longer."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Final

from mergebuild.system import platform

__all__ = ["NO_SPACE", "is_kept_from_growing"]

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""What systems answer when a file may not get longer: a full disk, a limit on files, a quota."""

_PROBE: Final = 1 << 16
"""Bytes written to find out."""


def is_kept_from_growing(path: Path) -> bool:
    """Whether want of space, a quota or a limit on files is why a file did not get longer: found out by trying.

    What is tried is a nameless file beside it, where the end of `path` and of what SQLite has beside it would be.
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
    """Return the size of a file, or of what SQLite has beside it, whichever is largest."""
    files = (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm")))
    return max((each.stat().st_size for each in files if each.exists()), default=0)
