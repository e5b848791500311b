"""Whether a file is a certain artifact, or what a crash left of it, by its bytes alone.

An artifact's table has the checksum of each of its tensors, and its row has the checksum of the header, which is all
that comes before them. So one reading of a file tells whether it is the artifact, and if not, which tensors are
damaged.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mergebuild.digest import checksum, file_checksum
from mergebuild.formats.header import MAX_HEADER
from mergebuild.store.contents import Contents, Entry
from mergebuild.store.values import Fresh
from mergebuild.system import platform

__all__ = ["damage", "has_bytes", "header_checksum", "is_left_of", "may_be", "may_be_left_of"]

_SPAN = 1 << 20


def damage(path: Path, header: bytes, contents: Contents) -> list[str]:
    """Return the damaged parts of a file: names of tensors, or `header`.

    If it can't be read, the only item says why.
    """
    try:
        with _opened(path) as (fd, size):
            return _damage(fd, size, header, contents)
    except OSError as error:
        return [f"unreadable: {error.strerror}"]


def has_bytes(path: Path, fresh: Fresh) -> bool:
    """Whether a file has the bytes of an artifact."""
    try:
        with _opened(path) as (fd, size):
            return not _damage(fd, size, fresh.header, fresh.contents, first=True)
    except OSError:
        return False


def may_be(path: Path, beginning: bytes, size: int) -> bool:
    """Whether a file begins with these bytes and has this size."""
    return _beginning(path, len(beginning)) == (beginning, size)


def may_be_left_of(path: Path, beginning: bytes, size: int) -> bool:
    """Whether a file may be what a crash left of one with this beginning and size. Only its beginning is read."""
    found = _beginning(path, len(beginning))
    return found is not None and found[1] <= size and _is_left_of(found[0], beginning)


def is_left_of(path: Path, whole: Path) -> bool:
    """Whether a file is what a crash left of another: some pages are zeros, or its end is missing."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as left, whole.open("rb") as right:
            if left.seek(0, os.SEEK_END) > right.seek(0, os.SEEK_END):
                return False
            left.seek(0)
            right.seek(0)
            return all(_is_left_of(page, right.read(len(page))) for page in iter(lambda: left.read(_SPAN), b""))
    except OSError:
        return False


def header_checksum(path: Path) -> bytes:
    """Return the checksum of all that comes before a file's data; `b""` if it can't be read or has no such header."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                return b""
            return checksum(length.to_bytes(8, "little") + file.read(length))
    except OSError:
        return b""


def _beginning(path: Path, length: int) -> tuple[bytes, int] | None:
    """Return the first `length` bytes of a file, and its size; None if it can't be read."""
    if not path.is_file():  # opening a pipe would wait
        return None
    try:
        with path.open("rb") as file:
            return file.read(length), file.seek(0, os.SEEK_END)
    except OSError:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a regular file to read; give its descriptor and size.

    Raises:
        OSError: it can't be opened, or is no regular file (opening a pipe would wait).
    """
    fd = platform.open_to_read(path)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        yield fd, found.st_size
    finally:
        os.close(fd)


def _is_left_of(found: bytes, whole: bytes) -> bool:
    """Whether bytes are equal to others, apart from pages that are all zeros."""
    return found == whole or all(
        page == whole[start : start + len(page)] or not any(page)
        for start in range(0, len(found), platform.PAGE)
        for page in (found[start : start + platform.PAGE],)
    )


def _damage(fd: int, size: int, header: bytes, entries: Sequence[Entry], *, first: bool = False) -> list[str]:
    """Return the parts of a file that differ from its table; with `first`, at most one."""
    data_start = min((entry.begin for entry in entries), default=size)
    end = max((entry.end for entry in entries), default=data_start)
    if size != end:
        return [f"file size {size}, written {end}"]
    found = [] if file_checksum(fd, 0, data_start) == header else ["header"]
    for entry in entries:
        if first and found:
            break
        if file_checksum(fd, entry.begin, entry.end) != entry.checksum:
            found.append(entry.name)
    return found
