"""Locks between processes.

The package `filelock` has the system's own of each system. What it does not know is whether a file system keeps them.
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
"""Seconds before asking a kernel again that may be short of locks for a moment."""


def lock_at(path: Path) -> BaseFileLock:
    """Return a lock between processes that is called by this path: the kernel's, gone with its process.

    Some file systems have none (network and FUSE mounts without a lock service). There it is a file beside `path` that
    is there while the lock is held and names its process; who was killed is found out from that, on one machine.

    Raises:
        OSError: the folder cannot be written to.
    """
    import filelock  # what only looks takes no lock

    return filelock.FileLock(path) if _has_flock(path.parent) else filelock.SoftFileLock(f"{path}.held")


def _has_flock(folder: Path) -> bool:
    """Whether the kernel locks files in a folder. Asked of a file without a name, which nobody else can have locked."""
    try:
        import fcntl
    except ImportError:  # the lock is another one
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
