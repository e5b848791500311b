"""Sums do not know how they were cut, and are right to the last digits."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.kernels.reduction import BLOCK, ColumnSums, Gram, RunningSum, vector_sums


@given(
    st.lists(st.integers(1, 3 * BLOCK), min_size=1, max_size=5).filter(lambda parts: sum(parts) < 9 * BLOCK),
    st.integers(0, 99),
)
def test_sums_do_not_know_how_they_were_cut(parts: list[int], seed: int) -> None:
    """A `Sum` over any parts has the bits of that over the whole, and is right to the last digits of float64."""
    values = torch.randn(sum(parts), generator=torch.Generator().manual_seed(seed))
    whole, pieces, gram = RunningSum(), RunningSum(), Gram(1)
    whole.add(values)
    for part in torch.split(values, parts):
        pieces.add(part)
        gram.add([part])
        assert pieces.value() == pieces.value()
    assert pieces.value() == whole.value()
    assert whole.value() == pytest.approx(math.fsum(values.tolist()), rel=1e-12, abs=1e-9)
    squares = RunningSum()
    squares.add(values.double() * values.double())
    assert gram.value() == ((squares.value(),),)


@given(st.integers(1, 40), st.integers(1, 3000), st.integers(0, 99))
def test_sums_of_columns_and_rows_are_those_of_each(columns: int, rows: int, seed: int) -> None:
    source = random.Random(seed)
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    flat, found, whole = values.reshape(-1), ColumnSums(columns), ColumnSums(columns)
    start = 0
    while start < len(flat):
        stop = min(len(flat), start + source.randint(1, len(flat)))
        found.add(flat[start:stop])
        start = stop
    whole.add(flat)
    assert torch.equal(found.value(), whole.value())
    torch.testing.assert_close(found.value(), values.double().sum(0), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(vector_sums(values), values.double().sum(1), rtol=1e-12, atol=1e-10)
    assert torch.equal(vector_sums(values)[:1], vector_sums(values[:1]))


def test_sums_of_nothing_are_zero() -> None:
    assert RunningSum().value() == 0
    assert vector_sums(torch.empty(3, 0)).tolist() == [0, 0, 0]
    assert ColumnSums(2).value().tolist() == [0, 0]


def test_a_gram_of_differences_is_that_of_the_differences() -> None:
    """Taken in float64, where those of float32 are exact; however it is cut."""
    source = torch.Generator().manual_seed(1)
    base, *others = (torch.randn(3 * BLOCK + 17, generator=source) for _ in range(3))
    expected, found = Gram(2), Gram(2)
    expected.add([each.double() - base.double() for each in others])
    for begin, end in ((0, 5), (5, BLOCK + 1), (BLOCK + 1, len(base))):
        found.add([each[begin:end] for each in others], base[begin:end])
    assert found.value() == expected.value()
