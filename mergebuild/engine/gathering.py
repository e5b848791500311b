"""Puts rows of tokens together: a chunk of an embedding from rows of others, wherever these are.

Rows of one part are read together. Where they follow each other they are one run, and a chunk of them costs as much as
any other; where a vocabulary is in another order, each is a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mergebuild.configuration.token_rows import MEAN, RowRun, RowsOfTokens
from mergebuild.methods.kernels.reduction import ColumnSums

__all__ = ["ReadRows", "RowGatherer", "Runs"]

_ROWS_AT_ONCE = 1024
"""Rows that are added at a time for the mean of all of them."""

Runs = Sequence[tuple[int, int]]
"""Runs of rows: the first row of each, and how many."""

ReadRows = Callable[[int, Runs], Tensor]
"""Returns runs of rows of a part, by its index: float32, flat."""


class RowGatherer:
    """Makes rows of an embedding. `width`: the elements of a row."""

    def __init__(self, rows: RowsOfTokens, width: int, read: ReadRows, place: torch.device) -> None:
        self._rows = rows
        self._width = width
        self._read = read
        self._ends = rows.ends
        self._count = rows.count
        self._mean = self._mean_of_all(place) if rows.padding else None

    def _mean_of_all(self, place: torch.device) -> Tensor:
        """Return the mean of all rows, summed in float64 and rounded once."""
        sums = ColumnSums(self._width)
        for first in range(0, self._count, _ROWS_AT_ONCE):
            past = min(first + _ROWS_AT_ONCE, self._count)
            sums.add(self._filled(torch.empty((past - first) * self._width, device=place), first, past))
        return (sums.value() / max(1, self._count)).to(torch.float32).to(place)

    def fill(self, out: Tensor, first: int) -> Tensor:
        """Write the rows from `first` on, as many as there is room for, into `out` (float32, flat); return it."""
        past = first + len(out) // self._width
        own = max(0, min(past, self._count) - first) * self._width
        self._filled(out[:own], first, min(past, self._count))
        if past > self._count:
            assert self._mean is not None  # there is padding
            out[own:].view(-1, self._width).copy_(self._mean)
        return out

    def _filled(self, out: Tensor, first: int, past: int) -> Tensor:
        """Write rows, from `first` to before `past`, none of them padding, into `out`; return it."""
        rows = out.view(-1, self._width)
        places: dict[int, list[tuple[int, RowRun]]] = {}
        at = 0
        for run in self._rows.within(first, past, self._ends):
            places.setdefault(run.part, []).append((at, run))
            at += run.rows
        for part, some in places.items():
            if part == MEAN:
                for place, run in some:
                    rows[place].copy_(self._mean_of(self._rows.means[run.first]))
            else:
                self._put(rows, part, some)
        return out

    def _put(self, rows: Tensor, part: int, some: Sequence[tuple[int, RowRun]]) -> None:
        """Write the runs of one part, or of zeros, each at its place."""
        found = None
        if part >= 0:
            found = self._read(part, [(run.first, run.rows) for _, run in some]).view(-1, self._width)
        if len(some) == 1:
            ((place, run),) = some
            where: slice | Tensor = slice(place, place + run.rows)
        else:
            listed = [row for place, run in some for row in range(place, place + run.rows)]
            where = torch.tensor(listed, device=rows.device)
        rows[where] = 0.0 if found is None else found

    def _mean_of(self, parts: Sequence[tuple[int, int]]) -> Tensor:
        """Return the mean of some rows in float64: their sum is rounded far below the precision of float32."""
        total = self._row(*parts[0]).to(torch.float64, copy=True)
        for part, row in parts[1:]:
            total += self._row(part, row)
        return total / len(parts)

    def _row(self, part: int, row: int) -> Tensor:
        return self._read(part, [(row, 1)])
