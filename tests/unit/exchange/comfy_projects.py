"""Graphs of ComfyUI over small models, imported and built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from comfy_patches import lora_file, saved
from model_files import read_model, write_model
from tiny_models import sd15, sdxl
from torch import Tensor

from mergebuild.exchange.importing import Imported, import_recipes
from mergebuild.project.project import load

__all__ = ["Workbench", "imported"]

_TO_KEYS = ".transformer_blocks.0.attn2.to_k"
_UNET_MODULES = {
    f"model.diffusion_model.{ldm}{_TO_KEYS}.weight": f"lora_unet_{flat}{_TO_KEYS.replace('.', '_')}"
    for ldm, flat in (
        ("input_blocks.1.1", "down_blocks_0_attentions_0"),
        ("middle_block.1", "mid_block_attentions_0"),
        ("input_blocks.2.1", "down_blocks_0_attentions_1"),
    )
}
_TEXT_MODULES = {
    f"cond_stage_model.transformer.text_model.{ldm}.weight": f"lora_te_text_model_{ldm.replace('.', '_')}"
    for ldm in ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.mlp.fc1")
}


def imported(tmp_path: Path, graph: object, **options: object) -> Imported:
    """Import a graph from a file `graph.json`."""
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    return import_recipes([path], tmp_path, **options)  # type: ignore[arg-type]


class Workbench:
    """Models and LoRAs in a folder, and graphs over them."""

    def __init__(self, root: Path, *, xl: bool = False) -> None:
        self.root = root
        self.checkpoints = {
            f"{name}.safetensors": sdxl(seed) if xl else sd15(seed, base=9)
            for seed, name in enumerate(("photo", "anime", "base"), 1)
        }
        self.loras: dict[str, dict[str, Tensor]] = {}
        for name, model in self.checkpoints.items():
            write_model(root / name, model)
        for seed, name in () if xl else enumerate(("ink.safetensors", "pose.safetensors"), 20):
            file, self.loras[name] = lora_file(
                _UNET_MODULES | _TEXT_MODULES, self.checkpoints["photo.safetensors"], seed
            )
            write_model(root / name, file)

    def build(self, graph: Mapping[str, object]) -> tuple[Imported, dict[str, Tensor]]:
        """Import a graph with one save node, build it, and return its tensors."""
        made = imported(self.root, graph)
        (self.root / "mergefile.toml").write_text(made.text)
        results = [each for each in load(self.root / "mergefile.toml").build(()).targets if each.output]
        assert len(results) == 1
        return made, read_model(self.root / str(results[0].output))

    def check(self, graph: Mapping[str, dict[str, object]], save: str = "save") -> Imported:
        """Import and build a graph, and compare each tensor with what ComfyUI makes, to the last bit but one."""
        made, found = self.build(graph)
        wanted = saved(graph, save, self.checkpoints, self.loras)
        floats = {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
        assert set(floats) == {name for name in wanted if not name.endswith(".position_ids")}
        for name, tensor in floats.items():
            step = torch.finfo(tensor.dtype).eps * wanted[name].abs().clamp(min=2**-14)
            assert ((tensor.double() - wanted[name]).abs() <= step).all(), (name, made.text)
        return made
