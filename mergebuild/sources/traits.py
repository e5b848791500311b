"""What a model is, beyond its architecture, for `inspect`: told by names, shapes, and values of small tensors.

Inpainting and instruct-pix2pix models have more input channels. Models with v-prediction are marked by tensors without
elements. A LoRA's family shows in the names, its ranks in the shapes. Position ids that were once averaged as floats
have wrong values.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from mergebuild.formats.header import TensorInfo
from mergebuild.formats.model import Model
from mergebuild.lora import adapter_config
from mergebuild.system.platform import open_to_read, pread_into

__all__ = [
    "AdapterTraits",
    "PositionIds",
    "adapter",
    "input_channels",
    "kind_of_inputs",
    "marks",
    "position_ids",
    "vae_kind",
]

Shapes = Mapping[str, Sequence[int]]

_CONV_IN = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "diffusion_model.input_blocks.0.0.weight",
    "input_blocks.0.0.weight",
    "unet.conv_in.weight",
    "unet/conv_in.weight",
    "conv_in.weight",
)
_INPUTS = {5: "depth", 7: "upscaler", 8: "instruct-pix2pix", 9: "inpainting"}
_MARKS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
_VAE = re.compile(r"(?:encoder|decoder|quant_conv|post_quant_conv)\.|loss|model_ema\.(?:decay|num_updates)$")
"""The names in a VAE's file; the last two are left over from its training."""
_POSITION_IDS = re.compile(r"(?:^|\.)embeddings\.position_ids$")

_FAMILIES: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (family, re.compile(pattern))
    for family, pattern in (
        ("DoRA", r"\.(?:dora_scale|lora_magnitude_vector(?:\.\w+)?(?:\.weight)?)$"),
        (
            "LoRA",
            r"[._]lora(?:_(?:up|down|mid|A|B)|_linear_layer\.(?:up|down)|\.(?:up|down))(?:\.\w+)?\.(?:weight|bias)$",
        ),
        ("LoRA", r"\.lora_embedding_[AB](?:\.\w+)?$"),
        ("LoHa", r"\.hada_(?:w[12]_[ab]|t[12])$"),
        ("LoKr", r"\.lokr_(?:w[12](?:_[ab])?|t2)$"),
        ("IA3", r"(?:\.on_input|\.ia3_l(?:\.\w+)?)$"),
        ("OFT", r"\.(?:oft_blocks|oft_diag|oft_[rR](?:\.\w+)?(?:\.weight)?)$"),
        ("BOFT", r"\.boft_[RSrs](?:\.\w+)?$"),
        ("GLoRA", r"^(?:lora|lycoris)_.*\.[ab][12]\.weight$"),
        ("full difference", r"^(?:lora_|lycoris_|diffusion_model\.|text_encoders?\.).*\.diff(?:_b)?$"),
        ("norm", r"\.(?:w|b)_norm$"),
    )
)
_BESIDE = re.compile(r"\.(?:alpha|scale)$|^bundle_emb\.|^(?:lora|lycoris)_")
_RANK: Final[tuple[tuple[re.Pattern[str], int], ...]] = tuple(
    (re.compile(pattern), dimension)
    for pattern, dimension in (
        (r"[._]lora(?:_down|_A|_linear_layer\.down|\.down)(?:\.\w+)?\.weight$", 0),
        (r"\.lora_embedding_A(?:\.\w+)?$", 0),
        (r"\.hada_w1_b$", 0),
        (r"\.lokr_w[12]_b$", 0),
    )
)
_MOST_ALPHAS: Final = 20_000
_MOST_ENCODERS: Final = 16
_LONGEST_NAME: Final = 1000
"""Longer names are no real ones, and would take the patterns too long."""
_MOST_BYTES: Final = 1 << 16

_CODES: Final[Mapping[str, str]] = {
    "float64": "d", "float32": "f", "float16": "e", "int64": "q", "int32": "i", "int16": "h", "int8": "b",
    "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bfloat16": "H",
}  # fmt: skip
"""The format character of `struct` for a dtype; bfloat16 is read as the upper half of a float32."""


def input_channels(shapes: Shapes) -> int | None:
    """Return the number of a UNet's input channels; None if there is no first convolution of one."""
    found = (shapes[name] for name in _CONV_IN if name in shapes)
    return next((shape[1] for shape in found if len(shape) == 4), None)


def kind_of_inputs(channels: int | None) -> str | None:
    """Return what a UNet with so many input channels is for (`inpainting`, ...).

    None for the usual 4, and for others.
    """
    return _INPUTS.get(channels or 0)


def marks(names: Container[str]) -> tuple[str, ...]:
    """Return which tensors are there that only mark a property of a model: `v_pred`, `ztsnr`, ..., in a fixed order."""
    return tuple(mark for mark in _MARKS if mark in names)


def vae_kind(shapes: Shapes) -> str | None:
    """Return the naming (`ldm` or `diffusers`) of a file that is only a VAE; None if it is something else."""
    if "decoder.conv_in.weight" not in shapes:
        return None
    if not all(_VAE.match(name) for name in shapes):
        return None
    is_diffusers = any(name.startswith(("decoder.up_blocks.", "decoder.mid_block.")) for name in shapes)
    return "diffusers" if is_diffusers else "ldm"


# LoRA and related adapters


class AdapterTraits(NamedTuple):
    """What a file of a LoRA or related adapter holds."""

    families: Mapping[str, int]
    """The number of tensors by family: `LoRA`, `LoHa`, ..."""
    ranks: Mapping[int, int]
    """The number of modules by rank."""
    alphas: Mapping[float, int]
    """The number of modules by alpha."""
    for_model: str | None
    """The model that it is for, if names or shapes tell: `SD1.x`, `SD2.x`, `SDXL`, `Flux`."""
    text_encoder: bool
    """Whether it changes text encoders too."""

    def to_json(self) -> dict[str, object]:
        """Return the object of `inspect --json`."""
        return {
            "families": dict(self.families),
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "alphas": {f"{alpha:g}": count for alpha, count in self.alphas.items()},
            "for": self.for_model,
            "text_encoder": self.text_encoder,
        }


def adapter(model: Model) -> AdapterTraits | None:
    """Return what a model is as a LoRA; None if most of its tensors are something else."""
    found = _AdapterTensors()
    for name, info in model.tensors.items():
        if len(name) <= _LONGEST_NAME:
            found.count(name, info)
    families = found.families
    if not families or 2 * (families.total() + found.beside) < len(model.tensors):
        return None
    if families["LoRA"] and (found.is_conv or found.is_cp):
        label = "LoCon (Tucker)" if found.is_cp else "LoCon"
        families[label] = families.pop("LoRA")
    return AdapterTraits(
        families=dict(families.most_common()),
        ranks=dict(found.ranks.most_common()),
        alphas=dict(Counter(_alphas(model, found.alphas)).most_common()) or _configured(model),
        for_model=_meant_for(model.tensors),
        text_encoder=any(re.match(r"lora_te\d?_|text_encoder|.*\.text_model\.", name) for name in model.tensors),
    )


class _AdapterTensors:
    """Counts the tensors of an adapter by their kinds, which names and shapes tell."""

    def __init__(self) -> None:
        self.families: Counter[str] = Counter()
        self.ranks: Counter[int] = Counter()
        self.beside = 0
        """Tensors other than factors: alphas, scales, embeddings."""
        self.alphas: list[TensorInfo] = []
        self.is_conv = self.is_cp = False

    def count(self, name: str, info: TensorInfo) -> None:
        """Count one more tensor."""
        family = next((family for family, pattern in _FAMILIES if pattern.search(name)), None)
        if family is not None:
            self._count_factor(family, name, info)
        elif _BESIDE.search(name):
            self.beside += 1
            if name.endswith(".alpha") and info.count == 1:
                self.alphas.append(info)

    def _count_factor(self, family: str, name: str, info: TensorInfo) -> None:
        self.families[family] += 1
        rank = next((info.shape[at] for each, at in _RANK if each.search(name) and len(info.shape) > at), None)
        if rank is not None:
            self.ranks[rank] += 1
            self.is_conv |= len(info.shape) == 4 and info.shape[2:] != (1, 1)
        self.is_cp |= "lora_mid" in name


def _alphas(model: Model, infos: Sequence[TensorInfo]) -> Iterator[float]:
    for info, values in zip(infos, _values(model, infos[:_MOST_ALPHAS]), strict=False):
        if values and info.dtype in _CODES:
            yield float(f"{values[0]:.6g}")


def _configured(model: Model) -> dict[float, int]:
    """Return the alpha in an adapter's configuration (of a PEFT folder, or in a file's metadata), with the count 0.

    The count is of modules with a tensor for alpha. Without a valid alpha the result is empty.
    """
    alpha = (adapter_config(model) or model.facts).get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        return {}
    try:
        return {float(alpha): 0}
    except OverflowError:  # JSON allows integers of any length; using it as a LoRA is an error elsewhere
        return {}


def _meant_for(tensors: Mapping[str, TensorInfo]) -> str | None:
    widths = {768: "SD1.x", 1024: "SD2.x", 2048: "SDXL"}
    for name, info in tensors.items():
        if len(name) > _LONGEST_NAME:
            continue
        if re.search(r"lora_te2_|text_encoder_2\.", name):
            return "SDXL"
        if re.search(r"(?:double_blocks|single_blocks|single_transformer_blocks)[._]\d", name):
            return "Flux"
        if re.search(r"attn2[._]to_[kv][._].*lora[._](?:down|A)(?:\.\w+)?\.weight$", name) and len(info.shape) >= 2:
            return widths.get(info.shape[1])
    return None


# Position ids


class PositionIds(NamedTuple):
    """Whether the positions that a text encoder looks up are 0, 1, 2, ..."""

    name: str
    dtype: str
    length: int
    wrong: tuple[tuple[int, float], ...]
    """Pairs of a position and the wrong value there."""


def position_ids(model: Model) -> tuple[PositionIds, ...]:
    """Return the position ids of a model, read from its files.

    Raises:
        OSError: a file can't be read.
    """
    infos = [
        info
        for name, info in model.tensors.items()
        if _POSITION_IDS.search(name) and info.dtype in _CODES and info.nbytes <= _MOST_BYTES
    ][:_MOST_ENCODERS]
    return tuple(_position_ids(info, values) for info, values in zip(infos, _values(model, infos), strict=True))


def _position_ids(info: TensorInfo, values: Sequence[float]) -> PositionIds:
    wrong = tuple((position, value) for position, value in enumerate(values) if value != position)
    return PositionIds(info.name, info.dtype, len(values), wrong)


# Values of small tensors


def _values(model: Model, infos: Iterable[TensorInfo]) -> Iterator[tuple[float, ...]]:
    """Yield the elements of small tensors, in order; `()` for one that is large or of an unknown dtype."""
    descriptors: dict[int, int] = {}
    try:
        for info in infos:
            if info.dtype not in _CODES or info.nbytes > _MOST_BYTES:
                yield ()
                continue
            raw = b"".join(_runs(model, info, descriptors))
            yield _decoded(raw, info.dtype)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _decoded(raw: bytes, dtype: str) -> tuple[float, ...]:
    """Return the numbers that bytes of a dtype are."""
    code = _CODES[dtype]
    found = struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw)
    if dtype == "bfloat16":
        return tuple(struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in found)
    return found


def _runs(model: Model, info: TensorInfo, descriptors: dict[int, int]) -> Iterator[bytes]:
    """Yield the bytes of a tensor: all at once, or an element at a time if it is scattered."""
    size = struct.calcsize(_CODES[info.dtype])
    for file, begin, length in _places(info, size):
        if file not in descriptors:
            descriptors[file] = open_to_read(model.files[file])
        buffer = bytearray(length)
        count = pread_into(descriptors[file], buffer, begin)
        yield bytes(buffer[: count - count % size])


def _places(info: TensorInfo, size: int) -> list[tuple[int, int, int]]:
    """Return where the elements of a tensor are: file, offset and length of each run. `size`: of an element."""
    if not info.pieces:
        return [(info.file, info.begin, info.nbytes)]
    return [
        (piece.file, piece.begin + size * sum(map(int.__mul__, index, piece.strides)), size)
        for piece in info.pieces
        for index in itertools.product(*map(range, piece.shape))
    ]
