"""Unfinished files and folders, to be removed if the process must end at once.

Code that writes one removes it when it fails. But a thread may be in one call for a minute, which can't be waited for.
Then the code that ends the process first removes everything noted here. Other threads go on writing to open descriptors
of files that have no name any more. From then on nothing can be noted: a thread that begins another file waits until
the process ends.
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
    """Have files and folders removed if the process ends inside this block; they need not exist all the time."""
    names = {os.fspath(path) for path in paths}
    with _lock:
        _paths.update(names)
    try:
        yield
    finally:
        with _lock:
            _paths.difference_update(names)


def remove_all() -> None:
    """Remove everything that is noted, right before the process ends: after this, noting waits forever."""
    _lock.acquire()  # never released
    for path in _paths:
        if os.path.isdir(path):  # noqa: PTH112 -- pathlib may not be imported yet
            import shutil  # imported already by the code that made the folder

            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
