"""Flux: the names of diffusers for tensors named as its authors name them.

Queries, keys and values lie in one tensor there, and in the single blocks the first half of the feed-forward with
them; the last modulation has its two halves the other way round.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["FluxPart", "parts_of"]


class FluxPart(NamedTuple):
    """A module of diffusers that makes up some rows of a tensor: all of them if `rows` is None."""

    module: str
    rows: tuple[int, int] | None = None
    taken: tuple[int, int] | None = None
    """Which of the module's own rows they are, if not all."""


_ATTENTION: Final = {"img": ("to_q", "to_k", "to_v"), "txt": ("add_q_proj", "add_k_proj", "add_v_proj")}
_DOUBLE: Final = {
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE: Final = {"linear2": "proj_out", "modulation.lin": "norm.linear"}
_OUTSIDE: Final = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
} | {
    f"{ours}.{layer}": f"time_text_embed.{theirs}.{name}"
    for ours, theirs in (
        ("time_in", "timestep_embedder"), ("vector_in", "text_embedder"), ("guidance_in", "guidance_embedder"),
    )
    for layer, name in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
}  # fmt: skip
_BLOCK: Final = re.compile(r"(double|single)_blocks\.(\d+)\.(.+)")


def parts_of(module: str, rows: int) -> tuple[FluxPart, ...]:
    """Return the modules of diffusers that a module of Flux is made of, whose weight or bias has so many rows."""
    if module == "final_layer.adaLN_modulation.1":
        half = rows // 2
        name = "norm_out.linear"
        return (FluxPart(name, (0, half), (half, rows)), FluxPart(name, (half, rows), (0, half)))
    block = _BLOCK.fullmatch(module)
    if block is None:
        return (FluxPart(_OUTSIDE[module]),) if module in _OUTSIDE else ()
    kind, number, inner = block.groups()
    if kind == "double":
        return _double(f"transformer_blocks.{number}", inner, rows)
    return _single(f"single_transformer_blocks.{number}", inner, rows)


def _double(prefix: str, inner: str, rows: int) -> tuple[FluxPart, ...]:
    if inner in {"img_attn.qkv", "txt_attn.qkv"}:
        names = _ATTENTION[inner[:3]]
        width = rows // 3
        return tuple(FluxPart(f"{prefix}.attn.{name}", (at * width, (at + 1) * width)) for at, name in enumerate(names))
    return (FluxPart(f"{prefix}.{_DOUBLE[inner]}"),) if inner in _DOUBLE else ()


def _single(prefix: str, inner: str, rows: int) -> tuple[FluxPart, ...]:
    if inner == "linear1":  # three times the width, then the feed-forward of four times the width
        width = rows // 7
        names = ("attn.to_q", "attn.to_k", "attn.to_v")
        parts = tuple(FluxPart(f"{prefix}.{name}", (at * width, (at + 1) * width)) for at, name in enumerate(names))
        return (*parts, FluxPart(f"{prefix}.proj_mlp", (3 * width, rows)))
    return (FluxPart(f"{prefix}.{_SINGLE[inner]}"),) if inner in _SINGLE else ()
