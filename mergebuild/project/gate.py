"""What a build refuses before any work, checked for each action of a plan.

A plan knows what a target will be and what is at its output. Here it is checked whether the target may be made: whether
it agrees with the lock, whether the user trusts the project with the folder and with the code, whether a file that
isn't ours is in the way, whether the folder is writable, and whether everything fits on the disk. `plan` shows the
answers (a target is `blocked`), and `build` refuses by the same ones, so they can't disagree. A target that reads a
refused one is refused, too; a target that would have been restored from it, or shared its tensors, is planned without
it.

There may be thousands of files in one folder: folders are strings here, as a `Path` takes long to hash.

What only the work itself can show (values that are not finite, a source that changes meanwhile) is in
`build/passes.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import ParamSpec

from mergebuild.build import failures
from mergebuild.build.failures import Refusal
from mergebuild.errors import MergeBuildError, NoSpaceError, TargetError, TrustError
from mergebuild.plan.actions import Action, FileAction
from mergebuild.plan.description import Description, FileContent
from mergebuild.plan.judgement import Judgement, Refused
from mergebuild.plan.plan import Plan
from mergebuild.plan.planner import Planner
from mergebuild.project import trust
from mergebuild.recipe import Recipe
from mergebuild.results.build import Verdict
from mergebuild.store import Presence, Shelf
from mergebuild.system import platform
from mergebuild.system.spans import span

__all__ = ["Gate", "Hold"]

Words = ParamSpec("Words")
Hold = Callable[[Description], MergeBuildError | None]
"""A further condition for a target (a lock): returns the error if it is not met, else None."""


class Gate:
    """Checks the actions of a plan for what a build of one recipe into one store must refuse.

    `written` returns every path that the recipe would write to, which is what the user trusts; None if outputs go to a
    folder of our own. `force`: whether files that were changed by hand may be put aside.
    """

    def __init__(
        self,
        recipe: Recipe,
        shelf: Shelf,
        *,
        written: Callable[[], Iterable[Path]] | None,
        force: bool = False,
        holds: Iterable[Hold] = (),
    ) -> None:
        self._recipe = recipe
        self._shelf = shelf
        self._written = written
        self._force = force
        self._holds = tuple(holds)

    def ask(self, plan: Plan, planner: Planner) -> Plan:
        """Return the plan without what is refused, with the reasons."""
        with span("refuse"):
            return self._asked(plan, planner)

    def _asked(self, plan: Plan, planner: Planner) -> Plan:
        refused = _Refusals()
        self._ask_holds(plan, refused)
        actions = [each for each in plan.actions if each.verdict is not Verdict.UP_TO_DATE]  # others write nothing
        files = [file for action in actions for file in action.files if file.verdict is not Verdict.UP_TO_DATE]
        self._ask_for_places(files, refused)
        self._ask_for_code(actions, refused)
        self._ask_for_one_place(plan.files, refused)
        self._ask_for_ways(files, refused)
        if refused.pass_on(plan):
            plan = planner.without(plan, refused.found)
        if self._ask_for_space(plan, refused):
            refused.pass_on(plan)
            plan = planner.without(plan, refused.found)
        return plan

    def _ask_holds(self, plan: Plan, refused: _Refusals) -> None:
        """Refuse targets that don't meet a further condition."""
        for hold in self._holds:
            for judgement in plan.judged:
                if (error := hold(judgement.description)) is not None:
                    refused.add(judgement, error)

    def _ask_for_one_place(self, files: Iterable[FileAction], refused: _Refusals) -> None:
        """Refuse a file whose path is the very file of another target's output, through a link between folders."""
        real = cache(os.path.realpath)
        taken: dict[tuple[str, str], FileAction] = {}
        for file in files:
            path = file.content.path
            if path is None:
                continue
            folder, name = os.path.split(path)
            other = taken.setdefault((real(folder), name), file)
            if other.name != file.name:
                refused.add(file.judgement, TargetError((failures.same_place(file, other).problem,)))

    def _ask_for_places(self, files: Sequence[FileAction], refused: _Refusals) -> None:
        """Refuse files outside of the project, unless the user trusts it with their folders."""
        if (written := self._written) is None:
            return
        root, asked = self._recipe.root, cache(lambda: tuple(written()))
        for file in files:
            path = file.content.path if file.goal.is_extra else None
            if path is not None and (error := _caught(trust.require_plain, root, path)):
                refused.add(file.judgement, error)
        for some in _by_folder(files):
            paths = {path: file.description.blueprint.target.where for file in some[:1] if (path := file.content.path)}
            if error := _caught(trust.require, root, paths, _when_asked(asked)):
                for file in some:
                    refused.add(file.judgement, error)

    def _ask_for_code(self, actions: Iterable[Action], refused: _Refusals) -> None:
        """Refuse targets with a method of the project's own, unless the user trusts its present code."""
        for action in actions:
            programs = action.judgement.description.programs
            if programs and (error := _caught(trust.require_code, self._recipe.root, programs)):
                refused.add(action.judgement, error)

    def _ask_for_ways(self, files: Iterable[FileAction], refused: _Refusals) -> None:
        """Refuse files that can't be written to their paths."""
        writable = cache(_is_writable)
        for file in files:
            if (refusal := self._in_the_way(file, writable)) is not None:
                refused.add(file.judgement, TargetError((refusal.problem,)))

    def _in_the_way(self, file: FileAction, writable: Callable[[str], bool]) -> Refusal | None:
        """Return the reason why a file can't be written to its path; None if it can."""
        path = file.content.path
        if path is None:
            return None
        is_foreign = file.standing.presence is Presence.FOREIGN
        if is_foreign and not self._force and not _may_be_the_result(path, file.content, self._shelf):
            return failures.changed_by_hand(file)
        return None if writable(_folder_of(path)) else failures.unwritable(file)

    def _ask_for_space(self, plan: Plan, refused: _Refusals) -> bool:
        """Refuse all files on a file system that has less room than the build needs there.

        Return whether there are any.
        """
        found = False
        for some in self._writing(plan.files):
            size = sum(file.writes for file in some)
            free = platform.free_space(_existing(some[0].place(self._shelf).parent))
            if size > free:
                error = _no_space(size, free)
                for file in some:
                    refused.add(file.judgement, error)
                found = True
        return found

    def _writing(self, files: Iterable[FileAction]) -> Iterable[list[FileAction]]:
        """Return the files that will be written, put together by file system."""
        found: dict[int, list[FileAction]] = {}
        device_of = cache(_device)
        for file in files:
            if file.writes and file.refused is None:
                found.setdefault(device_of(_folder_of(file.place(self._shelf))), []).append(file)
        return found.values()


class _Refusals:
    """The refusals so far. A folder is published as a whole or not at all, so a whole target is refused."""

    def __init__(self) -> None:
        self.found: dict[Judgement, Refused] = {}

    def add(self, judgement: Judgement, error: MergeBuildError, target: str = "") -> None:
        """Refuse a target, unless it is refused already."""
        self.found.setdefault(judgement, Refused(error, target or judgement.name))

    def pass_on(self, plan: Plan) -> bool:
        """Refuse the targets that read a refused one; return whether any target is refused."""
        by_name: dict[str, Refused] = {}
        for action in plan.actions:  # targets that one reads come before it
            judgement = action.judgement
            if judgement not in self.found and action.verdict is not Verdict.UP_TO_DATE:
                below = next((by_name[need] for need in action.needs if need in by_name), None)
                if below is not None:
                    self.add(judgement, below.error, below.target)
            if judgement in self.found:
                by_name.setdefault(judgement.name, self.found[judgement])
        return bool(by_name)


def _caught(ask: Callable[Words, None], *words: Words.args, **more: Words.kwargs) -> TrustError | None:
    """Return the error that checking the user's trust raises, or None."""
    try:
        ask(*words, **more)
    except TrustError as error:
        return error
    return None


def _no_space(needed: int, free: int) -> NoSpaceError:
    return NoSpaceError.one(
        "no-space",
        f"the build needs {needed:,} bytes and {free:,} are free",
        help="free some space (`mergebuild gc`), or build fewer targets",
    )


def _may_be_the_result(path: Path, content: FileContent, shelf: Shelf) -> bool:
    """Whether a file at an output's path that is not recorded may be what the target makes.

    If the sources were never read, only its size can tell.
    """
    if content.digest is not None:
        return shelf.may_be(path, content.header_bytes, content.size)
    return path.is_file() and path.stat().st_size == content.size


def _is_writable(folder: str) -> bool:
    """Whether a folder can be written to, or created."""
    try:
        there = _existing(Path(folder))
    except OSError:
        return False
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _by_folder(files: Iterable[FileAction]) -> Iterable[list[FileAction]]:
    """Return the files that have a path of the recipe, put together by folder."""
    found: dict[str, list[FileAction]] = {}
    for file in files:
        if file.content.path is not None and not file.goal.is_extra:
            found.setdefault(_folder_of(file.content.path), []).append(file)
    return found.values()


def _folder_of(path: Path) -> str:
    return os.path.dirname(path)  # noqa: PTH120 -- see above


def _when_asked(paths: Callable[[], Iterable[Path]]) -> Iterator[Path]:
    yield from paths()


def _device(folder: str) -> int:
    return _existing(Path(folder)).stat().st_dev


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest existing one above it."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder
