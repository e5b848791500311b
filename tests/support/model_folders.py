"""Writes tensors as folders in the formats of transformers and diffusers, and as checkpoints of PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from model_files import Tensors, write_model
from project_space import Space
from tiny_models import llama
from torch import Tensor

from mergebuild.formats.sidecars import shard_names, shards
from mergebuild.naming import to_diffusers

__all__ = [
    "CONFIG",
    "SIDECARS",
    "as_pipeline",
    "checkpoint",
    "document",
    "llama_pair",
    "pipeline",
    "sharded",
    "stored_in_pipeline",
]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
SIDECARS: Mapping[str, object] = {
    "config.json": CONFIG,
    "generation_config.json": {"do_sample": True},
    "tokenizer.json": {"version": "1.0", "model": {"type": "BPE"}},
    "tokenizer_config.json": {"model_max_length": 2048},
}


def document(path: Path, value: object) -> Path:
    """Write a JSON file, and its folder if that does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return path


def sharded(
    folder: Path, tensors: Tensors, *, count: int = 2, beside: Mapping[str, object] = SIDECARS
) -> Sequence[str]:
    """Write a folder in the format of transformers, and return the names of its shards.

    With `count` 1 it has a single file, and no index.
    """
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    most = sum(sizes.values())
    found = shards(sizes.items(), most)
    while len(found) < count:
        most -= 64
        found = shards(sizes.items(), most)
    names = shard_names(len(found), "model")
    for name, some in zip(names, found, strict=True):
        write_model(folder / name, {each: tensors[each] for each in some})
    if len(found) > 1:
        where = {each: name for name, some in zip(names, found, strict=True) for each in some}
        document(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    for name, value in beside.items():
        document(folder / name, value)
    return names


def llama_pair(space: Space, mergefile: str) -> Space:
    """Write a project with two sources, `one` and `two`, folders of two shards each."""
    sharded(space / "one", llama(1))
    sharded(space / "two", llama(2))
    space.write(mergefile)
    space.settle()
    return space


def checkpoint(path: Path, tensors: Tensors, *, legacy: bool = False) -> Path:
    """Save tensors as training programs do: under `state_dict`, beside other things that they save."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = {"state_dict": dict(tensors), "global_step": 5, "epoch": 1}
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    return path


def pipeline(folder: Path, components: Mapping[str, Tensors]) -> Path:
    """Write a pipeline in the format of diffusers."""
    classes = {
        name: ["transformers", "CLIPTextModel"] if name.startswith("text_encoder") else ["diffusers", "Model"]
        for name in components
    }
    document(folder / "model_index.json", {"_class_name": "Pipeline", "scheduler": ["diffusers", "Any"]} | classes)
    document(folder / "scheduler/scheduler_config.json", {"steps_offset": 1})
    for name, tensors in components.items():
        is_text = name.startswith("text_encoder")
        write_model(folder / name / f"{'model' if is_text else 'diffusion_pytorch_model'}.safetensors", tensors)
        about: Mapping[str, object] = {"torch_dtype": "float16"} if is_text else {"_diffusers_version": "0.30.0"}
        document(folder / name / "config.json", about)
    return folder


def as_pipeline(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return a checkpoint's tensors by component, as diffusers stores them."""
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


def stored_in_pipeline(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of those tensors of a checkpoint that a pipeline of diffusers has too."""
    _, left = to_diffusers({name: tuple(each.shape) for name, each in tensors.items()})
    return set(tensors) - set(left)
