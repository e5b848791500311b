"""Merges of the checkpoint merger of AUTOMATIC1111's web UI and of Forge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.json_texts import words_of
from mergebuild.exchange.merges.node import MergeNode, UnsayableError, add_node, number_of

__all__ = ["add", "models_of"]

_PLACES: Final = ("primary", "secondary", "tertiary")
_METHODS: Final = {
    "no interpolation": ("copy", 1),
    "weighted sum": ("weighted_sum", 2),
    "add difference": ("add_difference", 3),
}
_EMA_ALONE: Final = re.compile(r"\^?\(?\^?model_ema(\\?\.)?(\.[*+])?\)?\$?")


def models_of(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """Return the hashes of the models that a merge takes."""
    return tuple(digest for digest in _hashes(recipe)[: _METHODS.get(_word(recipe), ("", 3))[1]] if digest)


def add(node: MergeNode, draft: Draft) -> str:
    """Add the target that is a merge."""
    recipe = node.recipe
    if _word(recipe) not in _METHODS:
        said = words_of(recipe.get("interp_method"))[:60] or "missing"
        raise UnsayableError(f"`interp_method` is {said!r}, which is no method of this merger")
    method, count = _METHODS[_word(recipe)]
    hashes = _hashes(recipe)[:count]
    if not all(hashes):
        raise UnsayableError(f"{recipe['interp_method']} takes {count} models, of which one has no hash")
    notes: dict[str, str] = {}
    keys: dict[str, Value] = {"method": method}
    for role, each in zip("abc", hashes, strict=False):
        keys[role] = node.input_of(each)
    if count > 1:
        keys["alpha"] = number_of(recipe.get("multiplier"), "multiplier", notes, "alpha")
        if recipe.get("is_inpainting") is True or recipe.get("is_instruct_pix2pix") is True:
            keys["on_channels"] = "common"
    _bake_vae(recipe, draft, keys)
    dtype = "float16" if recipe.get("save_as_half") is True else None
    name = add_node(node, draft, keys, dtype=dtype, notes=notes)
    _discard(node, draft, name)
    return name


def _word(recipe: Mapping[str, object]) -> str:
    return words_of(recipe.get("interp_method")).lower()


def _hashes(recipe: Mapping[str, object]) -> list[str]:
    return [words_of(recipe.get(f"{place}_model_hash")).lower() for place in _PLACES]


def _bake_vae(recipe: Mapping[str, object], draft: Draft, keys: dict[str, Value]) -> None:
    vae = words_of(recipe.get("bake_in_vae"))
    if vae and vae.lower() != "none":
        keys["components"] = {"vae": draft.source(ModelName(vae, comment="a VAE; the recipe has no digest of it"))}


def _discard(node: MergeNode, draft: Draft, name: str) -> None:
    """Drop the tensors that a regular expression finds; EMA copies are dropped anyway."""
    pattern = words_of(node.recipe.get("discard_weights"))
    if not pattern:
        return
    if _EMA_ALONE.fullmatch(pattern):
        draft.targets[name].comments.append(f"the tool discarded {pattern}; EMA copies are dropped anyway")
        return
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        draft.leave_out(node.where, f"`discard_weights` is no regular expression: {pattern[:200]}", target=name)
        return
    draft.targets[name].keys["drop"] = [f"re:{pattern}"]
