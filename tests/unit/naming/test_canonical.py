"""What a file's tensors are, however they are spelled."""

from __future__ import annotations

import json
from pathlib import Path
from time import process_time

import pytest

from mergebuild.naming.canonical import Canonical, canonical, is_constant
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes

_LAYOUTS = Path(__file__).parents[3] / "examples" / "sd15" / "layouts"
_UNET = "model.diffusion_model."


def _names(shapes: Shapes) -> dict[str, str]:
    """Return the one tensor that each parameter is made of."""
    made = canonical(shapes).made
    return {name: made[name].cuts[0].tensor for name in made}


def _cuts(found: Canonical, name: str) -> list[str]:
    return [cut.tensor for cut in found.made[name].cuts]


@pytest.mark.parametrize("wrapper", ["", "model.diffusion_model.", "diffusion_model.", "transformer.", "module."])
def test_a_transformer_has_the_names_of_its_authors(wrapper: str) -> None:
    found = canonical({f"{wrapper}double_blocks.0.img_attn.qkv.weight": (48, 16)})
    assert list(found.made) == ["double_blocks.0.img_attn.qkv.weight"]
    assert found.family == "flux"


def test_flux_in_diffusers_names_is_fused() -> None:
    block = "transformer.transformer_blocks.3.attn"
    found = canonical({f"{block}.{name}.weight": (16, 16) for name in ("to_q", "to_k", "to_v", "to_out.0")} | {
        "transformer.single_transformer_blocks.0.proj_mlp.weight": (64, 16),
        "transformer.norm_out.linear.bias": (32,),
    })  # fmt: skip
    name = "double_blocks.3.img_attn.qkv.weight"
    assert found.made[name].shape == (48, 16)
    assert _cuts(found, name) == [f"{block}.to_{each}.weight" for each in "qkv"]
    assert _cuts(found, "double_blocks.3.img_attn.proj.weight") == [f"{block}.to_out.0.weight"]
    tensor = "transformer.norm_out.linear.bias"
    swapped = (RowsOf("", tensor, (16, 32)), RowsOf("", tensor, (0, 16)))
    assert found.made["final_layer.adaLN_modulation.1.bias"] == Renamed((32,), swapped)
    # of four that make up `linear1` there is one: it keeps its name
    assert "single_transformer_blocks.0.proj_mlp.weight" in found.made


@pytest.mark.parametrize("end", ["scale", "weight"])
def test_norms_of_flux_have_one_name(end: str) -> None:
    names = _names({f"double_blocks.0.img_attn.norm.key_norm.{end}": (4,), "double_blocks.0.img_attn.proj.bias": (4,)})
    assert names["double_blocks.0.img_attn.norm.key_norm.scale"] == f"double_blocks.0.img_attn.norm.key_norm.{end}"


@pytest.mark.parametrize("prefix", ["vae.", "first_stage_model.", ""])
def test_an_autoencoder_has_one_prefix(prefix: str) -> None:
    attention = f"{prefix}encoder.mid_block.attentions.0.to_q.weight"
    found = canonical({f"{prefix}encoder.down_blocks.0.resnets.0.norm1.weight": (4,), attention: (4, 4)})
    assert list(found.made) == [
        "first_stage_model.encoder.down.0.block.0.norm1.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
    ]
    assert found.made["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (4, 4, 1, 1)


def test_a_unet_in_any_names_has_those_of_a_checkpoint() -> None:
    name = f"{_UNET}input_blocks.1.0.in_layers.0.weight"
    for stored in (name, name.removeprefix("model."), name.removeprefix(_UNET), "down_blocks.0.resnets.0.norm1.weight"):
        assert _names({stored: (4,)}) == {name: stored}


def test_text_encoders_of_a_checkpoint_are_found_under_every_prefix() -> None:
    unet = {f"{_UNET}input_blocks.1.1.proj_in.weight": (4, 4)}
    layer = "transformer.resblocks.3.mlp.c_fc.weight"
    name = f"cond_stage_model.model.{layer}"
    assert _names({**unet, f"conditioner.embedders.0.model.{layer}": (8, 4)})[name]
    found = canonical({**unet, "text_encoders.clip_h.transformer.text_model.encoder.layers.3.mlp.fc1.weight": (8, 4)})
    assert name in found.made
    old = "cond_stage_model.transformer.encoder.layers.0.mlp.fc1.weight"
    assert _names({old: (8, 4)}) == {"cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": old}


def test_wrappers_of_training_are_taken_off_and_copies_left() -> None:
    stored = "module.double_blocks.0._orig_mod.img_attn.proj.weight"
    copy = "model_ema._orig_mod.x"
    assert list(canonical({stored: (4, 4), copy: (4,)}).made) == ["double_blocks.0.img_attn.proj.weight", copy]


def test_a_parameter_that_is_there_twice_is_named() -> None:
    name = "double_blocks.0.img_attn.proj.weight"
    found = canonical({name: (4, 4), f"model.diffusion_model.{name}": (4, 4)})
    assert list(found.made) == [name]
    assert found.twice == {f"model.diffusion_model.{name}": name}


def test_a_part_of_no_known_family_keeps_its_names_behind_the_prefix() -> None:
    names = _names({"model.diffusion_model.layers.0.wild.weight": (4, 4), "vae.wild.weight": (4,), "more": (1,)})
    assert list(names) == ["layers.0.wild.weight", "first_stage_model.wild.weight", "more"]


def test_names_that_no_rule_knows_stay() -> None:
    shapes = {"a.weight": (4, 4), "b.0.c": (), "": (1,)}
    found = canonical(shapes)
    assert found == Canonical({name: Renamed(shape, (RowsOf("", name),)) for name, shape in shapes.items()})


def test_buffers_of_the_noise_schedule_are_known() -> None:
    assert is_constant("alphas_cumprod", (1000,))
    assert not is_constant("model.betas.weight", (1000,))


def test_naming_a_checkpoint_and_a_model_of_70_billion_takes_less_than_a_moment() -> None:
    """The best of some tries, as other processes of the machine take their time too."""
    sdxl = json.loads((_LAYOUTS / "sdxl.json").read_text())["tensors"]
    llama = {
        f"model.layers.{layer}.{name}.weight": (8, 8)
        for layer in range(80)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                     "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
    }  # fmt: skip
    models = [{name: tuple(shape) for name, (_, shape) in sdxl.items()}, llama]
    taken = []
    for _ in range(5):
        begin = process_time()
        for model in models:
            canonical(model)
        taken.append(process_time() - begin)
    assert min(taken) < 0.05
