"""Buffers that follow from an architecture are the first input's, whatever the method."""

from __future__ import annotations

from pathlib import Path

import torch
from lab import Lab
from safetensors.torch import save_file

_MASK = "h.0.attn.bias"
_FREQUENCIES = "h.0.attn.rotary_emb.inv_freq"


def test_buffers_of_an_architecture_are_never_merged_and_never_a_reason_to_fail(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for name, sign in (("a", 1.0), ("b", -1.0)):
        tensors = {"h.0.attn.c_attn.weight": torch.full((2, 6), sign), "wte.weight": torch.full((3, 2), sign)}
        tensors[_MASK] = torch.full((1, 1, 4, 4), float("-inf") * sign if name == "a" else 0.0)
        if name == "a":
            tensors[_FREQUENCIES] = torch.tensor([1.0, 0.5])
        save_file(tensors, lab / f"{name}.safetensors")
        lab.sources[name] = f"{name}.safetensors"
    lab.write(
        '[targets.m]\nmethod = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.5\nmissing = "error"\n'
        'output = "m.safetensors"\n'
    )
    assert lab.verdicts() == {"m": "built"}
    made = lab.read("m.safetensors")
    assert made["wte.weight"].eq(0).all()
    assert made[_MASK].eq(float("-inf")).all()
    assert made[_FREQUENCIES].tolist() == [1.0, 0.5]
