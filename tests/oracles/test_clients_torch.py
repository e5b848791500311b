"""Checkpoints that we build load in torch, with nothing allowed but tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from client_models import build, merged_tensor, weighted_sum
from safetensors.torch import load_file, save_file


def tensors(seed: int) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    return {
        "model.diffusion_model.time_embed.0.weight": torch.randn(320, 64, generator=noise),
        "model.diffusion_model.out.2.weight": torch.randn(4, 32, 3, 3, generator=noise),
        "first_stage_model.quant_conv.bias": torch.randn(8, generator=noise),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "scalar": torch.randn((), generator=noise),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_checkpoint_loads_in_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    a, b = tensors(1), tensors(2)
    save_file(a, tmp_path / "a.safetensors")
    torch.save({"state_dict": b, "global_step": 7}, tmp_path / "b.ckpt")
    text = weighted_sum(f'dtype = "{str(dtype).removeprefix("torch.")}"')
    for old, new in (("a/", "a.safetensors"), ("b/", "b.ckpt"), ("out/merged/", "out/merged.ckpt")):
        text = text.replace(f'"{old}"', f'"{new}"')
    build(tmp_path, text)
    for mmap in (False, True):
        found = torch.load(tmp_path / "out" / "merged.ckpt", weights_only=True, mmap=mmap)
        found = found.get("state_dict", found)
        assert found.keys() == a.keys()
        for name, tensor in found.items():
            expected = merged_tensor(a[name], b[name])
            assert torch.equal(tensor, expected.to(dtype) if expected.is_floating_point() else expected), name


def test_tensors_are_the_same_after_a_way_through_a_checkpoint(tmp_path: Path) -> None:
    made = {"w": torch.randn(33, 7), "half": torch.randn(5).half(), "ids": torch.arange(9), "b": torch.tensor([True])}
    torch.save(made, tmp_path / "first.ckpt")
    build(
        tmp_path,
        """
[sources]
first = "first.ckpt"
[targets.safe]
method = "copy"
a = "first"
output = "out/safe.safetensors"
[targets.back]
method = "copy"
a = "safe"
output = "out/back.ckpt"
""",
    )
    safe = load_file(tmp_path / "out" / "safe.safetensors")
    back = torch.load(tmp_path / "out" / "back.ckpt", weights_only=True)
    back = back.get("state_dict", back)
    for found in (safe, back):
        assert found.keys() == made.keys()
        for name, tensor in found.items():
            assert tensor.dtype == made[name].dtype
            assert torch.equal(tensor, made[name])
