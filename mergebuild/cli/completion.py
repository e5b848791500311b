"""Names for the shell to complete, from the text of the mergefile alone. Whatever goes wrong, there are just none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergebuild.cli.opening import open_recipe
from mergebuild.cli.options import Settings
from mergebuild.errors import MergeBuildError

if TYPE_CHECKING:
    from mergebuild.recipe import Recipe

__all__ = ["source_names", "target_names"]


def target_names(settings: Settings, incomplete: str) -> tuple[str, ...]:
    """Return the names of targets; the members of families only once an `@` is there."""
    recipe = _recipe(settings)
    names = recipe.target_names() if recipe else []
    return tuple(names) if "@" in incomplete else tuple(dict.fromkeys(name.partition("@")[0] for name in names))


def source_names(settings: Settings) -> tuple[str, ...]:
    """Return the names of sources."""
    recipe = _recipe(settings)
    return tuple(recipe.sources) if recipe else ()


def _recipe(settings: Settings) -> Recipe | None:
    try:
        return open_recipe(settings)
    except (MergeBuildError, OSError):
        return None
