"""Sums in float64 with the same bits on every machine and device, however a tensor is cut into chunks.

Floating-point addition is not associative, so a library's sum differs between thread counts, vector widths and devices.
Here the order of additions follows from the positions of the numbers alone. Blocks of 65,536 consecutive values are
halved again and again, the upper half added to the lower one elementwise (IEEE 754 rounds that in only one way), and
the sums of blocks are added in order. If a chunk ends inside a block, the values wait for the next chunk; the last
block is filled up with zeros. The tree also keeps errors small: they grow with the logarithm of the block's length.

Vectors (rows, columns) are summed in the same way, all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["BLOCK", "ColumnSums", "Gram", "RunningSum", "vector_sums"]

BLOCK = 65_536
"""Values in a block."""

_TAIL = 512
"""Halving of a block stops at this many values; it goes on for several blocks together, as calls cost more than
additions."""
_TAILS = 16


class _Tree:
    """The sum of whole blocks, added in order."""

    def __init__(self, device: torch.device) -> None:
        self._total = 0.0
        self._tails = torch.empty(_TAILS, _TAIL, dtype=torch.float64, device=device)
        self._rows = self._tails.unbind()
        self._waiting = 0

    def take(self, halves: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add a block, which is overwritten. `halves`: its halves as `_halves` returns them."""
        for lower, upper in halves[:-1]:
            lower.add_(upper)
        lower, upper = halves[-1]
        torch.add(lower, upper, out=self._rows[self._waiting])
        self._waiting += 1
        if self._waiting == _TAILS:
            self.total()

    def total(self) -> float:
        """Return the sum of all blocks so far."""
        if self._waiting:
            self._total = _add_rows(self._total, self._tails[: self._waiting])
            self._waiting = 0
        return self._total

    def total_with(self, values: Tensor, count: int) -> float:
        """Return the sum including the first `count` values of one more block (float64 [65,536], overwritten)."""
        if not count:
            return self.total()
        width = 1 << (count - 1).bit_length()  # more zeros would not change the sum
        values[count:width] = 0
        return _add_rows(self.total(), values[:width].unsqueeze(0))


class RunningSum:
    """The sum of a stream of numbers."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._tree: _Tree | None = None
        self._fill = 0

    def add(self, values: Tensor) -> None:
        """Add the next `values` (any float dtype, [n]) of the stream. They are not kept."""
        if self._tree is None:
            self._tree = _Tree(values.device)
            self._room = _room_on(values.device)
            self._halves = _halves(self._room)
        for begin, end in _pieces(self._fill, len(values), BLOCK):
            self._room[self._fill : self._fill + end - begin].copy_(values[begin:end])
            self._fill += end - begin
            if self._fill == BLOCK:
                self._tree.take(self._halves)
                self._fill = 0

    def value(self) -> float:
        """Return the sum so far."""
        return self._tree.total_with(self._room.clone(), self._fill) if self._tree is not None else 0.0


class Gram:
    """The Gram matrix of some vectors: G_ij = <x_i, x_j>. Products of two float32 are exact in float64.

    Each entry has the bits that `RunningSum` gives for the products.
    """

    def __init__(self, n: int) -> None:
        """Begin with `n` empty vectors."""
        self._n = n
        self._trees: dict[tuple[int, int], _Tree] = {}
        self._fill = 0

    def add(self, chunks: Sequence[Tensor], origin: Tensor | None = None) -> None:
        """Add the next elements of each vector (float32 or float64, all [n]), minus those of `origin` if it is given.

        Differences of float32 are computed in float64. Nothing is kept.
        """
        if not self._trees:
            self._begin_on(chunks[0].device)
        for begin, end in _pieces(self._fill, len(chunks[0]), BLOCK):
            self._fill_rooms(chunks, origin, begin, end)
            self._fill += end - begin
            if self._fill == BLOCK:
                self._take_block()

    def _begin_on(self, device: torch.device) -> None:
        """Make the buffers: a block of each vector, of a product, and of the origin."""
        self._rooms = [_room_on(device) for _ in range(self._n)]
        self._product, self._origin = _room_on(device), _room_on(device)
        self._halves = _halves(self._product)
        self._trees = {(i, j): _Tree(device) for i in range(self._n) for j in range(i, self._n)}

    def _fill_rooms(self, chunks: Sequence[Tensor], origin: Tensor | None, begin: int, end: int) -> None:
        """Copy the elements from `begin` to before `end` of each vector, minus the origin's, after those of before."""
        span = slice(self._fill, self._fill + end - begin)
        if origin is not None:
            self._origin[span].copy_(origin[begin:end])
        for room, chunk in zip(self._rooms, chunks, strict=True):
            part = room[span].copy_(chunk[begin:end])
            if origin is not None:
                part.sub_(self._origin[span])

    def _take_block(self) -> None:
        """Add the products of a whole block to the sums."""
        for (i, j), tree in self._trees.items():
            torch.mul(self._rooms[i], self._rooms[j], out=self._product)
            tree.take(self._halves)
        self._fill = 0

    def value(self) -> tuple[tuple[float, ...], ...]:
        """Return the matrix so far, symmetric."""
        found = dict.fromkeys(((i, j) for i in range(self._n) for j in range(i, self._n)), 0.0)
        for (i, j), tree in self._trees.items():
            held = slice(0, self._fill)
            torch.mul(self._rooms[i][held], self._rooms[j][held], out=self._product[held])
            found[i, j] = tree.total_with(self._product, self._fill)
        return tuple(tuple(found[min(i, j), max(i, j)] for j in range(self._n)) for i in range(self._n))


class ColumnSums:
    """The sums over the first dimension of a tensor, one for each column (each place after that dimension)."""

    def __init__(self, columns: int) -> None:
        """Begin with this many columns, at least one."""
        self._columns = columns
        self._block = columns << max(0, (BLOCK // columns).bit_length() - 1)
        """Values in a block: a power of two of rows, about as many values as `BLOCK`."""
        self._total: Tensor | None = None
        self._room: Tensor | None = None
        self._fill = 0

    def add(self, values: Tensor) -> None:
        """Add the next `values` (any float dtype, [n]) of the tensor, row by row.

        They may begin and end inside a row.
        """
        if self._room is None:
            self._room = torch.empty(self._block, dtype=torch.float64, device=values.device)
            self._total = torch.zeros(self._columns, dtype=torch.float64, device=values.device)
        for begin, end in _pieces(self._fill, len(values), self._block):
            self._room[self._fill : self._fill + end - begin].copy_(values[begin:end])
            self._fill += end - begin
            if self._fill == self._block:
                self._total = self._with(self._room)
                self._fill = 0

    def value(self) -> Tensor:
        """Return the sums so far (float64 [columns])."""
        if self._room is None or self._total is None:
            return torch.zeros(self._columns, dtype=torch.float64)
        if not self._fill:
            return self._total
        held = self._room.clone()
        held[self._fill :] = 0
        return self._with(held)

    def _with(self, block: Tensor) -> Tensor:
        """Return the sums including a whole block, which is overwritten."""
        assert self._total is not None
        rows = block.view(-1, self._columns)
        half = len(rows)
        while half > 1:
            half //= 2
            rows[:half].add_(rows[half : 2 * half])
        return self._total + rows[0]


def vector_sums(values: Tensor) -> Tensor:
    """Return the sum of each row (float64 [r], from any float dtype [r, d]), by halving again and again.

    The order of the additions depends on `d` alone. Rows without elements have the sum 0.
    """
    width = values.shape[1]
    if width == 0:
        return torch.zeros(values.shape[0], dtype=torch.float64, device=values.device)
    half = width // 2
    width -= half
    sums = values[:, :width].to(torch.float64, copy=True)
    sums[:, :half].add_(values[:, width:])
    while width > 1:
        half = width // 2
        width -= half
        sums[:, :half].add_(sums[:, width : width + half])
    return sums[:, 0]


def _room_on(device: torch.device) -> Tensor:
    """Return a buffer for one block."""
    return torch.empty(BLOCK, dtype=torch.float64, device=device)


def _halves(block: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the halves of a block (lower, upper), then those of its lower half, and so on down to `_TAIL` values."""
    found = []
    width = len(block)
    while width > _TAIL:
        width //= 2
        found.append((block[:width], block[width : 2 * width]))
    return found


def _pieces(fill: int, count: int, room: int) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of parts of `count` values.

    Each part fills one room; the first room already has `fill` values.
    """
    begin = 0
    while begin < count:
        end = min(count, begin + room - fill)
        yield begin, end
        begin, fill = end, 0


def _add_rows(total: float, rows: Tensor) -> float:
    """Return `total` plus the sum of each row in order. `rows`: float64 [r, a power of two], overwritten."""
    width = rows.shape[1]
    while width > 1:
        width //= 2
        rows[:, :width].add_(rows[:, width : 2 * width])
    for row_sum in rows[:, 0].tolist():
        total += row_sum
    return total
