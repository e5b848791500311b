"""What compiled kernels count and add up: digits of keys, the places of equal ones, and sums of magnitudes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from model_files import as_bytes

from mergebuild import native
from mergebuild.methods.kernels.reduction import RunningSum

DIFFERENCE = native.Prepared("difference")


@pytest.fixture(params=native.variants() or ["none"], autouse=True)
def _variant(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "none":
        pytest.fail("the package was installed without compiled kernels: a C compiler is needed")
    before = native.variant
    native.choose(request.param)
    yield
    if before:
        native.choose(before)


def changes(values: torch.Tensor) -> list[tuple[bytes, str]]:
    """Return two inputs whose difference is `values`."""
    return [(bytes(4 * len(values)), "float32"), (as_bytes(values), "float32")]


@pytest.mark.parametrize("count", [1, 2, 2047, 2049, 70_001])
def test_digits_of_magnitudes_are_counted(count: int) -> None:
    """Those of the upper half, and of the lower half of a part of the keys, added to what was counted before."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).mul(4).round().mul(0.37)
    keys = values.abs().view(torch.int32)
    upper = int(keys[0]) >> 16
    histograms = [native.Histogram(), native.Histogram(upper)]
    for _ in range(2):
        native.tally(DIFFERENCE, changes(values), (0, count), histograms)
    wanted = ((keys >> 16) + 32_768, keys[keys >> 16 == upper] & 65_535)
    for histogram, digits in zip(histograms, wanted, strict=True):
        largest = sorted(digits.tolist() * 2, reverse=True)
        for place in {1, len(largest) // 2 + 1, len(largest)}:
            digit = largest[place - 1]
            above = sum(each > digit for each in largest)
            assert histogram.digit_of(place) == (digit, place - above, largest.count(digit))


def test_the_place_of_one_among_equal_keys_is_found() -> None:
    values = torch.zeros(5000)
    places = [0, 7, 2047, 2048, 4999]
    values[places] = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5])
    key = int(torch.tensor(0.5).view(torch.int32))
    for nth, place in enumerate(places, 1):
        assert native.find(DIFFERENCE, changes(values), (0, 5000), key, nth) == (5, place)
    assert native.find(DIFFERENCE, changes(values), (0, 5000), key, 6) == (5, 5000)


@pytest.mark.parametrize("parts", [[1], [3], [40_000, 1], [65_536], [65_535, 2, 70_000], [32_768, 32_768, 5]])
def test_magnitudes_are_added_up_in_one_order(parts: list[int]) -> None:
    values = torch.randn(sum(parts), generator=torch.Generator().manual_seed(len(parts))) * 1e3
    found, wanted, done = native.MagnitudeSum(), RunningSum(), 0
    for part in parts:
        found.add(DIFFERENCE, changes(values[done : done + part]), (done, part))
        done += part
    wanted.add(values.abs())
    assert found.value() == wanted.value()


def test_nothing_adds_up_to_0() -> None:
    assert native.MagnitudeSum().value() == 0.0


def test_what_is_no_histogram_or_sum_is_refused() -> None:
    histogram = native.Histogram()
    del histogram.counts[5:]
    with pytest.raises(ValueError, match="too little room"):
        native.tally(DIFFERENCE, changes(torch.ones(3)), (0, 3), [histogram])
    with pytest.raises(ValueError, match="too little room"):
        histogram.digit_of(1)
    with pytest.raises(ValueError, match="at most"):
        native.tally(DIFFERENCE, changes(torch.ones(3)), (0, 3), [native.Histogram()] * 4)
    with pytest.raises(ValueError, match="fewer elements"):
        native.find(DIFFERENCE, changes(torch.ones(3)), (0, 4), 0, 1)
