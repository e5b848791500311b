"""What a store on disk remembers, as one of the projects that build into it sees it.

From what each target was last built, the hashes of source files, and the findings about tensors. Rows that others rely
on carry a seal (`database.py`): a row whose seal doesn't fit counts as missing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mergebuild.digest import checksum
from mergebuild.store.database import Database, seal, sealed, text_of
from mergebuild.store.state import ARTIFACT, RECORD, SOURCE, State, five
from mergebuild.store.values import ArtifactRow, PackedKeys, Record, SourceRow
from mergebuild.system.filestate import Identity

__all__ = ["DiskLedger", "record_of", "source_of"]

_PUBLISHED = (
    ", ".join(
        [f"r.{column}" for column in f"{RECORD}, seal".split(", ")]
        + [f"a.{column}" for column in f"{ARTIFACT}, seal".split(", ")]
    )
    .replace("r.manifest", "''")
    .replace("a.contents", "x''")
)
_FIELDS = len(RECORD.split(", ")) + 1
"""The number of columns of a record in `_PUBLISHED`, with its seal."""

_CHECKSUM = 16
"""Bytes of the checksum that is stored before packed keys."""

_LINE = "\n"
"""Separates notices, none of which has a line break."""

_FINDINGS = 100_000
"""How many findings are kept: each is a few numbers about a tensor."""

_MOST_ASKED = 500
"""The most names to ask for in one statement; if there are more, all rows are read."""


class DiskLedger:
    """The memory of a store. It changes no row of another project, unless its argument names that project."""

    def __init__(self, state: State, project: str) -> None:
        self._state = state
        self._project = project

    @property
    def _db(self) -> Database:
        return self._state.db  # not kept: once it is written to disk, it is another one

    # Builds of targets

    def record(self, target: str) -> Record | None:
        """Return the last build of a target."""
        if self._state.is_blank:
            return None
        row = self._db.row(
            f"SELECT {RECORD}, seal FROM record WHERE project = ? AND target = ?", (self._project, target)
        )
        return record_of(self._state, row, self._project) if row else None

    def records(self, project: str | None = None) -> list[Record]:
        """Return the last build of every target of a project (None: of this one), without the manifests."""
        whose = self._project if project is None else project
        columns = RECORD.replace("manifest", "''")
        rows = self._db.rows(f"SELECT {columns}, seal FROM record WHERE project = ? ORDER BY target", (whose,))
        return [found for row in rows if (found := record_of(self._state, row, whose))]

    def published(self, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets that have a fingerprint, each with the row of its own output.

        Builds whose output has no row, or a row of another artifact, are left out. The manifests and the tables are
        empty.
        """
        wanted = set(targets)
        some = f" AND r.target IN ({','.join('?' * len(wanted))})" if len(wanted) <= _MOST_ASKED else ""
        found = self._db.rows(
            f"SELECT {_PUBLISHED} FROM record r JOIN artifact a ON a.path = r.output"
            " WHERE r.project = ? AND r.fingerprint IS NOT NULL AND r.output IS NOT NULL"
            f" AND a.kind = 'output' AND a.digest = r.artifact AND a.header = r.header{some}",
            (self._project, *(wanted if some else ())),
        )
        return [pair for row in found if row[0] in wanted and (pair := self._pair(row))]

    def _pair(self, row: Sequence[Any]) -> tuple[Record, ArtifactRow] | None:
        """Return a record and its artifact, from a row that has the columns of both; None if a seal doesn't fit."""
        record = record_of(self._state, row[:_FIELDS], self._project)
        artifact = self._state.artifact_of(row[_FIELDS:])
        return (record, artifact) if record and artifact else None

    def put_record(self, record: Record, keys: PackedKeys | None = None) -> None:
        """Remember the last build of a target, and what its tensors followed from."""
        if self.record(record.target) == record and self.keys(record.target) == keys:
            return
        self._state.is_blank = False
        before = self._inputs_of(record.target)
        inputs = checksum(keys.inputs) if keys else None
        if keys and inputs != before:
            self._db.rows("INSERT OR IGNORE INTO inputs VALUES (?, ?)", (inputs, keys.inputs))
        self._insert_record(record, checksum(keys.lines) + keys.lines if keys else None, inputs)
        if before != inputs:
            self._forget_inputs(before)

    def _insert_record(self, record: Record, lines: bytes | None, inputs: bytes | None) -> None:
        """Write the row of a record. `lines`: the packed lines of its keys; `inputs`: the checksum of their inputs."""
        output = self._state.text(record.output) if record.output else None
        facts = (record.target, record.artifact, output, record.fingerprint, record.header, record.tensors)
        self._db.rows(
            f"INSERT OR REPLACE INTO record (project, {RECORD}, built, seal, keys, inputs)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._project, record.target, record.artifact, output, sealed(record.manifest),
                sealed(_LINE.join(record.notices)) if record.notices else None, record.fingerprint,
                record.header, record.tensors, time.time(), seal(self._project, *facts), lines, inputs,
            ),
        )  # fmt: skip

    def keys(self, target: str) -> PackedKeys | None:
        """Return what the tensors of a target's last build followed from; None if that isn't recorded."""
        row = self._db.row(
            "SELECT r.keys, i.digest, i.packed FROM record r JOIN inputs i ON i.digest = r.inputs"
            " WHERE r.project = ? AND r.target = ?",
            (self._project, target),
        )
        if row is None or not all(isinstance(each, bytes) for each in row):
            return None
        found = PackedKeys(row[0][_CHECKSUM:], row[2])
        is_sound = row[0][:_CHECKSUM] == checksum(found.lines) and row[1] == checksum(found.inputs)
        return found if is_sound else None

    def _inputs_of(self, target: str) -> bytes | None:
        row = self._db.row("SELECT inputs FROM record WHERE project = ? AND target = ?", (self._project, target))
        return row[0] if row else None

    def _forget_inputs(self, digest: bytes | None) -> None:
        """Forget these inputs unless a record still names them."""
        if digest is not None:
            self._db.rows(
                "DELETE FROM inputs WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM record WHERE inputs = ?)",
                (digest, digest),
            )

    def forget_record(self, target: str) -> None:
        """Forget the last build of a target."""
        inputs = self._inputs_of(target)
        self._db.rows("DELETE FROM record WHERE project = ? AND target = ?", (self._project, target))
        self._forget_inputs(inputs)

    def wanted(self, *, besides: Collection[str] = ()) -> set[bytes]:
        """Return the digest of each recorded artifact, over all projects but these."""
        rows = self._db.rows("SELECT DISTINCT project, artifact FROM record")
        return {artifact for project, artifact in rows if isinstance(artifact, bytes) and project not in besides}

    def projects(self) -> dict[str, float]:
        """Return the projects that built into this store, each with the time of its last build (seconds since 1970)."""
        rows = self._db.rows("SELECT project, MAX(built) FROM record GROUP BY project")
        return {project: built for project, built in rows if isinstance(project, str) and isinstance(built, float)}

    def forget_project(self, project: str) -> None:
        """Forget the last builds of all targets of a project."""
        self._db.rows("DELETE FROM record WHERE project = ?", (project,))
        self._db.rows("DELETE FROM inputs WHERE NOT EXISTS (SELECT 1 FROM record WHERE record.inputs = inputs.digest)")

    # Sources

    def source(self, identity: Identity, epoch: str) -> SourceRow | None:
        """Return what is known of a file with exactly these stat data, if it may be believed in this epoch.

        Else None.
        """
        row = self._db.row(
            "SELECT checksums, content, sha256, autov3, boot, seal FROM source"
            " WHERE device = ? AND inode = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND boot IN ('', ?)",
            (*five(identity), epoch),
        )
        known = SourceRow(identity, *row[:-1]) if row else None
        return known if known and row[-1] == _seal_of_source(known) else None

    def remember_source(self, row: SourceRow) -> None:
        """Remember a source. What is None in `row` is taken over from an existing row that may be believed as much."""
        known = self.source(row.identity, row.epoch)
        if known:
            row = _completed(row, known)
        self._db.rows(
            f"INSERT OR REPLACE INTO source ({SOURCE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *five(row.identity), row.checksums, row.content, row.sha256, row.autov3, time.time(), row.epoch,
                _seal_of_source(row),
            ),
        )  # fmt: skip

    # Findings

    def findings(self) -> dict[bytes, str]:
        """Return all findings, by key."""
        rows = self._db.rows("SELECT key, text FROM finding")
        return {key: text for key, found in rows if (text := text_of(found, key)) is not None}

    def keep_findings(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings; if there are too many, the newest."""
        now = time.time()
        rows = [(key, sealed(text, key), now) for key, text in findings.items()]
        self._db.many("INSERT OR REPLACE INTO finding VALUES (?, ?, ?)", rows)
        self._db.rows(
            "DELETE FROM finding WHERE found < (SELECT found FROM finding ORDER BY found DESC LIMIT 1 OFFSET ?)",
            (_FINDINGS,),
        )


def _completed(row: SourceRow, known: SourceRow) -> SourceRow:
    """Return the row of a source with what only a known row of it has."""
    return row._replace(
        checksums=row.checksums or known.checksums,
        content=row.content or known.content,
        sha256=row.sha256 or known.sha256,
        autov3=row.autov3 or known.autov3,
    )


def record_of(state: State, row: Sequence[Any], project: str) -> Record | None:
    """Return the record of a row, whose last column is the seal; None if that doesn't fit."""
    target, artifact, output, manifest, notices, fingerprint, header, tensors, kept = row
    if kept != seal(project, target, artifact, output, fingerprint, header, tensors):
        return None
    told = tuple(text.split(_LINE)) if (text := text_of(notices)) else ()
    path = state.path_of(output) if output else None
    return Record(target, artifact, path, text_of(manifest) or "", fingerprint, header, tensors, told)


def source_of(row: Sequence[Any]) -> SourceRow | None:
    """Return the source of a row with the columns `SOURCE`; None if its seal doesn't fit."""
    *numbers, checksums, content, sha256, autov3, _, epoch, kept = row
    found = SourceRow(Identity(*numbers), checksums, content, sha256, autov3, epoch)
    return found if kept == _seal_of_source(found) else None


def _seal_of_source(row: SourceRow) -> str:
    return seal(*five(row.identity), row.checksums, row.content, row.sha256, row.autov3, row.epoch)
