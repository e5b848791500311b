"""`rotate`: turns one model towards another by an orthogonal matrix, the solution of the Procrustes problem.

Of all orthogonal Q, `U V^T` with `U S V^T = A^T B` brings the rows of A Q closest to those of B (Schoenemann 1966). All
is computed in float64, and rounded to float32 once.

In directions that A or B lacks (a singular value of 0, up to rounding), Q is not determined, and a library's choice
would be arbitrary. Here Q is as near to the identity as possible, so these directions are not turned.

A fractional power turns every plane of Q by a share of its angle. Q is normal, so its symmetric part C and
antisymmetric part S (`Q = C + S`) have the same eigenvectors, and they are found by the Hermitian matrix `C - i g S`.
These are orthonormal for any multiplicities, unlike those of a general eigenvalue solver. A half turn (angle pi) has no
unique plane: the real part of its power, `cos(pi t)`, is used.

If the matrices have fewer rows than columns, a full Q would be needlessly large. Then the form `x - x V V^T + x U V^T`
moves the directions U to V and leaves the rest unchanged; its fractional powers move along the geodesic from V to U on
the Stiefel manifold (Zimmermann & Hueper 2022).
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
"""The factor g of the antisymmetric part: any number that angles in practice don't make special."""


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
    """Return how many rows the matrix of a tensor has; of a convolution each kernel is a row."""
    return shape[0] * shape[1] if len(shape) == 4 and prod(shape[2:]) != 1 else shape[0]


def _centred(values: Tensor, rows: int, centralization: Fraction) -> tuple[Tensor, Tensor]:
    """Return a matrix minus its mean row (times `centralization`), and what was subtracted."""
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
    """Return the orthogonal Q for which the trace of `Q^T product` is greatest (float64 [n, n]).

    `proper`: only rotations are allowed. If a reflection would be best, the direction that gains least is not
    reflected.
    """
    left, sizes, right = torch.linalg.svd(product)
    right = right.T
    rank = _rank(sizes, len(product))
    if rank < len(product):
        left, right = _determined(left, right, rank)
    rotation: Tensor = left @ right.T
    if proper and torch.linalg.slogdet(rotation).sign < 0:
        rotation -= 2 * torch.outer(left[:, -1], right[:, -1])
    return rotation


def _determined(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return singular vectors; those from the index `rank` on, which are undetermined, turn as little as possible."""
    open_left, _, open_right = torch.linalg.svd(left[:, rank:].T @ right[:, rank:])
    left = torch.cat((left[:, :rank], left[:, rank:] @ open_left), dim=1)
    right = torch.cat((right[:, :rank], right[:, rank:] @ open_right.T), dim=1)
    return left, right


def _rank(sizes: Tensor, side: int) -> int:
    """Return how many singular values (in descending order) are larger than rounding errors."""
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
    """Return the antisymmetric logarithm of a rotation (float64 [n, n]); half turns count as no turn."""
    angles, vectors = _planes(rotation)
    found = ((vectors * angles) @ vectors.mH).imag  # i * angle is the logarithm of an eigenvalue
    return (found.T - found) / 2


def _planes(rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angles (-pi to pi) of an orthogonal matrix's eigenvalues, and its eigenvectors as columns."""
    symmetric, antisymmetric = rotation + rotation.T, rotation - rotation.T
    vectors = torch.linalg.eigh(torch.complex(symmetric, -_SLOPE * antisymmetric)).eigenvectors
    eigenvalues = (vectors.conj() * (rotation.to(vectors.dtype) @ vectors)).sum(0)
    return torch.atan2(eigenvalues.imag, eigenvalues.real), vectors


@dataclass(frozen=True, slots=True)
class _Geodesic:
    """The geodesic from V to U, for fractional powers of the low-rank form."""

    start: Tensor
    velocity: Tensor

    def at(self, time: float) -> Tensor:
        return stiefel_exp(self.start, self.velocity * time)


def _carried(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Return the rows of `a`, mixed with those of `b` moved back, moved towards those of `b` ([m, n], m < n)."""
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
    """Return `rows` with their components along `goal` replaced by their components along `source`."""
    return rows + (rows @ source - rows @ goal) @ goal.T


def aligned_directions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return U and V (float64 [n, k], orthonormal columns): the singular vectors of `a^T b`, a and b [m, n] with m < n.

    k is the rank: directions that a or b lacks are in neither.
    """
    basis, factor = torch.linalg.qr(b.T)
    u, sizes, v = torch.linalg.svd(a.T @ factor.T, full_matrices=False)
    rank = _rank(sizes, a.shape[1])
    return u[:, :rank], basis @ v[:rank].T


def stiefel_exp(start: Tensor, velocity: Tensor) -> Tensor:
    """Return the point that the geodesic from `start` with `velocity` reaches at time 1.

    All are float64 [n, k], `start` with orthonormal columns.
    """
    along = start.T @ velocity
    normal, size = torch.linalg.qr(velocity - start @ along)
    generator = torch.cat((torch.cat((along, -size.T), 1), torch.cat((size, torch.zeros_like(along)), 1)), 0)
    turned = torch.linalg.matrix_exp((generator - generator.T) / 2)
    width = start.shape[1]
    reached: Tensor = start @ turned[:width, :width] + normal @ turned[width:, :width]
    return reached


def stiefel_log(start: Tensor, goal: Tensor, tolerance: float, rounds: int, tensor: str) -> Tensor:
    """Return the velocity with which the geodesic from `start` reaches `goal` at time 1 (float64 [n, k], k < n).

    `start` and `goal` have orthonormal columns. `tensor` is the name for the error.

    Raises:
        UndefinedError: it is not found to within `tolerance` in `rounds` steps, as the two are too far apart.
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
    """Return a rotation near the identity whose first columns are `columns` (float64 [2k, k], orthonormal)."""
    width = columns.shape[1]
    complement = torch.linalg.qr(columns, mode="complete").Q[:, width:]
    left, _, right = torch.linalg.svd(complement[width:])
    complement = complement @ (right.T @ left.T)
    frame = torch.cat((columns, complement), 1)
    if torch.linalg.slogdet(frame).sign < 0:
        frame[:, width:] -= 2 * torch.outer(complement @ left[:, -1], left[:, -1])
    return frame


def _sylvester(symmetric: Tensor, right: Tensor) -> Tensor:
    """Return the X with `symmetric X + X symmetric = right`; antisymmetric, as `right` is."""
    values, vectors = torch.linalg.eigh(symmetric)
    found: Tensor = vectors @ ((vectors.T @ right @ vectors) / (values[:, None] + values[None, :])) @ vectors.T
    return (found - found.T) / 2


def _memory(call: Call, inputs: int) -> int:
    """Return the bytes needed: float64 copies of the matrices, and of square ones of the shorter side."""
    if len(call.shape) <= 1 or not call.count:
        return 16 * (inputs + 2) * call.count
    rows = _rows(call.shape)
    columns = call.count // rows
    wide = rows < columns
    whole = call.number("alignment").denominator == 1
    side = rows * (1 if whole else 2) if wide else columns
    return 8 * (inputs + (8 if wide else 4)) * call.count + 8 * (6 if whole else 14) * side * side


KERNELS: Mapping[str, Kernel] = {"rotate": Kernel(_rotate, grain=Grain.TENSOR, working_set=_memory)}
