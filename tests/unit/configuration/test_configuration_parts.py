"""Which part of a model a tensor is of, and what its configuration says of that part."""

from __future__ import annotations

import pytest

from mergebuild.configuration.parts import config_of, model_type, part_of

LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "mistral", "hidden_size": 8},
    "vision_config": {"model_type": "clip_vision_model"},
}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "text"),
        ("language_model.model.embed_tokens.weight", "text"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "text"),
        ("lm_head.weight", "text"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "vision"),
        ("visual.blocks.0.attn.qkv.weight", "vision"),
        ("audio_tower.layers.0.fc1.weight", "audio"),
        ("model.multi_modal_projector.linear_1.weight", "joint"),
        ("talker.model.layers.0.mlp.up_proj.weight", "talker"),
        ("revisual.weight", "text"),
    ],
)
def test_the_words_of_a_name_tell_its_part(name: str, part: str) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("config", "part", "expected"),
    [
        ({"model_type": "llama"}, "text", "llama"),
        ({"model_type": "gemma3_text"}, "text", "gemma3"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "text", "gemma3"),
        (LLAVA, "text", "mistral"),
        (LLAVA, "vision", "clip_vision_model"),
        (LLAVA, "joint", "llava"),
        ({"model_type": "llava", "text_config": {"hidden_size": 8}}, "text", "llama"),
        ({"model_type": "qwen2_vl"}, "text", "qwen2_vl"),
        ({"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text"}}, "text", "qwen2_vl"),
        ({"model_type": "omni", "thinker_config": {"text_config": {"model_type": "qwen2"}}}, "text", "qwen2"),
        ({"text_config": 7, "model_type": 8}, "text", None),
        ({}, "text", None),
    ],
)
def test_the_architecture_is_that_of_the_part(config: dict[str, object], part: str, expected: str | None) -> None:
    assert model_type(config, part) == expected


def test_what_is_said_of_a_part_is_all_that_is_said_of_a_model_that_has_one() -> None:
    assert config_of(LLAVA, "text") == {"model_type": "mistral", "hidden_size": 8}
    assert config_of({"hidden_size": 8}, "text") == {"hidden_size": 8}
