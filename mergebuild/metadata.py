"""What a file says of itself, in `__metadata__`: never a time, a host or an absolute path.

`minimal` is what the artifact is: the version of the layout, its digest, and the proportions of its inputs by their
content. `full` adds names, the recipe, and the fields that WebUIs read. `none` is only what readers insist on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from mergebuild.digest import tagged
from mergebuild.fold import Blueprint
from mergebuild.lineage import proportions
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import NumberPerTensor, Target

__all__ = ["LAYOUT_VERSION", "full", "minimal", "none"]

LAYOUT_VERSION = 1
"""The version of the file layout that `formats` writes."""


def none() -> dict[str, str]:
    """Return the least that readers need."""
    return {"format": "pt"}


def minimal(blueprint: Blueprint, digest: bytes, content_of: Callable[[str], str]) -> dict[str, str]:
    """Return what the artifact alone determines. `content_of` gives an input's content digest as text."""
    whole, by_block = proportions(blueprint, content_of)
    facts = {
        "artifact": tagged(digest),
        "layout": LAYOUT_VERSION,
        "proportions": by_block if whole is None else whole,
    }
    return {"format": "pt", "mergebuild": _json(facts)}


def of_a_part(digest: bytes) -> dict[str, str]:
    """Return what one file of a folder says: nothing that a change in another would touch."""
    return {"format": "pt", "mergebuild": _json({"artifact": tagged(digest), "layout": LAYOUT_VERSION})}


def full(
    blueprint: Blueprint,
    digest: bytes,
    content_of: Callable[[str], str],
    recipe: Recipe,
    sha256_of: Mapping[str, str | None],
) -> dict[str, str]:
    """Return the minimal metadata, the recipe of the target and all below it, and the WebUI's fields.

    `sha256_of` names every source at the bottom of the target.
    """
    nodes = _recipe_nodes(recipe, blueprint.target.name)
    whole = {"type": "mergebuild", "target": blueprint.target.name, "recipe": nodes, "sources": dict(sha256_of)}
    models = {
        sha256: {"name": name, "legacy_hash": None, "sd_merge_recipe": None} for name, sha256 in sha256_of.items()
    }
    return minimal(blueprint, digest, content_of) | {
        "sd_merge_recipe": _json(whole),
        "sd_merge_models": _json(models),
    }


def _recipe_nodes(recipe: Recipe, name: str) -> dict[str, object]:
    return {each: _recipe_node(recipe.target(each)) for each in recipe.below(name)}


def _recipe_node(target: Target) -> dict[str, object]:
    node: dict[str, object] = {
        "method": target.method,
        "inputs": [each.ref for each in target.inputs],
        "numbers": {
            key: _number(number) if isinstance(number, NumberPerTensor) else [_number(each) for each in number]
            for key, number in target.numbers.items()
        },
    }
    if target.row is not None and target.row.program is not None:
        node["program"] = target.row.program.content
    if target.formula:
        node["formula"] = target.formula.text
    if target.flags:
        node["flags"] = dict(target.flags)
    if target.words:
        node["words"] = dict(target.words)
    if target.rules:
        node["rules"] = [
            {"tensors": [each.text for each in rule.tensors], **_recipe_node(rule.target)} for rule in target.rules
        ]
    return node


def _number(number: NumberPerTensor) -> object:
    if number.constant is not None:
        return str(number.constant)
    return {rule.key: repr(rule.value) for rule in number.rules}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
