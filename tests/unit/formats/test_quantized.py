"""Weights of few bits: 8-bit floats with scales are products, other forms are refused, and all else is left alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from model_files import write_model

from mergebuild.errors import SourceError
from mergebuild.formats.header import Scaling, TensorInfo
from mergebuild.formats.layout import encode_header
from mergebuild.formats.model import Model, read_safetensors
from mergebuild.formats.quantized import with_scales
from mergebuild.formats.reading import UNQUANTIZED

Spec = tuple[str, Sequence[int]]

FP8 = "float8_e4m3fn"


def model(specs: Mapping[str, Spec], metadata: Mapping[str, str] | None = None) -> Model:
    """A model of such dtypes and shapes, of which there is no file."""
    _, header = encode_header([(name, dtype, tuple(shape)) for name, (dtype, shape) in specs.items()], {})
    return Model("safetensors", (Path("none"),), (header.file_size,), header.tensors, dict(metadata or {}))


def read(
    specs: Mapping[str, Spec], config: Mapping[str, object] | None = None, metadata: Mapping[str, str] | None = None
) -> Model:
    return with_scales(model(specs, metadata), "x", config)


def scalings(found: Model) -> dict[str, Scaling | None]:
    return {name: info.scale.scaling if info.scale else None for name, info in found.tensors.items()}


def refused(specs: Mapping[str, Spec], config: Mapping[str, object] | None = None, **metadata: str) -> dict[str, str]:
    """Return why tensors are refused, by name."""
    with pytest.raises(SourceError) as caught:
        read(specs, config, metadata)
    (problem,) = caught.value.problems
    assert problem.code == "quantized-weights"
    assert caught.value.exit_code == 4
    assert problem.message == "`x` holds quantized weights, which can't be merged"
    assert problem.help == UNQUANTIZED
    return dict(row[1:].split("` ", 1) for row in problem.rows if row[0] == "`")  # type: ignore[misc]


# What is read


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("scales", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", ["a.scale_weight", "a.weight_scale", "a.weight_scale_inv"])
def test_a_scale_beside_8_bit_floats_makes_a_product(dtype: str, scales: str, name: str) -> None:
    found = read({"a.weight": (dtype, (6, 4)), "a.bias": ("bfloat16", (6,)), name: (scales, (1,))})
    assert found.tensors.keys() == {"a.bias", "a.weight"}
    weight = found.tensors["a.weight"]
    assert weight.scale is not None
    assert weight.scale.info.dtype == scales
    assert (weight.dtype, weight.offered, weight.shape) == (dtype, "bfloat16", (6, 4))
    assert weight.stored == f"{dtype} scaled by {scales} over 1x24 of 24"
    assert found.tensors["a.bias"].scale is None
    (notice,) = found.notices
    assert notice == (
        f"1 weights are {dtype} times scales, and are read as these products (`source` is bfloat16);"
        " 1 tensors of scales and marks are not written"
    )


@pytest.mark.parametrize(
    ("weight", "scales", "scaling"),
    [
        ((6, 4), (), Scaling(24, 1, 24)),
        ((6, 4), (1,), Scaling(24, 1, 24)),
        ((6, 4), (1, 1), Scaling(24, 1, 24)),
        ((6, 4), (6,), Scaling(4, 1, 4)),
        ((6, 4), (6, 1), Scaling(4, 1, 4)),
        ((6, 4), (1, 4), Scaling(4, 6, 1)),
        ((6, 4), (3, 2), Scaling(4, 2, 2)),
        ((6, 4, 3, 3), (6,), Scaling(36, 1, 36)),
        ((6, 4, 3, 3), (6, 1, 1, 1), Scaling(36, 1, 36)),
        ((256, 384), (2, 3), Scaling(384, 128, 128)),
        ((200, 130), (2, 2), Scaling(130, 128, 128)),
        ((2, 256, 384), (2, 2, 3), Scaling(384, 128, 128)),
        ((2, 6, 4), (2,), Scaling(24, 1, 24)),
        ((2, 6, 4), (2, 1, 4), Scaling(4, 6, 1)),
        ((6,), (1,), Scaling(6, 1, 6)),
    ],
)
def test_scales_lie_over_a_tensor_its_rows_or_blocks(
    weight: Sequence[int], scales: Sequence[int], scaling: Scaling
) -> None:
    found = read({"a.weight": (FP8, weight), "a.weight_scale": ("float32", scales)})
    assert scalings(found) == {"a.weight": scaling}


def test_a_configuration_says_how_large_blocks_are() -> None:
    specs: dict[str, Spec] = {"a.weight": (FP8, (7, 5)), "a.weight_scale_inv": ("float32", (2, 2))}
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 3]}}
    assert scalings(read(specs, config)) == {"a.weight": Scaling(5, 4, 3)}
    assert refused(specs)


def test_experts_in_one_tensor_have_scales_named_as_they_are() -> None:
    specs: dict[str, Spec] = {
        "mlp.experts.gate_up_proj": (FP8, (2, 256, 128)),
        "mlp.experts.gate_up_proj_scale_inv": ("float32", (2, 2, 1)),
        "mlp.experts.down_proj": (FP8, (2, 128, 128)),
        "mlp.experts.down_proj_scale_inv": ("float32", (2, 1, 1)),
    }
    assert scalings(read(specs)) == {
        "mlp.experts.gate_up_proj": Scaling(128, 128, 128),
        "mlp.experts.down_proj": Scaling(128 * 128, 1, 128 * 128),
    }


def test_marks_and_scales_of_activations_are_left_behind() -> None:
    specs: dict[str, Spec] = {
        "scaled_fp8": (FP8, (0,)),
        "te.scaled_fp8": (FP8, (2,)),
        "te.a.weight": (FP8, (6, 4)),
        "te.a.scale_weight": ("float32", ()),
        "te.a.scale_input": ("float32", ()),
        "b.weight": (FP8, (6, 4)),
        "b.weight_scale": ("float32", ()),
        "b.input_scale": ("float32", ()),
        "attn.k_scale": ("float32", ()),
        "c.weight": (FP8, (6, 4)),
        "norm.scale": ("bfloat16", (4,)),
    }
    found = read(specs)
    assert found.tensors.keys() == {"te.a.weight", "b.weight", "c.weight", "norm.scale"}
    assert {name for name, info in found.tensors.items() if info.scale} == {"te.a.weight", "b.weight"}


def test_marks_alone_are_left_behind_and_8_bit_floats_stay() -> None:
    found = read({"scaled_fp8": (FP8, (0,)), "a.weight": (FP8, (6, 4))})
    assert scalings(found) == {"a.weight": None}
    assert found.notices == ("1 marks of a quantization that its tensors do not have are left out",)


def test_comfyui_says_of_each_layer_how_it_is_stored(tmp_path: Path) -> None:
    def file(form: object) -> Model:
        text = form if isinstance(form, bytes) else json.dumps(form).encode()
        tensors = {
            "a.weight": torch.zeros(4, 4, dtype=torch.float8_e4m3fn),
            "a.weight_scale": torch.ones(()),
            "a.comfy_quant": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        }
        return with_scales(read_safetensors(write_model(tmp_path / "x.safetensors", tensors), "x"), "x")

    assert list(file({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).tensors) == ["a.weight"]
    assert list(file({"format": "float8_e4m3fn_rowwise"}).tensors) == ["a.weight"]
    assert list(file(b"\xff").tensors) == ["a.weight"]
    for other in ({"format": "mxfp8"}, {"format": "float8_e4m3fn", "convrot": True}):
        with pytest.raises(SourceError, match="quantized"):
            file(other)


def test_a_header_that_names_layers_holds_them_to_it() -> None:
    said = json.dumps({"format_version": "1.0", "layers": {"blocks.0.a": {"format": "float8_e4m3fn"}}})
    specs: dict[str, Spec] = {
        "model.blocks.0.a.weight": (FP8, (4, 4)),
        "model.blocks.0.a.weight_scale": ("float32", ()),
        "model.b.weight": (FP8, (4, 4)),
    }
    found = read(specs, metadata={"_quantization_metadata": said})
    assert {name for name, info in found.tensors.items() if info.scale} == {"model.blocks.0.a.weight"}
    del specs["model.blocks.0.a.weight_scale"]
    assert refused(specs, _quantization_metadata=said) == {
        "model.blocks.0.a.weight": "is marked as quantized, and has no scales"
    }
    assert read(specs, metadata={"_quantization_metadata": "{"}).tensors.keys() == specs.keys()


# What is refused


UNKNOWN: Mapping[str, Mapping[str, Spec]] = {
    "scales of another number": {"a.weight": (FP8, (6, 4)), "a.weight_scale": ("float32", (4,))},
    "scales that are no numbers": {"a.weight": (FP8, (8, 64)), "a.weight_scale": ("uint8", (8, 2))},
    "two scales": {"a.weight": (FP8, (6, 4)), "a.weight_scale": ("float32", ()), "a.scale_weight": ("float32", ())},
    "a second scale": {
        "a.weight": (FP8, (6, 4)),
        "a.weight_scale": ("float32", ()),
        "a.weight_scale_2": ("float32", ()),
    },
    "a zero point": {"a.weight": (FP8, (6, 4)), "a.weight_scale": ("float32", ()), "a.weight_zero_point": ("int8", ())},
    "smoothing": {"a.weight": (FP8, (6, 4)), "a.weight_scale": ("float32", ()), "a.pre_quant_scale": ("float32", (4,))},
    "a bare scale": {"a.weight": (FP8, (6, 4)), "a.scale": ("float32", (6, 1))},
    "an input's scale alone": {"a.weight": (FP8, (6, 4)), "a.input_scale": ("float32", ())},
    "int8 with scales": {"a.weight": ("int8", (6, 4)), "a.weight_scale": ("float32", (6, 1))},
    "int8 of bitsandbytes": {"a.weight": ("int8", (6, 4)), "a.SCB": ("float32", (6,))},
    "nf4 of bitsandbytes": {
        "a.weight": ("uint8", (12, 1)),
        "a.weight.absmax": ("uint8", (1,)),
        "a.weight.quant_map": ("float32", (16,)),
        "a.weight.quant_state.bitsandbytes__nf4": ("uint8", (80,)),
    },
    "GPTQ": {
        "a.qweight": ("int32", (8, 16)),
        "a.qzeros": ("int32", (1, 2)),
        "a.scales": ("float16", (1, 16)),
        "a.g_idx": ("int32", (64,)),
    },
    "Marlin": {"a.B": ("int32", (4, 128)), "a.s": ("float16", (1, 64))},
    "packed by compressed-tensors": {
        "a.weight_packed": ("int32", (6, 8)),
        "a.weight_scale": ("bfloat16", (6, 2)),
        "a.weight_shape": ("int64", (2,)),
    },
    "NVFP4": {
        "a.weight": ("uint8", (8, 16)),
        "a.weight_scale": (FP8, (8, 2)),
        "a.weight_scale_2": ("float32", ()),
        "a.input_scale": ("float32", ()),
    },
    "MXFP4": {"mlp.down_proj_blocks": ("uint8", (2, 8, 2, 16)), "mlp.down_proj_scales": ("uint8", (2, 8, 2))},
    "quanto": {
        "a.weight._data": ("int8", (6, 4)),
        "a.weight._scale": ("bfloat16", (6, 1)),
        "a.input_scale": ("bfloat16", ()),
    },
    "quanto's 8-bit floats": {"a.weight._data": (FP8, (6, 4)), "a.weight._scale": ("bfloat16", ())},
    "torchao": {"a.weight_qdata": ("int8", (6, 4)), "a.weight_scale": ("float32", (6,))},
    "torchao's 8-bit floats": {"a.weight_qdata": (FP8, (6, 4)), "a.weight_scale": ("float32", (6, 1))},
    "HQQ": {"a.W_q": ("uint8", (6, 4)), "a.scale": ("float16", (6, 1)), "a.zero": ("float16", (6, 1))},
    "AQLM": {
        "a.codes": ("int8", (6, 4, 1)),
        "a.codebooks": ("float16", (1, 256, 1, 8)),
        "a.scales": ("float16", (6, 1, 1, 1)),
    },
    "QuIP": {"a.Qidxs": ("int64", (6, 4)), "a.Wscale": ("float32", ()), "a.SU": ("float16", (32,))},
    "EXL2": {"a.q_weight": ("int32", (8, 16)), "a.q_scale": ("int32", (2, 2)), "a.q_scale_max": ("float16", (2,))},
    "EXL3": {"a.trellis": ("int16", (4, 2, 48)), "a.suh": ("float16", (64,)), "a.svh": ("float16", (32,))},
    "MLX": {"a.weight": ("uint32", (6, 8)), "a.scales": ("float16", (6, 1)), "a.biases": ("float16", (6, 1))},
    "SVDQuant": {"a.qweight": ("int8", (8, 8)), "a.wscales": ("bfloat16", (1, 8)), "a.smooth": ("bfloat16", (16,))},
    "SDNQ": {"a.weight": ("uint8", (6, 4)), "a.scale": ("float32", (6, 1)), "a.zero_point": ("float32", (6, 1))},
    "bytes of GGUF": {"a.weight": ("uint8", (6, 34))},
    "names that nobody knows": {"a.w4": ("uint8", (8, 16)), "a.s": ("float16", (8, 2)), "a.m": ("float16", (8, 2))},
}  # fmt: skip


@pytest.mark.parametrize("specs", UNKNOWN.values(), ids=UNKNOWN)
def test_every_other_form_is_refused(specs: Mapping[str, Spec]) -> None:
    assert refused({**specs, "norm.weight": ("bfloat16", (4,))})


def test_a_refusal_says_what_was_found() -> None:
    assert refused(UNKNOWN["int8 with scales"]) == {
        "a.weight": "(int8 [6, 4]) has `weight_scale` beside it",
        "a.weight_scale": "is a part of a quantized weight",
    }
    assert refused(UNKNOWN["scales of another number"]) == {
        "a.weight": "has scales (`weight_scale`, float32 [4]) of no known form"
    }
    assert refused(UNKNOWN["bytes of GGUF"]) == {"a.weight": "is uint8 [6, 34]"}


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale", "weight_scale_inv", "gate_up_proj_scale_inv"])
def test_scales_without_8_bit_floats_are_refused(name: str) -> None:
    assert refused({"b.weight": ("bfloat16", (6, 4)), f"a.{name}": ("float32", ())})
    assert refused({"a.weight": ("bfloat16", (6, 4)), f"a.{name}": ("float32", ())})


def test_a_configuration_is_believed_of_weights_of_few_bits() -> None:
    config = {"text_config": {"quantization_config": {"quant_method": "torchao"}}}
    specs: dict[str, Spec] = {"a.weight": (FP8, (6, 4)), "b.weight": ("bfloat16", (6, 4))}
    assert read(specs).tensors.keys() == specs.keys()
    with pytest.raises(SourceError) as caught:
        read(specs, config)
    (problem,) = caught.value.problems
    told = "`x/config.json` has a `text_config.quantization_config` (torchao)"
    assert problem.message == f"{told}: its weights are quantized, and can't be merged"
    assert problem.rows == ("`a.weight` is float8_e4m3fn [6, 4], without known scales",)


def test_weights_that_were_turned_before_are_refused() -> None:
    config = {"quantization_config": {"quant_method": "compressed-tensors", "transform_config": {"R1": {}}}}
    specs: dict[str, Spec] = {"a.weight": (FP8, (6, 4)), "a.weight_scale": ("float32", ())}
    with pytest.raises(SourceError, match="quantized") as caught:
        read(specs, config)
    assert caught.value.problems[0].rows == ("`a.weight` was turned, as `quantization_config` says",)


# What is left alone


ORDINARY: Mapping[str, Mapping[str, Spec]] = {
    "8-bit floats": {"a.weight": (FP8, (6, 4)), "a.bias": (FP8, (6,)), "norm.scale": (FP8, (4,))},
    "positions": {"te.embeddings.position_ids": ("int64", (1, 77)), "vision.position_ids": ("int32", (1, 257))},
    "a counter": {"bn.weight": ("float32", (4,)), "bn.num_batches_tracked": ("int64", ())},
    "CLIP in 8 bits": {
        "m.text_projection": (FP8, (8, 8)),
        "m.positional_embedding": (FP8, (77, 8)),
        "m.logit_scale": ("float32", ()),
        "m.attn_mask": ("uint8", (77, 77)),
    },
    "GPT-2's mask": {"attn.bias": ("uint8", (1, 1, 32, 32)), "attn.masked_bias": ("float32", ())},
    "a mask beside a weight": {"a.weight_orig": ("float32", (6, 4)), "a.weight_mask": ("uint8", (6, 4))},
    "Swin": {
        "attn.logit_scale": ("float32", (3, 1, 1)),
        "attn.relative_position_index": ("int64", (49, 49)),
        "attn.relative_position_bias_table": ("float32", (169, 3)),
    },
    "an index of 32 bits": {"attn.index": ("int32", (49, 49)), "attn.table": ("float32", (169, 3))},
    "layer scale": {"b.layer_scale.lambda1": ("float32", (4,)), "b.ls1.gamma": (FP8, (4,)), "b.weight": (FP8, (4, 4))},
    "a LoRA": {
        "lora_unet_a.lora_up.weight": (FP8, (6, 2)),
        "lora_unet_a.lora_down.weight": (FP8, (2, 4)),
        "lora_unet_a.alpha": ("float32", ()),
        "lora_unet_a.scale": ("float32", ()),
        "lora_unet_a.dora_scale": ("float32", (6, 1)),
    },
    "LoKr": {"lora_unet_a.lokr_w1": (FP8, (2, 2)), "lora_unet_a.scale": ("float32", ())},
    "a learnt temperature": {"attn.scale": ("float32", ()), "attn.mask": ("uint8", (16, 16))},
    "a VAE": {"quant_conv.weight": (FP8, (8, 8, 1, 1)), "post_quant_conv.weight": (FP8, (4, 4, 1, 1))},
    "vector quantization": {"quantize.embedding.weight": (FP8, (16, 4)), "quantize.used": ("int32", (16,))},
    "levels": {"q._levels": ("int32", (5,)), "q._basis": ("int32", (5,)), "q.codebook": ("float32", (16, 5))},
    "learnt scales": {"attn.q_scale": ("float32", (64,)), "attn.in_proj_weight": (FP8, (12, 4))},
    "a table of scale and shift": {"b.scale_shift_table": (FP8, (6, 4)), "b.weight": (FP8, (4, 4))},
}  # fmt: skip


@pytest.mark.parametrize("specs", ORDINARY.values(), ids=ORDINARY)
def test_what_only_looks_like_it_is_left_alone(specs: Mapping[str, Spec]) -> None:
    given = model(specs)
    assert with_scales(given, "x") == given


def test_a_configuration_without_quantized_weights_is_a_notice() -> None:
    config = {
        "quantization_config": {"quant_method": "bitsandbytes"},
        "vision_config": {"compression_config": {"a": 1}},
    }
    found = read({"a.weight": ("float32", (6, 4)), "attn.bias": ("uint8", (1, 1, 32, 32))}, config)
    assert list(found.tensors.values()) == list(
        model({"a.weight": ("float32", (6, 4)), "attn.bias": ("uint8", (1, 1, 32, 32))}).tensors.values()
    )
    assert found.notices == (
        "`x/config.json` has a `quantization_config` (bitsandbytes), and no tensor is quantized: it is not written",
        "`x/config.json` has a `vision_config.compression_config`, and no tensor is quantized: it is not written",
    )


@pytest.mark.parametrize("value", [None, {}, []])
def test_a_configuration_that_says_nothing_is_no_notice(value: object) -> None:
    assert not read({"a.weight": ("float32", (6, 4))}, {"quantization_config": value}).notices


def test_most_models_are_not_looked_at_closely() -> None:
    given = model({f"b.{number}.weight": ("bfloat16", (4, 4)) for number in range(3)})
    assert with_scales(given, "x") is given


def test_the_identity_of_a_product_has_its_scales() -> None:
    def stored(scales: str, shape: Sequence[int]) -> str:
        info: TensorInfo = read({"a.weight": (FP8, (6, 4)), "a.weight_scale": (scales, shape)}).tensors["a.weight"]
        return info.stored

    assert stored("float32", ()) == stored("float32", (1, 1))
    assert len({stored("float32", ()), stored("bfloat16", ()), stored("float32", (6,)), FP8}) == 4
