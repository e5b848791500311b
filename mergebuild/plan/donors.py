"""The donor of a target: the source that its small files, and so its configuration, come from."""

from __future__ import annotations

from mergebuild.formats.model import Model
from mergebuild.recipe import Recipe
from mergebuild.sources.sources import Sources

__all__ = ["donor"]


def donor(recipe: Recipe, sources: Sources, ref: str, *, of_adapters: bool = False) -> str | None:
    """Return the source that the small files of a source or target come from; None if there is none.

    For a target that is what its `config` names; else, in the order of the text, the first source below it that is a
    folder with a configuration. `of_adapters`: whether an adapter's counts.
    """
    below: tuple[str, ...] = ()
    if ref not in sources:
        config = recipe.target(ref).config
        ref = config.ref if config else ref
        below = () if ref in sources else tuple(recipe.below(ref)[::-1])
    for each in (ref, *(each.ref for name in below for each in recipe.target(name).inputs)):
        if each in sources and _is_donor(sources.file(each).model, of_adapters=of_adapters):
            return each
    return None


def _is_donor(model: Model, *, of_adapters: bool) -> bool:
    """Whether a model is a folder with a configuration."""
    return (model.format != "peft" or of_adapters) and model.contents is not None and bool(model.facts)
