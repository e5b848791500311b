"""Writes and reads safetensors files of torch tensors, with mergebuild's own headers; compares tensors bit by bit."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.gathering import gather
from mergebuild.formats.header import read_header
from mergebuild.formats.layout import encode_header
from mergebuild.formats.model import Model

__all__ = ["TORCH", "Tensors", "as_bytes", "read_model", "same_bits", "tensor_of", "values", "write_model"]

Tensors = Mapping[str, Tensor]

TORCH: Mapping[str, torch.dtype] = {word: getattr(torch, word) for word in DTYPES_BY_WORD}
"""The dtypes of torch, by their names in mergebuild."""
_WORDS = {dtype: word for word, dtype in TORCH.items()}


def as_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, without NumPy."""
    flat = tensor.detach().cpu().contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size())


def tensor_of(data: bytes, dtype: str, shape: Sequence[int]) -> Tensor:
    """Return bytes as a tensor."""
    if not data:
        return torch.empty(tuple(shape), dtype=TORCH[dtype])
    return torch.frombuffer(bytearray(data), dtype=TORCH[dtype]).reshape(tuple(shape))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits."""
    return one.dtype == other.dtype and one.shape == other.shape and as_bytes(one) == as_bytes(other)


def write_model(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, *, odd: bool = False) -> Path:
    """Write a safetensors file; `odd`: its data begin at an odd offset, as in files of some other programs."""
    specs = [(name, _WORDS[each.dtype], tuple(each.shape)) for name, each in tensors.items()]
    raw, header = encode_header(specs, metadata or {"format": "pt"})
    if odd:
        raw = (len(raw) - 8 + 1).to_bytes(8, "little") + raw[8:] + b" "
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw + b"".join(as_bytes(tensors[name]) for name in header.tensors))
    return path


def read_model(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    data = path.read_bytes()
    return {
        name: tensor_of(data[info.begin : info.end], info.dtype, info.shape)
        for name, info in read_header(path).tensors.items()
    }


def values(model: Model) -> dict[str, Tensor]:
    """Return all tensors of a model, read like the leaves of a pass."""
    files = [path.read_bytes() for path in model.files]
    found = {}
    for name, info in model.tensors.items():
        width = DTYPES_BY_WORD[info.dtype].size
        data = files[info.file][info.begin : info.end]
        if info.pieces:
            data = bytes(gather(info.pieces, lambda file: memoryview(files[file]), width, 0, info.count))
        found[name] = tensor_of(data, info.dtype, info.shape)
    return found
