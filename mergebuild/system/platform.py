"""What is asked of the operating system, and how systems differ: the module to read before porting to another system.

There are three implementations, each based on the one before: `_portable` (whatever Python can do everywhere), `_posix`
and `_linux`. All write the same bytes; only time and disk space differ. `MERGEBUILD_PORTABLE=1` in the environment,
which is read at each call, hides all but the first, so that one machine can test both.

A function raises `OSError` if something fails. If a system or a file system only can't do it, that is an answer (False,
None, 0) or has no effect, as each function says.

Some differences have no function here, as Python has the same name for all systems:

- *Renaming to an existing file's path* replaces it at once on POSIX, and processes that have the old file open or
  mapped keep it. Other systems may refuse this while a process has the file open: then the output stays what it was,
  and its target fails.
- *Unlinking an open file* removes its name on POSIX; its bytes exist until it is closed. Other systems may refuse this.
  So files are closed first; at the end of a process (`scratch`), a file that can't be unlinked is left to the next
  build (`publishing.remove_left_over`).
- *Renaming a folder with open files in it* is like renaming a file.
- *Truncating a mapped file* kills a process that reads it there, on POSIX (`SIGBUS`); therefore there is `hold_still`.
- *A mapping* stays valid after its descriptor is closed, on all systems.
- *The ctime* (`st_ctime`) is the time of creation on Windows, so only size and mtime show changes there: `filestate`.
- *Locks between processes* end with their process, on all file systems that have them: `locks`.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

from mergebuild.system._portable import PAGE, Portable, open_to_read
from mergebuild.system.filestate import is_hidden

if TYPE_CHECKING:
    import mmap
    from pathlib import Path

__all__ = [
    "PAGE",
    "advise",
    "clone_file",
    "clone_range",
    "copy_range",
    "cpu_count",
    "exchange",
    "free_space",
    "has_writer",
    "hold_still",
    "is_cached",
    "is_full",
    "is_wanted",
    "keep_freed_memory",
    "let_go",
    "link_or_none",
    "load_library",
    "memory_bytes",
    "open_direct",
    "open_to_read",
    "pread_into",
    "preallocate",
    "pwrite",
    "pwrite_all",
    "start_writeback",
    "sync",
    "sync_folder",
]

_PORTABLE: Final = Portable()


def _here() -> Portable:
    """Return what this system can do, or only the portable part if the rest is hidden."""
    return _PORTABLE if is_hidden() else _native(sys.platform)


@cache
def _native(name: str) -> Portable:
    if os.name != "posix":
        return _PORTABLE
    if name == "linux":
        from mergebuild.system._linux import Linux

        return Linux()
    from mergebuild.system._posix import Posix

    return Posix()


# Sharing and copying


def clone_range(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> bool:
    """Share `length` bytes of one file with another, without copying them.

    Offsets are multiples of `PAGE`, and so is `length` unless it ends where the source ends.

    Returns:
        Whether the bytes are shared; if not, nothing was written, and the caller copies.

    Raises:
        OSError: the file system failed (no space, bad descriptors), not merely unable.
    """
    return _here().clone_range(src_fd, src_offset, dst_fd, dst_offset, length)


def clone_file(src: Path, dst: Path) -> bool:
    """Make `dst` a file that shares all blocks of `src`.

    Returns:
        Whether that was possible; if not, there is no `dst`.

    Raises:
        FileExistsError: `dst` exists.
        OSError: the file system failed, not merely unable.
    """
    return _here().clone_file(src, dst)


def copy_range(src_fd: int, src_offset: int, dst_fd: int, dst_offset: int, length: int) -> None:
    """Copy `length` bytes between two files (or two ranges of one that do not overlap), in the kernel if it can.

    Raises:
        OSError: the source ends early (`EIO`), or reading or writing fails.
    """
    _here().copy_range(src_fd, src_offset, dst_fd, dst_offset, length)


def link_or_none(src: Path, dst: Path) -> bool:
    """Give a file a second name, a hard link.

    Returns:
        Whether that was possible; file systems, mounts and policies may refuse it.

    Raises:
        OSError: `src` is missing, `dst` exists, or the file system failed.
    """
    return _here().link_or_none(src, dst)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders of one file system, in one step.

    Returns:
        Whether the system can do that.

    Raises:
        OSError: it can, and it failed: one is a mount point, is missing, or its folder can't be written to.
    """
    return _here().exchange(one, other)


# Reading and writing at an offset. `open_to_read` is the same everywhere.


def pread_into(fd: int, view: memoryview | bytearray, offset: int) -> int:
    """Fill `view` with the bytes from `offset` on; any thread may do this.

    The descriptor's position is undefined afterwards.

    Returns:
        How many bytes were read; fewer than asked for only at the end of the file.

    Raises:
        OSError: reading fails.
    """
    return _here().pread_into(fd, view, offset)


def pwrite_all(fd: int, view: memoryview | bytes | bytearray, offset: int) -> None:
    """Write all of `view` at `offset`; any thread may do this. The descriptor's position is undefined afterwards.

    Raises:
        OSError: writing fails, because the disk is full or for another reason.
    """
    _here().pwrite_all(fd, view, offset)


def pwrite(fd: int, view: memoryview, offset: int) -> int:
    """Write at `offset` with one call, which may write only a part; return how many bytes were written.

    Raises:
        OSError: writing fails; `EINVAL` if a file open for direct writes doesn't support them.
    """
    return _here().pwrite(fd, view, offset)


def open_direct(path: Path) -> int | None:
    """Open an existing file to write past the page cache, and return its descriptor; None if that isn't possible.

    Offsets, sizes and addresses of the written bytes must be multiples of `PAGE`, and even then a file system may
    refuse a write (`EINVAL`): the caller then writes these bytes the ordinary way.

    Raises:
        OSError: the file can't be opened at all.
    """
    return _here().open_direct(path)


def is_cached(fd: int, offset: int) -> bool:
    """Whether the byte at `offset` is in the page cache; False if this can't be known, or if there is no such byte."""
    return _here().is_cached(fd, offset)


def advise(mapping: mmap.mmap, what: Literal["sequential", "willneed", "dontneed"], offset: int, length: int) -> None:
    """Tell the system how a range of a file's mapping will be used; no effect if it takes no advice.

    `sequential` and `willneed` apply to every page that the range touches; `dontneed` only to pages that are wholly in
    it (and the last of the file), since neighbours may be in use. Never use it for private mappings that were written
    to: `dontneed` would discard what was written.
    """
    _here().advise(mapping, what, offset, length)


# Files that others must not change


def hold_still(fd: int) -> bool:
    """Make processes wait that open a file for writing or truncate it, until `let_go`: a lease of the kernel's.

    They wait at most as long as `fs.lease-break-time` says (45 s); `is_wanted` tells that one does. Several processes
    may hold one file. If the file was mapped, closing the descriptor is not enough: call `let_go`.

    Returns:
        Whether it is held: not if the system can't, the file is another user's, or a process has it open for writing
            already.
    """
    return _here().hold_still(fd)


def is_wanted(fd: int) -> bool:
    """Whether a process waits to write to a file that is held, or has waited too long and is no longer held up."""
    return _here().is_wanted(fd)


def let_go(fd: int) -> None:
    """End what `hold_still` began."""
    _here().let_go(fd)


def has_writer(path: Path) -> bool:
    """Whether a process has a file open for writing, or mapped so; False if the system doesn't tell.

    What it writes may not show in the file's times yet: these change when a call begins to write, however long it
    takes, and with the first store to a page of a mapping, but not with later ones.
    """
    return _here().has_writer(path)


# Space and durability


def preallocate(fd: int, size: int) -> None:
    """Give a file its final size and, if the file system can, the blocks for it, so that a full disk shows now.

    Ranges that are cloned already stay shared: if most of a file is cloned, clone first, and only the rest takes space.
    Zeros are never written instead if the file system can't allocate.

    Raises:
        OSError: there is no space (`ENOSPC`), or the file can't have that size.
    """
    _here().preallocate(fd, size)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Ask the system to begin writing a range to the disk, without waiting; no effect if it can't.

    Errors show in a later `sync`.
    """
    _here().start_writeback(fd, offset, length)


def sync(fd: int) -> None:
    """Wait until a file's bytes and size are on the disk.

    A process can't even be killed while it waits for the disk, so it waits for one piece at a time if the system can.

    Raises:
        OSError: they could not be written.
    """
    _here().sync(fd)


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk; no effect if folders can't be synced.

    Raises:
        OSError: they could not be written.
    """
    _here().sync_folder(path)


def free_space(path: Path) -> int:
    """Return how many bytes a file at `path` may take, by its nearest existing parent folder.

    Raises:
        OSError: not even the root folder can tell.
    """
    return _here().free_space(path)


def is_full(path: Path) -> bool:
    """Whether a file system has no room for one more small file: hardly any bytes, or no inode for it.

    Raises:
        OSError: this can't be found out.
    """
    return _here().is_full(path)


# The machine


def memory_bytes() -> int:
    """Return how much memory the machine has, in bytes; 0 if unknown."""
    return _here().memory_bytes()


def cpu_count() -> int:
    """Return how many processors this process may use, at least 1."""
    return _here().cpu_count()


def keep_freed_memory() -> None:
    """Make this process keep freed memory to use it again, if the C library has settings for that.

    Without them glibc returns freed memory to the system at once if it is a few megabytes, and gets every page of the
    next tensor anew: a fifth of the time of some methods. Pieces of up to 32 MiB are kept, 128 MiB per thread at most;
    larger ones are returned at once.
    """
    _here().keep_freed_memory()


def load_library(path: Path) -> None:
    """Load a shared library, if it exists, before it is imported; only on Linux.

    While Python itself loads a library it holds the interpreter's lock; this does not.
    """
    _here().load_library(path)
