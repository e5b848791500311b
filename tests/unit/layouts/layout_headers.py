"""Headers of real models, and a stand-in for places."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from mergebuild.errors import Place

_LAYOUTS = Path(__file__).parents[3] / "examples" / "sd15" / "layouts"

Tensors = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class AtPath:
    """A `Where` that names the path of keys instead of looking it up in a text."""

    path: str = "t"

    def place(self, *path: str | int, key: bool = False) -> Place:
        return Place("mergefile.toml", note=".".join(map(str, (self.path, *path))) + (" (key)" if key else ""))


@cache
def real(name: str) -> Tensors:
    tensors = json.loads((_LAYOUTS / f"{name}.json").read_text())["tensors"]
    return {tensor: (dtype, tuple(shape)) for tensor, (dtype, shape) in tensors.items()}


@cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {tensor: shape for tensor, (_, shape) in real(name).items()}


@cache
def floats(name: str) -> tuple[str, ...]:
    """The tensors that numbers may reach, without the EMA copies."""
    return tuple(
        tensor
        for tensor, (dtype, _) in real(name).items()
        if dtype in {"F16", "BF16"} and not tensor.startswith("model_ema.")
    )


every_real_layout = pytest.mark.parametrize("name", ["sd15", "sdxl", "llama"])
"""For tests over the layouts of which a real model's header is at hand."""
