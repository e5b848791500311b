"""A store that keeps its rows and records in memory.

Files are still published at their paths, since outputs are artifacts; only the records about them are not on disk. A
test that plans and does not build needs no files either: `look` says which state a path is in, and `offer` records an
artifact there.

It does what the protocols of a store ask, and no more. One object is all three parts, takes no lock, and publishes the
files of a folder one by one. It does not recognize damage: a file that differs from what was written counts as changed
by hand.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mergebuild.store import ArtifactRow, Entry, Fresh, Held, PackedKeys, Presence, Record, SourceRow, Stage, has_bytes
from mergebuild.store.comparing import is_left_of, may_be, may_be_left_of
from mergebuild.store.contents import pack, unpack
from mergebuild.store.values import PublishedFolder
from mergebuild.system import publishing
from mergebuild.system.filestate import Identity, identity

if TYPE_CHECKING:
    from mergebuild.store import Store

__all__ = ["MemoryStore", "seen"]


def seen(path: Path) -> Identity | None:
    """Return the state of the file at a path on disk; None if there is none."""
    try:
        return identity(path)
    except OSError:
        return None


class MemoryStore:
    """A store that is its own shelf, ledger and publisher.

    Args:
        root: A folder for files that are not outputs: kept artifacts, the history, the quarantine.
        project: The name under which outputs are published.
        history_bytes: How many bytes the history may have after `trim_history`; None: any number.
        look: Returns the state of the file at a path; None if there is none.
    """

    def __init__(
        self,
        root: Path,
        *,
        project: str = "mergefile.toml",
        history_bytes: int | None = None,
        look: Callable[[Path], Identity | None] = seen,
    ) -> None:
        self.project = project
        self._root = root
        self._history_bytes = history_bytes
        self._look = look
        self._rows: dict[int, ArtifactRow] = {}
        self._numbers = count(1)
        self._records: dict[str, Record] = {}
        self._keys: dict[str, PackedKeys | None] = {}
        self._sources: dict[Identity, SourceRow] = {}
        self._findings: dict[bytes, str] = {}

    @property
    def shelf(self) -> Self:
        """Itself."""
        return self

    @property
    def ledger(self) -> Self:
        """Itself."""
        return self

    @property
    def publisher(self) -> Self:
        """Itself."""
        return self

    # Shelf

    def offer(self, path: Path, fresh: Fresh, *, kind: str = "output", project: str | None = None) -> ArtifactRow:
        """Record that an artifact is at a path, and forget any that was recorded there before."""
        for row in self.rows(path=path):
            del self._rows[row.id]
        number = next(self._numbers)
        self._rows[number] = ArtifactRow(
            number, fresh.digest, fresh.header, path, kind, self._look(path), "", fresh.nonfinite,
            pack(fresh.contents), time.monotonic(), self.project if project is None else project,
        )  # fmt: skip
        return self._rows[number]

    def kept_path(self, digest: bytes, header: bytes = b"") -> Path:
        """Return the path at which the store keeps its own copy of an artifact."""
        return self._root / "kept" / f"{digest.hex()}-{header.hex()[:8]}"

    def at(self, path: Path) -> tuple[Presence, ArtifactRow | None]:
        """Return what is at a path, and its row if it is ours. A file with the bytes of an artifact gets a row."""
        if self._look(path) is None:
            return Presence.ABSENT, None
        for row in self.rows(path=path):
            if self.is_intact(row):
                return Presence.OURS, self._rows[row.id]
        for row in list(self._rows.values()):
            fresh = _fresh(row)
            if has_bytes(path, fresh):
                return Presence.OURS, self.offer(path, fresh)
        return Presence.FOREIGN, None

    def look_again(self, path: Path) -> Presence:
        """Return what is at a path now: no earlier look is remembered."""
        return self.at(path)[0]

    def intact(self, digest: bytes, *, header: bytes) -> Iterator[ArtifactRow]:
        """Yield the intact artifacts with this digest, the newest first, but those with this header before others."""
        found = [row for row in self._newest_first() if row.digest == digest]
        yield from filter(self.is_intact, sorted(found, key=lambda row: row.header != header))

    def is_intact(self, row: ArtifactRow) -> bool:
        """Return whether an artifact's file still has the bytes that were written."""
        state = self._look(row.path)
        if state is None:
            return False
        if state == row.identity:
            return True
        whole = self._rows.get(row.id)
        is_same = whole is not None and has_bytes(row.path, _fresh(whole))
        if whole is not None and is_same:
            self._rows[row.id] = whole._replace(identity=state)
        return is_same

    def find(
        self, digests: Iterable[bytes], *, allow_nonfinite: bool = False, besides: Collection[int] = ()
    ) -> dict[bytes, Held]:
        """Return where tensors are, for those that are in an intact artifact.

        Args:
            digests: The tensors.
            allow_nonfinite: Return tensors with NaN or Inf too.
            besides: Numbers of artifacts that are left out.
        """
        wanted = set(digests)
        found: dict[bytes, Held] = {}
        for row in self._newest_first():
            held = {entry.digest: entry for entry in unpack(row.packed) if allow_nonfinite or not entry.nonfinite}
            here = wanted & held.keys() - found.keys()
            if here and row.id not in besides and self.is_intact(row):
                found |= {digest: Held(row.path, held[digest]) for digest in here}
        return found

    def entries(self, row: ArtifactRow) -> list[Entry]:
        """Return the table of an artifact."""
        return unpack(self._rows[row.id].packed)

    def row(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number, as it is on record now; None if it is not."""
        return self._rows.get(number)

    def rows(self, *, path: Path) -> list[ArtifactRow]:
        """Return the artifact on record at a path."""
        return [row for row in self._rows.values() if row.path == path]

    def outputs(self, project: str | None, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project (None: of all), except those at the paths in `besides`."""
        return [
            row
            for row in self._rows.values()
            if row.kind == "output" and project in (None, row.project) and str(row.path) not in besides
        ]

    def damaged_inside(self) -> list[ArtifactRow]:
        """Return no artifacts: this store does not recognize damage."""
        return []

    def may_be(self, path: Path, beginning: bytes, size: int) -> bool:
        """Return whether a file may be one with this beginning and size; without a row, also the remains of one."""
        return may_be(path, beginning, size) or (not self.rows(path=path) and may_be_left_of(path, beginning, size))

    def is_unfinished(self, path: Path, whole: Path) -> bool:
        """Return whether a file without a row is what a crash left of `whole`: with pages of zeros, or no end."""
        return not self.rows(path=path) and is_left_of(path, whole)

    # Ledger

    def record(self, target: str) -> Record | None:
        """Return the last build of a target; None if it was never built."""
        return self._records.get(target)

    def records(self) -> list[Record]:
        """Return the last build of every target, by name and without the manifests."""
        return [self._records[name]._replace(manifest="") for name in sorted(self._records)]

    def published(self, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets, with the rows of their outputs.

        Left out are builds without a fingerprint, and those whose output is not on record as they made it.
        """
        return [
            (record, row)
            for record in self.records()
            if record.target in targets and record.fingerprint is not None and record.output is not None
            for row in self.rows(path=record.output)
            if (row.kind, row.digest, row.header) == ("output", record.artifact, record.header)
        ]

    def put_record(self, record: Record, keys: PackedKeys | None = None) -> None:
        """Remember the last build of a target."""
        self._records[record.target] = record
        self._keys[record.target] = keys

    def keys(self, target: str) -> PackedKeys | None:
        """Return the packed keys of the tensors of a target's last build; None if they are not on record."""
        return self._keys.get(target)

    def forget_record(self, target: str) -> None:
        """Forget the last build of a target."""
        self._records.pop(target, None)
        self._keys.pop(target, None)

    def source(self, identity: Identity, epoch: str) -> SourceRow | None:
        """Return what is known of a file in exactly this state, if it is valid in an epoch; else None."""
        found = self._sources.get(identity)
        return found if found is not None and found.epoch in ("", epoch) else None

    def remember_source(self, row: SourceRow) -> None:
        """Remember a source. Fields that are None in `row` keep their values, if the same state is known and valid."""
        known = self.source(row.identity, row.epoch)
        if known is not None:
            mine = {name: value for name, value in row._asdict().items() if value is not None}
            row = known._replace(**mine)
        self._sources[row.identity] = row

    def findings(self) -> dict[bytes, str]:
        """Return the results of statistics and surveys, by their keys."""
        return dict(self._findings)

    def keep_findings(self, findings: Mapping[bytes, str]) -> None:
        """Keep findings."""
        self._findings |= findings

    # Publisher

    def scratch_path(self, name: str) -> Path:
        """Return the path of a new file that is needed only while a pass runs; its folder exists."""
        return publishing.temporary_path(_made(self._root / "between" / name))

    def publish(
        self,
        temporary: Path,
        path: Path,
        fresh: Fresh,
        *,
        kind: str = "output",
        project: str = "",
        keeps_former: bool = True,
    ) -> ArtifactRow:
        """Move a finished file to its path; a former artifact there goes into the history."""
        self._supersede(path, keeps_former=keeps_former)
        temporary.replace(_made(path))
        return self.offer(path, fresh, kind=kind, project=project)

    def publish_folder(
        self,
        stage: Stage,
        files: Mapping[Path, Fresh],
        *,
        reused: Mapping[Path, ArtifactRow],
        foreign: Collection[Path],
        superfluous: Sequence[ArtifactRow],
        project: str = "",
        keeps_former: bool = True,
    ) -> PublishedFolder:
        """Move the files of a stage to their paths, one by one; former artifacts there go into the history.

        Raises:
            OSError: Only some of the files were moved.
        """
        aside = []
        for number, path in enumerate(foreign):
            aside.append(_made(self._root / "by-hand" / f"{path.name}-{number}"))
            path.replace(aside[-1])
        for row in superfluous if keeps_former else ():
            self._supersede(row.path, keeps_former=True)
        rows = {
            path: self.publish(stage.place(path), path, fresh, project=project, keeps_former=keeps_former)
            for path, fresh in files.items()
        }
        for row in reused.values():
            self.remove(row)
        stage.remove()
        return PublishedFolder(rows, aside, None)

    def move(self, row: ArtifactRow, path: Path, *, project: str = "", keeps_former: bool = True) -> ArtifactRow:
        """Move an artifact of the history to an output's path; a former artifact there goes into the history."""
        self._supersede(path, keeps_former=keeps_former)
        return self._moved(row, path, "output", project)

    def keep(self, row: ArtifactRow, link: str) -> None:
        """Copy an output into the store, unless `link` is `auto`, which asks for a copy only if it costs nothing."""
        path = self.kept_path(row.digest, row.header)
        if link != "auto" and not self.rows(path=path):
            shutil.copyfile(row.path, _made(path))
            self.offer(path, _fresh(row), kind="kept")

    def remove(self, row: ArtifactRow) -> int:
        """Remove an artifact's file and its row; return the bytes freed."""
        state = self._look(row.path)
        row.path.unlink(missing_ok=True)
        self._rows.pop(row.id, None)
        return state.size if state else 0

    def quarantine(self, row: ArtifactRow) -> Path:
        """Move a damaged file into the quarantine, and forget its row; return its new path."""
        place = _made(self._root / "quarantine" / f"{row.digest.hex()}-{row.id}")
        row.path.replace(place)
        self._rows.pop(row.id, None)
        return place

    def trim_history(self) -> None:
        """Remove the oldest files of the history until the rest fits into `history_bytes`."""
        if self._history_bytes is None:
            return
        room = self._history_bytes
        for row in self._newest_first():
            if row.kind == "history":
                room -= row.identity.size if row.identity else 0
                if room < 0:
                    self.remove(row)

    def _supersede(self, path: Path, *, keeps_former: bool) -> None:
        """Move an intact artifact at a path into the history, if it is to be kept; otherwise forget its row."""
        for row in self.rows(path=path):
            if keeps_former and self._history_bytes != 0 and self.is_intact(row):
                self._moved(row, self._root / "history" / f"{row.digest.hex()}-{row.id}", "history", row.project)
            else:
                del self._rows[row.id]

    def _moved(self, row: ArtifactRow, path: Path, kind: str, project: str) -> ArtifactRow:
        row.path.replace(_made(path))
        moved = self._rows[row.id]._replace(path=path, kind=kind, identity=self._look(path), project=project)
        self._rows[row.id] = moved._replace(made=time.monotonic())
        return self._rows[row.id]

    def _newest_first(self) -> list[ArtifactRow]:
        return sorted(self._rows.values(), key=lambda row: (row.made, row.id), reverse=True)


def _fresh(row: ArtifactRow) -> Fresh:
    return Fresh(row.digest, row.header, unpack(row.packed))


def _made(path: Path) -> Path:
    """Make the folder of a path, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if TYPE_CHECKING:
    _is_a_store: Store = MemoryStore(Path())
