"""Attention layers: which tensors of a model make one up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Attention", "attentions"]

_WIDTH = 64
"""The rows of a head, where nothing says otherwise: CLIP, SDXL and SD2; the VAE's only head is cut into such."""
_SD1_HEADS = 8
_SD1_CONTEXT = 768
"""The width of the text that the UNet of SD1 attends to; it has 8 heads in every layer, of 40, 80 or 160 rows."""

_SEPARATE = {
    "text": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "vae": ("q", "k", "v", "proj_out"),
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
}
_QUERY = {
    "text": re.compile(r"(.*\.self_attn\.)q_proj\.weight"),
    "vae": re.compile(r"(.*\.mid\.attn_1\.)q\.weight"),
    "unet": re.compile(r"(.*\.transformer_blocks\.\d+\.attn[12]\.)to_q\.weight"),
}
_FUSED = re.compile(r"(.*\.attn\.)in_proj_weight")


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention layer. `query`, `key` and `value` are the same tensor where they are fused, in that order."""

    query: str
    key: str
    value: str
    output: str
    query_bias: str | None
    key_bias: str | None
    value_bias: str | None
    width: int
    """The rows of a head."""

    @property
    def fused(self) -> bool:
        """Whether queries, keys and values lie in one tensor."""
        return self.query == self.key

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all that balancing reads and changes, each once."""
        found = (self.query, self.key, self.value, self.output, self.query_bias, self.key_bias, self.value_bias)
        return tuple(dict.fromkeys(name for name in found if name is not None))


def attentions(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Attention, ...]:
    """Return the attention layers among tensors of these names and shapes, in the order of their names.

    Known are the text encoders of CLIP, as of transformers (separate projections) and of OpenCLIP (fused), the middle
    of the VAE, and the transformer blocks of the UNet. A layer that lacks a tensor is none.
    """
    found = (_attention(name, shapes) for name in sorted(shapes))
    return tuple(each for each in found if each is not None)


def _attention(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Attention | None:
    """Return the layer whose queries the tensor `name` holds."""
    fused = _FUSED.fullmatch(name)
    if fused:
        bias, output = f"{fused[1]}in_proj_bias", f"{fused[1]}out_proj.weight"
        held = bias if bias in shapes else None
        layer = Attention(name, name, name, output, held, held, held, _WIDTH)
        return layer if output in shapes and _fits(layer, shapes[name][0] // 3, shapes) else None
    for kind, query in _QUERY.items():
        match = query.fullmatch(name)
        if match:
            return _separate(match[1], kind, shapes)
    return None


def _separate(prefix: str, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> Attention | None:
    query, key, value, output = (f"{prefix}{part}" for part in _SEPARATE[kind])
    if not all(f"{part}.weight" in shapes for part in (query, key, value, output)):
        return None
    first, second, third = (f"{part}.bias" if f"{part}.bias" in shapes else None for part in (query, key, value))
    rows = shapes[f"{query}.weight"][0]
    width = rows // _SD1_HEADS if kind == "unet" and _context(prefix, shapes) == _SD1_CONTEXT else _WIDTH
    query, key, value, output = (f"{part}.weight" for part in (query, key, value, output))
    layer = Attention(query, key, value, output, first, second, third, width)
    return layer if _fits(layer, rows, shapes) else None


def _context(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the width of what the block of an attention layer attends to."""
    across = f"{prefix.removesuffix('attn1.').removesuffix('attn2.')}attn2.to_k.weight"
    return shapes[across][1] if across in shapes else 0


def _fits(layer: Attention, rows: int, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether keys, values and output have as many rows or columns as the queries, in whole heads."""
    parts = 3 if layer.fused else 1
    return (
        rows > 0
        and rows % layer.width == 0
        and all(shapes[name][0] == parts * rows for name in (layer.query, layer.key, layer.value))
        and shapes[layer.output][1] == rows
    )
