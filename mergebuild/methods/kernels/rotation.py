"""Turning one model towards another by an orthogonal matrix: the Procrustes problem.

Of all orthogonal Q, `U V^T` with `U S V^T = A^T B` brings the rows of A Q closest to those of B (Schoenemann 1966). All
is in float64, rounded to float32 once.

Directions that A or B do not have (their singular value is 0 up to rounding) leave Q open; a library's choice there is
chance. Here Q is as close to the identity as it can be, so that what is not determined is not turned.

A fractional power turns every plane of Q by a part of its angle. Q is normal, so its symmetric and its antisymmetric
part have the same eigenvectors, and the Hermitian matrix `C + g S` of `Q = C + i S` finds them: orthonormal whatever
the multiplicities, unlike those of a general eigenvalue solver. Half turns (angle pi) have no plane of their own: of
their power the real part is taken, `cos(pi t)`.

Matrices with fewer rows than columns have no full Q worth its size. There, the form `x - x V V^T + x U V^T` carries the
directions U to V and leaves the rest as it is; its fractional powers move along the geodesic from V to U on the
Stiefel manifold (Zimmermann & Hueper 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from torch import Tensor

from mergebuild.methods.kernels.blend import lerp
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State
from mergebuild.methods.method import UndefinedError

__all__ = [
    "KERNELS",
    "aligned_directions",
    "closest_rotation",
    "orthogonal_log",
    "orthogonal_power",
    "stiefel_exp",
    "stiefel_log",
]

_ROUNDING = 2.0**-52
_SLOPE = 0.7390851332151607
"""How much of the antisymmetric part is mixed in: any number that angles do not favour."""


def _rotate(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    a, b = chunks
    alignment, alpha = call.number("alignment"), call.number("alpha")
    if not call.count or (alignment == alpha == 0):
        return a.clone()
    if alignment == alpha == 1:
        return b.clone()
    if len(call.shape) <= 1 or torch.equal(a.half(), b.half()):
        return lerp(a, b, alpha)
    rows = _rows(call.shape)
    first, first_mean = _centred(a, rows, call.number("centralization"))
    second, second_mean = _centred(b, rows, call.number("centralization"))
    found = _turned(call, first, second) if first.shape[0] >= first.shape[1] else _carried(call, first, second)
    found += first_mean + float(alignment) * (second_mean - first_mean)
    return found.to(torch.float32)


def _rows(shape: tuple[int, ...]) -> int:
    """Return how many rows the matrix of a tensor has: a convolution's kernels are rows."""
    return shape[0] * shape[1] if len(shape) == 4 and prod(shape[2:]) != 1 else shape[0]


def _centred(values: Tensor, rows: int, centralization: Fraction) -> tuple[Tensor, Tensor]:
    """Return a matrix less its mean row, and that row (times `centralization`)."""
    matrix = values.to(torch.float64).view(rows, -1)
    mean = matrix.mean(0) * float(centralization)
    return matrix - mean, mean


def _turned(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return the rows of `a`, mixed with those of `b` turned back, turned towards those of `b` ([m, n], m >= n)."""
    alignment, alpha = call.number("alignment"), call.number("alpha")
    rotation = closest_rotation(a.T @ b, proper=alignment.denominator != 1)
    if alpha != 0:
        a = a + float(alpha) * (b @ rotation.T - a)
    return a if alignment == 0 else a @ orthogonal_power(rotation, alignment)


def closest_rotation(product: Tensor, *, proper: bool) -> Tensor:
    """Return the orthogonal Q that makes the trace of `Q^T product` greatest (float64 [n, n]).

    `proper`: only rotations are allowed; where a reflection would be best, the least direction is not reflected.
    """
    left, sizes, right = torch.linalg.svd(product)
    right = right.T
    rank = _rank(sizes, len(product))
    if rank < len(product):  # turn what is open as little as can be
        open_left, _, open_right = torch.linalg.svd(left[:, rank:].T @ right[:, rank:])
        left = torch.cat((left[:, :rank], left[:, rank:] @ open_left), dim=1)
        right = torch.cat((right[:, :rank], right[:, rank:] @ open_right.T), dim=1)
    rotation: Tensor = left @ right.T
    if proper and torch.linalg.slogdet(rotation).sign < 0:
        rotation -= 2 * torch.outer(left[:, -1], right[:, -1])
    return rotation


def _rank(sizes: Tensor, side: int) -> int:
    """Return how many singular values, greatest first, are more than rounding errors."""
    if not len(sizes) or sizes[0] == 0:
        return 0
    return int((sizes > sizes[0] * (16 * side * _ROUNDING)).sum())


def orthogonal_power(rotation: Tensor, power: Fraction) -> Tensor:
    """Return `rotation ** power` (float64 [n, n], orthogonal)."""
    if power.denominator == 1:
        base = rotation if power > 0 else rotation.T
        result: Tensor = torch.linalg.matrix_power(base, abs(int(power)))
        return result
    angles, vectors = _planes(rotation)
    turned = angles * float(power)
    return ((vectors * torch.polar(torch.ones_like(turned), turned)) @ vectors.mH).real.contiguous()


def orthogonal_log(rotation: Tensor) -> Tensor:
    """Return the antisymmetric logarithm of a rotation (float64 [n, n]); half turns count as none."""
    angles, vectors = _planes(rotation)
    found = ((vectors * angles) @ vectors.mH).imag  # i * angle is the logarithm of an eigenvalue
    return (found.T - found) / 2


def _planes(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angles (-pi to pi) of the eigenvalues of an orthogonal matrix, and the eigenvectors in columns."""
    symmetric, antisymmetric = rotation + rotation.T, rotation - rotation.T
    vectors = torch.linalg.eigh(torch.complex(symmetric, -_SLOPE * antisymmetric)).eigenvectors
    eigenvalues = (vectors.conj() * (rotation.to(vectors.dtype) @ vectors)).sum(0)
    return torch.atan2(eigenvalues.imag, eigenvalues.real), vectors


@dataclass(frozen=True, slots=True)
class _Geodesic:
    """The way from V to U, for powers of the low-rank form."""

    start: Tensor
    velocity: Tensor

    def at(self, time: float) -> Tensor:
        return stiefel_exp(self.start, self.velocity * time)


def _carried(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return the rows of `a`, mixed with those of `b` carried back, carried towards those of `b` ([m, n], m < n)."""
    alignment, alpha = call.number("alignment"), call.number("alpha")
    u, v = aligned_directions(a, b)
    if alpha != 0:
        a = a + float(alpha) * (_carry(b, v, u) - a)
    if alignment == 0 or not u.shape[1]:
        return a
    if alignment in {1, -1}:
        return _carry(a, u, v) if alignment == 1 else _carry(a, v, u)
    tolerance, rounds = float(call.number("stiefel_eps")), int(call.number("stiefel_max_iters"))
    way = _Geodesic(v, stiefel_log(v, u, tolerance, rounds, call.tensor))
    return _carry(a, way.at(float(1 + alignment) / 2), way.at(float(1 - alignment) / 2))


def _carry(rows: Tensor, source: Tensor, goal: Tensor) -> Tensor:
    """Return `rows` with what they have along `goal` replaced by what they have along `source`."""
    return rows + (rows @ source - rows @ goal) @ goal.T


def aligned_directions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return U and V (float64 [n, k], orthonormal columns), the singular vectors of `a^T b` ([m, n] each, m < n).

    k is the rank: directions that one of the two does not have are in neither.
    """
    basis, factor = torch.linalg.qr(b.T)
    u, sizes, v = torch.linalg.svd(a.T @ factor.T, full_matrices=False)
    rank = _rank(sizes, a.shape[1])
    return u[:, :rank], basis @ v[:rank].T


def stiefel_exp(start: Tensor, velocity: Tensor) -> Tensor:
    """Return where the geodesic from `start` (float64 [n, k], orthonormal columns) is after time 1."""
    along = start.T @ velocity
    normal, size = torch.linalg.qr(velocity - start @ along)
    generator = torch.cat((torch.cat((along, -size.T), 1), torch.cat((size, torch.zeros_like(along)), 1)), 0)
    turned = torch.linalg.matrix_exp((generator - generator.T) / 2)
    width = start.shape[1]
    reached: Tensor = start @ turned[:width, :width] + normal @ turned[width:, :width]
    return reached


def stiefel_log(start: Tensor, goal: Tensor, tolerance: float, rounds: int, tensor: str) -> Tensor:
    """Return the velocity that brings `start` to `goal` (float64 [n, k], orthonormal columns, k < n) in time 1.

    UndefinedError if it is not found to within `tolerance` in so many `rounds`, as `tensor`'s are too far apart.
    """
    width = start.shape[1]
    shared = start.T @ goal
    normal, sizes, mixing = torch.linalg.svd(goal - start @ shared, full_matrices=False)
    frame = _completed(torch.cat((shared, sizes[:, None] * mixing), 0))
    half = torch.eye(width, dtype=torch.float64, device=start.device) / 2
    for _ in range(rounds):
        generator = orthogonal_log(frame)
        across, rest = generator[width:, :width], generator[width:, width:]
        if torch.linalg.matrix_norm(rest) <= tolerance:
            velocity: Tensor = start @ generator[:width, :width] + normal @ across
            return velocity
        frame[:, width:] @= torch.linalg.matrix_exp(_sylvester(across @ across.T / 12 - half, rest))
    message = f"`{tensor}` of the inputs are too far apart to be aligned by a part: no way found in {rounds} rounds"
    raise UndefinedError(message)


def _completed(columns: Tensor) -> Tensor:
    """Return a rotation whose first columns are these (float64 [2k, k], orthonormal), near the identity."""
    width = columns.shape[1]
    complement = torch.linalg.qr(columns, mode="complete").Q[:, width:]
    left, _, right = torch.linalg.svd(complement[width:])
    complement = complement @ (right.T @ left.T)
    frame = torch.cat((columns, complement), 1)
    if torch.linalg.slogdet(frame).sign < 0:
        frame[:, width:] -= 2 * torch.outer(complement @ left[:, -1], left[:, -1])
    return frame


def _sylvester(symmetric: Tensor, right: Tensor) -> Tensor:
    """Return X with `symmetric X + X symmetric = right`, antisymmetric as `right` is."""
    values, vectors = torch.linalg.eigh(symmetric)
    found: Tensor = vectors @ ((vectors.T @ right @ vectors) / (values[:, None] + values[None, :])) @ vectors.T
    return (found - found.T) / 2


def _memory(call: Call, inputs: int) -> int:
    """Return the bytes needed: float64 copies of the matrices, and of one of the shorter side squared."""
    if len(call.shape) <= 1 or not call.count:
        return 16 * (inputs + 2) * call.count
    rows = _rows(call.shape)
    columns = call.count // rows
    wide = rows < columns
    whole = call.number("alignment").denominator == 1
    side = rows * (1 if whole else 2) if wide else columns
    return 8 * (inputs + (8 if wide else 4)) * call.count + 8 * (6 if whole else 14) * side * side


KERNELS: Mapping[str, Kernel] = {"rotate": Kernel(_rotate, grain=Grain.TENSOR, working_set=_memory)}
