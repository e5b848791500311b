"""Text files of a project, read with a bound and written whole: its folder may be filled by strangers.

A path may lead to a pipe, to a device without end or to a file of a terabyte. Only a regular file is read, and no more
of it than it said it has. What is written is written beside the file and renamed, and no link is followed on the way.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from mergebuild.portable import open_to_read, pread_into, sync

__all__ = ["MAX_TEXT", "read_text", "write_text"]

MAX_TEXT: Final = 16 << 20
"""The longest text (bytes): a mergefile, what it includes, a lock file, the code of a method. A mergefile that a script
wrote for 100,000 targets has 10 million."""


def read_text(path: Path, *, most: int = MAX_TEXT) -> str:
    """Return the text of a file, its line ends as on one system, so that it is the same on every system.

    Args:
        path: the file.
        most: the bytes that it may have.

    Raises:
        OSError: it can't be read, is no regular file, or is too long; `strerror` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    try:
        fd = open_to_read(path)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from None
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file")
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and at most {most:,} are read")
        raw = bytearray(found.st_size)
        del raw[pread_into(fd, raw, 0) :]
    finally:
        os.close(fd)
    return raw.decode("utf-8-sig").replace("\r\n", "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all: as UTF-8, on the disk before it has its name. A link at the path is replaced.

    Raises:
        OSError: it can't be written; then nothing is left of it.
    """
    temporary = path.with_name(f".{path.name}.mergebuild-{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process that was killed; or a link that somebody put there
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            sync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
