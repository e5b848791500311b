"""A merge of supermerger as the metadata of its file tell it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from mergebuild.exchange.draft import Draft
from mergebuild.exchange.json_texts import listed, words_of
from mergebuild.exchange.merges.node import MergeNode, UnsayableError, sayable
from mergebuild.exchange.merges.supermerger import Supermerge, Weights

__all__ = ["add", "models_of"]

_UNRECORDED = (
    "supermerger records neither the dtype, nor `Adjust`, nor the option of `extract`, nor a VAE or LoRAs that were "
    "baked in"
)


def models_of(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """Return the hashes of the models that a merge takes."""
    return tuple(digest for letter in "abc" if (digest := words_of(recipe.get(f"model_{letter}"))))


def add(node: MergeNode, draft: Draft) -> str:
    """Add the target that is a merge."""
    recipe = node.recipe
    limits = next((kind for kind in ("Include", "Exclude") if kind in recipe), "Off")
    said = recipe.get("elemental_merge")
    rules = [each for each in listed(said) if isinstance(each, str)]
    merge = Supermerge(
        where=node.where,
        name=node.name,
        inputs=[],
        mode=words_of(recipe.get("mode")),
        alpha=_weights(recipe, "alpha"),
        beta=_weights(recipe, "beta"),
        calcmode=words_of(recipe.get("calcmode")) or "normal",
        elemental="\n".join(rules) or words_of(said),
        limits=limits,
        limited=[word for each in _flat(recipe.get(limits)) if (word := words_of(each))],
        output=node.output,
        comments=list(node.comments),
    )
    models = [words_of(recipe.get(f"model_{letter}")) for letter in "abc"]
    merge.inputs = [node.input_of(model) if model else "" for model in models]
    name = merge.add(draft)
    if node.output is not None:
        draft.say(node.where, _UNRECORDED, target=name)
    return name


def _weights(recipe: Mapping[str, object], key: str) -> Weights:
    """Return the weights of a key: one number, or the base and those of the blocks, which have no BASE."""
    base = sayable(recipe.get(f"base_{key}") or 0, f"base_{key}")
    if recipe.get("mbw") is not True:
        return base
    given = recipe.get(f"weights_{key}")
    if not isinstance(given, list):
        return base if not given else _refused(key)
    numbers = [sayable(each, f"weights_{key}") for each in given]
    if len(numbers) == 109:
        raise UnsayableError("block weights of the layout of 110, of which supermerger mixes up alpha's and beta's")
    if len(numbers) == 20:  # SDXL's 19, and a 0 behind them
        numbers.pop()
    return [base, *numbers]


def _refused(key: str) -> Decimal:
    raise UnsayableError(f"`weights_{key}` is no list")


def _flat(said: object) -> list[object]:
    """Return a list whose items may be lists."""
    found: list[object] = []
    for each in listed(said):
        found += each if isinstance(each, list) else [each]
    return found
