"""The store's database: its tables, and the rows of artifacts and of their tensors.

`ledger.py` reads and writes the rows about builds and sources. No row is believed without a look at the file: rows have
the file's stat data and the epoch in which these were recorded, and the shelf compares them. Rows that others rely on
carry a seal (`database.py`): a row whose seal doesn't fit counts as missing. Paths are stored relative to the store, so
that a project can be moved as a whole. If the database is lost, that costs work, never data.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mergebuild.store.contents import Contents, is_whole, pack, sealed_table
from mergebuild.store.database import Database, DatabaseDamagedError, opened, runs_statements, seal, sealed
from mergebuild.store.names import is_own
from mergebuild.store.values import DOUBTED, ArtifactRow
from mergebuild.system import filestate, platform, publishing
from mergebuild.system.filestate import Identity

__all__ = ["ARTIFACT", "RECORD", "SOURCE", "STATE", "State", "five", "opened_state"]

STATE = "state.sqlite3"
"""The database's name in the store."""

_VERSION = 7

_SCHEMA = """
CREATE TABLE IF NOT EXISTS source (
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    checksums BLOB, content BLOB, sha256 TEXT, used REAL, autov3 TEXT, boot TEXT, seal TEXT,
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS artifact (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never a number that another file had
    digest BLOB NOT NULL, header BLOB NOT NULL, path TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, boot TEXT,
    nonfinite INTEGER NOT NULL, contents BLOB NOT NULL, made REAL NOT NULL, project TEXT NOT NULL, seal TEXT
);
CREATE INDEX IF NOT EXISTS artifact_digest ON artifact (digest);
CREATE TABLE IF NOT EXISTS tensor ( -- no seals: the artifact's own table has the digest once more
    digest BLOB, artifact INTEGER REFERENCES artifact (id) ON DELETE CASCADE, ordinal INTEGER,
    PRIMARY KEY (digest, artifact, ordinal)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tensor_artifact ON tensor (artifact);
CREATE TABLE IF NOT EXISTS record (
    project TEXT, target TEXT, artifact BLOB NOT NULL, output TEXT, manifest TEXT NOT NULL, built REAL NOT NULL,
    fingerprint BLOB, header BLOB, tensors INTEGER, seal TEXT, keys BLOB, inputs BLOB, notices TEXT,
    PRIMARY KEY (project, target)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_inputs ON record (inputs);
CREATE TABLE IF NOT EXISTS inputs ( -- by what they are, as members of a family share them
    digest BLOB PRIMARY KEY, packed BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS finding (key BLOB PRIMARY KEY, text TEXT NOT NULL, found REAL NOT NULL) WITHOUT ROWID;
"""

ARTIFACT = (
    "id, digest, header, path, kind, device, inode, size, mtime_ns, ctime_ns, boot, nonfinite, contents, made, project"
)
"""The columns of an artifact's row, in the order that `artifact_of` takes; likewise `SOURCE` and `RECORD`."""

_SEALED = ARTIFACT.removeprefix("id, ").replace("contents, ", "")

SOURCE = "device, inode, size, mtime_ns, ctime_ns, checksums, content, sha256, autov3, used, boot, seal"

RECORD = "target, artifact, output, manifest, notices, fingerprint, header, tensors"


def opened_state(path: Path | None, *, durable: bool = False, patience: float | None = None) -> Database:
    """Open the database file of a store, brought to this version; None: one in memory. See `database.opened`."""
    return opened(path, durable=durable, schema=_SCHEMA, version=_VERSION, grow=_grow, patience=patience)


class State:
    """The database of a store. Not to be shared between threads.

    While there is no such file it is kept in memory, so that commands that only read write nothing.
    """

    def __init__(
        self, path: Path, *, durable: bool = False, patience: float | None = None, is_new: bool = False
    ) -> None:
        """Open it; `is_new`: make the file if there is none. `patience`: see `Database`."""
        self.path = path
        self._patience = patience
        self._base = str(path.parent)
        self._durable = durable
        self._asked = 0
        self._digests: set[bytes] | None = None
        self._digests_version = -1
        self._file: tuple[int, int] | None = None
        """Device and inode of the open file; None: it is in memory."""
        self.is_on_disk = is_new or path.is_file()
        self.is_blank = not self.is_on_disk
        """Whether nothing was ever built into it, as it is in memory only. Then queries can be saved."""
        self.db = self._open(path if self.is_on_disk else None)

    def write_to_disk(self) -> None:
        """Write a database that was only in memory to its file, whose folder exists by now.

        The caller holds the store's lock. If another process has made the file meanwhile, that one is used: what was
        learnt here is lost, and learnt again.
        """
        if self.is_on_disk:
            return
        with publishing.being_written(self.path) as temporary:
            self.db.copy_to(temporary)
            publishing.put_first(temporary, self.path)
        if self._durable:
            platform.sync_folder(self.path.parent)
        self.db.close()
        self.db = self._open(self.path)
        self._digests_version = -1
        self.is_blank = False
        self.is_on_disk = True

    def _open(self, path: Path | None) -> Database:
        self._file = _file_at(path) if path else None  # before it is opened: another that comes then shows
        return opened_state(path, durable=self._durable, patience=self._patience)

    def is_current(self) -> bool:
        """Whether opening the database again would open the same one, and it shows what other processes write.

        False if another process has made the file meanwhile, put it aside, or brought it to a later version.
        """
        try:
            is_ours = not self.is_on_disk or (self.db.version() == _VERSION and not runs_statements(self.db))
            return is_ours and not self.db.is_copy and _file_at(self.path) == self._file
        except (DatabaseDamagedError, sqlite3.Error):  # opening it again will raise the error
            return False

    def version(self) -> tuple[int, int]:
        """Return a value that changes after each write, by other processes and by this one."""
        return self.db.changes()

    def wait_for(self, patience: float | None) -> None:
        """Wait at most so many seconds for other processes from now on; see `Database`."""
        self._patience = patience
        self.db.wait_for(patience)

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Do all of what happens inside, or nothing."""
        return self.db.transaction()

    def has_artifacts(self) -> bool:
        """Whether any artifact is recorded."""
        return self.db.row("SELECT 1 FROM artifact LIMIT 1") is not None

    # Artifacts

    def artifacts(
        self,
        *,
        digest: bytes | None = None,
        header: bytes | None = None,
        path: Path | None = None,
        size: int | None = None,
        kind: str = "",
    ) -> list[ArtifactRow]:
        """Return the artifacts with this digest, header, path, size and kind (of those given); the newest first."""
        clauses: list[str] = []
        values: list[object] = []
        text = path and self.text(path)
        asked = {"digest": digest, "header": header, "path": text, "size": size, "kind": kind or None}
        for column, value in asked.items():
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        rows = self.db.rows(f"SELECT {ARTIFACT}, seal FROM artifact{where} ORDER BY made DESC, id DESC", values)
        return [found for row in rows if (found := self.artifact_of(row))]

    def numbers(self, digest: bytes, header: bytes) -> list[int]:
        """Return the row numbers of the artifacts with this digest: those with this header, then the newest first."""
        if self.is_blank:
            return []
        found = self.db.rows(
            "SELECT id FROM artifact WHERE digest = ? ORDER BY header != ?, made DESC, id DESC", (digest, header)
        )
        return [number for (number,) in found]

    def outputs(self, project: str | None, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project (None: of all) except those at these paths.

        Their tables (`packed`) are empty.
        """
        columns = ARTIFACT.replace("contents", "x''")
        whose, values = ("", ()) if project is None else (" AND project = ?", (project,))
        rows = self.db.rows(f"SELECT {columns}, seal FROM artifact WHERE kind = 'output'{whose}", values)
        found = (self.artifact_of(row) for row in rows)
        return [row for row in found if row and str(row.path) not in besides]

    def below(self, folder: Path, *, kind: str) -> list[ArtifactRow]:
        """Return the artifacts of a kind in a folder, of all projects, without their tables: `packed` is empty."""
        columns = ARTIFACT.replace("contents", "x''")
        begin = self.text(folder) + os.sep
        past = begin[:-1] + chr(ord(os.sep) + 1)
        rows = self.db.rows(
            f"SELECT {columns}, seal FROM artifact WHERE kind = ? AND path > ? AND path < ?", (kind, begin, past)
        )
        return [found for row in rows if (found := self.artifact_of(row))]

    def artifact(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number."""
        row = self.db.row(f"SELECT {ARTIFACT}, seal FROM artifact WHERE id = ?", (number,))
        return self.artifact_of(row) if row else None

    def add_artifact(self, row: ArtifactRow, digests: Sequence[bytes]) -> int:
        """Add an artifact (its `id` is ignored) in place of any other at its path; return its row number."""
        self.is_blank = False
        self.db.rows("DELETE FROM artifact WHERE path = ?", (self.text(row.path),))
        number = self.db.insert(
            f"INSERT INTO artifact ({ARTIFACT}, seal) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.digest, row.header, self.text(row.path), row.kind, *five_or_none(row.identity), row.epoch,
                row.nonfinite, row.packed, row.made, row.project, self._seal_of(row),
            ),
        )  # fmt: skip
        if self._digests is not None:
            self._digests.update(digests)
        self.db.many(
            "INSERT OR IGNORE INTO tensor VALUES (?, ?, ?)",
            [(digest, number, ordinal) for ordinal, digest in enumerate(digests)],
        )
        return number

    def add_file(
        self,
        path: Path,
        kind: str,
        digest: bytes,
        header: bytes,
        contents: Contents,
        project: str = "",
        *,
        was: Identity | None = None,
    ) -> int:
        """Add the row of an existing file; return its number.

        `was`: the file's stat data when its bytes were seen, if that is a while ago, so that a later change shows.
        """
        with self.transaction():
            state = was or filestate.identity(path)
            row = ArtifactRow(
                0, digest, header, path, kind, state, filestate.epoch(state.device),
                sum(entry.nonfinite for entry in contents), pack(contents), time.time(), project,
            )  # fmt: skip
            return self.add_artifact(row, [entry.digest for entry in contents])

    def move_artifact(
        self, number: int, path: Path, kind: str, identity: Identity | None, epoch: str, project: str | None = None
    ) -> None:
        """Record an artifact's new path and its file's stat data; it counts as the newest of its kind."""
        self.db.rows("DELETE FROM artifact WHERE path = ? AND id != ?", (self.text(path), number))
        row = self.artifact(number)
        if row is None:
            return
        row = row._replace(path=path, kind=kind, identity=identity, epoch=epoch, made=time.time())
        row = row._replace(project=row.project if project is None else project)
        self.db.rows(
            "UPDATE artifact SET path = ?, kind = ?, device = ?, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
            " boot = ?, made = ?, project = ?, seal = ? WHERE id = ?",
            (
                self.text(path), kind, *five_or_none(identity), epoch, row.made, row.project, self._seal_of(row),
                number,
            ),
        )  # fmt: skip

    def doubt_artifact(self, number: int) -> None:
        """Mark an artifact so that its bytes are read before it is believed again."""
        row = self.artifact(number)
        if row is not None:
            kept = self._seal_of(row._replace(epoch=DOUBTED))
            self.db.rows("UPDATE artifact SET boot = ?, seal = ? WHERE id = ?", (DOUBTED, kept, number))

    def forget_artifact(self, number: int) -> None:
        """Forget an artifact and its tensors."""
        self.db.rows("DELETE FROM artifact WHERE id = ?", (number,))

    def holders(self, digests: Iterable[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """Return the artifacts with tensors of these digests: by digest, pairs of row number and index in its table."""
        found: dict[bytes, list[tuple[int, int]]] = {}
        if self.is_blank:
            return found
        wanted = self._perhaps_held(list(digests))
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            marks = ",".join("?" * len(some))
            for digest, artifact, ordinal in self.db.rows(
                f"SELECT digest, artifact, ordinal FROM tensor WHERE digest IN ({marks})", some
            ):
                found.setdefault(digest, []).append((artifact, ordinal))
        return found

    def _perhaps_held(self, digests: list[bytes]) -> list[bytes]:
        """Return the digests without those that certainly no artifact has.

        A family of a thousand members asks for very many digests, most of which no artifact has. Then all digests of
        the table are read once and kept in memory, unless there are too many.
        """
        self._asked += len(digests)
        if self._asked < _MANY or not digests:
            return digests
        (version,) = self.db.row("PRAGMA data_version")  # changes when another connection writes
        if version != self._digests_version:
            self._read_digests(version)
        known = self._digests
        return digests if known is None else [digest for digest in digests if digest in known]

    def _read_digests(self, version: int) -> None:
        """Keep the digests of the table in memory, unless there are too many. `version`: of the database's content."""
        rows = self.db.rows(f"SELECT DISTINCT digest FROM tensor LIMIT {_MOST_KEPT + 1}")
        self._digests = {digest for (digest,) in rows} if len(rows) <= _MOST_KEPT else None
        self._digests_version = version

    # Paths and rows

    def text(self, path: Path) -> str:
        """Return a path as it is stored in rows: relative to the store's folder, if possible."""
        try:
            return os.path.relpath(path, self._base)
        except ValueError:  # another drive
            return str(path)

    def path_of(self, text: str) -> Path:
        """Return the path that is stored as this text."""
        return _path(self._absolute(text))

    def _absolute(self, text: str) -> str:
        return os.path.normpath(os.path.join(self._base, text))  # noqa: PTH118 -- `/` would keep `..`

    def artifact_of(self, row: Sequence[Any]) -> ArtifactRow | None:
        """Return the artifact of a row, whose last column is the seal.

        None if that doesn't fit, if the table is damaged, or if there can be no row of this kind for this path.
        """
        number, digest, header, path, kind, *five, boot, nonfinite, packed, made, project, kept = row
        if kept != seal(digest, header, path, kind, *five, boot, nonfinite, made, project):
            return None
        if not _is_placed(path, kind) or (packed and not is_whole(packed)):
            return None
        identity = Identity(*five) if five[0] is not None else None
        return ArtifactRow(
            number, digest, header, self.path_of(path), kind, identity, boot, nonfinite, packed, made, project
        )

    def _seal_of(self, row: ArtifactRow) -> str:
        return seal(
            row.digest, row.header, self.text(row.path), row.kind, *five_or_none(row.identity), row.epoch,
            row.nonfinite, row.made, row.project,
        )  # fmt: skip


@lru_cache(maxsize=1 << 14)
def _path(text: str) -> Path:
    """Return a path, one object for all rows that have it: a record and its artifact, of each of thousands."""
    return Path(text)


_MANY = 20_000
"""After so many digests were asked for, it pays to read all that there are."""
_MOST_KEPT = 500_000


def _grow(db: Database, version: int) -> None:
    """Update the rows of an older database to this version."""
    db.rows("ALTER TABLE record ADD COLUMN notices TEXT")
    if version < _SEALED_SINCE:
        _add_seals(db)
    for column in ("keys", "inputs") if version < _KEYS_SINCE else ():
        db.rows(f"ALTER TABLE record ADD COLUMN {column} BLOB")


_SEALED_SINCE = 5
_KEYS_SINCE = 6


def _add_seals(db: Database) -> None:
    for table in ("artifact", "record"):
        db.rows(f"ALTER TABLE {table} ADD COLUMN seal TEXT")
    for number, *fields, packed in db.rows(f"SELECT id, {_SEALED}, contents FROM artifact"):
        db.rows(
            "UPDATE artifact SET seal = ?, contents = ? WHERE id = ?", (seal(*fields), sealed_table(packed), number)
        )
    for project, target, artifact, output, manifest, _, *rest in db.rows(f"SELECT project, {RECORD} FROM record"):
        values = (seal(project, target, artifact, output, *rest), sealed(manifest), project, target)
        db.rows("UPDATE record SET seal = ?, manifest = ? WHERE project = ? AND target = ?", values)
    for table in ("source", "finding"):  # the schema makes them anew, and their rows are learnt again
        db.rows(f"DROP TABLE IF EXISTS {table}")


def _is_placed(path: str, kind: str) -> bool:
    """Return whether there can be a row of this kind for this path, given as the database has it.

    Files in the store's own folders are moved and removed without reading their bytes; they have names of their own. A
    database that came with an untrusted project may list any file as one of these, with a seal that fits.
    """
    if kind in ("kept", "history"):
        folder, name = os.path.split(path)  # relative to the store
        return folder == kind and is_own(kind, name)
    return kind != "intended" or any(map(publishing.is_temporary, Path(os.path.normpath(path)).parts))


def five(identity: Identity) -> tuple[int, int, int, int, int]:
    """Return the columns of an identity."""
    return (identity.device, identity.inode, identity.size, identity.mtime_ns, identity.ctime_ns)


def five_or_none(identity: Identity | None) -> tuple[int | None, ...]:
    return five(identity) if identity else (None,) * 5


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at a path; None if there is none, or it can't be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
