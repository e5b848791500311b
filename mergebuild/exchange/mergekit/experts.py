"""Mixtures of experts of mergekit: `experts` on a base."""

from __future__ import annotations

from typing import Final

from mergebuild.exchange.draft import Value
from mergebuild.exchange.mergekit.reading import KitReading, KitTable
from mergebuild.exchange.mergekit.references import reference
from mergebuild.exchange.yaml_text import YamlMap
from mergebuild.recipe.vocabulary import DTYPE_HINTS, DTYPES

__all__ = ["read_experts"]

_KEYS: Final = (
    "base_model", "gate_mode", "dtype", "experts_per_token", "experts", "shared_experts", "architecture",
)  # fmt: skip
_OF_EXPERT: Final = ("source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale")
_PROMPTS: Final = {"positive_prompts": "prompts", "negative_prompts": "negative_prompts"}
_GATES: Final = {"random": "random", "cheap_embed": "prompts"}
_HIDDEN: Final = (
    'gates of hidden states need the model to run: write them to a file, and name it, `gate = { model = "gates" }`'
)


def read_experts(reading: KitReading, document: YamlMap, name: str) -> None:
    """Make the target `name`, which the draft has, what a recipe of experts says.

    Raises:
        RecipeError: mergekit would refuse it too.
    """
    reading.target = name
    table = KitTable(reading, document, "")
    table.only(_KEYS)
    base = reference(reading, table.get("base_model"), "base_model").name
    mode = table.text("gate_mode") or "hidden"
    gate = _GATES.get(mode)
    experts: list[Value] = [_expert(reading, each, with_prompts=gate == "prompts") for each in table.tables("experts")]
    if len(experts) < 2:
        raise reading.wrong("experts", "are fewer than two")
    for key in ("shared_experts", "architecture"):
        if table.get(key):
            reading.leave_out(key, f"`{key}`: experts here are of Mixtral's form")
    if gate is None:
        why = _HIDDEN if mode == "hidden" else "another one"
        reading.leave_out("gate_mode", f"`gate_mode` `{mode}`: {why}")
        reading.draft.comments += reading.draft.targets.pop(name).comments
        return
    keys: dict[str, Value] = {"method": "moe", "base": base, "models": experts, "gate": gate}
    per_token = table.get("experts_per_token")
    count = 2 if per_token is None else reading.integer(per_token, "experts_per_token", len(experts))
    if not count:
        raise reading.wrong("experts_per_token", "is 0: a token goes to one expert at least")
    keys["experts_per_token"] = count
    if gate == "random":
        keys["seed"] = 0
        reading.say("gate_mode", "mergekit draws gates without a seed: seed 0 is ours, and the result another")
    _finish(reading, table, name, keys)


def _finish(reading: KitReading, table: KitTable, name: str, keys: dict[str, Value]) -> None:
    keys["output"] = reading.draft.free_output(f"{name}/")
    said = table.text("dtype")
    word = DTYPE_HINTS.get(said or "", said)
    if word is not None and word in DTYPES:
        keys["dtype"] = word
    elif word is not None:
        reading.leave_out("dtype", f"`dtype` `{said}`, a dtype that outputs do not have here")
    target = reading.draft.targets.pop(name)
    target.keys = keys
    reading.draft.targets[name] = target


def _expert(reading: KitReading, table: KitTable, *, with_prompts: bool) -> Value:
    table.only(_OF_EXPERT)
    model = _scaled(reading, table, reference(reading, table.get("source_model"), table.at("source_model")).name)
    if table.get("noise_scale") is not None:
        reading.leave_out(table.at("noise_scale"), f"`noise_scale` of `{model}`: noise that nobody can draw again")
    found: dict[str, Value] = {"model": model}
    for theirs, ours in _PROMPTS.items() if with_prompts else ():
        if texts := _prompts(reading, table, theirs):
            found[ours] = [*texts]
    if with_prompts and "prompts" not in found:
        raise reading.wrong(table.where, "has no `positive_prompts`, which `cheap_embed` needs")
    return found if len(found) > 1 else model


def _scaled(reading: KitReading, table: KitTable, model: str) -> str:
    """Return the model, or a virtual target of it whose feed-forward layers are scaled at their ends."""
    scale = table.get("residual_scale")
    if scale is None:
        return model
    number = reading.number(scale, table.at("residual_scale"))
    keys: dict[str, Value] = {"method": "scale", "a": model, "alpha": {"default": 1, "*down_proj*": number}}
    return reading.draft.target(f"{model}-scaled", keys)


def _prompts(reading: KitReading, table: KitTable, key: str) -> list[str]:
    found = table.get(key)
    items = found if isinstance(found, list) else [] if found is None else [found]
    return [reading.text(each, table.at(key)) for each in items]
