"""Adapters of language models find their modules, whatever the base calls them and the adapter names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from mergebuild.lora import Match, match
from mergebuild.lora.names import StoredModule
from mergebuild.naming.canonical import canonical

_PEFT = "base_model.model."
_LAYER = "layers.0.self_attn."
_ATTENTION = {"q_proj": (8, 6), "k_proj": (4, 6), "v_proj": (4, 6), "o_proj": (6, 8)}
_LLAMA = {
    f"model.{_LAYER}{name}.weight": shape for name, shape in _ATTENTION.items()
} | {"model.layers.0.mlp.gate_proj.weight": (10, 6), "model.layers.0.mlp.up_proj.weight": (10, 6),
     "model.embed_tokens.weight": (16, 6)}  # fmt: skip


class _Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


def _matched(
    module: str, shape: tuple[int, int], base: Mapping[str, tuple[int, ...]], facts: Mapping[str, object] | None = None,
    **config: object,
) -> Match:  # fmt: skip
    """Return what an adapter of one module does to a base, which is opened under its canonical names."""
    adapter = {
        f"{_PEFT}{module}.lora_A.weight": _Tensor("float32", (2, shape[1])),
        f"{_PEFT}{module}.lora_B.weight": _Tensor("float32", (shape[0], 2)),
    }
    made = canonical(base, facts).made
    opened = {name: renamed.shape for name, renamed in made.items()}
    return match(adapter, opened, {"r": 2, "lora_alpha": 4, **config}, stored=StoredModule(made, base))


def _places(found: Match) -> dict[str, list[tuple[tuple[int, int] | None, object]]]:
    """Return which rows of which tensors get something, and from which row of it on."""
    assert found.unmatched == ()
    return {
        name: [(each.rows, dict(each.facts).get("offset")) for each in deltas] for name, deltas in found.deltas.items()
    }


@pytest.mark.parametrize("base", ["model.", "language_model.model.", "model.language_model.", "language_model.", ""])
@pytest.mark.parametrize("trained", ["model.", "language_model.model.", "model.language_model.", "language_model."])
def test_the_text_part_of_any_model_takes_adapters_of_any_spelling(base: str, trained: str) -> None:
    stored = {base + name.removeprefix("model."): shape for name, shape in _LLAMA.items()}
    assert _places(_matched(f"{trained}{_LAYER}q_proj", (8, 6), stored)) == {
        f"model.{_LAYER}q_proj.weight": [(None, None)]
    }


@pytest.mark.parametrize("front", ["", "model."])
@pytest.mark.parametrize(
    ("trained", "name"),
    [
        ("multi_modal_projector.linear_1", "multi_modal_projector.linear_1"),
        ("visual.blocks.0.attn.qkv", "visual.blocks.0.attn.qkv"),
        ("vision_tower.encoder.layers.0.mlp.fc1", "vision_tower.vision_model.encoder.layers.0.mlp.fc1"),
    ],
)
def test_towers_take_adapters_of_any_spelling(front: str, trained: str, name: str) -> None:
    stored = {"language_model.model.layers.0.mlp.up_proj.weight": (4, 4), f"{name}.weight": (8, 6)}
    assert list(_places(_matched(front + trained, (8, 6), stored))) == [f"{name}.weight"]


@pytest.mark.parametrize(
    ("prefix", "module"),
    [
        ("transformer.", "h.0.self_attention.query_key_value"),
        ("transformer.", "h.0.mlp.dense_h_to_4h"),
        ("bert.", "encoder.layer.0.attention.self.query"),
        ("roberta.", "encoder.layer.0.output.dense"),
        ("distilbert.", "transformer.layer.0.attention.q_lin"),
        ("model.", "decoder.layers.0.self_attn.q_proj"),
        ("gpt_neox.", "layers.0.attention.query_key_value"),
        ("vit.", "encoder.layer.0.attention.attention.query"),
    ],
)
def test_adapters_with_and_without_the_prefix_of_a_base_model(prefix: str, module: str) -> None:
    for base in ("", prefix):
        for trained in ("", prefix):
            found = _matched(trained + module, (8, 6), {f"{base}{module}.weight": (8, 6)})
            assert list(_places(found)) == [f"{module}.weight"]


@pytest.mark.parametrize("base", ["", "transformer."])
@pytest.mark.parametrize("trained", ["", "transformer."])
def test_matrices_of_gpt2_lie_transposed(base: str, trained: str) -> None:
    module = "h.0.attn.c_attn"
    found = _matched(f"{trained}{module}", (24, 8), {f"{base}{module}.weight": (8, 24)}, fan_in_fan_out=True)
    (delta,) = found.deltas[f"{module}.weight"]
    assert dict(delta.facts)["transposed"] is True


def test_an_adapter_of_what_is_fused_on_split_modules_and_the_reverse() -> None:
    at = f"model.{_LAYER}"
    right = {
        f"{at}k_proj.weight": [(None, 8)], f"{at}q_proj.weight": [(None, 0)], f"{at}v_proj.weight": [(None, 12)],
    }  # fmt: skip
    fused = {f"{at}qkv_proj.weight": (16, 6), f"{at}o_proj.weight": (6, 8)}
    assert _places(_matched(f"{at}qkv_proj", (16, 6), _LLAMA)) == right
    assert _places(_matched(f"{at}qkv_proj", (16, 6), fused)) == right
    assert _places(_matched(f"{at}k_proj", (4, 6), fused)) == {f"{at}k_proj.weight": [(None, None)]}
    assert _places(_matched("model.layers.0.mlp.gate_up_proj", (20, 6), _LLAMA)) == {
        "model.layers.0.mlp.gate_proj.weight": [(None, 0)], "model.layers.0.mlp.up_proj.weight": [(None, 10)],
    }  # fmt: skip


def test_an_adapter_of_heads_in_groups() -> None:
    base = {"model.layers.0.attention.wqkv.weight": (16, 6), "model.layers.0.attention.wo.weight": (6, 8)}
    at = f"model.{_LAYER}"
    assert _places(_matched("model.layers.0.attention.wqkv", (16, 6), base, {"num_attention_heads": 4})) == {
        f"{at}q_proj.weight": [((0, 4), 0), ((4, 8), 8)],
        f"{at}k_proj.weight": [((0, 2), 4), ((2, 4), 12)],
        f"{at}v_proj.weight": [((0, 2), 6), ((2, 4), 14)],
    }
