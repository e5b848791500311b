"""Weights that are packed or scaled integers: known by the names of their tensors, and never merged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from mergebuild.errors import Place, SourceError
from mergebuild.formats.reading import quoted

__all__ = ["UNQUANTIZED", "listed", "refuse_packed"]

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
