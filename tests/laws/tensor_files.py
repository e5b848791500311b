"""Reads and writes model files without `mergebuild`: dtypes by NumPy, safetensors, checkpoints, folders.

Numbers are float64 arrays. Each dtype rounds a float64 once, to nearest, ties to even; values too large for float8 are
never written here. The evaluator and the sources of the laws use only this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

__all__ = [
    "FLOATS",
    "Scaled",
    "Stored",
    "decode",
    "encode",
    "files_of",
    "largest",
    "read_model",
    "rounded",
    "scaled",
    "write_model",
]


class _Float(NamedTuple):
    """A binary format: bits of the fraction, the exponent of the least normal number, the largest finite value."""

    word: str
    bits: int
    least: int
    largest: float


FLOATS: Mapping[str, _Float] = {
    "float64": _Float("F64", 52, -1022, 1.7976931348623157e308),
    "float32": _Float("F32", 23, -126, 3.4028234663852886e38),
    "float16": _Float("F16", 10, -14, 65504.0),
    "bfloat16": _Float("BF16", 7, -126, 3.3895313892515355e38),
    "float8_e4m3fn": _Float("F8_E4M3", 3, -6, 448.0),
    "float8_e5m2": _Float("F8_E5M2", 2, -14, 57344.0),
}
_INTEGERS = {"int64": ("I64", "<i8"), "int32": ("I32", "<i4"), "uint8": ("U8", "u1"), "bool": ("BOOL", "u1")}
_DTYPES = {each.word: name for name, each in FLOATS.items()} | {word: name for name, (word, _) in _INTEGERS.items()}
_WORDS = {name: word for word, name in _DTYPES.items()}


class Stored(NamedTuple):
    """A tensor as it is stored in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def is_float(self) -> bool:
        """Whether it is floating-point; only such tensors are merged."""
        return self.dtype in FLOATS

    @property
    def values(self) -> np.ndarray:
        """Its numbers, flat."""
        return decode(self.data, self.dtype)


class Scaled(NamedTuple):
    """A weight stored as 8-bit floats with scales: one for the tensor, one per row, or one per block."""

    numbers: Stored
    scales: Stored
    name: str
    """The name of the scales, with `{}` for the name of the module."""

    dtype = "bfloat16"
    """The dtype that readers treat it as."""
    is_float = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.numbers.shape

    @property
    def data(self) -> bytes:
        """Bytes that identify it: of its numbers and its scales."""
        return repr((self.numbers, self.scales)).encode()

    @property
    def values(self) -> np.ndarray:
        """The exact products, flat."""
        factors = self.scales.values.reshape(self.scales.shape)
        for axis, size in enumerate(self.shape if self.scales.shape else ()):
            factors = factors.repeat(size // factors.shape[axis], axis)
        with np.errstate(invalid="ignore"):
            return (self.numbers.values.reshape(self.shape) * factors).reshape(-1)


def scaled(values: Sequence[float], shape: tuple[int, ...], number: int) -> Scaled:
    """Return a weight as 8-bit floats with scales; `number` chooses dtypes, names, and the kind of scales.

    There is one scale, one per row, or one per block in a grid of blocks of two by two.
    """
    array = np.asarray(values, dtype=np.float64).reshape(shape)
    dtype = ("float8_e4m3fn", "float8_e5m2")[number % 5 == 4]
    kind = ("tensor", "rows", "blocks")[number % 3]
    grid: tuple[int, ...] = ()
    if kind == "rows":
        grid = (shape[0], *[1] * (len(shape) - 1))
    elif kind == "blocks" and len(shape) == 2 and not (shape[0] % 2 or shape[1] % 2):
        grid = (shape[0] // 2, shape[1] // 2)
    word = ("float32", "bfloat16")[number % 2]
    sizes = [each // own for each, own in zip(shape, grid, strict=True)] if grid else []
    magnitudes = np.abs(np.nan_to_num(array, nan=0.0))
    if grid:
        split = magnitudes.reshape([part for pair in zip(grid, sizes, strict=True) for part in pair])
        most = split.max(axis=tuple(range(1, 2 * len(grid), 2)))
    else:
        most = magnitudes.max(initial=0.0)
    factors = np.where(most > 0, most / 400, 1.0)
    scales = Stored(word, grid, encode(factors, word))
    spread = Scaled(Stored("float32", shape, encode(np.ones(shape), "float32")), scales, "").values.reshape(shape)
    name = ("{}.scale_weight", "{}.weight_scale", "{}.weight_scale_inv")[number // 2 % 3]
    return Scaled(Stored(dtype, shape, encode(array / spread, dtype)), scales, name)


def files_of(tensors: Mapping[str, Stored | Scaled]) -> dict[str, Stored]:
    """Return the tensors of a model's file: scaled weights as their numbers and scales, with a marker tensor."""
    found: dict[str, Stored] = {}
    for name, each in tensors.items():
        if isinstance(each, Scaled):
            module = name.removesuffix(".weight")
            found |= {name: each.numbers, each.name.format(module): each.scales}
            if each.name.endswith("scale_weight"):
                found["scaled_fp8"] = Stored("float8_e4m3fn", (0,), b"")
            else:
                found[f"{module}.input_scale"] = Stored("float32", (), encode([0.5], "float32"))
        else:
            found[name] = each
    return found


def largest(dtype: str) -> float:
    """Return the largest finite number of a dtype."""
    return FLOATS[dtype].largest


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return the nearest numbers of a dtype, ties to even, as float64; values that overflow become infinite."""
    if dtype == "float64":
        return values
    form = FLOATS[dtype]
    _, exponent = np.frexp(values)
    step = np.ldexp(1.0, np.maximum(exponent - 1, form.least) - form.bits)
    with np.errstate(invalid="ignore"):
        near = np.where(np.isfinite(values), np.rint(values / step) * step, values)
    near = np.copysign(near, values)
    return np.where(np.abs(near) > form.largest, np.copysign(np.inf, values), near)


def _float8(dtype: str) -> np.ndarray:
    """Return the value of each of the 128 positive patterns of a float8."""
    form = FLOATS[dtype]
    bits = form.bits
    found = []
    for pattern in range(128):
        exponent, fraction = pattern >> bits, pattern & ((1 << bits) - 1)
        scale = 2.0 ** (max(exponent, 1) - 1 + form.least - bits)
        found.append((fraction + ((1 << bits) if exponent else 0)) * scale)
    values = np.array(found)
    return np.where(values > form.largest, np.nan, values)


_PATTERNS = {dtype: _float8(dtype) for dtype in FLOATS if dtype.startswith("float8")}


def encode(values: Sequence[float] | np.ndarray, dtype: str) -> bytes:
    """Return numbers as bytes of a dtype, each rounded once."""
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if dtype in _INTEGERS:
        return array.astype(_INTEGERS[dtype][1]).tobytes()
    near = rounded(array, dtype)
    match dtype:
        case "float64":
            return near.astype("<f8").tobytes()
        case "float32":
            return near.astype("<f4").tobytes()
        case "float16":
            return near.astype("<f2").tobytes()
        case "bfloat16":
            return (near.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    table = _PATTERNS[dtype]
    finite = table[np.isfinite(table)]
    patterns = np.searchsorted(finite, np.abs(near)).astype(np.uint8)
    patterns = np.where(np.isfinite(near), patterns, 0x7F if dtype == "float8_e4m3fn" else 0x7C)
    return (patterns | np.where(np.signbit(near), 0x80, 0)).astype(np.uint8).tobytes()


def decode(data: bytes, dtype: str) -> np.ndarray:
    """Return bytes of a dtype as float64, flat."""
    match dtype:
        case "float64":
            return np.frombuffer(data, "<f8")
        case "float32":
            return np.frombuffer(data, "<f4").astype(np.float64)
        case "float16":
            return np.frombuffer(data, "<f2").astype(np.float64)
        case "bfloat16":
            return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    if dtype in _PATTERNS:
        patterns = np.frombuffer(data, np.uint8)
        values = _PATTERNS[dtype][patterns & 0x7F]
        if dtype == "float8_e5m2":
            values = np.where((patterns & 0x7F) == 0x7C, np.inf, values)
        return np.where(patterns & 0x80, -values, values)
    return np.frombuffer(data, _INTEGERS[dtype][1]).astype(np.float64)


# Files


def _safetensors(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, each in tensors.items():
        header[name] = {
            "dtype": _WORDS[each.dtype],
            "shape": list(each.shape),
            "data_offsets": [at, at + len(each.data)],
        }
        at += len(each.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(each.data for each in tensors.values())


def _parsed(raw: bytes) -> dict[str, Stored]:
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    data = raw[8 + size :]
    assert max((each["data_offsets"][1] for each in header.values()), default=0) == len(data), "bytes behind the last"
    return {
        name: Stored(
            _DTYPES[each["dtype"]],
            tuple(each["shape"]),
            data[each["data_offsets"][0] : each["data_offsets"][1]],
        )
        for name, each in header.items()
    }


def _of_torch(stored: Stored) -> torch.Tensor:
    dtype = getattr(torch, stored.dtype)
    if not stored.data:
        return torch.empty(stored.shape, dtype=dtype)
    return torch.frombuffer(bytearray(stored.data), dtype=dtype).reshape(stored.shape)


def _from_torch(tensor: torch.Tensor) -> Stored:
    flat = tensor.detach().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return Stored(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data)


def write_model(
    path: Path, tensors: Mapping[str, Stored], form: str, beside: Mapping[str, object] | None = None
) -> None:
    """Write a model as a `file`, a `ckpt`, a `folder` of one file or of `shards`; `beside`: JSON files of a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "file":
        path.write_bytes(_safetensors(tensors, {"format": "pt"}))
    elif form == "ckpt":
        each_once = {id(each): _of_torch(each) for each in tensors.values()}  # names of one tensor share a storage
        torch.save({"state_dict": {name: each_once[id(each)] for name, each in tensors.items()}}, path)
    else:
        path.mkdir(exist_ok=True)
        for name, document in (beside or {}).items():
            (path / name).write_text(json.dumps(document))
        _write_folder(path, tensors, form, "adapter_model" if "adapter_config.json" in (beside or {}) else "model")


def _write_folder(path: Path, tensors: Mapping[str, Stored], form: str, stem: str) -> None:
    names = list(tensors)
    if form == "folder" or len(names) < 2 or stem != "model":
        (path / f"{stem}.safetensors").write_bytes(_safetensors(tensors, {"format": "pt"}))
        return
    half = len(names) // 2
    parts = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for file, some in parts.items():
        (path / file).write_bytes(_safetensors({name: tensors[name] for name in some}, {"format": "pt"}))
    index = {"metadata": {}, "weight_map": {name: file for file, some in parts.items() for name in some}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def read_model(path: Path) -> dict[str, Stored]:
    """Read the tensors of a safetensors file, a checkpoint, or all safetensors files of a folder."""
    if path.is_dir():
        return _merged(_parsed(each.read_bytes()) for each in sorted(path.glob("*.safetensors")))
    if path.suffix == ".ckpt":
        loaded = torch.load(path, weights_only=True)
        return {name: _from_torch(each) for name, each in loaded["state_dict"].items()}
    return _parsed(path.read_bytes())


def _merged(parts: Iterable[Mapping[str, Stored]]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for each in parts:
        assert not found.keys() & each.keys(), "a tensor lies in two shards"
        found |= each
    assert all(prod(each.shape) or not each.data for each in found.values())
    return found
