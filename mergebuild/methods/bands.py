"""Bands of rows that one model gives another, from exact numbers, so that 0.29 of 100 rows are 29. No torch."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import NamedTuple

from mergebuild.methods.call import Call

__all__ = ["Band", "band_along", "longer_dimension"]

_WIDE = 100
"""`tensor_sum2` cuts a second dimension longer than this; a shorter one is a kernel's, or a few channels."""


class Band(NamedTuple):
    """Where a tensor is b's and where a's: all that lies behind an index of the dimension is a run of elements."""

    outside: int
    """The index of the input that the elements outside are of."""
    inside: int
    width: int
    """How many elements lie behind all indices of the dimension together: after so many, the band comes again."""
    begin: int
    """The first of them that is inside."""
    end: int
    """The first behind the band."""

    @property
    def only(self) -> int | None:
        """The index of the input that all elements are of, if there is one such."""
        if self.begin == self.end:
            return self.outside
        return self.inside if self.end - self.begin == self.width else None


def longer_dimension(call: Call) -> int:
    """Return which dimension `tensor_sum2` cuts: the second where that is a long one, else the first."""
    return 1 if len(call.shape) > 1 and call.shape[1] > _WIDE else 0


def band_along(call: Call, dimension: int) -> Band:
    """Return the band of b's rows in a that `width`, `offset` and `rounding` mean: it wraps around at the end."""
    if not call.shape:
        number = int(_takes_number(call))
        return Band(number, number, 1, 0, 0)
    rows, inner = call.shape[dimension], prod(call.shape[dimension + 1 :])
    width, offset = call.number("width"), call.number("offset")
    if width < 0:
        width, offset = -width, offset + width
    width = min(width, Fraction(1))
    if offset < 0:
        offset = 1 + offset - int(offset)
    offset %= 1
    bound = round if call.word("rounding") == "round" else int
    if width + offset <= 1:
        first, last, outside = bound(offset * rows), bound((width + offset) * rows), 0
    else:
        first, last, outside = bound((width + offset - 1) * rows), bound(offset * rows), 1
    return Band(outside, 1 - outside, rows * inner, first * inner, last * inner)


def _takes_number(call: Call) -> bool:
    """Return whether a tensor without dimensions is b's: with all of a band, or by sd-mecha's rule."""
    width = call.number("width")
    return width > Fraction(1, 2) if call.word("rounding") == "round" else abs(width) >= 1
