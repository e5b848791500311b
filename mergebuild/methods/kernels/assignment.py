"""Assignment problems: give each row a column of its own so that the sum of scores is greatest. Exact, many at a time.

A solution is proved optimal by prices: numbers u_i of rows and v_j of columns with `u_i + v_j >= score_ij` everywhere,
and equality for the chosen pairs (Kuhn 1955). Each row starts with its greatest score and takes that column if it is
free; inputs that are in order already are done then. Next, as in Jonker & Volgenant (1987), rows without a column bid:
the price of a column rises by what its best bidder would lose with its second best, and the row that had it bids again.
The remaining rows are assigned by shortest augmenting paths, one row per problem at a time, all problems in parallel.

Scores are first rounded to integers. So the arithmetic is exact and the same everywhere, and the result is optimal for
the rounded scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BITS", "assignment", "rounded"]

BITS = 44
"""Bits of the largest score: then sums of up to 2**16 scores, and prices, are far below 2**63."""
_FAR = 1 << 61
_SCANS = 24
"""How many times each row may bid on average before augmenting paths take over."""


def rounded(scores: Tensor, largest: float, bits: int = BITS) -> Tensor:
    """Return scores as integers (int64, same shape), scaled so that `largest` becomes `2 ** bits`.

    `largest` is positive, and no score has a larger magnitude.
    """
    return scores.to(torch.float64).div(largest).mul_(2.0**bits).round_().to(torch.int64)


def assignment(scores: Tensor) -> Tensor:
    """Return the column that each row is assigned to, so that the sum of the scores is greatest.

    Args:
        scores: int64 [problems, n, n], magnitudes up to `2 ** BITS`.

    Returns:
        int64 [problems, n]; each row is a permutation.
    """
    problems, size, _ = scores.shape
    if not problems or not size:
        return torch.zeros((problems, size), dtype=torch.int64, device=scores.device)
    task = _Task(scores)
    task.bid(_SCANS * problems * size)
    while bool((task.column_of < 0).any()):
        task.augment()
    return task.column_of


class _Task:
    """The state of the solution: the columns' prices, each row's column and each column's row (-1: none)."""

    def __init__(self, scores: Tensor) -> None:
        problems, size, _ = scores.shape
        self.scores = scores
        self.prices = torch.zeros((problems, size), dtype=torch.int64, device=scores.device)
        self.column_of = torch.full_like(self.prices, -1)
        self.row_of = torch.full_like(self.prices, -1)

    def bid(self, budget: int) -> None:
        """Let rows without a column bid for their best one, until no bid gains anything or the budget is used up.

        A row that has a column keeps having one of its best ones, as only the prices of other columns rise.
        """
        size = self.scores.shape[1]
        while budget > 0:
            problem, row = torch.nonzero(self.column_of < 0, as_tuple=True)
            if not len(row):
                return
            budget -= len(row)
            values = self.scores[problem, row] - self.prices[problem]
            if size == 1:
                self._give(problem, row, torch.zeros_like(row), torch.zeros_like(row))
                return
            (best, second), (column, _) = (each.unbind(-1) for each in values.topk(2, dim=-1))
            rise = best - second
            taken = self.row_of[problem, column] >= 0
            able = (rise > 0) | ~taken
            if not bool(able.any()):
                return
            self._give(problem[able], row[able], column[able], rise[able])

    def _give(self, problem: Tensor, row: Tensor, column: Tensor, rise: Tensor) -> None:
        """Give each column that rows bid for to the row with the highest bid; of several, to the first."""
        size = self.scores.shape[1]
        place = problem * size + column
        highest = torch.full((self.prices.numel(),), -1, dtype=torch.int64, device=rise.device)
        highest.scatter_reduce_(0, place, rise, "amax")
        winner = torch.full_like(highest, size)
        bidder = torch.where(rise == highest[place], row, size)
        winner.scatter_reduce_(0, place, bidder, "amin")
        won = winner[place] == row
        problem, row, column, rise = problem[won], row[won], column[won], rise[won]
        before = self.row_of[problem, column]
        self.column_of[problem[before >= 0], before[before >= 0]] = -1
        self.row_of[problem, column] = row
        self.column_of[problem, row] = column
        self.prices[problem, column] += rise

    def augment(self) -> None:
        """Find a column for one more row of every problem that has rows without one."""
        open_rows = self.column_of < 0
        problem = torch.nonzero(open_rows.any(-1)).squeeze(-1)
        start = open_rows[problem].to(torch.int8).argmax(-1)
        paths = _Paths(self, problem, start)
        paths.search()
        paths.settle()


class _Paths:
    """Shortest paths from a row to a free column, for several problems in parallel."""

    def __init__(self, task: _Task, problem: Tensor, start: Tensor) -> None:
        self.task, self.problem, self.start = task, problem, start
        shape = (len(problem), task.scores.shape[1])
        self.distance = torch.full(shape, _FAR, dtype=torch.int64, device=start.device)
        self.came_from = torch.full_like(self.distance, -1)
        self.behind = torch.zeros_like(self.distance)  # _FAR for columns that the search has already visited
        self.sink = torch.full_like(start, -1)
        self.length = torch.zeros_like(start)

    def search(self) -> None:
        """Extend the shortest path of each problem until it reaches a free column."""
        task, going = self.task, torch.arange(len(self.problem), device=self.start.device)
        problem, row = self.problem, self.start
        prices, owners = task.prices[problem], task.row_of[problem]
        distance, came_from, behind = self.distance.clone(), self.came_from.clone(), self.behind.clone()
        values = task.scores[problem, row] - prices
        reach = values.amax(-1, keepdim=True) - values
        while True:
            came_from = torch.where(reach < distance, row[:, None], came_from)
            distance = torch.minimum(reach, distance)
            length, column = (distance + behind).min(-1, keepdim=True)
            behind.scatter_(1, column, _FAR)
            row = owners.gather(1, column).squeeze(1)
            ended = row < 0
            if bool(ended.any()):
                where = going[ended]
                self.distance[where], self.came_from[where] = distance[ended], came_from[ended]
                self.behind[where] = behind[ended]
                self.length[where], self.sink[where] = length[ended, 0], column[ended, 0]
                rest = ~ended
                going, problem, row, column = going[rest], problem[rest], row[rest], column[rest]
                prices, owners, length = prices[rest], owners[rest], length[rest]
                distance, came_from, behind = distance[rest], came_from[rest], behind[rest]
                if not len(going):
                    return
            values = task.scores[problem, row].sub_(prices)
            # the row's own column costs nothing beyond the length of the path so far
            reach = (values.gather(1, column) + length) - values

    def settle(self) -> None:
        """Raise the prices along the paths, and move every row on them to its new column."""
        rise = (self.length[:, None] - self.distance).masked_fill_(self.behind == 0, 0)
        self.task.prices[self.problem] += rise
        for index, (problem, start) in enumerate(zip(self.problem.tolist(), self.start.tolist(), strict=True)):
            came_from = self.came_from[index].tolist()
            column_of = self.task.column_of[problem].tolist()
            column, row = int(self.sink[index]), -1
            while row != start:
                row = came_from[column]
                self.task.row_of[problem, column] = row
                self.task.column_of[problem, row] = column
                column = column_of[row]
