"""The verb that writes `mergefile.lock`, and what a build that is held to one asks of each target."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.errors import MergeBuildError, Problem, ResultDiffersError, SourceError, together
from mergebuild.project import lockfile
from mergebuild.store import LOCK_FILES
from mergebuild.system import publishing

if TYPE_CHECKING:
    from mergebuild.plan.description import Description
    from mergebuild.project.gate import Hold
    from mergebuild.project.session import Session
    from mergebuild.sources.source_file import SourceFile

__all__ = ["holds_of", "write_lock"]


def write_lock(session: Session, *, check: bool) -> Path:
    """Write down every source and every target, built or not; return where. With `check` compare alone.

    Raises:
        SourceError: a source is missing, or is not what its pin says.
        MergeBuildError: a target cannot be made as it is written.
        ResultDiffersError: with `check`, it would be another file.
    """
    path, locked = session.claims.lock_file, _found_now(session)
    if check:
        lockfile.check(path, locked)
        return path
    with ExitStack() as stack:
        if session.store.root.is_dir():
            with suppress(OSError):  # it can't be written to, and holds no lock
                stack.enter_context(session.locked(LOCK_FILES))
                publishing.remove_left_over([path])  # of `lock`s that were killed: none else is writing
        lockfile.write(path, locked)
    return path


def _found_now(session: Session) -> lockfile.Locked:
    sources, errors = _hashed(session, session.recipe.sources)
    plan = session.plan(session.claims.listed(), hash_all=True, look_closely=True)
    if errors or plan.errors:
        raise together([*errors, *plan.errors])
    return lockfile.Locked(
        {each.name: lockfile.LockedSource.of(each) for each in sources},
        {each.name: lockfile.LockedTarget.of(each.description) for each in plan.judged},
    )


def _hashed(session: Session, names: Iterable[str]) -> tuple[list[SourceFile], list[SourceError]]:
    """Return sources with their SHA-256, and what is wrong with the others."""
    found: list[SourceFile] = []
    errors: list[SourceError] = []
    for name in names:
        try:
            found.append(session.sources.hashed(name, with_sha256=True))
        except SourceError as error:
            errors.append(error)
    return found, errors


def holds_of(session: Session, lock: lockfile.Locked | None) -> tuple[Hold, ...]:
    """Return what a build held to a lock asks of a target: that its sources are the lock's, and that it is, too."""
    if lock is None:
        return ()

    @cache
    def source_problems(name: str) -> tuple[Problem, ...]:
        try:
            source = session.sources.hashed(name, with_sha256=True)
        except SourceError as error:
            return error.problems
        problem = lockfile.other_source(lock, source, session.recipe.sources[name].where.place())
        return (problem,) if problem else ()

    def sources(made: Description) -> MergeBuildError | None:
        """Refuse what is made of sources that are not the lock's, each with all of its files."""
        names = sorted(session.planner.sources_of(made.name))
        problems = [problem for name in names for problem in source_problems(name)]
        return SourceError(problems) if problems else None

    listed = cache(lambda: frozenset(session.claims.listed()))

    def results(made: Description) -> MergeBuildError | None:
        """Refuse what is not as the lock says; what goes elsewhere by `-o` is held to what it is else."""
        try:
            declared = session.planner.as_declared(made.name) if made.goal.is_extra else made
        except MergeBuildError as error:
            return error
        problem = lockfile.other_result(lock, declared, lambda name: "@" not in name or name in listed())
        return ResultDiffersError((problem,)) if problem else None

    return sources, results
