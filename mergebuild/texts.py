"""Text files of a project, read with a bound: they come from strangers as models do.

A path may lead to a pipe, to a device without end or to a file of a terabyte. Only a regular file is read, and no more
of it than it said it has.

What stands in a text may be of any length as well. Python refuses whole numbers of more than 4,300 digits, in words
about itself; here they are one more thing that is wrong with the text.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final

from mergebuild.portable import open_to_read, pread_into

__all__ = ["MAX_TEXT", "MAX_VARIABLES", "compiled", "read_stream", "read_text", "what_is_wrong"]

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
    return _decoded(raw)


def read_stream(stream: BinaryIO, *, most: int = MAX_TEXT) -> str:
    """Return the text that comes from a stream, as `read_text` would: of one without end, no more than shows that.

    Raises:
        OSError: it can't be read, or is too long; `strerror` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    raw = stream.read(most + 1)
    if len(raw) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return _decoded(raw)


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
        return re.compile(pattern)
    except ValueError as error:  # a count of thousands of digits
        raise re.error(what_is_wrong(error)) from error
    except (OverflowError, RecursionError) as error:
        raise re.error(str(error)) from error
