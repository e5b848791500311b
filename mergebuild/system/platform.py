"""What is asked of the operating system, and what may be relied on: the one place to look at before a port.

There are three implementations, each on top of the one before: `_portable` (what every Python can, everywhere),
`_posix` and `_linux`. All give the same bytes; only time and space differ. `MERGEBUILD_PORTABLE=1` in the environment,
read at each call, hides all but the first, so that one machine tests both ways.

A function raises `OSError` for what fails. What a system or a file system merely can't do is an answer (False, None, 0)
or no effect, as each function says.

Some of what systems differ in has no function here, as Python has one name for it:

- *Renaming to where a file is* is done at once on POSIX, and who has that file open or mapped keeps it as it was.
  Elsewhere it may be refused while anybody has it open: then the output stays what it was, and its target fails.
- *Unlinking an open file* takes its name away on POSIX, and its bytes are there until it is closed. Elsewhere it may be
  refused. So files are closed first; at the end of a process (`scratch`) what can't be unlinked is left to the next
  build (`publishing.remove_left_over`).
- *Renaming a folder with open files in it* is as renaming a file.
- *Cutting short a mapped file* kills the process that looks at it there, on POSIX (`SIGBUS`); hence `hold_still`.
- *A mapping* outlives the descriptor that it was made of, everywhere.
- *The time of change* (`st_ctime`) is that of birth on Windows, so that size and time of writing tell all there:
  `filestate`.
- *Locks between processes* are gone with their process, everywhere that a file system has them: `locks`.
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
    """Return what this system can, or the part of it that is not hidden."""
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
    """Copy `length` bytes between two files (or two ranges of one that do not overlap), in the kernel where it can.

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
    """Have two files or folders of one file system change their names, at once: whoever looks sees one or the other.

    Returns:
        Whether the system can do that.

    Raises:
        OSError: it can, and it failed: one is a mount point, is missing, or its folder can't be written to.
    """
    return _here().exchange(one, other)


# Reading and writing at an offset. `open_to_read` is the same everywhere.


def pread_into(fd: int, view: memoryview | bytearray, offset: int) -> int:
    """Fill `view` with the bytes from `offset` on, from any thread; the descriptor's position means nothing afterwards.

    Returns:
        How many bytes were read; fewer than asked for only at the end of the file.

    Raises:
        OSError: reading fails.
    """
    return _here().pread_into(fd, view, offset)


def pwrite_all(fd: int, view: memoryview | bytes | bytearray, offset: int) -> None:
    """Write all of `view` at `offset`, from any thread; the descriptor's position means nothing afterwards.

    Raises:
        OSError: writing fails, for want of space among other things.
    """
    _here().pwrite_all(fd, view, offset)


def pwrite(fd: int, view: memoryview, offset: int) -> int:
    """Write at `offset` in one call, as `pwrite_all` does in many; return how many bytes the system took.

    Raises:
        OSError: writing fails; `EINVAL` where a file open for direct writes takes none.
    """
    return _here().pwrite(fd, view, offset)


def open_direct(path: Path) -> int | None:
    """Open an existing file to write past the page cache, and return its descriptor; None where that can't be done.

    Offsets, sizes and addresses of what is written must be multiples of `PAGE`, and even then a file system may
    refuse a write (`EINVAL`): the same bytes are then written the ordinary way.

    Raises:
        OSError: the file can't be opened at all.
    """
    return _here().open_direct(path)


def is_cached(fd: int, offset: int) -> bool:
    """Whether the byte at `offset` is in the page cache; False where that can't be known, or there is no such byte."""
    return _here().is_cached(fd, offset)


def advise(mapping: mmap.mmap, what: Literal["sequential", "willneed", "dontneed"], offset: int, length: int) -> None:
    """Tell the system how a range of a file's mapping will be used; nothing happens where it takes no advice.

    `sequential` and `willneed` reach every page that the range touches; `dontneed` only pages that lie wholly in it
    (and the last of the file), since neighbours may be in use. Never for private mappings that were written to:
    `dontneed` would forget what was written.
    """
    _here().advise(mapping, what, offset, length)


# Files that others must not change


def hold_still(fd: int) -> bool:
    """Hold up whoever opens a file for writing or cuts it short, until it is let go of: a lease of the kernel's.

    They wait, for as long as `fs.lease-break-time` says at most (45 s); `is_wanted` tells that somebody does. Any
    number of processes may hold one file. To close the descriptor is not enough where it was mapped: `let_go` of it.

    Returns:
        Whether it is held: not where the system can't, the file is another user's, or somebody can write to it already.
    """
    return _here().hold_still(fd)


def is_wanted(fd: int) -> bool:
    """Whether somebody waits to write to a file that is held, or waited too long and is held up no more."""
    return _here().is_wanted(fd)


def let_go(fd: int) -> None:
    """End what `hold_still` began."""
    _here().let_go(fd)


def has_writer(path: Path) -> bool:
    """Whether a process has a file open for writing, or mapped so; False where the system does not tell.

    What it writes may not show in the file's times yet: they change when a call begins to write, however long it takes,
    and with the first store to a page of a mapping, not with those that follow.
    """
    return _here().has_writer(path)


# Space and durability


def preallocate(fd: int, size: int) -> None:
    """Give a file its final size, and where the file system can, the blocks for it, so that want of space shows now.

    Ranges that are cloned already stay shared: clone first where most of a file is cloned, and only the rest takes
    space. Never writes zeros in place of what the file system can't do.

    Raises:
        OSError: there is no space (`ENOSPC`), or the file can't have that size.
    """
    _here().preallocate(fd, size)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Ask the system to begin writing a range to the disk, without waiting; nothing happens where it can't.

    Failures show in a later `sync`.
    """
    _here().start_writeback(fd, offset, length)


def sync(fd: int) -> None:
    """Wait until a file's bytes and size are on the disk.

    Nothing ends a process that waits for the disk, not even a kill: so it waits for a piece at a time where it can.

    Raises:
        OSError: they are not.
    """
    _here().sync(fd)


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are on the disk; nothing happens where folders can't be synced.

    Raises:
        OSError: they are not.
    """
    _here().sync_folder(path)


def free_space(path: Path) -> int:
    """Return the bytes that a file at `path` may take, asking its nearest existing ancestor.

    Raises:
        OSError: not even the root can be asked.
    """
    return _here().free_space(path)


def is_full(path: Path) -> bool:
    """Whether a file system has no room for one more small file: hardly any bytes, or no number for it.

    Raises:
        OSError: it can't be asked.
    """
    return _here().is_full(path)


# The machine


def memory_bytes() -> int:
    """Return how much memory the machine has, in bytes; 0 where that is not known."""
    return _here().memory_bytes()


def cpu_count() -> int:
    """Return how many processors this process may use, at least 1."""
    return _here().cpu_count()


def keep_freed_memory() -> None:
    """Have this process use freed memory again, where the C library has settings for that.

    Without them glibc gives what is freed back to the system when it is a few megabytes, and every page of the next
    tensor is fetched anew: of some methods that was a fifth of the time. Pieces of up to 32 MiB are kept, 128 MiB a
    thread at most; larger ones are given back at once.
    """
    _here().keep_freed_memory()


def load_library(path: Path) -> None:
    """Load a shared library, if it is there, ahead of who imports it; only on Linux.

    Python keeps the interpreter to itself while it loads one, this leaves it to other threads.
    """
    _here().load_library(path)
