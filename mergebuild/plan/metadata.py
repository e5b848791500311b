"""The metadata of an output, in `__metadata__`: never a time, a host or an absolute path.

`minimal` says what the artifact is: the version of the layout, its digest, and the proportions of its inputs by their
content. `full` adds names, the recipe, and the fields that WebUIs read; modules for these are imported only then.
`none` has only what readers require.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING

from mergebuild.digest import tagged
from mergebuild.fold.forms import Blueprint, Form, Spec
from mergebuild.fold.lineage import proportions
from mergebuild.fold.naming import SAME
from mergebuild.formats.layout import texts_as_json
from mergebuild.naming.canonical import is_constant
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import NumberPerTensor, Target

if TYPE_CHECKING:
    from mergebuild.sources.provenance import MergeModels

__all__ = ["LAYOUT_VERSION", "full", "minimal", "none"]

LAYOUT_VERSION = 1
"""The version of the file layout that `formats` writes."""


def none() -> dict[str, str]:
    """Return the least that readers require."""
    return {"format": "pt"}


def minimal(blueprint: Blueprint, digest: bytes, contents: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that depend on the artifact alone. `contents`: the content digest of each input, as text."""
    whole, by_block = proportions(blueprint, contents)
    if whole is not None:
        shown = _sorted(whole)
    else:
        shown = f"{{{','.join(f'{_json(block)}:{_sorted(by_block[block])}' for block in sorted(by_block))}}}"
    facts = f'{{"artifact":"{tagged(digest)}","layout":{LAYOUT_VERSION},"proportions":{shown}}}'
    return {"format": "pt", "mergebuild": facts}


def of_a_part(digest: bytes) -> dict[str, str]:
    """Return the metadata of one file of a folder: nothing that a change in another file would change."""
    return {"format": "pt", "mergebuild": _json({"artifact": tagged(digest), "layout": LAYOUT_VERSION})}


def full(
    blueprint: Blueprint,
    digest: bytes,
    contents: Mapping[str, str],
    recipe: Recipe,
    sha256_of: Mapping[str, str | None],
    *,
    metadata_of: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    dtype: str | None = None,
) -> dict[str, str]:
    """Return the minimal metadata, the recipe of the target and all below it, and the fields that other programs read.

    Args:
        blueprint: The target.
        digest: Of the artifact.
        contents: The content digest of each input, as text.
        recipe: The recipe with everything below the target.
        sha256_of: The SHA-256 of every source at the bottom of the target, by name.
        metadata_of: The metadata of each of these sources, which are untrusted.
        dtype: The dtype in which the file is written, if not the target's own.
    """
    specs = blueprint.specs_in(dtype or blueprint.target.dtype)
    nodes = _recipe_nodes(recipe, blueprint.target.name)
    whole = {"type": "mergebuild", "target": blueprint.target.name, "recipe": nodes, "sources": dict(sha256_of)}
    return (
        minimal(blueprint, digest, contents)
        | _modelspec(blueprint, sorted(sha256_of), metadata_of)
        | _as_kohya(blueprint)
        | {
            "sd_merge_recipe": _json(whole | _as_webui(blueprint, specs, sha256_of)),
            "sd_merge_models": _json(_merge_models(sha256_of, metadata_of)),
        }
    )


# Fields that other programs read


_RESOLUTIONS = {"stable-diffusion-v1": 512, "stable-diffusion-v2-512": 512, "stable-diffusion-v2-768-v": 768}
_FLUX = "https://github.com/black-forest-labs/flux"
_ARCHITECTURES = {
    "sd15": ("stable-diffusion-v1", "sgm"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sgm"),
    "sd3": ("stable-diffusion-3", "sgm"),
}
_BY_INPUTS = {"inpainting": "/inpaint", "instruct-pix2pix": "/edit"}


def _modelspec(
    blueprint: Blueprint, sources: Sequence[str], metadata_of: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Return the `modelspec.` fields of an image model whose architecture has a name there; else nothing.

    Its hash of the data is unknown before the file is built, and a date would change the bytes: neither is written.
    """
    from mergebuild.sources import traits

    shapes = {name: spec.shape for name, spec in blueprint.specs.items()}
    said = {_said(metadata_of.get(name, {}), "prediction_type", "predict_key") for name in sources}
    agreed = next(iter(said)) if len(said) == 1 else None
    prediction = "v" if "v_pred" in traits.marks(shapes) else agreed if agreed in ("v", "epsilon") else None
    found = _architecture(blueprint, shapes, prediction)
    if found is None:
        return {}
    architecture, implementation = found
    side = _RESOLUTIONS.get(architecture, 1024)
    inputs = traits.kind_of_inputs(traits.input_channels(shapes))
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture + _BY_INPUTS.get(inputs or "", ""),
        "implementation": implementation,
        "title": blueprint.target.name,
        "resolution": f"{side}x{side}",
        "merged_from": ", ".join(sources),
    }
    if prediction is not None:
        fields["prediction_type"] = prediction
    return {f"modelspec.{name}": text for name, text in fields.items()}


def _said(metadata: Mapping[str, str], *keys: str) -> str | None:
    return next((metadata[f"modelspec.{key}"] for key in keys if f"modelspec.{key}" in metadata), None)


def _architecture(
    blueprint: Blueprint, shapes: Mapping[str, tuple[int, ...]], prediction: str | None
) -> tuple[str, str] | None:
    """Return modelspec's names for the architecture and for the code whose tensor names it has."""
    layout = blueprint.layout.name if blueprint.layout else ""
    if layout == "flux":
        parts = {part for name in shapes for part in name.split(".")}
        guided = "flux-1-dev" if "guidance_in" in parts else "flux-1-schnell"
        return "chroma" if "distilled_guidance_layer" in parts else guided, _FLUX
    if layout == "sd2":  # no tensor shows which of the two it is, and a program that takes the other draws noise
        kinds = {"v": "stable-diffusion-v2-768-v", "epsilon": "stable-diffusion-v2-512"}
        return (kinds[prediction], "sgm") if prediction in kinds else None
    return _ARCHITECTURES.get(layout)


def _as_kohya(blueprint: Blueprint) -> dict[str, str]:
    """Return the fields of kohya's trainers for a LoRA with their names; the alpha only if it is known."""
    ranks = {spec.shape[0] for name, spec in blueprint.specs.items() if name.endswith(".lora_down.weight")}
    making = blueprint.target.making
    if not making.makes_lora or not ranks:
        return {}
    shown = str(*ranks) if len(ranks) == 1 else "Dynamic"
    facts = {"ss_network_module": "networks.lora", "ss_network_dim": shown}
    return facts | ({"ss_network_alpha": shown} if making.alpha_is_rank else {})


def _as_webui(
    blueprint: Blueprint, specs: Mapping[str, Spec], sha256_of: Mapping[str, str | None]
) -> dict[str, object]:
    """Return the recipe in AUTOMATIC1111's keys, if its merger could have made the target from the same files.

    Else nothing.
    """
    from mergebuild.sources import traits

    merged = _weighted_sum_or_difference(blueprint)
    if merged is None:
        return {}
    method, models, multiplier = merged
    if abs(multiplier) > sys.float_info.max:  # the largest number of that tool
        return {}
    hashes = [sha256_of.get(name) for name in models]
    inputs = traits.kind_of_inputs(traits.input_channels({name: spec.shape for name, spec in specs.items()}))
    return {
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2] if len(hashes) > 2 else None,
        "interp_method": method,
        "multiplier": float(multiplier),
        "save_as_half": all(spec.dtype == "float16" for spec in specs.values() if spec.is_float),
        "custom_name": blueprint.target.name,
        "config_source": 0,
        "bake_in_vae": "None",
        "discard_weights": "",
        "is_inpainting": inputs == "inpainting",
        "is_instruct_pix2pix": inputs == "instruct-pix2pix",
    }


def _weighted_sum_or_difference(blueprint: Blueprint) -> tuple[str, tuple[str, ...], Fraction] | None:
    """Return method, models and multiplier of a target that is `A (1 - m) + B m` or `A + m (B - C)` of sources.

    However the recipe writes it, all tensors must be made alike. Tensors that are just the first input's, because an
    input lacks them or because they are constants, don't count: that tool makes them so, too.
    """
    combined = _one_for_all(blueprint)
    if combined is None:
        return None
    share = {slot.owner: coefficient for slot, coefficient in combined.terms}
    order = [each.ref for each in blueprint.target.inputs if each.ref in share] + list(share)
    names = tuple(dict.fromkeys(order))
    if len(share) == 2 and sum(share.values()) == 1:
        return "Weighted sum", names, share[names[1]]
    return _difference(names, share)


def _difference(names: Sequence[str], share: Mapping[str, Fraction]) -> tuple[str, tuple[str, ...], Fraction] | None:
    """Return method, models and multiplier of a combination that is `A + m (B - C)`. `share`: of each model."""
    first = next((name for name in names if share[name] == 1), None)
    others = sorted((name for name in names if name != first), key=lambda name: -share[name])
    if first is None or len(others) != 2 or share[others[0]] != -share[others[1]]:
        return None
    return "Add difference", (first, *others), share[others[0]]


def _one_for_all(blueprint: Blueprint) -> Form | None:
    """Return the one combination that makes all tensors of a target that are not just its first input's.

    None if several do.
    """
    target = blueprint.target
    kinds, palette = blueprint.forms.kinds, blueprint.forms.palette
    sums = [form for form, count in zip(palette, kinds.float_counts, strict=True) if count and form.lone is None]
    copied = len(kinds.floats) - blueprint.forms.combined
    is_whole = target.merge is None and not target.rules and not target.slices and not target.drop
    lacking = min((account.lacking for account in blueprint.accounts if account.lacking), default=0)
    constants = sum(is_constant(name, blueprint.source_specs[name].shape) for name in kinds.floats)
    if len(sums) != 1 or not is_whole or copied > lacking + constants:
        return None
    return sums[0] if all(slot.naming is SAME for slot, _ in sums[0].terms) else None


def _merge_models(sha256_of: Mapping[str, str | None], metadata_of: Mapping[str, Mapping[str, str]]) -> MergeModels:
    """Return the sources by their SHA-256, and the models that their metadata name, as far as there is room."""
    from mergebuild.sources import provenance

    ancestors = _ancestors([metadata_of.get(name, {}) for name in sorted(sha256_of)])
    own: MergeModels = {
        sha256: {
            "name": name,
            "legacy_hash": ancestors.get(sha256, {}).get("legacy_hash"),
            "sd_merge_recipe": provenance.merge_recipe(metadata_of.get(name, {})),
        }
        for name, sha256 in sha256_of.items()
        if sha256 is not None
    }
    return ancestors | own


def _ancestors(said: Sequence[Mapping[str, str]]) -> MergeModels:
    """Return the models that the metadata of sources name, as far as there is room."""
    from mergebuild.sources import provenance

    found: MergeModels = {}
    room = provenance.MOST_LINEAGE
    for facts in said:
        for sha256, entry in sorted(provenance.merge_models(facts).items()):
            size = len(_json(entry).encode())
            if sha256 not in found and size <= room:
                found[sha256] = entry
                room -= size
    return found


# The recipe


def _recipe_nodes(recipe: Recipe, name: str) -> dict[str, object]:
    return {each: _recipe_node(recipe.target(each)) for each in recipe.below(name)}


def _recipe_node(target: Target) -> dict[str, object]:
    node: dict[str, object] = {
        "method": target.method,
        "inputs": [each.ref for each in target.inputs],
        "numbers": _numbers(target),
    }
    if (program := target.making.program) is not None:
        node["program"] = program.content
    if target.formula:
        node["formula"] = target.formula.text
    if target.flags:
        node["flags"] = dict(target.flags)
    if target.words:
        node["words"] = dict(target.words)
    return node | _choices(target) | _parts_of(target)


def _choices(target: Target) -> dict[str, object]:
    """Return what a node says of which tensors are merged and written, and of rounding, if that is not the usual."""
    node: dict[str, object] = {}
    if target.merge is not None:
        node["merge"] = [each.text for each in target.merge]
    if target.drop:
        node["drop"] = [each.text for each in target.drop]
    if target.output is not None:
        node["rounded"] = target.dtype
    if order := {key: keys for key, number in target.numbers.items() if (keys := _order(number))}:
        node["order"] = order
    usual = {"missing": "keep", "ema": "drop", "nonfinite": "error", "on_channels": "error", "architectures": "error"}
    return node | {key: word for key, plain in usual.items() if (word := getattr(target, key)) != plain}


def _order(number: NumberPerTensor | tuple[NumberPerTensor, ...]) -> list[object]:
    """Return the keys of a number per tensor in their order, of which the later win; of several numbers, those of each.

    Empty where no number has two keys.
    """
    if isinstance(number, NumberPerTensor):
        return [rule.key for rule in number.rules] if len(number.rules) > 1 else []
    found: list[object] = [_order(each) for each in number]
    return found if any(found) else []


def _numbers(target: Target) -> dict[str, object]:
    """Return the numbers of a target by name: one each, or a list with one for each model."""
    return {
        key: _number(number) if isinstance(number, NumberPerTensor) else [_number(each) for each in number]
        for key, number in target.numbers.items()
    }


def _parts_of(target: Target) -> dict[str, object]:
    """Return what a node says of parts of the tensors, if they are made differently."""
    node: dict[str, object] = {}
    if target.components:
        node["components"] = {
            each.name: {"model": each.input and each.input.ref, "dtype": each.dtype} for each in target.components
        }
    if target.rules:
        node["rules"] = [
            {"tensors": [each.text for each in rule.tensors], **_recipe_node(rule.target)} for rule in target.rules
        ]
    if target.slices:
        node["slices"] = [
            {"layers": [some.text for some in each.layers], "part": each.part, **_recipe_node(each.target)}
            for each in target.slices
        ]
    return node


def _number(number: NumberPerTensor) -> object:
    if number.constant is not None:
        return str(number.constant)
    return {rule.key: repr(rule.value) for rule in number.rules}


def _sorted(texts: Mapping[str, str]) -> str:
    return texts_as_json(dict(sorted(texts.items())))


def _json(value: object) -> str:
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
