"""Weights that are packed or scaled integers: known by the names of their tensors, and never merged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from mergebuild.errors import Place, SourceError
from mergebuild.formats.header import TensorInfo
from mergebuild.formats.reading import quoted

__all__ = ["QUANTIZATIONS", "UNQUANTIZED", "listed", "may_be_quantized", "quantization_claimed", "refuse_packed"]

QUANTIZATIONS: Final = ("quantization_config", "compression_config")
"""Members of a configuration that say that, and how, weights are quantized."""

UNQUANTIZED: Final = "take the unquantized release of the model, or dequantize it first"
"""What to do."""

_PACKED: Final = re.compile(
    r".*\.(?:qweight|qzeros|weight_packed|weight_scale(?:_inv|_2)?|absmax|quant_map|nested_absmax|SCB|"
    r"quant_state\.bitsandbytes__\w+)"
)


def refuse_packed(names: Iterable[str], shown: str) -> None:
    """Refuse a model whose tensors' names show that its weights are packed or scaled integers.

    Raises:
        SourceError: they do; a merge of such values means nothing.
    """
    packed = sorted(name for name in names if _PACKED.fullmatch(name))
    if packed:
        message = f"{quoted(shown)} holds quantized weights, which can't be merged"
        where = Place(shown)
        raise SourceError.one("quantized-weights", message, where=where, help=UNQUANTIZED, rows=listed(packed))


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """Return names as rows of an error, the first few."""
    rows = tuple(map(quoted, names[:8]))
    return rows if len(names) <= 8 else (*rows, f"… {len(names)} in all")


def quantization_claimed(config: Mapping[str, object]) -> str | None:
    """Return what of a configuration says that weights are quantized, for a sentence; None where nothing does.

    It may say so of the model itself, or of a part of it (`text_config`). Whether they are, their tensors tell: what
    was trained on a quantized model and saved in floats often keeps the sentence.
    """
    parts = {"": config} | {f"{key}.": part for key, part in config.items() if key.endswith("_config")}
    for prefix, part in parts.items():
        for key in QUANTIZATIONS:
            found = part.get(key) if isinstance(part, Mapping) else None
            if found:
                method = found.get("quant_method") if isinstance(found, Mapping) else None
                what = f" ({method})" if isinstance(method, str) and re.fullmatch(r"[\w-]{1,40}", method) else ""
                return f"`{prefix}{key}`{what}"
    return None


def may_be_quantized(tensors: Iterable[TensorInfo]) -> bool:
    """Return whether some of a model's tensors may hold quantized weights: matrices of 8-bit floats or of integers.

    Other integers in a model are positions and counts: of 64 bits, or no matrix of many rows.
    """
    return any(_may_hold_weights(each) for each in tensors)


def _may_hold_weights(tensor: TensorInfo) -> bool:
    if tensor.is_float:
        return tensor.dtype.startswith("float8")
    return tensor.dtype not in ("bool", "int64", "complex64") and len(tensor.shape) > 1 and min(tensor.shape) > 1
