"""Square roots with the same bits on every machine: those that IEEE 754 asks for.

The library's own are a unit in the last place off for one value in a hundred where it takes many at once by a vector
library, and right where it takes few: they depend on where a tensor was cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["square_root"]

_HALVES = float((1 << 27) + 1)
"""A product with it parts a float64 in two halves, whose products are exact."""


def square_root(values: Tensor) -> Tensor:
    """Return the square roots, new, rounded to nearest: of float32, or of float64 from 1e-280 to 1e280, or 0.

    Those of NaN and of numbers below 0 are NaN; that of an infinity is that.
    """
    if values.dtype == torch.float32:  # none lies so near to the middle of two float32 that an error in float64 matters
        return values.to(torch.float64).sqrt_().to(torch.float32)
    root = torch.sqrt(values)
    squared = root * root
    high = root * _HALVES
    high = high - (high - root)
    low = root - high
    rest = (values - squared) - (((high * high - squared) + 2 * (high * low)) + low * low)
    bits = root.view(torch.int64)
    above, below = (bits + 1).view(torch.float64), (bits - 1).view(torch.float64)
    # (root + unit / 2) ** 2 = root ** 2 + root * unit + a quarter of what `rest` is a multiple of
    nearest = torch.where(rest > root * (above - root), above, root)
    return torch.where(rest <= root * (below - root), below, nearest)
