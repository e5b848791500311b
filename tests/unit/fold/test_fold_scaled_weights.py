"""Scaled 8-bit floats are the weights that they mean, wherever they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from lab import Lab
from model_files import same_bits, write_model
from torch import Tensor

from mergebuild.project.inspect import inspect

FP8 = torch.float8_e4m3fn

MIX = """
[targets.t]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.3
output = "t.safetensors"
"""
COPY = """
[targets.t]
method = "copy"
a = "b"
output = "t.safetensors"
"""


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def numbers(seed: int, *shape: int) -> Tensor:
    """8-bit floats."""
    return (100 * drawn(seed, *shape)).to(FP8)


def product(weight: Tensor, scale: Tensor) -> Tensor:
    """What they mean, in float64."""
    return weight.double() * scale.double()


def source(lab: Lab, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    lab.sources[name] = f"{name}.safetensors"
    return write_model(lab.root / lab.sources[name], tensors, metadata)


A = {"x.weight": drawn(1, 6, 4), "x.bias": drawn(2, 6), "norm.weight": drawn(3, 4)}
SCALES = {
    "tensor": torch.tensor(0.0123),
    "one": torch.tensor([0.0123]),
    "bfloat16": torch.tensor(0.0123, dtype=torch.bfloat16),
    "rows": drawn(4, 6, 1).abs() / 10,
    "columns": drawn(4, 1, 4).abs() / 10,
    "blocks": drawn(4, 3, 2).abs() / 10,
}


def scaled(scale: Tensor, weight: Tensor | None = None, name: str = "weight_scale") -> dict[str, Tensor]:
    return {**A, "x.weight": numbers(5, 6, 4) if weight is None else weight, f"x.{name}": scale}


def whole(scale: Tensor) -> Tensor:
    """A scale for each element."""
    if scale.dim() < 2:
        return scale.reshape(1, 1).expand(6, 4)
    return scale.repeat_interleave(6 // scale.shape[0], 0).repeat_interleave(4 // scale.shape[1], 1)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_a_merge_is_of_the_products(lab: Lab, scale: Tensor) -> None:
    tensors = scaled(scale)
    source(lab, "a", A)
    source(lab, "b", tensors)
    lab.write(MIX)
    lab.build()
    found = lab.read("t.safetensors")
    assert found.keys() == A.keys()
    meant = product(tensors["x.weight"], whole(scale))
    torch.testing.assert_close(
        found["x.weight"].double(), 0.7 * A["x.weight"].double() + 0.3 * meant, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("dtype", ["source", "float32", "float16", "float8_e4m3fn"])
def test_a_copy_is_the_products_rounded_once(lab: Lab, scale: Tensor, dtype: str) -> None:
    tensors = scaled(scale)
    source(lab, "b", tensors)
    lab.write(COPY + f'dtype = "{dtype}"')
    (target,) = lab.build().targets
    to = torch.bfloat16 if dtype == "source" else getattr(torch, dtype)
    meant = product(tensors["x.weight"], whole(scale))
    wanted = (
        meant.to(torch.float32) if dtype == "float32" else meant.half() if dtype == "float16" else meant.float().to(to)
    )
    assert same_bits(lab.read("t.safetensors")["x.weight"], wanted)
    assert any("read as these products (`source` is bfloat16)" in each for each in target.notices)
    assert lab.verdicts() == {"t": "up-to-date"}


@pytest.mark.parametrize("method", ["max", "slerp", "plus_random"])
def test_every_kind_of_method_reads_the_products(lab: Lab, method: str) -> None:
    """What it makes is what it makes of the products, stored in float32."""
    inputs = {
        "max": 'a = "a"\nb = "b"',
        "slerp": 'a = "a"\nb = "b"\nt = 0.3',
        "plus_random": 'a = "b"\nalpha = 0.1\nseed = 1',
    }
    tensors = scaled(SCALES["blocks"])
    source(lab, "a", A)
    source(lab, "b", tensors)
    text = f'[targets.t]\nmethod = "{method}"\n{inputs[method]}\ndtype = "float32"\noutput = "t.safetensors"\n'
    lab.write(text)
    lab.build()
    found = lab.read("t.safetensors")
    source(lab, "b", {**A, "x.weight": product(tensors["x.weight"], whole(SCALES["blocks"])).float()})
    lab.build()
    again = lab.read("t.safetensors")
    assert all(same_bits(found[name], again[name]) for name in A)


def test_another_scale_is_another_artifact_and_builds_that_tensor_alone(lab: Lab) -> None:
    source(lab, "a", A)
    source(lab, "b", scaled(torch.tensor(0.5)))
    lab.write(MIX)
    (first,) = lab.build().targets
    lab.settle()
    source(lab, "b", scaled(torch.tensor(0.25)))
    (second,) = lab.build().targets
    assert first.artifact != second.artifact
    assert (second.tensors_computed, second.tensors_reused) == (1, 2)
    built = lab.read("t.safetensors")
    (lab / "t.safetensors").unlink()
    lab.project.clean(())
    lab.build()
    assert all(same_bits(built[name], each) for name, each in lab.read("t.safetensors").items())


def test_an_input_scale_and_marks_change_nothing(lab: Lab) -> None:
    source(lab, "b", scaled(torch.tensor(0.5), name="scale_weight"))
    lab.write(COPY)
    (first,) = lab.build().targets
    lab.settle()
    tensors = scaled(torch.tensor(0.5), name="scale_weight")
    source(lab, "b", {**tensors, "x.scale_input": torch.tensor(2.0), "scaled_fp8": torch.empty(0, dtype=FP8)})
    (second,) = lab.build().targets
    assert (first.artifact, second.tensors_computed) == (second.artifact, 0)


def test_first_and_second_sight_make_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    source(lab, "a", A)
    source(lab, "b", scaled(SCALES["rows"]))
    lab.write(MIX)
    (hashed,) = lab.build().targets
    monkeypatch.setattr("mergebuild.plan.describe.SMALL", -1)
    other = Lab(lab.root / "again")
    other.root.mkdir()
    source(other, "a", A)
    source(other, "b", scaled(SCALES["rows"]))
    other.write(MIX)
    (unseen,) = other.build().targets
    assert unseen.artifact == hashed.artifact
    assert (other / "t.safetensors").read_bytes() == (lab / "t.safetensors").read_bytes()
    assert other.verdicts() == {"t": "up-to-date"}


def test_shares_are_of_the_source_as_the_recipe_says(lab: Lab) -> None:
    source(lab, "a", A)
    source(lab, "b", scaled(torch.tensor(0.0123)))
    lab.write(MIX)
    lab.build()
    assert "1/3" not in str(lab.project.lineage("t"))
    assert "3/10" in str(lab.project.lineage("t"))


def test_a_scale_that_is_no_number_is_told_as_any_value_that_is_none(lab: Lab) -> None:
    source(lab, "b", scaled(torch.tensor(float("nan"))))
    lab.write(COPY)
    (target,) = lab.build().targets
    assert target.error is not None
    assert target.error.code == "nonfinite"
    assert any("x.weight" in row and "`b`" in row for row in target.error.rows), target.error


def test_too_large_a_product_is_told_as_an_overflow(lab: Lab) -> None:
    source(lab, "b", scaled(torch.tensor(1e4)))
    lab.write(COPY + 'dtype = "float16"')
    (target,) = lab.build().targets
    assert target.error is not None
    assert "overflow" in str(target.error)


# LoRAs, components, folders


def test_a_lora_is_extracted_from_the_products(lab: Lab) -> None:
    base = {"model.layers.0.self_attn.q_proj.weight": drawn(1, 6, 4), "lm_head.weight": drawn(2, 6, 4)}
    weight, scale = numbers(3, 6, 4), torch.tensor(0.01)
    name = "model.layers.0.self_attn.q_proj"
    source(lab, "base", base)
    source(lab, "tuned", {**base, f"{name}.weight": weight, f"{name}.weight_scale": scale})
    lab.write('[targets.t]\nmethod = "extract_lora"\nbase = "base"\na = "tuned"\nrank = 4\noutput = "t.safetensors"\n')
    lab.build()
    made = lab.read("t.safetensors")
    (up,) = (each for key, each in made.items() if name in key and "lora_B" in key)
    (down,) = (each for key, each in made.items() if name in key and "lora_A" in key)
    difference = product(weight, scale) - base[f"{name}.weight"]
    torch.testing.assert_close(up.double() @ down.double(), difference, rtol=1e-3, atol=1e-3)


def test_a_lora_is_added_to_the_products(lab: Lab) -> None:
    name = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    module = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    weight, scale = numbers(3, 6, 4), torch.tensor(0.01)
    up, down = drawn(4, 6, 2), drawn(5, 2, 4)
    source(lab, "base", {f"{name}.weight": weight, f"{name}.scale_weight": scale})
    source(lab, "style", {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down})
    lab.write(
        """
        [targets.t]
        method = "add_lora"
        base = "base"
        loras = ["style"]
        dtype = "float32"
        output = "t.safetensors"
        """
    )
    lab.build()
    found = lab.read("t.safetensors")
    assert found.keys() == {f"{name}.weight"}
    wanted = product(weight, scale) + up.double() @ down.double()
    torch.testing.assert_close(found[f"{name}.weight"].double(), wanted, rtol=1e-6, atol=1e-6)


def test_a_folder_is_written_without_what_says_that_it_was_quantized(lab: Lab) -> None:
    name = "model.layers.0.self_attn.q_proj"
    weight, scale = numbers(1, 200, 130), drawn(2, 2, 2).abs()
    folder = lab / "b"
    write_model(folder / "model.safetensors", {f"{name}.weight": weight, f"{name}.weight_scale_inv": scale})
    config = {"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    lab.sources["b"] = "b/"
    lab.write('[targets.t]\nmethod = "copy"\na = "b"\noutput = "t/"\n')
    lab.build()
    meant = product(weight, scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:200, :130])
    assert same_bits(lab.read("t/model.safetensors")[f"{name}.weight"], meant.float().bfloat16())
    assert not (lab / "t/hf_quant_config.json").exists()
    assert json.loads((lab / "t/config.json").read_text()) == {"model_type": "deepseek_v3", "torch_dtype": "bfloat16"}


# Under other names


def test_one_scaled_text_encoder_within_a_checkpoint_is_its_products(lab: Lab) -> None:
    name = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    model = {
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": drawn(1, 12, 4),
        f"{name}.weight": drawn(2, 4, 4),
    }
    weight, scale = numbers(3, 4, 4), torch.tensor([0.01])
    mark = {"text_encoders.t5xxl.transformer.scaled_fp8": torch.empty(0, dtype=FP8)}
    source(lab, "a", model)
    source(lab, "b", {**model, f"{name}.weight": weight, f"{name}.scale_weight": scale, **mark})
    lab.write(MIX)
    lab.build()
    found = lab.read("t.safetensors")
    assert found.keys() == model.keys()
    wanted = 0.7 * model[f"{name}.weight"].double() + 0.3 * product(weight, scale)
    torch.testing.assert_close(found[f"{name}.weight"].double(), wanted, rtol=1e-6, atol=1e-7)


ATTENTION = "model.layers.0.self_attn."
MLP = "model.layers.0.mlp."
WIDTHS = {"q": 8, "k": 2, "v": 2}


def split_llama() -> dict[str, Tensor]:
    made = {f"{ATTENTION}{each}_proj.weight": drawn(seed, rows, 8) for seed, (each, rows) in enumerate(WIDTHS.items())}
    made |= {f"{ATTENTION}o_proj.weight": drawn(4, 8, 8), f"{MLP}down_proj.weight": drawn(5, 8, 6)}
    made |= {f"{MLP}{each}_proj.weight": drawn(seed, 6, 8) for seed, each in enumerate(("gate", "up"), 6)}
    made |= {"model.embed_tokens.weight": drawn(8, 10, 8), "model.norm.weight": drawn(9, 8)}
    return made | {"lm_head.weight": drawn(10, 10, 8)}


@pytest.mark.parametrize("kind", ["tensor", "rows", "blocks"])
def test_fused_layers_with_scales_merge_with_split_ones_both_ways(lab: Lab, kind: str) -> None:
    split = split_llama()
    parts = {f"{ATTENTION}{each}_proj.weight" for each in "qkv"} | {
        f"{MLP}{each}_proj.weight" for each in ("gate", "up")
    }
    fused = {name: each for name, each in split.items() if name not in parts}
    shape = {"tensor": (), "rows": (12, 1), "blocks": (6, 2)}[kind]
    qkv, qkv_scale = numbers(11, 12, 8), drawn(12, *shape).abs() / 10
    gate_up, gate_up_scale = numbers(13, 12, 8), drawn(14, *shape).abs() / 10
    spread = [
        each if not shape else each.repeat_interleave(12 // shape[0], 0).repeat_interleave(8 // shape[1], 1)
        for each in (qkv_scale, gate_up_scale)
    ]
    meant = {
        f"{ATTENTION}qkv_proj.weight": product(qkv, spread[0]),
        f"{MLP}gate_up_proj.weight": product(gate_up, spread[1]),
    }
    stored = {
        **fused,
        f"{ATTENTION}qkv_proj.weight": qkv,
        f"{ATTENTION}qkv_proj.weight_scale": qkv_scale,
        f"{MLP}gate_up_proj.weight": gate_up,
        f"{MLP}gate_up_proj.weight_scale": gate_up_scale,
    }
    source(lab, "a", split)
    source(lab, "b", stored)
    lab.write(
        MIX
        + MIX.replace("targets.t", "targets.u")
        .replace('a = "a"\nb = "b"', 'a = "b"\nb = "a"')
        .replace("t.safe", "u.safe")
        + 'dtype = "float32"'
    )
    lab.build()
    cut = dict(zip("qkv", meant[f"{ATTENTION}qkv_proj.weight"].split([8, 2, 2]), strict=True))
    found = lab.read("t.safetensors")
    assert found.keys() == split.keys()
    for each, part in cut.items():
        name = f"{ATTENTION}{each}_proj.weight"
        wanted = 0.7 * split[name].double() + 0.3 * part
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-6, atol=1e-6)
    found = lab.read("u.safetensors")
    assert found.keys() == {*fused, *meant}
    ours = torch.cat([split[f"{MLP}{each}_proj.weight"] for each in ("gate", "up")]).double()
    wanted = 0.7 * meant[f"{MLP}gate_up_proj.weight"] + 0.3 * ours
    torch.testing.assert_close(found[f"{MLP}gate_up_proj.weight"].double(), wanted, rtol=1e-6, atol=1e-6)


def test_a_text_encoder_with_a_scale_for_each_of_three_becomes_one_tensor(lab: Lab) -> None:
    """The text encoder of SD2 in names of transformers has queries, keys and values apart."""
    part = "cond_stage_model.model.transformer.resblocks.0.attn"
    model = {
        "model.diffusion_model.input_blocks.0.0.weight": drawn(1, 4, 4, 3, 3),
        "cond_stage_model.model.ln_final.weight": drawn(2, 8),
        f"{part}.in_proj_weight": drawn(3, 24, 8),
        f"{part}.out_proj.weight": drawn(4, 8, 8),
    }
    inner = "text_model.encoder.layers.0.self_attn"
    scales = {"q": torch.tensor(0.01), "k": torch.tensor(0.02), "v": torch.tensor(0.03)}
    weights = {each: numbers(seed, 8, 8) for seed, each in enumerate(scales, 5)}
    text = {f"{inner}.{each}_proj.weight": weight for each, weight in weights.items()}
    text |= {f"{inner}.{each}_proj.scale_weight": scale for each, scale in scales.items()}
    source(lab, "b", model)
    source(lab, "text", text)
    lab.write(COPY + 'components.text_encoder = "text"')
    lab.build()
    wanted = torch.cat([product(weights[each], scales[each]) for each in "qkv"])
    assert same_bits(lab.read("t.safetensors")[f"{part}.in_proj_weight"], wanted.float().bfloat16())


@pytest.mark.parametrize("shape", [(), (6, 1)], ids=["tensor", "rows"])
@pytest.mark.parametrize("method", ["weighted_sum", "max"])
@pytest.mark.parametrize("is_wide", [True, False])
def test_first_layers_of_other_channels_merge_in_those_that_both_have(
    lab: Lab, shape: tuple[int, ...], method: str, is_wide: bool
) -> None:
    """Whichever of them is scaled, or both, and whichever is first."""
    rest = {"double_blocks.0.img_attn.qkv.weight": drawn(1, 12, 4), "img_in.bias": drawn(2, 6)}
    wide, narrow = numbers(3, 6, 8), numbers(4, 6, 4)
    scales = [drawn(seed, *shape).abs() / 10 for seed in (5, 6)]
    meant = [product(weight, scale) for weight, scale in zip((wide, narrow), scales, strict=True)]
    source(lab, "wide", {**rest, "img_in.weight": wide, "img_in.weight_scale": scales[0]})
    source(lab, "narrow", {**rest, "img_in.weight": narrow, "img_in.weight_scale": scales[1]})
    first, second = ("wide", "narrow") if is_wide else ("narrow", "wide")
    amount = "alpha = 0.3" if method == "weighted_sum" else ""
    lab.write(
        f"""
        [targets.t]
        method = "{method}"
        a = "{first}"
        b = "{second}"
        {amount}
        on_channels = "common"
        dtype = "float32"
        output = "t.safetensors"
        """
    )
    lab.build()
    one, other = meant[not is_wide], meant[is_wide]
    common = torch.maximum(one[:, :4], other[:, :4]) if method == "max" else 0.7 * one[:, :4] + 0.3 * other[:, :4]
    wanted = torch.cat([common, one[:, 4:]], 1)
    torch.testing.assert_close(lab.read("t.safetensors")["img_in.weight"].double(), wanted, rtol=1e-6, atol=1e-6)


# What is said


def test_what_says_that_a_file_was_quantized_is_in_no_header(lab: Lab) -> None:
    said = json.dumps({"format_version": "1.0", "layers": {"x": {"format": "float8_e4m3fn"}}})
    source(lab, "b", scaled(torch.tensor(0.5)), {"_quantization_metadata": said, "format": "pt"})
    lab.write(COPY + 'metadata = "full"')
    lab.build()
    assert b"_quantization_metadata" not in (lab / "t.safetensors").read_bytes()


def test_inspect_says_that_weights_are_scaled(lab: Lab) -> None:
    path = source(lab, "b", scaled(torch.tensor(0.5)))
    found = inspect(path, with_tensors=True)
    assert found.dtypes == {"float32": 2, "scaled float8_e4m3fn": 1}
    assert ("x.weight", "scaled float8_e4m3fn", (6, 4), 28) in found.tensor_list
    assert "scaled float8_e4m3fn 41 %" in found.facts["precision"]
    assert "times scales" in found.notices[0]


def test_a_checkpoint_of_pytorch_has_scales_as_well(lab: Lab) -> None:
    tensors = scaled(SCALES["rows"])
    torch.save({"state_dict": tensors}, lab / "b.ckpt")
    lab.sources["b"] = "b.ckpt"
    lab.write(COPY + 'dtype = "float32"')
    lab.build()
    assert same_bits(lab.read("t.safetensors")["x.weight"], product(tensors["x.weight"], SCALES["rows"]).float())
    digest = lab.build().targets[0].artifact
    source(lab, "b", tensors)
    lab.write(COPY + 'dtype = "float32"')
    (target,) = lab.build().targets
    assert (target.artifact, str(target.verdict)) == (digest, "up-to-date")
