"""What compiled kernels count and add up: digits of keys, the places of equal ones, and sums of magnitudes."""

from __future__ import annotations

import pytest
import torch
from model_files import as_bytes

from mergebuild import native
from mergebuild.methods.kernels.randomness import bits
from mergebuild.methods.kernels.reduction import RunningSum
from mergebuild.methods.kernels.selection import ordered_keys
from mergebuild.methods.streams import key_of
from mergebuild.native import calls

pytestmark = pytest.mark.usefixtures("variant")

DIFFERENCE = native.Prepared("difference")


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


@pytest.mark.parametrize("count", [1, 2049, 70_001])
def test_values_are_in_the_order_of_signed_keys(count: int) -> None:
    """Zeros of both signs are equal."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).mul(4).round().mul(0.37)
    keys = ordered_keys(values)
    upper = int(keys.min()) >> 16
    histograms = [native.Histogram(), native.Histogram(upper)]
    native.tally(DIFFERENCE, changes(values), (0, count), histograms, signed=True)
    for histogram, digits in zip(histograms, ((keys >> 16) + 32_768, keys[keys >> 16 == upper] & 65_535), strict=True):
        largest = sorted(digits.tolist(), reverse=True)
        for place in {1, len(largest) // 2 + 1, len(largest)}:
            digit = largest[place - 1]
            above = sum(each > digit for each in largest)
            assert histogram.digit_of(place) == (digit, place - above, largest.count(digit))
    places = (keys == keys[-1]).nonzero().view(-1).tolist()
    for nth in (1, len(places)):
        found = native.find(DIFFERENCE, changes(values), (0, count), int(keys[-1]), nth, signed=True)
        assert found == (len(places), places[nth - 1])


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


@pytest.mark.parametrize(("rows", "length", "behind"), [(3, 1, 1), (1, 1, 4), (2, 5000, 1), (4, 33, 9), (5, 8, 300)])
def test_elements_are_kept_by_the_ranks_of_their_magnitudes(rows: int, length: int, behind: int) -> None:
    """Of equal magnitudes the first is the smallest; random numbers are those of the elements' indices."""
    count, start = rows * length * behind, 77
    values = torch.randn(count, generator=torch.Generator().manual_seed(length)).mul(9).round().mul(0.3)
    ranking = native.Ranking(length, behind, key_of(5, "w", 1), 0.2, 0.5 / length)
    found = native.keep_by_rank(DIFFERENCE, changes(values), (start, count), ranking, with_chances=True)
    kept, chances = (torch.frombuffer(each, dtype=torch.float32) for each, _ in found)
    order = values.abs().view(rows, length, behind).argsort(dim=1, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(length).view(1, -1, 1).expand_as(order))
    wanted = ranks.flatten().double() * ranking.step + ranking.least
    assert torch.equal(chances, wanted.float())
    drawn = bits(5, "w", 1, start, count)
    assert torch.equal(kept, (drawn < (wanted * 2**32).floor().long()).float())


def test_parts_of_rows_are_refused() -> None:
    work, room, kept = calls.work_of(DIFFERENCE, changes(torch.ones(3)), (0, 3)), bytearray(99), bytearray(12)
    for length, behind, message in ((2, 1, "whole"), (0, 1, "too few"), (1 << 20, 1 << 20, "too many")):
        with pytest.raises(ValueError, match=message):
            calls.compiled.keep_by_rank(work, length, behind, 0, 0.5, 0.0, room, kept, None)
    with pytest.raises(ValueError, match="too little room"):
        calls.compiled.keep_by_rank(work, 3, 1, 0, 0.5, 0.0, bytearray(59), kept, None)


@pytest.mark.parametrize("parts", [[1], [2049], [65_535, 2, 70_000]])
def test_squares_of_differences_are_added_up_in_float64(parts: list[int]) -> None:
    """Each difference times what a kernel makes, here the first input."""
    generator = torch.Generator().manual_seed(parts[0])
    kept, one, other = (torch.randn(sum(parts), generator=generator) for _ in range(3))
    found, wanted, done = native.MagnitudeSum(), RunningSum(), 0
    for part in parts:
        mask, *pair = [(as_bytes(each[done : done + part]), "float32") for each in (kept, one, other)]
        found.add_squares(pair, native.Prepared("linear", 0), [mask], (done, part))
        done += part
    wanted.add(((other.double() - one.double()) * kept.double()) ** 2)
    assert found.value() == wanted.value()
