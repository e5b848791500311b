"""The verbs that free space: `gc` removes what no target needs, `clean` removes what was made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.errors import SourceError
from mergebuild.project import trust
from mergebuild.project.source_places import SourcePlaces
from mergebuild.project.sweep import Sweeper
from mergebuild.results.looks import CleanResult
from mergebuild.sources.locating import locate

if TYPE_CHECKING:
    from mergebuild.project.session import Session
    from mergebuild.recipe import Recipe

__all__ = ["clean", "gc", "sweeper"]


def gc(session: Session, max_size: int | None, older_than: float | None, *, dry_run: bool) -> CleanResult:
    """Remove artifacts that no target needs, and what the history exceeds.

    `max_size` in bytes, `older_than` in seconds.
    """
    known = session.claims.known(session.store.ledger)
    outputs = session.claims.outputs(known)
    with session.changing(outputs):
        needing = {name for name in known if not session.claims.has_only_its_output(name)}
        return sweeper(session, outputs).collect(needing, max_size, older_than, dry_run=dry_run)


def clean(
    session: Session, names: set[str], *, former: bool, orphans: bool, dry_run: bool, foreseen: CleanResult | None
) -> CleanResult:
    """Remove outputs and artifacts that we made for these targets; `former`: those of earlier builds, too."""
    outputs = session.claims.outputs(session.claims.known(session.store.ledger))
    with session.changing(outputs):
        return sweeper(session, outputs).clean(
            names, former=former, orphans=orphans, dry_run=dry_run, foreseen=foreseen
        )


def sweeper(session: Session, outputs: Mapping[Path, str]) -> Sweeper:
    """Return the sweeper of a project. `outputs`: by path, the target that makes it."""
    recipe = session.recipe
    places = _places_of_sources(recipe)
    is_ours = bool(os.environ.get("MERGEBUILD_STORE"))  # the user's own store: it did not come with a project
    return Sweeper(
        session.store,
        outputs,
        places,
        recipe.root,
        lambda path: is_ours or trust.may_write(recipe.root, path),
    )


def _places_of_sources(recipe: Recipe) -> SourcePlaces:
    """Return where sources are, and which are missing."""
    found: list[Path] = []
    missing: dict[str, str] = {}
    for name, source in recipe.sources.items():
        found.append(source.folder / source.path)  # as written, even if another path is found below
        try:
            found.append(locate(source, recipe.root))
        except SourceError:
            missing[name] = source.path
    return SourcePlaces(found, missing)
