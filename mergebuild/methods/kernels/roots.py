"""Square roots with the same bits on every machine: correctly rounded, as IEEE 754 requires.

torch computes many roots at a time with a vector library, which is off by one unit in the last place for one value in a
hundred, and few of them correctly. So its results depend on how a tensor was cut into chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["square_root"]

_HALVES = float((1 << 27) + 1)
"""Multiplying by it splits a float64 into two halves whose products are exact."""


def square_root(values: Tensor) -> Tensor:
    """Return the square roots, new, rounded to nearest.

    `values`: float32; or float64 that are 0 or from 1e-280 to 1e280.

    For NaN and for negative numbers it is NaN, for infinity infinity.
    """
    if values.dtype == torch.float32:  # an error in float64 is too small to change the rounding to float32
        return values.to(torch.float64).sqrt_().to(torch.float32)
    root = torch.sqrt(values)
    squared = root * root
    high = root * _HALVES
    high = high - (high - root)
    low = root - high
    rest = (values - squared) - (((high * high - squared) + 2 * (high * low)) + low * low)
    bits = root.view(torch.int64)
    above, below = (bits + 1).view(torch.float64), (bits - 1).view(torch.float64)
    # (root + unit / 2) ** 2 = root ** 2 + root * unit + unit ** 2 / 4, and `rest` is a multiple of unit ** 2
    nearest = torch.where(rest > root * (above - root), above, root)
    return torch.where(rest <= root * (below - root), below, nearest)
