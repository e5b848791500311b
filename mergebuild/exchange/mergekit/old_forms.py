"""Older forms of mergekit's recipes, as documents of today: files of bakllama, and the command `mergekit-legacy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mergebuild.exchange.mergekit.reading import KitReading, KitTable
from mergebuild.exchange.yaml_text import YamlMap, YamlValue

__all__ = ["LEGACY_OPTIONS", "of_bakllama", "of_legacy"]

LEGACY_OPTIONS: Final = ("--merge", "--density", "--weight", "--method", "--base-model")
"""Options of `mergekit-legacy` that have a value; all others are flags."""


def of_bakllama(reading: KitReading, document: YamlMap) -> YamlMap:
    """Return a file of bakllama as a document of today: a stack, with the scale on the projections that end an MLP.

    Raises:
        RecipeError: bakllama would refuse it too.
    """
    table = KitTable(reading, document, "")
    table.only(("layer_slices", "embedding_source", "lm_head_source"))
    for key in ("embedding_source", "lm_head_source"):
        if table.get(key) is not None:
            reading.say(key, f"`{key}` is ignored by bakllama too")
    slices: list[YamlValue] = [_slice(each) for each in table.tables("layer_slices")]
    return {"merge_method": "passthrough", "slices": slices}


def _slice(table: KitTable) -> YamlMap:
    table.only(("model", "start", "end", "scale"))
    source: YamlMap = {"model": table.get("model"), "layer_range": [table.get("start"), table.get("end")]}
    scale = table.get("scale")
    if scale is not None:
        source["parameters"] = {"scale": {"filter": "down_proj", "value": scale}}
    return {"sources": [source]}


def of_legacy(reading: KitReading, options: Mapping[str, Sequence[str]], flags: Sequence[str]) -> YamlMap:
    """Return a command line of `mergekit-legacy` as a document of today.

    Args:
        reading: The recipe.
        options: The values of each option, in order.
        flags: The flags that are set.

    Raises:
        RecipeError: the command would fail.
    """
    merged = list(options.get("--merge", ()))
    base = next(iter(options.get("--base-model", ())), None)
    models: list[YamlMap] = [{"model": each, "parameters": {}} for each in merged]
    if base is not None and base not in merged:
        models.append({"model": base, "parameters": {}})
    method = next(iter(options.get("--method", ())), "ties")
    shared: YamlMap = {"normalize": "--no-normalize" not in flags}
    weights = list(options.get("--weight", ()))
    _spread(reading, models, "density", list(options.get("--density", ())))
    if method == "slerp":
        if len(weights) != 1:
            raise reading.wrong("--weight", "must be there once for slerp")
        shared = {"t": weights[0]}
    else:
        _spread(reading, models, "weight", weights)
    if "--naive-count" in flags:
        shared["consensus_method"] = "count"
    found: YamlMap = {"merge_method": method, "models": [*models], "parameters": shared}
    found |= {"base_model": base} if base is not None else {}
    return found | ({"dtype": "bfloat16"} if "--bf16" in flags else {})


def _spread(reading: KitReading, models: Sequence[YamlMap], key: str, values: list[str]) -> None:
    """Give the n-th model the n-th value; one alone is for all."""
    if len(values) > len(models):
        raise reading.wrong(f"--{key}", f"is there {len(values)} times, and `--merge` {len(models)} times")
    for model, value in zip(models, values * len(models) if len(values) == 1 else values, strict=False):
        parameters = model["parameters"]
        assert isinstance(parameters, dict)
        parameters[key] = value
