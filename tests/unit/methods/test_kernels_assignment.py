"""Assignments are the best ones."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.methods.kernels.assignment import BITS, assignment, rounded


def value(scores: Tensor, columns: Tensor) -> list[int]:
    assert torch.equal(columns.sort(-1).values, torch.arange(scores.shape[1]).expand_as(columns))
    return scores.gather(2, columns[:, :, None]).sum((1, 2)).tolist()  # type: ignore[no-any-return]


def by_trying(scores: Tensor) -> list[int]:
    size = scores.shape[1]
    return [
        max(sum(int(each[row, column]) for row, column in enumerate(order)) for order in permutations(range(size)))
        for each in scores
    ]


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([2, 5, 1000]), st.integers(0, 10**6))
def test_nothing_is_better(problems: int, size: int, spread: int, seed: int) -> None:
    """Small numbers make many ties."""
    source = torch.Generator().manual_seed(seed)
    scores = torch.randint(-spread, spread, (problems, size, size), generator=source)
    assert value(scores, assignment(scores)) == by_trying(scores)


def by_potentials(scores: list[list[int]]) -> int:
    """Return the best sum by the textbook's method, one row at a time."""
    size = len(scores)
    u, v, row_of = [0] * (size + 1), [0] * (size + 1), [0] * (size + 1)
    for row in range(1, size + 1):
        row_of[0], column = row, 0
        least, came, used = [10**18] * (size + 1), [0] * (size + 1), [False] * (size + 1)
        while row_of[column]:
            used[column] = True
            current, step, following = row_of[column], 10**18, 0
            for other in range(1, size + 1):
                if not used[other]:
                    slack = -scores[current - 1][other - 1] - u[current] - v[other]
                    if slack < least[other]:
                        least[other], came[other] = slack, column
                    if least[other] < step:
                        step, following = least[other], other
            for other in range(size + 1):
                if used[other]:
                    u[row_of[other]] += step
                    v[other] -= step
                else:
                    least[other] -= step
            column = following
        while column:
            row_of[column], column = row_of[came[column]], came[column]
    return sum(scores[row_of[column] - 1][column - 1] for column in range(1, size + 1))


@pytest.mark.parametrize("kind", ["random", "products", "few values", "dots"])
def test_larger_ones_are_the_best_too(kind: str) -> None:
    """Products x_i * y_j leave nothing to bidding: all of them goes by paths."""
    source = torch.Generator().manual_seed(3)
    size = 30
    scores = {
        "random": torch.randn(4, size, size, generator=source),
        "products": torch.rand(4, size, 1, generator=source) * torch.rand(4, 1, size, generator=source),
        "few values": torch.randint(0, 4, (4, size, size), generator=source).float(),
        "dots": torch.randn(4, size, 5, generator=source) @ torch.randn(4, 5, size, generator=source),
    }[kind]
    whole = rounded(scores, float(scores.abs().max()))
    assert value(whole, assignment(whole)) == [by_potentials(each.tolist()) for each in whole]


def test_a_clear_order_is_found_again() -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(4))
    scores = torch.zeros((1, 200, 200), dtype=torch.int64)
    scores[0, torch.arange(200), order] = 1
    assert torch.equal(assignment(scores)[0], order)


def test_no_rows_and_no_problems() -> None:
    assert assignment(torch.zeros((3, 0, 0), dtype=torch.int64)).shape == (3, 0)
    assert assignment(torch.zeros((0, 4, 4), dtype=torch.int64)).shape == (0, 4)


def test_rounding_keeps_the_order_and_the_ends() -> None:
    found = rounded(torch.tensor([-2.0, -1e-9, 0.0, 1.0, 2.0]), 2.0)
    assert found.tolist() == [-(2**BITS), -8796, 0, 2 ** (BITS - 1), 2**BITS]
    assert rounded(torch.tensor([1.0]), 2.0, 10).tolist() == [512]
