"""What `plus_random` and `dropout` compute with, beside random numbers. No torch."""

from __future__ import annotations

from fractions import Fraction

from mergebuild.methods.scalars import power_of
from mergebuild.methods.shares import float32_of

__all__ = ["rescaling", "takes_noise"]

_BEYOND = 2.0**127
"""Half of what float32 has no room for."""

_UNTOUCHED = ("to_out", "proj_out", "norm")


def takes_noise(tensor: str) -> bool:
    """Whether a tensor gets noise, by its name."""
    return not any(part in tensor for part in _UNTOUCHED)


def rescaling(kept: Fraction, rescale: Fraction) -> float:
    """Return 1 / kept**rescale as a float32, 1 where float32 cannot hold it."""
    factor = power_of(kept, -rescale)
    return float32_of(Fraction(factor)) if 0 < factor < _BEYOND else 1.0
