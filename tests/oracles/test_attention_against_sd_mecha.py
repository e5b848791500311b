"""Balancing of attention layers against sd-mecha's, called on float64 tensors of SDXL's names."""

from __future__ import annotations

import pytest
import torch
from sd_mecha.extensions.builtin.merge_methods.balance_attention.algorithms import balance_head_energy
from sd_mecha.extensions.builtin.merge_methods.balance_attention.sdxl_sgm import (
    extract_qkvo_sdxl_sgm,
    return_qkvo_sdxl_sgm,
)
from torch import Tensor

from mergebuild.methods.kernels.attention import balance, scales_of
from mergebuild.methods.scopes.attention import attentions

CLIP_L = "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn."
CLIP_G = "conditioner.embedders.1.model.transformer.resblocks.0.attn."
UNET = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2."

LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "clip_l": {
        f"{CLIP_L}{part}_proj.{kind}": (192, 192) if kind == "weight" else (192,)
        for part in ("k", "out", "q", "v")
        for kind in ("bias", "weight")
        if (part, kind) != ("out", "bias")
    },
    "clip_g": {
        f"{CLIP_G}in_proj_bias": (576,),
        f"{CLIP_G}in_proj_weight": (576, 192),
        f"{CLIP_G}out_proj.weight": (192, 192),
    },
    "unet": {
        f"{UNET}to_k.weight": (192, 300),
        f"{UNET}to_out.0.weight": (192, 192),
        f"{UNET}to_q.weight": (192, 192),
        f"{UNET}to_v.weight": (192, 300),
    },
}


@pytest.mark.parametrize("spread", [1.0, 0.02])
@pytest.mark.parametrize("kind", LAYERS)
def test_balanced(kind: str, spread: float) -> None:
    shapes = LAYERS[kind]
    source = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {name: torch.randn(shape, generator=source) * spread for name, shape in shapes.items()}
    keys = tuple(shapes)
    q, k, v, o = extract_qkvo_sdxl_sgm({name: value.double() for name, value in tensors.items()}, keys)
    sides: list[Tensor] = []
    for first, second in ((q, k), (v, o)):
        # head by head: of several, sd-mecha adds epsilon to the diagonals of other planes than it means
        heads = [balance_head_energy(x, y) for x, y in zip(first, second, strict=True)]
        sides += [torch.stack([head[side] for head in heads]) for side in (0, 1)]
    wanted = return_qkvo_sdxl_sgm(*sides, keys)
    (layer,) = attentions(shapes)
    scales = scales_of(layer, tensors)
    found = {name: balance(scales, name, tensors[name]) for name in layer.tensors}
    assert set(found) == set(keys)
    for name in keys:
        scale = float(wanted[name].abs().max())
        torch.testing.assert_close(found[name].double(), wanted[name], rtol=0, atol=1e-6 * scale)
