"""What model files say of how they were made, in the metadata of any tool: one sentence for each tool.

The texts in `__metadata__` are untrusted: JSON of any type, depth and length. An invalid one is left out and never
stops a build. What is copied into our files is limited in size, has no absolute paths, and can be written as UTF-8.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NoReturn

__all__ = ["MOST_LINEAGE", "Entry", "MergeModels", "merge_models", "merge_recipe", "parsed", "told"]

Entry = dict[str, object]
"""What `sd_merge_models` says of a model: `name`, `legacy_hash`, `sd_merge_recipe`."""
MergeModels = dict[str, Entry]
"""By SHA-256, in 64 lower-case hexadecimal digits."""

MOST_LINEAGE: Final = 1 << 20
"""The most bytes of JSON that are copied from the inputs' metadata, in total."""

_MOST_JSON: Final = 2 << 20
_MOST_RECIPE: Final = 1 << 16
_DEEPEST: Final = 32
_MOST_NAME: Final = 200
_SHOWN: Final = 60
_SHOWN_NAMES: Final = 4
_HALVES: Final = re.compile("[\ud800-\udfff]")
_PATH: Final = re.compile(r"(?:~|[A-Za-z]:|file:)?[\\/].*", re.DOTALL)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LEGACY: Final = re.compile(r"[0-9a-f]{8}")


# What is copied into our files


def parsed(text: str | None) -> object:
    """Return the value of a JSON text, changed so that it can be written again; None if the text is invalid.

    Single surrogates are replaced, and absolute paths are cut to their last part.
    """
    if text is None or len(text) > _MOST_JSON:
        return None
    try:
        return _clean(json.loads(text, parse_constant=_refuse), _DEEPEST)
    except (ValueError, RecursionError):
        return None


def merge_recipe(metadata: Mapping[str, str]) -> Entry | None:
    """Return the `sd_merge_recipe` of a file; None if there is none, or it is invalid or too long."""
    text = metadata.get("sd_merge_recipe", "")
    found = parsed(text) if len(text) <= _MOST_RECIPE else None
    return found if isinstance(found, dict) else None


def merge_models(metadata: Mapping[str, str]) -> MergeModels:
    """Return the valid entries of the `sd_merge_models` of a file, with only the fields that web UIs write."""
    found = parsed(metadata.get("sd_merge_models"))
    if not isinstance(found, dict):
        return {}
    return {
        sha256.lower(): _entry(entry)
        for sha256, entry in found.items()
        if _SHA256.fullmatch(sha256.lower()) and isinstance(entry, dict)
    }


def _entry(entry: Mapping[str, object]) -> Entry:
    name, legacy, recipe = entry.get("name"), entry.get("legacy_hash"), entry.get("sd_merge_recipe")
    is_small = isinstance(recipe, dict) and len(json.dumps(recipe)) <= _MOST_RECIPE
    return {
        "name": name[:_MOST_NAME] if isinstance(name, str) else None,
        "legacy_hash": legacy if isinstance(legacy, str) and _LEGACY.fullmatch(legacy) else None,
        "sd_merge_recipe": recipe if is_small else None,
    }


def _refuse(word: str) -> NoReturn:
    message = f"{word} is no JSON"
    raise ValueError(message)


def _clean(value: object, deepest: int) -> object:
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        message = "a number beyond all floats"
        raise ValueError(message)
    if isinstance(value, (dict, list)):
        if deepest == 0:
            message = "nested too deep"
            raise ValueError(message)
        if isinstance(value, list):
            return [_clean(each, deepest - 1) for each in value]
        return {_clean_text(key): _clean(each, deepest - 1) for key, each in value.items()}
    return value


def _clean_text(text: str) -> str:
    whole = _HALVES.sub("\ufffd", text)
    return re.split(r"[\\/]", whole.rstrip("\\/"))[-1] if _PATH.fullmatch(whole) else whole


# Sentences


def told(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return how a file was made, according to its metadata: a sentence for each tool."""
    tellers: tuple[Callable[[Mapping[str, str]], Iterable[str]], ...] = (
        _by_recipe,
        _by_us,
        _by_mecha,
        _by_comfy,
        _by_rimo,
        _by_trainer,
        _by_modelspec,
        _ancestors,
    )
    return tuple(sentence for teller in tellers for sentence in teller(metadata))


def _by_recipe(metadata: Mapping[str, str]) -> Iterator[str]:
    if "sd_merge_recipe" not in metadata:
        return
    recipe = parsed(metadata["sd_merge_recipe"])
    if not isinstance(recipe, dict):
        yield "`sd_merge_recipe` is there, and can't be read"
        return
    yield f"made by {_tool_and_merge(recipe, merge_models(metadata))}"


def _tool_and_merge(recipe: Mapping[str, object], models: MergeModels) -> str:
    """Return which tool wrote a recipe, and what it merged."""
    kind = recipe.get("type")
    if kind == "mergebuild":
        return f"mergebuild: {_our_recipe(recipe)}"
    if kind == "webui":
        return f"AUTOMATIC1111: {_webui(recipe, models)}"
    if kind == "sd-webui-supermerger":
        return f"supermerger: {_supermerger(recipe, models)}"
    if kind == "sd-webui-model-mixer":
        return f"model-mixer: {_mixer(recipe)}"
    if kind == "merge-models-chattiori":
        return f"Chattiori's merger: {_chattiori(recipe, models)}"
    keys = ", ".join(map(_show, list(recipe)[:8]))
    return f"{_show(kind) or 'an unknown tool'}: {_phrases(_hashed(recipe, models), keys)}"


def _webui(recipe: Mapping[str, object], models: MergeModels) -> str:
    method = _show(recipe.get("interp_method"))
    vae = recipe.get("bake_in_vae")
    return _phrases(
        f"{method or 'a merge'} of {_hashed(recipe, models)}",
        _named("multiplier", recipe.get("multiplier") if method != "No interpolation" else None),
        "saved as float16" if recipe.get("save_as_half") is True else "",
        _named("VAE of", vae if vae != "None" else None),
        _named("without", recipe.get("discard_weights")),
        _named("named", recipe.get("custom_name")),
        "inpainting" if recipe.get("is_inpainting") is True else "",
        "instruct-pix2pix" if recipe.get("is_instruct_pix2pix") is True else "",
    )


def _supermerger(recipe: Mapping[str, object], models: MergeModels) -> str:
    used = [_model(recipe.get(f"model_{letter}"), models) for letter in "abc"]
    by_block = recipe.get("mbw") is True
    return _phrases(
        f"{_show(recipe.get('mode')) or 'a merge'} of {_listed(each for each in used if each)}",
        *(
            _named(f"{number} by block" if by_block else number, recipe.get(f"weights_{number}" if by_block else base))
            for number, base in (("alpha", "base_alpha"), ("beta", "base_beta"))
        ),
        _named("elemental", recipe.get("elemental_merge")),
        _named("calculated", recipe.get("calcmode") if recipe.get("calcmode") != "normal" else None),
    )


def _mixer(recipe: Mapping[str, object]) -> str:
    names = [_show(recipe.get(f"model_{letter}")) for letter in "abcdef"]
    return _phrases(
        _show(recipe.get("recipe"), most=200) or f"{_show(recipe.get('mode')) or 'a merge'}",
        f"of {_listed(name for name in names if name)}" if any(names) else "",
        _named("alpha", recipe.get("alpha")),
        "by block" if _any(recipe.get("mbw")) or _any(recipe.get("use_mbws")) else "",
        _named("adjust", recipe.get("adjust")),
    )


def _chattiori(recipe: Mapping[str, object], models: MergeModels) -> str:
    return _phrases(
        f"{_show(recipe.get('merge_method')) or 'a merge'} of {_hashed(recipe, models)}",
        _named("alpha", recipe.get("alpha_info")),
        _named("beta", recipe.get("beta_info")),
        "by block" if recipe.get("block_weights") is True else "",
        _named("calculated", recipe.get("calculation")),
        _named("saved as", recipe.get("fp")),
        _named("VAE of", recipe.get("bake_in_vae") or None),
        "pruned" if recipe.get("pruned") is True else "",
    )


def _our_recipe(recipe: Mapping[str, object]) -> str:
    nodes = recipe.get("recipe")
    node = nodes.get(str(recipe.get("target"))) if isinstance(nodes, dict) else None
    if not isinstance(node, dict):
        return _named("target", recipe.get("target")) or "a recipe that can't be read"
    inputs = node.get("inputs")
    names = _listed(_show(each) for each in inputs) if isinstance(inputs, list) else ""
    numbers = node.get("numbers")
    shown = (
        [_named(name, number) for name, number in numbers.items() if isinstance(number, str)]
        if isinstance(numbers, dict)
        else []
    )
    how = _show(node.get("formula"), most=200) or f"{_show(node.get('method'))} of {names}"
    return _phrases(f"target {_show(recipe.get('target'))}: {how}", *shown)


def _by_us(metadata: Mapping[str, str]) -> Iterator[str]:
    found = parsed(metadata.get("mergebuild"))
    if not isinstance(found, dict):
        return
    shares = found.get("proportions")
    plain = isinstance(shares, dict) and all(isinstance(each, str) for each in shares.values())
    of = (
        " + ".join(f"{_show(share)} {_show(content, most=20)}" for content, share in list(shares.items())[:6])
        if isinstance(shares, dict) and plain
        else ("proportions by block" if shares else "")
    )
    yield f"an artifact of mergebuild: {_phrases(_show(found.get('artifact')), of)}"


def _by_mecha(metadata: Mapping[str, str]) -> Iterator[str]:
    text = metadata.get("mecha_recipe", "")[:_MOST_JSON]
    if not text:
        return
    version = re.match(r"version\s+(\S{1,20})", text)
    models = dict.fromkeys(re.findall(r'^model "([^"\n]*)"', text, re.MULTILINE))
    methods = dict.fromkeys(re.findall(r'^merge "([^"\n]*)"', text, re.MULTILINE))
    yield "made by sd-mecha: " + _phrases(
        f"{_listed(map(_show, methods)) or 'a recipe'} of {_listed(_file(each) for each in models) or 'no models'}",
        _named("recipe version", version[1] if version else None),
    )


def _by_comfy(metadata: Mapping[str, str]) -> Iterator[str]:
    if "prompt" not in metadata and "workflow" not in metadata:
        return
    nodes = _comfy_nodes(metadata)
    steps: list[str] = []
    files: list[str] = []
    for node in nodes.values():
        kind, inputs = (node.get("class_type"), node.get("inputs")) if isinstance(node, dict) else (None, None)
        settings = inputs if isinstance(inputs, dict) else {}
        if isinstance(kind, str) and "merge" in kind.lower():
            steps.append(_comfy_step(kind, settings))
        files += [_file(value) for key, value in settings.items() if key.endswith("_name") and isinstance(value, str)]
    made = _listed(dict.fromkeys(steps)) or "a workflow"
    of = f" of {_listed(dict.fromkeys(files))}" if files else ""
    yield f"made by ComfyUI: {_phrases(made + of, f'{len(nodes)} nodes')}"


def _comfy_step(kind: str, settings: Mapping[str, object]) -> str:
    """Return a node's kind, with the numbers among its settings."""
    numbers = [_named(key, value) for key, value in settings.items() if isinstance(value, (int, float))]
    return _show(kind) + (f" ({_listed(numbers)})" if numbers else "")


def _comfy_nodes(metadata: Mapping[str, str]) -> Mapping[str, object]:
    """Return the nodes of a workflow: from its prompt, or from the drawing, which has no settings."""
    nodes = parsed(metadata.get("prompt"))
    if isinstance(nodes, dict):
        return nodes
    drawn = parsed(metadata.get("workflow"))
    listed = drawn.get("nodes") if isinstance(drawn, dict) else None
    if not isinstance(listed, list):
        return {}
    kinds = {str(number): each.get("type") for number, each in enumerate(listed) if isinstance(each, dict)}
    return {number: {"class_type": kind} for number, kind in kinds.items()}


def _by_rimo(metadata: Mapping[str, str]) -> Iterator[str]:
    text = metadata.get("contact_fusion")
    if text is None:
        return
    found = parsed(text)
    if isinstance(found, dict):
        names = _listed(_show(found.get(key)) for key in "ab")
        yield f"made by rimo: {_phrases(f'contact fusion of {names}', _named('rank', found.get('rank')))}"
    else:
        yield f"made by rimo: contact fusion, {_show(text)}"


def _by_trainer(metadata: Mapping[str, str]) -> Iterator[str]:
    if not any(key.startswith("ss_") for key in metadata):
        return
    said = {key: None if value in ("None", "") else value for key, value in metadata.items()}
    yield f"trained with sd-scripts: {_training(said) or 'no more is said'}"


def _training(said: Mapping[str, str | None]) -> str:
    """Return what the metadata of sd-scripts say of a training."""
    model = said.get("ss_sd_model_name")
    return _phrases(
        _show(said.get("ss_network_module")),
        _named("dim", said.get("ss_network_dim")),
        _named("alpha", said.get("ss_network_alpha")),
        _named("on", _file(model) if model else said.get("ss_base_model_version")),
        _named("steps", said.get("ss_steps")),
        _named("epochs", said.get("ss_num_epochs")),
        _named("images", said.get("ss_num_train_images")),
        _named("clip skip", said.get("ss_clip_skip")),
    )


def _by_modelspec(metadata: Mapping[str, str]) -> Iterator[str]:
    said = {key.removeprefix("modelspec."): value for key, value in metadata.items() if key.startswith("modelspec.")}
    if not said:
        return
    yield f"described by modelspec: {_description(said) or 'no more is said'}"


def _description(said: Mapping[str, str]) -> str:
    """Return what the `modelspec.` fields say of a model."""
    return _phrases(
        _show(said.get("title")),
        _show(said.get("architecture")),
        _named("prediction", said.get("prediction_type") or said.get("predict_key")),
        _named("resolution", said.get("resolution")),
        _named("by", said.get("author")),
        _named("license", said.get("license")),
        _named("merged from", said.get("merged_from")),
    )


def _ancestors(metadata: Mapping[str, str]) -> Iterator[str]:
    models = merge_models(metadata)
    if models:
        count = "1 model" if len(models) == 1 else f"{len(models)} models"
        yield f"{count} behind it: {_listed(_model(sha256, models) for sha256 in models)}"


# Parts of sentences


def _hashed(recipe: Mapping[str, object], models: MergeModels) -> str:
    """Return the models of a recipe that names them by `primary_model_hash` and so on."""
    used = (_model(recipe.get(f"{place}_model_hash"), models) for place in ("primary", "secondary", "tertiary"))
    return _listed(each for each in used if each) or "unnamed models"


def _model(sha256: object, models: MergeModels) -> str:
    """Return a model by its name, if known, and the first digits of its hash."""
    if not isinstance(sha256, str) or not sha256:
        return ""
    name = models.get(sha256, {}).get("name")
    return f"{_file(name)} ({sha256[:10]})" if isinstance(name, str) and name else _show(sha256[:10])


def _listed(words: Iterable[str]) -> str:
    shown = list(words)
    if len(shown) > _SHOWN_NAMES + 1:
        return f"{', '.join(shown[:_SHOWN_NAMES])} and {len(shown) - _SHOWN_NAMES} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def _phrases(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _named(name: str, value: object) -> str:
    shown = _show(value)
    return f"{name} {shown}" if shown else ""


def _any(value: object) -> bool:
    """Whether a switch, or one in a list of them, is on."""
    return any(value) if isinstance(value, list) else bool(value)


def _file(text: str) -> str:
    """Return the last part of a path of any system, without a model file's suffix."""
    name = re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    return _show(re.sub(r"\.(?:safetensors|ckpt|pt)$", "", name))


def _show(value: object, most: int = _SHOWN) -> str:
    """Return a text or number as one short line; nothing for other types."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    text = " ".join(str(value)[: 4 * most].split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
