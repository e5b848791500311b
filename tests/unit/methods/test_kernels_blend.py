"""A share is rounded once, and a whole one gives the input's bits."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.kernels.blend import lerp
from mergebuild.methods.shares import float32_of


def exact(bits: int) -> Fraction:
    """Return the value of a finite float32 from its bits."""
    found: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return Fraction(found)


def nearest(value: Fraction) -> float:
    """Return the nearest float32 by bisection over all of them: the independent model."""
    if value < 0:
        return -nearest(-value)
    low, high = 0, 0x7F800000  # the bits of the positive float32 are in the order of their values
    limit = (Fraction(2) - Fraction(1, 2**24)) * Fraction(2) ** 127  # half way from the largest to 2^128
    if value >= limit:
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        if exact(middle) <= value:
            low = middle
        else:
            high = middle
    if high == 0x7F800000:
        return float(exact(low))
    below, above = value - exact(low), exact(high) - value
    even = low if low % 2 == 0 else high
    return float(exact(low if below < above else high if above < below else even))


MAGNITUDES = st.builds(
    lambda digits, exponent, odd: Fraction(digits, 3 if odd else 1) * Fraction(2) ** exponent,
    st.integers(-(2**30), 2**30),
    st.integers(-190, 110),
    st.booleans(),
)


@given(MAGNITUDES | st.fractions())
def test_a_coefficient_is_the_nearest_float32(value: Fraction) -> None:
    assert float32_of(value) == nearest(value)


@given(st.integers(0, 0x7F7FFFFE), st.booleans())
def test_ties_go_to_even(bits: int, negative: bool) -> None:
    """Half way between two neighbours, subnormal ones among them; and a hair beside it."""
    sign = -1 if negative else 1
    middle = (exact(bits) + exact(bits + 1)) / 2
    hair = Fraction(1, 10**90)
    even = bits if bits % 2 == 0 else bits + 1
    assert float32_of(sign * middle) == sign * float(exact(even))
    assert float32_of(sign * (middle - hair)) == sign * float(exact(bits))
    assert float32_of(sign * (middle + hair)) == sign * float(exact(bits + 1))


@given(st.integers(0, 0x7F7FFFFF))
def test_a_float32_is_itself(bits: int) -> None:
    assert float32_of(exact(bits)) == float(exact(bits))


def test_the_ends_of_the_range() -> None:
    smallest, largest = exact(1), exact(0x7F7FFFFF)
    assert float32_of(smallest / 2) == 0.0
    assert float32_of(smallest * Fraction(51, 100)) == float(smallest)
    assert float32_of(largest + Fraction(2) ** 102) == float(largest)
    assert float32_of(largest + Fraction(2) ** 103) == math.inf
    assert float32_of(-(Fraction(10) ** 1000)) == -math.inf
    assert float32_of(Fraction(0)) == 0.0


def test_whole_shares_give_the_bits_of_an_input() -> None:
    a, b = torch.tensor([1e-8, -0.0, 3.0]), torch.tensor([1e8, 0.0, -3.0])
    for share, source in ((0, a), (1, b)):
        found = lerp(a, b, Fraction(share))
        assert torch.equal(found.view(torch.int32), source.view(torch.int32))
        assert found.data_ptr() != source.data_ptr()


def test_a_share_goes_that_far() -> None:
    assert lerp(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0]), Fraction(1, 4)).tolist() == [1.5, 1.0]
    assert lerp(torch.tensor([1.0]), torch.tensor([3.0]), Fraction(-1, 2)).tolist() == [0.0]
