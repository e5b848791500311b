"""Everything that only some systems have, behind functions that work on all of them.

A system may share blocks between files, copy inside the kernel, reserve space, take advice on mappings; another may
only read and write at the position of a descriptor. Each function here does the best that the system can and gives
the same bytes everywhere; only time and space differ. `MERGEBUILD_PORTABLE=1` in the environment, read at each call,
hides whatever is not in every Python, so that one machine can test both ways.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mergebuild.system.filestate import Identity, boot_id, epoch, identity, identity_of, is_hidden, is_racy

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = [
    "NO_SPACE",
    "PAGE",
    "Identity",
    "advise",
    "boot_id",
    "clone_file",
    "clone_range",
    "copy_range",
    "cpu_count",
    "epoch",
    "exchange",
    "files_at_once",
    "free_space",
    "has_writer",
    "hold_still",
    "identity",
    "identity_of",
    "is_cached",
    "is_full",
    "is_hidden",
    "is_kept_from_growing",
    "is_racy",
    "is_wanted",
    "keep_freed_memory",
    "let_go",
    "link_or_none",
    "load_library",
    "lock_at",
    "memory_bytes",
    "open_direct",
    "open_to_read",
    "pread_into",
    "preallocate",
    "pwrite_all",
    "start_writeback",
    "sync",
    "sync_folder",
    "time_limit",
]

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""What systems answer when a file may not get longer: a full disk, a limit on files, a quota."""

PAGE: Final = 4096
"""What offsets and lengths of clones are multiples of (bytes)."""

_NO_FLOCK: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK})
_FICLONE: Final = 0x40049409
_FICLONERANGE: Final = 0x4020940D
_SYNC_FILE_RANGE_WRITE: Final = 2
_SYNC_FILE_RANGE_WAIT: Final = 1 | 2 | 4
"""Wait for what is on its way, write the rest, and wait for that."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 128 << 20
_KEPT_PIECE: Final = 32 << 20
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_PER_CALL: Final = 64 << 20
"""Bytes asked of one system call, so that an interrupt never waits for gigabytes."""
_PER_SYNC: Final = 16 << 20
"""Bytes waited for at once: half a second of a slow disk."""
_BUFFER: Final = 1 << 20
_LITTLE: Final = 1 << 20
_PROBE: Final = 1 << 16
_MOST_FILES: Final = 200
_OTHER_FILES: Final = 16
"""Descriptors for all else: the three streams, the database, the lock, what is looked at in passing."""

_NOT_POSSIBLE: Final = frozenset(
    getattr(errno, name)
    for name in "EINVAL ENOSYS ENOTSUP EOPNOTSUPP ENOTTY EPERM ETXTBSY EXDEV".split()
    if hasattr(errno, name)
)
"""What a kernel answers when it, or the file system, can't; anything else is a real failure."""

_COUNT_WRITERS: Final = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994, 0x794C7630}  # ext, XFS, Btrfs, F2FS, tmpfs, overlayfs
)
"""File systems that refuse a lease only for a writer; those of a network refuse it whenever they have no promise."""

_local = threading.local()
_position_locks: dict[int, threading.Lock] = {}


def _is_linux() -> bool:
    return sys.platform == "linux" and not is_hidden()


# Sharing and copying


def clone_range(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> bool:
    """Share `length` bytes of one file with another, without copying them.

    Offsets are multiples of `PAGE`, and so is `length` unless it ends where the source ends.

    Returns:
        Whether the bytes are shared; if not, nothing was written, and the caller copies.

    Raises:
        OSError: the file system failed (no space, bad descriptors), not merely unable.
    """
    if not _is_linux() or src_offset % PAGE or dst_offset % PAGE:
        return False
    if length == 0:
        return True  # the kernel takes 0 for "to the end of the source"
    if length % PAGE and src_offset + length != os.fstat(src_fd).st_size:
        return False
    return _ioctl(dst_fd, _FICLONERANGE, struct.pack("=qQQQ", src_fd, src_offset, length, dst_offset))


def clone_file(src: Path, dst: Path) -> bool:
    """Make `dst` a file that shares all blocks of `src`.

    Returns:
        Whether that was possible; if not, there is no `dst`.

    Raises:
        FileExistsError: `dst` exists.
        OSError: the file system failed, not merely unable.
    """
    if not _is_linux():
        return False
    src_fd = open_to_read(src)
    try:
        dst_fd = os.open(dst, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        cloned = False
        try:
            cloned = _ioctl(dst_fd, _FICLONE, src_fd)
        finally:
            os.close(dst_fd)
            if not cloned:
                dst.unlink()
    finally:
        os.close(src_fd)
    return cloned


def _ioctl(fd: int, request: int, argument: bytes | int) -> bool:
    """Return whether the kernel did it; raise what is a failure and no inability."""
    import fcntl

    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno in _NOT_POSSIBLE:
            return False
        raise
    return True


def copy_range(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> None:
    """Copy `length` bytes between two files (or two ranges of one that do not overlap), in the kernel where it can.

    Raises:
        OSError: the source ends early (`EIO`), or reading or writing fails.
    """
    done = 0
    if not is_hidden() and hasattr(os, "copy_file_range"):
        done = _copy_in_kernel(src_fd, src_offset, dst_fd, dst_offset, length)
    if done == length:
        return
    buffer = _buffer()
    while done < length:
        part = buffer[: min(length - done, _BUFFER)]
        count = pread_into(src_fd, part, src_offset + done)
        if count < len(part):
            missing = length - done - count
            raise OSError(errno.EIO, f"the source of a copy ends {missing} bytes early")
        pwrite_all(dst_fd, part, dst_offset + done)
        done += count


def _copy_in_kernel(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> int:
    """Return how many bytes the kernel copied; fewer than `length` means that the rest is to be copied by hand."""
    done = 0
    while done < length:
        try:
            count = os.copy_file_range(
                src_fd, dst_fd, min(length - done, _PER_CALL), src_offset + done, dst_offset + done
            )
        except OSError as error:
            if error.errno in _NOT_POSSIBLE:
                return done
            raise
        if count == 0:  # the end of the source, or one of the file systems that wrongly say so
            return done
        done += count
    return done


def _buffer() -> memoryview:
    """Return this thread's buffer for copies."""
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(_BUFFER))
    found: memoryview = _local.buffer
    return found


def link_or_none(src: Path, dst: Path) -> bool:
    """Give a file a second name.

    Returns:
        Whether that was possible; file systems, mounts and policies may refuse it.

    Raises:
        OSError: `src` is missing, `dst` exists, or the file system failed.
    """
    if is_hidden() or not hasattr(os, "link"):
        return False
    try:
        os.link(src, dst)
    except OSError as error:
        if error.errno in _NOT_POSSIBLE | {errno.EMLINK, errno.EACCES}:
            return False
        raise
    return True


def exchange(one: Path, other: Path) -> bool:
    """Have two files or folders of one file system change their names, at once: whoever looks sees one or the other.

    Returns:
        Whether the system can do that.

    Raises:
        OSError: it can, and it failed: one is a mount point, is missing, or its folder can't be written to.
    """
    if not _is_linux():
        return False
    import ctypes

    kinds = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call = _system_call("renameat2", "renameat2", kinds)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_POSSIBLE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


# Reading and writing at an offset


def open_to_read(path: Path) -> int:
    """Open a file to read bytes and return its descriptor; a pipe or a device never makes this wait.

    Raises:
        OSError: it can't be opened.
    """
    flags = ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NOINHERIT", "O_NONBLOCK")
    return os.open(path, sum((getattr(os, flag, 0) for flag in flags), start=os.O_RDONLY))


def pread_into(fd: int, view: memoryview | bytearray, offset: int) -> int:
    """Fill `view` with the bytes from `offset` on; the descriptor's position means nothing afterwards.

    Returns:
        How many bytes were read; fewer than asked for only at the end of the file.

    Raises:
        OSError: reading fails.
    """
    target = memoryview(view).cast("B")
    read = _read_vector if hasattr(os, "preadv") and not is_hidden() else _read_at_position
    done = 0
    while done < len(target):
        count = read(fd, target[done : done + _PER_CALL], offset + done)
        if count == 0:
            break
        done += count
    return done


def _read_vector(fd: int, target: memoryview, offset: int) -> int:
    return os.preadv(fd, [target], offset)


def _read_at_position(fd: int, target: memoryview, offset: int) -> int:
    with _position_lock(fd):
        os.lseek(fd, offset, os.SEEK_SET)
        found = os.read(fd, min(len(target), _BUFFER))
    target[: len(found)] = found
    return len(found)


def pwrite_all(fd: int, view: memoryview | bytes | bytearray, offset: int) -> None:
    """Write all of `view` at `offset`, from any thread; the descriptor's position means nothing afterwards.

    Raises:
        OSError: writing fails, for want of space among other things.
    """
    source = memoryview(view).cast("B")
    write = os.pwrite if hasattr(os, "pwrite") and not is_hidden() else _write_at_position
    done = 0
    while done < len(source):
        count = write(fd, source[done : done + _PER_CALL], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the system wrote nothing")
        done += count


def _write_at_position(fd: int, source: memoryview, offset: int) -> int:
    with _position_lock(fd):
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, source)


def _position_lock(fd: int) -> threading.Lock:
    """Return the lock of a descriptor's position; there are as many as descriptors were ever open at once."""
    return _position_locks.setdefault(fd, threading.Lock())


def open_direct(path: Path) -> int | None:
    """Open an existing file to write past the page cache, and return its descriptor; None where that can't be done.

    Offsets, sizes and addresses of what is written must be multiples of `PAGE`, and even then a file system may
    refuse a write (`EINVAL`): the same bytes are then written the ordinary way.

    Raises:
        OSError: the file can't be opened at all.
    """
    if not _is_linux():
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_POSSIBLE:
            return None
        raise


def is_cached(fd: int, offset: int) -> bool:
    """Whether the byte at `offset` is in the page cache; False where that can't be known, or there is no such byte."""
    if not _is_linux() or not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


# Files that others must not change


def hold_still(fd: int) -> bool:
    """Hold up whoever opens a file for writing or cuts it short, until it is let go of: a lease of the kernel's.

    They wait, for as long as `fs.lease-break-time` says at most (45 s); `is_wanted` tells that somebody does. Any
    number of processes may hold one file. To close the descriptor is not enough where it was mapped: `let_go` of it.

    Returns:
        Whether it is held: not where the system can't, the file is another user's, or somebody can write to it already.
    """
    return _lease(fd) == 0


def is_wanted(fd: int) -> bool:
    """Whether somebody waits to write to a file that is held, or waited too long and is held up no more."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK


def let_go(fd: int) -> None:
    """End what `hold_still` began."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


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
        for pause in (0.05, 0.1, 0.2, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno == errno.ENOLCK and pause is not None:  # a kernel may be short of locks for a moment
                    time.sleep(pause)
                    continue
                return error.errno not in _NO_FLOCK
            return True
    return False


def has_writer(path: Path) -> bool:
    """Whether a process has a file open for writing, or mapped so; False where the system does not tell.

    What it writes may not show in the file's times yet: they change when a call begins to write, however long it takes,
    and with the first store to a page of a mapping, not with those that follow.
    """
    if not _is_linux():
        return False
    try:
        fd = open_to_read(path)
    except OSError:
        return False  # who reads it says why
    try:
        failed = _lease(fd)
        if failed == 0:
            let_go(fd)
        return failed == errno.EAGAIN and _file_system(fd) in _COUNT_WRITERS
    finally:
        os.close(fd)


def _lease(fd: int) -> int:
    """Take a read lease; return 0 or an error number."""
    if not _is_linux():
        return errno.ENOSYS
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # nobody is disturbed by it, unlike by the usual SIGIO
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _file_system(fd: int) -> int:
    """Return the number that Linux has for the kind of file system that a file is on; 0 where that is not known."""
    import ctypes

    call = _system_call("fstatfs64", "fstatfs", (ctypes.c_int, ctypes.c_void_p))
    found = (ctypes.c_long * 32)()  # a `struct statfs`, which begins with it, and more
    return found[0] & 0xFFFFFFFF if call is not None and call(fd, found) == 0 else 0


# Space and durability


def preallocate(fd: int, size: int) -> None:
    """Give a file its final size, and where the file system can, the blocks for it, so that want of space shows now.

    Ranges that are cloned already stay shared: clone first where most of a file is cloned, and only the rest takes
    space. Never writes zeros in place of what the file system can't do.

    Raises:
        OSError: there is no space (`ENOSPC`), or the file can't have that size.
    """
    os.ftruncate(fd, size)
    if not _is_linux() or size == 0:
        return
    failed = errno.EINTR
    while failed == errno.EINTR:
        failed = _fallocate(fd, size)
    if failed and failed not in _NOT_POSSIBLE:
        raise OSError(failed, os.strerror(failed))


def _fallocate(fd: int, size: int) -> int:
    """Return 0 or an error number. `os.posix_fallocate` would write zeros itself where the file system can't."""
    import ctypes

    call = _system_call("fallocate64", "fallocate", (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong))
    if call is None:
        return errno.ENOSYS
    return 0 if call(fd, 0, 0, size) == 0 else ctypes.get_errno()


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Ask the system to begin writing a range to the disk, without waiting; nothing happens where it can't.

    Failures show in a later `sync`.
    """
    if _is_linux() and length:
        _sync_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def _sync_range(fd: int, offset: int, length: int, flags: int) -> int:
    """Return 0 or an error number."""
    import ctypes

    kinds = (ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint)
    call = _system_call("sync_file_range64", "sync_file_range", kinds)
    if call is None:
        return errno.ENOSYS
    return 0 if call(fd, offset, length, flags) == 0 else ctypes.get_errno()


def keep_freed_memory() -> None:
    """Have this process use freed memory again, where the C library has settings for that.

    Without them glibc gives what is freed back to the system when it is a few megabytes, and every page of the next
    tensor is fetched anew: of some methods that was a fifth of the time. Pieces of up to 32 MiB are kept, 128 MiB a
    thread at most; larger ones are given back at once.
    """
    if not _is_linux():
        return
    import ctypes

    call = _system_call("mallopt", "mallopt", (ctypes.c_int, ctypes.c_int))
    if call is not None:
        call(_M_MMAP_THRESHOLD, _KEPT_PIECE)
        call(_M_TRIM_THRESHOLD, _KEPT)


def load_library(path: Path) -> None:
    """Load a shared library, if it is there, ahead of who imports it; only on Linux.

    Python keeps the interpreter to itself while it loads one, this leaves it to other threads.
    """
    import ctypes

    call = _system_call("dlopen", "dlopen", (ctypes.c_char_p, ctypes.c_int)) if _is_linux() else None
    if call is not None:
        call(os.fsencode(path), os.RTLD_NOW)


@cache
def _system_call(wide: str, plain: str, kinds: tuple[type, ...]) -> Callable[..., int] | None:
    """Return a function of the C library by its name with 64-bit offsets or its plain one; None if it has neither."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    call: ctypes._NamedFuncPointer | None = getattr(library, wide, None) or getattr(library, plain, None)
    if call is None:
        return None
    call.argtypes = kinds
    call.restype = ctypes.c_int
    return call


def sync(fd: int) -> None:
    """Wait until a file's bytes and size are on the disk.

    Nothing ends a process that waits for the disk, not even a kill: so it waits for a piece at a time where it can.

    Raises:
        OSError: they are not.
    """
    if _is_linux():
        _sync_pieces(fd)
    if is_hidden():
        os.fsync(fd)
    elif sys.platform == "darwin":
        _full_sync(fd)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def _sync_pieces(fd: int) -> None:
    """Have a file's bytes on the disk, each piece on its way while the one before is waited for."""
    size = os.fstat(fd).st_size
    for offset in range(0, size, _PER_SYNC) if size > _PER_SYNC else ():
        start_writeback(fd, offset + _PER_SYNC, _PER_SYNC)
        failed = _sync_range(fd, offset, _PER_SYNC, _SYNC_FILE_RANGE_WAIT)
        if failed in _NOT_POSSIBLE:
            return
        if failed and failed != errno.EINTR:
            raise OSError(failed, os.strerror(failed))


def _full_sync(fd: int) -> None:
    """Flush the drive's cache too, which `fsync` there does not."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        os.fsync(fd)


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk; nothing happens where folders can't be synced.

    Raises:
        OSError: they are not.
    """
    if is_hidden() or not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
    finally:
        os.close(fd)


def free_space(path: Path) -> int:
    """Return the bytes that a file at `path` may take, asking its nearest existing ancestor.

    Raises:
        OSError: not even the root can be asked.
    """
    here = Path(path).absolute()
    while True:
        try:
            return _free_space_at(here)
        except OSError:
            if here == here.parent:
                raise
            here = here.parent


def is_full(path: Path) -> bool:
    """Whether a file system has no room for one more small file: hardly any bytes, or no number for it.

    Raises:
        OSError: it can't be asked.
    """
    if hasattr(os, "statvfs") and not is_hidden():
        found = os.statvfs(path)
        if found.f_files and found.f_favail < 4:
            return True
    return free_space(path) < _LITTLE


def is_kept_from_growing(path: Path) -> bool:
    """Whether want of space, a quota or a limit on files is why a file did not get longer: found out by trying.

    What is tried is a nameless file beside it, where the end of `path` and of what SQLite has beside it would be.
    """
    import tempfile

    try:
        if is_full(path.parent):
            return True
        there = [
            each for each in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))) if each.exists()
        ]
        end = max((each.stat().st_size for each in there), default=0)
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            pwrite_all(file.fileno(), bytes(_PROBE), end)
    except OSError as error:
        return error.errno in NO_SPACE
    return False


def _free_space_at(path: Path) -> int:
    if hasattr(os, "statvfs") and not is_hidden():
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize
    import shutil

    return shutil.disk_usage(path).free


# Mappings


_ADVICE: Final = {"sequential": "MADV_SEQUENTIAL", "willneed": "MADV_WILLNEED", "dontneed": "MADV_DONTNEED"}


def advise(mapping: mmap.mmap, what: Literal["sequential", "willneed", "dontneed"], offset: int, length: int) -> None:
    """Tell the system how a range of a file's mapping will be used; nothing happens where it takes no advice.

    `sequential` and `willneed` reach every page that the range touches; `dontneed` only pages that lie wholly in it
    (and the last of the file), since neighbours may be in use. Never for private mappings that were written to:
    `dontneed` would forget what was written.
    """
    constant = getattr(mmap, _ADVICE[what], None)
    if is_hidden() or constant is None or not hasattr(mapping, "madvise"):
        return
    page = mmap.PAGESIZE
    size = len(mapping)
    end = min(offset + length, size)
    if what == "dontneed":
        begin = -(-offset // page) * page
        end = end if end == size else end // page * page
    else:
        begin = offset // page * page
    if end <= begin:
        return
    try:
        mapping.madvise(constant, begin, end - begin)
    except OSError:
        return  # advice that is not taken changes no result


# The machine


def memory_bytes() -> int:
    """Return how much memory the machine has, in bytes; 0 where that is not known."""
    if is_hidden() or not hasattr(os, "sysconf"):
        return 0
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


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


def cpu_count() -> int:
    """Return how many processors this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity") and not is_hidden():
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_SHORTEST_ALARM: Final = 0.001
"""Seconds; an alarm that is set to none never rings."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what happens inside after so many seconds: a regular expression may take longer than the sun shines.

    Seconds of processor time, and of this thread's own. Nothing is used up while the process is suspended, or waits for
    a processor that others have, so what is in time does not depend on what else the machine does; nor on what the
    process does beside it, such as an import in the background. A system has alarms for the time of all threads
    together only. That one rings at the latest when this thread's own time is over; if it rings before, because others
    worked, it is set again for what is left. (It is `ITIMER_VIRTUAL`, which leaves out the system's work for the
    process: what is limited asks for none, and `ITIMER_PROF` is left to profilers.)

    Only the main thread of a system with alarms can be interrupted, and none whose program has set its own alarm;
    elsewhere there is no limit.

    Raises:
        TimeoutError: the time is over.
    """
    alarm = getattr(signal, "SIGVTALRM", None)
    if is_hidden() or alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if any(signal.getitimer(signal.ITIMER_VIRTUAL)):
        yield
        return
    end = time.thread_time() + seconds
    is_inside = True

    def ring(_number: int, _frame: object) -> None:
        left = end - time.thread_time()
        if is_inside and left <= 0:
            raise TimeoutError
        if is_inside:
            signal.setitimer(signal.ITIMER_VIRTUAL, max(left, _SHORTEST_ALARM))

    before = signal.signal(alarm, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, max(seconds, _SHORTEST_ALARM))
    try:
        yield
    finally:
        is_inside = False  # it may have rung already, and only be heard now
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(alarm, before)
