"""A folder with small models and a recipe of another tool: imported, built, and compared with that tool's formula."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import tiny_models
import torch
from model_files import read_model, write_model
from torch import Tensor

from mergebuild.exchange.importing import Imported, import_recipes
from mergebuild.project.project import load

__all__ = ["RecipeLab", "sd15_block", "sdxl_block"]

Formula = Callable[[str, Mapping[str, Tensor]], Tensor]
"""From a tensor's name and that tensor of each model, in float64, to the tensor that the other tool makes."""


def sd15_block(name: str) -> str:
    """Return the block that supermerger and MBW count a tensor of SD1 to: the VAE is BASE."""
    return _block(name, "OUT11")


def sdxl_block(name: str) -> str:
    """Return the block that supermerger counts a tensor of SDXL to."""
    return _block(name, "OUT08")


def _block(name: str, last: str) -> str:
    if not name.startswith(tiny_models.UNET):
        return "BASE"
    kind, _, rest = name.removeprefix(tiny_models.UNET).partition(".")
    number = rest.split(".")[0]
    if kind in ("time_embed", "label_emb"):
        return "IN00"
    if kind == "middle_block":
        return "M00"
    return {"input_blocks": f"IN{int(number):02}", "output_blocks": f"OUT{int(number):02}"}.get(kind, last)


class RecipeLab:
    """Works in a folder; models are float32, so that one rounding of the result is all that differs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models: dict[str, dict[str, Tensor]] = {}
        self.made: Imported | None = None

    def model(self, name: str, seed: int, kind: str = "sd15", suffix: str = ".safetensors") -> Path:
        """Write a model of SD1 or SDXL, a function of its seed."""
        tensors = tiny_models.sd15(seed, dtype=torch.float32) if kind == "sd15" else tiny_models.sdxl(seed)
        tensors = {key: each.float() if each.is_floating_point() else each for key, each in tensors.items()}
        if seed:  # the VAE of a fine-tune is its base's; here it must tell which model it is of
            for key in [key for key in tensors if key.startswith("first_stage_model.")]:
                tensors[key] = tiny_models.values(key, tensors[key].shape, seed)
        self.models[name] = tensors
        return write_model(self.root / f"{name}{suffix}", tensors)

    def carrier(self, name: str, **metadata: object) -> Path:
        """Write a model file without tensors that carries texts in its metadata."""
        texts = {key: each if isinstance(each, str) else json.dumps(each) for key, each in metadata.items()}
        return write_model(self.root / name, {"x": torch.zeros(1)}, texts)

    def take(self, recipe: str | Path, name: str = "recipe.txt", *, models: bool = True) -> Imported:
        """Import a recipe and write the mergefile."""
        path = recipe
        if isinstance(recipe, str):
            path = self.root / name
            path.write_text(recipe, encoding="utf-8")
        assert isinstance(path, Path)
        made = import_recipes([path], self.root, models=[self.root] if models else [])
        (self.root / "mergefile.toml").write_text(made.text, encoding="utf-8")
        self.made = made
        return made

    def build(self, *targets: str) -> dict[str, Path]:
        """Build, and return the outputs by target."""
        found = load(self.root / "mergefile.toml").build(targets)
        assert all(str(each.verdict) == "built" for each in found.targets), found
        return {each.target: self.root / str(each.output) for each in found.targets}

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """Return an output's tensors."""
        return read_model(path)

    def assert_made(self, path: Path, formula: Formula, *, tolerance: float = 1e-6, skip: tuple[str, ...] = ()) -> None:
        """Hold each floating-point tensor of an output against a formula in float64."""
        found = self.read(path)
        compared = 0
        for name, tensor in found.items():
            if not tensor.is_floating_point() or name.startswith(skip or ("\0",)):
                continue
            inputs = {model: each[name].double() for model, each in self.models.items() if name in each}
            wanted = formula(name, inputs)
            scale = max(1e-3, float(wanted.abs().max()))
            away = float((tensor.double() - wanted).abs().max()) / scale
            assert away <= tolerance, f"{name} is {away} away"
            compared += 1
        assert compared > 5
