"""Text files of a project, read with a bound: they come from strangers as models do.

A path may lead to a pipe, to a device without end or to a file of a terabyte. Only a regular file is read, and no more
of it than it said it has. What the command line names may be a pipe as well, as `<(command)` is, if somebody writes to
it: of that no more is read than shows that it is too long.

What stands in a text may be of any length as well. Python refuses whole numbers of more than 4,300 digits, in words
about itself; here they are one more thing that is wrong with the text.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import warnings
from pathlib import Path
from typing import BinaryIO, Final

from mergebuild.system.platform import open_to_read, pread_into

__all__ = ["MAX_TEXT", "MAX_VARIABLES", "compiled", "read_stream", "read_text", "read_text_or_pipe", "what_is_wrong"]

MAX_TEXT: Final = 8 << 20
"""The longest text (bytes) of a mergefile and of what it includes. One that a script wrote for 50,000 targets has 5
million."""

MAX_VARIABLES: Final = 1 << 20
"""The longest text (bytes) of variables: tens of thousands of them."""


def read_text(path: Path, *, most: int = MAX_TEXT) -> str:
    """Return the text of a file, its line ends as on one system, so that it is the same on every system.

    Args:
        path: the file.
        most: the bytes that it may have.

    Raises:
        OSError: it can't be read, is no regular file, or is too long; `strerror` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    fd = _opened(path)
    try:
        return _decoded(_content(fd, most))
    finally:
        os.close(fd)


def read_text_or_pipe(path: Path, *, most: int = MAX_TEXT) -> str:
    """Return the text of a file as `read_text` does, or what is written to a pipe until all its writers close it.

    Raises:
        OSError, UnicodeDecodeError: as `read_text`; or nobody writes to the pipe.
    """
    fd = _opened(path)
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        return _decoded(_piped(fd, most) if is_pipe else _content(fd, most))
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    try:
        return open_to_read(path)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from None


def _content(fd: int, most: int) -> bytearray:
    """Return the bytes of a regular file."""
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file")
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and at most {most:,} are read")
    raw = bytearray(found.st_size)
    del raw[pread_into(fd, raw, 0) :]
    return raw


def _piped(fd: int, most: int) -> bytes:
    """Return the bytes of a pipe that was opened without waiting. Such a one is at its end at once if nobody writes."""
    try:
        first = os.read(fd, most + 1)
    except BlockingIOError:  # somebody will
        first = None
    if first == b"":
        raise OSError(errno.EPIPE, "it is a pipe that nobody writes to")
    os.set_blocking(fd, True)
    with open(fd, "rb", closefd=False) as stream:
        rest = stream.read(most + 1 - len(first or b""))
    return _within((first or b"") + rest, most)


def read_stream(stream: BinaryIO, *, most: int = MAX_TEXT) -> str:
    """Return the text that comes from a stream, as `read_text` would: of one without end, no more than shows that.

    Raises:
        OSError: it can't be read, or is too long; `strerror` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    return _decoded(_within(stream.read(most + 1), most))


def _within(raw: bytes, most: int) -> bytes:
    """Return what came from a stream, if it is not too long."""
    if len(raw) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return raw


def _decoded(raw: bytes | bytearray) -> str:
    return raw.decode("utf-8-sig").replace("\r\n", "\n")


def what_is_wrong(error: ValueError) -> str:
    """Return what a parser says of a text that it refused."""
    said = str(error)
    return "it has a number of thousands of digits" if "int_max_str_digits" in said else said


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the regular expression that a text means.

    Raises:
        re.error: it means none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in a later Python: `[[a]b&&c`
            return re.compile(pattern)
    except ValueError as error:  # a count of thousands of digits
        raise re.error(what_is_wrong(error)) from error
    except (OverflowError, RecursionError) as error:
        raise re.error(str(error)) from error
