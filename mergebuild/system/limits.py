"""What the system lets this process have: open files, memory."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["address_space", "files_at_once", "memory_limit"]

_MOST_FILES: Final = 200
_OTHER_FILES: Final = 16
"""Descriptors for all else: the three streams, the database, the lock, what is looked at in passing."""


def files_at_once() -> int:
    """Return how many files a pass may write at once, and how many it may hold open to read; at least 1, at most 200.

    Each takes two descriptors: a mapping has one of its own, and so has what is written past the page cache. The
    process is allowed as many first as it may allow itself.
    """
    try:
        import resource
    except ImportError:  # thousands are allowed
        return _MOST_FILES
    wanted = _OTHER_FILES + 4 * _MOST_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= allowed < wanted:
        more = min(wanted, most) if most >= 0 else wanted
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, most))
            allowed = more
    return max(1, min(_MOST_FILES, (allowed - _OTHER_FILES) // 4)) if allowed >= 0 else _MOST_FILES


def memory_limit() -> int | None:
    """Return how many bytes of address space or of data this process may have; None where there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    limits = [resource.getrlimit(each)[0] for each in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((each for each in limits if each != resource.RLIM_INFINITY), default=None)


def address_space() -> int:
    """Return how many bytes of address space this process has taken; 0 where that is not known."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE
    except OSError:
        return 0
