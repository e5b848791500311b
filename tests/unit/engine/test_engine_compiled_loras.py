"""LoRAs are baked in without torch, with the bytes that torch makes, and what is not finite is told of alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from both_ways import both_ways
from lab import Lab
from mergefiles import target_table
from torch import Tensor

from mergebuild import native
from mergebuild.build import builder

UNET = "model.diffusion_model."
BLOCK = "input_blocks.1.1.transformer_blocks.0."
LORA = f"lora_unet_{BLOCK.replace('.', '_')}"
RESIDUAL = "lora_unet_input_blocks_1_0_in_layers_2"


def _random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _base() -> Mapping[str, Tensor]:
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        f"{UNET}{BLOCK}attn2.to_k.weight": (torch.float16, (24, 40)),
        f"{UNET}{BLOCK}attn2.to_q.weight": (torch.float32, (24, 24)),
        f"{UNET}{BLOCK}norm1.weight": (torch.bfloat16, (24,)),
        f"{UNET}input_blocks.1.0.in_layers.2.weight": (torch.bfloat16, (8, 8, 3, 3)),
        f"{UNET}input_blocks.0.0.weight": (torch.float16, (8, 4, 3, 3)),
    }
    return {name: _random(*shape, seed=seed, dtype=dtype) for seed, (name, (dtype, shape)) in enumerate(shapes.items())}


def _lora(seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a LoRA of linear layers and a convolution, with alphas; a difference and a norm beside them."""
    made = partial(_random, dtype=dtype)
    return {
        f"{LORA}attn2_to_k.lora_up.weight": made(24, 5, seed=seed),
        f"{LORA}attn2_to_k.lora_down.weight": made(5, 40, seed=seed + 1),
        f"{LORA}attn2_to_k.alpha": torch.tensor(3.0, dtype=dtype),
        f"{RESIDUAL}.lora_up.weight": made(8, 3, 1, 1, seed=seed + 2),
        f"{RESIDUAL}.lora_down.weight": made(3, 8, 3, 3, seed=seed + 3),
        f"{RESIDUAL}.alpha": torch.tensor(1.0),
        f"{LORA}attn2_to_q.diff": made(24, 24, seed=seed + 4),
        f"{LORA}norm1.w_norm": made(24, seed=seed + 5),
    }


def _loha(dtype: torch.dtype) -> dict[str, Tensor]:
    shapes = {"hada_w1_a": (24, 2), "hada_w1_b": (2, 40), "hada_w2_a": (24, 3), "hada_w2_b": (3, 40)}
    return {
        f"{LORA}attn2_to_k.{role}": _random(*shape, seed=30 + seed, dtype=dtype)
        for seed, (role, shape) in enumerate(shapes.items())
    }


def _baked(lab: Lab, _patch: object = None) -> None:
    """One LoRA, several, with strengths, under other methods, and written in other dtypes."""
    lab.model("base", **_base())
    lab.model("one", **_lora(40, torch.float16))
    lab.model("two", **_lora(50, torch.bfloat16))
    lab.model("three", **_loha(torch.float32))
    adds = {"method": "add_lora", "base": "base"}
    lab.write(
        target_table("plain", **adds, loras=["one"])
        + target_table("virtual", **adds, loras=["two"], strength=-0.7, output=None)
        + target_table("many", **adds, loras=["one", "two", "three"], strength=[0.8, 0.3, -1.5])
        + target_table("more", method="add_lora", base="virtual", loras=["three"], dtype="float32")
        + target_table("half", method="scale", a="one", alpha=0.3, output=None)
        + target_table("halved", **adds, loras=["half"])
        + target_table("mixed", method="weighted_sum", a="virtual", b="plain", alpha=0.3)
        + target_table("turned", method="slerp", a="virtual", b="base", t=0.4, dtype="bfloat16")
    )


@pytest.mark.parametrize("variant", native.variants())
@pytest.mark.parametrize("chunk", [50, 1 << 19])
def test_loras_that_are_baked_in_come_out_the_same(
    variant: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "BuilderOptions", partial(builder.BuilderOptions, chunk=chunk))
    made, told = both_ways(tmp_path, monkeypatch, _baked, variant)
    assert len(made) == 6
    assert {str(each[3]) for each in told.values()} == {"None"}


def _left_to_torch(lab: Lab, _patch: object = None) -> None:
    """Factors of float64, and a weight that is decomposed, beside what is not."""
    lab.model("base", **_base())
    lab.model("wide", **_lora(40, torch.float64))
    scale = {f"{LORA}attn2_to_k.dora_scale": _random(24, 1, seed=9).abs()}
    lab.model("decomposed", **_lora(40, torch.float16), **scale)
    lab.write(
        target_table("w", method="add_lora", base="base", loras=["wide"])
        + target_table("d", method="add_lora", base="base", loras=["decomposed"])
    )


def test_what_is_left_to_torch_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = both_ways(tmp_path, monkeypatch, _left_to_torch)
    assert len(made) == 2


def _not_finite(lab: Lab, _patch: object = None) -> None:
    """In the model, and in two tensors of a LoRA."""
    base, lora = dict(_base()), _lora(40, torch.float16)
    base[f"{UNET}{BLOCK}attn2.to_k.weight"][0, 0] = torch.inf
    lora[f"{LORA}attn2_to_k.lora_up.weight"][1, 0] = torch.nan
    lora[f"{LORA}norm1.w_norm"][:2] = torch.nan
    lab.model("base", **base)
    lab.model("one", **lora)
    lab.write(
        "".join(
            target_table(word, method="add_lora", base="base", loras=["one"], nonfinite=word)
            for word in ("error", "allow")
        )
    )


def test_what_is_not_finite_is_told_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = both_ways(tmp_path, monkeypatch, _not_finite)
    text = str(told["error"][3])
    assert f"1 in `base`, 1 in `{LORA}attn2_to_k.lora_up.weight` of `one`" in text
    assert f"2 in `{LORA}norm1.w_norm` of `one`" in text
    assert told["allow"][0] == "built"


@pytest.mark.processes
def test_baking_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    _baked(lab)
    program = (
        "import sys, mergebuild\n"
        "from mergebuild.project import project\n"
        "project._LARGE = -1\n"  # while sources so large are hashed, what may be needed is loaded
        "result = mergebuild.load(sys.argv[1]).build()\n"
        "print({str(each.verdict) for each in result.targets}, sorted({'torch', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(lab / "mergefile.toml")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "{'built'} []\n"
