"""Whether a file is an artifact, or what a crash left of one, by its bytes alone.

An artifact's table has the checksum of each of its tensors, and its row that of what stands before them. So a file is
read once to know whether it is the artifact, and which tensors are hurt if it is not.
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
    """Return what of a file is not what was written: tensor names, `header`. Of one that can't be read, why."""
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
    """Whether a file begins so and has this size."""
    return _beginning(path, len(beginning)) == (beginning, size)


def may_be_left_of(path: Path, beginning: bytes, size: int) -> bool:
    """Whether a file may be what a crash left of one that begins so and has this size. Only its beginning is read."""
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
    """Return the checksum of what stands before a file's data; nothing's where there is no such thing."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                return b""
            return checksum(length.to_bytes(8, "little") + file.read(length))
    except OSError:
        return b""


def _beginning(path: Path, length: int) -> tuple[bytes, int] | None:
    """Return so many bytes of a file, and its size; None where there is none that can be read."""
    if not path.is_file():  # a pipe would be waited for
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
        OSError: it can't be opened, or is something else. A pipe would be waited for.
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
    """Whether bytes are these, but for pages of zeros."""
    return found == whole or all(
        page == whole[start : start + len(page)] or not any(page)
        for start in range(0, len(found), platform.PAGE)
        for page in (found[start : start + platform.PAGE],)
    )


def _damage(fd: int, size: int, header: bytes, entries: Sequence[Entry], *, first: bool = False) -> list[str]:
    """Return what of a file differs from its table; with `first`, at most one name."""
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
