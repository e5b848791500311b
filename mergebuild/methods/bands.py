"""The band of rows that `tensor_sum` and `tensor_sum2` take from b, from exact numbers: 0.29 of 100 rows are 29.

No torch.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import NamedTuple

from mergebuild.methods.call import Call

__all__ = ["Band", "band_along", "longer_dimension"]

_WIDE = 100
"""`tensor_sum2` cuts the second dimension only if it is longer than this; a shorter one is a kernel's size or few
channels."""


class Band(NamedTuple):
    """Which elements of a tensor are taken from b and which from a.

    All elements of one row (one index of the cut dimension) are consecutive, so the band is a run of elements that
    repeats after every `width` elements.
    """

    outside: int
    """The index of the input (0: a, 1: b) that gives the elements outside the run."""
    inside: int
    width: int
    """How many elements all rows have together: the run comes again after so many."""
    begin: int
    """The first element of the run."""
    end: int
    """The first element after the run."""

    @property
    def only(self) -> int | None:
        """The index of the input that gives all elements; None if both give some."""
        if self.begin == self.end:
            return self.outside
        return self.inside if self.end - self.begin == self.width else None


def longer_dimension(call: Call) -> int:
    """Return the dimension that `tensor_sum2` cuts: the second if it is longer than 100, else the first."""
    return 1 if len(call.shape) > 1 and call.shape[1] > _WIDE else 0


def band_along(call: Call, dimension: int) -> Band:
    """Return the band that the arguments `width`, `offset` and `rounding` describe.

    A band past the last row goes on at row 0.
    """
    if not call.shape:
        return _band_of_number(call)
    rows, inner = call.shape[dimension], prod(call.shape[dimension + 1 :])
    width, offset = _width_and_offset(call)
    bound = round if call.word("rounding") == "round" else int
    if width + offset <= 1:
        first, last, outside = bound(offset * rows), bound((width + offset) * rows), 0
    else:
        first, last, outside = bound((width + offset - 1) * rows), bound(offset * rows), 1
    return Band(outside, 1 - outside, rows * inner, first * inner, last * inner)


def _width_and_offset(call: Call) -> tuple[Fraction, Fraction]:
    """Return the width of the band, 0 to 1, and where it begins, from 0 to before 1, as shares of the rows."""
    width, offset = call.number("width"), call.number("offset")
    if width < 0:
        width, offset = -width, offset + width
    width = min(width, Fraction(1))
    if offset < 0:
        offset = 1 + offset - int(offset)
    return width, offset % 1


def _band_of_number(call: Call) -> Band:
    """Return the band of a tensor without dimensions.

    It is b's if `width` is 1, or, by sd-mecha's rule, if it is above 1/2; else a's.
    """
    width = call.number("width")
    number = int(width > Fraction(1, 2) if call.word("rounding") == "round" else abs(width) >= 1)
    return Band(number, number, 1, 0, 0)
