"""The dtypes of safetensors files: their tags, the words of the contract for them, and their sizes.

A tag is the word in a header (`F16`), a word the one that users write and read (`float16`). Floating-point tensors are
merged, all others are copied. Tags that safetensors has but this version can't handle are listed too, to be
distinguished from typos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DTYPES", "DTYPES_BY_WORD", "QUANTIZED", "UNSUPPORTED", "DType"]


@dataclass(frozen=True, slots=True)
class DType:
    """A dtype: its tag, the word of the contract, the size of an element in bytes, and whether it is merged."""

    tag: str
    word: str
    size: int
    is_float: bool

    @property
    def bits(self) -> int:
        """The size of one element in bits."""
        return 8 * self.size


_ROWS = (
    DType("F64", "float64", 8, is_float=True),
    DType("F32", "float32", 4, is_float=True),
    DType("F16", "float16", 2, is_float=True),
    DType("BF16", "bfloat16", 2, is_float=True),
    DType("F8_E4M3", "float8_e4m3fn", 1, is_float=True),
    DType("F8_E5M2", "float8_e5m2", 1, is_float=True),
    DType("I64", "int64", 8, is_float=False),
    DType("I32", "int32", 4, is_float=False),
    DType("I16", "int16", 2, is_float=False),
    DType("I8", "int8", 1, is_float=False),
    DType("U64", "uint64", 8, is_float=False),
    DType("U32", "uint32", 4, is_float=False),
    DType("U16", "uint16", 2, is_float=False),
    DType("U8", "uint8", 1, is_float=False),
    DType("BOOL", "bool", 1, is_float=False),
    DType("C64", "complex64", 8, is_float=False),
)

DTYPES: Mapping[str, DType] = {row.tag: row for row in _ROWS}
"""The dtypes by tag."""

DTYPES_BY_WORD: Mapping[str, DType] = {row.word: row for row in _ROWS}
"""The dtypes by word of the contract."""

QUANTIZED = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"})
"""Tags of safetensors 0.8 that only quantized weights have: packed numbers, and exponents that scale others."""

UNSUPPORTED = QUANTIZED | {"F8_E4M3FNUZ", "F8_E5M2FNUZ"}
"""Tags that this version refuses."""
