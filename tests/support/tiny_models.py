"""Models of a few kilobytes with the tensor names of Stable Diffusion, and random weights distributed like real ones.

Every block of the layout has tensors, such as attention, norms and integers; some are whole pages of a file, most are
not. A model is a function of its seed; with a `base` it is a fine-tune of that. `full_checkpoint` has every tensor of a
real one, with all dimensions divided: a few megabytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["INTEGERS", "NAMES", "block_names", "full_checkpoint", "llama", "sd15", "sdxl", "with_ema"]

_LAYOUTS = Path(__file__).parents[2] / "examples" / "sd15" / "layouts"
_DIVISOR = 40
_LARGEST_KEPT = 16
"""Dimensions up to this are not divided, such as sizes of kernels, and channels of images and latents."""

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
INTEGERS = f"{TEXT}embeddings.position_ids"

_ATTENTION = "transformer_blocks.0.attn2.to_k.weight"


def _shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        f"{UNET}time_embed.0.weight": (32, 16),
        f"{UNET}out.0.weight": (16,),
        f"{UNET}out.2.weight": (4, 16, 3, 3),
        f"{UNET}middle_block.0.in_layers.0.weight": (16,),
        f"{UNET}middle_block.0.in_layers.2.weight": (16, 16, 3, 3),
        f"{UNET}middle_block.1.{_ATTENTION}": (16, 24),
        f"{UNET}middle_block.1.transformer_blocks.0.norm1.weight": (16,),
        f"{TEXT}embeddings.token_embedding.weight": (50, 24),
        f"{TEXT}encoder.layers.0.self_attn.q_proj.weight": (24, 24),
        f"{TEXT}encoder.layers.0.mlp.fc1.weight": (48, 24),
        f"{TEXT}final_layer_norm.weight": (24,),
        "first_stage_model.encoder.conv_in.weight": (16, 3, 3, 3),
        "first_stage_model.decoder.conv_out.weight": (3, 16, 3, 3),
        f"{UNET}input_blocks.0.0.weight": (16, 4, 3, 3),
    }
    for index in range(12):
        if index:
            found[f"{UNET}input_blocks.{index}.0.in_layers.2.weight"] = (16, 16, 3, 3) if index % 3 else (64, 32)
            found[f"{UNET}input_blocks.{index}.1.{_ATTENTION}"] = (16, 24)
        found[f"{UNET}output_blocks.{index}.0.in_layers.2.weight"] = (16, 16, 3, 3) if index % 3 else (64, 64)
        found[f"{UNET}output_blocks.{index}.1.{_ATTENTION}"] = (16, 24)
        found[f"{UNET}output_blocks.{index}.1.norm.bias"] = (16,)
    return found


_SHAPES = _shapes()
NAMES: Sequence[str] = tuple(_SHAPES)
"""Names of the floating-point tensors."""


def block_names(block: str) -> list[str]:
    """Return the names of the tensors of a block `INnn` or `OUTnn`; for IN00 and OUT11 only those with a number."""
    side, number = ("input", block[2:]) if block.startswith("IN") else ("output", block[3:])
    return [name for name in NAMES if name.startswith(f"{UNET}{side}_blocks.{int(number)}.")]


def values(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return random weights in float32, a function of name, shape and seed."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=6).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(tuple(shape), generator=generator) * 0.02


def sd15(
    seed: int, *, base: int = 0, dtype: torch.dtype = torch.float16, names: Sequence[str] = NAMES
) -> dict[str, Tensor]:
    """Return a small model in the layout of Stable Diffusion 1.5: a fine-tune of the model `base`, with its VAE."""
    found: dict[str, Tensor] = {}
    for name in names:
        weights = values(name, _SHAPES[name], base)
        if seed != base and not name.startswith("first_stage_model."):
            weights = weights + 0.3 * values(name, _SHAPES[name], seed)
        found[name] = weights.to(dtype)
    found[INTEGERS] = torch.arange(8).reshape(1, 8)
    return found


def sdxl(seed: int) -> dict[str, Tensor]:
    """Return a small model in the layout of SDXL."""
    shapes = {
        f"{UNET}time_embed.0.weight": (32, 16),
        f"{UNET}label_emb.0.0.weight": (32, 28),
        f"{UNET}input_blocks.0.0.weight": (16, 4, 3, 3),
        f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (16, 20),
        f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight": (16, 20),
        f"{UNET}output_blocks.0.1.transformer_blocks.0.attn2.to_k.weight": (16, 20),
        f"{UNET}out.2.weight": (4, 16, 3, 3),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (24,),
        "conditioner.embedders.1.model.ln_final.weight": (24,),
        "first_stage_model.encoder.conv_in.weight": (16, 3, 3, 3),
    }
    return {name: values(name, shape, seed).to(torch.float16) for name, shape in shapes.items()}


def llama(seed: int, *, base: int = 0, dtype: torch.dtype = torch.float16, layers: int = 4) -> dict[str, Tensor]:
    """Return a small model in the layout of llama, a fine-tune of `base`; its head is not tied to its embedding."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, 16)}
    for layer in range(layers):
        inner = f"model.layers.{layer}."
        shapes |= {f"{inner}self_attn.{name}_proj.weight": (16, 16) for name in "qkvo"}
        shapes |= {f"{inner}mlp.{name}_proj.weight": (32, 16) for name in ("gate", "up")}
        shapes |= {f"{inner}mlp.down_proj.weight": (16, 32), f"{inner}input_layernorm.weight": (16,)}
    shapes |= {"model.norm.weight": (16,), "lm_head.weight": (64, 16)}
    return {
        name: (values(name, shape, base) + 0.3 * values(name, shape, seed)).to(dtype) for name, shape in shapes.items()
    }


def with_ema(tensors: Mapping[str, Tensor], seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return a model with EMA copies of its UNet and their counters, as training programs save them."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith(UNET):
            copy = "model_ema." + name.removeprefix("model.").replace(".", "")
            found[copy] = values(copy, tensor.shape, seed).to(dtype)
    found["model_ema.decay"] = torch.tensor(0.9999)
    found["model_ema.num_updates"] = torch.tensor(7, dtype=torch.int32)
    return found


def full_checkpoint(layout: str, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Return a checkpoint of `sd15` or `sdxl` with seeded random weights, without noise schedule and position ids."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, (kind, shape) in json.loads((_LAYOUTS / f"{layout}.json").read_text())["tensors"].items():
        if kind in ("F16", "F32", "float16", "float32") and "." in name and not name.startswith("model_ema"):
            small = [size if size <= _LARGEST_KEPT else max(1, size // _DIVISOR) for size in shape]
            found[name] = torch.randn(small, generator=generator).to(dtype)
    return found
