"""What sets a model apart is told from names, shapes and small values, wherever these lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.header import Piece, TensorInfo
from mergebuild.formats.model import Model
from mergebuild.sources.traits import adapter, input_channels, kind_of_inputs, marks, position_ids, vae_kind

UNET = "model.diffusion_model."


def model(
    tensors: Mapping[str, tuple[str, Sequence[int]]], path: Path | None = None, data: bytes = b"", **more: object
) -> Model:
    """Return a model of named dtypes and shapes; its bytes lie one behind the other, in a file if one is given."""
    infos: dict[str, TensorInfo] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPES_BY_WORD[dtype].size
        for length in shape:
            size *= length
        infos[name] = TensorInfo(name, dtype, tuple(shape), end, end + size)
        end += size
    if path is not None:
        path.write_bytes(data)
    return Model("safetensors", (path or Path("none"),), (end,), infos, {}, **more)  # type: ignore[arg-type]


# Inputs, marks, VAE


@pytest.mark.parametrize("prefix", [f"{UNET}input_blocks.0.0", "input_blocks.0.0", "unet.conv_in", "conv_in"])
@pytest.mark.parametrize(
    ("channels", "kind"), [(4, None), (8, "instruct-pix2pix"), (9, "inpainting"), (5, "depth"), (7, "upscaler")]
)
def test_input_channels_say_what_a_unet_is_for(prefix: str, channels: int, kind: str | None) -> None:
    found = input_channels({"x": [2], f"{prefix}.weight": [320, channels, 3, 3]})
    assert found == channels
    assert kind_of_inputs(found) == kind


@pytest.mark.parametrize("shapes", [{}, {"conv_in.weight": [320]}, {"decoder.conv_in.weight": [512, 4, 3, 3]}])
def test_what_has_no_first_convolution_of_a_unet_has_no_channels(shapes: dict[str, list[int]]) -> None:
    assert input_channels(shapes) is None
    assert kind_of_inputs(None) is None


def test_marks_are_found_in_a_fixed_order() -> None:
    assert marks(["ztsnr", "a", "v_pred"]) == ("v_pred", "ztsnr")
    assert marks(["a.v_pred"]) == ()


def test_a_vae_of_its_own_is_told_by_its_names() -> None:
    ldm = {"encoder.conv_in.weight": [1], "decoder.conv_in.weight": [1], "decoder.up.0.block.0.conv1.weight": [1]}
    assert vae_kind(ldm) == "ldm"
    assert vae_kind(ldm | {"loss.logvar": [1], "model_ema.decay": []}) == "ldm"
    assert vae_kind({"decoder.conv_in.weight": [1], "decoder.up_blocks.0.resnets.0.conv1.weight": [1]}) == "diffusers"
    assert vae_kind({f"{UNET}out.2.bias": [4]} | ldm) is None
    assert vae_kind({"encoder.conv_in.weight": [1]}) is None


# LoRA


def kohya(module: str, *, down: Sequence[int], up: Sequence[int]) -> dict[str, tuple[str, Sequence[int]]]:
    return {
        f"{module}.alpha": ("float16", ()),
        f"{module}.lora_down.weight": ("float16", down),
        f"{module}.lora_up.weight": ("float16", up),
    }


def test_a_lora_has_family_ranks_alphas_and_a_model(tmp_path: Path) -> None:
    tensors = (
        kohya("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", down=(4, 768), up=(320, 4))
        | kohya("lora_unet_mid_block_resnets_0_conv1", down=(8, 320, 3, 3), up=(320, 8, 1, 1))
        | kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", down=(4, 768), up=(3072, 4))
    )
    file = model(tensors)
    data = bytearray(file.size)
    for name, alpha in zip((name for name in tensors if name.endswith("alpha")), (2.0, 2.0, 1.5), strict=True):
        struct.pack_into("<e", data, file.tensors[name].begin, alpha)
    found = adapter(model(tensors, tmp_path / "lora", bytes(data)))
    assert found is not None
    assert found.to_json() == {
        "families": {"LoCon": 6},
        "ranks": {"4": 2, "8": 1},
        "alphas": {"2": 2, "1.5": 1},
        "for": "SD1.x",
        "text_encoder": True,
    }


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (
            ["base_model.model.model.layers.0.q.lora_A.weight", "base_model.model.model.layers.0.q.lora_B.weight"],
            "LoRA",
        ),
        (["unet.up.lora.down.weight", "unet.up.lora.up.weight"], "LoRA"),
        (["unet.q.lora_A.default.weight", "unet.q.lora_B.default.weight"], "LoRA"),
        (["base_model.model.wte.lora_embedding_A", "base_model.model.wte.lora_embedding_B"], "LoRA"),
        (["x.lora_mid.weight", "x.lora_down.weight", "x.lora_up.weight"], "LoCon (Tucker)"),
        (["x.hada_w1_a", "x.hada_w1_b", "x.hada_w2_a", "x.hada_w2_b"], "LoHa"),
        (["x.lokr_w1", "x.lokr_w2_a", "x.lokr_w2_b"], "LoKr"),
        (["lora_unet_x.on_input", "lora_unet_x.weight"], "IA3"),
        (["lora_unet_x.diff", "lora_unet_x.diff_b"], "full difference"),
        (["lora_unet_x.w_norm", "lora_unet_x.b_norm"], "norm"),
        (["lora_unet_x.oft_blocks"], "OFT"),
        (["lora_unet_x.a1.weight", "lora_unet_x.b1.weight"], "GLoRA"),
        (["x.lora_A.weight", "x.lora_B.weight", "x.lora_magnitude_vector"], "DoRA"),
    ],
)
def test_every_family_is_known_by_its_names(names: list[str], family: str) -> None:
    found = adapter(model(dict.fromkeys(names, ("float32", (4, 4)))))
    assert found is not None
    assert family in found.families
    assert sum(found.families.values()) >= len(names) - 1


def test_names_without_end_take_no_time() -> None:
    name = "attn2.to_k." * 100_000
    found = adapter(model({"x.lora_A.weight": ("float32", (4, 4)), name: ("float32", (1,))}))
    assert found is not None
    assert found.for_model is None


def test_a_checkpoint_is_no_lora() -> None:
    assert (
        adapter(model({f"{UNET}out.2.bias": ("float16", (4,)), "model.layers.0.q.weight": ("float16", (4, 4))})) is None
    )
    assert adapter(model({})) is None


@pytest.mark.parametrize(
    ("name", "width", "meant"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight", 2048, "SDXL"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v.lora_down.weight", 1024, "SD2.x"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", 768, "SD1.x"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 1280, "SDXL"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", 3072, "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", 3072, "Flux"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", 4096, None),
    ],
)
def test_names_and_widths_say_for_which_model_it_is(name: str, width: int, meant: str | None) -> None:
    found = adapter(model({name: ("float32", (4, width))}))
    assert found is not None
    assert found.for_model == meant


def test_an_alpha_may_stand_in_the_configuration() -> None:
    file = model({"x.lora_A.weight": ("float32", (4, 4))}, facts={"lora_alpha": 16})
    found = adapter(file)
    assert found is not None
    assert found.alphas == {16.0: 0}


# Position ids

IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
CODES = {"int64": "q", "int32": "i", "float32": "f", "float16": "e", "float64": "d"}


@pytest.mark.parametrize("dtype", CODES)
def test_sound_position_ids_are_sound_in_any_dtype(dtype: str, tmp_path: Path) -> None:
    data = struct.pack(f"<77{CODES[dtype]}", *range(77))
    (found,) = position_ids(model({IDS: (dtype, (1, 77))}, tmp_path / "m", data))
    assert (found.name, found.dtype, found.length, found.wrong) == (IDS, dtype, 77, ())


def test_averaged_position_ids_are_wrong_where_they_are(tmp_path: Path) -> None:
    ids = [*range(77)]
    ids[6] = 5
    (found,) = position_ids(model({IDS: ("int64", (1, 77))}, tmp_path / "m", struct.pack("<77q", *ids)))
    assert found.wrong == ((6, 5),)


def test_bfloat16_is_the_first_half_of_a_float32(tmp_path: Path) -> None:
    data = b"".join(struct.pack("<f", number)[2:] for number in range(77))
    (found,) = position_ids(model({IDS: ("bfloat16", (1, 77))}, tmp_path / "m", data))
    assert found.wrong == ()


@given(st.permutations([0, 1, 2]), st.integers(0, 9))
def test_values_in_pieces_are_read_by_their_strides(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], offset: int
) -> None:
    """A view of every third number, and a number in another file."""
    folder = tmp_path_factory.mktemp("m")
    (folder / "a").write_bytes(b"x" * offset + struct.pack("<6q", order[0], 9, 9, order[1], 9, 9))
    (folder / "b").write_bytes(struct.pack("<q", order[2]))
    pieces = (Piece(0, offset, (1, 2), (6, 3)), Piece(1, 0, (1, 1), (1, 1)))
    info = TensorInfo(IDS, "int64", (1, 3), 0, 24, pieces=pieces)
    (found,) = position_ids(Model("pickle", (folder / "a", folder / "b"), (0, 8), {IDS: info}, {}))
    assert found.wrong == tuple((at, value) for at, value in enumerate(order) if at != value)


def test_what_is_not_what_it_says_is_passed_over(tmp_path: Path) -> None:
    """A tensor of another kind or size, and another name."""
    others = {IDS: ("bool", (1, 77)), "a." + IDS: ("int64", (1000, 100)), "my_embeddings.position_ids": ("int64", (3,))}
    assert position_ids(model(others, tmp_path / "m", b"")) == ()
