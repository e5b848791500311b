"""The shelf of a store on disk: finds artifacts and tensors, and checks that their files are still what was written.

A file is believed while its stat data are those recorded, in the recorded epoch (`filestate.epoch`); else its bytes are
read. A file that isn't what was written, though nothing wrote to it since, is *damaged*: it goes into the quarantine
and is made again. Artifacts that share tensors with it are believed only after their bytes were read.

Stat data are recorded if every later change shows in them. Those of a file that another program wrote a moment ago may
stay the same if it writes again in the same tick of the clock: then the bytes are read again next time.
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
from mergebuild.system.filestate import Identity, Moment, is_racy

__all__ = ["DiskShelf"]


class DiskShelf:
    """The artifacts recorded in a store, each checked once in a verb (see `forget`).

    `project`: the one that files are recorded for if only their bytes show that they are ours.
    """

    def __init__(self, state: State, root: Path, project: str) -> None:
        self._state = state
        self._root = root
        self._project = project
        self.checked: dict[int, bool] = {}
        """By row number, whether a file is what was written. Code that moves or doubts the file removes the item."""
        self.found_damaged: dict[int, ArtifactRow] = {}
        self._unpacked: dict[int, list[Entry]] = {}

    def forget(self) -> None:
        """Forget all checks of files, so that each is checked again."""
        self.checked.clear()
        self.found_damaged.clear()
        self._unpacked.clear()

    def is_empty(self) -> bool:
        """Whether no artifact is recorded."""
        return not self._state.has_artifacts()

    def kept_path(self, digest: bytes, header: bytes = b"") -> Path:
        """Return where the store keeps an artifact of its own: a name with no ending that a WebUI would look for.

        Without a header: where it is written as long as only a digest is known, that of its target's name.
        """
        name = f"{digest.hex()}-{header.hex()[:8]}" if header else digest.hex()
        return self._root / "kept" / name

    def row(self, number: int) -> ArtifactRow | None:
        """Return the artifact with this row number as it is recorded now."""
        return self._state.artifact(number)

    def rows(self, *, digest: bytes | None = None, path: Path | None = None, kind: str = "") -> list[ArtifactRow]:
        """Return the recorded artifacts with this digest, path and kind (if given), the newest first, not checked."""
        return self._state.artifacts(digest=digest, path=path, kind=kind)

    def outputs(self, project: str | None, *, besides: Collection[str] = ()) -> list[ArtifactRow]:
        """Return the outputs of a project (None: of all) except those at these paths.

        Their tables (`packed`) are empty.
        """
        return self._state.outputs(project, besides=besides)

    def entries(self, row: ArtifactRow) -> list[Entry]:
        """Return the table of an artifact."""
        found = self._unpacked.get(row.id)
        if found is None:
            whole = row if row.packed else self._state.artifact(row.id)
            found = self._unpacked[row.id] = unpack(whole.packed) if whole else []
        return found

    def at(self, path: Path) -> tuple[Presence, ArtifactRow | None]:
        """Return what is at a path, with its row. A file that only its bytes show to be ours is recorded again."""
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # another failure doesn't mean absence
            return Presence.ABSENT, None
        if not path.is_file():  # a folder, a pipe, a broken link
            return Presence.FOREIGN, None
        rows = [row for row in self._state.artifacts(path=path) if row.kind != "intended"]
        for row in rows:
            if self.is_intact(row):
                return Presence.OURS, self._state.artifact(row.id)
        since, before = Moment.now(), filestate.identity(path)
        is_sure = not is_racy(before, since, Moment.now())
        for row in self._alike(path):
            if self.has_bytes(path, row):
                of_folder = row.kind == "intended" and not publishing.is_temporary(row.path.name)
                # If the rows of a published folder were not updated, the next build does so: it holds the lock.
                return Presence.OURS, row if of_folder else self._taken_back(row, path, before, is_sure=is_sure)
        for row in rows:
            if row.id in self.found_damaged:
                return Presence.DAMAGED, row
        return Presence.FOREIGN, None

    def _taken_back(self, row: ArtifactRow, path: Path, before: Identity, *, is_sure: bool) -> ArtifactRow | None:
        """Record a file that has the bytes of an artifact. `before`: its stat data before they were read.

        `is_sure`: whether every later change shows in these.
        """
        kind = "kept" if path.parent == self._root / "kept" else "output"
        number = self._state.add_file(path, kind, row.digest, row.header, self.entries(row), self._project, was=before)
        if not is_sure:
            self._state.doubt_artifact(number)
        if row.kind == "intended" and not row.path.exists():  # the crash came between rename and record
            self._state.forget_artifact(row.id)
        return self._state.artifact(number)

    def _alike(self, path: Path) -> list[ArtifactRow]:
        """Return the artifacts that a file may be by its header, or by its size if its format has no such header."""
        found = registry.of_output(None if path.parent == self._root / "kept" else path)
        if isinstance(found, registry.FileFormat) and found.begins_with_length:
            return self._state.artifacts(header=comparing.header_checksum(path))
        return self._state.artifacts(size=path.stat().st_size)

    def look_again(self, path: Path) -> Presence:
        """Return what is at a path now, without relying on an earlier check."""
        for row in self._state.artifacts(path=path):
            self.checked.pop(row.id, None)
        return self.at(path)[0]

    def is_intact(self, row: ArtifactRow) -> bool:
        """Return whether an artifact's file is still what was written.

        The stat data decide; if they differ, or were recorded in another epoch, the bytes do.
        """
        known = self.checked.get(row.id)
        if known is None:
            known = self.checked[row.id] = self._look(row)
        return known

    def intact(self, digest: bytes, *, header: bytes) -> Iterator[ArtifactRow]:
        """Yield the undamaged artifacts with this digest: first those with this header, then the newest.

        Thousands of targets may be equal to one artifact, and the caller needs one row: each is checked only when its
        turn comes.
        """
        for number in self._state.numbers(digest, header):
            row = self._state.artifact(number)
            if row is not None and row.kind != "intended" and self.is_intact(row):
                yield row

    def find(
        self, digests: Iterable[bytes], *, allow_nonfinite: bool = False, besides: Collection[int] = ()
    ) -> dict[bytes, Held]:
        """Return where tensors are, for those that an intact artifact holds. `besides`: row numbers to leave out."""
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
        """Return where a tensor of an artifact is, if that is intact and has this digest at this index of its table."""
        if row is None or row.kind == "intended" or not self.is_intact(row):
            return None
        entries = self.entries(row)
        entry = entries[ordinal] if ordinal in range(len(entries)) else None
        return Held(row.path, entry) if entry and entry.digest == digest else None

    def _look(self, row: ArtifactRow) -> bool:
        since = Moment.now()
        try:
            now = filestate.identity(row.path)
        except OSError:
            return False
        is_sure = now == row.identity or not is_racy(now, since, Moment.now())
        epoch = filestate.epoch(now.device)
        if now == row.identity and row.epoch == epoch:
            return True
        if not self.has_bytes(row.path, row):
            if row.kind != "output" or _is_untouched(row, now, epoch):
                self.found_damaged[row.id] = row
                self.doubt(row, self.damage(row))
            return False
        if not is_sure:
            return True
        with self._state.transaction():
            there = self._state.artifact(row.id)
            # a command that only reads holds no lock: a build may have moved the file, and put another one there
            if there is not None and there._replace(packed=row.packed, made=row.made) == row:
                self._state.move_artifact(row.id, row.path, row.kind, now, epoch)
        return True

    def has_bytes(self, path: Path, row: ArtifactRow) -> bool:
        """Whether a file has the bytes of an artifact on record."""
        return comparing.has_bytes(path, Fresh(row.digest, row.header, self.entries(row)))

    def damage(self, row: ArtifactRow) -> list[str]:
        """Read a file again; return its damaged parts: names of tensors, `header`, or why it can't be read."""
        return comparing.damage(row.path, row.header, self.entries(row))

    def may_be(self, path: Path, beginning: bytes, size: int) -> bool:
        """Whether a file that isn't recorded may be one with this beginning and size, or what a crash left of it.

        Only its beginning is read: enough to know whether it is worth while to make the other file and compare.
        """
        is_left = comparing.may_be_left_of(path, beginning, size)
        return comparing.may_be(path, beginning, size) or (is_left and not self._was_whole(path))

    def is_unfinished(self, path: Path, whole: Path) -> bool:
        """Whether a file is what a crash left of another: some pages are zeros, or its end is missing."""
        return path.is_file() and not self._was_whole(path) and comparing.is_left_of(path, whole)

    def _was_whole(self, path: Path) -> bool:
        """Whether a file was found whole in this epoch: then no crash made it what it is now."""
        return any(row.epoch == filestate.epoch(path.stat().st_dev) for row in self._state.artifacts(path=path))

    def doubt(self, row: ArtifactRow, names: Collection[str]) -> None:
        """Stop believing a damaged artifact, and all that have a tensor of these names: they may share its bytes."""
        hurt = [entry.digest for entry in self.entries(row) if entry.name in names]
        holders = {number for each in self._state.holders(hurt).values() for number, _ in each}
        with self._state.transaction():
            for number in holders | {row.id}:
                self.checked.pop(number, None)
                self._state.doubt_artifact(number)

    def damaged_inside(self) -> list[ArtifactRow]:
        """Return those of the artifacts found to be damaged that are in the store itself."""
        return [row for row in self.found_damaged.values() if row.kind != "output"]


def _is_untouched(row: ArtifactRow, now: Identity, epoch: str) -> bool:
    """Whether nothing wrote to a file since it was recorded.

    Then its times are those recorded. Or a crash kept some of it, and perhaps its size and times, from the disk: then
    it was recorded in another epoch, and its change time is not after the recorded one.
    """
    was = row.identity
    if was is None or now.inode != was.inode:
        return False
    is_same = now._replace(device=was.device) == was
    return is_same or (row.epoch != epoch and now.ctime_ns <= was.ctime_ns and now.size <= was.size)
