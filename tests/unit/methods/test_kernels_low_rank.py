"""Low rank and Kronecker products, against singular value decompositions in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels.low_rank import KERNELS, Sketch, factor_dims, nearest_of_rank
from mergebuild.methods.tables.low_rank import ROWS

METHODS = {row.name: row for row in ROWS}
Given = Mapping[str, Any]


def made(method: str, inputs: list[Tensor], given: Given) -> Tensor:
    call = call_of(METHODS[method], tuple(inputs[0].shape), len(inputs), given)
    return run(KERNELS[method], call, inputs, None)


def cut(matrix: Tensor, rank: int) -> Tensor:
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * sizes[:rank]) @ right[:rank]


def truncate_rank(delta: Tensor, given: Given, default: int) -> Tensor:
    if delta.dim() < 2 or not delta.numel():
        return delta
    matrix = delta.reshape(delta.shape[0], -1)
    ratio = given.get("ratio", 0)
    rank = round(min(matrix.shape) * ratio) if ratio else given.get("rank", default)
    return cut(matrix, rank).reshape(delta.shape)


def truncate_kronecker(delta: Tensor, given: Given) -> Tensor:
    if delta.dim() < 2 or not delta.numel():
        return delta
    m1, m2, n1, n2 = factor_dims(tuple(delta.shape), Fraction(str(given.get("kronecker_ratio", 0.5))))
    rest = math.prod(delta.shape[2:])
    arranged = torch.stack(
        [delta[i * m2 : (i + 1) * m2, j * n2 : (j + 1) * n2].reshape(-1) for i in range(m1) for j in range(n1)]
    )
    left, sizes, right = torch.linalg.svd(arranged, full_matrices=False)
    first = (left[:, 0] * sizes[0]).reshape(m1, n1)
    second = right[0].reshape(m2, n2, rest)
    return torch.einsum("ij,klr->ikjlr", first, second).reshape(delta.shape)


def reference(method: str, inputs: list[Tensor], given: Given) -> Tensor:
    if method == "truncate_kronecker":
        return truncate_kronecker(inputs[0], given)
    if method == "truncate_rank":
        return truncate_rank(inputs[0], given, 8)
    return inputs[0] + truncate_rank(inputs[1] - inputs[0], given, 4)


CASES: list[tuple[str, Given]] = [
    ("truncate_rank", {}),
    ("truncate_rank", {"rank": 1}),
    ("truncate_rank", {"rank": 0}),
    ("truncate_rank", {"rank": 100}),
    ("truncate_rank", {"ratio": 0.5}),
    ("lowrank_diff", {}),
    ("lowrank_diff", {"rank": 2}),
    ("lowrank_diff", {"rank": 100}),
    ("truncate_kronecker", {}),
    ("truncate_kronecker", {"kronecker_ratio": 0}),
    ("truncate_kronecker", {"kronecker_ratio": 0.3}),
    ("truncate_kronecker", {"kronecker_ratio": 1}),
]


@pytest.mark.parametrize("shape", [*SHAPES, (24, 16), (6, 4, 3, 3), (5, 7)], ids=str)
@pytest.mark.parametrize(("method", "given"), CASES, ids=str)
def test_the_result_is_the_formula_s(method: str, given: Given, shape: tuple[int, ...]) -> None:
    """Within 1e-6 of the greatest value, for every kind of inputs."""
    for kind in KINDS:
        inputs = tensors(kind, shape, 2)[-1 if method.startswith("truncate") else 0 :]
        scale = max((float(each.abs().max()) for each in inputs if each.numel()), default=1.0)
        wanted = reference(method, [each.double() for each in inputs], given)
        torch.testing.assert_close(made(method, inputs, given).double(), wanted, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_rank_gives_an_input_s_bits(shape: tuple[int, ...]) -> None:
    a, b = tensors("random", shape, 2)
    assert torch.equal(made("truncate_rank", [a], {"rank": 99}), a)
    assert torch.equal(made("truncate_rank", [a], {"ratio": 1}), a)
    assert torch.equal(made("lowrank_diff", [a, b], {"rank": 99}), b)
    assert torch.equal(made("truncate_kronecker", [a], {"kronecker_ratio": 1}), a) or len(shape) > 2


def test_rank_0_gives_nothing_or_a() -> None:
    a, b = tensors("random", (6, 5), 2)
    assert not made("truncate_rank", [a], {"rank": 0}).any()
    assert torch.equal(made("lowrank_diff", [a, b], {"rank": 0}), a)


@pytest.mark.parametrize("given", [{}, {"approximate": True, "seed": 3}], ids=str)
def test_what_has_that_rank_stays(given: Given) -> None:
    source = torch.Generator().manual_seed(4)
    low = torch.randn(40, 3, generator=source) @ torch.randn(3, 60, generator=source)
    for matrix in (low, low.T.contiguous(), low.reshape(40, 20, 3, 1)):
        torch.testing.assert_close(made("truncate_rank", [matrix], {"rank": 3, **given}), matrix, rtol=0, atol=1e-5)


@pytest.mark.parametrize("given", [{}, {"approximate": True, "seed": 3}], ids=str)
def test_what_is_a_kronecker_product_stays(given: Given) -> None:
    source = torch.Generator().manual_seed(5)
    shape = (24, 36)
    m1, m2, n1, n2 = factor_dims(shape, Fraction(1, 2))
    whole = torch.kron(torch.randn(m1, n1, generator=source), torch.randn(m2, n2, generator=source))
    torch.testing.assert_close(made("truncate_kronecker", [whole], given), whole, rtol=0, atol=1e-5)


def test_an_approximation_follows_from_its_seed_and_is_close() -> None:
    source = torch.Generator().manual_seed(6)
    matrix = torch.randn(64, 48, generator=source) * torch.logspace(0, -3, 48)
    best = float((matrix - nearest_of_rank(matrix, 6)).norm())
    errors = [matrix - nearest_of_rank(matrix, 6, Sketch(seed, "w", 2)) for seed in (1, 1, 2)]
    assert torch.equal(errors[0], errors[1])
    assert not torch.equal(errors[0], errors[2])
    assert all(best * 0.9999 <= float(error.norm()) <= best * 1.01 for error in errors)


def test_an_approximation_differs_by_tensor() -> None:
    matrix = torch.randn(64, 48, generator=torch.Generator().manual_seed(7))
    first, second = (nearest_of_rank(matrix, 6, Sketch(1, name, 0)) for name in ("v", "w"))
    assert not torch.equal(first, second)


def test_nothing_of_that_rank_is_nearer() -> None:
    """The error is what the singular values that are left out say (Eckart & Young)."""
    matrix = torch.randn(30, 50, generator=torch.Generator().manual_seed(8))
    sizes = torch.linalg.svdvals(matrix.double())
    for rank in (1, 7, 29):
        error = float((matrix.double() - nearest_of_rank(matrix, rank).double()).norm())
        assert error == pytest.approx(float(sizes[rank:].norm()), rel=1e-6)


def test_blocks_do_not_matter_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(300, 20, generator=torch.Generator().manual_seed(9))
    whole = nearest_of_rank(matrix, 5)
    monkeypatch.setattr("mergebuild.methods.kernels.low_rank._BLOCK", 100)
    torch.testing.assert_close(nearest_of_rank(matrix, 5), whole, rtol=0, atol=1e-6)


@given(st.integers(1, 48), st.integers(1, 48), st.fractions(0, 1, max_denominator=20))
def test_factors_make_up_the_shape(rows: int, columns: int, ratio: Fraction) -> None:
    """No other pair of factors comes nearer to the size that is asked for."""
    m1, m2, n1, n2 = factor_dims((rows, columns), ratio)
    assert (m1 * m2, n1 * n2) == (rows, columns)
    half = math.log(rows * columns) / 2
    sizes = [
        math.log(x * y) - half
        for x in range(1, rows + 1)
        for y in range(1, columns + 1)
        if rows % x == 0 and columns % y == 0
    ]
    target = float(2 * ratio - 1) * max(map(abs, sizes))
    assert abs(math.log(m1 * n1) - half - target) <= min(abs(size - target) for size in sizes) + 1e-8


def test_the_ends_of_the_ratio_leave_one_factor_of_one() -> None:
    assert factor_dims((12, 18, 3, 3), Fraction(0))[::2] == (1, 1)
    assert factor_dims((12, 18), Fraction(1)) == (12, 1, 18, 1)
