"""What transformers calls modules in memory, whose names adapters have."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mergebuild.naming.memory import in_memory, is_transposed

_LAYER = "layers.0.mlp.up_proj.weight"


def _facts(model_type: str, architecture: str = "") -> Mapping[str, object]:
    return {"model_type": model_type, "architectures": [architecture] if architecture else []}


@pytest.mark.parametrize(
    ("name", "stored", "facts", "right"),
    [
        (f"model.{_LAYER}", f"model.{_LAYER}", _facts("llama", "LlamaForCausalLM"), f"model.{_LAYER}"),
        (f"model.{_LAYER}", _LAYER, _facts("llama", "LlamaForCausalLM"), f"model.{_LAYER}"),
        (f"model.{_LAYER}", _LAYER, None, f"model.{_LAYER}"),
        (f"model.{_LAYER}", _LAYER, _facts("qwen3", "Qwen3Model"), _LAYER),
        (f"model.{_LAYER}", f"llm.model.{_LAYER}", _facts("minicpmv"), f"llm.model.{_LAYER}"),
        (f"model.{_LAYER}", f"language_model.model.{_LAYER}", _facts("llava"), f"model.language_model.{_LAYER}"),
        (f"model.{_LAYER}", f"language_model.model.{_LAYER}", None, f"model.language_model.{_LAYER}"),
        (f"model.{_LAYER}", f"model.text_model.{_LAYER}", _facts("idefics3"), f"model.text_model.{_LAYER}"),
        (f"model.{_LAYER}", f"model.{_LAYER}", _facts("qwen2_vl"), f"model.language_model.{_LAYER}"),
        ("lm_head.weight", "language_model.lm_head.weight", _facts("llava"), "lm_head.weight"),
        ("visual.blocks.0.attn.qkv.weight", "visual.blocks.0.attn.qkv.weight", _facts("qwen2_vl"),
         "model.visual.blocks.0.attn.qkv.weight"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "", _facts("llava"),
         "model.vision_tower.encoder.layers.0.mlp.fc1.weight"),
        ("h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight", _facts("gpt2", "GPT2LMHeadModel"),
         "transformer.h.0.attn.c_attn.weight"),
        ("h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight", _facts("gpt2"),
         "transformer.h.0.attn.c_attn.weight"),
        ("h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight", _facts("gpt2", "GPT2Model"), "h.0.attn.c_attn.weight"),
        ("encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.weight",
         _facts("bert", "BertForMaskedLM"), "bert.encoder.layer.0.output.dense.weight"),
        ("cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.weight",
         _facts("bert", "BertForMaskedLM"), "cls.predictions.transform.dense.weight"),
        ("decoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight", None, "model.decoder.layers.0.fc1.weight"),
    ],
)  # fmt: skip
def test_names_in_memory(name: str, stored: str, facts: Mapping[str, object] | None, right: str) -> None:
    assert in_memory(name, stored, facts) == right


def test_matrices_with_inputs_for_rows() -> None:
    assert is_transposed("h.0.attn.c_attn.weight", _facts("gpt2"))
    assert not is_transposed("wte.weight", _facts("gpt2"))
    assert not is_transposed("h.0.attn.c_attn.weight", _facts("gpt_bigcode"))
    assert not is_transposed("h.0.attn.c_attn.weight", None)
