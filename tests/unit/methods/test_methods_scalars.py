from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.scalars import cos_pi_of, power_of


@given(st.fractions(-1000, 1000))
def test_cosines_of_exact_numbers(turns: Fraction) -> None:
    assert cos_pi_of(turns) == pytest.approx(math.cos(math.pi * float(turns % 2)), abs=1e-15)


def test_cosines_that_are_exact() -> None:
    found = [cos_pi_of(Fraction(each, 2)) for each in range(-4, 5)]
    assert found == [1, 0, -1, 0, 1, 0, -1, 0, 1]
    assert cos_pi_of(Fraction(1, 3)) == 0.5


def test_the_argument_is_never_rounded() -> None:
    """A float64 of 1e20 + 1/3 has lost the third."""
    assert cos_pi_of(10**20 + Fraction(1, 3)) == 0.5


@given(base=st.fractions(Fraction(1, 1000), 1000), exponent=st.integers(-30, 30))
def test_whole_powers_are_the_nearest_float64(base: Fraction, exponent: int) -> None:
    assert power_of(base, Fraction(exponent)) == float(base**exponent)


def test_powers_that_are_not_whole_and_powers_beyond_float64() -> None:
    assert power_of(Fraction(1, 4), Fraction(1, 2)) == 0.5
    assert power_of(Fraction(2), Fraction(1, 2)) == math.sqrt(2)
    assert power_of(Fraction(1, 10), Fraction(-5000)) == math.inf
    assert power_of(Fraction(1, 10), Fraction(5000)) == 0
