"""Factors of LoRAs, made from a difference of weights or from other LoRAs.

The nearest matrix of rank r to D is its singular value decomposition `U S V^T` cut to the r largest singular values. V
comes from the small Gram matrix (`low_rank.py`), and `U S = D V`, so no matrix larger than the factors is made. Each
factor gets the square root of the singular values, `up = U sqrt(S)` and `down = sqrt(S) V^T`, which suits half
precision best. In kohya's form `up` has all of S, and both factors are clamped at a quantile of their values.

From LoRAs the full matrix is never made. `sum_i s_i up_i down_i` is exactly one product of longer factors. To cut it to
a rank, QR decompositions `up = Q R` and `down^T = P T` leave the small core `R T^T`, whose singular value decomposition
gives that of the product.

The sign of a singular vector is arbitrary; here the largest entry of each right one is positive. The bits are those of
the library that decomposes matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from mergebuild.methods.kernels.low_rank import Sketch, leading_directions, row_blocks
from mergebuild.methods.kernels.reduction import vector_sums

__all__ = ["Pair", "SpectrumCut", "clamped", "concatenated", "extracted", "reranked"]


class Pair(NamedTuple):
    """The factors of a delta `up @ down` (float32): [rows, r] and [r, columns].

    The dimensions of a kernel are flattened.
    """

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """The number of columns of `up`, which is the number of rows of `down`."""
        return len(self.down)


class SpectrumCut(NamedTuple):
    """How many singular values are kept.

    They are the fewest whose squares are a share `energy` of all squares, and at most `rank`.
    """

    rank: int
    energy: Fraction | None = None


class _Decomposed(NamedTuple):
    """A matrix as `left @ diag(sizes) @ right`, the sizes in descending order (float64)."""

    left: Tensor
    sizes: Tensor
    right: Tensor


def extracted(delta: Tensor, cut: SpectrumCut, *, sketch: Sketch | None = None, clamp: Fraction | None = None) -> Pair:
    """Return factors of the matrix nearest to a difference of weights.

    Args:
        delta: float32, 1-d or more; all dimensions after the first are flattened.
        cut: How much is kept, at least rank 1.
        sketch: Makes the directions approximate, which is much cheaper for large matrices.
        clamp: A quantile, 99/100 in kohya's tools: the singular values go into `up`, and both factors are clamped at
            that
            quantile of all their values. None: each factor gets the square roots, and nothing is clamped.
    """
    matrix = delta.reshape(len(delta), -1)
    found = _kept(_of_matrix(matrix, cut, sketch), cut, _energy(matrix) if cut.energy is not None else 0.0)
    if clamp is None:
        return _halved(found)
    return clamped(Pair((found.left * found.sizes).to(torch.float32), found.right.to(torch.float32)), clamp)


def concatenated(pairs: Sequence[tuple[Tensor, Tensor, float]]) -> Pair:
    """Return one pair whose product is the sum of `strength * up @ down` over pairs (up, down, strength).

    It is exact but for rounding `strength * up` to float32; its rank is the sum of all ranks. Factors may be of any
    float dtype.
    """
    ups, downs = _wide(pairs)
    return Pair(ups.to(torch.float32), downs.to(torch.float32))


def reranked(pairs: Sequence[tuple[Tensor, Tensor, float]], cut: SpectrumCut) -> Pair:
    """Return the pair nearest to the sum of `strength * up @ down`: a LoRA resized, or several merged."""
    ups, downs = _wide(pairs)
    left, left_core = torch.linalg.qr(ups)
    right, right_core = torch.linalg.qr(downs.T)
    inner_left, sizes, inner_right = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    found = _Decomposed(left @ inner_left, sizes, inner_right @ right.T)
    return _halved(_kept(found, cut, _squares(sizes)))


def clamped(pair: Pair, quantile: Fraction) -> Pair:
    """Return a pair with all values clamped to a range [-q, q], q being a quantile of both factors' values together."""
    values = torch.cat([pair.up.reshape(-1), pair.down.reshape(-1)]).sort().values
    place = quantile * (len(values) - 1)
    at = int(place)
    most = float(torch.lerp(values[at], values[min(at + 1, len(values) - 1)], float(place - at)))
    return Pair(pair.up.clamp(-most, most), pair.down.clamp(-most, most))


def _wide(pairs: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """Return the pairs side by side as one pair (float64), each `up` times its strength."""
    ups = torch.cat([_flat(up) * strength for up, _, strength in pairs], dim=1)
    return ups, torch.cat([_flat(down) for _, down, _ in pairs])


def _flat(factor: Tensor) -> Tensor:
    return factor.reshape(len(factor), prod(factor.shape[1:])).to(torch.float64)


def _of_matrix(matrix: Tensor, cut: SpectrumCut, sketch: Sketch | None) -> _Decomposed:
    """Return the leading part of a matrix's singular value decomposition, as much as the cut may keep."""
    if matrix.shape[0] < matrix.shape[1]:
        found = _of_matrix(matrix.T, cut, sketch)
        return _Decomposed(found.right.T, found.sizes, found.left.T)
    directions = leading_directions(matrix, min(cut.rank, matrix.shape[1]), sketch).flip(1)
    image = torch.empty(len(matrix), directions.shape[1], dtype=torch.float64, device=matrix.device)
    for rows in row_blocks(matrix):
        image[rows] = matrix[rows].to(torch.float64) @ directions
    sizes = vector_sums((image * image).T).sqrt_()
    return _Decomposed(_quotient(image, sizes), sizes, directions.T)


def _kept(found: _Decomposed, cut: SpectrumCut, energy: float) -> _Decomposed:
    """Return the part of a decomposition that the cut keeps, with each sign chosen by the right vector."""
    rank = min(cut.rank, len(found.sizes))
    if cut.energy is not None:
        held = (found.sizes[:rank] * found.sizes[:rank]).cumsum(0)
        rank = min(rank, int((held < float(cut.energy) * energy).sum()) + 1)
    left, sizes, right = found.left[:, :rank], found.sizes[:rank], found.right[:rank]
    largest = right.gather(1, right.abs().argmax(1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    return _Decomposed(left * signs.T, sizes, right * signs)


def _halved(found: _Decomposed) -> Pair:
    roots = found.sizes.sqrt()
    return Pair((found.left * roots).to(torch.float32), (found.right * roots[:, None]).to(torch.float32))


def _energy(matrix: Tensor) -> float:
    """Return the sum of all squares of a matrix."""
    rows = [vector_sums(matrix[rows].to(torch.float64).square_()) for rows in row_blocks(matrix)]
    return float(vector_sums(torch.cat(rows)[None]))


def _squares(sizes: Tensor) -> float:
    return float(vector_sums((sizes * sizes)[None]))


def _quotient(image: Tensor, sizes: Tensor) -> Tensor:
    """Return columns divided by their norms; 0 if the norm is 0."""
    return (image / sizes).masked_fill_(sizes == 0, 0)
