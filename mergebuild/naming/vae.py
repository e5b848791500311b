"""The autoencoder of Stable Diffusion in its original names and in those of diffusers.

Both group modules by resolution. In the decoder level 0 is the finest in the original names, and the coarsest in
diffusers'. The attention in the middle is four 1x1 convolutions in the one, and four linear maps in the other, which
older files of diffusers call `query`, `key`, `value` and `proj_attn`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final

from mergebuild.naming.renamed import Renamed, Shapes, State, renamed, translated

__all__ = ["in_original", "is_diffusers", "to_diffusers", "to_ldm"]

_RESNET: Final = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
)
_ATTENTION: Final = (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
_OLD_ATTENTION: Final = (("q", "query"), ("k", "key"), ("v", "value"), ("proj_out", "proj_attn"))

_LAYER: Final = re.compile(r"(encoder\.down|decoder\.up)(_blocks)?\.([0-9]{1,4})\.(?:block|resnets)\.([0-9]{1,4})\.")
_PROJECTION: Final = re.compile(r"(?:en|de)coder\.mid\.attn_1\.(?:q|k|v|proj_out)\.weight")
_OF_DIFFUSERS: Final = re.compile(r"(?:en|de)coder\.(?:down_blocks|mid_block|up_blocks|conv_norm_out)\.")


def to_ldm(state: State) -> dict[str, Renamed]:
    """Return the tensors with original names, made of those of diffusers.

    Tensors without a counterpart are left out.
    """
    modules = {diffusers: ldm for ldm, diffusers in [*_old_attention(), *_modules(state)]}
    found = {new: stored for name, stored in state.items() if (new := translated(name, modules))}
    return {name: renamed(stored, _convolved(name, stored.shape)) for name, stored in found.items()}


def to_diffusers(state: State) -> dict[str, Renamed]:
    """Return the tensors of diffusers, made of those with original names.

    Tensors without a counterpart are left out.
    """
    modules = dict(_modules(state))
    return {
        new: renamed(stored, _linear(name, stored.shape))
        for name, stored in state.items()
        if (new := translated(name, modules))
    }


def in_original(shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the original names and shapes of tensors with either names; tensors without a counterpart are left out."""
    found = {name: name for name, shape in shapes.items() if len(shape) == 2}
    if is_diffusers(shapes):
        modules = {diffusers: ldm for ldm, diffusers in [*_old_attention(), *_modules(shapes)]}
        found = {name: translated(name, modules) or name for name in shapes}
    return {name: (new, _convolved(new, shapes[name])) for name, new in found.items()}


def is_diffusers(names: Iterable[str]) -> bool:
    """Whether an autoencoder's names are those of diffusers."""
    return any(_OF_DIFFUSERS.match(name) for name in names)


def _convolved(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1, 1) if len(shape) == 2 and _PROJECTION.fullmatch(name) else shape


def _linear(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) and _PROJECTION.fullmatch(name) else shape


def _modules(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield every module under both names, the original one first, for tensors with either names."""
    yield from _modules_outside_levels()
    layers = {(match[1], match[2], int(match[3]), int(match[4])) for match in map(_LAYER.match, names) if match}
    ups = {i for coder, _, i, _ in layers if coder == "decoder.up"}
    last = next(i for i in count() if i not in ups) - 1  # levels after a gap are unknown
    for coder, of_diffusers, i, j in layers:
        if coder == "decoder.up" and i > last:
            continue
        ldm, diffusers, sampler = _level(coder, i, last, of_diffusers=bool(of_diffusers))
        yield from _parts(_RESNET, f"{ldm}.block.{j}", f"{diffusers}.resnets.{j}")
        yield f"{ldm}.{sampler}.conv", f"{diffusers}.{sampler}rs.0.conv"


def _level(coder: str, i: int, last: int, *, of_diffusers: bool) -> tuple[str, str, str]:
    """Return both names of level `i`, the original one first, and its sampler's kind.

    Args:
        coder: `encoder.down` or `decoder.up`.
        i: The number of the level in the names at hand.
        last: The highest number of a level of the decoder.
        of_diffusers: Whether the names at hand are those of diffusers.
    """
    if coder == "encoder.down":
        return f"encoder.down.{i}", f"encoder.down_blocks.{i}", "downsample"
    finest_first = last - i if of_diffusers else i
    return f"decoder.up.{finest_first}", f"decoder.up_blocks.{last - finest_first}", "upsample"


def _modules_outside_levels() -> Iterator[tuple[str, str]]:
    """Yield the modules of any autoencoder under both names, the original one first."""
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"
    for coder in ("encoder", "decoder"):
        yield f"{coder}.conv_in", f"{coder}.conv_in"
        yield f"{coder}.norm_out", f"{coder}.conv_norm_out"
        yield f"{coder}.conv_out", f"{coder}.conv_out"
        for j in (0, 1):
            yield from _parts(_RESNET, f"{coder}.mid.block_{j + 1}", f"{coder}.mid_block.resnets.{j}")
        yield from _parts(_ATTENTION, f"{coder}.mid.attn_1", f"{coder}.mid_block.attentions.0")


def _old_attention() -> Iterator[tuple[str, str]]:
    for coder in ("encoder", "decoder"):
        yield from _parts(_OLD_ATTENTION, f"{coder}.mid.attn_1", f"{coder}.mid_block.attentions.0")


def _parts(parts: Iterable[tuple[str, str]], ldm: str, diffusers: str) -> Iterator[tuple[str, str]]:
    for old, new in parts:
        yield f"{ldm}.{old}", f"{diffusers}.{new}"
