"""Numbers of `arcee_fusion`: which elements of a tensor are outliers by their importance, found by quartiles.

No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isfinite

from mergebuild.methods.call import Call
from mergebuild.methods.cuts import Cut, value_of
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of

__all__ = ["quartiles_of", "threshold_of", "width_of"]


def width_of(call: Call) -> int:
    """Return the length of the vectors along the last dimension."""
    return max(1, call.shape[-1]) if call.shape else 1


def quartiles_of(call: Call) -> Sequence[int]:
    """Return, for each quartile, how many of the largest elements are at or above it."""
    last = call.count - 1
    return [call.count - place for place in (last // 4, last // 2, 3 * last // 4)]


def threshold_of(cuts: Sequence[Cut]) -> float:
    """Return the importance above which an element is an outlier, float32; `cuts` are those at the quartiles.

    Raises:
        UndefinedError: a quartile is beyond float32.
    """
    quartiles = [value_of(key) for key, _ in cuts]
    if not all(map(isfinite, quartiles)):
        message = "a quarter of the differences overflow float32, so that nothing stands out among them"
        raise UndefinedError(message)
    low, middle, high = map(Fraction, quartiles)
    return float32_of(middle + Fraction(3, 2) * (high - low))
