"""Sums in float64 that come out the same to the bit, however a tensor is cut and wherever they are taken.

A library's sum of the same numbers differs between thread counts, vector widths and devices, since addition of
floating-point numbers is not associative. Here the order is a property of the numbers' places alone: blocks of 65,536
consecutive values are halved over and over, the upper half added to the lower elementwise (an operation that IEEE 754
rounds in one way), and the blocks' sums are added up in order. What a chunk leaves of a block waits for the next
chunk; what is missing of the last block is zeros. The tree also keeps the error small: it grows with the logarithm of
a block's length.

Vectors (rows, columns) are summed the same way, all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["BLOCK", "ColumnSums", "Gram", "Sum", "vector_sums"]

BLOCK = 65_536
"""Values in a block."""

_ROOM = 4 * BLOCK
"""Values gathered before they are summed: of float64 2 MiB, which stay in the processor's cache."""


class Sum:
    """The sum of a stream of numbers."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._total = 0.0
        self._room: Tensor | None = None
        self._fill = 0

    def add(self, values: Tensor) -> None:
        """Add `values` (any float dtype, [n]), which follow those added before. They are not kept."""
        if self._room is None:
            self._room = _room_on(values.device)
        for begin, end in _pieces(self._fill, len(values)):
            self._room[self._fill : self._fill + end - begin].copy_(values[begin:end])
            self._fill += end - begin
            if self._fill == _ROOM:
                self._total = _add_blocks(self._total, self._room, _ROOM)
                self._fill = 0

    def value(self) -> float:
        """Return the sum so far."""
        if self._room is None or not self._fill:
            return self._total
        return _add_blocks(self._total, self._room[: _padded(self._fill)].clone(), self._fill)


class Gram:
    """The dot product of each of some vectors with each: G_ij = <x_i, x_j>. Products of float32 are exact in float64.

    An entry has the bits of the `Sum` of the products.
    """

    def __init__(self, n: int) -> None:
        """Begin with `n` vectors."""
        self._n = n
        self._totals = {(i, j): 0.0 for i in range(n) for j in range(i, n)}
        self._rooms: list[Tensor] = []
        self._fill = 0

    def add(self, chunks: Sequence[Tensor]) -> None:
        """Add the next elements of each vector (float32 or float64, all [n]). They are not kept."""
        if not self._rooms:
            self._rooms = [_room_on(chunks[0].device) for _ in range(self._n + 1)]
        for begin, end in _pieces(self._fill, len(chunks[0])):
            for room, chunk in zip(self._rooms, chunks, strict=False):
                room[self._fill : self._fill + end - begin].copy_(chunk[begin:end])
            self._fill += end - begin
            if self._fill == _ROOM:
                self._totals = self._with_held()
                self._fill = 0

    def value(self) -> tuple[tuple[float, ...], ...]:
        """Return the matrix so far, symmetric."""
        found = self._with_held()
        return tuple(tuple(found[min(i, j), max(i, j)] for j in range(self._n)) for i in range(self._n))

    def _with_held(self) -> dict[tuple[int, int], float]:
        """Return the totals with what the rooms hold, which stays there."""
        if not self._fill:
            return self._totals
        vectors = [room[: self._fill] for room in self._rooms]
        product = self._rooms[-1]
        found = {}
        for (i, j), total in self._totals.items():
            torch.mul(vectors[i], vectors[j], out=product[: self._fill])
            found[i, j] = _add_blocks(total, product, self._fill)
        return found


class ColumnSums:
    """The sums over the first dimension of a tensor, one for each place behind it."""

    def __init__(self, columns: int) -> None:
        """Begin with so many columns, at least one."""
        self._columns = columns
        self._block = columns << max(0, (BLOCK // columns).bit_length() - 1)
        """Values in a block: a power of two of rows, as many as about fill a block of `Sum`."""
        self._total: Tensor | None = None
        self._room: Tensor | None = None
        self._fill = 0

    def add(self, values: Tensor) -> None:
        """Add `values` (any float dtype, [n]): the next ones of the tensor, row-major, cut anywhere."""
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
        """Return the sums with a whole block, which is used up."""
        assert self._total is not None
        rows = block.view(-1, self._columns)
        half = len(rows)
        while half > 1:
            half //= 2
            rows[:half].add_(rows[half : 2 * half])
        return self._total + rows[0]


def vector_sums(values: Tensor) -> Tensor:
    """Return the sums along the last of two dimensions (float64 [r] of any float [r, d]), each a tree of halvings.

    The order of the additions follows from `d` alone. The sums of vectors without elements are 0.
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
    """Return a buffer for values to be summed."""
    return torch.empty(_ROOM, dtype=torch.float64, device=device)


def _pieces(fill: int, count: int, room: int = _ROOM) -> Iterator[tuple[int, int]]:
    """Yield the parts of `count` values (begin and end) that fill a room each, the first of which holds `fill`."""
    begin = 0
    while begin < count:
        end = min(count, begin + room - fill)
        yield begin, end
        begin, fill = end, 0


def _padded(count: int) -> int:
    """Return the values that are added up for so many: whole blocks, or the power of two that is enough."""
    if count >= BLOCK:
        return -(-count // BLOCK) * BLOCK
    return 1 << (count - 1).bit_length()


def _add_blocks(total: float, values: Tensor, count: int) -> float:
    """Return `total` and the sums of the blocks of the first `count` of `values` (float64), which are used up."""
    padded = _padded(count)
    values[count:padded] = 0
    width = min(padded, BLOCK)  # zeros that would fill a smaller block up to 65,536 change nothing
    blocks = values[:padded].view(-1, width)
    while width > 1:
        width //= 2
        blocks[:, :width].add_(blocks[:, width : 2 * width])
    for block_sum in blocks[:, 0].tolist():
        total += block_sum
    return total
