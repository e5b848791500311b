"""Whether torch fits into the memory that a process may have, found out by another process that may have no more.

Where address space is short, nothing of torch's import can be relied on: the C library ends the process for want of
thread-local data, OpenBLAS exits, a constructor throws with nobody there to catch, and Python's own imports fail in the
middle with whatever error they come to. So where there is a limit that may matter, a process with the same limit
imports torch first, beside as much as this one has already. Without a limit nothing is tried.
"""

from __future__ import annotations

import json
import sys
import threading

from mergebuild.system import limits

__all__ = ["fits", "memory_limit"]

_PLENTY = 16 << 30
"""Bytes of a limit that torch does not come near, whatever it was built for."""

_RESERVE = 96 << 20
"""Bytes that a pass takes at least, beside torch: stacks of threads and buffers."""

_PATIENCE = 300
"""Seconds for an import, on a machine with a slow disk and much to do."""

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
    """Return how many bytes of address space or of data this process may have; None where that is no limit to torch."""
    limit = limits.memory_limit()
    return limit if limit is not None and limit < _PLENTY else None


def fits() -> bool:
    """Whether torch can be imported here; tried once. Where that can't be found out, it can."""
    limit = memory_limit()
    if limit is None or not sys.executable or "torch" in sys.modules:
        return True
    with _lock:
        if limit not in _found:
            _found[limit] = _tried()
        return _found[limit]


def _tried() -> bool:
    import subprocess  # only where there is a limit

    given = json.dumps([limits.address_space(), sys.path])
    try:  # isolated: nothing that a stranger put into the current folder is imported
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
