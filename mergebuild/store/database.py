"""The database file of a store: opens it, brings it to this version, and detects damage.

SQLite has checksums in its log but not in its pages, so a flipped bit may come back as another number. Rows that others
rely on therefore carry a *seal*, a checksum of their fields: a row whose seal doesn't fit counts as missing, which
costs work and never gives a wrong answer. If SQLite itself can't read something, `DatabaseDamagedError` is raised. As
one failed read may only look like damage, the caller reads again (`is_sound`), and puts the file aside only if that
fails too. A full disk, a missing permission or a lock is no damage, and is raised as SQLite reports it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import xxhash

from mergebuild.errors import Place, UsageError
from mergebuild.system import platform, space
from mergebuild.system.filestate import is_gone

__all__ = [
    "UNREADABLE",
    "Database",
    "DatabaseDamagedError",
    "is_sound",
    "opened",
    "put_aside",
    "runs_statements",
    "seal",
    "sealed",
    "text_of",
]

UNREADABLE: Final = ".unreadable"
"""Appended to the name of a damaged database that is put aside."""

_PAGES_BEFORE_CHECKPOINT: Final = 8192
"""32 MiB. A checkpoint waits for the disk: a build of ten thousand targets should do so a few times, not a hundred."""

_CIRCUMSTANCES: Final = frozenset(
    "ABORT AUTH BUSY CANTOPEN FULL INTERRUPT IOERR LOCKED NOLFS NOMEM PERM PROTOCOL READONLY".split()
)
"""SQLite's error codes for a hindrance by the machine or another process: the file may be undamaged."""

_PERHAPS_FULL: Final = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")
"""SQLite's error codes for a quota or a limit on file sizes, and also for a failing disk. (A full disk is FULL.)"""

_CUT_SHORT: Final = "SQLITE_IOERR_SHORT_READ"
"""The only error of reading that is damage."""

_SEAL: Final = 16
"""Length of a seal in a text, in characters."""


class DatabaseDamagedError(Exception):
    """The file is not what SQLite, or this program, wrote. Users never see it: the caller makes a new database."""


class Database:
    """A connection. All rows of a statement are read at once, so that damage shows in the call that asks for them."""

    def __init__(self, path: Path | None, *, patience: float | None = None) -> None:
        """Open a database file, which is made if it doesn't exist; None: a database in memory.

        A file in a folder that isn't writable is copied into memory; what is learnt then is lost. `patience`: for how
        many seconds to wait for a lock of SQLite's own that another process holds; None: a minute.

        Raises:
            DatabaseDamagedError: it cannot be read.
            sqlite3.Error: the system does not let it be opened.
        """
        is_fixed = path is not None and path.exists() and not os.access(path.parent, os.W_OK)
        self._path = None if is_fixed else path
        self.is_copy = is_fixed
        """Whether it has the file's content as it was when it was opened, without later changes."""
        with self._told():
            where = ":memory:" if path is None or is_fixed else path
            self._db = sqlite3.connect(where, timeout=_seconds(patience), isolation_level=None)
        try:
            if path is not None and is_fixed:
                self._read(path)
        except BaseException:
            self.close()
            raise

    def make_ready(self, *, durable: bool) -> None:
        """Set up the connection for writing; `durable`: each transaction is on the disk when it ends."""
        for setting in (
            "journal_mode = WAL",
            f"synchronous = {'FULL' if durable else 'NORMAL'}",
            f"wal_autocheckpoint = {_PAGES_BEFORE_CHECKPOINT}",
            "foreign_keys = ON",
        ):
            self.rows(f"PRAGMA {setting}")

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def wait_for(self, patience: float | None) -> None:
        """Wait at most so many seconds for a lock of SQLite's own from now on; see `__init__`."""
        self.rows(f"PRAGMA busy_timeout = {round(1000 * _seconds(patience))}")

    def changes(self) -> tuple[int, int]:
        """Return a number that changes when another connection writes, and how many rows this one has changed."""
        (others,) = self.row("PRAGMA data_version")
        return int(others), self._db.total_changes

    def version(self) -> int:
        """Return the version of its schema."""
        (version,) = self.row("PRAGMA user_version")
        return int(version)

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """Run a statement and return its rows.

        Raises:
            DatabaseDamagedError, sqlite3.Error: as when opening.
        """
        with self._told():
            return self._db.execute(statement, values).fetchall()

    def readable_rows(self, statement: str) -> list[Any]:
        """Return the rows of a statement before the first that can't be read."""
        found: list[Any] = []
        with contextlib.suppress(sqlite3.Error):
            self._db.text_factory = lambda raw: raw.decode(errors="replace")  # the seal of such a row won't fit
            found.extend(self._db.execute(statement))  # keeps the rows before a failure
        self._db.text_factory = str
        return found

    def row(self, statement: str, values: Sequence[object] = ()) -> Any:
        """Run a statement and return its first row, or None."""
        return next(iter(self.rows(statement, values)), None)

    def insert(self, statement: str, values: Sequence[object]) -> int:
        """Run an insertion and return the number of the new row."""
        with self._told():
            number = self._db.execute(statement, values).lastrowid
        assert number is not None
        return number

    def many(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        """Run a statement once for each tuple of values."""
        with self._told():
            self._db.executemany(statement, values)

    def _read(self, path: Path) -> None:
        """Copy the rows of a file that no process can be writing."""
        name = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with self._told(), contextlib.closing(sqlite3.connect(name, uri=True)) as fixed:
            fixed.backup(self._db)

    @contextlib.contextmanager
    def _told(self, path: Path | None = None) -> Iterator[None]:
        """Raise `DatabaseDamagedError` for damage, `OSError` for a full disk, and SQLite's other errors as they are.

        `path`: the file that they are about; None: the one that is open.
        """
        path = path or self._path
        try:
            yield
        except UnicodeDecodeError as error:
            raise DatabaseDamagedError(str(error)) from error
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", None) or ""
            kind = name.removeprefix("SQLITE_").partition("_")[0]
            if path is not None and _is_for_want_of_space(path, name, kind):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            if path is not None:
                error.filename = str(path)  # type: ignore[attr-defined]  # like an OSError's, for the message
            if isinstance(error, sqlite3.ProgrammingError) or (kind in _CIRCUMSTANCES and name != _CUT_SHORT):
                raise
            raise DatabaseDamagedError(str(error)) from error

    def copy_to(self, path: Path) -> None:
        """Write the whole database to a file."""
        with self._told(path), contextlib.closing(sqlite3.connect(path)) as other:
            self._db.backup(other)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of what happens inside, or nothing; no other process writes meanwhile."""
        self.rows("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # after some failures SQLite has rolled back by itself
                self._db.execute("ROLLBACK")
            raise
        self.rows("COMMIT")


def _is_for_want_of_space(path: Path, name: str, kind: str) -> bool:
    """Whether SQLite failed at a file because the disk is full or a limit is reached; `name`, `kind`: of its error."""
    if kind == "CANTOPEN" and platform.is_full(path.parent):
        return True
    return name in _PERHAPS_FULL and space.is_kept_from_growing(path)


def opened(
    path: Path | None,
    *,
    durable: bool,
    schema: str,
    version: int,
    grow: Callable[[Database, int], None],
    patience: float | None = None,
) -> Database:
    """Open a database and bring it to this schema and version; `path` None: a database in memory.

    `grow` brings the rows of an older database to this version: it is called, in a transaction, with it and its
    version.

    Raises:
        DatabaseDamagedError: it cannot be read, or is not what this program makes.
        UsageError: a later version of the program made it.
    """
    db = Database(path, patience=patience)
    try:
        if (found := db.version()) > version:  # first: its tables may be others than ours
            raise _of_a_later_version(path, found, version)
        db.make_ready(durable=durable)
        if runs_statements(db):
            raise DatabaseDamagedError("it runs statements of its own, and none of ours does")
        if db.version() != version:
            with db.transaction():
                _bring_to_version(db, schema, version, grow)
        for (name,) in db.rows("SELECT name FROM sqlite_schema WHERE type = 'table'"):
            db.rows(f'SELECT 1 FROM "{name}" LIMIT 1')  # shows damage after the first page now
    except BaseException:
        db.close()
        raise
    return db


def _bring_to_version(db: Database, schema: str, version: int, grow: Callable[[Database, int], None]) -> None:
    """Make the tables of a new database, or update an older one; the caller has begun a transaction."""
    found = db.version()  # another process may have been quicker
    if not 0 <= found <= version:
        raise DatabaseDamagedError(f"the state is of version {found}")
    if 0 < found < version:
        try:
            grow(db, found)
        except (TypeError, ValueError, AttributeError) as error:  # a field has another type than was written
            raise DatabaseDamagedError(str(error)) from error
    for statement in schema.split(";\n"):
        db.rows(statement)
    db.rows(f"PRAGMA user_version = {version}")


def runs_statements(db: Database) -> bool:
    """Whether a database has statements that run when it is used (triggers, views, virtual tables); ours have none."""
    found = db.row("SELECT 1 FROM sqlite_schema WHERE type IN ('trigger', 'view') OR sql LIKE 'CREATE VIRTUAL%'")
    return found is not None


def is_sound(open_: Callable[[], Database]) -> bool:
    """Open a database again, read all of it, and return whether it is undamaged after all.

    Raises:
        sqlite3.Error: the system does not let it be read.
    """
    try:
        with contextlib.closing(open_()) as db:
            return db.rows("PRAGMA integrity_check(1)") == [("ok",)]  # `quick_check` compares no index with its table
    except DatabaseDamagedError:
        return False


def put_aside(path: Path) -> Path:
    """Rename a damaged database; return its new name. No other process may be using it."""
    numbered = (f"{path.name}{UNREADABLE}-{number}" for number in itertools.count(2))
    names = itertools.chain([path.name + UNREADABLE], numbered)
    aside = next(place for name in names if is_gone(place := path.with_name(name)))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
    return aside


def _of_a_later_version(path: Path | None, found: int, version: int) -> UsageError:
    return UsageError.one(
        "later-version",
        f"the store's state is of version {found}, which a later mergebuild writes; this one knows up to {version}",
        where=Place(str(path)) if path else None,
        help="use that mergebuild, or name another store in MERGEBUILD_STORE; nothing was changed",
    )


def seal(*fields: object) -> str:
    """Return the checksum of the fields of a row: plain numbers, texts, bytes and None."""
    return xxhash.xxh3_64_hexdigest(repr(fields).encode())


def sealed(text: str, key: bytes = b"") -> str:
    """Return a text with its seal before it; the seal is also of `key`, by which the row is found. See `text_of`."""
    return xxhash.xxh3_64_hexdigest(key + text.encode()) + text


def text_of(found: object, key: bytes = b"") -> str | None:
    """Return the text that `sealed` was given; None if the seal does not fit."""
    if not isinstance(found, str) or sealed(found[_SEAL:], key) != found:
        return None
    return found[_SEAL:]


def _seconds(patience: float | None) -> float:
    return 60.0 if patience is None else patience
