"""The longer forms of TIES, against float64 written from the formulas, in plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod, sqrt

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels.ties_sums import KERNELS
from mergebuild.methods.tables.ties_sums import ROWS

METHODS = {row.name: row for row in ROWS}
EXTENDED, DROPPED = METHODS
Given = Mapping[str, object]
Vector = list[float]


def made(method: str, inputs: Sequence[Tensor], given: Given) -> Tensor:
    call = call_of(METHODS[method], tuple(inputs[0].shape), len(inputs) - 1, given)
    return run(KERNELS[method], call, inputs, None)


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def kept(delta: Vector, density: float) -> Vector:
    if density >= 1:
        return delta
    count = max(1, int(density * len(delta) + 1e-9)) if density > 0 else 0
    largest = sorted(range(len(delta)), key=lambda index: (-abs(delta[index]), index))[:count]
    return [value if index in set(largest) else 0.0 for index, value in enumerate(delta)]


def agreeing(deltas: Sequence[Vector], vote: str) -> tuple[list[Vector], Vector]:
    """Return the deltas without those of the other sign, and how many are left of each element."""
    columns = list(zip(*deltas, strict=True))
    elected = [sign(sum(map(sign, column)) if vote == "count" else sum(column)) for column in columns]
    left = [
        [value if sign(value) == which else 0.0 for value, which in zip(delta, elected, strict=True)]
        for delta in deltas
    ]
    counts = [
        float(sum(sign(value) == which for value in column)) for column, which in zip(columns, elected, strict=True)
    ]
    return left, counts


def cosine(x: Vector, y: Vector) -> float:
    length = sqrt(sum(p * p for p in x)) * sqrt(sum(q * q for q in y))
    return max(-1.0, min(1.0, sum(p * q for p, q in zip(x, y, strict=True)) / length)) if length else 0.0


def ratios(deltas: Sequence[Vector], width: int) -> Vector:
    found: Vector = []
    for begin in range(0, len(deltas[0]), width):
        rows = [delta[begin : begin + width] for delta in deltas]
        pairs = [cosine(x, y) for x, y in pairwise(rows)]
        mean = sum(pairs) / len(pairs)
        below = 1 + (len(rows) - 1) * mean
        ratio = len(rows) * mean / below if abs(below) >= 1e-6 else 0.0
        found += [max(0.0, min(1.0, ratio))] * width
    return found


def median(points: Sequence[Vector]) -> Vector:
    def at(weights: Vector) -> Vector:
        total = sum(weights)
        return [
            sum(w * p for w, p in zip(weights, column, strict=True)) / total for column in zip(*points, strict=True)
        ]

    def distances(centre: Vector) -> Vector:
        return [sqrt(sum((p - c) ** 2 for p, c in zip(point, centre, strict=True))) for point in points]

    weights = [1.0] * len(points)
    for _ in range(100):
        before = sum(distances(at(weights)))
        weights = [1 / max(distance, 1e-6) for distance in distances(at(weights))]
        if abs(before - sum(distances(at(weights)))) <= 1e-20 * before:
            break
    return at(weights)


def reference(inputs: Sequence[Tensor], given: Given) -> Tensor:
    base, *models = (each.double().reshape(-1) for each in inputs)
    density = float(str(given.get("density", 0.2)))
    deltas = [kept((model.float() - base.float()).double().tolist(), density) for model in models]
    left, counts = agreeing(deltas, str(given.get("vote", "count")))
    if given.get("end") == "median":
        change = median(left)
    else:
        change = [sum(column) / max(count, 1) for column, count in zip(zip(*left, strict=True), counts, strict=True)]
        if given.get("end") == "stock" and len(models) > 1:
            width = inputs[0].shape[-1] if inputs[0].dim() else 1
            change = [ratio * each for ratio, each in zip(ratios(left, width), change, strict=True)]
    scale = float(str(given.get("lambda", 1)))
    return (base + scale * torch.tensor(change, dtype=torch.float64)).reshape(inputs[0].shape)


CASES: Sequence[Given] = (
    {},
    {"density": 1, "vote": "sum"},
    {"density": 0.5, "end": "stock"},
    {"density": 1, "end": "median"},
    {"density": 0.3, "lambda": -0.5},
    {"density": 0},
)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if prod(shape)], ids=str)
@pytest.mark.parametrize("given", CASES, ids=str)
def test_the_result_is_the_formula_s(given: Given, shape: tuple[int, ...]) -> None:
    for kind in KINDS:
        inputs = tensors(kind, shape, 4)
        scale = max(float(each.abs().max()) for each in inputs)
        found = made(EXTENDED, inputs, given).double()
        torch.testing.assert_close(found, reference(inputs, given), rtol=0, atol=2e-6 * max(scale, 1e-30))


@pytest.mark.parametrize("end", ["mean", "stock", "median"])
def test_one_model_needs_no_vote(end: str) -> None:
    base, model = tensors("random", (16, 24), 2)
    found = made(EXTENDED, [base, model], {"density": 1, "end": end})
    torch.testing.assert_close(found, model)


def test_nothing_dropped_is_the_same_without_chance() -> None:
    inputs = tensors("random", (16, 24), 4)
    expected = made(EXTENDED, inputs, {"density": 0.5})
    for keep in (1, 1.5):
        assert torch.equal(made(DROPPED, inputs, {"density": 0.5, "keep": keep, "seed": 3}), expected)
    assert torch.equal(made(DROPPED, inputs, {"keep": 0, "seed": 3}), inputs[0])


@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_as_many_are_kept_as_asked_for(keep: float) -> None:
    """And the rest is scaled up, so that the expectation stays."""
    base, model = torch.zeros(40_000), torch.ones(40_000)
    found = made(DROPPED, [base, model], {"density": 1, "keep": keep, "seed": 3})
    assert {round(value, 4) for value in found.unique().tolist()} == {0.0, round(1 / keep, 4)}
    assert float(found.mean()) == pytest.approx(1, abs=6 * sqrt((1 - keep) / keep / 40_000))
    other = made(DROPPED, [base, model], {"density": 1, "keep": keep, "seed": 4, "rescale": False})
    assert set(other.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(found > 0, other > 0)


def test_large_changes_are_likelier_to_be_kept() -> None:
    base, model = torch.zeros(40_000), torch.linspace(0.001, 1, 40_000)
    found = made(DROPPED, [base, model], {"density": 1, "keep": 0.5, "epsilon": 0.8, "seed": 3}) != 0
    small, large = found[:4000].double().mean(), found[-4000:].double().mean()
    assert float(small) == pytest.approx(0.5 - 0.36, abs=0.03)
    assert float(large) == pytest.approx(0.5 + 0.36, abs=0.03)
