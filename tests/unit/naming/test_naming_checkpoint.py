"""A checkpoint and a pipeline of diffusers tell the same model: by names and shapes, at real size and in small."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.naming import (
    DiffusersPart,
    Renamed,
    RowsOf,
    Shapes,
    kind_of,
    kind_of_pipeline,
    parts_of,
    to_diffusers,
    to_ldm,
)
from mergebuild.naming.canonical import canonical

_LAYOUTS = Path(__file__).parents[3] / "examples" / "sd15" / "layouts"
_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_SD1_TEXT = "cond_stage_model.transformer."
_SD2_TEXT = "cond_stage_model.model."
_XL_TEXT_2 = "conditioner.embedders.1.model."
_REFINER_TEXT = "conditioner.embedders.0.model."
_IDS = "text_model.embeddings.position_ids"
_SCHEDULE = {"betas", "log_one_minus_alphas_cumprod"}


@cache
def _real(name: str) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a real checkpoint."""
    tensors = json.loads((_LAYOUTS / f"{name}.json").read_text())["tensors"]
    return {tensor: tuple(shape) for tensor, (_, shape) in tensors.items()}


def _shapes(made: Mapping[str, Renamed]) -> dict[str, tuple[int, ...]]:
    return {name: result.shape for name, result in made.items()}


def _pipeline(tensors: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    return {component: _shapes(made) for component, made in to_diffusers(tensors)[0].items()}


def _inside(tensors: Shapes, prefix: str, new: str = "") -> dict[str, tuple[int, ...]]:
    return {new + name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}


def _sd2() -> dict[str, tuple[int, ...]]:
    """Return a UNet with linear ways into attention, and an OpenCLIP encoder of 3 layers."""
    text = _inside(_real("sdxl"), _XL_TEXT_2, _SD2_TEXT)
    text = {name: shape for name, shape in text.items() if not any(f"resblocks.{i}." in name for i in range(3, 32))}
    unet = {
        name: shape[:2] if name.endswith(("proj_in.weight", "proj_out.weight")) else shape
        for name, shape in _inside(_real("sd15"), _UNET, _UNET).items()
    }
    return unet | _inside(_real("sd15"), _VAE, _VAE) | text


def _assert_sound(sources: Mapping[str, Shapes], made: Mapping[str, Renamed]) -> None:
    """Check that results have as many elements as their cuts, and that no element of a source is used twice."""
    used: dict[tuple[str, str], int] = {}
    for result in made.values():
        elements = 0
        for cut in result.cuts:
            shape = sources[cut.component][cut.tensor]
            begin, end = cut.rows or (0, shape[0] if shape else 1)
            assert 0 <= begin <= end <= (shape[0] if shape else 1)
            taken = (end - begin) * math.prod(shape[1:])
            used[cut.component, cut.tensor] = used.get((cut.component, cut.tensor), 0) + taken
            elements += taken
            assert not cut.transposed or (len(shape) == 2 and result.shape == shape[::-1])
        assert elements == math.prod(result.shape)
    for (component, tensor), taken in used.items():
        assert taken == math.prod(sources[component][tensor])


# Real checkpoints


@pytest.mark.parametrize(
    ("layout", "kind", "counts"),
    [
        ("sd15", "sd1", {"unet": 686, "vae": 248, "text_encoder": 196}),
        ("sdxl", "sdxl", {"unet": 1680, "vae": 248, "text_encoder": 196, "text_encoder_2": 517}),
    ],
)
def test_a_real_checkpoint_becomes_a_pipeline_and_comes_back_to_the_shape(
    layout: str, kind: str, counts: dict[str, int]
) -> None:
    tensors = _real(layout)
    made, left = to_diffusers(tensors)
    assert kind_of(tensors) == kind
    assert {component: len(names) for component, names in made.items()} == counts
    for each in made.values():
        _assert_sound({"": tensors}, each)
    pipeline = _pipeline(tensors)
    assert kind_of_pipeline(pipeline) == kind
    back, unknown = to_ldm(pipeline)
    _assert_sound(pipeline, back)
    assert unknown == []
    assert _shapes(back) == {name: shape for name, shape in tensors.items() if name not in left}


def test_what_a_pipeline_has_no_place_for_is_left() -> None:
    left = to_diffusers(_real("sd15"))[1]
    others = [name for name in left if not name.startswith("model_ema.")]
    assert len(left) - len(others) == 688
    assert set(others) > _SCHEDULE | {f"{_SD1_TEXT}{_IDS}"}
    assert len(others) == 13
    assert to_diffusers(_real("sdxl"))[1] == [f"conditioner.embedders.0.transformer.{_IDS}", f"{_XL_TEXT_2}logit_scale"]


@pytest.mark.parametrize(
    ("layout", "ldm", "component", "diffusers"),
    [
        ("sd15", "time_embed.2.bias", "unet", "time_embedding.linear_2.bias"),
        ("sd15", "input_blocks.0.0.weight", "unet", "conv_in.weight"),
        ("sd15", "input_blocks.3.0.op.weight", "unet", "down_blocks.0.downsamplers.0.conv.weight"),
        ("sd15", "input_blocks.4.0.skip_connection.bias", "unet", "down_blocks.1.resnets.0.conv_shortcut.bias"),
        ("sd15", "input_blocks.5.1.proj_in.weight", "unet", "down_blocks.1.attentions.1.proj_in.weight"),
        ("sd15", "input_blocks.11.0.emb_layers.1.bias", "unet", "down_blocks.3.resnets.1.time_emb_proj.bias"),
        ("sd15", "middle_block.1.norm.bias", "unet", "mid_block.attentions.0.norm.bias"),
        ("sd15", "middle_block.2.out_layers.3.weight", "unet", "mid_block.resnets.1.conv2.weight"),
        ("sd15", "output_blocks.2.1.conv.weight", "unet", "up_blocks.0.upsamplers.0.conv.weight"),
        ("sd15", "output_blocks.5.2.conv.weight", "unet", "up_blocks.1.upsamplers.0.conv.weight"),
        ("sd15", "output_blocks.11.0.in_layers.2.bias", "unet", "up_blocks.3.resnets.2.conv1.bias"),
        ("sd15", "out.0.weight", "unet", "conv_norm_out.weight"),
        ("sdxl", "label_emb.0.2.weight", "unet", "add_embedding.linear_2.weight"),
        ("sdxl", "output_blocks.2.2.conv.weight", "unet", "up_blocks.0.upsamplers.0.conv.weight"),
        (
            "sdxl",
            "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight",
            "unet",
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight",
        ),
        ("sd15", "encoder.down.3.block.1.norm2.bias", "vae", "encoder.down_blocks.3.resnets.1.norm2.bias"),
        ("sd15", "decoder.up.3.block.2.conv1.bias", "vae", "decoder.up_blocks.0.resnets.2.conv1.bias"),
        ("sd15", "decoder.up.1.upsample.conv.bias", "vae", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
        ("sd15", "decoder.up.0.block.0.nin_shortcut.bias", "vae", "decoder.up_blocks.3.resnets.0.conv_shortcut.bias"),
        ("sd15", "decoder.mid.attn_1.proj_out.bias", "vae", "decoder.mid_block.attentions.0.to_out.0.bias"),
        ("sd15", "decoder.norm_out.bias", "vae", "decoder.conv_norm_out.bias"),
        ("sd15", "post_quant_conv.bias", "vae", "post_quant_conv.bias"),
    ],
)
def test_names_are_those_of_the_published_files(layout: str, ldm: str, component: str, diffusers: str) -> None:
    name = (_UNET if component == "unet" else _VAE) + ldm
    assert parts_of(_real(layout))[name] == (DiffusersPart(component, diffusers, None, transposed=False),)


def test_a_fused_projection_of_openclip_is_three_of_transformers() -> None:
    name = f"{_XL_TEXT_2}transformer.resblocks.31.attn.in_proj_weight"
    attention = "text_model.encoder.layers.31.self_attn."
    assert parts_of(_real("sdxl"))[name] == (
        DiffusersPart("text_encoder_2", f"{attention}q_proj.weight", (0, 1280), transposed=False),
        DiffusersPart("text_encoder_2", f"{attention}k_proj.weight", (1280, 2560), transposed=False),
        DiffusersPart("text_encoder_2", f"{attention}v_proj.weight", (2560, 3840), transposed=False),
    )
    made = to_ldm(_pipeline(_real("sdxl")))[0]
    cuts = tuple(RowsOf("text_encoder_2", f"{attention}{part}_proj.weight") for part in "qkv")
    assert made[name] == Renamed((3840, 1280), cuts)


def test_the_text_projection_is_transposed() -> None:
    tensors = _inside(_real("sdxl"), _XL_TEXT_2, _XL_TEXT_2) | {f"{_XL_TEXT_2}text_projection": (1280, 640)}
    pipeline, _ = to_diffusers(tensors)
    projection = pipeline["text_encoder_2"]["text_projection.weight"]
    assert projection == Renamed((640, 1280), (RowsOf("", f"{_XL_TEXT_2}text_projection", transposed=True),))
    back, _ = to_ldm(
        _pipeline(tensors | {"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (1,)})
    )
    assert back[f"{_XL_TEXT_2}text_projection"].shape == (1280, 640)
    assert back[f"{_XL_TEXT_2}text_projection"].cuts[0].transposed


def test_attention_of_the_vae_is_linear_in_one_and_convolves_in_the_other() -> None:
    name = f"{_VAE}encoder.mid.attn_1.q.weight"
    pipeline = _pipeline(_real("sd15"))
    assert pipeline["vae"]["encoder.mid_block.attentions.0.to_q.weight"] == (512, 512)
    assert to_ldm(pipeline)[0][name].shape == (512, 512, 1, 1)


def test_wider_inputs_are_only_another_shape() -> None:
    name = f"{_UNET}input_blocks.0.0.weight"
    tensors = {**_real("sd15"), name: (320, 9, 3, 3)}
    assert _pipeline(tensors)["unet"]["conv_in.weight"] == (320, 9, 3, 3)
    assert to_ldm(_pipeline(tensors))[0][name].shape == (320, 9, 3, 3)


# SD2 and the refiner


def test_of_sd2s_encoder_the_last_layer_and_the_projection_stay_behind() -> None:
    tensors = _sd2()
    made, left = to_diffusers(tensors)
    assert kind_of(tensors) == "sd2"
    last = {name for name in tensors if "resblocks.2." in name}
    assert set(left) == last | {f"{_SD2_TEXT}text_projection", f"{_SD2_TEXT}logit_scale"}
    assert len(last) == 12
    assert max(name for name in made["text_encoder"] if ".layers." in name).startswith("text_model.encoder.layers.1.")


def test_a_pipeline_of_sd2_has_a_layer_less_and_keeps_what_it_has() -> None:
    pipeline = _pipeline(_sd2())
    assert kind_of_pipeline(pipeline) == "sd2"
    back, unknown = to_ldm(pipeline)
    assert unknown == []
    left = to_diffusers(_sd2())[1]
    assert _shapes(back) == {name: shape for name, shape in _sd2().items() if name not in left}
    assert _pipeline(_shapes(back)) == pipeline


def test_the_refiner_has_the_second_encoder_in_the_first_place() -> None:
    tensors = _inside(_real("sdxl"), _XL_TEXT_2, _REFINER_TEXT) | _inside(_real("sdxl"), _UNET, _UNET)
    del tensors[f"{_REFINER_TEXT}logit_scale"]
    made, left = to_diffusers(tensors)
    assert (kind_of(tensors), sorted(made), left) == ("sdxl", ["text_encoder_2", "unet"], [])
    assert _shapes(to_ldm(_pipeline(tensors))[0]) == tensors


# Which model it is


@pytest.mark.parametrize(("layout", "kind"), [("sd15", "sd1"), ("sdxl", "sdxl")])
def test_a_unet_alone_tells_the_kind(layout: str, kind: str) -> None:
    tensors = _inside(_real(layout), _UNET, _UNET)
    assert kind_of(tensors) == kind
    assert kind_of_pipeline(_pipeline(tensors)) == kind


def test_linear_ways_into_attention_tell_sd2() -> None:
    tensors = _inside(_sd2(), _UNET, _UNET)
    assert kind_of(tensors) == kind_of_pipeline(_pipeline(tensors)) == "sd2"


@pytest.mark.parametrize(("width", "kind"), [(768, "sd1"), (1024, "sd2"), (32, None)])
def test_a_text_encoder_alone_is_told_by_its_width(width: int, kind: str | None) -> None:
    assert kind_of_pipeline({"text_encoder": {"embeddings.token_embedding.weight": (49408, width)}}) == kind


def test_a_vae_alone_tells_nothing_and_is_mapped() -> None:
    tensors = _inside(_real("sdxl"), _VAE, _VAE)
    assert kind_of(tensors) is None
    assert kind_of_pipeline(_pipeline(tensors)) is None
    assert _shapes(to_ldm(_pipeline(tensors))[0]) == tensors


def test_a_text_encoder_of_unknown_kind_is_reported_unless_the_caller_knows() -> None:
    components = {"text_encoder": {"text_model.final_layer_norm.bias": (32,)}}
    assert to_ldm(components) == ({}, ["text_encoder/text_model.final_layer_norm.bias"])
    assert list(to_ldm(components, "sd1")[0]) == [f"{_SD1_TEXT}text_model.final_layer_norm.bias"]


def test_sd1_has_no_second_text_encoder() -> None:
    components = {"text_encoder_2": {"text_model.final_layer_norm.bias": (768,)}}
    assert to_ldm(components, "sd1") == ({}, ["text_encoder_2/text_model.final_layer_norm.bias"])


# Names of other times


def test_newer_files_of_transformers_leave_the_model_out_of_the_name() -> None:
    pipeline = _pipeline(_real("sd15"))
    bare = {name.removeprefix("text_model."): shape for name, shape in pipeline["text_encoder"].items()}
    made, unknown = to_ldm(pipeline | {"text_encoder": bare})
    assert unknown == []
    assert _shapes(made) == _shapes(to_ldm(pipeline)[0])
    name = f"{_SD1_TEXT}text_model.final_layer_norm.bias"
    assert made[name].cuts == (RowsOf("text_encoder", "final_layer_norm.bias"),)


def test_novelais_checkpoint_leaves_the_model_out_of_the_name() -> None:
    tensors = {name.replace("transformer.text_model.", "transformer."): s for name, s in _real("sd15").items()}
    made, left = to_diffusers(tensors)
    assert _shapes(made["text_encoder"]) == _pipeline(_real("sd15"))["text_encoder"]
    assert f"{_SD1_TEXT}embeddings.position_ids" in left


def test_older_files_of_diffusers_name_the_vaes_attention_otherwise() -> None:
    pipeline = _pipeline(_real("sd15"))
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    vae = dict(pipeline["vae"])
    for new, older in old.items():
        vae = {name.replace(new, older): shape for name, shape in vae.items()}
    made, unknown = to_ldm({"vae": vae})
    assert unknown == []
    assert _shapes(made) == _inside(_real("sd15"), _VAE, _VAE)


def test_a_tensor_that_is_there_under_an_old_and_a_new_name_is_reported() -> None:
    attention = "encoder.mid_block.attentions.0"
    vae = {f"{attention}.query.bias": (8,), f"{attention}.to_q.bias": (8,)}
    made, unknown = to_ldm({"vae": vae})
    (cut,) = made[f"{_VAE}encoder.mid.attn_1.q.bias"].cuts
    assert unknown == [f"vae/{name}" for name in vae if name != cut.tensor]
    assert len(unknown) == 1


def test_position_ids_are_carried_where_they_have_a_place() -> None:
    ids = {_IDS: (1, 77)}
    sd15, sdxl = _pipeline(_real("sd15")), _pipeline(_real("sdxl"))
    made, unknown = to_ldm(sd15 | {"text_encoder": sd15["text_encoder"] | ids})
    assert unknown == []
    assert made[_SD1_TEXT + _IDS].shape == (1, 77)
    made, unknown = to_ldm(sdxl | {"text_encoder_2": sdxl["text_encoder_2"] | ids})
    assert unknown == []
    assert not [name for name in made if name.endswith(_IDS)]  # OpenCLIP has none


# What is not known is said


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("unet", "down_blocks.0.resnets.0.conv3.weight"),
        ("unet", "down_blocks.0.motion_modules.0.norm.weight"),
        ("unet", "down_blocks.9.resnets.0.conv1.weight"),
        ("unet", f"down_blocks.{'9' * 5000}.resnets.0.conv1.weight"),
        ("vae", "decoder.mid_block.attentions.0.to_z.weight"),
        ("vae", "decoder.up_blocks.5.resnets.0.conv1.weight"),
        ("vae", f"decoder.up_blocks.{'9' * 5000}.resnets.0.conv1.weight"),
        ("text_encoder", "vision_model.embeddings.class_embedding"),
        ("text_encoder", "text_projection.weight"),
        ("text_encoder_2", "logit_scale"),
        ("text_encoder_2", "text_model.encoder.layers.40.self_attn.q_proj.weight"),
        ("safety_checker", "concept_embeds"),
        ("text_encoder_3", "text_model.final_layer_norm.bias"),
    ],
)
def test_a_name_without_a_place_is_reported(component: str, name: str) -> None:
    pipeline = _pipeline(_real("sdxl"))
    pipeline[component] = pipeline.get(component, {}) | {name: (1,)}
    made, unknown = to_ldm(pipeline)
    assert unknown == [f"{component}/{name}"]
    assert len(made) == len(_real("sdxl")) - 2


@pytest.mark.parametrize(
    "name",
    [
        f"{_UNET}input_blocks.1.0.in_layers.9.weight",
        f"{_UNET}input_blocks.99.0.in_layers.2.weight",
        f"{_UNET}middle_block.3.in_layers.0.weight",
        f"{_VAE}encoder.down.0.attn.0.q.weight",
        f"{_VAE}decoder.up.5.block.0.conv1.weight",
        f"{_SD1_TEXT}vision_model.weight",
        "v_pred",
        "ztsnr",
    ],
)
def test_a_checkpoints_name_without_a_place_is_left(name: str) -> None:
    made, left = to_diffusers({**_real("sd15"), name: (0,)})
    assert left[-1] == name
    assert {component: _shapes(each) for component, each in made.items()} == _pipeline(_real("sd15"))


def test_behind_a_hole_in_the_numbers_nothing_is_guessed() -> None:
    gone = f"{_UNET}input_blocks.3."
    made, left = to_diffusers({name: shape for name, shape in _real("sd15").items() if not name.startswith(gone)})
    assert {name.split(".")[1] for name in made["unet"] if name.startswith("down_blocks.")} == {"0"}
    assert f"{_UNET}input_blocks.4.0.in_layers.0.bias" in left
    unet = _pipeline(_real("sd15"))["unet"]
    gone = "down_blocks.1.downsamplers."
    made_ldm, unknown = to_ldm({"unet": {name: shape for name, shape in unet.items() if not name.startswith(gone)}})
    assert f"{_UNET}input_blocks.5.0.in_layers.0.bias" in made_ldm
    assert {name.split(".")[1] for name in unknown} == {"2", "3"}


def test_projections_of_which_one_is_missing_are_reported() -> None:
    pipeline = _pipeline(_real("sdxl"))
    del pipeline["text_encoder_2"]["text_model.encoder.layers.0.self_attn.k_proj.bias"]
    made, unknown = to_ldm(pipeline)
    attention = "text_encoder_2/text_model.encoder.layers.0.self_attn"
    assert sorted(unknown) == [f"{attention}.q_proj.bias", f"{attention}.v_proj.bias"]
    assert f"{_XL_TEXT_2}transformer.resblocks.0.attn.in_proj_bias" not in made


def test_a_fused_projection_that_is_no_three_is_left() -> None:
    name = f"{_XL_TEXT_2}transformer.resblocks.0.attn.in_proj_bias"
    for shape in ((), (3839,)):
        assert name in to_diffusers({**_real("sdxl"), name: shape})[1]


# Files of a component


def test_a_vae_is_known_in_every_naming() -> None:
    real = _inside(_real("sd15"), _VAE, _VAE)
    bare, diffusers = _inside(real, _VAE), _pipeline(real)["vae"]
    for tensors in (real, bare, diffusers):
        made = canonical(tensors).made
        assert _shapes(made) == real
        _assert_sound({"": tensors}, made)


def test_linear_attention_in_a_vae_with_the_original_names_is_convolved() -> None:
    attention = {"encoder.mid.attn_1.q.weight": (8, 8), "encoder.mid.attn_1.q.bias": (8,)}
    made = canonical({**attention, "encoder.down.0.block.0.norm1.bias": (8,)}).made
    assert made[f"{_VAE}encoder.mid.attn_1.q.weight"].shape == (8, 8, 1, 1)
    assert made[f"{_VAE}encoder.mid.attn_1.q.bias"].shape == (8,)


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
def test_a_unet_is_known_in_every_naming(layout: str) -> None:
    real = _inside(_real(layout), _UNET, _UNET)
    for tensors in (real, _inside(real, _UNET), _pipeline(real)["unet"]):
        assert _shapes(canonical({**tensors, "mystery": (1,)}).made) == {**real, "mystery": (1,)}


# Models of any build


@st.composite
def _unets(draw: st.DrawFn) -> dict[str, tuple[int, ...]]:
    """Names of diffusers for a UNet with any number of levels, of layers in each, and of attention anywhere."""
    names = ["conv_in.weight", "conv_norm_out.bias", "mid_block.resnets.1.norm1.bias"]
    for way, sampler in (("down", "downsamplers"), ("up", "upsamplers")):
        levels = draw(st.integers(1, 4))
        for i in range(levels):
            block = f"{way}_blocks.{i}"
            for j in range(draw(st.integers(1, 3))):
                names.append(f"{block}.resnets.{j}.conv1.weight")
                if draw(st.booleans()):
                    names += [f"{block}.attentions.{j}.{part}.weight" for part in ("norm", "transformer_blocks.1.ff")]
            if i < levels - 1:
                names.append(f"{block}.{sampler}.0.conv.weight")
    return dict.fromkeys(draw(st.permutations(names)), (2, 2, 1, 1))


@given(_unets())
def test_a_unet_of_any_build_goes_there_and_back(unet: dict[str, tuple[int, ...]]) -> None:
    made, unknown = to_ldm({"unet": unet})
    assert unknown == []
    assert len(made) == len(unet)
    assert _pipeline(_shapes(made)) == {"unet": unet}


@st.composite
def _vaes(draw: st.DrawFn) -> dict[str, tuple[int, ...]]:
    names = ["quant_conv.weight", "decoder.conv_norm_out.bias", "encoder.mid_block.resnets.1.norm1.bias"]
    for start, sampler in (("encoder.down_blocks", "downsamplers"), ("decoder.up_blocks", "upsamplers")):
        levels = draw(st.integers(1, 5))
        for i in range(levels):
            names += [f"{start}.{i}.resnets.{j}.conv_shortcut.bias" for j in range(draw(st.integers(1, 3)))]
            if draw(st.booleans()):
                names.append(f"{start}.{i}.{sampler}.0.conv.weight")
    projections = [f"decoder.mid_block.attentions.0.{each}.weight" for each in ("to_q", "to_k", "to_v", "to_out.0")]
    return dict.fromkeys(draw(st.permutations(names)), (2, 2, 3, 3)) | dict.fromkeys(projections, (4, 4))


@given(_vaes())
def test_a_vae_of_any_build_goes_there_and_back(vae: dict[str, tuple[int, ...]]) -> None:
    made, unknown = to_ldm({"vae": vae})
    assert unknown == []
    assert len(made) == len(vae)
    assert _pipeline(_shapes(made)) == {"vae": vae}


@given(
    layers=st.integers(1, 6),
    width=st.integers(1, 5),
    projected=st.integers(1, 5),
    kind=st.sampled_from(["sd2", "sdxl"]),
)
def test_an_openclip_encoder_of_any_size_goes_there_and_back(
    layers: int, width: int, projected: int, kind: str
) -> None:
    start = "text_model.encoder.layers"
    encoder: dict[str, tuple[int, ...]] = {"text_model.embeddings.position_embedding.weight": (7, width)}
    for i in range(layers):
        for part in "qkv":
            encoder[f"{start}.{i}.self_attn.{part}_proj.weight"] = (width, width)
            encoder[f"{start}.{i}.self_attn.{part}_proj.bias"] = (width,)
        encoder[f"{start}.{i}.mlp.fc1.weight"] = (4 * width, width)
    if kind == "sd2":
        components = {"text_encoder": encoder}
    else:
        encoder["text_projection.weight"] = (projected, width)
        components = {"text_encoder": {"text_model.final_layer_norm.bias": (3,)}, "text_encoder_2": encoder}
    made, unknown = to_ldm(components, "sd2" if kind == "sd2" else "sdxl")
    assert unknown == []
    _assert_sound(components, made)
    assert _pipeline(_shapes(made)) == components


_WORDS = (
    "model diffusion_model first_stage_model cond_stage_model conditioner embedders transformer text_model resblocks "
    "input_blocks output_blocks down_blocks up_blocks resnets attentions upsamplers downsamplers encoder decoder down "
    "up block mid attn_1 mid_block layers self_attn attn in_proj_weight in_proj_bias q_proj k_proj text_projection "
    "q to_q in_layers op conv norm weight bias 0 1 2 99999 model_ema"
)
_PREFIXES = ("", _UNET, _VAE, _SD1_TEXT, _SD2_TEXT, _XL_TEXT_2, f"{_XL_TEXT_2}transformer.resblocks.0.attn.", "unet.")
_NAMES = st.builds(
    lambda prefix, words: prefix + ".".join(words),
    st.sampled_from(_PREFIXES),
    st.lists(st.sampled_from(_WORDS.split()), max_size=6) | st.lists(st.text(max_size=3), max_size=3),
)
_ANY = st.dictionaries(_NAMES, st.lists(st.integers(0, 9), max_size=4).map(tuple), max_size=8)


@given(_ANY)
def test_any_names_of_a_checkpoint_are_mapped_or_left(tensors: dict[str, tuple[int, ...]]) -> None:
    made, left = to_diffusers(tensors)
    for component in made.values():
        _assert_sound({"": tensors}, component)
    used = {cut.tensor for component in made.values() for each in component.values() for cut in each.cuts}
    assert used.isdisjoint(left)
    assert used | set(left) == tensors.keys()


@given(st.dictionaries(st.sampled_from(["unet", "vae", "text_encoder", "text_encoder_2", "x"]), _ANY))
def test_any_names_of_a_pipeline_are_mapped_or_reported(components: dict[str, dict[str, tuple[int, ...]]]) -> None:
    made, unknown = to_ldm(components)
    _assert_sound(components, made)
    used = {f"{cut.component}/{cut.tensor}" for each in made.values() for cut in each.cuts}
    assert used.isdisjoint(unknown)
    every = {f"{component}/{name}" for component, tensors in components.items() for name in tensors}
    assert used | set(unknown) == {name for name in every if not name.endswith("embeddings.position_ids")}
