"""How a new artifact is published in a store on disk, and how an old one is removed.

First the row of the new file is written, with its temporary path (the *intent*); then the old output gets a second name
in the history; one rename puts the new file at the output's path (`system/publishing.py`); then its row is updated. A
crash at any moment leaves the old file or the new one, and a file whose row wasn't updated is recognized by its bytes
(`DiskShelf.at`). `stages.py` says how a folder of files is published at once.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mergebuild.store.database import DatabaseDamagedError
from mergebuild.store.shelf import DiskShelf
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
from mergebuild.store.state import State
from mergebuild.store.values import ArtifactRow, Fresh, PublishedFolder
from mergebuild.system import filestate, platform, publishing
from mergebuild.system.filestate import Identity, is_gone

__all__ = ["DiskPublisher"]

_BETWEEN = "between"
"""The folder of the store for files of intermediate tensors, which exist during one build only."""

_DEFAULT_HISTORY = 10_000_000_000

_HINDRANCES = (OSError, sqlite3.Error)
"""What is raised if a file can't be moved, or if its row can't be written, for example because the disk is full."""


class _Intended(NamedTuple):
    """A finished file at its temporary path, with its row."""

    number: int
    path: Path
    identity: Identity


class DiskPublisher:
    """Puts files at their places, and those they supersede into the history. The caller holds the store's lock."""

    def __init__(
        self, state: State, shelf: DiskShelf, root: Path, project: str, *, history_bytes: int | None, durable: bool
    ) -> None:
        self.project = project
        self._state = state
        self._shelf = shelf
        self._root = root
        self._history_bytes = history_bytes
        self._durable = durable
        self._without_clones: set[int] = set()
        """Devices from which a file could not be cloned into the store: that is tried once, not for each output."""

    def scratch_path(self, name: str) -> Path:
        """Return a path, in an existing folder, for a file that is needed during one build only."""
        path = publishing.temporary_path(self._root / _BETWEEN / name)
        path.parent.mkdir(exist_ok=True)
        return path

    def go_on(self, outputs: Iterable[Path], folders: Mapping[Path, bool]) -> list[Path]:
        """Remove what killed processes left at these outputs and in the store, and finish what they had published.

        `folders`: those outputs that are folders, each with whether its former files go into the history. Returns where
        files are now that were in one and aren't ours.
        """
        aside: list[Path] = []
        for folder, keeps_former in folders.items():
            self._go_on_with(folder, aside, keeps_former=keeps_former)
        own = (self._root / name for name in ("kept", "history", _BETWEEN, "stamps"))
        publishing.remove_left_over([*outputs, self._state.path], [*folders, *own])
        self._forget_intents({Path(os.path.realpath(folder)) for folder in folders})
        return aside

    def _go_on_with(self, folder: Path, aside: list[Path], *, keeps_former: bool) -> None:
        """Finish what a killed process did with a folder; add files that are set aside to `aside`."""
        stage = marked_stage(folder)
        if stage is not None:
            self._exchange_rows(stage, folder)
            aside += self._finish_exchange(folder, (), keeps_former=keeps_former)[0]
        for former in left_of(folder):
            self._take_apart(former, folder, aside, keeps_former=keeps_former)

    def _forget_intents(self, folders: Collection[Path]) -> None:
        """Forget the intents of killed processes that are of no use. `folders`: outputs, with links resolved."""
        for row in self._state.artifacts(kind="intended"):
            top = next((each for each in row.path.parents if publishing.is_temporary(each.name)), None)
            if top is not None:
                # The row is of a folder's file, perhaps of a former folder with a user's files. `go_on` has dealt with
                # `folders`: their rows are updated or of no use. Other folders are left to the next build of them.
                if any(top.parent in (each, each.parent) and publishing.is_for(top.name, each) for each in folders):
                    self._state.forget_artifact(row.id)
            elif not is_gone(row.path):
                # If it is gone, it may have been renamed before its row was updated: `at` needs that row.
                row.path.unlink(missing_ok=True)
                self._state.forget_artifact(row.id)

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
        """Put a finished file at its place; the file that was there, if ours, goes into the history."""
        return self._take_place(self._intended(temporary, fresh, project), path, kind, keeps_former=keeps_former)

    def _intended(self, temporary: Path, fresh: Fresh, project: str) -> _Intended:
        """Set the times of a finished file, and write its row, of kind `intended`, before it gets to its place."""
        publishing.finish(temporary, durable=self._durable)
        number = self._state.add_file(temporary, "intended", fresh.digest, fresh.header, fresh.contents, project)
        return _Intended(number, temporary, filestate.identity(temporary))

    def _take_place(self, intended: _Intended, path: Path, kind: str, *, keeps_former: bool) -> ArtifactRow:
        superseded = self._supersede(path, keeps_former=keeps_former)
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
        keeps_former: bool = True,
    ) -> PublishedFolder:
        """Put all files of a stage at their places at once; the files that were there, if ours, go into the history.

        Args:
            stage: The stage, with finished files.
            files: What each file is, by the path that it goes to.
            reused: Those of them that are second names of files in the history; there they are removed afterwards.
            foreign: Those paths at which there is something that is not ours; it is set aside.
            superfluous: Files of ours in the folder that are not in the new one.
            project: Whose output it is.
            keeps_former: Whether the former files go into the history; else they are removed.

        Raises:
            OSError: the folder is what it was, or, if it can't be replaced as a whole, some of its files are new.
        """
        intended = {
            path: _Intended(reused[path].id, stage.place(path), filestate.identity(stage.place(path)))
            if path in reused
            else self._intended(stage.place(path), fresh, project)
            for path, fresh in files.items()
        }
        beside = self._state.below(stage.folder, kind="output")
        leaving = {*files, *(row.path for row in superfluous)}
        found = self._place_at_once(stage, leaving, keeps_former=keeps_former)
        if found is None:
            found = self._place_one_by_one(stage, intended, foreign, keeps_former=keeps_former), None
        for path, row in reused.items():
            row.path.unlink(missing_ok=True)
            self._moved(row.id, path, "output", project, was=intended[path].identity)
        for row in beside:  # the second name changed their ctime
            if row.path not in files and row not in superfluous and not is_gone(row.path):
                self._moved(row.id, row.path, row.kind, was=row.identity)
        return PublishedFolder({path: self._row_at(path) for path in files}, *found)

    def _place_at_once(
        self, stage: Stage, leaving: Collection[Path], *, keeps_former: bool
    ) -> tuple[list[Path], Path | None] | None:
        """Replace a folder by its stage; None if that can't be done as a whole, and nothing was changed.

        `leaving`: files of the folder that are not carried over. Returns what `_finish_exchange` does.
        """
        if not stage.is_beside or not stage.carry_over(without=leaving):
            return None
        if self._durable:
            stage.sync()
        try:
            former = stage.take_place()
        except OSError:  # the folder can't be renamed
            return None
        try:
            return self._follow_exchange(stage, former, keeps_former=keeps_former)
        except KeyboardInterrupt:  # raised once in a process: nothing of the former folder is left beside the new one
            self._follow_exchange(stage, former, keeps_former=keeps_former)
            raise

    def _follow_exchange(
        self, stage: Stage, former: Path | None, *, keeps_former: bool
    ) -> tuple[list[Path], Path | None]:
        """Update the rows after a stage has replaced a folder, and finish; return what `_finish_exchange` does."""
        try:
            self._exchange_rows(stage.path, stage.folder)
        except Exception:
            with suppress(OSError):  # if this fails, the next build updates the rows
                stage.step_back(former)
            raise
        return self._finish_exchange(stage.folder, [former] if former else [], keeps_former=keeps_former)

    def _place_one_by_one(
        self, stage: Stage, intended: Mapping[Path, _Intended], foreign: Collection[Path], *, keeps_former: bool
    ) -> list[Path]:
        """Put the files of a stage one by one into the existing folder; return where files that aren't ours are now."""
        aside = [self._set_aside(path, path.relative_to(stage.folder), stage.folder.name) for path in foreign]
        for path, each in intended.items():
            self._take_place(each, path, "output", keeps_former=keeps_former)
        stage.remove()
        return aside

    def _row_at(self, path: Path) -> ArtifactRow:
        rows = self._state.artifacts(path=path)
        if not rows:
            raise DatabaseDamagedError(f"the row of {path} was lost as soon as it was written")
        return rows[0]

    def _finish_exchange(
        self, folder: Path, former: Sequence[Path], *, keeps_former: bool
    ) -> tuple[list[Path], Path | None]:
        """Finish after a stage has replaced a folder and the rows are updated: remove the mark and the former folder.

        Returns:
            Where files are now that were set aside; and a former folder, if something had to be left in it.
        """
        # All twice: a disk that failed once may do so no more, and nothing is left for that.
        for _ in range(2):
            with suppress(OSError):  # if the mark stays, the next build sees that the rows are updated
                unmark(Path(os.path.realpath(folder)))
                break
        aside: list[Path] = []
        left = None
        for each in former:
            if not any(self._take_apart(each, folder, aside, keeps_former=keeps_former) for _ in range(2)):
                left = each
        return aside, left

    def _exchange_rows(self, stage: Path, folder: Path) -> None:
        """Change the paths in the rows after an exchange: the stage's to the folder, the folder's to the former one.

        If a row was written in another epoch, the file's bytes are read before the row is believed.
        """
        if self._durable:
            platform.sync_folder(stage.parent)
        new = {folder / row.path.relative_to(stage): row for row in self._state.below(stage, kind="intended")}
        with self._state.transaction():
            self._rows_to_former(stage, folder, new)
            for path, row in new.items():
                self._shelf.checked.pop(row.id, None)
                if not is_gone(path):
                    self._row_follows(row, path)

    def _rows_to_former(self, stage: Path, folder: Path, new: Collection[Path]) -> None:
        """Change the paths of a folder's rows to the former folder; `new`: the files that came with the stage."""
        for old in self._state.below(folder, kind="output"):
            if old.path in new or is_gone(old.path) or not _is_inode_of(old.path, old):
                lies = former_of(stage) / old.path.relative_to(folder)
                self._state.move_artifact(old.id, lies, old.kind, old.identity, old.epoch)

    def _row_follows(self, row: ArtifactRow, path: Path) -> None:
        """Change the path of a stage's file to the file's new path, if the file is what its row says."""
        now = filestate.identity(path)
        epoch = filestate.epoch(now.device)
        if row.epoch == epoch or self._shelf.has_bytes(path, row):
            is_same = row.identity is not None and now._replace(ctime_ns=row.identity.ctime_ns) == row.identity
            self._state.move_artifact(row.id, path, "output", now if is_same else row.identity, epoch)

    def _take_apart(self, former: Path, folder: Path, aside: list[Path], *, keeps_former: bool) -> bool:
        """Remove a former folder; return whether all of it is gone.

        Recorded files that are as written go into the history if `keeps_former`. Files that a user put there at the
        moment of the exchange are moved into the new folder, but never through a link; if the new folder has another
        file of that name, they are set aside. If one file can't be dealt with, the others are all the same.
        """
        try:
            for old in list(files_below(former)):
                with suppress(*_HINDRANCES):
                    self._take_away(old, old.relative_to(former), former, folder, aside, keeps_former=keeps_former)
            return remove_empty(former)
        except OSError:
            return False

    def _take_away(
        self, old: Path, name: Path, former: Path, folder: Path, aside: list[Path], *, keeps_former: bool
    ) -> None:
        """Deal with one file of a former folder; `name`: its path in there."""
        path = folder / name
        row = next(iter(self._state.artifacts(path=former_of(former) / name)), None)
        is_inside = Path(os.path.realpath(path.parent)) == Path(os.path.realpath(folder), name).parent
        is_taken = not is_inside or not is_gone(path)
        if is_inside and is_taken and is_same_file(old, path):
            old.unlink()
        elif row is not None and self._is_as_written(old, row):
            self._into_history(old, row, is_wanted=keeps_former)
        elif self._is_in_history(old) or (is_inside and is_taken and self._is_no_loss(old, path)):
            old.unlink()
        elif is_taken:
            aside.append(self._set_aside(old, name, folder.name))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            old.rename(path)

    def _is_in_history(self, old: Path) -> bool:
        """Whether a file has a name in the history already: the process that gave it that name was killed."""
        if old.is_symlink() or old.stat().st_nlink == 1:
            return False
        rows = self._state.artifacts(size=old.stat().st_size, kind="history")
        return any(not is_gone(row.path) and is_same_file(old, row.path) for row in rows)

    def _is_no_loss(self, old: Path, path: Path) -> bool:
        """Whether a file has the bytes of the artifact that is at a path now, or is what a crash left of it."""
        return any(
            self._shelf.has_bytes(old, row) for row in self._state.artifacts(path=path)
        ) or self._shelf.is_unfinished(old, path)

    def _is_as_written(self, path: Path, row: ArtifactRow) -> bool:
        """Whether a file, which may have been renamed, is what a row says."""
        now = filestate.identity(path)
        return (now == row.identity and row.epoch == filestate.epoch(now.device)) or self._shelf.has_bytes(path, row)

    def _into_history(self, path: Path, row: ArtifactRow, *, is_wanted: bool) -> None:
        """Move a superseded file of ours into the history, or remove it."""
        if is_wanted and self._history_bytes != 0 and not path.is_symlink():
            moved = self._named_in_history(path, row)
            if moved is not None:
                path.unlink(missing_ok=True)
                self._settle(moved)
                return
        path.unlink(missing_ok=True)
        self._state.forget_artifact(row.id)

    def _named_in_history(self, path: Path, row: ArtifactRow) -> ArtifactRow | None:
        """Give a file of ours a name in the history; if there are no hard links it is moved there.

        Returns its row; None if the history can't have it: it is on another file system, or the row can't be written.
        """
        kept = self._history_path(row)
        try:
            if not platform.link_or_none(path, kept):
                path.replace(kept)
            return self._moved(row.id, kept, "history", was=row.identity)
        except _HINDRANCES:
            kept.unlink(missing_ok=True)  # without a row nobody would know what it is
            return None

    def _set_aside(self, path: Path, name: Path, group: str) -> Path:
        """Move a file that is not ours into the store's folder `by-hand`; return where it is."""
        places = (self._root / "by-hand" / publishing.fitting(group, f"-{number}") / name for number in count(1))
        place = next(each for each in places if is_gone(each))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
        return place

    def move(self, row: ArtifactRow, path: Path, *, project: str = "", keeps_former: bool = True) -> ArtifactRow:
        """Put an artifact of the history back at an output's path, superseding the file that is there."""
        superseded = self._supersede(path, keeps_former=keeps_former)
        row.path.replace(path)
        self._settle(superseded)
        return self._moved(row.id, path, "output", project, was=row.identity)

    def keep(self, row: ArtifactRow, link: str) -> None:
        """Give an output a second name or copy in the store: with `auto` only a clone, which costs nothing."""
        device = row.identity.device if row.identity else 0
        if link == "auto" and device in self._without_clones:
            return
        path = self._shelf.kept_path(row.digest, row.header)
        if self._state.artifacts(path=path) and path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if link == "hard" and platform.link_or_none(row.path, path):
            # The new name changed the file's ctime: both rows must have the new one.
            self._moved(row.id, row.path, row.kind, was=row.identity)
        elif not self._copy(row.path, path, clones_only=link == "auto"):
            self._without_clones.add(device)
            return
        self._state.add_file(path, "kept", row.digest, row.header, self._shelf.entries(row))

    def _copy(self, path: Path, kept: Path, *, clones_only: bool) -> bool:
        """Copy a file into the store; return whether there is a copy now: False only with `clones_only`."""
        # With a name of its own: a target that is kept at this path may be written at the same time.
        with publishing.being_written(kept.with_name(f"{kept.name}-second")) as temporary:
            if not platform.clone_file(path, temporary):
                temporary.unlink(missing_ok=True)
                if clones_only:
                    return False
                shutil.copyfile(path, temporary)
            publishing.put(temporary, kept, durable=self._durable)
        return True

    def remove(self, row: ArtifactRow) -> int:
        """Remove an artifact's file and forget it; return the bytes that this freed."""
        freed = 0
        with suppress(FileNotFoundError):
            found = row.path.stat()
            freed = found.st_size if found.st_nlink == 1 else 0
            row.path.unlink()
        self._state.forget_artifact(row.id)
        return freed

    def forget(self, row: ArtifactRow) -> None:
        """Forget an artifact; a file at its path stays."""
        self._state.forget_artifact(row.id)

    def quarantine(self, row: ArtifactRow) -> Path:
        """Move a damaged file into the quarantine, and forget it; return where it is now."""
        self._shelf.found_damaged.pop(row.id, None)
        place = self._root / "quarantine" / f"{row.digest.hex()}-{row.id}"
        place.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.move(row.path, place)
        self._state.forget_artifact(row.id)
        return place

    def history_budget(self) -> int:
        """Return how many bytes the history may hold."""
        if self._history_bytes is not None:
            return self._history_bytes
        return min(_DEFAULT_HISTORY, platform.free_space(self._root) // 10)

    def trim_history(self) -> None:
        """Remove the oldest files of this project's history until the rest fits the budget."""
        budget = self.history_budget()
        for row in self._own_history():
            budget -= row.identity.size if row.identity else 0
            if budget < 0:
                self.remove(row)

    def _own_history(self) -> list[ArtifactRow]:
        """Return the files that builds of this project superseded, the newest first: the budget is for these."""
        return [row for row in self._state.artifacts(kind="history") if row.project in ("", self.project)]

    def _moved(
        self, number: int, path: Path, kind: str, project: str | None = None, *, was: Identity | None
    ) -> ArtifactRow:
        """Record where a file is now. `was`: as for `State.add_file`. A new name changes only a file's ctime."""
        with self._state.transaction():
            state = filestate.identity(path)
            if was is not None and state._replace(ctime_ns=was.ctime_ns) != was:
                state = was
            self._state.move_artifact(number, path, kind, state, filestate.epoch(state.device), project)
        self._shelf.checked.pop(number, None)
        row = self._state.artifact(number)
        if row is None:
            raise DatabaseDamagedError(f"the row of {path} was lost as soon as it was written")
        return row

    def _supersede(self, path: Path, *, keeps_former: bool) -> ArtifactRow | None:
        """Give the file at `path` a name in the history, if it is ours and the history may hold it; return its row."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = self._state.artifacts(path=path) if keeps_former else []
        if not rows or self._history_bytes == 0 or not path.exists() or not self._shelf.is_intact(rows[0]):
            return None
        row = self._state.artifact(rows[0].id) or rows[0]
        kept = self._history_path(row)
        if not platform.link_or_none(path, kept):
            try:
                path.replace(kept)
            except OSError:  # another file system: the history cannot hold it
                return None
        return self._moved(row.id, kept, "history", was=row.identity)

    def _history_path(self, row: ArtifactRow) -> Path:
        """Return the path of an artifact in the history, where there is no file now."""
        kept = self._root / "history" / f"{row.digest.hex()}-{row.id}"
        kept.parent.mkdir(exist_ok=True)
        kept.unlink(missing_ok=True)
        return kept

    def _settle(self, superseded: ArtifactRow | None) -> None:
        """Record a superseded file's stat data again: losing its name at the output's path changed its ctime."""
        if superseded:
            self._moved(superseded.id, superseded.path, "history", was=superseded.identity)


def _is_inode_of(path: Path, row: ArtifactRow) -> bool:
    """Whether a file is the one that a row was written for, even if its content changed."""
    now = filestate.identity(path)
    return row.identity is not None and (now.device, now.inode) == (row.identity.device, row.identity.inode)
