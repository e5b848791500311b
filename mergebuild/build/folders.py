"""Folders: their files wait for each other in a stage, and are published all at once or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mergebuild.build import failures
from mergebuild.build.context import BuildContext
from mergebuild.build.places import OutputPlaces
from mergebuild.events import Notice
from mergebuild.formats.sidecars import stale
from mergebuild.plan.actions import FileAction, FolderAction, Outcome
from mergebuild.plan.judgement import Judgement
from mergebuild.plan.plan import Plan
from mergebuild.results.build import Verdict
from mergebuild.store import ArtifactRow, Fresh, Presence

__all__ = ["Folders"]


class Folders:
    """The folders of the current plan."""

    def __init__(self, context: BuildContext, places: OutputPlaces) -> None:
        self._context = context
        self._places = places
        self._of: dict[Judgement, FolderAction] = {}
        self._staged: dict[FileAction, Fresh] = {}
        """Files that are finished."""
        self.moving: dict[FileAction, ArtifactRow] = {}
        """Files of the history with a second name in a stage, which becomes their only one when the stage is
        published."""

    def begin(self, plan: Plan) -> None:
        """Begin with a plan."""
        self._of = {each.judgement: each for each in plan.actions if isinstance(each, FolderAction)}

    def put(self, action: FileAction, fresh: Fresh, outcome: Outcome) -> None:
        """Keep a finished file of a folder; with the last one, the folder is published."""
        folder, outcomes = self._of[action.judgement], self._context.outcomes
        self._staged[action] = fresh
        outcomes.done(action, outcome)
        if outcomes.is_whole(folder):
            self._publish(folder)

    def _publish(self, folder: FolderAction) -> None:
        """Publish all new files of a folder; none, if one of them may not take its place."""
        context, path = self._context, self._context.path
        stage, noted = context.temporaries.stage(folder.judgement)
        staged = {part: self._staged.pop(part) for part in folder.files if part in self._staged}
        foreign = self._may_take_places(staged, folder)
        if foreign is None:
            return
        noted.close()  # from here on the stage may have files that are not ours
        published = context.publisher.publish_folder(
            stage,
            {path(part): fresh for part, fresh in staged.items()},
            reused={path(part): self.moving[part] for part in staged if part in self.moving},
            foreign=foreign,
            superfluous=self._superfluous(folder),
            project=context.owner(folder),
            keeps_former=not folder.judgement.description.has_only_its_output,
        )
        self._tell(folder, published.aside, published.left)
        for part in staged:
            self._places.settle(part, published.rows[path(part)])

    def _may_take_places(self, staged: dict[FileAction, Fresh], folder: FolderAction) -> list[Path] | None:
        """Return the paths with files that are not ours and are replaced by force.

        None if a file may not take its place.
        """
        context = self._context
        stage, _ = context.temporaries.stage(folder.judgement)
        foreign: list[Path] = []
        refused: list[FileAction] = []
        for part, fresh in staged.items():
            path = context.path(part)
            presence = context.shelf.look_again(path)
            if not self._places.may_take(part, fresh, stage.place(path)):
                refused.append(part)
            elif presence is Presence.FOREIGN and context.options.force:
                foreign.append(path)
        for part in refused:
            context.outcomes.fail(part, failures.changed_by_hand(part))
        return None if refused else foreign

    def _tell(self, folder: FolderAction, aside: Sequence[Path], left: Path | None) -> None:
        """Emit notices: where files that are not ours were put aside, and where the former folder still is (`left`)."""
        shown = folder.judgement.description.shown
        for place in aside:
            self._context.emit(Notice(f"what was in {shown} and is not ours is kept as {place}"))
        if left is not None:
            self._context.emit(Notice(f"{left} is what {shown} was before; the next build removes it"))

    def tidy(self) -> None:
        """Remove former files of the folders that were made, and record these. All actions have an outcome."""
        for folder in self._of.values():
            if self._context.outcomes[folder].verdict not in (Verdict.FAILED, Verdict.SKIPPED):
                self._remove_leftovers(folder)
                made = folder.judgement.description
                if not made.goal.is_extra:
                    self._places.record(made)

    def _remove_leftovers(self, folder: FolderAction) -> None:
        """Remove files of ours that are no longer part of a folder: programs may load an old shard instead.

        For `-o` only such shards are removed: the user may have written other targets and files into that folder
        before.
        """
        made = folder.judgement.description
        assert made.goal.path is not None
        for row in self._superfluous(folder):
            self._context.publisher.remove(row)
        for path in _stale_names(folder):
            name = f"{made.shown}{path.relative_to(made.goal.path).as_posix()}"
            self._context.emit(Notice(f"{name} is not ours, and clients may load it instead"))

    def _superfluous(self, folder: FolderAction) -> list[ArtifactRow]:
        """Return the files of ours in a folder that are not part of it now."""
        shelf = self._context.shelf
        wanted = {str(part.content.path) for part in folder.files}
        goal, old = folder.judgement.description.goal, _stale_names(folder)
        return [
            row
            for row in shelf.outputs(self._context.owner(folder), besides=wanted)
            if (row.path in old if goal.is_extra else goal.path in row.path.parents) and shelf.is_intact(row)
        ]


def _stale_names(folder: FolderAction) -> list[Path]:
    """Return files in a folder that are not part of it and have names by which programs look for weights."""
    wanted = {path for part in folder.files if (path := part.content.path)}
    folders = {path.parent for path in wanted if path.parent.is_dir()}
    beside = (path for each in folders for path in each.iterdir())
    return sorted(path for path in beside if path not in wanted and stale([path.name], ()))
