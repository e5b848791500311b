from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.recipe.numbers import exact_decimal, inverse_sigmoid, shortest_text, sigmoid
from mergebuild.recipe.sizes import AmountError, parse_duration, parse_size

decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=None)


@given(decimals)
def test_a_decimal_is_its_exact_fraction_and_its_shortest_text_reads_back(number: Decimal) -> None:
    """Read, written and read again: the same number; and no shorter text means it."""
    fraction = exact_decimal(str(number))
    text = shortest_text(fraction)
    assert fraction == Fraction(number)
    assert exact_decimal(text) == fraction
    assert "e" not in text.lower()
    assert not ("." in text and text.endswith(("0", ".")))


@pytest.mark.parametrize(
    ("written", "shown"),
    [("0.30", "0.3"), ("3e-1", "0.3"), ("1.0", "1"), ("1e3", "1000"), ("-0.0", "0"), ("-12.50", "-12.5"),
     ("1_0.5", "10.5"), ("0.0001", "0.0001")],
)  # fmt: skip
def test_one_number_has_one_text(written: str, shown: str) -> None:
    assert shortest_text(exact_decimal(written)) == shown


@given(st.integers(min_value=-1000, max_value=1000), st.sampled_from([3, 7, 9, 11, 30]))
def test_what_no_decimal_means_has_no_text(numerator: int, denominator: int) -> None:
    number = Fraction(3 * numerator + 1, denominator) if denominator in (3, 9, 30) else Fraction(1, denominator)
    with pytest.raises(ValueError, match="no finite decimal form"):
        shortest_text(number)


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "1e5000", "1e-5000", "1" * 1001, "1e999999999999999999999", "x", ""]
)
def test_what_is_no_number_here_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|beyond"):
        exact_decimal(text)


def test_the_sigmoid_is_exact() -> None:
    assert [sigmoid(exact_decimal(text)) for text in ("0.1", "0.25", "0.3", "0.5", "0.75", "0.9")] == [
        Fraction(text) for text in ("0.028", "0.15625", "0.216", "0.5", "0.84375", "0.972")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("0.1", "0.195800"),
        ("0.25", "0.326352"),
        ("0.3", "0.363257"),
        ("0.5", "0.5"),
        ("0.75", "0.673648"),
        ("0.9", "0.804199"),
    ],
)
def test_the_inverse_sigmoid_has_its_published_values(amount: str, expected: str) -> None:
    assert abs(inverse_sigmoid(Fraction(amount)) - Fraction(expected)) < Fraction(1, 10**6)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("0.3", "0.363257491090567613576734277299"),
        ("0.001", "0.0183702538588116114947007770150"),
        ("0.9", "0.804199894340908282509646316476"),
    ],
)
def test_the_inverse_sigmoid_is_correct_to_30_digits(amount: str, expected: str) -> None:
    """The values are those of 1/2 - sin(asin(1 - 2a) / 3), from 60 digits of a general library."""
    assert inverse_sigmoid(Fraction(amount)) == Fraction(expected)


@given(st.fractions(min_value=0, max_value=1, max_denominator=1000))
def test_the_inverse_sigmoid_undoes_the_sigmoid_exactly_on_short_decimals(amount: Fraction) -> None:
    """What has 30 digits at most comes back exactly: rounding hides the error of the 60-digit computation."""
    short = Fraction(round(amount * 1000), 1000)
    assert inverse_sigmoid(sigmoid(short)) == short


@given(st.fractions(min_value=0, max_value=1))
def test_the_inverse_sigmoid_is_symmetric_and_has_30_digits(amount: Fraction) -> None:
    """t(a) + t(1 - a) = 1 up to the two roundings, and sigmoid(t(a)) = a up to one."""
    low, high = inverse_sigmoid(amount), inverse_sigmoid(1 - amount)
    assert abs(low + high - 1) <= Fraction(1, 10**29)
    assert abs(sigmoid(low) - amount) <= Fraction(3, 10**29)
    assert len(shortest_text(low).replace(".", "").strip("0")) <= 30


@pytest.mark.parametrize("amount", [Fraction(-1, 10), Fraction(11, 10)])
def test_the_inverse_sigmoid_has_no_value_outside_0_to_1(amount: Fraction) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        inverse_sigmoid(amount)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("0.0", 0), ("1500B", 1500), ("20GB", 20 * 10**9), ("512MiB", 512 * 2**20), ("1.5 G", 1_500_000_000),
     ("3kb", 3000), ("2 tib", 2 * 2**40), ("10B", 10), ("1Gi", 2**30)],
)  # fmt: skip
def test_sizes_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "meant"), [("20", "20GB"), ("1.5", "1.5GB"), (" 3 ", "3GB"), ("2000000", "2000000B")])
def test_a_size_without_a_unit_is_refused_and_the_one_that_is_meant_is_named(text: str, meant: str) -> None:
    with pytest.raises(AmountError, match="no unit") as found:
        parse_size(text)
    assert found.value.hint == f"write `{meant}`"
    assert parse_size(meant) > 0


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "10QB", "1,5GB", "10 G B", "1e3", "5iB", "5i", "5bb"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("2w", 1209600), ("0.5h", 1800), ("0", 0)],
)
def test_times_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "3 years"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "meant"), [("30", "30d"), ("0.5", "0.5d")])
def test_a_time_without_a_unit_is_told_how_to_be_written(text: str, meant: str) -> None:
    with pytest.raises(AmountError, match="has no unit") as caught:
        parse_duration(text)
    assert caught.value.hint == f"write `{meant}` for days"
