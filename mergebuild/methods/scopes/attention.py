"""Attention layers: which tensors of a model form one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Attention", "attentions"]

_WIDTH = 64
"""The rows of a head unless the layer is SD1's: right for CLIP, SDXL and SD2. The VAE's single head is cut into such
parts."""
_SD1_HEADS = 8
_SD1_CONTEXT = 768
"""The width of the text embedding in SD1, whose UNet has 8 heads in every layer, of 40, 80 or 160 rows."""

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
    """One attention layer, by the names of its tensors. If fused, `query`, `key` and `value` name the same tensor."""

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
        """Whether one tensor holds queries, keys and values, in this order."""
        return self.query == self.key

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors that balancing reads or changes, each once."""
        found = (self.query, self.key, self.value, self.output, self.query_bias, self.key_bias, self.value_bias)
        return tuple(dict.fromkeys(name for name in found if name is not None))


def attentions(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Attention, ...]:
    """Return the attention layers among tensors with these names and shapes, in the order of their names.

    It knows the text encoders of CLIP, in the form of transformers (separate projections) and of OpenCLIP (fused), the
    middle of the VAE, and the transformer blocks of the UNet. A layer without all its tensors is left out.
    """
    found = (_attention(name, shapes) for name in sorted(shapes))
    return tuple(each for each in found if each is not None)


def _attention(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Attention | None:
    """Return the layer whose queries are in the tensor `name`; None if there is none."""
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
    """Return the width of the input that an attention layer's cross attention attends to; 0 if not known."""
    across = f"{prefix.removesuffix('attn1.').removesuffix('attn2.')}attn2.to_k.weight"
    return shapes[across][1] if across in shapes else 0


def _fits(layer: Attention, rows: int, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether keys, values and output have as many rows or columns as the queries, and these are whole heads."""
    parts = 3 if layer.fused else 1
    return (
        rows > 0
        and rows % layer.width == 0
        and all(shapes[name][0] == parts * rows for name in (layer.query, layer.key, layer.value))
        and shapes[layer.output][1] == rows
    )
