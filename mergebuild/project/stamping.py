"""What a stamp is made of: the files that the answer "nothing to do" follows from, if stat data are enough.

After a build that made something, this is the answer to the next build, which is worked out as that one would: by the
records.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.project.stamp import KnownAnswer
from mergebuild.results.build import Verdict
from mergebuild.system.publishing import left_over

if TYPE_CHECKING:
    from mergebuild.plan.plan import Plan
    from mergebuild.project.session import Session
    from mergebuild.project.stamp import Stamp
    from mergebuild.recipe import Recipe
    from mergebuild.results.build import TargetResult
    from mergebuild.system.filestate import Identity, Moment

__all__ = ["keep_answer"]


def keep_answer(
    session: Session,
    plan: Plan,
    results: Sequence[TargetResult],
    *,
    targets: tuple[str, ...],
    names: Sequence[str],
    since: Moment,
    stamp: Stamp | None,
    read: Moment,
) -> None:
    """Keep the answer of a build after which there is nothing to do: in the session, and as a stamp.

    Args:
        session: what it was built in.
        plan: what was planned.
        results: what it came to.
        targets: what was asked for, in the user's words.
        names: the targets that these are.
        since: a moment before the session was opened.
        stamp: where it is kept for other processes; None: nowhere.
        read: a moment before the recipe's files were read.
    """
    with suppress(OSError):  # it only saves time
        answer = _known_answer(session, plan, names, results, since=since)
        if answer is not None:
            session.remember(targets, answer)
        if stamp is not None and answer is not None and _may_be_stamped(session, stamp, names):
            stamp.write(session.recipe.texts, answer, read=read)
        elif stamp is not None:
            stamp.forget()


def _known_answer(
    session: Session, plan: Plan, names: Sequence[str], results: Sequence[TargetResult], *, since: Moment
) -> KnownAnswer | None:
    """Return the answer "nothing to do" now that all is up to date; None if it depends on more than stat data.

    `since`: a moment before the session was opened. `results`: of the build.
    """
    recipe = session.recipe
    outputs = [recipe.target(name).output_path for name in names]
    if None in outputs:
        return None
    made = {each.target for each in results if each.verdict is not Verdict.UP_TO_DATE}
    placed: dict[Path, Identity] = {}
    if made:
        fresh = session.fresh(names)
        if fresh.keys() != set(names):
            return None  # the next build looks more closely
        results = [fresh[name][0] for name in names]
        placed = {row.path: row.identity for name, (_, row) in fresh.items() if name in made and row.identity}
    needed = _sources_below(recipe, names)
    decisive = {path: state for name in needed for path, state in _opened_from(session, name).items()}
    watched = [path for path, state in decisive.items() if state is not None]
    planned = [plan.by_name[name].judgement.description for name in names if name in plan.by_name]
    folders = {made.goal.path for made in planned if made.is_folder}
    files = [*watched, *(path for path in outputs if path and path not in folders)]
    files += [file.path for made in planned if made.is_folder for file in made.files if file.path]
    around = {path.parent for path in files if path not in watched}
    around |= {Path(os.path.realpath(folder)).parent for folder in folders if folder}  # stages are in these

    def holds() -> bool:
        return not any(left_over(*placed)) and not session.sources.changed(needed)

    absent = [path for path, state in decisive.items() if state is None]
    return KnownAnswer.of(files, absent, around, results, since=since, placed=placed, holds=holds)


def _opened_from(session: Session, name: str) -> Mapping[Path, Identity | None]:
    session.sources.file(name)  # a target that is known at once to be up to date may not have needed it
    return session.sources.opened_from(name)


def _may_be_stamped(session: Session, stamp: Stamp, names: Sequence[str]) -> bool:
    """Whether an answer follows only from what a later process finds by itself.

    Not if the mergefile names another store; nor if a source was found through `MERGEBUILD_MODELS`, since a file may
    appear at the path that the recipe names.
    """
    store = os.path.abspath(session.claims.store)  # noqa: PTH100 -- as a stamp has it
    recipe = session.recipe
    return stamp.store == store and all(
        session.sources.file(name).path == _as_written(recipe, name) for name in _sources_below(recipe, names)
    )


def _sources_below(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Return the sources of targets and of all targets that they need."""
    refs = {each.ref for name in names for below in recipe.below(name) for each in recipe.target(below).reads}
    return sorted(refs & recipe.sources.keys())


def _as_written(recipe: Recipe, name: str) -> Path:
    source = recipe.sources[name]
    return source.folder / source.path
