"""The store: where artifacts lie, whether they are still what was written, and how a new one comes to its place.

The output is the artifact: nothing is stored twice. The store itself holds only *kept* artifacts (virtual targets
that were asked for, and second names of outputs where the project wants them) and the *history*: what a build
superseded, newest first, up to a budget.

Publishing (`system/publishing.py` says how a file comes to its place): the row of the new file is written first, at its
temporary path (the intent); the old output gets a second name in the history; one rename puts the new file at the
output's path; then the row follows. A crash anywhere leaves the old file or the new one, and a file whose row lags
behind is known again by its bytes (`at`).

A file is believed while its stat data are those on record, in the epoch on record (`portable.epoch`); else its bytes
are read. One that is not what was written though nobody wrote to it since is *damaged*: it goes into the quarantine
and is made again. What shares tensors with it is believed no more before its bytes were read.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mergebuild.digest import checksum, file_checksum
from mergebuild.formats.header import MAX_HEADER
from mergebuild.store.contents import Contents, Entry, pack, unpack
from mergebuild.store.database import DatabaseDamagedError
from mergebuild.store.locking import REBUILDS, held_if_free
from mergebuild.store.names import scratch_folders
from mergebuild.store.stages import (
    Stage,
    files_below,
    former_of,
    is_same_file,
    left_of,
    marked_stage,
    remove_empty,
    unmark,
)
from mergebuild.store.state import STATE, ArtifactRow, Record, State
from mergebuild.system import portable, publishing
from mergebuild.system.filestate import is_gone
from mergebuild.system.portable import Identity

__all__ = ["Fresh", "Held", "Presence", "PublishedFolder", "Store"]

_DEFAULT_HISTORY = 10_000_000_000
_SPAN = 1 << 20


class Presence(Enum):
    """What stands at a path where an artifact is wanted."""

    ABSENT = auto()
    OURS = auto()
    FOREIGN = auto()
    """A file that we did not write, or that was changed since."""
    DAMAGED = auto()
    """A file of ours that is not what was written, and that nobody wrote to since."""


class Held(NamedTuple):
    """A tensor that lies in a file: an artifact of ours."""

    path: Path
    entry: Entry


@dataclass(frozen=True, slots=True)
class Fresh:
    """A file just written, not yet published. `header`: the checksum of everything before the data."""

    digest: bytes
    header: bytes
    contents: Contents

    @property
    def nonfinite(self) -> int:
        """The number of values that are NaN or Inf."""
        return sum(entry.nonfinite for entry in self.contents)


class _Intended(NamedTuple):
    """A file that is written in full and on record, at its temporary path."""

    number: int
    path: Path
    identity: Identity


class PublishedFolder(NamedTuple):
    """The rows of the files that were put at their places, and where files lie now that were there and are not ours."""

    rows: Mapping[Path, ArtifactRow]
    aside: Sequence[Path]
    left: Path | None
    """The former folder, where it could not be removed: the next build does."""


class Store:
    """A store in a folder of its own. Open for one command; not to be shared between threads."""

    def __init__(
        self,
        root: Path,
        *,
        project: str,
        history_bytes: int | None = None,
        durable: bool = False,
        patience: float | None = None,
    ) -> None:
        """Open a store, which need not be there yet. `patience`: see `Database`."""
        self.root = root
        self.project = project
        self._history_bytes = history_bytes
        self._durable = durable
        self._checked: dict[int, bool] = {}
        self._damaged: dict[int, ArtifactRow] = {}
        self._unpacked: dict[int, list[Entry]] = {}
        self._without_clones: set[int] = set()
        """Devices from which a file could not be cloned into the store: it is tried once, not for each output."""
        self.state = State(root / STATE, durable=durable, patience=patience)

    def close(self) -> None:
        """Close the database."""
        self.state.close()

    def create(self) -> None:
        """Make the store's folder, which git ignores by itself."""
        is_new = not self.root.exists()
        self.root.mkdir(parents=True, exist_ok=True)
        ignore = self.root / ".gitignore"
        try:
            if not ignore.exists():
                ignore.write_text("*\n")
        except OSError:
            if is_new:
                ignore.unlink(missing_ok=True)
                with suppress(OSError):  # another process uses it already
                    self.root.rmdir()
            raise

    def begin(self, outputs: Iterable[Path], folders: Sequence[Path]) -> list[Path]:
        """Write down what is known so far, and remove what killed processes left at these outputs and in the store.

        `folders`: those outputs that are folders. Returns where files lie now that stood in one and that nobody knows.
        The caller holds the lock.
        """
        self.state.write_to_disk()
        aside: list[Path] = []
        for folder in folders:
            stage = marked_stage(folder)
            if stage is not None:
                aside += self._finish_exchange(stage, folder, ())[0]
            for former in left_of(folder):
                self._take_apart(former, folder, aside)
        own = (self.root / name for name in ("kept", "history", "between", "stamps"))
        publishing.remove_left_over([*outputs, self.state.path], [*folders, *own])
        places = {Path(os.path.realpath(folder)) for folder in folders}
        for row in self.state.artifacts(kind="intended"):
            top = next((each for each in row.path.parents if publishing.is_temporary(each.name)), None)
            if top is not None:
                # What lies there may be a former folder's, with somebody's files. Where it was dealt with, the row has
                # followed or is of no use; what another build left is for the next one that names that folder.
                if any(top.parent in (each, each.parent) and publishing.is_for(top.name, each) for each in places):
                    self.state.forget_artifact(row.id)
            elif not is_gone(row.path):
                # Else the rename was done and the row did not follow, or nothing was: `at` asks this row for the bytes.
                row.path.unlink(missing_ok=True)
                self.state.forget_artifact(row.id)
        self.remove_scratch()
        return aside

    def remove_scratch(self) -> None:
        """Remove the scratch folders of killed processes, which are as large as all outputs; none while one is used."""
        if left := scratch_folders(self.root):
            with suppress(OSError), held_if_free(self.root, REBUILDS) as is_free:
                for each in left if is_free else ():
                    shutil.rmtree(each, ignore_errors=True)

    # What was built

    def record(self, target: str) -> Record | None:
        """Return the last build of a target of this project."""
        return self.state.record(self.project, target)

    def records(self) -> list[Record]:
        """Return the last build of every target of this project."""
        return self.state.records(self.project)

    def put_record(self, record: Record) -> None:
        """Remember the last build of a target of this project."""
        if self.record(record.target) != record:
            self.state.put_record(self.project, record)

    def forget_record(self, target: str) -> None:
        """Forget the last build of a target of this project."""
        self.state.forget_record(self.project, target)

    # What is there

    def entries(self, row: ArtifactRow) -> list[Entry]:
        """Return the table of an artifact."""
        found = self._unpacked.get(row.id)
        if found is None:
            whole = row if row.packed else self.state.artifact(row.id)
            found = self._unpacked[row.id] = unpack(whole.packed) if whole else []
        return found

    def published(self, targets: Sequence[str]) -> list[tuple[Record, ArtifactRow]]:
        """Return the last builds of these targets of this project whose outputs are on record just so."""
        return self.state.published(self.project, targets)

    def at(self, path: Path) -> tuple[Presence, ArtifactRow | None]:
        """Say what stands at a path. A file that only its bytes show to be ours is taken back into the records."""
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # any other failure says nothing
            return Presence.ABSENT, None
        if not path.is_file():  # a folder, a pipe, a link to nowhere
            return Presence.FOREIGN, None
        rows = [row for row in self.state.artifacts(path=path) if row.kind != "intended"]
        for row in rows:
            if self.is_intact(row):
                return Presence.OURS, self.state.artifact(row.id)
        before = portable.identity(path)
        for row in self._alike(path):
            if self._has_bytes(path, row):
                of_folder = row.kind == "intended" and not publishing.is_temporary(row.path.name)
                # Of a folder whose rows have not followed, who only looks leaves them to the next build.
                return Presence.OURS, row if of_folder else self._taken_back(row, path, before)
        for row in rows:
            if row.id in self._damaged:
                return Presence.DAMAGED, row
        return Presence.FOREIGN, None

    def _taken_back(self, row: ArtifactRow, path: Path, before: Identity) -> ArtifactRow | None:
        """Take a file into the records that has the bytes of an artifact; its state before they were read is given."""
        kind = "kept" if path.parent == self.root / "kept" else "output"
        number = self._add(path, kind, row.digest, row.header, self.entries(row), self.project, was=before)
        if row.kind == "intended" and not row.path.exists():  # the crash came between rename and record
            self.state.forget_artifact(row.id)
        return self.state.artifact(number)

    def _alike(self, path: Path) -> list[ArtifactRow]:
        """Return the artifacts that a file may be, as far as its beginning tells, or else its size."""
        if path.suffix == ".safetensors" or path.parent == self.root / "kept":
            return self.state.artifacts(header=_header_checksum(path))
        return self.state.artifacts(size=path.stat().st_size)

    def look_again(self, path: Path) -> Presence:
        """Say what stands at a path now, whatever was found there before."""
        for row in self.state.artifacts(path=path):
            self._checked.pop(row.id, None)
        return self.at(path)[0]

    def lost(self, paths: Iterable[Path]) -> set[Path]:
        """Return which of these files, artifacts a while ago, are none any more."""
        return {path for path in paths if self.look_again(path) is not Presence.OURS}

    def is_intact(self, row: ArtifactRow) -> bool:
        """Say whether an artifact's file is still what was written.

        The stat data decide; where they differ, or stem from another epoch, the bytes do.
        """
        known = self._checked.get(row.id)
        if known is None:
            known = self._checked[row.id] = self._look(row)
        return known

    def intact(self, digest: bytes, *, header: bytes) -> Iterator[ArtifactRow]:
        """Yield the whole artifacts with this digest that are there: those with this header, then the newest first.

        Thousands of targets may come to one artifact, and who asks needs one row: none is looked at before its turn.
        """
        for number in self.state.numbers(digest, header):
            row = self.state.artifact(number)
            if row is not None and row.kind != "intended" and self.is_intact(row):
                yield row

    def find(self, digests: Iterable[bytes], *, allow_nonfinite: bool = False) -> dict[bytes, Held]:
        """Return where tensors lie, for those that an intact artifact holds."""
        found: dict[bytes, Held] = {}
        rows: dict[int, ArtifactRow | None] = {}
        for digest, holders in self.state.holders(digests).items():
            for number, ordinal in holders:
                if number not in rows:
                    rows[number] = self.state.artifact(number)
                row = rows[number]
                if row is None or row.kind == "intended" or not self.is_intact(row):
                    continue
                entries = self.entries(row)
                entry = entries[ordinal] if ordinal in range(len(entries)) else None
                if entry and entry.digest == digest and (allow_nonfinite or not entry.nonfinite):
                    found[digest] = Held(row.path, entry)
                    break
        return found

    def damage(self, row: ArtifactRow) -> list[str]:
        """Read a file again and return what of it is not what was written: tensor names, `header`.

        Of one that can't be read, why.
        """
        try:
            with _opened(row.path) as (fd, size):
                return _damage(fd, size, row.header, self.entries(row))
        except OSError as error:
            return [f"unreadable: {error.strerror}"]

    def matches(self, path: Path, fresh: Fresh) -> bool:
        """Whether a file has the bytes of an artifact just written elsewhere."""
        try:
            with _opened(path) as (fd, size):
                return not _damage(fd, size, fresh.header, fresh.contents, first=True)
        except OSError:
            return False

    def may_be(self, path: Path, beginning: bytes, size: int) -> bool:
        """Whether a file that is not on record may be one that begins so and has this size, or what is left of it.

        Only its beginning is looked at: whether it is worth while to make the other and compare.
        """
        if not path.is_file():  # a pipe would be waited for
            return False
        try:
            with path.open("rb") as file:
                found = file.read(len(beginning))
                length = file.seek(0, os.SEEK_END)
        except OSError:
            return False
        if found == beginning and length == size:
            return True
        return length <= size and _is_left_of(found, beginning) and not self._was_whole(path)

    def is_unfinished(self, path: Path, whole: Path) -> bool:
        """Whether a file is what a crash left of another: some pages are zeros, or its end is missing."""
        if not path.is_file() or self._was_whole(path):
            return False
        try:
            with path.open("rb") as left, whole.open("rb") as right:
                if left.seek(0, os.SEEK_END) > right.seek(0, os.SEEK_END):
                    return False
                left.seek(0)
                right.seek(0)
                return all(_is_left_of(page, right.read(len(page))) for page in iter(lambda: left.read(_SPAN), b""))
        except OSError:
            return False

    def _was_whole(self, path: Path) -> bool:
        """Whether a file was seen whole in this epoch: what is there now is no crash's work."""
        return any(row.epoch == portable.epoch(path.stat().st_dev) for row in self.state.artifacts(path=path))

    # Damage

    def doubt(self, row: ArtifactRow, names: Collection[str]) -> None:
        """Believe a damaged artifact no more, nor any that holds a tensor of these names: it may share their bytes."""
        hurt = [entry.digest for entry in self.entries(row) if entry.name in names]
        holders = {number for each in self.state.holders(hurt).values() for number, _ in each}
        with self.state.transaction():
            for number in holders | {row.id}:
                self._checked.pop(number, None)
                self.state.doubt_artifact(number)

    def quarantine(self, row: ArtifactRow) -> Path:
        """Take a damaged file out of the way, and forget it; return where it lies now."""
        self._damaged.pop(row.id, None)
        place = self.root / "quarantine" / f"{row.digest.hex()}-{row.id}"
        place.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.move(row.path, place)
        self.state.forget_artifact(row.id)
        return place

    def damaged_inside(self) -> list[ArtifactRow]:
        """Return what the store itself holds of the artifacts that were found to be damaged."""
        return [row for row in self._damaged.values() if row.kind != "output"]

    # Publishing

    def publish(
        self, temporary: Path, path: Path, fresh: Fresh, *, kind: str = "output", project: str = ""
    ) -> ArtifactRow:
        """Put a file that is written in full at its place; what stood there, if ours, goes into the history."""
        return self._take_place(self._intended(temporary, fresh, project), path, kind)

    def _intended(self, temporary: Path, fresh: Fresh, project: str) -> _Intended:
        """Date a file that is written in full, and write down what it is."""
        publishing.finish(temporary, durable=self._durable)
        number = self._add(temporary, "intended", fresh.digest, fresh.header, fresh.contents, project)
        return _Intended(number, temporary, portable.identity(temporary))

    def _take_place(self, intended: _Intended, path: Path, kind: str) -> ArtifactRow:
        superseded = self._supersede(path)
        publishing.place(intended.path, path, durable=self._durable)
        self._settle(superseded)
        return self._moved(intended.number, path, kind, was=intended.identity)

    def publish_folder(
        self,
        stage: Stage,
        files: Mapping[Path, Fresh],
        *,
        reused: Mapping[Path, ArtifactRow] = MappingProxyType({}),
        foreign: Collection[Path] = (),
        superfluous: Sequence[ArtifactRow] = (),
        project: str = "",
    ) -> PublishedFolder:
        """Put all files of a stage at their places at once; what stood there goes into the history where it is ours.

        Args:
            stage: where the files are written in full.
            files: what each is, by the path that it goes to.
            reused: those of them that are second names of files in the history, which has them no more afterwards.
            foreign: those paths at which something stands that is not ours; it is set aside.
            superfluous: files of ours in the folder that the new one has no more.
            project: whose output it is.

        Raises:
            OSError: the folder is what it was, or, where it can't be replaced as a whole, some of its files are new.
        """
        intended = {
            path: _Intended(reused[path].id, stage.place(path), portable.identity(stage.place(path)))
            if path in reused
            else self._intended(stage.place(path), fresh, project)
            for path, fresh in files.items()
        }
        beside = self.state.below(stage.folder, kind="output")
        former: Path | None = None
        is_placed = stage.is_beside and stage.carry_over(without={*files, *(row.path for row in superfluous)})
        if is_placed and self._durable:
            stage.sync()
        try:
            former = stage.take_place() if is_placed else None
        except OSError:  # the folder can't be renamed
            is_placed = False
        if is_placed:
            found = self._finish_exchange(stage.path, stage.folder, [former] if former else [])
        else:
            aside = [self._set_aside(path, path.relative_to(stage.folder), stage.folder.name) for path in foreign]
            for path, each in intended.items():
                self._take_place(each, path, "output")
            stage.remove()
            found = aside, None
        for path, row in reused.items():
            row.path.unlink(missing_ok=True)
            self._moved(row.id, path, "output", project, was=intended[path].identity)
        for row in beside:  # the second name changed their ctime
            if row.path not in files and row not in superfluous and not is_gone(row.path):
                self._moved(row.id, row.path, row.kind, was=row.identity)
        return PublishedFolder({path: self._row_at(path) for path in files}, *found)

    def _row_at(self, path: Path) -> ArtifactRow:
        rows = self.state.artifacts(path=path)
        if not rows:
            raise DatabaseDamagedError(f"the row of {path} was lost as soon as it was written")
        return rows[0]

    def _finish_exchange(self, stage: Path, folder: Path, former: Sequence[Path]) -> tuple[list[Path], Path | None]:
        """Do what follows when a stage has taken the place of a folder: its rows, the mark, the former folder.

        Returns:
            Where files lie now that were set aside; and a former folder, if something had to be left in it.
        """
        if self._durable:
            portable.sync_folder(stage.parent)
        self._exchange_rows(stage, folder)
        with suppress(OSError):  # of a mark that stays, the next build knows that the rows have followed
            unmark(Path(os.path.realpath(folder)))
        aside: list[Path] = []
        left = None
        for each in former:
            if not self._take_apart(each, folder, aside):
                left = each
        return aside, left

    def _exchange_rows(self, stage: Path, folder: Path) -> None:
        """Have the rows of a stage's files be for the folder, and the folder's for the former one, all at once.

        What a row says of a file of another epoch is believed when its bytes were read.
        """
        new = {folder / row.path.relative_to(stage): row for row in self.state.below(stage, kind="intended")}
        with self.state.transaction():
            for old in self.state.below(folder, kind="output"):
                if old.path in new or is_gone(old.path) or not _is_inode_of(old.path, old):
                    lies = former_of(stage) / old.path.relative_to(folder)
                    self.state.move_artifact(old.id, lies, old.kind, old.identity, old.epoch)
            for path, row in new.items():
                self._checked.pop(row.id, None)
                if is_gone(path):
                    continue
                now = portable.identity(path)
                epoch = portable.epoch(now.device)
                if row.epoch == epoch or self._has_bytes(path, row):
                    is_same = row.identity is not None and now._replace(ctime_ns=row.identity.ctime_ns) == row.identity
                    self.state.move_artifact(row.id, path, "output", now if is_same else row.identity, epoch)

    def _take_apart(self, former: Path, folder: Path, aside: list[Path]) -> bool:
        """Remove what was an output until another folder took its place; return whether all of it is gone.

        What is on record there goes into the history, while it is as written. What somebody put there in the moment of
        the exchange is moved over, but never through a link; where the new folder has another file under its name, it
        is set aside. One file that can't be dealt with keeps nobody from the others.
        """
        try:
            for old in list(files_below(former)):
                with suppress(OSError):
                    self._take_away(old, old.relative_to(former), former, folder, aside)
            return remove_empty(former)
        except OSError:
            return False

    def _take_away(self, old: Path, name: Path, former: Path, folder: Path, aside: list[Path]) -> None:
        """Deal with one file of a former folder, called so there."""
        path = folder / name
        row = next(iter(self.state.artifacts(path=former_of(former) / name)), None)
        is_inside = Path(os.path.realpath(path.parent)) == Path(os.path.realpath(folder), name).parent
        is_taken = not is_inside or not is_gone(path)
        if is_inside and is_taken and is_same_file(old, path):
            old.unlink()
        elif row is not None and self._is_as_written(old, row):
            self._into_history(old, row)
        elif self._is_in_history(old) or (is_inside and is_taken and self._is_no_loss(old, path)):
            old.unlink()
        elif is_taken:
            aside.append(self._set_aside(old, name, folder.name))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            old.rename(path)

    def _is_in_history(self, old: Path) -> bool:
        """Whether a file has a name in the history already: who moved it there was killed."""
        if old.is_symlink() or old.stat().st_nlink == 1:
            return False
        rows = self.state.artifacts(size=old.stat().st_size, kind="history")
        return any(not is_gone(row.path) and is_same_file(old, row.path) for row in rows)

    def _is_no_loss(self, old: Path, path: Path) -> bool:
        """Whether a file is the artifact that is at a path now, or what a crash left of it."""
        return any(self._has_bytes(old, row) for row in self.state.artifacts(path=path)) or self.is_unfinished(
            old, path
        )

    def _is_as_written(self, path: Path, row: ArtifactRow) -> bool:
        """Whether a file that may have changed its name is what a row says."""
        now = portable.identity(path)
        return (now == row.identity and row.epoch == portable.epoch(now.device)) or self._has_bytes(path, row)

    def _into_history(self, path: Path, row: ArtifactRow) -> None:
        """Move a file of ours that is superseded into the history, or remove it."""
        if self._history_bytes != 0 and not path.is_symlink():
            kept = self._history_path(row)
            try:
                if not portable.link_or_none(path, kept):
                    path.replace(kept)
            except OSError:  # it is another file system
                pass
            else:
                moved = self._moved(row.id, kept, "history", was=row.identity)
                path.unlink(missing_ok=True)
                self._settle(moved)
                return
        path.unlink()
        self.state.forget_artifact(row.id)

    def _set_aside(self, path: Path, name: Path, group: str) -> Path:
        """Move a file that is not ours to where nothing of the store's own lies; return where it is."""
        places = (self.root / "by-hand" / publishing.fitting(group, f"-{number}") / name for number in count(1))
        place = next(each for each in places if is_gone(each))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
        return place

    def move(self, row: ArtifactRow, path: Path, *, project: str = "") -> ArtifactRow:
        """Put an artifact of the history at an output's path again, superseding what stands there."""
        superseded = self._supersede(path)
        row.path.replace(path)
        self._settle(superseded)
        return self._moved(row.id, path, "output", project, was=row.identity)

    def kept_path(self, digest: bytes, header: bytes) -> Path:
        """Return where the store keeps an artifact of its own. Never a name that a WebUI would scan."""
        return self.root / "kept" / f"{digest.hex()}-{header.hex()[:8]}"

    def keep(self, row: ArtifactRow, link: str) -> None:
        """Give an output a second name or copy in the store: `auto` only where a clone costs nothing."""
        device = row.identity.device if row.identity else 0
        if link == "auto" and device in self._without_clones:
            return
        path = self.kept_path(row.digest, row.header)
        if self.state.artifacts(path=path) and path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if link == "hard" and portable.link_or_none(row.path, path):
            # The new name changed the file's ctime: both rows must know.
            self._moved(row.id, row.path, row.kind, was=row.identity)
        else:
            # Under a name of its own: a target that is kept at this place may be in writing.
            with publishing.being_written(path.with_name(f"{path.name}-second")) as temporary:
                if not portable.clone_file(row.path, temporary):
                    temporary.unlink(missing_ok=True)
                    if link == "auto":
                        self._without_clones.add(device)
                        return
                    shutil.copyfile(row.path, temporary)
                publishing.put(temporary, path, durable=self._durable)
        self._add(path, "kept", row.digest, row.header, self.entries(row))

    # Room

    def rows_inside(self) -> list[ArtifactRow]:
        """Return the artifacts that lie in the store itself, the newest first."""
        return [row for row in self.state.artifacts() if row.kind in ("history", "kept")]

    def own_history(self) -> list[ArtifactRow]:
        """Return what builds of this project superseded, the newest first: its budget is for that."""
        return [row for row in self.state.artifacts(kind="history") if row.project in ("", self.project)]

    def remove(self, row: ArtifactRow) -> int:
        """Remove an artifact's file and forget it; return the bytes that this freed."""
        freed = 0
        with suppress(FileNotFoundError):
            found = row.path.stat()
            freed = found.st_size if found.st_nlink == 1 else 0
            row.path.unlink()
        self.state.forget_artifact(row.id)
        return freed

    def history_budget(self) -> int:
        """Return how many bytes the history may hold."""
        if self._history_bytes is not None:
            return self._history_bytes
        return min(_DEFAULT_HISTORY, portable.free_space(self.root) // 10)

    def trim_history(self) -> None:
        """Remove the oldest of this project's history until the rest fits the budget."""
        budget = self.history_budget()
        for row in self.own_history():
            budget -= row.identity.size if row.identity else 0
            if budget < 0:
                self.remove(row)

    # Inside

    def _add(
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
        """Add a row. `was`: the state in which its bytes were seen, if that is a while ago: a change since shows."""
        with self.state.transaction():
            state = was or portable.identity(path)
            row = ArtifactRow(
                0, digest, header, path, kind, state, portable.epoch(state.device),
                sum(entry.nonfinite for entry in contents), pack(contents), time.time(), project,
            )  # fmt: skip
            return self.state.add_artifact(row, [entry.digest for entry in contents])

    def _moved(
        self, number: int, path: Path, kind: str, project: str | None = None, *, was: Identity | None
    ) -> ArtifactRow:
        """Say where a file is now. `was`: as for `_add`; a new name changes a file's ctime, and nothing else."""
        with self.state.transaction():
            state = portable.identity(path)
            if was is not None and state._replace(ctime_ns=was.ctime_ns) != was:
                state = was
            self.state.move_artifact(number, path, kind, state, portable.epoch(state.device), project)
        self._checked.pop(number, None)
        row = self.state.artifact(number)
        if row is None:
            raise DatabaseDamagedError(f"the row of {path} was lost as soon as it was written")
        return row

    def _supersede(self, path: Path) -> ArtifactRow | None:
        """Give what stands at `path` a name in the history, when it is ours and the history may hold it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = self.state.artifacts(path=path)
        if not rows or self._history_bytes == 0 or not path.exists() or not self.is_intact(rows[0]):
            return None
        row = self.state.artifact(rows[0].id) or rows[0]
        kept = self._history_path(row)
        if not portable.link_or_none(path, kept):
            try:
                path.replace(kept)
            except OSError:  # another file system: the history cannot hold it
                return None
        return self._moved(row.id, kept, "history", was=row.identity)

    def _history_path(self, row: ArtifactRow) -> Path:
        """Return where the history holds an artifact, with nothing there."""
        kept = self.root / "history" / f"{row.digest.hex()}-{row.id}"
        kept.parent.mkdir(exist_ok=True)
        kept.unlink(missing_ok=True)
        return kept

    def _settle(self, superseded: ArtifactRow | None) -> None:
        """Look at a superseded file again: losing its name at the output's path changed its ctime."""
        if superseded:
            self._moved(superseded.id, superseded.path, "history", was=superseded.identity)

    def _look(self, row: ArtifactRow) -> bool:
        try:
            now = portable.identity(row.path)
        except OSError:
            return False
        epoch = portable.epoch(now.device)
        if now == row.identity and row.epoch == epoch:
            return True
        if not self._has_bytes(row.path, row):
            if row.kind != "output" or _is_untouched(row, now, epoch):
                self._damaged[row.id] = row
                self.doubt(row, self.damage(row))
            return False
        with self.state.transaction():
            there = self.state.artifact(row.id)
            # what only looks holds no lock: a build may have moved it, and put another one there
            if there is not None and there._replace(packed=row.packed, made=row.made) == row:
                self.state.move_artifact(row.id, row.path, row.kind, now, epoch)
        return True

    def _has_bytes(self, path: Path, row: ArtifactRow) -> bool:
        return self.matches(path, Fresh(row.digest, row.header, self.entries(row)))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open a regular file to read; give its descriptor and size.

    Raises:
        OSError: it can't be opened, or is something else. A pipe would be waited for.
    """
    fd = portable.open_to_read(path)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        yield fd, found.st_size
    finally:
        os.close(fd)


def _is_inode_of(path: Path, row: ArtifactRow) -> bool:
    """Whether a file is the one that a row was written for, whatever became of its content."""
    now = portable.identity(path)
    return row.identity is not None and (now.device, now.inode) == (row.identity.device, row.identity.inode)


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


def _is_left_of(found: bytes, whole: bytes) -> bool:
    """Whether bytes are these, but for pages of zeros."""
    return found == whole or all(
        page == whole[start : start + len(page)] or not any(page)
        for start in range(0, len(found), portable.PAGE)
        for page in (found[start : start + portable.PAGE],)
    )


def _header_checksum(path: Path) -> bytes:
    """Return the checksum of what stands before a file's data; nothing's where there is no such thing."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                return b""
            return checksum(length.to_bytes(8, "little") + file.read(length))
    except OSError:
        return b""


def _damage(fd: int, size: int, header: bytes, entries: Sequence[Entry], *, first: bool = False) -> list[str]:
    """Return what of a file differs from its table; with `first`, at most one name."""
    data_start = min((entry.begin for entry in entries), default=size)
    end = max((entry.end for entry in entries), default=data_start)
    if size != end:
        return [f"file size {size}, written {end}"]
    found = [] if file_checksum(fd, 0, data_start) == header else ["header"]
    for entry in entries:
        if first and found:
            break
        if file_checksum(fd, entry.begin, entry.end) != entry.checksum:
            found.append(entry.name)
    return found
