"""mergekit's recipes computed from its own rules in float64, for tensors in memory.

Written from what mergekit's recipes mean, and independent of the package: it reads the YAML by itself, numbers the
layers of each slice, finds each parameter by level and filter, and merges tensor by tensor. Names are those of llama.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import yaml
from torch import Tensor

__all__ = ["expected", "parameter"]

Models = Mapping[str, Mapping[str, Tensor]]
Document = Mapping[str, Any]


def expected(text: str, models: Models) -> dict[str, dict[str, Tensor]]:
    """Return the float64 tensors of each document of a recipe by its name (`""` where it has none).

    `models`: tensors by reference; results of documents are added to them.
    """
    found: dict[str, dict[str, Tensor]] = {}
    known = dict(models)
    for document in yaml.safe_load_all(text):
        name = document.get("name", "")
        known[name] = found[name] = _merged(document, known)
    return found


def _merged(document: Document, models: Models) -> dict[str, Tensor]:
    base = document.get("base_model")
    slices = document.get("slices") or [{"sources": _whole(document, base, models)}]
    result: dict[str, Tensor] = {}
    for name in _names_outside(models, slices, before=True):
        result[name] = _tensor(document, slices[0], base, models, name, dict.fromkeys(_refs(slices[0]), name), 0.0)
    layer = 0
    for each in slices:
        count = each["sources"][0]["layer_range"][1] - each["sources"][0]["layer_range"][0]
        for index in range(count):
            t = index / (count - 1) if count > 1 else 1.0
            for rest in _names_in_layer(models[_refs(each)[0]]):
                names = {s["model"]: f"model.layers.{s['layer_range'][0] + index}.{rest}" for s in each["sources"]}
                name = f"model.layers.{layer}.{rest}"
                result[name] = _tensor(document, each, base, models, name, names, t)
            layer += 1
    for name in _names_outside(models, slices, before=False):
        result[name] = _tensor(document, slices[-1], base, models, name, dict.fromkeys(_refs(slices[-1]), name), 0.0)
    return result


def _whole(document: Document, base: str | None, models: Models) -> list[dict[str, Any]]:
    listed = [dict(each) for each in document["models"]]
    if base is not None and all(each["model"] != base for each in listed):
        listed.append({"model": base})
    return [{**each, "layer_range": [0, _layers(models[each["model"]])]} for each in listed]


def _layers(model: Mapping[str, Tensor]) -> int:
    return 1 + max(int(found[1]) for name in model if (found := re.match(r"model\.layers\.(\d+)\.", name)))


def _refs(each: Document) -> list[str]:
    return [source["model"] for source in each["sources"]]


def _names_in_layer(model: Mapping[str, Tensor]) -> list[str]:
    return [name.removeprefix("model.layers.0.") for name in model if name.startswith("model.layers.0.")]


def _names_outside(models: Models, slices: Sequence[Document], *, before: bool) -> list[str]:
    model = models[_refs(slices[0])[0]]
    return [name for name in model if ".layers." not in name and ("embed" in name) is before]


def _tensor(
    document: Document,
    each: Document,
    base: str | None,
    models: Models,
    name: str,
    names: Mapping[str, str],
    t: float,
) -> Tensor:
    def shared(key: str, default: Any) -> Any:
        return parameter([each.get("parameters"), document.get("parameters")], key, name, t, default)

    def own(ref: str, key: str, default: Any) -> Any:
        source = next(s for s in each["sources"] if s["model"] == ref)
        levels = [source.get("parameters"), each.get("parameters"), document.get("parameters")]
        return parameter(levels, key, names[ref], t, default)

    tensors = {ref: models[ref][names[ref]].double() for ref in _refs(each)}
    return METHODS[document["merge_method"]](tensors, each.get("base_model", base), own, shared)


def parameter(levels: Sequence[Mapping[str, Any] | None], key: str, name: str, t: float, default: Any) -> Any:
    """Return a parameter for a tensor at `t` of its slice's layers, from the first of the levels that has it."""
    for level in levels:
        if level and key in level:
            value = _evaluated(level[key], name, t)
            if value is not None:
                return value
    assert default is not ..., f"{key} is missing for {name}"
    return default


def _evaluated(setting: Any, name: str, t: float) -> Any:
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return float(setting)
    if not isinstance(setting[0], dict):
        scaled = t * (len(setting) - 1)
        low = int(scaled)
        high = min(low + 1, len(setting) - 1)
        return (1 - scaled + low) * float(setting[low]) + (scaled - low) * float(setting[high])
    for each in setting:
        part = each.get("filter")
        if part is None or part == "*" or part in name:
            return _evaluated(each["value"], name, t)
    return None


# -- methods

Own = Callable[[str, str, Any], Any]
Shared = Callable[[str, Any], Any]
Tensors = Mapping[str, Tensor]


def _linear(tensors: Tensors, base: str | None, own: Own, shared: Shared) -> Tensor:
    weights = {ref: own(ref, "weight", ...) for ref in tensors}
    total = sum(weights[ref] * tensor for ref, tensor in tensors.items())
    return total / sum(weights.values()) if shared("normalize", 1.0) else total


def _arc(t: float, a: Tensor, b: Tensor, straight: float, dim: int | None = None) -> Tensor:
    keep = {"dim": dim, "keepdim": True} if dim is not None else {}
    lengths = [torch.sqrt((each * each).sum(**keep)) for each in (a, b)]
    cosine = (a * b).sum(**keep) / (lengths[0] * lengths[1])
    angle = torch.acos(cosine.clamp(-1, 1))
    curved = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return torch.where(cosine.abs() > straight, (1 - t) * a + t * b, curved)


def _slerp(tensors: Tensors, base: str | None, own: Own, shared: Shared) -> Tensor:
    assert base is not None
    (other,) = (tensor for ref, tensor in tensors.items() if ref != base)
    return _arc(shared("t", ...), tensors[base], other, 0.9995)


def _nuslerp(tensors: Tensors, base: str | None, own: Own, shared: Shared) -> Tensor:
    (one, first), (two, second) = ((ref, tensor) for ref, tensor in tensors.items() if ref != base)
    weights = own(one, "weight", ...), own(two, "weight", ...)
    zero = tensors[base] if base is not None else torch.zeros_like(first)
    dim = None if shared("nuslerp_flatten", 1.0) else 0 if shared("nuslerp_row_wise", 0.0) else -1
    return zero + _arc(weights[1] / sum(weights), first - zero, second - zero, 1 - 1e-13, dim)


def _deltas(tensors: Tensors, base: str | None) -> tuple[Tensor, dict[str, Tensor]]:
    assert base is not None
    zero = tensors[base]
    return zero, {ref: tensor - zero for ref, tensor in tensors.items() if ref != base}


def _task_arithmetic(tensors: Tensors, base: str | None, own: Own, shared: Shared) -> Tensor:
    zero, deltas = _deltas(tensors, base)
    weights = {ref: own(ref, "weight", ...) for ref in deltas}
    total = sum(weights[ref] * delta for ref, delta in deltas.items())
    if shared("normalize", 0.0):
        total = total / sum(weights.values())
    return zero + shared("lambda", 1.0) * total


def _largest(delta: Tensor, density: float, *, rescale: bool) -> Tensor:
    if density >= 1:
        return delta
    count = int(density * delta.numel())
    order = torch.sort(delta.abs().flatten(), descending=True, stable=True).indices[:count]
    kept = torch.zeros_like(delta).flatten()
    kept[order] = delta.flatten()[order]
    kept = kept.reshape(delta.shape)
    return kept * (delta.abs().sum() / kept.abs().sum()) if rescale and kept.any() else kept


def _ties(tensors: Tensors, base: str | None, own: Own, shared: Shared) -> Tensor:
    zero, deltas = _deltas(tensors, base)
    rescale = bool(shared("rescale", 0.0))
    weights = {ref: own(ref, "weight", ...) for ref in deltas}
    trimmed = {
        ref: weights[ref] * _largest(each, own(ref, "density", 1.0), rescale=rescale) for ref, each in deltas.items()
    }
    stacked = torch.stack(list(trimmed.values()))
    wanted = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    agrees = torch.sign(stacked) == wanted
    total = (stacked * agrees).sum(0)
    if shared("normalize", 1.0):
        sides = torch.stack([torch.full_like(zero, weight) for weight in weights.values()])
        share = (sides * agrees).sum(0)
        total = total / torch.where(share == 0, 1.0, share)
    return zero + shared("lambda", 1.0) * total


def _model_stock(tensors: Tensors, base: str | None, own: Own, shared: Shared) -> Tensor:
    zero, deltas = _deltas(tensors, base)
    found = [each.flatten() for each in deltas.values()]
    pairs = [(a, b) for index, a in enumerate(found) for b in found[index + 1 :]]
    cosine = sum(float(a @ b / (a.norm() * b.norm()).clamp(min=1e-6)) for a, b in pairs) / len(pairs)
    count = len(found)
    t = count * cosine / (1 + (count - 1) * cosine)
    return zero + t * sum(deltas.values()) / count


def _passthrough(tensors: Tensors, base: str | None, own: Own, shared: Shared) -> Tensor:
    ((ref, tensor),) = tensors.items()
    return tensor * own(ref, "scale", 1.0)


METHODS = {
    "linear": _linear,
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "model_stock": _model_stock,
    "passthrough": _passthrough,
}
