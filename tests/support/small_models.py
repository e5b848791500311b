"""Checkpoints with every tensor of real ones, all dimensions divided: a few megabytes, and pipelines made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from lab import write_model
from torch import Tensor

from mergebuild.naming import to_diffusers

__all__ = ["as_pipeline", "checkpoint", "stored_in_pipeline", "write_pipeline"]

_LAYOUTS = Path(__file__).parents[2] / "examples" / "sd15" / "layouts"
_DIVISOR = 40
_LARGEST_KEPT = 16
"""Kernels and channels of images and latents stay."""


def checkpoint(layout: str, seed: int, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Return a checkpoint of `sd15` or `sdxl`: seeded random weights, of the schedule and position ids nothing."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, (kind, shape) in json.loads((_LAYOUTS / f"{layout}.json").read_text())["tensors"].items():
        if kind in ("F16", "F32", "float16", "float32") and "." in name and not name.startswith("model_ema"):
            small = [size if size <= _LARGEST_KEPT else max(1, size // _DIVISOR) for size in shape]
            found[name] = torch.randn(small, generator=generator).to(dtype)
    return found


def as_pipeline(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return a checkpoint's tensors by component, as diffusers has them."""
    made, _ = to_diffusers({name: tuple(each.shape) for name, each in tensors.items()})
    found: dict[str, dict[str, Tensor]] = {}
    for component, some in made.items():
        for name, renamed in some.items():
            (cut,) = renamed.cuts
            part = tensors[cut.tensor]
            part = part if cut.rows is None else part[cut.rows[0] : cut.rows[1]]
            part = part.t() if cut.transposed else part
            found.setdefault(component, {})[name] = part.reshape(renamed.shape).contiguous()
    return found


def write_pipeline(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a folder as diffusers does, with a scheduler and a tokenizer of sorts."""
    index: dict[str, object] = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    for component, some in as_pipeline(tensors).items():
        base = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        write_model(folder / component / f"{base}.safetensors", some)
        (folder / component / "config.json").write_text('{"_class_name": "Any"}')
        index[component] = ["diffusers", "Any"]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_start": 0.00085}')
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def stored_in_pipeline(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the tensors of a checkpoint that a pipeline of diffusers has a place for."""
    _, left = to_diffusers({name: tuple(each.shape) for name, each in tensors.items()})
    return set(tensors) - set(left)
