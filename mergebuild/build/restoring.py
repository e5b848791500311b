"""Restores files from whole artifacts, without arithmetic: they are moved, linked, cloned, or else copied."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from mergebuild.build import failures
from mergebuild.build.context import BuildContext
from mergebuild.build.folders import Folders
from mergebuild.build.places import OutputPlaces
from mergebuild.build.temporaries import room
from mergebuild.engine.run import run_pass
from mergebuild.engine.work import Copy, Location, OutputFile, OutputRange, Pass
from mergebuild.plan.actions import FileAction, Outcome
from mergebuild.plan.judge import whole_artifact
from mergebuild.results.build import Verdict
from mergebuild.store import ArtifactRow, Fresh
from mergebuild.system import platform
from mergebuild.system.spans import span

__all__ = ["Restoring"]


class Restoring:
    """Restores the files of one build."""

    def __init__(self, context: BuildContext, places: OutputPlaces, folders: Folders) -> None:
        self._context = context
        self._places = places
        self._folders = folders

    def whole(self, action: FileAction) -> ArtifactRow | None:
        """Return an artifact that a file can be restored from now; None if there is none."""
        if action.content.digest is None:
            return None
        return whole_artifact(action.description, action.content, self._context.shelf)

    def restore(self, ready: Sequence[tuple[FileAction, ArtifactRow]], *, awaits: bool = True) -> None:
        """Restore files from artifacts.

        All copies are made before any is published: one file's output may be what another is restored from. `awaits`:
        whether a file with the path of an earlier action's file in the store waits for that.
        """
        with room(*self._context.temporaries.by_themselves(action for action, _ in ready)):
            copies = self._copies(ready, awaits=awaits)
            for action, row in ready:
                now = self.whole(action) or row if awaits and action.same_place is not None else row
                with span("publish", target=action.name, file=action.content.shown):
                    self._place(action, now, copies.get(action))

    def _copies(
        self, ready: Sequence[tuple[FileAction, ArtifactRow]], *, awaits: bool
    ) -> dict[FileAction, tuple[Fresh, int]]:
        """Copy the artifacts that are neither at their files' paths nor can be moved there."""
        copies: dict[FileAction, tuple[Fresh, int]] = {}
        for action, row in ready:
            is_made = (awaits and action.same_place is not None) or self._is_there(action, row)
            if not is_made and not self._can_move(action, row):
                with span("restore", target=action.name, file=action.content.shown):
                    copies[action] = self._copied(action, row)
        return copies

    def _is_there(self, action: FileAction, row: ArtifactRow) -> bool:
        """Whether an artifact is at the file's path already: another target has the same path in the store."""
        return row.path == self._context.path(action) and row.header == action.content.header_checksum

    def _can_move(self, action: FileAction, row: ArtifactRow) -> bool:
        """Whether an artifact of the history can be moved to a file's path as it is."""
        return (
            not action.is_part
            and row.kind == "history"
            and row.header == action.content.header_checksum
            and row.path.stat().st_dev == self._context.path(action).parent.stat().st_dev
        )

    def _place(self, action: FileAction, wanted: ArtifactRow, copy: tuple[Fresh, int] | None) -> None:
        """Publish a copy of an artifact, or move the artifact itself."""
        began = time.perf_counter()
        shelf, outcomes = self._context.shelf, self._context.outcomes
        temporary = self._context.temporaries.of(action)
        row = shelf.row(wanted.id) or wanted
        if copy is None and not self._is_there(action, row) and not self._can_move(action, row):
            copy = self._copied(action, row)  # another action has taken it out of the history
        fresh, written = copy or (Fresh(row.digest, row.header, shelf.entries(row)), 0)
        if action.is_part:
            seconds = time.perf_counter() - began
            self._folders.put(action, fresh, Outcome(Verdict.RESTORED, 0, written, written, seconds))
            return
        if not self._places.may_take(action, fresh, temporary if copy else row.path):
            temporary.unlink(missing_ok=True)
            outcomes.fail(action, failures.changed_by_hand(action))
            return
        placed = self._places.put(action, temporary, fresh) if copy is not None else self._moved(action, row)
        seconds = time.perf_counter() - began
        outcomes.done(action, Outcome(Verdict.RESTORED, bytes_read=written, bytes_written=written, seconds=seconds))
        self._places.settle(action, placed)

    def _moved(self, action: FileAction, row: ArtifactRow) -> ArtifactRow:
        """Move an artifact to a file's path, unless it is there."""
        if self._is_there(action, row):
            return row
        keeps_former = not action.description.has_only_its_output
        context = self._context
        return context.publisher.move(
            row, context.path(action), project=context.owner(action), keeps_former=keeps_former
        )

    def _copied(self, action: FileAction, row: ArtifactRow) -> tuple[Fresh, int]:
        """Write a second file of an artifact, as a link or clone if that is free; return it and the bytes written.

        If its metadata are to be others it gets another header; the data are the same, in the same order.
        """
        temporary = self._context.temporaries.of(action)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        if row.header != action.content.header_checksum:
            return self._under_another_header(action, row, temporary)
        fresh = Fresh(row.digest, row.header, self._context.shelf.entries(row))
        if self._is_linked(action, row, temporary) or platform.clone_file(row.path, temporary):
            return fresh, 0
        shutil.copyfile(row.path, temporary)
        return fresh, action.content.size

    def _is_linked(self, action: FileAction, row: ArtifactRow, temporary: Path) -> bool:
        """Give an artifact a second name, if one of the two will be removed or the project wants this.

        Return whether it has.
        """
        moving = self._folders.moving
        is_spare = row.kind == "history" and action.is_part
        if is_spare and row not in moving.values() and platform.link_or_none(row.path, temporary):
            moving[action] = row
            return True
        is_shared = self._context.options.link == "hard" and row.kind == "kept"
        return is_shared and bool(platform.link_or_none(row.path, temporary))

    def _under_another_header(self, action: FileAction, row: ArtifactRow, temporary: Path) -> tuple[Fresh, int]:
        content, entries = action.content, self._context.shelf.entries(row)
        start = min((entry.begin for entry in entries), default=content.header.data_start)
        shift = content.header.data_start - start
        lying = Location(row.path, start, content.size - content.header.data_start)
        work = Pass(
            outputs=[OutputFile(temporary, content.header_bytes, content.size)],
            copies=[Copy(lying, OutputRange(0, content.header.data_start))],
        )
        run_pass(work, threads=1, emit=self._context.emit, targets=(action.name,))
        moved = [entry._replace(begin=entry.begin + shift, end=entry.end + shift) for entry in entries]
        return Fresh(row.digest, content.header_checksum, moved), content.size
