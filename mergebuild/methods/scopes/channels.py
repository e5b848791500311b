"""Blocks of hidden channels whose order does not matter to the network.

Reordering the channels between two layers, in both of them, does not change what the network computes. A `ChannelBlock`
is a set of channels that can be reordered independently of all others:

- the hidden channels of a feed-forward layer (in GEGLU and SwiGLU, of both halves);
- the heads of an attention layer, and in each head the channels between queries and keys, and those between values and
  output. With rotary positions (Llama) the channels of queries and keys keep their order, and heads that share keys
  move together;
- the channels inside a residual block of the UNet, whose group norm has 32 groups: the groups are reordered, and the
  channels in each group;
- the hidden channels of the UNet's embeddings of time and label.

The channels of the residual stream, which pass by all these, keep their order: in the UNet, skip connections and group
norms depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mergebuild.methods.scopes.attention import Attention, attentions

__all__ = ["ChannelBlock", "ChannelFamily", "ChannelPart", "Shapes", "blocks"]

Shapes = Mapping[str, tuple[int, ...]]

_NORM_GROUPS = 32


@dataclass(frozen=True, slots=True)
class ChannelPart:
    """Where channels are in a tensor: channel c of group g is at index `offset + g * stride + c` of an axis."""

    tensor: str
    axis: int
    offset: int = 0
    stride: int = 0
    """From one group to the next; 0: the size of a group."""


@dataclass(frozen=True, slots=True)
class ChannelFamily:
    """Channels that are reordered in the same way in several tensors. `size`: the channels of one group."""

    size: int
    parts: tuple[ChannelPart, ...]
    fixed: bool = False
    """Whether channels keep their order inside the group, which only moves as a whole."""


@dataclass(frozen=True, slots=True)
class ChannelBlock:
    """Groups of channels that can be reordered, and the channels in each group. No tensor is in two blocks."""

    groups: int
    families: tuple[ChannelFamily, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors that it reorders, each once."""
        return tuple(dict.fromkeys(part.tensor for family in self.families for part in family.parts))


def blocks(shapes: Shapes, head_width: int | None = None) -> tuple[ChannelBlock, ...]:
    """Return the blocks of a model whose tensors have these names and shapes.

    It knows the UNets of SD1, SD2 and SDXL with their text encoders, and models with the names of Llama. `head_width`:
    the size of Llama's heads, which shapes do not tell; if None, Llama's attention layers are left out.
    """
    layers = (layer for layer in attentions(shapes) if ".mid.attn_1." not in layer.query)
    found: list[ChannelBlock | None] = [_of_attention(layer, shapes) for layer in layers]
    for name in sorted(shapes):
        for pattern, make in _KINDS:
            match = pattern.fullmatch(name)
            if match:
                found.append(make(match[1], shapes, head_width))
    return tuple(block for block in found if block is not None and _whole(block, shapes))


def _whole(block: ChannelBlock, shapes: Shapes) -> bool:
    """Whether all tensors of a block exist and are long enough."""
    return all(
        part.tensor in shapes
        and len(shapes[part.tensor]) > part.axis
        and part.offset + (block.groups - 1) * (part.stride or family.size) + family.size
        <= shapes[part.tensor][part.axis]
        for family in block.families
        for part in family.parts
    )


def _both(name: str, shapes: Shapes, offset: int = 0, stride: int = 0) -> tuple[ChannelPart, ...]:
    """Return the rows of a module's weight, and of its bias if it has one. `name`: the module's."""
    names = (f"{name}.weight", f"{name}.bias")
    return tuple(ChannelPart(each, 0, offset, stride) for each in names if each in shapes)


def _of_attention(layer: Attention, shapes: Shapes) -> ChannelBlock:
    rows = shapes[layer.output][1]
    inputs = [
        tuple(ChannelPart(name, 0, at * rows if layer.fused else 0) for name in names if name is not None)
        for at, names in enumerate(
            ((layer.query, layer.query_bias), (layer.key, layer.key_bias), (layer.value, layer.value_bias))
        )
    ]
    between = ChannelFamily(layer.width, inputs[0] + inputs[1])
    return ChannelBlock(
        rows // layer.width, (between, ChannelFamily(layer.width, (*inputs[2], ChannelPart(layer.output, 1))))
    )


def _hidden(first: tuple[str, ...], second: str, shapes: Shapes) -> ChannelBlock | None:
    """Return the channels between the layers `first` and the layer `second`; None if their widths differ."""
    width = shapes[f"{second}.weight"][1]
    if any(shapes.get(f"{name}.weight", (0,))[0] != width for name in first):
        return None
    rows = tuple(part for name in first for part in _both(name, shapes))
    return ChannelBlock(1, (ChannelFamily(width, (*rows, ChannelPart(f"{second}.weight", 1))),))


def _geglu(prefix: str, shapes: Shapes, _head_width: int | None) -> ChannelBlock | None:
    width = shapes[f"{prefix}net.2.weight"][1]
    both = _both(f"{prefix}net.0.proj", shapes) + _both(f"{prefix}net.0.proj", shapes, width)
    return (
        ChannelBlock(1, (ChannelFamily(width, (*both, ChannelPart(f"{prefix}net.2.weight", 1))),))
        if len(both) > 1
        else None
    )


def _residual(prefix: str, shapes: Shapes, _head_width: int | None) -> ChannelBlock | None:
    width = shapes[f"{prefix}in_layers.2.weight"][0]
    if width % _NORM_GROUPS or shapes.get(f"{prefix}emb_layers.1.weight", (0,))[0] != width:
        return None  # another kind of block has a scale and a shift there, so twice as many rows
    rows = [
        part for name in ("in_layers.2", "emb_layers.1", "out_layers.0") for part in _both(f"{prefix}{name}", shapes)
    ]
    parts = (*rows, ChannelPart(f"{prefix}out_layers.3.weight", 1))
    return ChannelBlock(_NORM_GROUPS, (ChannelFamily(width // _NORM_GROUPS, parts),))


def _llama_attention(prefix: str, shapes: Shapes, head_width: int | None) -> ChannelBlock | None:
    names = [f"{prefix}{part}_proj" for part in "qkvo"]
    if head_width is None or not all(f"{name}.weight" in shapes for name in names):
        return None
    query, key, value, output = names
    rows, groups = shapes[f"{query}.weight"][0], shapes[f"{key}.weight"][0] // head_width
    if not groups or rows % (groups * head_width) or shapes[f"{key}.weight"][0] % head_width:
        return None
    span = rows // groups
    columns = tuple(ChannelPart(f"{output}.weight", 1, offset, span) for offset in range(0, span, head_width))
    queries = ChannelFamily(span, _both(query, shapes), fixed=True)
    keys = ChannelFamily(head_width, _both(key, shapes), fixed=True)
    return ChannelBlock(groups, (queries, keys, ChannelFamily(head_width, (*_both(value, shapes), *columns))))


_Make = Callable[[str, Shapes, "int | None"], "ChannelBlock | None"]

_KINDS: tuple[tuple[re.Pattern[str], _Make], ...] = (
    (
        re.compile(r"(.*\.mlp\.)fc2\.weight"),
        lambda prefix, shapes, _: _hidden((f"{prefix}fc1",), f"{prefix}fc2", shapes),
    ),
    (
        re.compile(r"(.*\.resblocks\.\d+\.mlp\.)c_proj\.weight"),
        lambda prefix, shapes, _: _hidden((f"{prefix}c_fc",), f"{prefix}c_proj", shapes),
    ),
    (
        re.compile(r"(.*\.mlp\.)down_proj\.weight"),
        lambda prefix, shapes, _: _hidden((f"{prefix}gate_proj", f"{prefix}up_proj"), f"{prefix}down_proj", shapes),
    ),
    (
        re.compile(r"(.*\.time_embed\.)2\.weight"),
        lambda prefix, shapes, _: _hidden((f"{prefix}0",), f"{prefix}2", shapes),
    ),
    (
        re.compile(r"(.*\.label_emb\.0\.)2\.weight"),
        lambda prefix, shapes, _: _hidden((f"{prefix}0",), f"{prefix}2", shapes),
    ),
    (re.compile(r"(.*\.ff\.)net\.2\.weight"), _geglu),
    (re.compile(r"(.*diffusion_model\..*\.)in_layers\.2\.weight"), _residual),
    (re.compile(r"(.*\.layers\.\d+\.self_attn\.)o_proj\.weight"), _llama_attention),
)
