"""LoRA files of shapes alone, and models to match them with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

_LAYOUTS = Path(__file__).parents[3] / "examples" / "sd15" / "layouts"

Shapes = Mapping[str, tuple[int, ...]]


class Stored(NamedTuple):
    """A tensor as a header tells of it."""

    dtype: str
    shape: tuple[int, ...]


@cache
def real(name: str) -> Shapes:
    """Return the shapes of a real model."""
    tensors = json.loads((_LAYOUTS / f"{name}.json").read_text())["tensors"]
    return {tensor: tuple(shape) for tensor, (_, shape) in tensors.items()}


def stored(shapes: Shapes, dtype: str = "float16") -> dict[str, Stored]:
    """Return the tensors of a file."""
    return {name: Stored(dtype, shape) for name, shape in shapes.items()}


def kohya(module: str, out: int, row: tuple[int, ...], rank: int = 4) -> dict[str, Stored]:
    """Return a module's tensors as kohya's trainers name them."""
    return stored(
        {
            f"{module}.lora_up.weight": (out, rank, *(1 for _ in row[1:])),
            f"{module}.lora_down.weight": (rank, *row),
            f"{module}.alpha": (),
        }
    )


def peft(module: str, out: int, into: int, rank: int = 4) -> dict[str, Stored]:
    """Return a module's tensors as PEFT names them."""
    return stored({f"{module}.lora_B.weight": (out, rank), f"{module}.lora_A.weight": (rank, into)})


def joined(files: Iterable[Mapping[str, Stored]]) -> dict[str, Stored]:
    """Return one file of several modules."""
    return {name: info for file in files for name, info in file.items()}


def flux(width: int = 8) -> dict[str, tuple[int, ...]]:
    """Return a small model of the build of Flux."""
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (width, 4),
        "txt_in.weight": (width, 6),
        "time_in.in_layer.weight": (width, 5),
        "vector_in.out_layer.weight": (width, width),
        "final_layer.linear.weight": (4, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    for stream in ("img", "txt"):
        shapes |= {
            f"double_blocks.0.{stream}_attn.qkv.weight": (3 * width, width),
            f"double_blocks.0.{stream}_attn.qkv.bias": (3 * width,),
            f"double_blocks.0.{stream}_attn.proj.weight": (width, width),
            f"double_blocks.0.{stream}_mod.lin.weight": (6 * width, width),
            f"double_blocks.0.{stream}_mlp.0.weight": (4 * width, width),
            f"double_blocks.0.{stream}_mlp.2.weight": (width, 4 * width),
        }
    return shapes | {
        "single_blocks.0.linear1.weight": (7 * width, width),
        "single_blocks.0.linear2.weight": (width, 5 * width),
        "single_blocks.0.modulation.lin.weight": (3 * width, width),
    }
