"""Both namings against diffusers: its modules have our names, and its converters give our tensors, to the bit.

A pipeline's modules are made small with random weights, put into the original naming by our map, and taken back by
diffusers' own converters. At real size they have no weights: names and shapes are those of the published checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mergebuild.naming import Kind, Renamed, kind_of, kind_of_pipeline, to_diffusers, to_ldm

_LAYOUTS = Path(__file__).parents[2] / "examples" / "sd15" / "layouts"
_IDS = "text_model.embeddings.position_ids"

State = Mapping[str, Tensor]
Pipeline = Mapping[str, State]

_CONV_WAY_IN = {"use_linear_projection": False}
_LINEAR_WAY_IN = {"use_linear_projection": True}
_FOUR_LEVELS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}
_REFINER = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}
_SMALL = {"norm_num_groups": 4, "layers_per_block": 2, "attention_head_dim": 4, "cross_attention_dim": 12}
_SMALL_XL = {**_SMALL, "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 28}

_SMALL_UNETS: Mapping[str, tuple[Kind, dict[str, object]]] = {
    "sd1": ("sd1", {**_SMALL, **_CONV_WAY_IN, **_FOUR_LEVELS, "block_out_channels": (8, 16, 24, 24)}),
    "sd1 for inpainting": (
        "sd1",
        {**_SMALL, **_CONV_WAY_IN, **_FOUR_LEVELS, "block_out_channels": (8, 16, 24, 24), "in_channels": 9},
    ),
    "two levels of one layer": (
        "sd1",
        {
            **_SMALL,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
    ),
    "sd2": ("sd2", {**_SMALL, **_LINEAR_WAY_IN, **_FOUR_LEVELS, "block_out_channels": (8, 16, 24, 24)}),
    "sdxl": (
        "sdxl",
        {**_SMALL_XL, **_XL, "block_out_channels": (8, 16, 24), "transformer_layers_per_block": (1, 2, 3)},
    ),
    "refiner": (
        "sdxl",
        {**_SMALL_XL, **_REFINER, "block_out_channels": (8, 16, 16, 16), "transformer_layers_per_block": 2},
    ),
}


def _small_text(kind: Kind) -> dict[str, nn.Module]:
    config = CLIPTextConfig(
        vocab_size=50,
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=7,
        projection_dim=8,
    )
    encoders: dict[str, nn.Module] = {"text_encoder": CLIPTextModel(config)}
    if kind == "sdxl":
        encoders["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return encoders


def _small_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8, 12, 12),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=2,
        latent_channels=4,
    )


def _shapes(pipeline: Pipeline) -> dict[str, dict[str, tuple[int, ...]]]:
    return {part: {name: tuple(tensor.shape) for name, tensor in state.items()} for part, state in pipeline.items()}


def _applied(made: Mapping[str, Renamed], stored: Pipeline) -> dict[str, Tensor]:
    """Do what a map says."""
    results: dict[str, Tensor] = {}
    for name, result in made.items():
        parts = []
        for cut in result.cuts:
            tensor = stored[cut.component][cut.tensor]
            tensor = tensor if cut.rows is None else tensor[cut.rows[0] : cut.rows[1]]
            parts.append(tensor.T if cut.transposed else tensor)
        results[name] = (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(result.shape)
    return results


def _in_ldm(pipeline: Pipeline) -> dict[str, Tensor]:
    made, unknown = to_ldm(_shapes(pipeline))
    assert unknown == []
    return _applied(made, pipeline)


def _with_text_model(state: State) -> dict[str, Tensor]:
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{name}" if name.startswith(bare) else name: tensor for name, tensor in state.items()}


def _assert_same(ours: State, theirs: State) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape, name
        assert tensor.is_meta or torch.equal(tensor, theirs[name]), name


def _text_by_diffusers(ldm: State, prefix: str, encoder: nn.Module) -> dict[str, Tensor]:
    if prefix.endswith("transformer."):
        return convert_ldm_clip_checkpoint(ldm, remove_prefix=prefix)
    return convert_open_clip_checkpoint(encoder, ldm, prefix)


@pytest.mark.parametrize("which", _SMALL_UNETS)
def test_a_unet_comes_back_through_diffusers(which: str) -> None:
    kind, config = _SMALL_UNETS[which]
    unet = UNet2DConditionModel(**config)
    pipeline = {"unet": unet.state_dict()}
    assert kind_of_pipeline(_shapes(pipeline)) == kind
    ldm = _in_ldm(pipeline)
    assert kind_of({name: tuple(tensor.shape) for name, tensor in ldm.items()}) == kind
    _assert_same(convert_ldm_unet_checkpoint(dict(ldm), unet.config), unet.state_dict())
    made, left = to_diffusers(_shapes({"": ldm})[""])
    assert left == []
    _assert_same(_applied(made["unet"], {"": ldm}), unet.state_dict())


def test_a_vae_comes_back_through_diffusers() -> None:
    vae = _small_vae()
    ldm = _in_ldm({"vae": vae.state_dict()})
    _assert_same(convert_ldm_vae_checkpoint(dict(ldm), vae.config), vae.state_dict())
    made, left = to_diffusers(_shapes({"": ldm})[""])
    assert left == []
    _assert_same(_applied(made["vae"], {"": ldm}), vae.state_dict())


@pytest.mark.parametrize(
    ("kind", "prefixes"),
    [
        ("sd1", {"text_encoder": "cond_stage_model.transformer."}),
        ("sd2", {"text_encoder": "cond_stage_model.model."}),
        (
            "sdxl",
            {
                "text_encoder": "conditioner.embedders.0.transformer.",
                "text_encoder_2": "conditioner.embedders.1.model.",
            },
        ),
    ],
)
def test_text_encoders_come_back_through_diffusers(kind: Kind, prefixes: Mapping[str, str]) -> None:
    encoders = _small_text(kind)
    pipeline = {component: encoder.state_dict() for component, encoder in encoders.items()}
    made, unknown = to_ldm(_shapes(pipeline), kind)
    assert unknown == []
    ldm = _applied(made, pipeline)
    back, left = to_diffusers(_shapes({"": ldm})[""])
    assert left == []
    for component, prefix in prefixes.items():
        expected = _with_text_model(pipeline[component])
        _assert_same(_text_by_diffusers(ldm, prefix, encoders[component]), expected)
        _assert_same(_applied(back[component], {"": ldm}), expected)


@pytest.mark.parametrize("with_model", [False, True])
def test_transformers_loads_a_text_encoder_under_either_name(with_model: bool, tmp_path: Path) -> None:
    encoder = _small_text("sd1")["text_encoder"]
    state = _with_text_model(encoder.state_dict()) if with_model else encoder.state_dict()
    encoder.save_pretrained(tmp_path, state_dict=state)
    _assert_same(CLIPTextModel.from_pretrained(tmp_path).state_dict(), encoder.state_dict())


# Real size


def _real_unet(**config: object) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(layers_per_block=2, **config)


def _real_text(kind: type[nn.Module], width: int, layers: int, **config: object) -> nn.Module:
    with torch.device("meta"):
        return kind(CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, **config))


def _real_vae() -> nn.Module:
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )


def _sd1(**config: object) -> UNet2DConditionModel:
    wide = {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8, "cross_attention_dim": 768}
    return _real_unet(**_FOUR_LEVELS, **wide, **config)


def _sd2() -> UNet2DConditionModel:
    wide = {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20)}
    return _real_unet(**_FOUR_LEVELS, **_LINEAR_WAY_IN, **wide, cross_attention_dim=1024)


def _sdxl() -> UNet2DConditionModel:
    return _real_unet(
        **_XL,
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _refiner() -> UNet2DConditionModel:
    return _real_unet(
        **_REFINER,
        block_out_channels=(384, 768, 1536, 1536),
        transformer_layers_per_block=4,
        attention_head_dim=(6, 12, 24, 24),
        cross_attention_dim=1280,
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2560,
    )


def _big_text() -> nn.Module:
    return _real_text(CLIPTextModelWithProjection, 1280, 32, num_attention_heads=20, projection_dim=1280)


def _published(layout: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a published checkpoint, without what diffusers has no place for."""
    tensors = json.loads((_LAYOUTS / f"{layout}.json").read_text())["tensors"]
    inside = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
    return {
        name: tuple(shape)
        for name, (_, shape) in tensors.items()
        if name.startswith(inside) and not name.endswith((_IDS, "logit_scale"))
    }


def test_at_real_size_the_pipelines_are_the_published_checkpoints() -> None:
    small_text = _real_text(CLIPTextModel, 768, 12, num_attention_heads=12)
    sd1 = {"unet": _sd1(), "vae": _real_vae(), "text_encoder": small_text}
    sdxl = {"unet": _sdxl(), "vae": _real_vae(), "text_encoder": small_text, "text_encoder_2": _big_text()}
    for layout, modules in (("sd15", sd1), ("sdxl", sdxl)):
        pipeline = _shapes({component: module.state_dict() for component, module in modules.items()})
        made, unknown = to_ldm(pipeline)
        assert unknown == []
        assert {name: result.shape for name, result in made.items()} == _published(layout)
        back = to_diffusers(_published(layout))[0]
        for component, shapes in pipeline.items():
            text = ("embeddings.", "encoder.", "final_layer_norm.") if component == "text_encoder" else ()
            expected = {f"text_model.{n}" if n.startswith(text) else n: shape for n, shape in shapes.items()}
            assert {name: result.shape for name, result in back[component].items()} == expected


@pytest.mark.parametrize("make", [_sd1, _sd2, _sdxl, _refiner])
def test_at_real_size_unets_come_back_through_diffusers(make: type[UNet2DConditionModel]) -> None:
    unet = make()
    ldm = _in_ldm({"unet": unet.state_dict()})
    _assert_same(convert_ldm_unet_checkpoint(dict(ldm), unet.config), unet.state_dict())


def test_of_a_whole_sd2_checkpoint_ours_and_diffusers_leave_out_the_same() -> None:
    whole = _real_text(CLIPTextModelWithProjection, 1024, 24, num_attention_heads=16, projection_dim=1024)
    used = _real_text(CLIPTextModel, 1024, 23, num_attention_heads=16)
    pipeline = {"text_encoder": whole.state_dict()}
    ldm = _applied(to_ldm(_shapes(pipeline), "sd2")[0], pipeline)
    theirs = convert_open_clip_checkpoint(used, ldm, "cond_stage_model.model.")
    made, left = to_diffusers(_shapes({"": ldm})[""])
    _assert_same(_applied(made["text_encoder"], {"": ldm}), theirs)
    _assert_same(theirs, _with_text_model(used.state_dict()))
    assert len(left) == 13


def test_the_refiners_only_encoder_is_where_diffusers_looks() -> None:
    encoder = _big_text()
    pipeline = {"text_encoder_2": encoder.state_dict()}
    ldm = _in_ldm(pipeline)
    theirs = convert_open_clip_checkpoint(encoder, ldm, "conditioner.embedders.0.model.")
    _assert_same(theirs, encoder.state_dict())
