"""Angles and sines of many vectors at once in float64, from operations that IEEE 754 rounds in only one way.

- the angle, given its sine and cosine: halved three times by tan(x/2) = tan(x) / (1 + sqrt(1 + tan(x)**2)), then the
  series of the arc tangent, which needs eleven terms below 0.2
- the sine: the nearest multiple of pi is subtracted, then its series

Relative errors are a few units in the last place, also for the smallest angles.
"""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor

from mergebuild.methods.kernels.roots import square_root

__all__ = ["angle_of", "sine_of"]

_PI = 3.141592653589793
_PI_REST = 1.2246467991473532e-16
"""Pi is `_PI + _PI_REST`, to 107 bits."""

_ARC_TANGENT = tuple((-1) ** power / (2 * power + 1) for power in range(11, -1, -1))
_SINE = tuple((-1) ** power / factorial(2 * power + 1) for power in range(11, -1, -1))


def angle_of(sine: Tensor, cosine: Tensor) -> Tensor:
    """Return the angles between 0 and pi with these sines and cosines.

    All are float64 of any one shape; sines are at least 0.
    """
    quarter = sine / (1 + cosine.abs())
    for _ in range(2):
        quarter = quarter / (1 + square_root(1 + quarter * quarter))
    acute = 8 * quarter * _series(_ARC_TANGENT, quarter * quarter)
    return torch.where(cosine < 0, _PI - acute + _PI_REST, acute)


def sine_of(angles: Tensor) -> Tensor:
    """Return the sines of `angles` (float64, any shape)."""
    turns = torch.round(angles * (1 / _PI))
    rest = angles - turns * _PI - turns * _PI_REST
    odd = turns - 2 * torch.floor(turns * 0.5)
    return rest * _series(_SINE, rest * rest) * (1 - 2 * odd)


def _series(coefficients: tuple[float, ...], at: Tensor) -> Tensor:
    """Return the value of a polynomial times `at`, its coefficients from the highest power down."""
    value = at * coefficients[0]
    for coefficient in coefficients[1:-1]:
        value = (value + coefficient) * at
    return value + coefficients[-1]
