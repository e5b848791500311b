"""What only Linux can do: blocks shared by files, leases, writes past the page cache, syncing of ranges.

Functions that Python lacks are looked up in the C library; if one is missing there, the system can't do it. `platform`
documents the methods.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from mergebuild.system._portable import NOT_POSSIBLE, PAGE, open_to_read
from mergebuild.system._posix import Posix

__all__ = ["Linux"]

_FICLONE: Final = 0x40049409
_FICLONERANGE: Final = 0x4020940D
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_SYNC_FILE_RANGE_WRITE: Final = 2
_SYNC_FILE_RANGE_WAIT: Final = 1 | 2 | 4
"""Wait for writes that have begun, write the rest, and wait for that."""
_PER_SYNC: Final = 16 << 20
"""Bytes to wait for at a time: half a second of a slow disk."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 128 << 20
_KEPT_PIECE: Final = 32 << 20

_COUNT_WRITERS: Final = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994, 0x794C7630}  # ext, XFS, Btrfs, F2FS, tmpfs, overlayfs
)
"""File systems that refuse a lease only because of a writer; network file systems also refuse it for other reasons."""


class Linux(Posix):
    """Linux, with any file system."""

    # Sharing

    def clone_range(self, src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> bool:
        if src_offset % PAGE or dst_offset % PAGE:
            return False
        if length == 0:
            return True  # the kernel takes 0 for "to the end of the source"
        if length % PAGE and src_offset + length != os.fstat(src_fd).st_size:
            return False
        return _ioctl(dst_fd, _FICLONERANGE, struct.pack("=qQQQ", src_fd, src_offset, length, dst_offset))

    def clone_file(self, src: Path, dst: Path) -> bool:
        src_fd = open_to_read(src)
        try:
            return _clone_whole(src_fd, dst)
        finally:
            os.close(src_fd)

    def exchange(self, one: Path, other: Path) -> bool:
        number = _renamed_at_once(one, other)
        if number in NOT_POSSIBLE:
            return False
        if number:
            raise OSError(number, os.strerror(number), str(one), None, str(other))
        return True

    # Past the page cache, and in it

    def open_direct(self, path: Path) -> int | None:
        try:
            return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in NOT_POSSIBLE:
                return None
            raise

    def is_cached(self, fd: int, offset: int) -> bool:
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        try:
            return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except OSError:
            return False

    # Files that others must not change

    def hold_still(self, fd: int) -> bool:
        return _lease(fd) == 0

    def is_wanted(self, fd: int) -> bool:
        import fcntl

        return fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK

    def let_go(self, fd: int) -> None:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def has_writer(self, path: Path) -> bool:
        try:
            fd = open_to_read(path)
        except OSError:
            return False  # reading it will raise the same error
        try:
            failed = _lease(fd)
            if failed == 0:
                self.let_go(fd)
            return failed == errno.EAGAIN and _file_system(fd) in _COUNT_WRITERS
        finally:
            os.close(fd)

    # Space and durability

    def preallocate(self, fd: int, size: int) -> None:
        super().preallocate(fd, size)
        failed = errno.EINTR if size else 0
        while failed == errno.EINTR:
            failed = _fallocate(fd, size)
        if failed and failed not in NOT_POSSIBLE:
            raise OSError(failed, os.strerror(failed))

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        if length:
            _sync_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)

    def sync(self, fd: int) -> None:
        """Wait for a piece at a time, while the next one is being written; then for the whole file."""
        size = os.fstat(fd).st_size
        for offset in range(0, size, _PER_SYNC) if size > _PER_SYNC else ():
            self.start_writeback(fd, offset + _PER_SYNC, _PER_SYNC)
            failed = _sync_range(fd, offset, _PER_SYNC, _SYNC_FILE_RANGE_WAIT)
            if failed in NOT_POSSIBLE:
                break
            if failed and failed != errno.EINTR:
                raise OSError(failed, os.strerror(failed))
        super().sync(fd)

    # The machine

    def keep_freed_memory(self) -> None:
        import ctypes

        call = _system_call("mallopt", "mallopt", (ctypes.c_int, ctypes.c_int))
        if call is not None:
            call(_M_MMAP_THRESHOLD, _KEPT_PIECE)
            call(_M_TRIM_THRESHOLD, _KEPT)

    def load_library(self, path: Path) -> None:
        import ctypes

        call = _system_call("dlopen", "dlopen", (ctypes.c_char_p, ctypes.c_int))
        if call is not None:
            call(os.fsencode(path), os.RTLD_NOW)


def _clone_whole(src_fd: int, dst: Path) -> bool:
    """Make a new file that shares all blocks of an open one; return whether that was possible."""
    dst_fd = os.open(dst, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    cloned = False
    try:
        cloned = _ioctl(dst_fd, _FICLONE, src_fd)
    finally:
        os.close(dst_fd)
        if not cloned:
            dst.unlink()
    return cloned


def _ioctl(fd: int, request: int, argument: bytes | int) -> bool:
    """Return whether the kernel did it; False if it can't.

    Raises:
        OSError: it can, and it failed.
    """
    import fcntl

    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno in NOT_POSSIBLE:
            return False
        raise
    return True


def _lease(fd: int) -> int:
    """Take a read lease; return 0 or an error number."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default, unlike the usual SIGIO
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _renamed_at_once(one: Path, other: Path) -> int:
    """Exchange two names; return 0 or an error number."""
    import ctypes

    kinds = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call = _system_call("renameat2", "renameat2", kinds)
    if call is None:
        return errno.ENOSYS
    done = call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return 0 if done == 0 else ctypes.get_errno()


def _file_system(fd: int) -> int:
    """Return Linux' number for the kind of a file's file system; 0 if unknown."""
    import ctypes

    call = _system_call("fstatfs64", "fstatfs", (ctypes.c_int, ctypes.c_void_p))
    found = (ctypes.c_long * 32)()  # larger than `struct statfs`, which begins with the number
    return found[0] & 0xFFFFFFFF if call is not None and call(fd, found) == 0 else 0


def _fallocate(fd: int, size: int) -> int:
    """Allocate blocks; return 0 or an error number.

    (`os.posix_fallocate` would write zeros if the file system can't.)
    """
    import ctypes

    call = _system_call("fallocate64", "fallocate", (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong))
    if call is None:
        return errno.ENOSYS
    return 0 if call(fd, 0, 0, size) == 0 else ctypes.get_errno()


def _sync_range(fd: int, offset: int, length: int, flags: int) -> int:
    """Sync a range of a file; return 0 or an error number."""
    import ctypes

    kinds = (ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint)
    call = _system_call("sync_file_range64", "sync_file_range", kinds)
    if call is None:
        return errno.ENOSYS
    return 0 if call(fd, offset, length, flags) == 0 else ctypes.get_errno()


@cache
def _system_call(wide: str, plain: str, kinds: tuple[type, ...]) -> Callable[..., int] | None:
    """Return a function of the C library, by its name with 64-bit offsets or its plain one; None if it has neither."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    call: ctypes._NamedFuncPointer | None = getattr(library, wide, None) or getattr(library, plain, None)
    if call is None:
        return None
    call.argtypes = kinds
    call.restype = ctypes.c_int
    return call
