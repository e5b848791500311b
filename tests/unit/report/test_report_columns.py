from __future__ import annotations

import pytest

from mergebuild.report.columns import clean, table, width
from mergebuild.results.quantities import count_text, size_text, time_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_132_625_894, "2.1 GB"),
        (421_000_000, "421 MB"),
        (99_960_000, "100 MB"),
        (999_960, "1.0 MB"),
        (999_499_999, "999 MB"),
        (120 * 10**9, "120 GB"),
        (-5_000_000, "-5.0 MB"),
        (10**21, "1000000 PB"),
    ],
)
def test_sizes_are_decimal_with_few_digits(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0401, "0.04 s"),
        (0.996, "1.0 s"),
        (1.94, "1.9 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_times_are_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_counts_take_the_right_number() -> None:
    assert (count_text(0, "target"), count_text(1, "target"), count_text(14, "target")) == (
        "0 targets",
        "1 target",
        "14 targets",
    )


def test_columns_align_by_cells_and_leave_nothing_behind() -> None:
    assert table([("橙", "x"), ("a", "y", "z"), ("bcd", "")]) == ["橙   x", "a    y  z", "bcd"]


def test_width_counts_what_a_terminal_shows() -> None:
    assert (width("abc"), width("橙色"), width("e\u0301")) == (3, 4, 1)


def test_control_characters_and_direction_marks_are_spelled_out() -> None:
    assert clean("a\x1b[0m\tb\u202ec") == "a\\x1b[0m\tb\\u202ec"
