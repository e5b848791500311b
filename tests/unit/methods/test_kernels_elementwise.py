from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels.elementwise import KERNELS
from mergebuild.methods.kernels.kernel import Argument, Call
from mergebuild.methods.kernels.randomness import bernoulli, normal
from mergebuild.methods.making import CatalogKernel
from mergebuild.methods.tables.elementwise import ROWS

_SHAPES = [(), (1,), (7,), (1, 8), (8, 1), (16, 24), (4, 3, 3, 3), (0, 5)]
_CASES = ["random", "identical", "no difference", "zero", "antipodal", "sparse", "tiny"]
_NAME = "model.layers.3.weight"

Scalars = Callable[..., float]
"""A method written from its formula, on Python floats."""


def _inputs(case: str, count: int, shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Return `count` inputs, of which some relation holds."""
    generator = torch.Generator().manual_seed(1000 * seed + prod(shape))
    first, *others = (torch.randn(shape, generator=generator) * 0.05 for _ in range(count))
    if case == "identical":
        others = [first.clone() for _ in others]
    elif case == "no difference":  # the last two are one
        others = [*others[:-1], others[-2].clone()] if len(others) > 1 else others
    elif case == "zero":
        others = [torch.zeros(shape) for _ in others]
    elif case == "antipodal":
        others = [-first, *others[1:]] if others else []
    elif case == "sparse":
        kept = [torch.rand(shape, generator=generator) < 0.4 for _ in others]
        others = [torch.where(mask, other, first) for mask, other in zip(kept, others, strict=True)]
    elif case == "tiny":  # squares of these have no float32
        first, others = first * 1e-30, [other * 1e-30 for other in others]
    return [first, *others]


def _made(method: str, inputs: Sequence[Tensor], cuts: random.Random | None = None, /, **given: object) -> Tensor:
    arguments: dict[str, Argument] = {
        name: each if isinstance(each, str) else Fraction(str(each)) for name, each in given.items()
    }
    return run(KERNELS[method], Call(_NAME, tuple(inputs[0].shape), arguments), inputs, cuts)


def _assert_near(found: Tensor, inputs: Sequence[Tensor], expected: Sequence[float], rel: float = 1e-6) -> None:
    """Each value is right to `rel` of the magnitudes that went into it."""
    columns = zip(*(each.flatten().tolist() for each in inputs), strict=True)
    for value, column, wanted in zip(found.flatten().tolist(), columns, expected, strict=True):
        assert value == pytest.approx(wanted, rel=rel, abs=rel * sum(abs(each) for each in column) + 1e-45)


def _each(function: Scalars, inputs: Sequence[Tensor], **numbers: float) -> list[float]:
    columns = zip(*(each.flatten().tolist() for each in inputs), strict=True)
    return [function(*column, **numbers) for column in columns]


def _quotient(above: float, below: float, otherwise: float = 0.0) -> float:
    return above / below if below else otherwise


def _train_difference(a: float, b: float, c: float, alpha: float) -> float:
    return a + 1.8 * alpha * _quotient(abs(b - a), abs(b - c) + abs(b - a)) * (b - c)


def _add_opposite(a: float, b: float, c: float, alpha: float) -> float:
    return a + 2 * alpha * _quotient(abs(a - b), abs(a - b) + abs(a + b - 2 * c)) * (b - c)


def _add_strict_opposite(a: float, b: float, c: float, alpha: float) -> float:
    return a + 2 * alpha * max(0.0, _quotient((c - a) * (b - c), max(abs(a - c), abs(b - c)) ** 2)) * (b - c)


def _similarity_add_difference(a: float, b: float, c: float, alpha: float, beta: float) -> float:
    s = beta * (_quotient(a * b, max(abs(a), abs(b)) ** 2, 1.0) + 1) / 2
    return (1 - s) * (a + alpha * (b - c)) + s * ((1 - alpha / 2) * a + alpha / 2 * b)


def _multiply_difference(a: float, b: float, c: float, alpha: float, beta: float) -> float:
    sign = (1 - beta) * a + beta * b - c
    return c + math.copysign(abs(a - c) ** (1 - alpha) * abs(b - c) ** alpha, sign)


def _geometric(a: float, b: float, alpha: float) -> float:
    angle = math.pi * ((1 - alpha) * (a < 0) + alpha * (b < 0))
    return abs(a) ** (1 - alpha) * abs(b) ** alpha * math.cos(angle)


def _multiply_quotient(a: float, b: float, c: float, alpha: float) -> float:
    if not (a and b and c):
        return a
    r_a, r_b = math.log(abs(a)) - math.log(abs(c)), math.log(abs(b)) - math.log(abs(c))
    x = alpha * max(0.0, _quotient(-r_a * r_b, max(abs(r_a), abs(r_b)) ** 2))
    return a * abs(b / c) ** x * math.cos(math.pi * x * (b / c < 0))


def _nearswap(a: float, b: float, t: float) -> float:
    return a + min(max(b - a, -t), t)


def _clamp(a: float, *bounds: float, stiffness: float) -> float:
    mean = sum(bounds) / len(bounds)
    high = (1 - stiffness) * max(bounds) + stiffness * min(each for each in bounds if each >= mean)
    low = (1 - stiffness) * min(bounds) + stiffness * max(each for each in bounds if each <= mean)
    return min(max(a, low), high)


def _ram(base: float, *models: float, epsilon: float) -> float:
    active = [model - base for model in models if abs(model - base) > epsilon]
    return base + sum(active) / max(1, len(active))


_FORMULAS: Mapping[str, tuple[Scalars, int, Sequence[Mapping[str, float]]]] = {
    "train_difference": (_train_difference, 3, [{"alpha": 1}, {"alpha": 0.3}, {"alpha": -0.7}]),
    "add_opposite": (_add_opposite, 3, [{"alpha": 1}, {"alpha": 0.3}, {"alpha": -0.7}]),
    "add_strict_opposite": (_add_strict_opposite, 3, [{"alpha": 1}, {"alpha": 0.3}, {"alpha": -0.7}]),
    "similarity_add_difference": (
        _similarity_add_difference,
        3,
        [{"alpha": 1, "beta": 1}, {"alpha": 0.3, "beta": 0.6}, {"alpha": -0.7, "beta": 0}],
    ),
    "multiply_difference": (
        _multiply_difference,
        3,
        [{"alpha": 0.5, "beta": 0.5}, {"alpha": 0.3, "beta": 0}, {"alpha": 0, "beta": 1}, {"alpha": 1, "beta": 0.25}],
    ),
    "geometric": (_geometric, 2, [{"alpha": 0.5}, {"alpha": 0.3}, {"alpha": 0.999}]),
    "multiply_quotient": (_multiply_quotient, 3, [{"alpha": 1}, {"alpha": 0.3}, {"alpha": -0.7}]),
    "max": (max, 2, [{}]),
    "clamp": (_clamp, 4, [{"stiffness": 0}, {"stiffness": 0.25}, {"stiffness": 1}]),
    "nearswap": (_nearswap, 2, [{"t": 0.01}, {"t": 0.05}, {"t": 1e-8}, {"t": 0}]),
    "ram": (_ram, 4, [{"epsilon": 1e-5}, {"epsilon": 0.05}, {"epsilon": 0}]),
}


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("method", _FORMULAS)
def test_a_method_is_its_formula(method: str, case: str, shape: tuple[int, ...]) -> None:
    """A transcription of the formula on Python floats, value by value, gives the same."""
    function, count, settings = _FORMULAS[method]
    for numbers in settings:
        inputs = _inputs(case, count, shape)
        found = _made(method, inputs, **numbers)
        assert found.shape == shape
        single = {name: float(torch.tensor(number)) for name, number in numbers.items()}  # thresholds are float32
        _assert_near(found, inputs, _each(function, inputs, **(single if method == "ram" else numbers)))


_ALL = {
    "train_difference": (3, {"alpha": 0.3}),
    "add_opposite": (3, {"alpha": 0.3}),
    "add_strict_opposite": (3, {"alpha": 0.3}),
    "similarity_add_difference": (3, {"alpha": 0.3, "beta": 0.6}),
    "multiply_difference": (3, {"alpha": 0.3, "beta": 0.6}),
    "geometric": (2, {"alpha": 0.3}),
    "multiply_quotient": (3, {"alpha": 0.3}),
    "max": (2, {}),
    "clamp": (4, {"stiffness": 0.3}),
    "nearswap": (2, {"t": 0.01}),
    "ram": (4, {"epsilon": 0.05}),
    "ramplus_tl": (4, {"epsilon": 0.05, "r": 0.1, "alpha": 0.2}),
    "plus_random": (1, {"alpha": 0.3, "seed": 5}),
    "dropout": (4, {"probability": 0.7, "rescale": 1, "seed": 5}),
}


def test_every_kernel_has_a_row_and_a_law() -> None:
    assert set(_ALL) == set(KERNELS) == {row.name for row in ROWS}
    assert all(isinstance(row.makes, CatalogKernel) and row.makes.module == "elementwise" for row in ROWS)


@pytest.mark.parametrize("method", ["geometric", "multiply_quotient", "multiply_difference", "plus_random", "dropout"])
def test_a_result_does_not_depend_on_the_blocks_within_a_chunk(method: str) -> None:
    count, numbers = _ALL[method]
    inputs = _inputs("random", count, (3, 33_000))
    assert torch.equal(_made(method, inputs, **numbers), _made(method, inputs, random.Random(1), **numbers))


@pytest.mark.parametrize(
    ("method", "numbers", "source"),
    [
        ("train_difference", {"alpha": 0}, 0),
        ("add_opposite", {"alpha": 0}, 0),
        ("add_strict_opposite", {"alpha": 0}, 0),
        ("similarity_add_difference", {"alpha": 0, "beta": 0.3}, 0),
        ("multiply_difference", {"alpha": 0, "beta": 0}, 0),
        ("multiply_difference", {"alpha": 1, "beta": 1}, 1),
        ("geometric", {"alpha": 0}, 0),
        ("geometric", {"alpha": 1}, 1),
        ("multiply_quotient", {"alpha": 0}, 0),
        ("nearswap", {"t": 0}, 0),
        ("nearswap", {"t": 1000}, 1),
        ("plus_random", {"alpha": 0, "seed": 1}, 0),
        ("dropout", {"probability": 1, "rescale": 1, "seed": 1}, 0),
    ],
)
def test_a_parameter_that_means_an_input_gives_its_bits(method: str, numbers: dict[str, float], source: int) -> None:
    """The signs of zeros too: such a tensor can be shared with the source's file."""
    inputs = _inputs("random", _ALL[method][0], (16, 24))
    for each in inputs:
        each[0, :5] = -0.0
    found = _made(method, inputs, **numbers)
    assert torch.equal(found.view(torch.int32), inputs[source].view(torch.int32))


_WEIGHTS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(a=_WEIGHTS, b=_WEIGHTS, bounds=st.lists(_WEIGHTS, min_size=1, max_size=4))
def test_bounds_hold(a: float, b: float, bounds: list[float]) -> None:
    """`clamp` is one of its inputs and within the bounds; `max` is no less than either."""
    tensors = [torch.tensor(each) for each in (a, *bounds)]
    found = float(_made("clamp", tensors, stiffness=0))
    assert min(bounds) <= found <= max(bounds)
    assert found == a or found in bounds
    assert float(_made("max", [torch.tensor(a), torch.tensor(b)])) == max(a, b)


@given(a=_WEIGHTS, bounds=st.lists(_WEIGHTS, min_size=1, max_size=4), stiffness=st.fractions(0, 1))
def test_stiff_bounds_lie_within_loose_ones(a: float, bounds: list[float], stiffness: Fraction) -> None:
    """There is a bound on either side of the mean, however close they lie."""
    call = Call("x", (), {"stiffness": stiffness})
    found = float(run(KERNELS["clamp"], call, [torch.tensor(each) for each in (a, *bounds)], None))
    width = max(abs(each) for each in bounds)
    assert min(bounds) - 1e-6 * width <= found <= max(bounds) + 1e-6 * width


@pytest.mark.parametrize(
    ("bounds", "low", "high"), [((1, 2, 3), 2, 2), ((1, 3, 8), 3, 8), ((8, 1, 3), 3, 8), ((0, 4, 5, 1), 1, 4)]
)
def test_the_stiffest_bounds_are_the_nearest_to_the_mean(bounds: Sequence[float], low: float, high: float) -> None:
    """One that is the mean is both."""
    tensors = [torch.tensor([float(each)] * 2) for each in bounds]
    assert _made("clamp", [torch.tensor([-100.0, 100.0]), *tensors], stiffness=1).tolist() == [low, high]


@given(a=_WEIGHTS, b=_WEIGHTS, t=_WEIGHTS.map(abs))
def test_nearswap_swaps_what_is_near(a: float, b: float, t: float) -> None:
    """Exactly b where float32 finds it no farther than t, else not past a + t."""
    found = float(_made("nearswap", [torch.tensor(a), torch.tensor(b)], t=Fraction(t)))
    if float(torch.tensor(b) - torch.tensor(a)) <= t and float(torch.tensor(a) - torch.tensor(b)) <= t:
        assert found == b
    else:
        assert found == float(torch.tensor(a) + math.copysign(t, b - a))


@given(a=_WEIGHTS, b=_WEIGHTS, c=_WEIGHTS)
def test_gates_stay_between_nothing_and_all(a: float, b: float, c: float) -> None:
    """`train_difference` moves a by at most 1.8 |b - c|, the opposites by at most twice that, in its direction."""
    tensors = [torch.tensor(each) for each in (a, b, c)]
    slack = 1e-6 * (abs(a) + abs(b) + abs(c))
    for method, most in (("train_difference", 1.8), ("add_opposite", 2.0), ("add_strict_opposite", 2.0)):
        moved = float(_made(method, tensors, alpha=1)) - a
        assert min(0.0, most * (b - c)) - slack <= moved <= max(0.0, most * (b - c)) + slack


def test_squares_that_float32_has_no_room_for_do_no_harm() -> None:
    """|a - c|**2 is 1e-60 here: a product of quotients has the gate 1 that the formula has."""
    tensors = [torch.tensor([each]) for each in (-1e-30, 1e-30, 0.0)]
    assert float(_made("add_strict_opposite", tensors, alpha=0.5)) == pytest.approx(0, abs=1e-37)
    assert float(_made("similarity_add_difference", tensors, alpha=1, beta=1)) == pytest.approx(0, abs=1e-37)


@pytest.mark.parametrize(
    ("method", "columns", "numbers", "expected"),
    [
        ("train_difference", (2, 2, 2), {"alpha": 1}, 2),
        ("add_opposite", (2, 2, 2), {"alpha": 1}, 2),
        ("add_strict_opposite", (2, 2, 2), {"alpha": 1}, 2),
        ("similarity_add_difference", (0, 0, 1), {"alpha": 1, "beta": 0.5}, -0.5),  # s = beta
        ("geometric", (0, 5), {"alpha": 0.5}, 0),
        ("geometric", (-4, -9), {"alpha": 0.5}, -6),
        ("geometric", (-4, 9), {"alpha": 0.5}, 0),  # cos of a right angle
        ("multiply_quotient", (3, 2, 0), {"alpha": 1}, 3),
        ("multiply_quotient", (3, 0, 2), {"alpha": 1}, 3),
        ("multiply_quotient", (0, 3, 2), {"alpha": 1}, 0),
        ("multiply_quotient", (2, -2, 2), {"alpha": 1}, 2),  # both logarithms are 0
        ("multiply_quotient", (4, 0.25, 1), {"alpha": 1}, 1),  # opposite ways as far: a * b / c
        ("multiply_quotient", (4, -0.25, 1), {"alpha": 1}, -1),
        ("multiply_difference", (3, 1, 1), {"alpha": 0.5, "beta": 0}, 1),
        ("multiply_difference", (0, 5, 1), {"alpha": 0.5, "beta": 0}, -1),
    ],
)
def test_stated_values(method: str, columns: Sequence[float], numbers: dict[str, float], expected: float) -> None:
    tensors = [torch.tensor([float(each)]) for each in columns]
    assert float(_made(method, tensors, **numbers)) == expected


@pytest.mark.parametrize("method", [*_FORMULAS, "plus_random"])
def test_what_is_no_number_in_the_first_input_stays_none(method: str) -> None:
    """No 0/0 rule hides it."""
    count, numbers = _ALL[method]
    inputs = _inputs("random", count, (1, 8))
    inputs[0][0, 3] = math.nan
    found = _made(method, inputs, **numbers)
    assert found.isnan().tolist() == [[index == 3 for index in range(8)]]


def _ramplus_tl(inputs: Sequence[Tensor], epsilon: float, r: float, alpha: float) -> list[float]:
    base, *models = (each.flatten().tolist() for each in inputs)
    deltas = [[value - start for value, start in zip(model, base, strict=True)] for model in models]
    active = [[abs(delta) > epsilon for delta in row] for row in deltas]
    counts = [sum(column) for column in zip(*active, strict=True)]
    factors = []
    for row in active:
        shared = sum(own and count > 1 for own, count in zip(row, counts, strict=True))
        lone = sum(own and count == 1 for own, count in zip(row, counts, strict=True))
        factors.append(1 + r * min(max(shared / max(lone, epsilon), 0), alpha))
    return [
        base[at]
        + sum(
            row[at] * (factor if counts[at] == 1 else 1 / counts[at])
            for row, on, factor in zip(deltas, active, factors, strict=True)
            if on[at]
        )
        for at in range(len(base))
    ]


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("numbers", [{"epsilon": 1e-5, "r": 0.1, "alpha": 0.2}, {"epsilon": 0.03, "r": -2, "alpha": 5}])
def test_ramplus_tl_is_its_formula(case: str, shape: tuple[int, ...], numbers: dict[str, float]) -> None:
    inputs = _inputs(case, 4, shape)
    found = _made("ramplus_tl", inputs, **numbers)
    _assert_near(found, inputs, _ramplus_tl(inputs, **numbers), rel=3e-6)


def test_the_counts_of_ramplus_tl_depend_on_epsilon_alone() -> None:
    """A sweep over the others looks once."""
    statistic = KERNELS["ramplus_tl"].statistic
    assert statistic is not None
    assert statistic.arguments == ("epsilon",)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("probability", "rescale"), [(0.9, 1), (0.5, 0), (0.3, 0.5), (0, 1), (0.9, -1)])
def test_dropout_is_its_formula(shape: tuple[int, ...], probability: float, rescale: float) -> None:
    """With the masks of the seed, the tensor's name and each model's position."""
    inputs = _inputs("random", 4, shape)
    found = _made("dropout", inputs, probability=probability, rescale=rescale, seed=11)
    base, *models = (each.flatten().double() for each in inputs)
    kept = 1 - Fraction(str(probability))
    masks = [bernoulli(kept, 11, _NAME, position, 0, len(base)).double() for position in (1, 2, 3)]
    total = sum((mask * (model - base) for mask, model in zip(masks, models, strict=True)), torch.zeros(len(base)))
    count = sum(masks, torch.zeros(len(base))).clamp(min=1)
    expected = base + total / count / (1 - probability) ** rescale
    _assert_near(found, inputs, expected.tolist(), rel=1e-5)


def test_masks_of_models_are_independent() -> None:
    """Two equal models of probability 1/2: a quarter of the places is kept by neither."""
    base, model = torch.zeros(1 << 16), torch.ones(1 << 16)
    found = _made("dropout", [base, model, model], probability=0.5, rescale=0, seed=4)
    assert abs(int((found == 0).sum()) - (1 << 14)) < 5 * math.sqrt((1 << 16) * 3 / 16)


def test_dropping_nothing_is_an_average_and_a_lone_model_itself() -> None:
    base, one, two = _inputs("random", 3, (16, 24))
    lone = _made("dropout", [base, one], probability=0, rescale=1, seed=1)
    assert torch.equal(lone.view(torch.int32), one.view(torch.int32))
    both = _made("dropout", [base, one, two], probability=0, rescale=1, seed=1)
    assert torch.allclose(both, (one + two) / 2, atol=1e-7)


def test_a_scale_that_float32_has_no_room_for_is_1() -> None:
    base, one = _inputs("random", 2, (16, 24))
    found = _made("dropout", [base, one], probability=0.9, rescale=1000, seed=1)
    assert torch.equal(found, _made("dropout", [base, one], probability=0.9, rescale=0, seed=1))


@pytest.mark.parametrize("shape", _SHAPES)
def test_plus_random_adds_normals_of_the_seed(shape: tuple[int, ...]) -> None:
    (a,) = _inputs("random", 1, shape)
    found = _made("plus_random", [a], alpha=0.25, seed=9)
    assert torch.equal(found, a + 0.25 * normal(9, _NAME, 0, 0, prod(shape)).reshape(shape))


@pytest.mark.parametrize("name", ["blocks.0.attn.to_out.0.weight", "proj_out.weight", "layers.1.norm.bias"])
def test_output_projections_and_norms_get_no_noise(name: str) -> None:
    (a,) = _inputs("random", 1, (7,))
    call = Call(name, (7,), {"alpha": Fraction(1), "seed": Fraction(1)})
    assert torch.equal(run(KERNELS["plus_random"], call, [a], None), a)
