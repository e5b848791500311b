"""`mergefile.lock`: the hashes of sources and the digests of targets, for others to compare theirs with.

It is TOML for version control: sorted, one entry per line, always the same text for the same content. Sources are
listed by SHA-256, which model hubs publish, targets by their artifact's digest, built or not. A folder is more than its
tensors: each of its small files has a line of its own, a source's with its present hash, a target's with the hash that
it will have.

Something that is not in the lock is refused like something that differs; otherwise anything could pass by leaving out
its line.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, Self, TypeVar

import tomli

from mergebuild.digest import tagged
from mergebuild.errors import Place, Problem, RecipeError, ResultDiffersError, TargetError
from mergebuild.plan.description import Description
from mergebuild.sources import hashes
from mergebuild.sources.source_file import SourceFile
from mergebuild.system import publishing
from mergebuild.system.bounded_text import read_text

__all__ = [
    "Locked",
    "LockedSource",
    "LockedTarget",
    "check",
    "differences",
    "other_result",
    "other_source",
    "read",
    "text_of",
    "write",
]

_VERSION: Final = 2
_MOST: Final = 32 << 20
"""The most bytes of a lock file; that of 100,000 targets has 10 million."""
_CLOSED: Final = frozenset({errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors of systems if a file may not be written, or if something else is at its path."""
_MOST_TOLD: Final = 20
"""The most differences that are listed."""

Files = Mapping[str, str]
"""The SHA-256 of small files of a folder, by path in it."""
_NO_FILES: Final[Files] = MappingProxyType({})


class LockedSource(NamedTuple):
    """A source: its SHA-256, the size of its tensors in bytes, and the small files of a folder."""

    sha256: str
    size: int
    files: Files = _NO_FILES

    @classmethod
    def of(cls, source: SourceFile) -> Self:
        """Return the entry of a source whose SHA-256 is known."""
        return cls(source.sha256 or "", source.size, source.small_files)


class LockedTarget(NamedTuple):
    """A target: the digest of its tensors, and the small files of a folder."""

    artifact: str
    files: Files = _NO_FILES

    @classmethod
    def of(cls, made: Description) -> Self:
        """Return the entry of a planned target, whose sources are hashed."""
        home = made.goal.path
        files = {
            hashes.path_in(home, file.path): hashlib.sha256(file.header_bytes).hexdigest()
            for file in made.files
            if file.origin and home and file.path
        }
        return cls(tagged(made.digest or b""), files)


@dataclass(frozen=True, slots=True)
class Locked:
    """The content of a lock file, by source and by target."""

    sources: Mapping[str, LockedSource]
    targets: Mapping[str, LockedTarget]


# The file


def write(path: Path, locked: Locked) -> None:
    """Write a lock file, completely or not at all.

    Raises:
        TargetError: it cannot be written.
        OSError: the disk is full, or the machine has no room for it.
    """
    text = text_of(locked)
    try:
        publishing.write_text(path, text)
    except OSError as error:
        if error.errno not in _CLOSED:
            raise
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> TargetError:
    why = "it is a folder" if path.is_dir() else (error.strerror or str(error)).lower()
    message = f"`{path.name}` can't be written: {why}"
    mend = "move what is there away; the lock is a file of that name beside the mergefile"
    help_ = mend if path.is_dir() else "check the permissions of the folder that the mergefile is in"
    return TargetError.one("lock-unwritable", message, where=Place(path.name), help=help_)


def text_of(locked: Locked) -> str:
    """Return the text of a lock file."""
    sources = [
        f"{_key(name)} = {{ sha256 = {_key(source.sha256)}, size = {source.size} }}"
        for name, source in sorted(locked.sources.items())
    ]
    targets = [f"{_key(name)} = {_key(target.artifact)}" for name, target in sorted(locked.targets.items())]
    lines = [
        "# Written by `mergebuild lock`; held against by `mergebuild build --locked`.",
        f"version = {_VERSION}",
        *("", "[sources]", *sources),
        *("", "[targets]", *targets),
        *_tables("sources", locked.sources),
        *_tables("targets", locked.targets),
    ]
    return "\n".join(lines) + "\n"


def _tables(kind: str, locked: Mapping[str, LockedSource | LockedTarget]) -> Iterator[str]:
    for name, each in sorted(locked.items()):
        if each.files:
            yield from ("", f"[files.{kind}.{_key(name)}]")
            yield from (f"{_key(path)} = {_key(sha256)}" for path, sha256 in sorted(each.files.items()))


def _key(text: str) -> str:
    """Return a text as a quoted TOML key or value."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(path: Path) -> Locked:
    """Return the content of a lock file.

    Raises:
        RecipeError: it is missing, of an older version that lacks entries needed now, or no lock file.
    """
    try:
        return _read(tomli.loads(read_text(path, most=_MOST)))
    except FileNotFoundError:
        raise RecipeError.one("no-lock", f"there is no `{path.name}`", help="`mergebuild lock` writes it") from None
    except _OlderError:
        raise _older(path) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        message = f"`{path.name}` is not a lock file of this version"
        raise RecipeError.one("bad-lock", message, where=Place(path.name), help="write it again") from error


def _older(path: Path) -> RecipeError:
    message = f"`{path.name}` is of an older form, which lacks targets that were not built and files beside weights"
    help_ = "`mergebuild lock` writes it anew; look at what changed in it"
    return RecipeError.one("old-lock", message, where=Place(path.name), help=help_)


class _OlderError(Exception):
    """A lock file of an earlier version."""


def _read(table: Mapping[str, object]) -> Locked:
    version = table["version"]
    if version == 1:
        raise _OlderError
    if version != _VERSION:
        raise ValueError(version)
    files = _table(table.get("files", {}))
    of_sources, of_targets = (_table(files.get(kind, {})) for kind in ("sources", "targets"))
    sources = {name: _source(_table(row), _files(of_sources, name)) for name, row in _table(table["sources"]).items()}
    targets = {
        name: LockedTarget(_text(digest), _files(of_targets, name)) for name, digest in _table(table["targets"]).items()
    }
    return Locked(sources, targets)


def _source(row: Mapping[str, object], files: Files) -> LockedSource:
    return LockedSource(_text(row["sha256"]), _count(row["size"]), files)


def _files(tables: Mapping[str, object], name: str) -> Files:
    return {path: _text(sha256) for path, sha256 in _table(tables.get(name, {})).items()}


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(value)
    return value


# What differs


def check(path: Path, locked: Locked) -> None:
    """Check that a lock file has the text that would be written.

    Raises:
        ResultDiffersError: it has not, or is missing.
    """
    rows = _rows_of_check(path, locked)
    if rows is not None:
        raise ResultDiffersError.one(
            "lock-differs",
            f"`{path.name}` is not what `mergebuild lock` would write",
            where=Place(path.name),
            rows=rows,
            help="`mergebuild lock` writes it",
        )


def _rows_of_check(path: Path, locked: Locked) -> Sequence[str] | None:
    """Return how a lock file differs from what would be written, as short texts; None if its text is the same."""
    try:
        if read_text(path, most=_MOST) == text_of(locked):
            return None
        return _some(list(differences(read(path), locked))) or ("it says the same in another text",)
    except RecipeError as error:
        return [problem.message for problem in error.problems]
    except (OSError, ValueError):
        return ["there is none that can be read"]


def differences(before: Locked, now: Locked) -> Iterator[str]:
    """Yield how a lock differs from an earlier one, as short texts."""
    yield from _changes("source", before.sources, now.sources)
    yield from _changes("target", before.targets, now.targets)


Entry = TypeVar("Entry", LockedSource, LockedTarget)


def _changes(kind: str, before: Mapping[str, Entry], now: Mapping[str, Entry]) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now:
            yield f"{kind} `{name}` {'is new' if name in now else 'is gone'}"
            continue
        files = list(_other_files(before[name].files, now[name].files))
        yield from (f"{kind} `{name}`: {path} {what}" for path, what in files)
        own_before, own_now = before[name]._replace(files=_NO_FILES), now[name]._replace(files=_NO_FILES)
        if own_before != own_now and not (kind == "source" and files):  # a source's hash covers its small files
            yield f"{kind} `{name}` changed"


def _other_files(before: Files, now: Files) -> Iterator[tuple[str, str]]:
    """Yield the files that differ, and how."""
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) != now.get(path):
            yield path, "changed" if path in before and path in now else "is new" if path in now else "is gone"


def _some(rows: Sequence[str]) -> Sequence[str]:
    """Return the first of many rows, and how many more there are."""
    return rows if len(rows) <= _MOST_TOLD else [*rows[:_MOST_TOLD], f"and {len(rows) - _MOST_TOLD} more"]


# Comparing with it


def other_source(locked: Locked, source: SourceFile, where: Place) -> Problem | None:
    """Return the problem of a source that differs from the lock, or None; its SHA-256 must be known."""
    before, now = locked.sources.get(source.name), LockedSource.of(source)
    if before is not None and (before.sha256, before.files) == (now.sha256, now.files):
        return None
    if before is None:
        message = f"source `{source.name}` is not in mergefile.lock"
        return Problem("lock-mismatch", message, where, _ACCEPT_SOURCE, (f"found   {now.sha256}  {source.shown}",))
    kind = "file" if source.model.folder is None else "folder"
    files = [f"{path} {what}" for path, what in _other_files(before.files, now.files)]
    message = f"source `{source.name}` is not the {kind} that mergefile.lock names"
    hashes = (f"locked  {before.sha256}", f"found   {now.sha256}  {source.shown}")
    return Problem("lock-mismatch", message, where, f"get that {kind}, or {_ACCEPT_SOURCE}", (*hashes, *_some(files)))


_ACCEPT_SOURCE: Final = "run `mergebuild lock` to accept this one"


def other_result(locked: Locked, made: Description, is_written: Callable[[str], bool]) -> Problem | None:
    """Return the problem of a target that differs from the lock, or None; its digest must be known.

    `is_written`: whether `mergebuild lock` would write a target.
    """
    before, now, where = locked.targets.get(made.name), LockedTarget.of(made), made.blueprint.target.where.place()
    if before == now:
        return None
    if before is None:
        message = f"target `{made.name}` is not in mergefile.lock"
        mend = _ACCEPT_RESULT if is_written(made.name) else _LIST_MEMBER
        return Problem("lock-result", message, where, mend, (f"now     {now.artifact}",))
    digests = (f"locked  {before.artifact}", f"now     {now.artifact}") if before.artifact != now.artifact else ()
    files = [f"{path} {what}" for path, what in _other_files(before.files, now.files)]
    message = f"target `{made.name}` is not what mergefile.lock says"
    return Problem("lock-result", message, where, _ACCEPT_RESULT, (*digests, *_some(files)))


_ACCEPT_RESULT: Final = "run `mergebuild lock` to accept what it is now"
_LIST_MEMBER: Final = (
    "a lock has the members that a family lists: add this one to its `foreach`, then run `mergebuild lock`"
)
