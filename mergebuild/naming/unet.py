"""The UNet of Stable Diffusion in its original names and in those of diffusers.

diffusers groups modules by resolution: `down_blocks.LEVEL.{resnets,attentions}.LAYER`, followed by a sampler. The
original names count through: `input_blocks.0` is the first convolution, and each layer and each downsampler is a block;
in `output_blocks`, an upsampler is the last module of the level's last block. Both describe the same tree, so a table
of modules follows from the number of layers in each level. If numbers are missing in between, the tree is unknown from
there on, and modules after the gap are not in the table.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, takewhile
from typing import Final, NamedTuple

from mergebuild.naming.renamed import Renamed, Shapes, State, renamed, translated

__all__ = ["in_original", "is_diffusers", "to_diffusers", "to_ldm"]

_ENDS: Final = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)
_RESNET: Final = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
_ATTENTION: Final = ("norm", "proj_in", "proj_out", "transformer_blocks")

_LDM_MODULE: Final = re.compile(r"(input|output)_blocks\.([0-9]{1,4})\.([0-9]\.\w+)")
_DIFFUSERS_MODULE: Final = re.compile(
    r"(down|up)_blocks\.([0-9]{1,4})\.(resnets|attentions|downsamplers|upsamplers)\.([0-9]{1,4})\."
)


class _Level(NamedTuple):
    """The blocks of one resolution."""

    layers: int
    sampler: int | None
    """The index, in its block, of the sampler to the next level; None for the last level."""


def to_ldm(state: State) -> Mapping[str, Renamed]:
    """Return the tensors with original names, made of those of diffusers.

    Tensors without a counterpart are left out.
    """
    modules = {diffusers: ldm for ldm, diffusers in _modules(*_levels_of_diffusers(state))}
    return _through(state, modules)


def to_diffusers(state: State) -> Mapping[str, Renamed]:
    """Return the tensors of diffusers, made of those with original names.

    Tensors without a counterpart are left out.
    """
    return _through(state, dict(_modules(*_levels_of_ldm(state))))


def in_original(shapes: Shapes) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Return the original names and shapes of tensors with diffusers' names.

    Tensors without a counterpart are left out.
    """
    if not is_diffusers(shapes):
        return {}
    modules = {diffusers: ldm for ldm, diffusers in _modules(*_levels_of_diffusers(shapes))}
    return {name: (new, shape) for name, shape in shapes.items() if (new := translated(name, modules))}


def is_diffusers(names: Iterable[str]) -> bool:
    """Whether a UNet's names are those of diffusers."""
    return any(name.startswith(("down_blocks.", "mid_block.", "up_blocks.", "conv_in.")) for name in names)


def _through(state: State, modules: Mapping[str, str]) -> Mapping[str, Renamed]:
    return {new: renamed(stored) for name, stored in state.items() if (new := translated(name, modules))}


def _modules(down: Iterable[_Level], up: Iterable[_Level]) -> Iterator[tuple[str, str]]:
    """Yield every module under both names, the original one first."""
    yield from _ENDS
    yield from _way_down(down)
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    yield from _attention("middle_block.1", "mid_block.attentions.0")
    yield from _resnet("middle_block.2", "mid_block.resnets.1")
    yield from _way_up(up)


def _way_down(down: Iterable[_Level]) -> Iterator[tuple[str, str]]:
    block = 1
    for i, level in enumerate(down):
        for j in range(level.layers):
            yield from _resnet(f"input_blocks.{block}.0", f"down_blocks.{i}.resnets.{j}")
            yield from _attention(f"input_blocks.{block}.1", f"down_blocks.{i}.attentions.{j}")
            block += 1
        if level.sampler is not None:
            yield f"input_blocks.{block}.{level.sampler}.op", f"down_blocks.{i}.downsamplers.0.conv"
            block += 1


def _way_up(up: Iterable[_Level]) -> Iterator[tuple[str, str]]:
    block = 0
    for i, level in enumerate(up):
        for j in range(level.layers):
            yield from _resnet(f"output_blocks.{block}.0", f"up_blocks.{i}.resnets.{j}")
            yield from _attention(f"output_blocks.{block}.1", f"up_blocks.{i}.attentions.{j}")
            block += 1
        if level.sampler is not None:
            yield f"output_blocks.{block - 1}.{level.sampler}.conv", f"up_blocks.{i}.upsamplers.0.conv"


def _resnet(ldm: str, diffusers: str) -> Iterator[tuple[str, str]]:
    for old, new in _RESNET:
        yield f"{ldm}.{old}", f"{diffusers}.{new}"


def _attention(ldm: str, diffusers: str) -> Iterator[tuple[str, str]]:
    for each in _ATTENTION:
        yield f"{ldm}.{each}", f"{diffusers}.{each}"


def _levels_of_ldm(names: Iterable[str]) -> tuple[list[_Level], list[_Level]]:
    found: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for name in names:
        if match := _LDM_MODULE.match(name):
            found[match[1], int(match[2])].add(match[3])
    return _down_levels(found), _up_levels(found)


def _down_levels(found: Mapping[tuple[str, int], set[str]]) -> list[_Level]:
    levels: list[_Level] = []
    layers = 0
    for block in takewhile(lambda block: ("input", block) in found, count(1)):
        if "0.op" in found["input", block]:
            levels.append(_Level(layers, 0))
            layers = 0
        else:
            layers += 1
    return [*levels, _Level(layers, None)]


def _up_levels(found: Mapping[tuple[str, int], set[str]]) -> list[_Level]:
    levels: list[_Level] = []
    layers = 0
    for block in takewhile(lambda block: ("output", block) in found, count()):
        layers += 1
        sampler = next((place for place in (1, 2) if f"{place}.conv" in found["output", block]), None)
        if sampler is not None:
            levels.append(_Level(layers, sampler))
            layers = 0
    return [*levels, _Level(layers, None)]


def _levels_of_diffusers(names: Iterable[str]) -> tuple[list[_Level], list[_Level]]:
    found: defaultdict[tuple[str, int, str], set[int]] = defaultdict(set)
    for name in names:
        if match := _DIFFUSERS_MODULE.match(name):
            found[match[1], int(match[2]), match[3]].add(int(match[4]))
    return _levels(found, "down"), _levels(found, "up")


def _levels(found: Mapping[tuple[str, int, str], set[int]], way: str) -> list[_Level]:
    levels: list[_Level] = []
    while True:
        i = len(levels)
        attentions = found.get((way, i, "attentions"), set())
        present = attentions | found.get((way, i, "resnets"), set())
        layers = len(list(takewhile(present.__contains__, count())))
        is_whole = 0 < layers == len(present)
        if not is_whole or (way, i, f"{way}samplers") not in found:  # only the last level has none
            return [*levels, _Level(layers, None)]
        behind_attention = 2 if layers - 1 in attentions else 1
        levels.append(_Level(layers, 0 if way == "down" else behind_attention))
