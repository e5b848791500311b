"""The store's memory: an SQLite database of sources seen, artifacts made, and what each target was last built from.

Nothing in it is believed without a look at the file: rows carry the file's stat identity, and the boot in which it
was written, and `Store` compares. Rows that others rely on carry a seal (`database.py`): one that is broken counts as
no row. Paths are kept relative to the store, so that a project can be moved as a whole. What the database knew costs
work when it is lost, never data.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergebuild.digest import checksum
from mergebuild.store.contents import Contents, is_whole, pack, sealed_table, unpack
from mergebuild.store.database import (
    Database,
    DatabaseDamagedError,
    is_sound,
    opened,
    put_aside,
    runs_statements,
    seal,
    sealed,
    text_of,
)
from mergebuild.store.names import is_own
from mergebuild.store.values import DOUBTED, ArtifactRow, PackedKeys, Record, SourceRow
from mergebuild.system import portable, publishing
from mergebuild.system.portable import Identity

__all__ = ["STATE", "State", "begin_afresh"]

STATE = "state.sqlite3"
"""The database's name in the store."""

_VERSION = 6

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
    fingerprint BLOB, header BLOB, tensors INTEGER, seal TEXT, keys BLOB, inputs BLOB,
    PRIMARY KEY (project, target)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_inputs ON record (inputs);
CREATE TABLE IF NOT EXISTS inputs ( -- by what they are, as members of a family share them
    digest BLOB PRIMARY KEY, packed BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS finding (key BLOB PRIMARY KEY, text TEXT NOT NULL, found REAL NOT NULL) WITHOUT ROWID;
"""


def begin_afresh(path: Path, *, look_again: bool = True) -> tuple[Path, int] | None:
    """Put a damaged database aside, and make a new one of what can be read of it; None: it is sound after all.

    Nobody else may be using it. Returns where the old one is now, and how many of its rows were kept. `look_again`:
    whether it may be sound.

    Raises:
        sqlite3.Error: the system does not let it be read.
    """
    if look_again and is_sound(lambda: _opened(path)):
        return None
    with publishing.being_written(path) as temporary, contextlib.closing(State(temporary, is_new=True)) as state:
        kept = state.take_over(path)
        aside = put_aside(path)
        state.close()
        publishing.put_first(temporary, path)
    return aside, kept


def _opened(path: Path | None, *, durable: bool = False, patience: float | None = None) -> Database:
    return opened(path, durable=durable, schema=_SCHEMA, version=_VERSION, grow=_grow, patience=patience)


class State:
    """The database of a store. Not to be shared between threads.

    While there is no such file it is kept in memory, so that looking changes nothing.
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
        self.is_on_disk = is_new or path.is_file()
        self._db = self._open(path if self.is_on_disk else None)

    def write_to_disk(self) -> None:
        """Turn a database that so far was only in memory into the file; its folder is there now.

        The caller holds the store's lock. Where another process was quicker, what is known here is lost, and found out
        again.
        """
        if self.is_on_disk:
            return
        with publishing.being_written(self.path) as temporary:
            self._db.copy_to(temporary)
            publishing.put_first(temporary, self.path)
        if self._durable:
            portable.sync_folder(self.path.parent)
        self._db.close()
        self._db = self._open(self.path)
        self._digests_version = -1
        self.is_on_disk = True

    def _open(self, path: Path | None) -> Database:
        return _opened(path, durable=self._durable, patience=self._patience)

    def take_over(self, path: Path) -> int:
        """Take over the rows of a damaged database that can be read and whose seals hold; return how many."""
        try:
            damaged = Database(path)
        except (DatabaseDamagedError, sqlite3.Error):
            return 0
        with contextlib.closing(damaged):
            try:
                if runs_statements(damaged):
                    return 0
            except (DatabaseDamagedError, sqlite3.Error):
                return 0
            artifacts = _all_of(damaged, f"{_COLUMNS}, seal", "artifact", "id")
            records = _all_of(damaged, f"project, {_RECORD}, seal", "record", "project, target")
            sources = _all_of(damaged, _SOURCE, "source", "device, inode")
            findings = _all_of(damaged, "key, text", "finding", "key")
        taken = 0
        with self.transaction():
            for each in artifacts:
                if (row := self._artifact(each)) is not None:
                    self.add_artifact(row, [entry.digest for entry in unpack(row.packed)])
                    taken += 1
            for project, *rest in records:
                if (record := self._record(rest, project)) is not None:
                    self.put_record(project, record)
                    taken += 1
            for each in sources:
                if (source := _source_of(each)) is not None:
                    self.remember_source(source)
                    taken += 1
            known = {key: text for key, found in findings if (text := text_of(found, key)) is not None}
            self.keep_findings(known)
        return taken + len(known)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Do all or nothing of what happens inside."""
        return self._db.transaction()

    def has_artifacts(self) -> bool:
        """Whether anything was ever built and is not forgotten."""
        return self._db.row("SELECT 1 FROM artifact LIMIT 1") is not None

    # Sources

    def source(self, identity: Identity, epoch: str) -> SourceRow | None:
        """Return what is known of exactly this state of a file, and to be believed in an epoch."""
        row = self._db.row(
            "SELECT checksums, content, sha256, autov3, boot, seal FROM source"
            " WHERE device = ? AND inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND boot IN ('', ?)",
            (*_five(identity), epoch),
        )
        known = SourceRow(identity, *row[:-1]) if row else None
        return known if known and row[-1] == _seal_of_source(known) else None

    def remember_source(self, row: SourceRow) -> None:
        """Remember a source; what is None in `row`, and known and believed as much for the same state, stays."""
        known = self.source(row.identity, row.epoch)
        if known:
            row = row._replace(
                checksums=row.checksums or known.checksums,
                content=row.content or known.content,
                sha256=row.sha256 or known.sha256,
                autov3=row.autov3 or known.autov3,
            )
        self._db.rows(
            f"INSERT OR REPLACE INTO source ({_SOURCE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *_five(row.identity), row.checksums, row.content, row.sha256, row.autov3, time.time(), row.epoch,
                _seal_of_source(row),
            ),
        )  # fmt: skip

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
        rows = self._db.rows(f"SELECT {_COLUMNS}, seal FROM artifact{where} ORDER BY made DESC, id DESC", values)
        return [found for row in rows if (found := self._artifact(row))]

    def numbers(self, digest: bytes, header: bytes) -> list[int]:
        """Return the row numbers of the artifacts with this digest: those with this header, then the newest first."""
        found = self._db.rows(
            "SELECT id FROM artifact WHERE digest = ? ORDER BY header != ?, made DESC, id DESC", (digest, header)
        )
        return [number for (number,) in found]

    def outputs(self, project: str | None, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project (None: of all) but those at some paths, without tables: `packed` is empty."""
        columns = _COLUMNS.replace("contents", "x''")
        whose, values = ("", ()) if project is None else (" AND project = ?", (project,))
        rows = self._db.rows(f"SELECT {columns}, seal FROM artifact WHERE kind = 'output'{whose}", values)
        found = (self._artifact(row) for row in rows)
        return [row for row in found if row and str(row.path) not in besides]

    def below(self, folder: Path, *, kind: str) -> list[ArtifactRow]:
        """Return the artifacts of a kind in a folder, whoever's they are, without their tables: `packed` is empty."""
        columns = _COLUMNS.replace("contents", "x''")
        begin = self._text(folder) + os.sep
        past = begin[:-1] + chr(ord(os.sep) + 1)
        rows = self._db.rows(
            f"SELECT {columns}, seal FROM artifact WHERE kind = ? AND path > ? AND path < ?", (kind, begin, past)
        )
        return [found for row in rows if (found := self._artifact(row))]

    def artifact(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number."""
        row = self._db.row(f"SELECT {_COLUMNS}, seal FROM artifact WHERE id = ?", (number,))
        return self._artifact(row) if row else None

    def add_artifact(self, row: ArtifactRow, digests: Sequence[bytes]) -> int:
        """Add an artifact (its `id` is ignored), whatever stood at its path forgotten; return its row number."""
        self._db.rows("DELETE FROM artifact WHERE path = ?", (self._text(row.path),))
        number = self._db.insert(
            f"INSERT INTO artifact ({_COLUMNS}, seal) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.digest, row.header, self._text(row.path), row.kind, *_five_or_none(row.identity), row.epoch,
                row.nonfinite, row.packed, row.made, row.project, self._seal_of(row),
            ),
        )  # fmt: skip
        if self._digests is not None:
            self._digests.update(digests)
        self._db.many(
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
        """Add the row of a file that is there; return its number.

        `was`: the state in which its bytes were seen, if that is a while ago: a change since shows.
        """
        with self.transaction():
            state = was or portable.identity(path)
            row = ArtifactRow(
                0, digest, header, path, kind, state, portable.epoch(state.device),
                sum(entry.nonfinite for entry in contents), pack(contents), time.time(), project,
            )  # fmt: skip
            return self.add_artifact(row, [entry.digest for entry in contents])

    def move_artifact(
        self, number: int, path: Path, kind: str, identity: Identity | None, epoch: str, project: str | None = None
    ) -> None:
        """Say where an artifact lies now, and in what state its file is; it counts as the newest of its kind."""
        self._db.rows("DELETE FROM artifact WHERE path = ? AND id != ?", (self._text(path), number))
        row = self.artifact(number)
        if row is None:
            return
        row = row._replace(path=path, kind=kind, identity=identity, epoch=epoch, made=time.time())
        row = row._replace(project=row.project if project is None else project)
        self._db.rows(
            "UPDATE artifact SET path = ?, kind = ?, device = ?, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
            " boot = ?, made = ?, project = ?, seal = ? WHERE id = ?",
            (
                self._text(path), kind, *_five_or_none(identity), epoch, row.made, row.project, self._seal_of(row),
                number,
            ),
        )  # fmt: skip

    def doubt_artifact(self, number: int) -> None:
        """Have the bytes of an artifact read before it is believed again."""
        row = self.artifact(number)
        if row is not None:
            kept = self._seal_of(row._replace(epoch=DOUBTED))
            self._db.rows("UPDATE artifact SET boot = ?, seal = ? WHERE id = ?", (DOUBTED, kept, number))

    def forget_artifact(self, number: int) -> None:
        """Forget an artifact and its tensors."""
        self._db.rows("DELETE FROM artifact WHERE id = ?", (number,))

    def holders(self, digests: Iterable[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """Return, for each tensor digest that any artifact holds, the artifacts and the ordinals in them."""
        found: dict[bytes, list[tuple[int, int]]] = {}
        wanted = self._perhaps_held(list(digests))
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            marks = ",".join("?" * len(some))
            for digest, artifact, ordinal in self._db.rows(
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
        (version,) = self._db.row("PRAGMA data_version")  # another one's changes show in it
        if version != self._digests_version:
            rows = self._db.rows(f"SELECT DISTINCT digest FROM tensor LIMIT {_MOST_KEPT + 1}")
            self._digests = {digest for (digest,) in rows} if len(rows) <= _MOST_KEPT else None
            self._digests_version = version
        known = self._digests
        return digests if known is None else [digest for digest in digests if digest in known]

    # What was found out about whole tensors

    def findings(self) -> dict[bytes, str]:
        """Return all findings, by what they follow from."""
        rows = self._db.rows("SELECT key, text FROM finding")
        return {key: text for key, found in rows if (text := text_of(found, key)) is not None}

    def keep_findings(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings; of too many, the newest."""
        now = time.time()
        rows = [(key, sealed(text, key), now) for key, text in findings.items()]
        self._db.many("INSERT OR REPLACE INTO finding VALUES (?, ?, ?)", rows)
        self._db.rows(
            "DELETE FROM finding WHERE found < (SELECT found FROM finding ORDER BY found DESC LIMIT 1 OFFSET ?)",
            (_FINDINGS,),
        )

    # Records of targets

    def record(self, project: str, target: str) -> Record | None:
        """Return the last build of a target."""
        row = self._db.row(f"SELECT {_RECORD}, seal FROM record WHERE project = ? AND target = ?", (project, target))
        return self._record(row, project) if row else None

    def records(self, project: str) -> list[Record]:
        """Return the last build of every target of a project, without the manifests."""
        columns = _RECORD.replace("manifest", "''")
        rows = self._db.rows(f"SELECT {columns}, seal FROM record WHERE project = ? ORDER BY target", (project,))
        return [found for row in rows if (found := self._record(row, project))]

    def published(self, project: str, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets that have a fingerprint, each with the row of its very output.

        Builds whose output has no row, or one of another artifact, are left out, and so are manifests and tables.
        """
        wanted = set(targets)
        some = f" AND r.target IN ({','.join('?' * len(wanted))})" if len(wanted) <= _MOST_ASKED else ""
        found = self._db.rows(
            f"SELECT {_PUBLISHED} FROM record r JOIN artifact a ON a.path = r.output"
            " WHERE r.project = ? AND r.fingerprint IS NOT NULL AND r.output IS NOT NULL"
            f" AND a.kind = 'output' AND a.digest = r.artifact AND a.header = r.header{some}",
            (project, *(wanted if some else ())),
        )
        pairs = []
        for row in found:
            if row[0] in wanted:
                record, artifact = self._record(row[:_FIELDS], project), self._artifact(row[_FIELDS:])
                if record and artifact:
                    pairs.append((record, artifact))
        return pairs

    def put_record(self, project: str, record: Record, keys: PackedKeys | None = None) -> None:
        """Remember the last build of a target, and what its tensors followed from."""
        output = self._text(record.output) if record.output else None
        facts = (record.target, record.artifact, output, record.fingerprint, record.header, record.tensors)
        before = self._inputs_of(project, record.target)
        inputs = checksum(keys.inputs) if keys else None
        if keys and inputs != before:
            self._db.rows("INSERT OR IGNORE INTO inputs VALUES (?, ?)", (inputs, keys.inputs))
        self._db.rows(
            f"INSERT OR REPLACE INTO record (project, {_RECORD}, built, seal, keys, inputs)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                project, record.target, record.artifact, output, sealed(record.manifest), record.fingerprint,
                record.header, record.tensors, time.time(), seal(project, *facts),
                checksum(keys.lines) + keys.lines if keys else None, inputs,
            ),
        )  # fmt: skip
        if before != inputs:
            self._forget_inputs(before)

    def keys(self, project: str, target: str) -> PackedKeys | None:
        """Return what the tensors of a target's last build followed from; None where that is not on record."""
        row = self._db.row(
            "SELECT r.keys, i.digest, i.packed FROM record r JOIN inputs i ON i.digest = r.inputs"
            " WHERE r.project = ? AND r.target = ?",
            (project, target),
        )
        if row is None or not all(isinstance(each, bytes) for each in row):
            return None
        found = PackedKeys(row[0][_CHECKSUM:], row[2])
        is_sound = row[0][:_CHECKSUM] == checksum(found.lines) and row[1] == checksum(found.inputs)
        return found if is_sound else None

    def _inputs_of(self, project: str, target: str) -> bytes | None:
        row = self._db.row("SELECT inputs FROM record WHERE project = ? AND target = ?", (project, target))
        return row[0] if row else None

    def _forget_inputs(self, digest: bytes | None) -> None:
        """Forget inputs that no record names."""
        if digest is not None:
            self._db.rows(
                "DELETE FROM inputs WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM record WHERE inputs = ?)",
                (digest, digest),
            )

    def forget_record(self, project: str, target: str) -> None:
        """Forget the last build of a target."""
        inputs = self._inputs_of(project, target)
        self._db.rows("DELETE FROM record WHERE project = ? AND target = ?", (project, target))
        self._forget_inputs(inputs)

    def wanted(self, *, besides: Collection[str] = ()) -> set[bytes]:
        """Return the artifact of every record of every project but these."""
        rows = self._db.rows("SELECT DISTINCT project, artifact FROM record")
        return {artifact for project, artifact in rows if isinstance(artifact, bytes) and project not in besides}

    def projects(self) -> dict[str, float]:
        """Return the projects that ever built into this store, and when each did last (seconds since 1970)."""
        rows = self._db.rows("SELECT project, MAX(built) FROM record GROUP BY project")
        return {project: built for project, built in rows if isinstance(project, str) and isinstance(built, float)}

    def forget_project(self, project: str) -> None:
        """Forget the last builds of all targets of a project."""
        self._db.rows("DELETE FROM record WHERE project = ?", (project,))
        self._db.rows("DELETE FROM inputs WHERE NOT EXISTS (SELECT 1 FROM record WHERE record.inputs = inputs.digest)")

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

    def _artifact(self, row: Sequence[Any]) -> ArtifactRow | None:
        """Return the artifact of a row, its seal last; None if that is broken, or its table is, or it is misplaced."""
        number, digest, header, path, kind, *five, boot, nonfinite, packed, made, project, kept = row
        if kept != seal(digest, header, path, kind, *five, boot, nonfinite, made, project):
            return None
        if not _is_placed(path, kind):
            return None
        if packed and not is_whole(packed):
            return None
        identity = Identity(*five) if five[0] is not None else None
        return ArtifactRow(
            number, digest, header, self._path(path), kind, identity, boot, nonfinite, packed, made, project
        )

    def _seal_of(self, row: ArtifactRow) -> str:
        return seal(
            row.digest, row.header, self._text(row.path), row.kind, *_five_or_none(row.identity), row.epoch,
            row.nonfinite, row.made, row.project,
        )  # fmt: skip

    def _record(self, row: Sequence[Any], project: str) -> Record | None:
        """Return the record of a row, its seal last; None if that is broken."""
        target, artifact, output, manifest, *rest, kept = row
        if kept != seal(project, target, artifact, output, *rest):
            return None
        return Record(target, artifact, self._path(output) if output else None, text_of(manifest) or "", *rest)


_COLUMNS = (
    "id, digest, header, path, kind, device, inode, size, mtime_ns, ctime_ns, boot, nonfinite, contents, made, project"
)
_SEALED = _COLUMNS.removeprefix("id, ").replace("contents, ", "")
_SOURCE = "device, inode, size, mtime_ns, ctime_ns, checksums, content, sha256, autov3, used, boot, seal"
_RECORD = "target, artifact, output, manifest, fingerprint, header, tensors"
_PUBLISHED = (
    ", ".join(
        [f"r.{column}" for column in f"{_RECORD}, seal".split(", ")]
        + [f"a.{column}" for column in f"{_COLUMNS}, seal".split(", ")]
    )
    .replace("r.manifest", "''")
    .replace("a.contents", "x''")
)
_FIELDS = len(_RECORD.split(", ")) + 1
"""Columns of a record in `_PUBLISHED`, its seal among them."""

_CHECKSUM = 16
"""Bytes of the checksum before packed keys."""

_FINDINGS = 100_000
"""How many findings are kept: each is some numbers about a tensor."""

_MANY = 20_000
"""Digests asked for after which it pays to know all that there are."""
_MOST_KEPT = 500_000

_MOST_ASKED = 500
"""Names asked for in one statement; of more, all are read."""


def _grow(db: Database, version: int) -> None:
    """Bring the rows of an older database to this version."""
    if version < _SEALED_SINCE:
        _add_seals(db)
    for column in ("keys", "inputs"):
        db.rows(f"ALTER TABLE record ADD COLUMN {column} BLOB")


_SEALED_SINCE = 5


def _add_seals(db: Database) -> None:
    for table in ("artifact", "record"):
        db.rows(f"ALTER TABLE {table} ADD COLUMN seal TEXT")
    for number, *fields, packed in db.rows(f"SELECT id, {_SEALED}, contents FROM artifact"):
        db.rows(
            "UPDATE artifact SET seal = ?, contents = ? WHERE id = ?", (seal(*fields), sealed_table(packed), number)
        )
    for project, target, artifact, output, manifest, *rest in db.rows(f"SELECT project, {_RECORD} FROM record"):
        values = (seal(project, target, artifact, output, *rest), sealed(manifest), project, target)
        db.rows("UPDATE record SET seal = ?, manifest = ? WHERE project = ? AND target = ?", values)
    for table in ("source", "finding"):  # made anew by the schema, and found out again
        db.rows(f"DROP TABLE IF EXISTS {table}")


def _is_placed(path: str, kind: str) -> bool:
    """Return whether a row of this kind can be for this path, which is as the database has it.

    What the store holds is moved and removed without a look at its bytes, and has names of its own. A database that
    came with a stranger's files may name anybody's file as such, under a seal as good as ours.
    """
    if kind in ("kept", "history"):
        folder, name = os.path.split(path)  # as the database has it
        return folder == kind and is_own(kind, name)
    return kind != "intended" or any(map(publishing.is_temporary, Path(os.path.normpath(path)).parts))


def _all_of(db: Database, columns: str, table: str, order: str) -> list[Any]:
    """Return the rows of a table that can be read before what can't be, and behind it."""
    back = ", ".join(f"{column} DESC" for column in order.split(", "))
    first = db.readable_rows(f"SELECT {columns} FROM {table} ORDER BY {order}")
    last = db.readable_rows(f"SELECT {columns} FROM {table} ORDER BY {back}")
    return list(dict.fromkeys((*first, *reversed(last))))


def _source_of(row: Sequence[Any]) -> SourceRow | None:
    """Return the source of a row as `_SOURCE` names its columns; None if its seal is broken."""
    *five, checksums, content, sha256, autov3, _, epoch, kept = row
    found = SourceRow(Identity(*five), checksums, content, sha256, autov3, epoch)
    return found if kept == _seal_of_source(found) else None


def _seal_of_source(row: SourceRow) -> str:
    return seal(*_five(row.identity), row.checksums, row.content, row.sha256, row.autov3, row.epoch)


def _five(identity: Identity) -> tuple[int, int, int, int, int]:
    return (identity.device, identity.inode, identity.size, identity.mtime_ns, identity.ctime_ns)


def _five_or_none(identity: Identity | None) -> tuple[int | None, ...]:
    return _five(identity) if identity else (None,) * 5
