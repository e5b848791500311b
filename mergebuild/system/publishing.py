"""How anything new comes to its place: the one protocol of all that writes.

A new file is written in full beside its place, under a hidden name that says for what and by whom, and takes its place
by a rename. Whoever looks sees the old file or the new one; who is killed, whenever that is, leaves at most a hidden
file, which the next one to write there removes. With `durable` the file's bytes are on the disk before the rename, and
the name after it; without, nobody waits, and who comes after a power cut looks at the bytes again (`Shelf.is_intact`).

A file gets a time of its own before it is renamed, finer than the tick by which a file system dates changes: an edit
in the same tick shows then, too.
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
"""What every temporary name has in it."""
_LONGEST = 255
"""Bytes of a name that file systems take."""
_LONGEST_WHOLE = _LONGEST - len(f".{MARK}{1 << 32}-journal")
"""Bytes of a name that fits whole into that of a temporary file, and of the log that SQLite has beside one."""


def temporary_path(path: Path) -> Path:
    """Return the path beside `path` where its new file is written."""
    return path.with_name(f".{_called(path)}{MARK}{os.getpid()}")


def _called(path: Path) -> str:
    """Return what a temporary file has of the name that it is for: all of it, or the begin and a hash."""
    raw = os.fsencode(path.name)
    if len(raw) <= _LONGEST_WHOLE:
        return path.name
    digest = f"~{xxhash.xxh3_64_hexdigest(raw)}"
    return fitting(path.name, digest, _LONGEST_WHOLE)


def fitting(begin: str, end: str, most: int = _LONGEST) -> str:
    """Return a name with this end, and as much of its begin as fits into so many bytes."""
    room = most - len(os.fsencode(end))
    while len(os.fsencode(begin)) > room:
        begin = begin[:-1]
    return begin + end


def is_temporary(name: str) -> bool:
    """Return whether a name is one that `temporary_path` gives."""
    return name.startswith(".") and MARK in name


def is_for(name: str, path: Path) -> bool:
    """Return whether a name is a temporary one for `path`."""
    return is_temporary(name) and name[1:].rpartition(MARK)[0] == _called(path)


def put(temporary: Path, path: Path, *, durable: bool = False) -> None:
    """Have a file that is written in full take the place of whatever is at `path`.

    Raises:
        OSError: it cannot; `path` is what it was.
    """
    finish(temporary, durable=durable)
    place(temporary, path, durable=durable)


def finish(temporary: Path, *, durable: bool = False) -> None:
    """Date a file that is written in full; with `durable`, wait until it is on the disk.

    Raises:
        OSError: it does not come there.
    """
    with suppress(OSError):
        date(temporary)
    if durable:
        with temporary.open("rb+") as file:
            platform.sync(file.fileno())


def place(temporary: Path, path: Path, *, durable: bool = False) -> None:
    """Rename a finished file to its place.

    Raises:
        OSError: it cannot be; `path` is what it was.
    """
    temporary.replace(path)
    if durable:
        platform.sync_folder(path.parent)


def put_first(temporary: Path, path: Path) -> None:
    """Have a file that is written in full be at `path`, unless there is one already, which somebody may have open.

    Raises:
        OSError: it cannot; `path` is what it was.
    """
    with suppress(FileExistsError):
        if not platform.link_or_none(temporary, path) and not path.exists():
            temporary.replace(path)


@contextmanager
def being_written(path: Path) -> Iterator[Path]:
    """Give the path where the new file for `path` is written. Whatever ends this block, nothing is left there."""
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)  # of one who was killed; or a link that came with a stranger's files
    with scratch.noted([temporary]):
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file (UTF-8); no link is followed, neither at `path` nor beside it.

    Raises:
        OSError: it cannot be written; `path` is what it was.
    """
    with being_written(path) as temporary:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        put(temporary, path)


def remove_left_over(paths: Iterable[Path], folders: Iterable[Path] = ()) -> None:
    """Remove the files that killed processes left beside these places, and whatever is left anywhere in these folders.

    Nobody else may be writing to them.
    """
    for folder in folders:
        for left in list(folder.rglob(f".*{MARK}*")):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    for left in left_over(*paths):
        if not left.is_dir() or left.is_symlink():  # else it may be what a folder was: see `store/stages.py`
            left.unlink(missing_ok=True)


def left_over(*paths: Path) -> Iterator[Path]:
    """Yield what killed processes left beside these places, files and folders."""
    by_folder: dict[Path, set[str]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, set()).add(_called(path))
    for folder, names in by_folder.items():
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if MARK in entry.name and entry.name[1:].rpartition(MARK)[0] in names:
                    yield Path(entry.path)
