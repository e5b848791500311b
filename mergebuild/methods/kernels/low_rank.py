"""The nearest matrix of low rank, and the nearest Kronecker product.

The nearest matrix of rank r (Eckart & Young 1936) is M projected onto its r leading right singular vectors, `M V V^T`.
V are eigenvectors of the small Gram matrix `M^T M`, which is summed in float64 a few rows at a time. That is much
faster than a singular value decomposition, and for float32 inputs more exact than one in float32, as the error of
squares in float64 is below the precision of float32. The long side is never in float64 as a whole.

The nearest Kronecker product `kron(X, Y)` is the nearest matrix of rank 1, once the elements are arranged so that each
column holds the multiples of one element of Y (Van Loan & Pitsianis 1993).

Approximate bases (Halko, Martinsson & Tropp 2011) come from M times a few random vectors and some power iterations. The
random vectors depend only on the seed, the tensor's name and their index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, log, prod

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State
from mergebuild.methods.kernels.randomness import normal

__all__ = [
    "KERNELS",
    "Sketch",
    "factor_dims",
    "leading_directions",
    "memory_of_directions",
    "nearest_of_rank",
    "rank_of",
    "row_blocks",
]

_BLOCK = 1 << 21
"""Elements that are in float64 at a time."""
_MORE = 8
"""Random vectors that a sketch uses beyond the rank, to be accurate."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """How an approximate basis is found."""

    seed: int
    tensor: str
    iterations: int


def nearest_of_rank(matrix: Tensor, rank: int, sketch: Sketch | None = None) -> Tensor:
    """Return the matrix of `rank` nearest to `matrix` (float32 [m, n], new), or one close to it if there is a `sketch`.

    `rank` is at least 1 and less than m and n.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return nearest_of_rank(matrix.T, rank, sketch).T
    basis = leading_directions(matrix, rank, sketch)
    result = torch.empty(matrix.shape, dtype=torch.float32, device=matrix.device)
    for rows in row_blocks(matrix):
        result[rows] = (matrix[rows].to(torch.float64) @ basis @ basis.T).to(torch.float32)
    return result


def leading_directions(matrix: Tensor, rank: int, sketch: Sketch | None = None) -> Tensor:
    """Return the `rank` leading right singular vectors of `matrix` (float32 [m, n], m >= n).

    With a `sketch`, close ones.

    They are columns (float64 [n, rank]), the largest last. `rank` is 1 to n.
    """
    return _leading(_gram(matrix, None), rank) if sketch is None else _sketched(matrix, rank, sketch)


def memory_of_directions(shape: tuple[int, int], rank: int, *, is_sketched: bool) -> int:
    """Return the bytes needed to find a matrix's leading directions and their image, besides the matrix itself."""
    short, long = sorted(shape)
    width = min(rank + _MORE, short)
    found = 4 * short * width if is_sketched else 6 * short * short
    return 8 * (found + 4 * long * width + 4 * max(_BLOCK, long))


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Return slices of the rows of `matrix`, a few rows each."""
    rows = max(1, _BLOCK // matrix.shape[1])
    return (slice(first, first + rows) for first in range(0, len(matrix), rows))


def _gram(matrix: Tensor, basis: Tensor | None) -> Tensor:
    """Return `(M B)^T (M B)`, or `M^T M` without a basis (float64)."""
    width = matrix.shape[1] if basis is None else basis.shape[1]
    total = torch.zeros((width, width), dtype=torch.float64, device=matrix.device)
    for rows in row_blocks(matrix):
        part = matrix[rows].to(torch.float64)
        part = part if basis is None else part @ basis
        total += part.T @ part
    return total


def _leading(gram: Tensor, rank: int) -> Tensor:
    """Return the eigenvectors of the `rank` largest eigenvalues, in columns."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, -rank:]


def _sketched(matrix: Tensor, rank: int, sketch: Sketch) -> Tensor:
    """Return columns close to the leading `rank` right singular vectors."""
    short = matrix.shape[1]
    width = min(rank + _MORE, short)
    drawn = normal(sketch.seed, sketch.tensor, 0, 0, short * width, matrix.device)
    basis = drawn.view(short, width).to(torch.float64)
    for _ in range(sketch.iterations + 1):
        power = torch.zeros_like(basis)
        for rows in row_blocks(matrix):
            part = matrix[rows].to(torch.float64)
            power += part.T @ (part @ basis)
        basis = torch.linalg.qr(power).Q
    return basis @ _leading(_gram(matrix, basis), rank)


def rank_of(call: Call, greatest: int) -> int:
    """Return the rank that the call asks for, from 0 to `greatest`; a share of `greatest` if `ratio` is above 0."""
    ratio = call.number("ratio")
    return min(max(round(greatest * ratio) if ratio > 0 else round(call.number("rank")), 0), greatest)


def _sketch_of(call: Call) -> Sketch | None:
    if not call.flag("approximate"):
        return None
    return Sketch(int(call.number("seed")), call.tensor, int(call.number("iterations")))


def _truncated(call: Call, delta: Tensor) -> Tensor:
    """Return `delta` cut to the rank that the call asks for; `delta` itself if nothing is cut."""
    if len(call.shape) < 2 or not call.count:
        return delta
    matrix = delta.view(call.shape[0], -1)
    rank = rank_of(call, min(matrix.shape))
    if rank == min(matrix.shape):
        return delta
    if rank == 0:
        return torch.zeros_like(delta)
    return nearest_of_rank(matrix, rank, _sketch_of(call)).reshape(-1)


def _truncate_rank(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    found = _truncated(call, chunks[0])
    return found.clone() if found is chunks[0] else found


def _lowrank_diff(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    a, b = chunks
    delta = b - a
    found = _truncated(call, delta)
    return b.clone() if found is delta else found.add_(a)


def factor_dims(shape: Sequence[int], ratio: Fraction) -> tuple[int, int, int, int]:
    """Return m1, m2, n1, n2: the factors of a tensor of `shape` (2-d or more) are [m1, n1] and [m2, n2, ...].

    `ratio` 0 makes the first factor small, 1 the second; at 1/2 both have about one size. Of equally good shapes the
    squarest is taken, then the one with the smallest m1, then n1.
    """
    half = log(prod(shape)) / 2
    pairs = [(m1, n1) for m1 in _divisors(shape[0]) for n1 in _divisors(shape[1])]
    sizes = [log(m1 * n1) - half for m1, n1 in pairs]
    target = float(2 * ratio - 1) * max(abs(min(sizes)), abs(max(sizes)))

    def badness(index: int) -> tuple[float, float]:  # rounded, so that equal values do not differ by rounding errors
        m1, n1 = pairs[index]
        squareness = abs(log(m1 * m1 / shape[0])) + abs(log(n1 * n1 / shape[1]))
        return (round(abs(sizes[index] - target), 9), round(squareness, 9))

    m1, n1 = pairs[min(range(len(pairs)), key=badness)]
    return m1, shape[0] // m1, n1, shape[1] // n1


def _divisors(number: int) -> list[int]:
    small = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    return small + [number // each for each in reversed(small) if each * each != number]


def _truncate_kronecker(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    (delta,) = chunks
    if len(call.shape) < 2 or not call.count:
        return delta.clone()
    m1, m2, n1, n2 = factor_dims(call.shape, call.number("kronecker_ratio"))
    rest = prod(call.shape[2:])
    arranged = delta.view(m1, m2, n1, n2 * rest).transpose(1, 2).reshape(m1 * n1, m2 * n2 * rest)
    if min(arranged.shape) == 1:
        return delta.clone()
    nearest = nearest_of_rank(arranged, 1, _sketch_of(call))
    return nearest.reshape(m1, n1, m2, n2 * rest).transpose(1, 2).reshape(-1)


def _memory(inputs: int, shape: tuple[int, int]) -> int:
    """Return the bytes needed for a matrix: float32 copies, and the Gram matrix and its eigenvectors in float64."""
    short = min(shape)
    return 4 * (inputs + 4) * prod(shape) + 8 * 6 * short * short + 8 * 4 * max(_BLOCK, *shape)


def _rank_memory(call: Call, inputs: int) -> int:
    return _memory(inputs, (call.shape[0], prod(call.shape[1:])) if call.shape else (1, 1))


def _kronecker_memory(call: Call, inputs: int) -> int:
    if len(call.shape) < 2 or not call.count:
        return _memory(inputs, (call.count, 1))
    m1, m2, n1, n2 = factor_dims(call.shape, call.number("kronecker_ratio"))
    return _memory(inputs, (m1 * n1, m2 * n2 * prod(call.shape[2:])))


KERNELS: Mapping[str, Kernel] = {
    "truncate_rank": Kernel(_truncate_rank, grain=Grain.TENSOR, working_set=_rank_memory),
    "lowrank_diff": Kernel(_lowrank_diff, grain=Grain.TENSOR, working_set=_rank_memory),
    "truncate_kronecker": Kernel(_truncate_kronecker, grain=Grain.TENSOR, working_set=_kronecker_memory),
}
