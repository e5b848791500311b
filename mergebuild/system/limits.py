"""Limits of the system for this process: open files, memory."""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["address_space", "files_at_once", "memory_limit"]

_MOST_FILES: Final = 200
_OTHER_FILES: Final = 16
"""Descriptors for everything else: the three streams, the database, the lock, files that are opened briefly."""


def files_at_once() -> int:
    """Return how many files a pass may write at once, and how many it may keep open to read; 1 to 200.

    Each needs two descriptors: a mapping has one of its own, and so has writing past the page cache. First, the
    process's own limit is raised as far as the system allows.
    """
    try:
        import resource
    except ImportError:  # such systems allow thousands
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
    """Return how many bytes of address space or of data this process may have; None if there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    limits = [resource.getrlimit(each)[0] for each in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((each for each in limits if each != resource.RLIM_INFINITY), default=None)


def address_space() -> int:
    """Return how many bytes of address space this process uses; 0 if unknown."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE
    except OSError:
        return 0
