"""What POSIX systems can do: hard links, reading and writing at an offset, syncing of folders, advice on mappings.

If a system lacks one of these, as far as Python shows, `_portable` does it. `platform` documents the methods.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergebuild.system._portable import NOT_POSSIBLE, PER_CALL, Portable

if TYPE_CHECKING:
    import mmap

__all__ = ["Posix"]

_NO_LINK: Final = NOT_POSSIBLE | {errno.EMLINK, errno.EACCES}
_ADVICE: Final = {"sequential": "MADV_SEQUENTIAL", "willneed": "MADV_WILLNEED", "dontneed": "MADV_DONTNEED"}
_FEW_NUMBERS: Final = 4
"""A file system with fewer free inodes counts as full."""


class Posix(Portable):
    """Any POSIX system; `_linux` can do more."""

    def copy_range(self, src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> None:
        """Copy in the kernel as far as it can, and the rest through a buffer."""
        done = 0
        if hasattr(os, "copy_file_range"):
            done = _copy_in_kernel(src_fd, src_offset, dst_fd, dst_offset, length)
        super().copy_range(src_fd, src_offset + done, dst_fd, dst_offset + done, length - done)

    def link_or_none(self, src: Path, dst: Path) -> bool:
        if not hasattr(os, "link"):
            return False
        try:
            os.link(src, dst)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        return True

    def _read(self, fd: int, target: memoryview, offset: int) -> int:
        return os.preadv(fd, [target], offset) if hasattr(os, "preadv") else super()._read(fd, target, offset)

    def pwrite(self, fd: int, source: memoryview, offset: int) -> int:
        return os.pwrite(fd, source, offset) if hasattr(os, "pwrite") else super().pwrite(fd, source, offset)

    def advise(self, mapping: mmap.mmap, what: str, offset: int, length: int) -> None:
        import mmap

        constant = getattr(mmap, _ADVICE[what], None)
        if constant is None or not hasattr(mapping, "madvise"):
            return
        begin, end = _pages(offset, min(offset + length, len(mapping)), len(mapping), is_inner=what == "dontneed")
        if end <= begin:
            return
        try:
            mapping.madvise(constant, begin, end - begin)
        except OSError:
            return  # advice that is not taken changes no result

    def sync(self, fd: int) -> None:
        if sys.platform == "darwin":
            _full_sync(fd)
        elif hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        else:
            super().sync(fd)

    def sync_folder(self, path: Path) -> None:
        if not hasattr(os, "O_DIRECTORY"):
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in NOT_POSSIBLE:
                raise
        finally:
            os.close(fd)

    def _free_space_at(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def is_full(self, path: Path) -> bool:
        found = os.statvfs(path)
        return bool(found.f_files and found.f_favail < _FEW_NUMBERS) or super().is_full(path)

    def memory_bytes(self) -> int:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return 0

    def cpu_count(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else super().cpu_count()


def _copy_in_kernel(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> int:
    """Return how many bytes the kernel copied; if fewer than `length`, the rest must be copied through a buffer."""
    done = 0
    while done < length:
        size = min(length - done, PER_CALL)
        try:
            count = os.copy_file_range(src_fd, dst_fd, size, src_offset + done, dst_offset + done)
        except OSError as error:
            if error.errno in NOT_POSSIBLE:
                return done
            raise
        if count == 0:  # the end of the source, or a file system that wrongly reports it
            return done
        done += count
    return done


def _pages(begin: int, end: int, size: int, *, is_inner: bool) -> tuple[int, int]:
    """Return a range of a mapping of `size` bytes in whole pages: those it touches, or those inside (`is_inner`)."""
    import mmap

    page = mmap.PAGESIZE
    if not is_inner:
        return begin // page * page, end
    return -(-begin // page) * page, end if end == size else end // page * page


def _full_sync(fd: int) -> None:
    """Flush the drive's cache too, which `fsync` on macOS does not."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        os.fsync(fd)
