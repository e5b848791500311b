"""Locks between processes.

The package `filelock` uses each system's own locks. It does not know whether a file system supports them.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["lock_at"]

_NO_FLOCK: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK})
_PAUSES: Final = (0.05, 0.1, 0.2, None)
"""Seconds before asking a kernel again, which may lack resources for a lock for a moment."""


def lock_at(path: Path) -> BaseFileLock:
    """Return a lock between processes with this path: the kernel's, which ends with its process.

    Some file systems have none (network and FUSE mounts without a lock service). There it is a file beside `path` that
    exists while the lock is held and names its process. On one machine, this shows that the process was killed.

    Raises:
        OSError: the folder cannot be written to.
    """
    import filelock  # here: commands that only read take no lock

    return filelock.FileLock(path) if _has_flock(path.parent) else filelock.SoftFileLock(f"{path}.held")


def _has_flock(folder: Path) -> bool:
    """Whether the kernel locks files in a folder: tried with a file without a name, which no other process can lock."""
    try:
        import fcntl
    except ImportError:  # such systems have another kind of lock
        return True
    import tempfile

    with tempfile.TemporaryFile(dir=folder) as file:
        for pause in _PAUSES:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno == errno.ENOLCK and pause is not None:
                    time.sleep(pause)
                    continue
                return error.errno not in _NO_FLOCK
            return True
    return False
