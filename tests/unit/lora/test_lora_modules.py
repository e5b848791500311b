"""Which modules LoRAs are extracted for, against the names under which LoRAs are matched."""

from __future__ import annotations

import pytest
from lora_files import Shapes, flux, real

from mergebuild.lora import extractable, is_adapter
from mergebuild.lora.modules import Module, names_of
from mergebuild.lora.names import module_names

LLAMA = {
    "model.embed_tokens.weight": (30, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.0.mlp.up_proj.weight": (20, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "lm_head.weight": (30, 8),
}
SD3 = {
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (24, 8),
    "model.diffusion_model.context_embedder.weight": (8, 12),
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (16, 8),
    "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight": (30, 8),
    "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (16, 8),
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8),
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 2),
    "text_encoders.t5xxl.transformer.shared.weight": (30, 8),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
}


def by_name(model: Shapes) -> dict[str, Module]:
    found = extractable(model)
    assert len({module.name for module in found}) == len(found)
    return {module.name: module for module in found}


@pytest.mark.parametrize(
    ("model", "count"),
    [(real("sd15"), 350), (real("sdxl"), 1000), (flux(), 10), (LLAMA, 3), (SD3, 4)],
    ids=["sd15", "sdxl", "flux", "llama", "sd3"],
)
def test_what_is_extracted_finds_its_place_again(model: Shapes, count: int) -> None:
    """The very tensor, and the very rows of it."""
    found = by_name(model)
    assert len(found) >= count
    known = module_names(model, found)
    for name, module in found.items():
        assert name not in known.ambiguous
        (place,) = known.modules[name]["weight"]
        assert (place.tensor, place.rows, place.transposed) == (module.tensor, module.rows, False)
        rows = model[module.tensor][0] if module.rows is None else module.rows[1] - module.rows[0]
        assert module.shape == (rows, *model[module.tensor][1:])
        assert module.style == ("peft" if model is LLAMA else "kohya")


def test_kohyas_modules_of_sd15_are_among_them() -> None:
    """192 of the UNet's transformers and 72 of the text encoder; beside them the blocks' other layers."""
    found = by_name(real("sd15"))
    assert sum("_attentions_" in name for name in found) == 192
    assert sum(name.startswith("lora_te_") for name in found) == 72
    assert sum(module.has_kernel for module in found.values()) == 50
    assert not any("first_stage" in module.tensor or "embedding" in module.tensor for module in found.values())


def test_sdxl_has_the_names_of_its_trainers() -> None:
    found = by_name(real("sdxl"))
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q" in found
    assert "lora_te1_text_model_encoder_layers_11_mlp_fc2" in found
    value = found["lora_te2_text_model_encoder_layers_31_self_attn_v_proj"]
    assert value.rows == (2560, 3840)
    assert value.shape == (1280, 1280)


def test_language_models_have_those_of_peft() -> None:
    assert list(by_name(LLAMA)) == [
        "base_model.model.model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.mlp.up_proj",
        "base_model.model.lm_head",
    ]  # fmt: skip


def test_other_transformers_have_those_of_their_authors() -> None:
    assert list(by_name(SD3)) == [
        "lora_unet_joint_blocks_0_x_block_attn_qkv",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
    ]
    assert "lora_unet_double_blocks_0_img_attn_qkv" in by_name(flux())


@pytest.mark.parametrize(
    "name",
    ["transformer.wte", "embeddings.word_embeddings", "model.embed_tokens", "embed_in", "encoder.embed_positions"],
)
def test_embeddings_are_no_modules(name: str) -> None:
    assert by_name({f"{name}.weight": (30, 8), "h.0.fc.weight": (8, 8)}).keys() == {"base_model.model.h.0.fc"}


def test_what_has_no_elements_is_no_module() -> None:
    assert not extractable({"a.weight": (0, 8), "b.weight": (8,), "c": (8, 8)})


def test_an_adapter_is_told_by_all_of_its_names() -> None:
    names = dict.fromkeys(names_of("base_model.model.x", "peft").values())
    assert is_adapter(names)
    assert not is_adapter({**names, "x.weight": None})
    assert not is_adapter(dict.fromkeys(names_of("lora_unet_x", "kohya").values()))
    assert not is_adapter({"base_model.model.x.weight": None})


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_transformer_of_known_architecture_has_kohyas_names_without_a_prefix_too(prefix: str) -> None:
    names = ("blocks.0.self_attn.q", "blocks.0.cross_attn.q", "text_embedding.0")
    model = {f"{prefix}{name}.weight": (8, 8) for name in names}
    assert list(by_name(model)) == ["lora_unet_blocks_0_self_attn_q", "lora_unet_blocks_0_cross_attn_q"]


def test_of_an_unknown_one_its_file_says_that_it_is_an_image_model() -> None:
    model = {"layers.0.wild.weight": (8, 8)}
    assert [each.name for each in extractable(model)] == ["base_model.model.layers.0.wild"]
    spelled = ["model.diffusion_model.layers.0.wild.weight"]
    assert [each.name for each in extractable(model, spelled)] == ["lora_unet_layers_0_wild"]
