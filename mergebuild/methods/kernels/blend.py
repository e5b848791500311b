"""A step from one tensor towards another by an exact share: `a + t * (b - a)`, each operation rounded on its own.

The share is rounded to float32 once: by way of float64 it would be rounded twice, which goes wrong near the middle
between two float32.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["float32_of", "lerp"]


@lru_cache(maxsize=1 << 14)
def float32_of(number: Fraction) -> float:
    """Return the float32 nearest to `number`, ties to even; an infinity beyond the largest."""
    if not number:
        return 0.0
    magnitude = abs(number)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = round(magnitude / unit) * unit  # Fraction rounds half to even
    value = float(rounded) if rounded < Fraction(2) ** 128 else float("inf")
    return value if number > 0 else -value


def lerp(a: Tensor, b: Tensor, share: Fraction) -> Tensor:
    """Return `a + share * (b - a)` (float32, new), which at 0 and 1 has an input's bits."""
    if share in {0, 1}:
        return (b if share else a).clone()
    return torch.sub(b, a).mul_(float32_of(share)).add_(a)
