"""The configuration of a stack of experts, from that of the model whose attention it has.

A model of Llama's or Mistral's form becomes one of Mixtral's. What the one's configuration leaves to its defaults must
be said where the other's defaults differ: the base of the positions, the epsilon of the norms, the window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mergebuild.configuration.parts import Config
from mergebuild.configuration.text import Path

__all__ = ["as_experts", "experts_changes", "with_changes"]

Shapes = Mapping[str, tuple[int, ...]]

_EXPERTS: Final = "mixtral"
_USUAL: Final[Mapping[str, Mapping[str, object]]] = {
    "llama": {"intermediate_size": 11008, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
    "mistral": {"rms_norm_eps": 1e-6, "sliding_window": 4096},
}
"""By `model_type`: the defaults of transformers that are not Mixtral's."""
_HEADS: Final = "num_attention_heads"
_GROUPS: Final = "num_key_value_heads"
_THETA: Final = "rope_theta"
_POSITIONS: Final = "rope_parameters"
_USUAL_THETA: Final = 10000.0
_MATRIX: Final = re.compile(r"(?P<layer>.*layers\.\d+\.)mlp\.(?P<matrix>gate|up|down)_proj\.weight")
_NAMES: Final = {"gate": "w1", "down": "w2", "up": "w3"}


def experts_changes(config: Config, count: int, per_token: int) -> Mapping[Path, object] | None:
    """Return what must be changed in a configuration for a stack of `count` experts, `per_token` of which are used.

    None if its architecture has no such stacks.
    """
    kind = config.get("model_type")
    usual = _USUAL.get(kind) if isinstance(kind, str) else None
    if usual is None:
        return None
    changes: dict[Path, object] = {
        ("architectures",): ["MixtralForCausalLM"],
        ("model_type",): _EXPERTS,
        ("num_local_experts",): count,
        ("num_experts_per_tok",): per_token,
    }
    changes |= {(key,): value for key, value in usual.items() if key not in config}
    if kind == "llama" and config.get(_GROUPS) is None and isinstance(config.get(_HEADS), int):
        changes[(_GROUPS,)] = config[_HEADS]
    return {**changes, **_positions(config)}


def _positions(config: Config) -> Mapping[Path, object]:
    """Return the base of the positions, where the configuration leaves it to the default."""
    said = config.get(_POSITIONS)
    if isinstance(said, Mapping):
        return {} if _THETA in said or _THETA in config else {(_POSITIONS, _THETA): _USUAL_THETA}
    return {} if config.get(_THETA) is not None else {(_THETA,): _USUAL_THETA}


def with_changes(config: Config, changes: Mapping[Path, object]) -> Config:
    """Return a configuration with changed members."""
    found: dict[str, Any] = dict(config)
    for (*outer, last), value in changes.items():
        inner = found
        for key in outer:
            inner[key] = dict(inner[key])
            inner = inner[key]
        inner[last] = value
    return found


def as_experts(shapes: Shapes, count: int) -> Shapes:
    """Return the tensors that a model's stack of experts has: those of each feed-forward layer `count` times."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        match = _MATRIX.fullmatch(name)
        if match is None:
            found[name] = shape
            continue
        experts = f"{match['layer']}block_sparse_moe."
        if match["matrix"] == "gate":
            found[f"{experts}gate.weight"] = (count, shape[1])
        found |= {f"{experts}experts.{index}.{_NAMES[match['matrix']]}.weight": shape for index in range(count)}
    return found
