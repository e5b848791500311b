"""Names and shapes of small parts of image models, as in a file of the part alone, and of whole models of these."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from mergebuild.naming.renamed import Shapes

__all__ = ["PREFIXES", "clip", "flux", "open_clip", "renamed", "sd3", "t5", "under", "vae", "weights", "whole"]

PREFIXES: Mapping[str, str] = {
    "clip_l": "text_encoders.clip_l.transformer.",
    "clip_g": "text_encoders.clip_g.transformer.",
    "t5": "text_encoders.t5xxl.transformer.",
}
"""The prefixes of text encoders in a file with a whole Flux or Stable Diffusion 3 model."""

Made = dict[str, tuple[int, ...]]


def clip(width: int = 6, layers: int = 2, *, projected: bool = False) -> Made:
    """Return CLIP's text encoder in the names of transformers."""
    found: Made = {
        "text_model.embeddings.token_embedding.weight": (20, width),
        "text_model.embeddings.position_embedding.weight": (7, width),
    }
    for each in (f"text_model.encoder.layers.{number}." for number in range(layers)):
        found |= {f"{each}self_attn.{part}_proj.weight": (width, width) for part in ("q", "k", "v", "out")}
        found |= {f"{each}self_attn.{part}_proj.bias": (width,) for part in ("q", "k", "v", "out")}
        found |= {f"{each}mlp.fc1.weight": (2 * width, width), f"{each}mlp.fc2.weight": (width, 2 * width)}
        found |= {f"{each}layer_norm1.weight": (width,), f"{each}layer_norm2.weight": (width,)}
    found["text_model.final_layer_norm.weight"] = (width,)
    return found | ({"text_projection.weight": (width, width)} if projected else {})


def open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same encoder in the names of OpenCLIP."""
    found: dict[str, Tensor] = {
        "positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
        "ln_final.weight": tensors["text_model.final_layer_norm.weight"],
    }
    if "text_projection.weight" in tensors:
        found["text_projection"] = tensors["text_projection.weight"].T.contiguous()
    for number in range(sum(name.endswith("layer_norm1.weight") for name in tensors)):
        theirs, ours = f"text_model.encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for end in ("weight", "bias"):
            parts = [tensors[f"{theirs}self_attn.{part}_proj.{end}"] for part in "qkv"]
            found[f"{ours}attn.in_proj_{end}"] = torch.cat(parts)
            found[f"{ours}attn.out_proj.{end}"] = tensors[f"{theirs}self_attn.out_proj.{end}"]
        for mine, other in (
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            found[f"{ours}{mine}.weight"] = tensors[f"{theirs}{other}.weight"]
    return found


def t5(width: int = 10, layers: int = 2) -> Made:
    """Return T5's encoder."""
    found: Made = {"shared.weight": (20, width), "encoder.final_layer_norm.weight": (width,)}
    for each in (f"encoder.block.{number}.layer." for number in range(layers)):
        found |= {f"{each}0.SelfAttention.{part}.weight": (width, width) for part in "qkvo"}
        found |= {f"{each}0.layer_norm.weight": (width,), f"{each}1.layer_norm.weight": (width,)}
        found |= {f"{each}1.DenseReluDense.wi_{number}.weight": (2 * width, width) for number in range(2)}
        found[f"{each}1.DenseReluDense.wo.weight"] = (width, 2 * width)
    return found | {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (8, 2)}


def vae(channels: int = 16, width: int = 4) -> Made:
    """Return an autoencoder of two levels in the authors' names."""
    found: Made = {
        "encoder.conv_in.weight": (width, 3, 3, 3),
        "encoder.conv_out.weight": (2 * channels, width, 3, 3),
        "decoder.conv_in.weight": (width, channels, 3, 3),
        "decoder.conv_out.weight": (3, width, 3, 3),
    }
    for coder in ("encoder", "decoder"):
        found |= {f"{coder}.mid.attn_1.{part}.weight": (width, width, 1, 1) for part in ("q", "k", "v", "proj_out")}
        found |= {f"{coder}.norm_out.weight": (width,)}
        for level in range(2):
            block = f"{coder}.{'down' if coder == 'encoder' else 'up'}.{level}.block.0."
            found |= {f"{block}norm1.weight": (width,), f"{block}conv1.weight": (width, width, 3, 3)}
    return found


def flux(width: int = 8) -> Made:
    """Return the transformer of Flux, one block of each kind."""
    found: Made = {"img_in.weight": (width, 4), "txt_in.weight": (width, 10), "final_layer.linear.weight": (4, width)}
    for each in ("double_blocks.0.img_", "double_blocks.0.txt_"):
        found |= {f"{each}attn.qkv.weight": (3 * width, width), f"{each}mlp.0.weight": (2 * width, width)}
    return found | {"single_blocks.0.linear1.weight": (7 * width, width)}


def sd3(width: int = 8) -> Made:
    """Return the transformer of Stable Diffusion 3, one block."""
    found: Made = {"context_embedder.weight": (width, 10), "final_layer.linear.weight": (4, width)}
    for each in ("joint_blocks.0.x_block.", "joint_blocks.0.context_block."):
        found |= {f"{each}attn.qkv.weight": (3 * width, width), f"{each}mlp.fc1.weight": (2 * width, width)}
    return found


def under(prefix: str, shapes: Shapes) -> Made:
    """Return names and shapes with a prefix."""
    return {prefix + name: shape for name, shape in shapes.items()}


def renamed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with a prefix before their names."""
    return {prefix + name: each for name, each in tensors.items()}


def whole(family: str, *, without: str = "") -> Made:
    """Return a model with all parts in one file, named as in ComfyUI; `without`: a part that is left out."""
    found = under("model.diffusion_model.", flux() if family == "flux" else sd3())
    if without != "vae":
        found |= under("vae." if family == "flux" else "first_stage_model.", vae())
    encoders = {"clip_l": clip(6, 2), "t5": t5()}
    if family == "sd3":
        encoders |= {"clip_l": clip(6, 2, projected=True), "clip_g": clip(8, 3, projected=True)}
    for name, shapes in encoders.items():
        found |= under(PREFIXES[name], shapes) if without not in (name, "text_encoder") else {}
    return found


def weights(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Return tensors of random whole numbers, so that halves and quarters of them are exact."""
    made: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        noise = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        made[name] = torch.randint(-64, 64, shape, generator=noise).float()
    return made
