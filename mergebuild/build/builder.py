"""Does what a plan says: restores what is stored somewhere, computes the rest in waves, publishes each finished target.

A wave finds in the store what earlier waves have published. This module has the order. How a file is restored
(`restoring.py`), made (`passes.py`) and published (`places.py`, `folders.py`), and what its outcome is (`outcomes.py`),
is in those modules.

Targets whose sources were never hashed are merged while these are hashed (`look`). Only then their digests are known.
So they are planned with this knowledge at once, and their files are published (`finish`), before everything else is
planned anew: later work may fail or be killed without losing this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Self

from mergebuild.build import failures
from mergebuild.build.context import BuildContext
from mergebuild.build.failures import Refusal
from mergebuild.build.folders import Folders
from mergebuild.build.options import BuilderOptions
from mergebuild.build.passes import Passes
from mergebuild.build.places import OutputPlaces
from mergebuild.build.restoring import Restoring
from mergebuild.build.waves import most_files, waves
from mergebuild.build.written import WrittenFile, made_before
from mergebuild.digest import tagged
from mergebuild.events import Emit
from mergebuild.plan.actions import Action, FileAction, FolderAction, Outcome
from mergebuild.plan.description import Goal
from mergebuild.plan.plan import Plan
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.sources.sources import Sources
from mergebuild.store import ArtifactRow, Store

__all__ = ["Builder"]


class Builder:
    """Does what plans say, for one store. As a context manager it removes its temporary files at the end."""

    def __init__(
        self,
        sources: Sources,
        store: Store,
        options: BuilderOptions,
        emit: Emit,
        fingerprint_of: Callable[[str], bytes | None],
    ) -> None:
        context = self._context = BuildContext.over(sources, store, options, emit, fingerprint_of)
        self._outcomes = context.outcomes
        self._temporaries = context.temporaries
        self._places = OutputPlaces(context)
        self._folders = Folders(context, self._places)
        self._restoring = Restoring(context, self._places, self._folders)
        self._passes = Passes(context, self._places, self._folders)
        self.performers: dict[type[Action], Callable[[Any], Outcome]] = {FolderAction: self._outcomes.concluded}
        """By kind of action: does what is left of an action that is no single file, after all files."""
        self._looked_at: dict[Goal, WrittenFile] = {}
        """Files that `look` wrote, without their headers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporaries.stack.__exit__(kind, error, trace)

    @property
    def source_bytes_read(self) -> int:
        """Bytes of sources read by passes."""
        return self._passes.source_bytes_read

    # Sources that were never hashed

    def look(self, plan: Plan) -> bool:
        """Merge the targets of a plan whose sources were never hashed, and hash these, in one pass.

        Returns:
            Whether the plan had such targets: then everything is to be planned anew, `looked_at` first.
        """
        self._begin(plan)
        ready = [action for action in islice(plan.first_sight, most_files()) if self._is_ready(action)]
        if ready and not self._outcomes.must_stop():
            with self._passes.failing(ready):
                self._looked_at = self._passes.look(ready)
        self._outcomes.remember()
        return any(not judgement.description.is_known for judgement in plan.judged)

    @property
    def looked_at(self) -> tuple[Goal, ...]:
        """The goals whose files `look` wrote, in the order of work."""
        return tuple(self._looked_at)

    def finish(self, plan: Plan) -> None:
        """Publish what `look` wrote. `plan`: of just these goals; all of their sources are hashed now.

        A file that `look` foresaw wrongly is removed, and made in the ordinary way.
        """
        self._begin(plan)
        written = {file: self._looked_at[file.goal] for file in plan.files if file.goal in self._looked_at}
        again = made_before(written)
        for action, each in written.items():
            if self._can_be_finished(action, each):
                _write_header(action, each)
                self._passes.finish(action, each, is_again=action in again)
        self._remove_looked_at()
        self._outcomes.remember()

    def _remove_looked_at(self) -> None:
        """Remove the files that `look` wrote and that were not published."""
        for each in self._looked_at.values():
            each.path.unlink(missing_ok=True)
        self._looked_at.clear()

    def _can_be_finished(self, action: FileAction, written: WrittenFile) -> bool:
        """Whether a file that was written at first sight lacks only its header; if not, it is made in the ordinary way.

        False if the room left for the header has the wrong size, as when two sources turned out to be equal, or if the
        file reads a target that is not finished yet, as that one is made in the ordinary way, too.
        """
        fits = len(action.content.header_bytes) == written.header_size
        by_name = self._outcomes.plan.by_name
        return fits and all(by_name.get(need) in self._outcomes for need in action.needs)

    # Sources that are known

    def run(self, plan: Plan) -> tuple[tuple[TargetResult, ...], int]:
        """Do what a plan says; return the targets' results and the exit code.

        Raises:
            NoSpaceError: the disk is full, or is known to be too small before any work.
        """
        self._begin(plan)
        for damaged in self._context.shelf.damaged_inside():
            self._places.quarantine(damaged, f"what the store kept of {tagged(damaged.digest)}")
        for action in self._outcomes.waiting():
            self._settle_at_once(action)
        self._make_files()
        self._conclude(plan)
        results = self._outcomes.results()
        return results, self._outcomes.exit_code(results)

    def _conclude(self, plan: Plan) -> None:
        """Give each action that has no outcome yet its own (a file is skipped), then tidy folders and the history."""
        for action in self._outcomes.waiting():
            self._outcomes.skip(action)
        for each in plan.actions:
            if each not in self._outcomes:
                self._outcomes.done(each, self.performers[type(each)](each))
        self._folders.tidy()
        self._context.publisher.trim_history()

    def _begin(self, plan: Plan) -> None:
        self._outcomes.begin(plan)
        self._folders.begin(plan)

    def _settle_at_once(self, action: FileAction) -> None:
        """Settle an action for which nothing needs to be done, or can be."""
        if self._outcomes.taken_over(action):
            return
        if action.refused is not None:
            if action.refused.target == action.name:
                error = action.refused.error
                self._outcomes.fail(action, Refusal(error.problems[0], error.exit_code))
            else:
                self._outcomes.skip(action)
        elif action.verdict is Verdict.UP_TO_DATE:
            self._outcomes.done(action, Outcome(Verdict.UP_TO_DATE))
            self._places.settle(action, action.standing.row)

    def _make_files(self) -> None:
        """Make all files that can be made: first those stored whole, then the rest, then those that wait for these."""
        outcomes, restoring = self._outcomes, self._restoring
        self._restore([(action, action.stored.row) for action in self._open() if action.stored])
        twins = self._twins()
        self._build([action for action in outcomes.waiting() if action.name not in twins])
        for action in self._open():
            if action.verdict is Verdict.RESTORE and (row := restoring.whole(action)) is not None:
                self._restore([(action, row)])  # from what an earlier action of this build has made
        self._build(outcomes.waiting())  # files whose twin failed, and files that read twins
        for action in self._open():  # files with the path of an earlier one, which was not made
            if (row := restoring.whole(action)) is not None:
                self._restore([(action, row)], awaits=False)
            else:
                self._build([action], awaits=False)

    def _open(self) -> list[FileAction]:
        """Return the files without an outcome; none if nothing more must be begun."""
        return [] if self._outcomes.must_stop() else self._outcomes.waiting()

    def _twins(self) -> set[str]:
        """Return the targets that wait: those equal to an earlier one of the build, and those that read them."""
        found: set[str] = set()
        for action in self._outcomes.waiting():
            if action.verdict is Verdict.RESTORE or not found.isdisjoint(action.needs):
                found.add(action.name)
        return found

    def _restore(self, wanted: Sequence[tuple[FileAction, ArtifactRow]], *, awaits: bool = True) -> None:
        """Restore files from artifacts, as far as they can be written."""
        self._restoring.restore([(action, row) for action, row in wanted if self._is_ready(action)], awaits=awaits)

    def _build(self, actions: Sequence[FileAction], *, awaits: bool = True) -> None:
        """Build files in waves, as far as the files that they read exist.

        Files with one path in the store are built once.
        """
        for some in waves([each for each in actions if each.same_place is None or not awaits]):
            if self._outcomes.must_stop():
                return
            ready = [action for action in some if self._is_ready(action) and self._passes.has_programs(action)]
            if ready:
                with self._passes.failing(ready):
                    self._passes.build(ready)

    def _is_ready(self, action: FileAction) -> bool:
        """Whether a file can be made now.

        If what it reads failed, or its folder isn't writable, that becomes its outcome.
        """
        if self._outcomes.lacks(action):
            self._outcomes.skip(action)
            return False
        if self._temporaries.can_write(action):
            return True
        self._outcomes.fail(action, failures.unwritable(action))
        return False


def _write_header(action: FileAction, written: WrittenFile) -> None:
    """Write the header of a file into the room that was left for it."""
    with written.path.open("rb+") as file:
        file.write(action.content.header_bytes)
