"""Regions of a sorted tensor's values (top_k_tensor_sum), from exact numbers. No torch."""

from __future__ import annotations

from fractions import Fraction
from math import floor

__all__ = ["region"]


def region(width: Fraction, offset: Fraction, size: int) -> tuple[int, int, bool]:
    """Return the begin and end of a region of `size` things, and whether the things outside it are meant instead.

    A region with a negative width ends at the offset; one that reaches beyond the end goes on at the start. Bounds are
    rounded to the nearest integer, halves to even.
    """
    if width < 0:
        offset, width = offset + width, -width
    width = min(width, Fraction(1))
    if offset < 0:
        offset = 1 + offset - int(offset)
    offset -= floor(offset)
    if width + offset <= 1:
        return round(offset * size), round((width + offset) * size), False
    return round((width + offset - 1) * size), round(offset * size), True
