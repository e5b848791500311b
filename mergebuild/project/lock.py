"""The verb that writes `mergefile.lock`, and the conditions that a build with `--locked` puts on each target."""

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
    """Write every source and every target, built or not, to the lock file; return its path. With `check`, only compare.

    Raises:
        SourceError: a source is missing, or differs from its pin.
        MergeBuildError: a target cannot be made as it is written.
        ResultDiffersError: with `check`, the file would be another.
    """
    path, locked = session.claims.lock_file, _found_now(session)
    if check:
        lockfile.check(path, locked)
        return path
    _write(session, path, locked)
    return path


def _write(session: Session, path: Path, locked: lockfile.Locked) -> None:
    """Write the lock file, while no other process of this store does."""
    with ExitStack() as stack:
        if session.store.root.is_dir():
            with suppress(OSError):  # the store isn't writable, so it can have no lock
                stack.enter_context(session.locked(LOCK_FILES))
                publishing.remove_left_over([path])  # left by killed processes: no other one writes now
        lockfile.write(path, locked)


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
    """Return sources with their SHA-256, and the errors of the others."""
    found: list[SourceFile] = []
    errors: list[SourceError] = []
    for name in names:
        try:
            found.append(session.sources.hashed(name, with_sha256=True))
        except SourceError as error:
            errors.append(error)
    return found, errors


def holds_of(session: Session, lock: lockfile.Locked | None) -> tuple[Hold, ...]:
    """Return the conditions for targets of a build with `--locked`: their sources and results are those of the lock."""
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
        """Refuse a target made of sources, with all of their files, that differ from the lock."""
        names = sorted(session.planner.sources_of(made.name))
        problems = [problem for name in names for problem in source_problems(name)]
        return SourceError(problems) if problems else None

    listed = cache(lambda: frozenset(session.claims.listed()))

    def results(made: Description) -> MergeBuildError | None:
        """Refuse a target that differs from the lock; for `-o`, the target as declared is compared."""
        try:
            declared = session.planner.as_declared(made.name) if made.goal.is_extra else made
        except MergeBuildError as error:
            return error
        problem = lockfile.other_result(lock, declared, lambda name: "@" not in name or name in listed())
        return ResultDiffersError((problem,)) if problem else None

    return sources, results
