"""Scripts of kohya's sd-scripts: LoRAs merged into models and with each other, extracted, resized; models averaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Final

from mergebuild.exchange.commands.command_line import CommandLine, model_of
from mergebuild.exchange.draft import Draft, Value
from mergebuild.exchange.figures import figure
from mergebuild.exchange.file_names import last_step, without_suffix
from mergebuild.exchange.json_texts import json_of
from mergebuild.exchange.merges.lora_blocks import lora_table, module_table
from mergebuild.exchange.merges.node import UnsayableError

__all__ = ["SCRIPTS"]

_DTYPES: Final = {"float": "float32", "fp16": "float16", "bf16": "bfloat16"}
_PRODUCT: Final = (
    "the script adds up `up` and `down` of the LoRAs each, scaled, and multiplies the sums: no method is that; "
    "`merge_loras` adds up what the LoRAs do, with these strengths"
)
_JOINED: Final = (
    "with `--concat` the script takes each ratio twice, and the first alpha over all ranks: `merge_loras` adds up what "
    "the LoRAs do, with these strengths"
)
_CLAMPED: Final = "the script clamps both factors at the 99th percentile of their values; nothing is clamped here"
_SAME_TEXT_ENCODER: Final = (
    "the script leaves out a text encoder that hardly differs (`--min_diff`); here it is in the LoRA"
)
_NO_MATTER: Final = frozenset(
    "v2 sdxl device verbose no_metadata precision save_precision saving_precision load_precision mem_eff_load_save "
    "mem_eff_safe_open loading_device working_device lora_is_sd_scripts v_parameterization show_skipped".split()
)
"""Options that say nothing of what is made, or are read elsewhere."""


def _merge_lora(line: CommandLine, draft: Draft) -> None:
    _tell_others(line, draft, "sd_model models ratios save_to concat shuffle lbws")
    if not line.has("sd_model"):
        _loras_alone(line, draft)
        return
    base = model_of(draft, line.one("sd_model"))
    _add_lora(line, draft, base, line.one("save_to"))


def _merge_lora_of_flux(line: CommandLine, draft: Draft) -> None:
    parts = {"flux_model": "save_to", "clip_l": "clip_l_save_to", "t5xxl": "t5xxl_save_to"}
    _tell_others(line, draft, f"models ratios concat shuffle diffusers {' '.join([*parts, *parts.values()])}")
    given = [(model, saved) for model, saved in parts.items() if line.has(model)]
    if not given:
        _loras_alone(line, draft)
    for model, saved in given:
        _add_lora(line, draft, model_of(draft, line.one(model)), line.one(saved))


def _add_lora(line: CommandLine, draft: Draft, base: str, saved: str) -> None:
    keys: dict[str, Value] = {"method": "add_lora", "base": base, **_loras(line, draft), "allow_unmatched": True}
    _target(line, draft, saved, keys)


def _loras_alone(line: CommandLine, draft: Draft) -> None:
    """Merge LoRAs into a LoRA, which that script does otherwise."""
    name = _target(line, draft, line.one("save_to"), {"method": "merge_loras", **_loras(line, draft, by_block=False)})
    draft.leave_out(line.where, _JOINED if line.has("concat") else _PRODUCT, target=name)
    if line.has("shuffle"):
        draft.leave_out(line.where, "`--shuffle`, which draws at random", target=name)


def _svd_merge(line: CommandLine, draft: Draft) -> None:
    _tell_others(line, draft, "models ratios save_to new_rank new_conv_rank lbws")
    rank = _number(line.one("new_rank", default="4"), "new_rank")
    keys: dict[str, Value] = {"method": "merge_loras", **_loras(line, draft, by_block=False), "rank": rank}
    if line.has("new_conv_rank") and _number(line.one("new_conv_rank"), "new_conv_rank") != rank:
        draft.leave_out(line.where, "`--new_conv_rank`: one rank serves all modules")
    name = _target(line, draft, line.one("save_to"), keys)
    draft.say(line.where, _CLAMPED, target=name)


def _resize(line: CommandLine, draft: Draft) -> None:
    _tell_others(line, draft, "model save_to new_rank new_conv_rank dynamic_method dynamic_param")
    keys: dict[str, Value] = {"method": "resize_lora", "a": model_of(draft, line.one("model"))}
    keys["rank"] = _number(line.one("new_rank", default="4"), "new_rank")
    name = _target(line, draft, line.one("save_to"), keys)
    if line.has("new_conv_rank") and line.one("new_conv_rank") != line.one("new_rank", default="4"):
        draft.leave_out(line.where, "`--new_conv_rank`: one rank serves all modules", target=name)
    if line.has("dynamic_method"):
        method, share = line.one("dynamic_method"), _number(line.one("dynamic_param"), "dynamic_param")
        if method == "sv_fro":
            draft.targets[name].keys["energy"] = share * share
            draft.targets[name].notes["energy"] = f"sv_fro {share}: its square"
        else:
            draft.leave_out(line.where, f"`--dynamic_method {method}`", target=name)


def _extract(line: CommandLine, draft: Draft, *, original: str, tuned: str) -> None:
    _tell_others(line, draft, f"{original} {tuned} save_to dim conv_dim clamp_quantile min_diff")
    keys: dict[str, Value] = {"method": "extract_lora", "base": model_of(draft, line.one(original))}
    keys["a"] = model_of(draft, line.one(tuned))
    keys["rank"] = _number(line.one("dim", default="4"), "dim")
    if line.has("conv_dim"):
        keys["conv_rank"] = _number(line.one("conv_dim"), "conv_dim")
    keys["clamp_quantile"] = _number(line.one("clamp_quantile", default="0.99"), "clamp_quantile")
    name = _target(line, draft, line.one("save_to"), keys)
    draft.say(line.where, _SAME_TEXT_ENCODER, target=name)


def _merge_models(line: CommandLine, draft: Draft) -> None:
    _tell_others(line, draft, "models ratios output unet_only")
    models = line.many("models")
    ratios = [_number(each, "ratios") for each in line.many("ratios")]
    if len(models) < 1 or (ratios and len(ratios) != len(models)):
        raise UnsayableError(f"{len(models)} models and {len(ratios)} ratios")
    keys: dict[str, Value] = {"method": "linear", "models": [model_of(draft, each) for each in models]}
    if ratios:
        keys |= {"weight": [*ratios], "normalize": False}
    else:
        keys["weight"] = 1
    if line.has("unet_only"):
        keys["merge"] = "unet"
    _target(line, draft, line.one("output"), keys)


def _loras(line: CommandLine, draft: Draft, *, by_block: bool = True) -> dict[str, Value]:
    """Return `loras` and `strength`; of a LoRA with block weights, its strength stands beside it.

    `by_block`: whether a strength reaches blocks of a model, or modules of the LoRA.
    """
    models, ratios = line.many("models"), [_number(each, "ratios") for each in line.many("ratios")]
    lists = _block_lists(line)
    if not models or len(models) != len(ratios) or len(lists) not in (0, len(models)):
        raise UnsayableError(f"{len(models)} LoRAs, {len(ratios)} ratios and {len(lists)} lists of block weights")
    names = [model_of(draft, each) for each in models]
    if not lists:
        return {"loras": [*names], "strength": [*ratios]}
    made = lora_table if by_block else module_table
    try:
        tables = [made(ratio, weights) for ratio, weights in zip(ratios, lists, strict=True)]
    except ValueError as error:
        raise UnsayableError(str(error)) from None
    return {"loras": [{"lora": name, "strength": table} for name, table in zip(names, tables, strict=True)]}


def _block_lists(line: CommandLine) -> list[list[Decimal]]:
    found: list[list[Decimal]] = []
    for text in line.many("lbws"):
        try:
            said = json_of(text)
        except ValueError as error:
            raise UnsayableError(f"`--lbws {text[:60]}`: {error}") from None
        if not isinstance(said, list):
            raise UnsayableError(f"`--lbws {text[:60]}` is no list")
        found.append([_number(each, "lbws") for each in said])
    return found


def _target(line: CommandLine, draft: Draft, saved: str, keys: Mapping[str, Value]) -> str:
    """Add the target that a script writes."""
    precision = line.one("precision", default="float")
    word = line.one("save_precision", "saving_precision", default=precision)
    path = saved if saved.lower().endswith((".safetensors", ".ckpt")) else f"{without_suffix(saved)}.ckpt"
    name = without_suffix(last_step(saved))
    target = draft.target(name, keys, output=path, dtype=_DTYPES.get(word))
    if word not in _DTYPES:
        draft.leave_out(line.where, f"precision `{word[:20]}`", target=target)
    return target


def _number(said: object, what: str) -> Decimal:
    try:
        return figure(said)
    except ValueError as error:
        raise UnsayableError(f"`--{what}` is {json.dumps(str(said)[:40])}: {error}") from None


def _tell_others(line: CommandLine, draft: Draft, known: str) -> None:
    for name in line.options.keys() - set(known.split()) - _NO_MATTER:
        draft.leave_out(line.where, f"option `--{name[:60]}` of `{line.script}`")


SCRIPTS: Final[Mapping[str, Callable[[CommandLine, Draft], None]]] = {
    "merge_lora.py": _merge_lora,
    "sdxl_merge_lora.py": _merge_lora,
    "flux_merge_lora.py": _merge_lora_of_flux,
    "svd_merge_lora.py": _svd_merge,
    "resize_lora.py": _resize,
    "extract_lora_from_models.py": partial(_extract, original="model_org", tuned="model_tuned"),
    "flux_extract_lora.py": partial(_extract, original="model_org", tuned="model_tuned"),
    "merge_models.py": _merge_models,
}
"""By the name of a script, the function that adds what it makes to a draft."""
