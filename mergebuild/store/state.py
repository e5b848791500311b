"""The store's memory: an SQLite database of sources seen, artifacts made, and what each target was last built from.

Nothing in it is believed without a look at the file: rows carry the file's stat identity, and the boot in which it
was written, and `Store` compares. Paths are kept relative to the store, so that a project can be moved as a whole. A
database that cannot be read, or that another version wrote, is put aside and started afresh: what it knew costs work,
never data.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mergebuild import portable
from mergebuild.portable import Identity

__all__ = ["ArtifactRow", "Record", "SourceRow", "State"]

_VERSION = 5

_GROWS = (2, 3, 4)
"""Versions that only lack tables, and columns of `source`."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS source (
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    checksums BLOB, content BLOB, sha256 TEXT, used REAL, autov3 TEXT, boot TEXT,
    PRIMARY KEY (device, inode)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS artifact (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- never a number that another file had
    digest BLOB NOT NULL, header BLOB NOT NULL, path TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, boot TEXT,
    nonfinite INTEGER NOT NULL, contents BLOB NOT NULL, made REAL NOT NULL, project TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS artifact_digest ON artifact (digest);
CREATE TABLE IF NOT EXISTS tensor (
    digest BLOB, artifact INTEGER REFERENCES artifact (id) ON DELETE CASCADE, ordinal INTEGER,
    PRIMARY KEY (digest, artifact, ordinal)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tensor_artifact ON tensor (artifact);
CREATE TABLE IF NOT EXISTS record (
    project TEXT, target TEXT, artifact BLOB NOT NULL, output TEXT, manifest TEXT NOT NULL, built REAL NOT NULL,
    fingerprint BLOB, header BLOB, tensors INTEGER,
    PRIMARY KEY (project, target)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS finding (key BLOB PRIMARY KEY, text TEXT NOT NULL, found REAL NOT NULL) WITHOUT ROWID;
"""


class SourceRow(NamedTuple):
    """What was learnt of a source: the checksum of each tensor in file order, and perhaps hashes of the whole."""

    identity: Identity
    checksums: bytes | None
    content: bytes | None
    sha256: str | None
    autov3: str | None = None
    boot: str = ""
    """The only boot in which it is to be believed; empty: in any."""


class ArtifactRow(NamedTuple):
    """A file that holds an artifact. `kind`: `output`, `history`, `kept` (in the store), `intended` (not yet there)."""

    id: int
    digest: bytes
    header: bytes
    path: Path
    kind: str
    identity: Identity | None
    boot: str
    nonfinite: int
    packed: bytes
    made: float
    project: str
    """Whose output it is, as the project's folder relative to the store; empty for what `-o` wrote."""


class Record(NamedTuple):
    """The last build of a target: its artifact, where it was put, and the manifest to compare the next one with."""

    target: str
    artifact: bytes
    output: Path | None
    manifest: str
    """Empty where it was not asked for."""
    fingerprint: bytes | None = None
    """See `freshness.py`."""
    header: bytes = b""
    """The checksum of everything before the data."""
    tensors: int = 0


class State:
    """The database of a store. Not to be shared between threads.

    While the store's folder does not exist it is kept in memory, so that looking changes nothing.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._base = str(path.parent)
        self._durable = durable
        self._asked = 0
        self._digests: set[bytes] | None = None
        self._digests_version = -1
        self.is_on_disk = path.parent.is_dir()
        self._db = self._open() if self.is_on_disk else _connect(None, durable=False)

    def write_to_disk(self) -> None:
        """Turn a database that so far was only in memory into the file; its folder is there now."""
        if self.is_on_disk:
            return
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with contextlib.closing(sqlite3.connect(temporary)) as db:
            self._db.backup(db)
        # Another process may have been quicker: then what is known here is lost, and found out again.
        with contextlib.suppress(FileExistsError):
            if not portable.link_or_none(temporary, self.path) and not self.path.exists():
                temporary.replace(self.path)
        temporary.unlink(missing_ok=True)
        self._db.close()
        self._db = self._open()
        self._digests_version = -1
        self.is_on_disk = True

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self.path, durable=self._durable)
        except sqlite3.OperationalError:  # locked, read-only, no space: not a reason to start afresh
            raise
        except sqlite3.DatabaseError:
            _put_aside(self.path)
            return _connect(self.path, durable=self._durable)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing of what happens inside."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def has_artifacts(self) -> bool:
        """Whether anything was ever built and is not forgotten."""
        return self._db.execute("SELECT 1 FROM artifact LIMIT 1").fetchone() is not None

    # Sources

    def source(self, identity: Identity, boot: str) -> SourceRow | None:
        """Return what is known of exactly this state of a file, and to be believed in a boot."""
        row = self._db.execute(
            "SELECT checksums, content, sha256, autov3, boot FROM source"
            " WHERE device = ? AND inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND boot IN ('', ?)",
            (*_five(identity), boot),
        ).fetchone()
        return SourceRow(identity, *row) if row else None

    def remember_source(self, row: SourceRow) -> None:
        """Remember a source; what is None in `row`, and known and believed as much for the same state, stays."""
        known = self.source(row.identity, row.boot)
        if known:
            row = row._replace(
                checksums=row.checksums or known.checksums,
                content=row.content or known.content,
                sha256=row.sha256 or known.sha256,
                autov3=row.autov3 or known.autov3,
            )
        self._db.execute(
            "INSERT OR REPLACE INTO source VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*_five(row.identity), row.checksums, row.content, row.sha256, time.time(), row.autov3, row.boot),
        )

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
        text = path and self._text(path)
        asked = {"digest": digest, "header": header, "path": text, "size": size, "kind": kind or None}
        for column, value in asked.items():
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM artifact{where} ORDER BY made DESC, id DESC", values)
        return [self._artifact(row) for row in rows]

    def numbers(self, digest: bytes, header: bytes) -> list[int]:
        """Return the row numbers of the artifacts with this digest: those with this header, then the newest first."""
        found = self._db.execute(
            "SELECT id FROM artifact WHERE digest = ? ORDER BY header != ?, made DESC, id DESC", (digest, header)
        )
        return [number for (number,) in found]

    def outputs(self, project: str, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project but those at some paths, without their tables: `packed` is empty."""
        columns = _COLUMNS.replace("contents", "x''")
        found = self._db.execute(f"SELECT {columns} FROM artifact WHERE kind = 'output' AND project = ?", (project,))
        return [self._artifact(row) for row in found if self._absolute(row[3]) not in besides]

    def artifact(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM artifact WHERE id = ?", (number,)).fetchone()
        return self._artifact(row) if row else None

    def add_artifact(self, row: ArtifactRow, digests: Sequence[bytes]) -> int:
        """Add an artifact (its `id` is ignored), whatever stood at its path forgotten; return its row number."""
        self._db.execute("DELETE FROM artifact WHERE path = ?", (self._text(row.path),))
        number = self._db.execute(
            f"INSERT INTO artifact ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.digest, row.header, self._text(row.path), row.kind, *_five_or_none(row.identity), row.boot,
                row.nonfinite, row.packed, row.made, row.project,
            ),
        ).lastrowid  # fmt: skip
        assert number is not None
        if self._digests is not None:
            self._digests.update(digests)
        self._db.executemany(
            "INSERT OR IGNORE INTO tensor VALUES (?, ?, ?)",
            [(digest, number, ordinal) for ordinal, digest in enumerate(digests)],
        )
        return number

    def move_artifact(
        self, number: int, path: Path, kind: str, identity: Identity | None, boot: str, project: str | None = None
    ) -> None:
        """Say where an artifact lies now, and in what state its file is; it counts as the newest of its kind."""
        self._db.execute("DELETE FROM artifact WHERE path = ? AND id != ?", (self._text(path), number))
        self._db.execute(
            "UPDATE artifact SET path = ?, kind = ?, device = ?, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
            " boot = ?, made = ?, project = COALESCE(?, project) WHERE id = ?",
            (self._text(path), kind, *_five_or_none(identity), boot, time.time(), project, number),
        )

    def forget_artifact(self, number: int) -> None:
        """Forget an artifact and its tensors."""
        self._db.execute("DELETE FROM artifact WHERE id = ?", (number,))

    def holders(self, digests: Iterable[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """Return, for each tensor digest that any artifact holds, the artifacts and the ordinals in them."""
        found: dict[bytes, list[tuple[int, int]]] = {}
        wanted = self._perhaps_held(list(digests))
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            marks = ",".join("?" * len(some))
            for digest, artifact, ordinal in self._db.execute(
                f"SELECT digest, artifact, ordinal FROM tensor WHERE digest IN ({marks})", some
            ):
                found.setdefault(digest, []).append((artifact, ordinal))
        return found

    def _perhaps_held(self, digests: list[bytes]) -> list[bytes]:
        """Return the digests without those that surely no artifact holds.

        Who asks for very many (a family of a thousand members) mostly asks for what nobody has: then all digests
        that there are, unless they are too many, are read once and kept in memory.
        """
        self._asked += len(digests)
        if self._asked < _MANY or not digests:
            return digests
        (version,) = self._db.execute("PRAGMA data_version").fetchone()  # another one's changes show in it
        if version != self._digests_version:
            rows = self._db.execute(f"SELECT DISTINCT digest FROM tensor LIMIT {_MOST_KEPT + 1}").fetchall()
            self._digests = {digest for (digest,) in rows} if len(rows) <= _MOST_KEPT else None
            self._digests_version = version
        known = self._digests
        return digests if known is None else [digest for digest in digests if digest in known]

    # What was found out about whole tensors

    def findings(self) -> dict[bytes, str]:
        """Return all findings, by what they follow from."""
        return dict(self._db.execute("SELECT key, text FROM finding"))

    def keep_findings(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings; of too many, the newest."""
        now = time.time()
        rows = [(key, text, now) for key, text in findings.items()]
        self._db.executemany("INSERT OR REPLACE INTO finding VALUES (?, ?, ?)", rows)
        self._db.execute(
            "DELETE FROM finding WHERE found < (SELECT found FROM finding ORDER BY found DESC LIMIT 1 OFFSET ?)",
            (_FINDINGS,),
        )

    # Records of targets

    def record(self, project: str, target: str) -> Record | None:
        """Return the last build of a target."""
        row = self._db.execute(
            f"SELECT {_RECORD} FROM record WHERE project = ? AND target = ?", (project, target)
        ).fetchone()
        return self._record(row) if row else None

    def records(self, project: str) -> list[Record]:
        """Return the last build of every target of a project, without the manifests."""
        columns = _RECORD.replace("manifest", "''")
        rows = self._db.execute(f"SELECT {columns} FROM record WHERE project = ? ORDER BY target", (project,))
        return [self._record(row) for row in rows]

    def published(self, project: str, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets that have a fingerprint, each with the row of its very output.

        Builds whose output has no row, or one of another artifact, are left out, and so are manifests and tables.
        """
        wanted = set(targets)
        some = f" AND r.target IN ({','.join('?' * len(wanted))})" if len(wanted) <= _MOST_ASKED else ""
        found = self._db.execute(
            f"SELECT {_PUBLISHED} FROM record r JOIN artifact a ON a.path = r.output"
            " WHERE r.project = ? AND r.fingerprint IS NOT NULL AND r.output IS NOT NULL"
            f" AND a.kind = 'output' AND a.digest = r.artifact AND a.header = r.header{some}",
            (project, *(wanted if some else ())),
        )
        pairs = []
        for target, artifact, output, manifest, fingerprint, header, tensors, *row in found:
            if target in wanted:
                path = self._path(output)
                record = Record(target, artifact, path, manifest, fingerprint, header, tensors)
                pairs.append((record, self._artifact(row, path)))
        return pairs

    def put_record(self, project: str, record: Record) -> None:
        """Remember the last build of a target."""
        self._db.execute(
            "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                project, record.target, record.artifact, self._text(record.output) if record.output else None,
                record.manifest, time.time(), record.fingerprint, record.header, record.tensors,
            ),
        )  # fmt: skip

    def forget_record(self, project: str, target: str) -> None:
        """Forget the last build of a target."""
        self._db.execute("DELETE FROM record WHERE project = ? AND target = ?", (project, target))

    def wanted(self) -> set[bytes]:
        """Return the artifact of every record of every project."""
        return {row[0] for row in self._db.execute("SELECT DISTINCT artifact FROM record")}

    # Paths and rows

    def _text(self, path: Path) -> str:
        try:
            return os.path.relpath(path, self._base)
        except ValueError:  # another drive
            return str(path)

    def _path(self, text: str) -> Path:
        return Path(self._absolute(text))

    def _absolute(self, text: str) -> str:
        return os.path.normpath(os.path.join(self._base, text))  # noqa: PTH118 -- `/` would not take `..` away

    def _artifact(self, row: Sequence[Any], known: Path | None = None) -> ArtifactRow:
        number, digest, header, path, kind, *five, boot, nonfinite, packed, made, project = row
        identity = Identity(*five) if five[0] is not None else None
        return ArtifactRow(
            number, digest, header, known or self._path(path), kind, identity, boot, nonfinite, packed, made, project
        )

    def _record(self, row: Sequence[Any]) -> Record:
        target, artifact, output, *rest = row
        return Record(target, artifact, self._path(output) if output else None, *rest)


_COLUMNS = (
    "id, digest, header, path, kind, device, inode, size, mtime_ns, ctime_ns, boot, nonfinite, contents, made, project"
)
_RECORD = "target, artifact, output, manifest, fingerprint, header, tensors"
_PUBLISHED = (
    ", ".join([f"r.{column}" for column in _RECORD.split(", ")] + [f"a.{column}" for column in _COLUMNS.split(", ")])
    .replace("r.manifest", "''")
    .replace("a.contents", "x''")
)

_PAGES_BEFORE_CHECKPOINT = 8192
"""32 MiB. A checkpoint waits for the disk: a build of ten thousand targets should do so a few times, not a hundred."""

_FINDINGS = 100_000
"""How many findings are kept: each is some numbers about a tensor."""

_MANY = 20_000
"""Digests asked for after which it pays to know all that there are."""
_MOST_KEPT = 500_000

_MOST_ASKED = 500
"""Names asked for in one statement; of more, all are read."""


def _connect(path: Path | None, *, durable: bool) -> sqlite3.Connection:
    """Open a database, made new when it is empty; None: in memory."""
    db = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BEFORE_CHECKPOINT}")
        db.execute("PRAGMA foreign_keys = ON")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, *_GROWS, _VERSION):
            message = f"the state is of version {version}, and this program writes version {_VERSION}"
            raise sqlite3.DatabaseError(message)
        if version != _VERSION:
            db.executescript(_SCHEMA)
            _grow(db)
        for table in ("source", "artifact", "tensor", "record", "finding"):  # damage behind the first page shows now
            db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _grow(db: sqlite3.Connection) -> None:
    """Bring a database with all tables to this version, unless another process was quicker."""
    db.execute("BEGIN IMMEDIATE")
    there = {name for _, name, *_ in db.execute("PRAGMA table_info(source)")}
    for column in ("autov3", "boot"):  # without a boot, a row of before is believed in none
        if column not in there:
            db.execute(f"ALTER TABLE source ADD COLUMN {column} TEXT")
    db.execute(f"PRAGMA user_version = {_VERSION}")
    db.execute("COMMIT")


def _put_aside(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.replace(path.with_name(path.name + ".unreadable"))


def _five(identity: Identity) -> tuple[int, int, int, int, int]:
    return (identity.device, identity.inode, identity.size, identity.mtime_ns, identity.ctime_ns)


def _five_or_none(identity: Identity | None) -> tuple[int | None, ...]:
    return _five(identity) if identity else (None,) * 5
