"""Methods that treat a tensor as rows: `tensor_sum`, `tensor_sum2`, `extract`, `cosine_gate`.

`tensor_sum` and `tensor_sum2` replace a band of one model's rows by another's, along the first or the second dimension
(`methods/bands.py`). `extract` scales each vector along the last dimension by how similar two differences are in it.
`cosine_gate` blends each column (all places along the first dimension) by how similar it is in both models.

Dot products are summed in float64, in an order that depends on the shape alone (`reduction`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from mergebuild.methods.bands import band_along, longer_dimension
from mergebuild.methods.kernels.blend import lerp
from mergebuild.methods.kernels.elementary import exp2, log2
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, Statistic
from mergebuild.methods.kernels.reduction import ColumnSums, vector_sums
from mergebuild.methods.kernels.roots import square_root

__all__ = ["KERNELS"]

_BLOCK = 1 << 16
"""About how many values are processed in float64 at a time, so that the temporaries stay in the processor's cache."""


def _tensor_sum(call: Call, chunks: Sequence[Tensor], start: int, _state: object) -> Tensor:
    """Return a with a band of b's rows along the first dimension (float32 [n])."""
    return _with_band(call, chunks, start, 0)


def _tensor_sum2(call: Call, chunks: Sequence[Tensor], start: int, _state: object) -> Tensor:
    """Return a with a band of b along the second dimension if that is long, else along the first (float32 [n])."""
    return _with_band(call, chunks, start, longer_dimension(call))


def _with_band(call: Call, chunks: Sequence[Tensor], start: int, dimension: int) -> Tensor:
    """Return a with the band of b along a dimension (float32 [n])."""
    band = band_along(call, dimension)
    if band.only is not None:
        return chunks[band.only]
    result = chunks[band.outside].clone()
    for run in _runs(result.numel(), start, band.width):
        first, last = (min(max(bound - run.column, 0), run.width) for bound in (band.begin, band.end))
        run.of(result)[:, first:last] = run.of(chunks[band.inside])[:, first:last]
    return result


def _extract(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return base + lerp(a - base, b - base, alpha) lerp(d, 1 - d, beta), d = ((cos + 1) / 2)**gamma of each vector."""
    *bases, a, b = chunks
    if not a.numel():
        return a
    width = call.shape[-1] if call.shape else 1
    step = max(1, _BLOCK // width) * width
    result = torch.empty_like(a)
    for at in range(0, a.numel(), step):
        base = bases[0][at : at + step] if bases else None
        one, other = (
            (chunk[at : at + step] if base is None else chunk[at : at + step] - base).view(-1, width)
            for chunk in (a, b)
        )
        shares = _shares(call, _cosines(_products(one, other)))
        blend = lerp(one, other, call.number("alpha")) * shares.to(torch.float32).unsqueeze(1)
        result[at : at + step] = blend.view(-1) if base is None else blend.view(-1).add_(base)
    return result


def _shares(call: Call, cosines: Tensor) -> Tensor:
    """Return lerp(d, 1 - d, beta), d = ((cos + 1) / 2)**gamma (float64 [r]; overwrites its input)."""
    gamma, beta = call.number("gamma"), call.number("beta")
    alike = cosines.add_(1).mul_(0.5)
    if gamma != 1:
        opposite = alike == 0
        alike = exp2(log2(alike).mul_(float(gamma))).masked_fill_(opposite, 0 if gamma else 1)
    if beta == 1:
        return 1 - alike
    return (1 - 2 * alike).mul_(float(beta)).add_(alike) if beta else alike


def _begin_columns(call: Call, _inputs: int) -> tuple[ColumnSums, ColumnSums, ColumnSums]:
    columns = max(1, prod(call.shape[1:]))
    return ColumnSums(columns), ColumnSums(columns), ColumnSums(columns)


def _look_at_columns(
    _call: Call, account: tuple[ColumnSums, ColumnSums, ColumnSums], chunks: Sequence[Tensor], _start: int
) -> None:
    for at in range(0, chunks[0].numel(), _BLOCK):
        one, other = (chunk[at : at + _BLOCK].to(torch.float64) for chunk in chunks)
        for total, first, second in zip(account, (one, one, other), (other, one, other), strict=True):
            total.add(first * second)


def _end_columns(_call: Call, account: tuple[ColumnSums, ColumnSums, ColumnSums]) -> tuple[Tensor, float]:
    """Return the cosine of each column (float64 [columns]) and of the whole tensors."""
    sums = tuple(total.value() for total in account)
    whole = _cosines(tuple(vector_sums(each.unsqueeze(0)) for each in sums))
    return _cosines(sums), float(whole)


def _cosine_gate(call: Call, chunks: Sequence[Tensor], start: int, state: tuple[Tensor, float]) -> Tensor:
    """Return lerp(a, b, k), k = 1 - clamp(similarity - alpha, 0, 1) of each column."""
    a, b = chunks
    alpha = call.number("alpha")
    if alpha >= 1 or alpha <= -2 or not a.numel():
        return b if alpha >= 1 else a
    cosines, whole = state
    result = torch.empty_like(a)
    for run in _runs(a.numel(), start, len(cosines)):
        share = _share_of_b(call, cosines[run.column : run.column + run.width], whole)
        one, other = run.of(a), run.of(b)
        blend = (other - one).mul_(share).add_(one)
        run.of(result).copy_(torch.where(share == 1, other, blend))
    return result


def _share_of_b(call: Call, similarity: Tensor, whole: float) -> Tensor:
    """Return k of `_cosine_gate` (float32), given cosines of columns and that of the whole tensors."""
    if call.word("form") == "b":
        similarity = (similarity + whole).mul_(0.5)
    return (1 - (similarity - float(call.number("alpha"))).clamp_(0, 1)).to(torch.float32)


def _products(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return <one, other>, <one, one> and <other, other> of each row of float32 [r, d] (float64 [r] each)."""
    first, second = one.to(torch.float64), other.to(torch.float64)
    return vector_sums(first * second), vector_sums(first.mul_(first)), vector_sums(second.mul_(second))


def _cosines(products: Sequence[Tensor]) -> Tensor:
    """Return the cosines, given the dot products <a, b>, <a, a> and <b, b>; 0 if a vector has length 0."""
    mixed, first, second = products
    lengths = square_root(first * second)
    return (mixed / lengths).clamp_(-1, 1).masked_fill_(lengths == 0, 0)


class _Run(NamedTuple):
    """A part of a chunk: whole rows, or the begin or end of a single row."""

    begin: int
    end: int
    column: int
    """The index in their rows at which the parts of rows begin."""
    width: int
    """How many elements of its row each part has."""

    def of(self, chunk: Tensor) -> Tensor:
        """Return this part of a chunk as a view [rows, width]."""
        return chunk[self.begin : self.end].view(-1, self.width)


def _runs(count: int, start: int, width: int) -> Iterator[_Run]:
    """Yield parts of a chunk, cut where rows of `width` begin and end.

    The chunk has `count` elements, from the index `start` on.
    """
    column = start % width
    at = min(width - column, count) if column else 0
    if at:
        yield _Run(0, at, column, at)
    whole = (count - at) // width * width
    if whole:
        yield _Run(at, at + whole, 0, width)
    if at + whole < count:
        yield _Run(at + whole, count, 0, count - at - whole)


KERNELS: Mapping[str, Kernel] = {
    "tensor_sum": Kernel(_tensor_sum),
    "tensor_sum2": Kernel(_tensor_sum2),
    "extract": Kernel(_extract, grain=Grain.VECTOR),
    "cosine_gate": Kernel(
        _cosine_gate, Statistic("cosines of columns", _begin_columns, _look_at_columns, _end_columns, version=2)
    ),
}
