"""Names for shell completion, read from the mergefile's text alone. If it can't be read, there are no names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mergebuild.cli.locate import open_methods, open_names
from mergebuild.cli.settings import Settings
from mergebuild.errors import MergeBuildError

if TYPE_CHECKING:
    from mergebuild.methods.method import Method
    from mergebuild.recipe.families import Family

__all__ = ["own_methods", "source_names", "target_names"]


def target_names(settings: Settings, incomplete: str) -> tuple[str, ...]:
    """Return names of targets; after a family's name and `@` are typed, the names of its members instead."""
    _, targets = _names(settings)
    name, at, _ = incomplete.partition("@")
    if not at:
        return tuple(targets)
    family = targets.get(name)
    return tuple(member for member, _ in family.members()) if family else ()


def source_names(settings: Settings) -> tuple[str, ...]:
    """Return the names of sources."""
    return _names(settings)[0]


def own_methods(settings: Settings) -> Mapping[str, Method]:
    """Return the methods that the mergefile declares, by name; none if it can't be read."""
    try:
        return open_methods(settings)
    except (MergeBuildError, OSError):
        return {}


def _names(settings: Settings) -> tuple[tuple[str, ...], Mapping[str, Family | None]]:
    try:
        return open_names(settings)
    except (MergeBuildError, OSError):
        return (), {}
