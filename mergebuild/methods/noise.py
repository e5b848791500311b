"""The numbers of `plus_random` and `dropout`, besides the random ones. No torch."""

from __future__ import annotations

from fractions import Fraction

from mergebuild.methods.scalars import power_of
from mergebuild.methods.shares import float32_of

__all__ = ["rescaling", "takes_noise"]

_BEYOND = 2.0**127
"""Half of the first power of two that float32 can't hold."""

_UNTOUCHED = ("to_out", "proj_out", "norm")


def takes_noise(tensor: str) -> bool:
    """Whether `plus_random` adds noise to the tensor with this name."""
    return not any(part in tensor for part in _UNTOUCHED)


def rescaling(kept: Fraction, rescale: Fraction) -> float:
    """Return 1 / kept**rescale as a float32; 1 if float32 can't hold it."""
    factor = power_of(kept, -rescale)
    return float32_of(Fraction(factor)) if 0 < factor < _BEYOND else 1.0
