from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels.kernel import Argument, Call
from mergebuild.methods.kernels.rows import KERNELS
from mergebuild.methods.making import CatalogKernel
from mergebuild.methods.tables.rows import ROWS

_SHAPES = [(), (1,), (7,), (1, 8), (8, 1), (16, 24), (4, 3, 3, 3), (0, 5), (5, 0), (3, 130), (2, 101, 2)]
_CASES = ["random", "identical", "no difference", "zero", "antipodal"]


def _inputs(case: str, shape: tuple[int, ...], count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(prod(shape))
    first, *others = (torch.randn(shape, generator=generator) * 0.05 for _ in range(count))
    if case == "identical":
        others = [first.clone() for _ in others]
    elif case == "no difference":
        others[-1] = others[0].clone()
    elif case == "zero":
        others[-1] = torch.zeros(shape)
    elif case == "antipodal":
        others[-1] = -(others[-2] if count > 2 else first)
    return [first, *others]


def _made(method: str, inputs: Sequence[Tensor], cuts: random.Random | None = None, /, **given: object) -> Tensor:
    words = {"rounding", "form"}
    arguments: dict[str, Argument] = {
        name: str(each) if name in words else each if isinstance(each, bool) else Fraction(str(each))
        for name, each in given.items()
    }
    return run(KERNELS[method], Call("x.weight", tuple(inputs[0].shape), arguments), inputs, cuts)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.view(torch.int32), other.view(torch.int32))


_ALL: dict[str, tuple[int, dict[str, object]]] = {
    "tensor_sum": (2, {"width": 0.4, "offset": 0.3, "rounding": "int"}),
    "tensor_sum2": (2, {"width": 0.4, "offset": 0.3, "rounding": "int"}),
    "extract": (3, {"alpha": 0.4, "beta": 0.3, "gamma": 1.7, "has_base": True}),
    "cosine_gate": (2, {"alpha": -0.1, "form": "b"}),
}


def test_every_kernel_has_a_row_and_a_law() -> None:
    assert set(_ALL) == set(KERNELS) == {row.name for row in ROWS}
    assert all(isinstance(row.makes, CatalogKernel) and row.makes.module == "rows" for row in ROWS)


# --- bands


def _band(rows: int, width: float, offset: float) -> list[bool]:
    """Which rows are b's, after supermerger: alpha is the width, beta the offset."""
    if width + offset <= 1:
        taken = range(int(rows * offset), int(rows * (width + offset)))
        return [index in taken for index in range(rows)]
    kept = range(int(rows * (width + offset - 1)), int(rows * offset))
    return [index not in kept for index in range(rows)]


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("width", "offset"), [(0.5, 0), (0.25, 0.5), (0.5, 0.75), (0, 0.5), (1, 0), (1, 0.375)])
@pytest.mark.parametrize("method", ["tensor_sum", "tensor_sum2"])
def test_a_band_of_rows_is_the_other_models(method: str, width: float, offset: float, shape: tuple[int, ...]) -> None:
    """Row by row, bit for bit; along the second dimension where `tensor_sum2` finds a long one."""
    a, b = _inputs("random", shape)
    found = _made(method, [a, b], width=width, offset=offset, rounding="int")
    if not shape:
        assert _same_bits(found, b if width == 1 else a)
        return
    dimension = 1 if method == "tensor_sum2" and len(shape) > 1 and shape[1] > 100 else 0
    for index, taken in enumerate(_band(shape[dimension], width, offset)):
        row = torch.tensor([index])
        expected = (b if taken else a).index_select(dimension, row)
        assert _same_bits(found.index_select(dimension, row), expected)


def test_bounds_are_exact() -> None:
    """0.29 of 100 is 28.999999999999996 in floating point."""
    a, b = torch.zeros(100), torch.ones(100)
    assert int(_made("tensor_sum", [a, b], width=0.29, offset=0, rounding="int").sum()) == 29


def test_bounds_may_go_to_the_nearest_row() -> None:
    a, b = torch.zeros(10), torch.ones(10)
    assert int(_made("tensor_sum", [a, b], width=0.28, offset=0, rounding="round").sum()) == 3
    assert int(_made("tensor_sum", [a, b], width=0.28, offset=0, rounding="int").sum()) == 2
    assert float(_made("tensor_sum", [a[0], b[0]], width=0.51, offset=0, rounding="round")) == 1


def test_the_second_dimension_is_cut_only_where_it_is_long() -> None:
    a, b = torch.zeros(4, 100), torch.ones(4, 100)
    rows = _made("tensor_sum2", [a, b], width=0.5, offset=0, rounding="int")
    assert rows.sum(1).tolist() == [100, 100, 0, 0]
    a, b = torch.zeros(4, 102), torch.ones(4, 102)
    columns = _made("tensor_sum2", [a, b], width=0.5, offset=0, rounding="int")
    assert columns.sum(1).tolist() == [51] * 4


@given(
    width=st.fractions(-3, 3, max_denominator=50),
    offset=st.fractions(-3, 3, max_denominator=50),
    rows=st.integers(1, 30),
    rounding=st.sampled_from(["int", "round"]),
)
def test_a_band_has_its_width_wherever_it_lies(width: Fraction, offset: Fraction, rows: int, rounding: str) -> None:
    """To a row; going on by whole turns changes nothing; the complement's complement is the band."""
    a, b = torch.zeros(rows), torch.ones(rows)

    def band(offset: Fraction, width: Fraction = width) -> Tensor:
        call = Call("x", (rows,), {"width": width, "offset": offset, "rounding": rounding})
        return run(KERNELS["tensor_sum"], call, [a, b], None)

    found = band(offset)
    assert abs(int(found.sum()) - rows * min(abs(width), 1)) <= 1
    if width >= 0 and offset >= 0:
        assert torch.equal(found, band(offset + 2))
    if 0 <= width <= 1 and 0 <= offset <= 1:
        assert torch.equal(found, 1 - band(offset + width, 1 - width)) or width in {0, 1}


def test_a_negative_width_ends_the_band_at_the_offset() -> None:
    a, b = torch.zeros(10), torch.ones(10)
    found = _made("tensor_sum", [a, b], width=-0.3, offset=0.5, rounding="int")
    assert found.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]


# --- cosines


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.sqrt(math.fsum(each * each for each in one)) * math.sqrt(math.fsum(each * each for each in other))
    return math.fsum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _extract(inputs: Sequence[Tensor], width: int, alpha: float, beta: float, gamma: float) -> list[float]:
    """The formula on Python floats, vector by vector."""
    base, a, b = (each.flatten().tolist() for each in inputs)
    result: list[float] = []
    for at in range(0, len(base), max(width, 1)):
        here = slice(at, at + width)
        one = [x - y for x, y in zip(a[here], base[here], strict=True)]
        other = [x - y for x, y in zip(b[here], base[here], strict=True)]
        d = ((min(max(_cosine(one, other), -1), 1) + 1) / 2) ** gamma
        share = (1 - beta) * d + beta * (1 - d)
        result += [
            start + ((1 - alpha) * x + alpha * y) * share for start, x, y in zip(base[here], one, other, strict=True)
        ]
    return result


_SETTINGS = [(0.5, 0, 1), (0, 1, 2), (1, 0.3, 0.5), (0.3, 0.7, 0), (0.5, 1, 1)]


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize(("alpha", "beta", "gamma"), _SETTINGS)
def test_extract_is_its_formula(
    case: str, shape: tuple[int, ...], has_base: bool, alpha: float, beta: float, gamma: float
) -> None:
    """Each value is right to 1e-6 of what went into it; without a base, that is 0."""
    inputs = _inputs(case, shape, 3)
    if not has_base:
        inputs[0] = torch.zeros(shape)
    given = inputs if has_base else inputs[1:]
    found = _made("extract", given, alpha=alpha, beta=beta, gamma=gamma, has_base=has_base)
    expected = _extract(inputs, shape[-1] if shape else 1, alpha, beta, gamma)
    scale = [sum(column) for column in zip(*(each.abs().flatten().tolist() for each in inputs), strict=True)]
    if gamma < 1 and case in {"antipodal", "random"}:  # a root of nearly 0 has no relative precision to give
        scale = [10 * each for each in scale]
    for value, wanted, size in zip(found.flatten().tolist(), expected, scale, strict=True):
        assert value == pytest.approx(wanted, rel=1e-6, abs=1e-6 * size)


def test_what_models_share_and_what_they_do_not_make_up_the_whole() -> None:
    """Those of beta 0 and of beta 1 add up to the blend of the differences."""
    base, a, b = _inputs("random", (16, 24), 3)
    shared, rest = (
        _made("extract", [base, a, b], alpha=0.5, beta=beta, gamma=1, has_base=True) - base for beta in (0, 1)
    )
    assert torch.allclose(shared + rest, (a + b) / 2 - base, atol=1e-7)


def test_equal_models_share_everything_and_opposite_ones_nothing() -> None:
    base, a, _ = _inputs("random", (16, 24), 3)
    zero = torch.zeros_like(base)
    numbers = {"alpha": 0.5, "beta": 0, "gamma": 3}
    assert torch.equal(_made("extract", [zero, a, a], has_base=True, **numbers), a)
    assert torch.equal(_made("extract", [a, a, a], has_base=True, **numbers), a)
    for gamma in (3, 1, 0.001):
        found = _made("extract", [a, -a], alpha=0.25, beta=0, gamma=gamma, has_base=False)
        assert torch.equal(found, zero)


def _cosine_gate(inputs: Sequence[Tensor], alpha: float, form: str) -> list[float]:
    """The formula on Python floats, column by column."""
    a, b = (each.flatten().tolist() for each in inputs)
    shape = inputs[0].shape
    columns = prod(shape[1:])
    whole = _cosine(a, b)
    result = [0.0] * len(a)
    for column in range(columns):
        places = range(column, len(a), columns)
        similarity = _cosine([a[at] for at in places], [b[at] for at in places])
        if form == "b":
            similarity = (similarity + whole) / 2
        k = 1 - min(max(similarity - alpha, 0), 1)
        for at in places:
            result[at] = (1 - k) * a[at] + k * b[at]
    return result


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.parametrize("alpha", [1, 0, 0.25, -0.8, -3])
def test_cosine_gate_is_its_formula(case: str, shape: tuple[int, ...], form: str, alpha: float) -> None:
    inputs = _inputs(case, shape)
    found = _made("cosine_gate", inputs, alpha=alpha, form=form)
    expected = _cosine_gate(inputs, alpha, form)
    scale = (inputs[0].abs() + inputs[1].abs()).flatten().tolist()
    for value, wanted, size in zip(found.flatten().tolist(), expected, scale, strict=True):
        assert value == pytest.approx(wanted, rel=1e-6, abs=1e-6 * size)


@pytest.mark.parametrize("form", ["a", "b"])
def test_columns_that_are_not_alike_are_the_other_models_bit_for_bit(form: str) -> None:
    a, b = _inputs("random", (16, 24))
    b[0, 0] = -0.0
    b[:, 1] = -2 * a[:, 1]
    assert _same_bits(_made("cosine_gate", [a, b], alpha=1, form=form), b)
    assert _same_bits(_made("cosine_gate", [a, b], alpha=-2, form=form), a)
    found = _made("cosine_gate", [a, b], alpha=0.6, form=form)
    assert _same_bits(found[:, 1], b[:, 1])


def test_the_cosines_follow_from_the_inputs_alone() -> None:
    """A sweep over alpha looks once."""
    statistic = KERNELS["cosine_gate"].statistic
    assert statistic is not None
    assert statistic.arguments == ()
