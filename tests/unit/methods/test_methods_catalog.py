"""Every linear method against its formula, written down again in float64 and without the catalog's algebra."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from operator import mul

import pytest

from mergebuild.engine.makers import kernel_of
from mergebuild.methods.catalog import METHODS, UndefinedError
from mergebuild.methods.kernels.kernel import Grain
from mergebuild.methods.making import (
    CatalogKernel,
    Elementwise,
    Linear,
    Rowwise,
    Statistical,
    Surveyed,
    WholeTensor,
)

Numbers = Mapping[str, float | Sequence[float]]
Reference = Callable[[Sequence[float], Numbers, bool], float]
"""(value of each input, numbers, normalize) -> the method's value."""


def _linear(x: Sequence[float], n: Numbers, normalize: bool) -> float:
    weights = n["weight"]
    total = math.fsum(weight * value for weight, value in zip(weights, x, strict=True))  # type: ignore[arg-type]
    return total / math.fsum(weights) if normalize else total  # type: ignore[arg-type]


def _task_arithmetic(x: Sequence[float], n: Numbers, normalize: bool) -> float:
    base, models, weights = x[0], x[1:], n["weight"]
    delta = math.fsum(weight * (value - base) for weight, value in zip(weights, models, strict=True))  # type: ignore[arg-type]
    if normalize:
        delta /= math.fsum(weights)  # type: ignore[arg-type]
    return base + n["lambda"] * delta  # type: ignore[operator]


def _block_mix(x: Sequence[float], n: Numbers, _normalize: bool) -> float:
    weights: Sequence[float] = n["weight"]  # type: ignore[assignment]
    return (1 - math.fsum(weights)) * x[0] + math.fsum(w * v for w, v in zip(weights, x[1:], strict=True))


def plain(formula: Callable[..., float]) -> Reference:
    """Return a formula over inputs and its numbers by name."""
    return lambda x, n, _normalize: formula(*x, **n)


REFERENCES: Mapping[str, tuple[int, Sequence[str], Reference]] = {
    "weighted_sum": (2, ["alpha"], plain(lambda a, b, alpha: a * (1 - alpha) + b * alpha)),
    "add_difference": (3, ["alpha"], plain(lambda a, b, c, alpha: a + (b - c) * alpha)),
    "sum_twice": (
        3,
        ["alpha", "beta"],
        plain(lambda a, b, c, alpha, beta: (1 - beta) * ((1 - alpha) * a + alpha * b) + beta * c),
    ),
    "triple_sum": (
        3,
        ["alpha", "beta"],
        plain(lambda a, b, c, alpha, beta: (1 - alpha - beta) * a + alpha * b + beta * c),
    ),
    "add_lora": (4, ["strength"], lambda x, n, _normalize: x[0] + sum(map(mul, n["strength"], x[1:]))),
    "linear": (4, ["weight"], _linear),
    "task_arithmetic": (4, ["weight", "lambda"], _task_arithmetic),
    "block_mix": (4, ["weight"], _block_mix),
    "weighted_subtraction": (
        2,
        ["alpha", "beta"],
        plain(lambda a, b, alpha, beta: (a - alpha * beta * b) / (1 - alpha * beta)),
    ),
    "subtract": (2, [], plain(lambda a, b: a - b)),
    "add": (2, [], plain(lambda a, b: a + b)),
    "scale": (1, ["alpha"], plain(lambda a, alpha: alpha * a)),
    "copy": (1, [], plain(lambda a: a)),
    "fallback": (2, [], plain(lambda a, _b: a)),
    "scale_self": (1, ["alpha"], plain(lambda a, alpha: alpha * a)),
    "replace": (2, ["alpha"], plain(lambda _a, b, alpha: alpha * b)),
}


def test_every_linear_method_has_a_reference() -> None:
    """A new one without its formula here is a red test."""
    assert REFERENCES.keys() == {name for name, row in METHODS.items() if isinstance(row.makes, Linear)}


def value(method: str, inputs: Sequence[float], numbers: Numbers, *, normalize: bool = False, name: str = "w") -> float:
    """Return a method's value by the catalog's coefficients."""
    given = {
        key: Fraction(number) if isinstance(number, float | int) else tuple(map(Fraction, number))
        for key, number in numbers.items()
    }
    shares = METHODS[method].makes.shares(len(inputs), given, {"normalize": normalize}, name)
    assert shares is not None
    assert len(shares) == len(inputs)
    assert all(isinstance(share, Fraction) for share in shares)
    return float(sum(share * Fraction(each) for share, each in zip(shares, inputs, strict=True)))


@pytest.mark.parametrize("method", sorted(REFERENCES))
@pytest.mark.parametrize("normalize", [False, True])
def test_coefficients_are_the_formulas(method: str, normalize: bool) -> None:
    """For a few hundred inputs and numbers, within and beyond 0..1."""
    count, names, reference = REFERENCES[method]
    draw = random.Random(method)
    for _ in range(200):
        inputs = [draw.uniform(-3, 3) for _ in range(count)]
        numbers: dict[str, float | Sequence[float]] = {name: draw.uniform(-0.9, 1.7) for name in names}
        for each in {"weight", "strength"} & numbers.keys():
            models = count - (0 if method == "linear" else 1)
            numbers[each] = [draw.uniform(0.1, 1.5) for _ in range(models)]
        expected = reference(inputs, numbers, normalize)
        assert value(method, inputs, numbers, normalize=normalize) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("part", ["to_out", "proj_out", "norm"])
def test_some_tensors_are_not_scaled(part: str) -> None:
    name = f"model.block.{part}.weight"
    assert value("scale_self", [3.0], {"alpha": 0.5}, name=name) == 3.0
    assert value("replace", [3.0, 7.0], {"alpha": 0.5}, name=name) == 3.0
    assert METHODS["scale_self"].makes.shares_by_name
    assert METHODS["replace"].makes.shares_by_name


@pytest.mark.parametrize(
    ("method", "inputs", "numbers"),
    [
        ("linear", 2, {"weight": [1, -1]}),
        ("linear", 1, {"weight": [0]}),
        ("task_arithmetic", 3, {"weight": [1, -2], "lambda": 1}),
        ("weighted_subtraction", 2, {"alpha": 2, "beta": 0.5}),
    ],
)
def test_what_has_no_value_is_said(method: str, inputs: int, numbers: Numbers) -> None:
    with pytest.raises(UndefinedError, match=r".+"):
        value(method, [1.0] * inputs, numbers, normalize=True)


def test_nothing_of_a_model_is_zero() -> None:
    """In supermerger alpha = 0 would be no merge at all."""
    assert value("scale_self", [3.0], {"alpha": 0.0}) == 0.0


def test_weights_of_zero_add_nothing_even_normalized() -> None:
    assert value("task_arithmetic", [2.0, 9.0], {"weight": [0.0], "lambda": 1.0}, normalize=True) == 2.0


def test_the_table_is_sound() -> None:
    """Names once, every parameter explained, formulas of what they take."""
    names = [word for row in METHODS.values() for word in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    for name, row in METHODS.items():
        assert row.name == name
        assert set(row.optional) <= set(row.inputs)
        assert row.summary
        assert row.cite or name == "copy"
        parameters = [parameter.name for parameter in row.parameters]
        assert len(parameters) == len(set(parameters))
        for parameter in row.parameters:
            assert parameter.summary
            assert parameter.kind in ("number", "integer", "flag", "word", "gate", "texts")
            assert isinstance(parameter.default, bool) == (parameter.kind == "flag")
            assert bool(parameter.choices) == (parameter.kind in ("word", "gate"))
            assert not parameter.choices or parameter.default in (None, *parameter.choices)
            stem = f"{parameter.name}_i" if parameter.per == "model" else parameter.name
            assert not isinstance(row.makes, Linear) or stem in row.formula
            assert row.parameter(parameter.name) is parameter
        assert row.parameter("nonsense") is None


def test_what_a_method_reads_is_what_its_kernel_needs() -> None:
    """The catalog says it without torch."""
    for method in METHODS.values():
        if not isinstance(method.makes, CatalogKernel):
            continue
        kernel = kernel_of(method)
        needed: type[CatalogKernel]
        if kernel.grain is Grain.TENSOR:
            needed = WholeTensor if kernel.survey is None else Surveyed
        elif kernel.statistic:
            needed = Statistical
        else:
            needed = Elementwise if kernel.grain is Grain.ELEMENT else Rowwise
        assert isinstance(method.makes, needed), method.name
