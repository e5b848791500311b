"""How a new file is published: the one protocol for everything that writes.

A new file is written completely beside its place, with a hidden name that says for which file and by which process, and
is then renamed to its place. So other processes see the old file or the new one. A process that is killed leaves at
most a hidden file, which the next one that writes there removes. With `durable` the file's bytes are on the disk before
the rename, and its name after it; without, no time is spent waiting, and after a power cut the bytes are read again
(`Shelf.is_intact`).

Before it is renamed, a file gets a time of its own, with a finer resolution than file systems' clocks tick: then an
edit in the same tick shows, too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from mergebuild.system import platform, scratch
from mergebuild.system.filestate import date

__all__ = [
    "MARK",
    "being_written",
    "finish",
    "fitting",
    "is_for",
    "is_temporary",
    "left_over",
    "place",
    "put",
    "put_first",
    "remove_left_over",
    "temporary_path",
    "write_text",
]

MARK = ".mergebuild-"
"""A part of every temporary name."""
_LONGEST = 255
"""The most bytes that file systems allow in a name."""
_LONGEST_WHOLE = _LONGEST - len(f".{MARK}{1 << 32}-journal")
"""The most bytes of a name that fits into the name of a temporary file, and of SQLite's log beside that."""


def temporary_path(path: Path) -> Path:
    """Return the path beside `path` where its new file is written."""
    return path.with_name(f".{_called(path)}{MARK}{os.getpid()}")


def _called(path: Path) -> str:
    """Return the name of a file as it is in that of its temporary file: all of it, or its beginning and a hash."""
    raw = os.fsencode(path.name)
    if len(raw) <= _LONGEST_WHOLE:
        return path.name
    digest = f"~{xxhash.xxh3_64_hexdigest(raw)}"
    return fitting(path.name, digest, _LONGEST_WHOLE)


def fitting(begin: str, end: str, most: int = _LONGEST) -> str:
    """Return a name with this end, and as much of its beginning as fits into so many bytes."""
    room = most - len(os.fsencode(end))
    while len(os.fsencode(begin)) > room:
        begin = begin[:-1]
    return begin + end


def is_temporary(name: str) -> bool:
    """Return whether a name was made by `temporary_path`."""
    return name.startswith(".") and MARK in name


def is_for(name: str, path: Path) -> bool:
    """Return whether a name is a temporary one for `path`."""
    return is_temporary(name) and name[1:].rpartition(MARK)[0] == _called(path)


def put(temporary: Path, path: Path, *, durable: bool = False) -> None:
    """Give a finished file the place of whatever is at `path`.

    Raises:
        OSError: this fails; `path` is what it was.
    """
    finish(temporary, durable=durable)
    place(temporary, path, durable=durable)


def finish(temporary: Path, *, durable: bool = False) -> None:
    """Set the times of a finished file; with `durable`, wait until it is on the disk.

    Raises:
        OSError: it can't be written to the disk.
    """
    with suppress(OSError):
        date(temporary)
    if durable:
        with temporary.open("rb+") as file:
            platform.sync(file.fileno())


def place(temporary: Path, path: Path, *, durable: bool = False) -> None:
    """Rename a finished file to its place.

    Raises:
        OSError: this fails; `path` is what it was.
    """
    temporary.replace(path)
    if durable:
        platform.sync_folder(path.parent)


def put_first(temporary: Path, path: Path) -> None:
    """Put a finished file at `path`, unless a file is there already, which another process may have open.

    Raises:
        OSError: this fails; `path` is what it was.
    """
    with suppress(FileExistsError):
        if not platform.link_or_none(temporary, path) and not path.exists():
            temporary.replace(path)


@contextmanager
def being_written(path: Path) -> Iterator[Path]:
    """Give the path at which to write the new file for `path`.

    When the block ends, whatever is left there is removed.
    """
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)  # left by a killed process, or a link in an untrusted project
    with scratch.noted([temporary]):
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file (UTF-8). Links are not followed, neither at `path` nor beside it.

    Raises:
        OSError: it can't be written; `path` is what it was.
    """
    with being_written(path) as temporary:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        put(temporary, path)


def remove_left_over(paths: Iterable[Path], folders: Iterable[Path] = ()) -> None:
    """Remove the files that killed processes left beside these paths, or anywhere in these folders.

    No other process may be writing to them.
    """
    for folder in folders:
        for left in list(folder.rglob(f".*{MARK}*")):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    for left in left_over(*paths):
        if not left.is_dir() or left.is_symlink():  # a folder may be a former output: see `store/stages.py`
            left.unlink(missing_ok=True)


def left_over(*paths: Path) -> Iterator[Path]:
    """Yield files and folders that killed processes left beside these paths."""
    by_folder: dict[Path, set[str]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, set()).add(_called(path))
    for folder, names in by_folder.items():
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if MARK in entry.name and entry.name[1:].rpartition(MARK)[0] in names:
                    yield Path(entry.path)
