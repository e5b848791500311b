"""Whether torch fits into the memory that a process may have, tried by another process with the same limit.

If address space is short, torch's import may fail in any way: the C library ends the process because it has no memory
for thread-local data, OpenBLAS exits, a constructor throws where nothing catches it, and Python's own imports fail
midway with any error. So if there is a limit that may matter, a process with the same limit imports torch first, with
as much memory in use as this process has. Without a limit nothing is tried.
"""

from __future__ import annotations

import json
import sys
import threading

from mergebuild.system import limits

__all__ = ["fits", "memory_limit"]

_PLENTY = 16 << 30
"""Bytes of a limit that torch stays far below, whatever it was built for."""

_RESERVE = 96 << 20
"""Bytes that a pass needs at least besides torch: stacks of threads and buffers."""

_PATIENCE = 300
"""Seconds for an import, on a busy machine with a slow disk."""

_TRIAL = """
import json, mmap, os, sys
size, path = json.loads(sys.argv[1])
sys.path[:] = path
from mergebuild.system.limits import address_space
beside = mmap.mmap(-1, max(size - address_space(), 0) + int(sys.argv[2]))
import mergebuild.engine.compute
os.write(1, b"fits")
os._exit(0)
"""

_lock = threading.Lock()
_found: dict[int, bool] = {}
"""By limit: whether torch fits."""


def memory_limit() -> int | None:
    """Return how many bytes of address space or of data this process may have; None if that does not limit torch."""
    limit = limits.memory_limit()
    return limit if limit is not None and limit < _PLENTY else None


def fits() -> bool:
    """Whether torch can be imported here; tried once. If that can't be found out, True."""
    limit = memory_limit()
    if limit is None or not sys.executable or "torch" in sys.modules:
        return True
    with _lock:
        if limit not in _found:
            _found[limit] = _tried()
        return _found[limit]


def _tried() -> bool:
    import subprocess  # here: needed only if there is a limit

    given = json.dumps([limits.address_space(), sys.path])
    try:  # isolated (`-I`): nothing is imported from the current folder, which may be untrusted
        done = subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL, given, str(_RESERVE)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return done.stdout == b"fits"
