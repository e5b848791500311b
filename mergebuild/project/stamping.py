"""What a stamp is written of: the files that the answer "nothing to do" follows from, where stat data say enough.

After a build that made something, that is the answer to the next one, as this would find it out: by the records.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.results.build import Verdict
from mergebuild.system.publishing import left_over

if TYPE_CHECKING:
    from mergebuild.plan.plan import Plan
    from mergebuild.project.session import Session
    from mergebuild.project.stamp import Stamp
    from mergebuild.recipe import Input, Recipe
    from mergebuild.results.build import TargetResult
    from mergebuild.system.filestate import Identity, Moment

__all__ = ["keep_stamp"]


def keep_stamp(
    session: Session, stamp: Stamp, since: Moment, plan: Plan, names: Sequence[str], results: Sequence[TargetResult]
) -> None:
    """Keep what the answer "nothing to do" follows from, now that all is up to date, where that is stat data alone.

    `since`: from before any of it was read. `results`: of the build.
    """
    with suppress(OSError):  # it is only a memory
        _keep_stamp(session, stamp, since, plan, names, results)


def _keep_stamp(
    session: Session, stamp: Stamp, since: Moment, plan: Plan, names: Sequence[str], results: Sequence[TargetResult]
) -> None:
    recipe = session.recipe
    outputs = [recipe.target(name).output_path for name in names]
    store = os.path.abspath(session.claims.store)  # noqa: PTH100 -- as a stamp has it
    if stamp.store != store or None in outputs:
        return
    made = {each.target for each in results if each.verdict is not Verdict.UP_TO_DATE}
    placed: dict[Path, Identity] = {}
    if made:
        fresh = session.fresh(names)
        if fresh.keys() != set(names):
            return  # the next build looks more closely
        results = [fresh[name][0] for name in names]
        placed = {row.path: row.identity for name, (_, row) in fresh.items() if name in made and row.identity}
    needed = {each.ref for name in names for each in _inputs_below(recipe, name)} & recipe.sources.keys()
    sources = [session.sources.file(name) for name in sorted(needed)]
    if any(source.path != _as_written(recipe, source.name) for source in sources):
        return  # found through MERGEBUILD_MODELS: a file may appear where the recipe says it is
    watched = [path for source in sources for path in source.model.watched]
    planned = [plan.by_name[name].judgement.description for name in names if name in plan.by_name]
    folders = {made.goal.path for made in planned if made.is_folder}
    files = [*watched, *(path for path in outputs if path and path not in folders)]
    files += [file.path for made in planned if made.is_folder for file in made.files if file.path]
    around = {path.parent for path in files if path not in watched}
    around |= {Path(os.path.realpath(folder)).parent for folder in folders if folder}  # where stages lie

    def holds() -> bool:
        return not any(left_over(*placed)) and not session.sources.changed(sorted(needed))

    stamp.write(recipe.files, files, around, results, since=since, placed=placed, holds=holds)


def _inputs_below(recipe: Recipe, name: str) -> Iterator[Input]:
    for each in recipe.below(name):
        yield from recipe.target(each).reads


def _as_written(recipe: Recipe, name: str) -> Path:
    source = recipe.sources[name]
    return source.folder / source.path
