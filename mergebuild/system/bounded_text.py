"""Reads text files of a project, with a limit: they are as untrusted as models.

A path may lead to a pipe, an endless device or a file of a terabyte. Only a regular file is read, and no more of it
than its size says. A file that the command line names may be a pipe too, such as `<(command)`, if a process writes to
it; it is read only until it is too long.

Numbers in a text may have any length, too. Python refuses integers of more than 4,300 digits with a message about
itself; here that is one more mistake in the text.
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
"""The most bytes of a mergefile or of a file that it includes. One that a script wrote for 50,000 targets has 5
million."""

MAX_VARIABLES: Final = 1 << 20
"""The most bytes of a file of variables: tens of thousands of them."""


def read_text(path: Path, *, most: int = MAX_TEXT) -> str:
    r"""Return the text of a file, with `\n` as line ends, so that it is the same on every system.

    Args:
        path: The file.
        most: The most bytes that it may have.

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
        OSError, UnicodeDecodeError: as `read_text`; or no process writes to the pipe.
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
    """Return the bytes of a pipe that was opened without waiting. Without a writer, it is at its end at once."""
    try:
        first = os.read(fd, most + 1)
    except BlockingIOError:  # it has a writer, which has written nothing yet
        first = None
    if first == b"":
        raise OSError(errno.EPIPE, "it is a pipe that nobody writes to")
    os.set_blocking(fd, True)
    with open(fd, "rb", closefd=False) as stream:
        rest = stream.read(most + 1 - len(first or b""))
    return _within((first or b"") + rest, most)


def read_stream(stream: BinaryIO, *, most: int = MAX_TEXT) -> str:
    """Return the text of a stream, as `read_text` would; an endless one is read only until it is too long.

    Raises:
        OSError: it can't be read, or is too long; `strerror` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    return _decoded(_within(stream.read(most + 1), most))


def _within(raw: bytes, most: int) -> bytes:
    """Return the bytes of a stream.

    Raises:
        OSError: they are too many.
    """
    if len(raw) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return raw


def _decoded(raw: bytes | bytearray) -> str:
    return raw.decode("utf-8-sig").replace("\r\n", "\n")


def what_is_wrong(error: ValueError) -> str:
    """Return a parser's message about a text that it refused."""
    said = str(error)
    return "it has a number of thousands of digits" if "int_max_str_digits" in said else said


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the compiled regular expression.

    Raises:
        re.error: it is invalid.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for patterns that may change their meaning later: `[[a]b&&c`
            return re.compile(pattern)
    except ValueError as error:  # a count of thousands of digits
        raise re.error(what_is_wrong(error)) from error
    except (OverflowError, RecursionError) as error:
        raise re.error(str(error)) from error
