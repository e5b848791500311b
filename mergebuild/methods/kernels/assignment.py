"""Assignment problems: who goes where so that the sum of the scores is greatest. Exact, many of one size at a time.

A dual solution proves an assignment right: numbers u_i and v_j with `u_i + v_j >= score_ij` everywhere and equality in
the pairs that are chosen (Kuhn 1955). Every row starts with `u_i` its greatest score and takes that column if it is
free, which settles inputs that are already in order. Then, as Jonker & Volgenant (1987) do, rows without a column bid:
a column's price rises by what its best bidder would lose by the second best, the row that held it bids again. What is
left is settled by shortest augmenting paths, one row a problem at a time, all problems in step.

Scores are rounded to integers first, so that all this is exact arithmetic, the same everywhere, and the
result the true optimum of the rounded scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BITS", "assignment", "rounded"]

BITS = 44
"""Of the largest magnitude of a score: sums of up to 2**16, and prices, stay far inside 63 bits."""
_FAR = 1 << 61
_SCANS = 24
"""How many rows, on average, may bid before paths take over."""


def rounded(scores: Tensor, largest: float, bits: int = BITS) -> Tensor:
    """Return `scores` as integers (int64, the same shape), `largest`, a positive bound of them, as `2 ** bits`."""
    return scores.to(torch.float64).div(largest).mul_(2.0**bits).round_().to(torch.int64)


def assignment(scores: Tensor) -> Tensor:
    """Return for each row the column that it is assigned to, so that the sum of the scores is greatest.

    Args:
        scores: int64 [problems, n, n], magnitudes up to `2 ** BITS`.

    Returns:
        int64 [problems, n], a permutation in each row.
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
    """The state of the solution: prices of columns, and who has whom (-1: nobody)."""

    def __init__(self, scores: Tensor) -> None:
        problems, size, _ = scores.shape
        self.scores = scores
        self.prices = torch.zeros((problems, size), dtype=torch.int64, device=scores.device)
        self.column_of = torch.full_like(self.prices, -1)
        self.row_of = torch.full_like(self.prices, -1)

    def bid(self, budget: int) -> None:
        """Let rows without a column bid for their best one, until none gains by it or the budget is used up.

        Whoever has a column keeps being among its best ones: prices of the others only rise.
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
        """Give each column that is bid for to the bidder of the highest rise, the first of several."""
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
    """Shortest paths from a row to a free column, in several problems in step."""

    def __init__(self, task: _Task, problem: Tensor, start: Tensor) -> None:
        self.task, self.problem, self.start = task, problem, start
        shape = (len(problem), task.scores.shape[1])
        self.distance = torch.full(shape, _FAR, dtype=torch.int64, device=start.device)
        self.came_from = torch.full_like(self.distance, -1)
        self.behind = torch.zeros_like(self.distance)  # _FAR for columns that a path has reached
        self.sink = torch.full_like(start, -1)
        self.length = torch.zeros_like(start)

    def search(self) -> None:
        """Extend the shortest path of each problem until it ends in a free column."""
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
            # what the row has now is worth as much to it as the path to it is long
            reach = (values.gather(1, column) + length) - values

    def settle(self) -> None:
        """Raise the prices along the paths and shift every row on them by one column."""
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
