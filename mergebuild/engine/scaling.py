"""Multiply numbers by scales that lie beside them, one for each block: how 8-bit floats stand for weights.

The product is rounded to float32 once, to the nearest or to odd (`rounding`). Of an 8-bit float and a scale of 32 bits
or fewer it is exact in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergebuild.engine.rounding import to_odd
from mergebuild.formats.header import Scaling

__all__ = ["multiply"]


def multiply(values: Tensor, start: int, scales: Tensor, scaling: Scaling, *, odd: bool = False) -> Tensor:
    """Multiply values, in place, by their scales; return them.

    Args:
        values: float32 [n], the elements from `start` on of a tensor.
        start: which element the first is.
        scales: of the whole tensor, [rows of blocks, blocks in a row], in any floating-point dtype.
        scaling: how they lie.
        odd: round to odd.
    """
    if scales.numel() == 1:
        return _product(values, scales.reshape(()), odd=odd)
    columns, done = scaling.columns, 0
    while done < len(values):  # what is left of a row, whole rows, what is begun of one
        row, column = divmod(start + done, columns)
        left = len(values) - done
        size = min(columns - column, left) if column or left < columns else left // columns * columns
        part = values[done : done + size]
        rows = torch.arange(row, row + max(1, size // columns), device=scales.device) // scaling.block_rows
        factors = scales[rows]
        if factors.shape[1] > 1:
            factors = factors.repeat_interleave(scaling.block_columns, 1)[:, column : column + min(size, columns)]
        _product(part.view(len(rows), -1), factors, odd=odd)
        done += size
    return values


def _product(values: Tensor, factors: Tensor, *, odd: bool) -> Tensor:
    if odd:
        exact = values.double().mul_(factors.double())
        to_odd(exact.view(-1), values.view(-1))
        return values
    return values.copy_(values.double().mul_(factors)) if factors.dtype is torch.float64 else values.mul_(factors)
