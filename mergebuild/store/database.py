"""The database file of a store: opened, of the right version, and honest about damage.

SQLite guards its log by checksums and its pages not at all, so a flipped bit may come back as another number. Rows
that others rely on therefore carry a *seal*, a checksum of their fields: a row whose seal is broken counts as unknown,
which costs work and never gives a wrong answer. What SQLite itself cannot read is `DatabaseDamagedError`. As one read
that fails looks like damage too, the caller looks again (`is_sound`), and only what fails twice is put aside. Want of
space, of permission or of a lock is no damage, and comes as SQLite says it.
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
"""What the name of a damaged database is given when it is put aside."""

_PAGES_BEFORE_CHECKPOINT: Final = 8192
"""32 MiB. A checkpoint waits for the disk: a build of ten thousand targets should do so a few times, not a hundred."""

_CIRCUMSTANCES: Final = frozenset(
    "ABORT AUTH BUSY CANTOPEN FULL INTERRUPT IOERR LOCKED NOLFS NOMEM PERM PROTOCOL READONLY".split()
)
"""What SQLite answers when the machine or another process is in the way, and the file may be as sound as ever."""

_PERHAPS_FULL: Final = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")
"""What SQLite answers to a quota and to a limit on files, and to a disk that fails. (A full disk is FULL.)"""

_CUT_SHORT: Final = "SQLITE_IOERR_SHORT_READ"
"""The one failure of reading that is damage."""

_SEAL: Final = 16
"""Characters of a seal in a text."""


class DatabaseDamagedError(Exception):
    """The file is not what SQLite, or this program, wrote. Never shown: who meets it begins afresh."""


class Database:
    """A connection. Rows come all at once, so that whatever is wrong with the file shows in the call that asks."""

    def __init__(self, path: Path | None, *, patience: float | None = None) -> None:
        """Open a database file, made when there is none; None: one in memory.

        What lies in a folder that can't be written to is read into memory: what is learnt is lost then. `patience`:
        seconds for which a lock of SQLite's own, which another process holds, is waited for; None: a minute.

        Raises:
            DatabaseDamagedError: it cannot be read.
            sqlite3.Error: the system does not let it be opened.
        """
        is_fixed = path is not None and path.exists() and not os.access(path.parent, os.W_OK)
        self._path = None if is_fixed else path
        self.is_copy = is_fixed
        """Whether it is what a file held when it was opened, and shows nothing that was written to that since."""
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
        """Have it written to as this program does; `durable`: each transaction is on the disk when it is over."""
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
        """Wait for a lock of SQLite's own for so many seconds from now on; see `__init__`."""
        self.rows(f"PRAGMA busy_timeout = {round(1000 * _seconds(patience))}")

    def changes(self) -> tuple[int, int]:
        """Return what is another after each change of another connection, and how many rows this one changed."""
        (others,) = self.row("PRAGMA data_version")
        return int(others), self._db.total_changes

    def version(self) -> int:
        """Return the version of what is in it."""
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
        """Return the rows of a statement up to the first that can't be read."""
        found: list[Any] = []
        with contextlib.suppress(sqlite3.Error):
            self._db.text_factory = lambda raw: raw.decode(errors="replace")  # where that is needed a seal is broken
            found.extend(self._db.execute(statement))  # keeps those before a failure
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
        """Copy what a file that nobody can be writing holds."""
        name = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with self._told(), contextlib.closing(sqlite3.connect(name, uri=True)) as fixed:
            fixed.backup(self._db)

    @contextlib.contextmanager
    def _told(self, path: Path | None = None) -> Iterator[None]:
        """Tell damage, and a full disk, from whatever else SQLite says of this file (None: the one that is open)."""
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
                error.filename = str(path)  # type: ignore[attr-defined]  # as an OSError's, for whoever tells people
            if isinstance(error, sqlite3.ProgrammingError) or (kind in _CIRCUMSTANCES and name != _CUT_SHORT):
                raise
            raise DatabaseDamagedError(str(error)) from error

    def copy_to(self, path: Path) -> None:
        """Write the whole database to a file."""
        with self._told(path), contextlib.closing(sqlite3.connect(path)) as other:
            self._db.backup(other)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing of what happens inside; nobody else writes meanwhile."""
        self.rows("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # which SQLite has done already after some failures
                self._db.execute("ROLLBACK")
            raise
        self.rows("COMMIT")


def _is_for_want_of_space(path: Path, name: str, kind: str) -> bool:
    """Whether that is why SQLite failed at a file; `name` and `kind` are of its error."""
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
    """Open a database that has this schema and version; None: in memory.

    `grow` is called, in a transaction, with an older one and its version, and brings its rows to this version.

    Raises:
        DatabaseDamagedError: it cannot be read, or is not what this program makes.
        UsageError: a later version of the program made it.
    """
    db = Database(path, patience=patience)
    try:
        if (found := db.version()) > version:  # before anything else, for what it has may be of another kind
            raise _of_a_later_version(path, found, version)
        db.make_ready(durable=durable)
        if runs_statements(db):
            raise DatabaseDamagedError("it runs statements of its own, and none of ours does")
        if db.version() != version:
            with db.transaction():
                _bring_to_version(db, schema, version, grow)
        for (name,) in db.rows("SELECT name FROM sqlite_schema WHERE type = 'table'"):
            db.rows(f'SELECT 1 FROM "{name}" LIMIT 1')  # damage behind the first page shows now
    except BaseException:
        db.close()
        raise
    return db


def _bring_to_version(db: Database, schema: str, version: int, grow: Callable[[Database, int], None]) -> None:
    """Make the tables of a new database, or have an older one grow, in a transaction of the caller's."""
    found = db.version()  # another process may have been quicker
    if not 0 <= found <= version:
        raise DatabaseDamagedError(f"the state is of version {found}")
    if 0 < found < version:
        try:
            grow(db, found)
        except (TypeError, ValueError, AttributeError) as error:  # a field is of another kind than it was
            raise DatabaseDamagedError(str(error)) from error
    for statement in schema.split(";\n"):
        db.rows(statement)
    db.rows(f"PRAGMA user_version = {version}")


def runs_statements(db: Database) -> bool:
    """Whether a database has statements of its own that run when it is used; none of ours does."""
    found = db.row("SELECT 1 FROM sqlite_schema WHERE type IN ('trigger', 'view') OR sql LIKE 'CREATE VIRTUAL%'")
    return found is not None


def is_sound(open_: Callable[[], Database]) -> bool:
    """Open a database again, read all of it, and return whether it is sound after all.

    Raises:
        sqlite3.Error: the system does not let it be read.
    """
    try:
        with contextlib.closing(open_()) as db:
            return db.rows("PRAGMA integrity_check(1)") == [("ok",)]  # the quick one compares no index with its table
    except DatabaseDamagedError:
        return False


def put_aside(path: Path) -> Path:
    """Take a database that is damaged out of the way; return its new name. Nobody may be writing to it."""
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
    """Return a text with a seal of its own before it, and of the key that it is found by; `text_of` takes it off."""
    return xxhash.xxh3_64_hexdigest(key + text.encode()) + text


def text_of(found: object, key: bytes = b"") -> str | None:
    """Return the text in what `sealed` made; None if it is no longer that."""
    if not isinstance(found, str) or sealed(found[_SEAL:], key) != found:
        return None
    return found[_SEAL:]


def _seconds(patience: float | None) -> float:
    return 60.0 if patience is None else patience
