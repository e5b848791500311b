"""What a store on disk offers: whole artifacts, tensors in them, and whether their files are still what was written.

A file is believed while its stat data are those on record, in the epoch on record (`filestate.epoch`); else its bytes
are read. One that is not what was written though nobody wrote to it since is *damaged*: it goes into the quarantine
and is made again. What shares tensors with it is believed no more before its bytes were read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mergebuild.formats import registry
from mergebuild.store import comparing
from mergebuild.store.contents import Entry, unpack
from mergebuild.store.state import State
from mergebuild.store.values import ArtifactRow, Fresh, Held, Presence
from mergebuild.system import filestate, publishing
from mergebuild.system.filestate import Identity

__all__ = ["DiskShelf"]


class DiskShelf:
    """The artifacts on record in a store, each looked at once a verb. `project`: whose outputs are taken back."""

    def __init__(self, state: State, root: Path, project: str) -> None:
        self._state = state
        self._root = root
        self._project = project
        self.checked: dict[int, bool] = {}
        """By row number, whether a file was what was written; whoever moves or doubts it takes that away."""
        self.found_damaged: dict[int, ArtifactRow] = {}
        self._unpacked: dict[int, list[Entry]] = {}

    def forget(self) -> None:
        """Forget what was seen of files: each is looked at once more."""
        self.checked.clear()
        self.found_damaged.clear()
        self._unpacked.clear()

    def is_empty(self) -> bool:
        """Whether nothing was ever built, or all of it is forgotten."""
        return not self._state.has_artifacts()

    def kept_path(self, digest: bytes, header: bytes = b"") -> Path:
        """Return where the store keeps an artifact of its own. Never a name that a WebUI would scan.

        Without a header: where it is written, as long as nothing is known of it but a digest of its target's name.
        """
        name = f"{digest.hex()}-{header.hex()[:8]}" if header else digest.hex()
        return self._root / "kept" / name

    def row(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number as it is on record now."""
        return self._state.artifact(number)

    def rows(self, *, digest: bytes | None = None, path: Path | None = None, kind: str = "") -> list[ArtifactRow]:
        """Return the artifacts with this digest, path and kind (of those given), the newest first, unlooked at."""
        return self._state.artifacts(digest=digest, path=path, kind=kind)

    def outputs(self, project: str | None, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project (None: of all) but those at some paths, without tables: `packed` is empty."""
        return self._state.outputs(project, besides=besides)

    def entries(self, row: ArtifactRow) -> list[Entry]:
        """Return the table of an artifact."""
        found = self._unpacked.get(row.id)
        if found is None:
            whole = row if row.packed else self._state.artifact(row.id)
            found = self._unpacked[row.id] = unpack(whole.packed) if whole else []
        return found

    def at(self, path: Path) -> tuple[Presence, ArtifactRow | None]:
        """Say what stands at a path. A file that only its bytes show to be ours is taken back into the records."""
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # any other failure says nothing
            return Presence.ABSENT, None
        if not path.is_file():  # a folder, a pipe, a link to nowhere
            return Presence.FOREIGN, None
        rows = [row for row in self._state.artifacts(path=path) if row.kind != "intended"]
        for row in rows:
            if self.is_intact(row):
                return Presence.OURS, self._state.artifact(row.id)
        before = filestate.identity(path)
        for row in self._alike(path):
            if self.has_bytes(path, row):
                of_folder = row.kind == "intended" and not publishing.is_temporary(row.path.name)
                # Of a folder whose rows have not followed, who only looks leaves them to the next build.
                return Presence.OURS, row if of_folder else self._taken_back(row, path, before)
        for row in rows:
            if row.id in self.found_damaged:
                return Presence.DAMAGED, row
        return Presence.FOREIGN, None

    def _taken_back(self, row: ArtifactRow, path: Path, before: Identity) -> ArtifactRow | None:
        """Take a file into the records that has the bytes of an artifact; its state before they were read is given."""
        kind = "kept" if path.parent == self._root / "kept" else "output"
        number = self._state.add_file(path, kind, row.digest, row.header, self.entries(row), self._project, was=before)
        if row.kind == "intended" and not row.path.exists():  # the crash came between rename and record
            self._state.forget_artifact(row.id)
        return self._state.artifact(number)

    def _alike(self, path: Path) -> list[ArtifactRow]:
        """Return the artifacts that a file may be, as far as its beginning tells, or else its size."""
        found = registry.of_output(None if path.parent == self._root / "kept" else path)
        if isinstance(found, registry.FileFormat) and found.begins_with_length:
            return self._state.artifacts(header=comparing.header_checksum(path))
        return self._state.artifacts(size=path.stat().st_size)

    def look_again(self, path: Path) -> Presence:
        """Say what stands at a path now, whatever was found there before."""
        for row in self._state.artifacts(path=path):
            self.checked.pop(row.id, None)
        return self.at(path)[0]

    def is_intact(self, row: ArtifactRow) -> bool:
        """Say whether an artifact's file is still what was written.

        The stat data decide; where they differ, or stem from another epoch, the bytes do.
        """
        known = self.checked.get(row.id)
        if known is None:
            known = self.checked[row.id] = self._look(row)
        return known

    def intact(self, digest: bytes, *, header: bytes) -> Iterator[ArtifactRow]:
        """Yield the whole artifacts with this digest that are there: those with this header, then the newest first.

        Thousands of targets may come to one artifact, and who asks needs one row: none is looked at before its turn.
        """
        for number in self._state.numbers(digest, header):
            row = self._state.artifact(number)
            if row is not None and row.kind != "intended" and self.is_intact(row):
                yield row

    def find(
        self, digests: Iterable[bytes], *, allow_nonfinite: bool = False, besides: Collection[int] = ()
    ) -> dict[bytes, Held]:
        """Return where tensors lie, for those that an intact artifact holds; `besides`: rows that are left out."""
        found: dict[bytes, Held] = {}
        rows: dict[int, ArtifactRow | None] = {}
        for digest, holders in self._state.holders(digests).items():
            for number, ordinal in holders:
                if number in besides:
                    continue
                if number not in rows:
                    rows[number] = self._state.artifact(number)
                held = self._held(rows[number], ordinal, digest)
                if held is not None and (allow_nonfinite or not held.entry.nonfinite):
                    found[digest] = held
                    break
        return found

    def _held(self, row: ArtifactRow | None, ordinal: int, digest: bytes) -> Held | None:
        """Return where a tensor lies in an artifact, if that is intact and has it in this place of its table."""
        if row is None or row.kind == "intended" or not self.is_intact(row):
            return None
        entries = self.entries(row)
        entry = entries[ordinal] if ordinal in range(len(entries)) else None
        return Held(row.path, entry) if entry and entry.digest == digest else None

    def _look(self, row: ArtifactRow) -> bool:
        try:
            now = filestate.identity(row.path)
        except OSError:
            return False
        epoch = filestate.epoch(now.device)
        if now == row.identity and row.epoch == epoch:
            return True
        if not self.has_bytes(row.path, row):
            if row.kind != "output" or _is_untouched(row, now, epoch):
                self.found_damaged[row.id] = row
                self.doubt(row, self.damage(row))
            return False
        with self._state.transaction():
            there = self._state.artifact(row.id)
            # what only looks holds no lock: a build may have moved it, and put another one there
            if there is not None and there._replace(packed=row.packed, made=row.made) == row:
                self._state.move_artifact(row.id, row.path, row.kind, now, epoch)
        return True

    def has_bytes(self, path: Path, row: ArtifactRow) -> bool:
        """Whether a file has the bytes of an artifact on record."""
        return comparing.has_bytes(path, Fresh(row.digest, row.header, self.entries(row)))

    def damage(self, row: ArtifactRow) -> list[str]:
        """Read a file again and return what of it is not what was written: tensor names, `header`, or why it can't."""
        return comparing.damage(row.path, row.header, self.entries(row))

    def may_be(self, path: Path, beginning: bytes, size: int) -> bool:
        """Whether a file that is not on record may be one that begins so and has this size, or what is left of it.

        Only its beginning is looked at: whether it is worth while to make the other and compare.
        """
        is_left = comparing.may_be_left_of(path, beginning, size)
        return comparing.may_be(path, beginning, size) or (is_left and not self._was_whole(path))

    def is_unfinished(self, path: Path, whole: Path) -> bool:
        """Whether a file is what a crash left of another: some pages are zeros, or its end is missing."""
        return path.is_file() and not self._was_whole(path) and comparing.is_left_of(path, whole)

    def _was_whole(self, path: Path) -> bool:
        """Whether a file was seen whole in this epoch: what is there now is no crash's work."""
        return any(row.epoch == filestate.epoch(path.stat().st_dev) for row in self._state.artifacts(path=path))

    def doubt(self, row: ArtifactRow, names: Collection[str]) -> None:
        """Believe a damaged artifact no more, nor any that holds a tensor of these names: it may share their bytes."""
        hurt = [entry.digest for entry in self.entries(row) if entry.name in names]
        holders = {number for each in self._state.holders(hurt).values() for number, _ in each}
        with self._state.transaction():
            for number in holders | {row.id}:
                self.checked.pop(number, None)
                self._state.doubt_artifact(number)

    def damaged_inside(self) -> list[ArtifactRow]:
        """Return what the store itself holds of the artifacts that were found to be damaged."""
        return [row for row in self.found_damaged.values() if row.kind != "output"]


def _is_untouched(row: ArtifactRow, now: Identity, epoch: str) -> bool:
    """Whether nobody wrote to a file since.

    Then its times are those on record. Or a crash kept some of it from the disk, and perhaps its size and times: then
    it is of another epoch, and its change is dated before the one on record.
    """
    was = row.identity
    if was is None or now.inode != was.inode:
        return False
    is_same = now._replace(device=was.device) == was
    return is_same or (row.epoch != epoch and now.ctime_ns <= was.ctime_ns and now.size <= was.size)
