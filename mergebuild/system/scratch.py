"""Files and folders that are not whole: what must be taken away if the process has to end at once.

Whoever writes one takes it away itself when it fails. But a thread may be in one call for a minute, and whoever waits
for it can't: then who ends the process removes what is noted here first. What other threads still write goes to open
descriptors, and so to files that have no name any more. From then on nothing new can be noted: who wants to write
another file waits for the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["noted", "remove_all"]

_lock = threading.Lock()
_paths: set[str] = set()


@contextmanager
def noted(paths: Iterable[str | os.PathLike[str]]) -> Iterator[None]:
    """Have files and folders removed if the process ends in this block; they need not be there yet, nor any more."""
    names = {os.fspath(path) for path in paths}
    with _lock:
        _paths.update(names)
    try:
        yield
    finally:
        with _lock:
            _paths.difference_update(names)


def remove_all() -> None:
    """Remove all that is noted, right before the end of the process: nothing can be noted after this."""
    _lock.acquire()  # and it is never given back
    for path in _paths:
        if os.path.isdir(path):  # noqa: PTH112 -- pathlib may not be there yet
            import shutil  # which whoever made a folder has imported

            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
