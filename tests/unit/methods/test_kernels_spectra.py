"""Crossovers, smoothing and exchange of distributions, against float64 written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product
from statistics import median
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels import spectra
from mergebuild.methods.kernels.spectra import KERNELS, smoothed, tilted_filter
from mergebuild.methods.regions import region
from mergebuild.methods.tables.spectra import ROWS

METHODS = {row.name: row for row in ROWS}
Given = Mapping[str, Any]
BIG = (70, 40, 3, 3)
"""More than one slab of the filters."""


def made(method: str, inputs: list[Tensor], given: Given) -> Tensor:
    call = call_of(METHODS[method], tuple(inputs[0].shape), len(inputs), given)
    return run(KERNELS[method], call, inputs, None)


def frequency_filter(shape: tuple[int, ...], alpha: float, tilt: float) -> Tensor:
    """Return the share of b at each place of the half spectrum of `shape`, from the formula, one place at a time."""
    half = (*shape[:-1], shape[-1] // 2 + 1)
    tilt %= 4
    inverted, alpha = tilt > 2, 1 - alpha if tilt > 2 else alpha
    found = torch.zeros(half, dtype=torch.float64)
    for place in product(*(range(size) for size in half)):
        squares = []
        for axis, (at, size) in enumerate(zip(place, half, strict=True)):
            if axis == len(half) - 1:
                squares.append((at / (size - 1)) ** 2 if size > 1 else 0.0)
            else:
                squares.append((min(at, size - at) / (size // 2)) ** 2 if size > 1 else 0.0)
        mesh = math.sqrt(sum(squares) / len(squares))
        if tilt in (0, 4):
            share = float(mesh > 1 - alpha + 1e-12)
        elif tilt == 2:
            share = float(mesh < 1 - alpha - 1e-12)
        else:
            slope = 1 / math.tan(math.pi * tilt / 2)
            gentle = tilt <= 1 or 2 < tilt <= 3
            share = slope * mesh + (alpha * slope + alpha - slope if gentle else alpha - alpha * slope)
            share = min(max(share, 0.0), 1.0)
        found[place] = 1 - share if inverted else share
    return found


def crossover(inputs: list[Tensor], given: Given) -> Tensor:
    a, b = inputs
    alpha, tilt = float(given.get("alpha", 0.5)), float(given.get("tilt", 0.0))
    if tilt % 2 == 1 or not a.dim() or not a.numel():
        return (1 - alpha) * a + alpha * b
    shape = tuple(a.shape)
    share = frequency_filter(shape, alpha, tilt)
    return torch.fft.irfftn((1 - share) * torch.fft.rfftn(a) + share * torch.fft.rfftn(b), s=shape)


def distribution_crossover(inputs: list[Tensor], given: Given) -> Tensor:
    a, b, c = inputs
    alpha, beta = float(given["alpha"]), float(given["beta"])
    if not a.dim() or not a.numel():
        return (1 - alpha) * a + alpha * b
    order = sorted(range(a.numel()), key=lambda index: float(c.reshape(-1)[index]))
    first, second = (torch.fft.rfft(each.reshape(-1)[order]) for each in (a, b))
    bins = len(first)
    share = torch.tensor(
        [min(max((i / bins - alpha) / beta + 0.5, 0), 1) if beta else float(i / bins >= alpha) for i in range(bins)],
        dtype=torch.float64,
    )
    result = torch.zeros(a.numel(), dtype=torch.float64)
    result[order] = torch.fft.irfft((1 - share) * first + share * second, n=a.numel())
    return result.reshape(a.shape)


def mirrored(place: int, size: int) -> int:
    place %= 2 * size
    return place if place < size else 2 * size - 1 - place


def smooth_add(inputs: list[Tensor], given: Given) -> Tensor:
    a, b, c = inputs
    shape, delta = tuple(a.shape), b - c
    medians = torch.zeros(shape, dtype=torch.float64)
    for place in product(*(range(size) for size in shape)):
        around = product(*([mirrored(at + step, n) for step in (-1, 0, 1)] for at, n in zip(place, shape, strict=True)))
        medians[place] = median(float(delta[index]) for index in around)
    heights = [math.exp(-step * step / 2) for step in range(-4, 5)]
    for axis, size in enumerate(shape):
        blurred = torch.zeros_like(medians)
        for step, height in zip(range(-4, 5), heights, strict=True):
            source = torch.tensor([mirrored(at + step, size) for at in range(size)], dtype=torch.int64)
            blurred += medians.index_select(axis, source) * (height / sum(heights))
        medians = blurred
    return a + float(given.get("alpha", 1.0)) * medians


def top_k_tensor_sum(inputs: list[Tensor], given: Given) -> Tensor:
    a, b = (each.reshape(-1).tolist() for each in inputs)
    size = len(a)
    start, end, inverted = region(Fraction(str(given.get("width", 1))), Fraction(str(given.get("offset", 0))), size)
    magnitudes, ascending = sorted(map(abs, a)), sorted(a)
    low, high = (magnitudes[k - 1] if k else -1 for k in (start, end))
    result = list(a)
    for rank, place in enumerate(sorted(range(size), key=lambda index: b[index])):
        value = ascending[rank]
        above = low < abs(value) if given.get("lower") == "strict" else low <= abs(value)
        if (above and abs(value) <= high) != inverted:
            result[place] = value
    return torch.tensor(result, dtype=torch.float64).reshape(inputs[0].shape)


REFERENCES: Mapping[str, tuple[Callable[[list[Tensor], Given], Tensor], int]] = {
    "crossover": (crossover, 2),
    "distribution_crossover": (distribution_crossover, 3),
    "smooth_add": (smooth_add, 3),
    "top_k_tensor_sum": (top_k_tensor_sum, 2),
}
CASES: list[tuple[str, Given]] = [
    *(("crossover", {"alpha": alpha, "tilt": tilt}) for alpha in (0.3, 0.5) for tilt in (0, 0.5, 1, 1.5, 2, 2.5, 3)),
    ("crossover", {"alpha": 0.7, "tilt": -0.25}),
    ("crossover", {}),
    ("distribution_crossover", {"alpha": 0.4, "beta": 0.2}),
    ("distribution_crossover", {"alpha": 0.5, "beta": 0}),
    ("distribution_crossover", {"alpha": 1.5, "beta": 1}),
    ("smooth_add", {}),
    ("smooth_add", {"alpha": -0.7}),
    ("top_k_tensor_sum", {}),
    ("top_k_tensor_sum", {"width": 0.4, "offset": 0.3}),
    ("top_k_tensor_sum", {"width": 0.5, "offset": 0.8}),
    ("top_k_tensor_sum", {"width": 0.5, "offset": 0.2, "lower": "strict"}),
    ("top_k_tensor_sum", {"width": -0.3, "offset": -0.1}),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "given"), CASES, ids=str)
def test_the_result_is_the_formula_s(method: str, given: Given, shape: tuple[int, ...]) -> None:
    """Within 1e-6 of the greatest value, for every kind of inputs."""
    reference, count = REFERENCES[method]
    for kind in KINDS:
        inputs = tensors(kind, shape, count)
        wanted = reference([each.double() for each in inputs], given)
        scale = max((float(each.abs().max()) for each in inputs if each.numel()), default=1.0)
        torch.testing.assert_close(made(method, inputs, given).double(), wanted, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 1, 4), (1, 2, 3, 1), (2, 3, 1, 2, 1, 3, 5)], ids=str)
def test_axes_transformed_one_after_another_are_those_transformed_together(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    """The transform of many axes is that of each: more of them than the library takes at once are no other method."""
    inputs = tensors("random", shape, 2)
    for chosen in ({"alpha": 0.3}, {"alpha": 0.4, "tilt": 1.5}):
        together = made("crossover", inputs, chosen)
        with monkeypatch.context() as few:
            few.setattr(spectra, "_AXES", 0)
            torch.testing.assert_close(made("crossover", inputs, chosen), together, rtol=0, atol=1e-6)


def test_ends_of_the_crossover_have_the_inputs_bits() -> None:
    a, b = tensors("random", (6, 5), 2)
    assert torch.equal(made("crossover", [a, b], {"alpha": 0}), a)
    assert torch.equal(made("crossover", [a, b], {"alpha": 1}), b)
    assert torch.equal(made("crossover", [a, b], {"alpha": 1, "tilt": 0.7}), b)


def test_nothing_added_leaves_a() -> None:
    a, b, c = tensors("random", (6, 5), 3)
    assert torch.equal(made("smooth_add", [a, b, c], {"alpha": 0}), a)


@pytest.mark.parametrize("tilt", [0, 0.4, 1.3, 2, 2.6, 3.7])
def test_the_two_models_of_a_crossover_share_all_frequencies(tilt: float) -> None:
    """What is not b's is a's: exchanging them, in the same filter, gives the rest of the sum."""
    a, b = tensors("random", (9, 12), 2)
    share = tilted_filter((9, 7), Fraction("0.3"), Fraction(str(tilt)), a.device)
    assert float(share.min()) >= 0
    assert float(share.max()) <= 1
    there = made("crossover", [a, b], {"alpha": 0.3, "tilt": tilt})
    back = made("crossover", [b, a], {"alpha": 0.3, "tilt": tilt})
    torch.testing.assert_close(there + back, a + b, rtol=0, atol=1e-5)


def test_a_sharp_crossover_takes_the_mean_from_a() -> None:
    a, b = tensors("random", (16, 24), 2)
    found = made("crossover", [a, b], {"alpha": 0.5})
    torch.testing.assert_close(found.mean(), a.mean(), rtol=0, atol=1e-6)


def test_smoothing_takes_outliers_out_and_keeps_constants() -> None:
    flat = torch.full((12, 9, 3, 3), 0.25)
    torch.testing.assert_close(smoothed(flat), flat, rtol=1e-7, atol=0)
    spiked = flat.clone()
    spiked[5, 4, 1, 1] = 100.0
    assert torch.equal(smoothed(spiked), smoothed(flat))


@pytest.mark.parametrize("shape", [(5, 1, 7, 1), (1, 6), (1, 1, 1), (9, 1)], ids=str)
def test_dimensions_of_one_change_nothing(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(smoothed(values).reshape(-1), smoothed(values.squeeze()).reshape(-1))


def test_a_filter_does_not_see_where_its_slabs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(BIG, generator=torch.Generator().manual_seed(2))
    whole = smoothed(values), smoothed(values[:, :, 0, 0]), smoothed(values[:, 0, 0, 0])
    monkeypatch.setattr("mergebuild.methods.kernels.spectra._SLAB", 1000)
    parts = smoothed(values), smoothed(values[:, :, 0, 0]), smoothed(values[:, 0, 0, 0])
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_all_values_of_a_take_the_order_of_b() -> None:
    a, b = tensors("random", (16, 24), 2)
    found = made("top_k_tensor_sum", [a, b], {})
    assert torch.equal(found.reshape(-1).sort().values, a.reshape(-1).sort().values)
    assert torch.equal(found.reshape(-1).argsort(), b.reshape(-1).argsort())


def test_strict_leaves_out_the_lower_bound() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([4.0, 3.0, 2.0, 1.0])
    given = {"width": 0.5, "offset": 0.5}
    assert made("top_k_tensor_sum", [a, b], given).tolist() == [4, 3, 2, 4]
    assert made("top_k_tensor_sum", [a, b], {**given, "lower": "strict"}).tolist() == [4, 3, 3, 4]


@given(st.fractions(-2, 2, max_denominator=50), st.fractions(-2, 2, max_denominator=50), st.integers(0, 200))
def test_a_region_lies_inside(width: Fraction, offset: Fraction, size: int) -> None:
    """It has the share of the things that its width says, to within a rounding of both bounds."""
    start, end, inverted = region(width, offset, size)
    assert 0 <= start <= end <= size
    inside = size - (end - start) if inverted else end - start
    assert abs(inside - min(abs(width), 1) * size) <= 1
