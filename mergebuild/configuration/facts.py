"""Facts in configurations that change the meaning of weights with equal shapes: heads, rotary positions, norms.

Architectures have different names for the same fact, and leave it out if it has its usual value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from mergebuild.configuration.parts import Config

__all__ = ["Fact", "differing"]

_HEADS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
_KV_HEADS: Final = ("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num", "num_query_groups")
_WIDTH: Final = ("hidden_size", "n_embd", "d_model", "model_dim", "embed_dim")
_HEAD: Final = ("head_dim", "d_kv", "kv_channels", "attention_head_dim", "d_head")
_PLAIN: Final = (
    ("partial_rotary_factor", "rotary_pct", "rotary_percentage"),
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon"),
    ("hidden_act", "hidden_activation", "activation_function", "hidden_act_fn"),
    ("query_pre_attn_scalar",),
    ("attn_logit_softcapping",),
    ("final_logit_softcapping",),
    ("num_experts_per_tok", "num_experts_per_token", "moe_top_k"),
    ("qk_rope_head_dim",),
)
"""Facts that are compared if both configurations have them, each with its possible names."""
_THETA: Final = "rope_theta"
_THETAS: Final = (_THETA, "rotary_emb_base", "rope_base", "rotary_base")
_USUAL_THETA: Final = 10000.0
_UNSAID: Final = frozenset({"type", "rope_type", _THETA, "partial_rotary_factor"})
"""Members of the settings for rotary positions that are compared separately."""
_Rotary = tuple[tuple[str, object], tuple[str, object]]
"""The base of rotary positions and how they are stretched, each with its name."""


class Fact(NamedTuple):
    """A fact in which two configurations differ: its name, and both values as text."""

    key: str
    values: tuple[str, str]


def differing(one: Config, other: Config) -> list[Fact]:
    """Return the facts in which two configurations of one architecture differ."""
    found: list[Fact] = []
    pairs = zip(_facts(one).items(), _facts(other).items(), strict=True)
    for (_, (key, value)), (_, (theirs, their_value)) in pairs:
        if value is not None and their_value is not None and value != their_value:
            found.append(Fact(key or theirs, (_text(value), _text(their_value))))
    return found


def _facts(config: Config) -> dict[str, tuple[str, object]]:
    """Return the name and value of each fact, in the same order for all configurations. None: it is absent."""
    heads = _first(config, _HEADS)
    kv_heads = _first(config, _KV_HEADS)
    width = _first(config, _WIDTH)
    head = _first(config, _HEAD)
    if head[1] is None and _is_count(width[1]) and _is_count(heads[1]):
        head = ("head_dim", width[1] // heads[1])  # type: ignore[operator]  # both are whole numbers
    if kv_heads[1] is None:
        kv_heads = (_KV_HEADS[0], heads[1])
    theta, scaling = _rotary(config)
    found = {"heads": heads, "kv": kv_heads, "head": head, "theta": theta, "scaling": scaling}
    return found | {keys[0]: _first(config, keys) for keys in _PLAIN}


def _rotary(config: Config) -> _Rotary:
    """Return the base of rotary positions and how they are stretched, each with its name.

    By default the usual values.
    """
    said = config.get("rope_parameters")
    _, theta = _first(config, _THETAS)
    if isinstance(said, Mapping):
        return _rotary_of_parameters(said, theta)
    scaling = config.get("rope_scaling")
    stretching = _stretching(scaling) if isinstance(scaling, Mapping) else {}
    return (_THETA, _USUAL_THETA if theta is None else theta), ("rope_scaling", stretching)


def _rotary_of_parameters(said: Mapping[str, object], theta: object) -> _Rotary:
    """Return both as `rope_parameters` says them. `theta`: the base outside of it, taken if it says none."""
    layers = {key: each for key, each in said.items() if isinstance(each, Mapping)}
    if layers:  # one for each kind of layer
        bases = {key: each.get(_THETA, _USUAL_THETA) for key, each in sorted(layers.items())}
        stretched = {key: found for key, each in sorted(layers.items()) if (found := _stretching(each))}
        return (_THETA, bases), ("rope_parameters", stretched)
    inner = said.get(_THETA)
    base = inner if inner is not None else theta
    return (_THETA, base or _USUAL_THETA), ("rope_parameters", _stretching(said))


def _stretching(said: Mapping[str, object]) -> Mapping[str, object]:
    kind = said.get("rope_type", said.get("type", "default"))
    rest = {key: value for key, value in said.items() if key not in _UNSAID and value is not None}
    return {"rope_type": kind, **rest} if kind != "default" or rest else {}


def _first(config: Config, keys: Sequence[str]) -> tuple[str, object]:
    """Return the first of `keys` that has a value in `config`, and the value; if none has, the first key and None."""
    return next(((key, config[key]) for key in keys if config.get(key) is not None), (keys[0], None))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _text(value: object) -> str:
    """Return a value as JSON, cut off if it is long."""
    text = json.dumps(value, sort_keys=True, default=str) if value != {} else "(none)"
    return text if len(text) <= 120 else f"{text[:119]}…"
