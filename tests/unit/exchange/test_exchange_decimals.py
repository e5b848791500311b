"""Numbers of recipes as the decimals that people meant."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.exchange.decimals import complement, meant, number_of


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (0.30000000000000004, "0.3"),
        (0.7000000000000001, "0.7"),
        (0.1 + 0.7, "0.8"),
        (1 / 3, "0.333333333333333"),
        (0.123456789, "0.123456789"),
        (-0.0, "0"),
        (3, "3"),
        (Decimal("0.30"), "0.3"),
        (1e-20, "1E-20"),
        (Decimal("0.123456789012345678901"), "0.123456789012345678901"),
    ],
)
def test_a_number_is_the_shortest_decimal_near_it(found: object, said: str) -> None:
    assert str(number_of(found)) == said


@pytest.mark.parametrize("found", [True, None, "0.5", [], float("nan"), float("inf"), 1e300, 1e-300, Decimal("1e99")])
def test_what_is_no_number_of_a_recipe_is_none(found: object) -> None:
    assert number_of(found) is None


@given(st.decimals(min_value=-10, max_value=10, places=6))
def test_a_decimal_of_few_digits_comes_back_from_binary(number: Decimal) -> None:
    assert number_of(float(number)) == number


@given(st.floats(min_value=-1e6, max_value=1e6).filter(lambda number: number == 0 or abs(number) > 1e-30))
def test_what_is_meant_is_near(number: float) -> None:
    exact = Decimal(repr(number))
    assert abs(meant(exact) - exact) <= abs(exact) * Decimal("1.01e-15")


@given(st.decimals(min_value=-10, max_value=10, places=15))
def test_a_complement_is_exact(number: Decimal) -> None:
    assert complement(complement(number)) == number
