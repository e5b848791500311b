"""What Python can do on every system: the base of `_posix`, and everything that is used with `MERGEBUILD_PORTABLE`.

`platform` documents the methods.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import mmap

__all__ = ["BUFFER", "NOT_POSSIBLE", "PAGE", "PER_CALL", "Portable", "open_to_read"]

PAGE: Final = 4096
"""Offsets and lengths of clones and of direct writes are multiples of it (bytes)."""

PER_CALL: Final = 64 << 20
"""The most bytes of one system call, so that an interrupt never waits for gigabytes."""

BUFFER: Final = 1 << 20
"""Bytes of the buffer for copies."""

NOT_POSSIBLE: Final = frozenset(
    getattr(errno, name)
    for name in "EINVAL ENOSYS ENOTSUP EOPNOTSUPP ENOTTY EPERM ETXTBSY EXDEV".split()
    if hasattr(errno, name)
)
"""Errors of a kernel or a file system that can't do something; all others are real failures."""

_LITTLE: Final = 1 << 20
"""A file system with fewer free bytes counts as full."""

_FLAGS: Final = ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NOINHERIT", "O_NONBLOCK")

_local = threading.local()
_position_locks: dict[int, threading.Lock] = {}


def open_to_read(path: Path) -> int:
    """Open a file to read bytes and return its descriptor; if it is a pipe or a device, this does not wait.

    Raises:
        OSError: it can't be opened.
    """
    return os.open(path, sum((getattr(os, flag, 0) for flag in _FLAGS), start=os.O_RDONLY))


class Portable:
    """A system that can only read and write at the position of a descriptor."""

    # Sharing and copying

    def clone_range(self, src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> bool:
        return False

    def clone_file(self, src: Path, dst: Path) -> bool:
        return False

    def copy_range(self, src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> None:
        """Copy through this thread's buffer."""
        done = 0
        while done < length:
            part = _buffer()[: min(length - done, BUFFER)]
            count = self.pread_into(src_fd, part, src_offset + done)
            if count < len(part):
                missing = length - done - count
                raise OSError(errno.EIO, f"the source of a copy ends {missing} bytes early")
            self.pwrite_all(dst_fd, part, dst_offset + done)
            done += count

    def link_or_none(self, src: Path, dst: Path) -> bool:
        return False

    def exchange(self, one: Path, other: Path) -> bool:
        return False

    # Reading and writing at an offset

    def pread_into(self, fd: int, view: memoryview | bytearray, offset: int) -> int:
        target = memoryview(view).cast("B")
        done = 0
        while done < len(target):
            count = self._read(fd, target[done : done + PER_CALL], offset + done)
            if count == 0:
                break
            done += count
        return done

    def _read(self, fd: int, target: memoryview, offset: int) -> int:
        """Read once; return how many bytes, 0 at the end of the file."""
        with _position_lock(fd):
            os.lseek(fd, offset, os.SEEK_SET)
            found = os.read(fd, min(len(target), BUFFER))
        target[: len(found)] = found
        return len(found)

    def pwrite_all(self, fd: int, view: memoryview | bytes | bytearray, offset: int) -> None:
        source = memoryview(view).cast("B")
        done = 0
        while done < len(source):
            count = self.pwrite(fd, source[done : done + PER_CALL], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "the system wrote nothing")
            done += count

    def pwrite(self, fd: int, source: memoryview, offset: int) -> int:
        with _position_lock(fd):
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, source)

    def open_direct(self, path: Path) -> int | None:
        return None

    def is_cached(self, fd: int, offset: int) -> bool:
        return False

    def advise(self, mapping: mmap.mmap, what: str, offset: int, length: int) -> None:
        return

    # Files that others must not change

    def hold_still(self, fd: int) -> bool:
        return False

    def is_wanted(self, fd: int) -> bool:
        return False

    def let_go(self, fd: int) -> None:
        return

    def has_writer(self, path: Path) -> bool:
        return False

    # Space and durability

    def preallocate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        return

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_folder(self, path: Path) -> None:
        return

    def free_space(self, path: Path) -> int:
        here = Path(path).absolute()
        while True:
            try:
                return self._free_space_at(here)
            except OSError:
                if here == here.parent:
                    raise
                here = here.parent

    def _free_space_at(self, path: Path) -> int:
        import shutil

        return shutil.disk_usage(path).free

    def is_full(self, path: Path) -> bool:
        return self.free_space(path) < _LITTLE

    # The machine

    def memory_bytes(self) -> int:
        return 0

    def cpu_count(self) -> int:
        return os.cpu_count() or 1

    def keep_freed_memory(self) -> None:
        return

    def load_library(self, path: Path) -> None:
        return


def _buffer() -> memoryview:
    """Return this thread's buffer for copies."""
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(BUFFER))
    found: memoryview = _local.buffer
    return found


def _position_lock(fd: int) -> threading.Lock:
    """Return the lock for a descriptor's position; there is one for each descriptor that was ever open."""
    return _position_locks.setdefault(fd, threading.Lock())
