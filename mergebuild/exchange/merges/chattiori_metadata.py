"""A merge of Chattiori's merger as the metadata of its file tell it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from mergebuild.exchange.draft import Draft
from mergebuild.exchange.figures import of_slider
from mergebuild.exchange.json_texts import words_of
from mergebuild.exchange.merges.chattiori import ChattioriMerge, ChattioriWeights
from mergebuild.exchange.merges.elemental import rules_of
from mergebuild.exchange.merges.node import MergeNode, UnsayableError, sayable

__all__ = ["add", "models_of"]

_PLACES: Final = ("primary", "secondary", "tertiary")
_DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_BLOCKS: Final = re.compile(r"(?:.*[,\s])?(?P<base>-?[\d.]+(?:e-?\d+)?)\s*,\s*(?P<lists>\[\[.*)", re.DOTALL)
_LONGEST: Final = 20_000
_ROUNDED: Final = "the metadata have numbers that are rounded to three digits"


def models_of(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """Return the hashes of the models that a merge takes."""
    return tuple(digest for place in _PLACES if (digest := words_of(recipe.get(f"{place}_model_hash")).lower()))


def add(node: MergeNode, draft: Draft) -> str:
    """Add the targets of a merge."""
    recipe = node.recipe
    merge = ChattioriMerge(
        where=node.where,
        name=node.name,
        mode=words_of(recipe.get("merge_method")),
        inputs=[],
        alpha=ChattioriWeights(),
        beta=ChattioriWeights(),
        output=node.output,
        dtype=_DTYPES.get(words_of(recipe.get("fp"))) if node.output is not None else None,
        vae=words_of(recipe.get("bake_in_vae")),
        comments=list(node.comments),
    )
    merge.alpha, merge.beta = (_weights(recipe.get(f"{greek}_info"), merge) for greek in ("alpha", "beta"))
    merge.inputs = [node.input_of(digest) for digest in models_of(recipe)]
    merge.told.append(_ROUNDED)
    if (fp := words_of(recipe.get("fp"))) and fp not in _DTYPES:
        merge.left_out.append(f"dtype `{fp[:20]}`")
    if calculation := words_of(recipe.get("calculation")):
        merge.left_out.append(f"calculated with `{calculation[:200]}`, which is done before or behind the merge")
    if recipe.get("pruned") is True:
        merge.comments.append("the tool pruned it; EMA copies are dropped anyway")
    return merge.add(draft)


def _weights(said: object, merge: ChattioriMerge) -> ChattioriWeights:
    """Return alpha or beta: a number, or a base with lists as Python prints them."""
    if said is None or said == "":
        return ChattioriWeights()
    if not isinstance(said, str) or not (found := _BLOCKS.fullmatch(said.strip()[:_LONGEST])):
        return ChattioriWeights(sayable(said, "alpha_info or beta_info"))
    try:
        lists = ast.literal_eval(found["lists"])
        numbers = [of_slider(str(each)) for each in (found["base"], *lists[0])]
    except (ValueError, SyntaxError, TypeError, IndexError, RecursionError, MemoryError):
        raise UnsayableError(f"block weights {said[:60]!r} are no lists") from None
    rules = rules_of("\n".join(_texts(lists[1:])), merge.told.append, merge.left_out.append)
    return ChattioriWeights(Decimal(0), numbers, rules=rules)


def _texts(said: object) -> list[str]:
    """Return the rules in lists of lists: texts, or three words each."""
    if isinstance(said, str):
        return [said]
    if not isinstance(said, list):
        return []
    if len(said) == 3 and all(isinstance(each, (str, int, float)) for each in said) and ":" not in str(said[0]):
        return [":".join(map(str, said))]
    return [text for each in said for text in _texts(each)]
