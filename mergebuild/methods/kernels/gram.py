"""Merges on spheres and in spans: linear combinations whose coefficients follow from the inputs' dot products.

All lengths, angles, projections and geodesics within the span of N tensors follow from the Gram matrix G_ij = <x_i,
x_j>, which is N * N numbers and takes one pass in float64. No parameter of the method enters it, so all members of a
sweep share it. The coefficients are then arithmetic on that small matrix (`methods/spheres.py`), and the combination is
computed as those of the linear methods are. If the coefficients add up to 1 it has a pivot, so that equal inputs come
back unchanged.

If a method works on differences from a base, the Gram matrix is that of the differences, each exact in float64. For a
light fine-tune, the inputs' own Gram matrix would lose the differences to cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from mergebuild.methods.kernels.angles import angle_of, sine_of
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State, Statistic
from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.kernels.reduction import BLOCK, ColumnSums, Gram, vector_sums
from mergebuild.methods.kernels.roots import square_root
from mergebuild.methods.shares import float32_of, pivot_of
from mergebuild.methods.spheres import (
    COEFFICIENTS,
    LEAST_DENOMINATOR,
    LEAST_PRODUCT,
    REMEMBERED,
    SINGULAR,
    Coefficients,
    Matrix,
    euclidean_factors,
    nuslerp_share,
    pairs_of,
)

__all__ = ["KERNELS", "stock_ratio"]


# ---- the statistics ----


def _begin_gram(_call: Call, inputs: int) -> Gram:
    return Gram(inputs)


def _look_gram(_call: Call, account: Gram, chunks: Sequence[Tensor], _start: int) -> None:
    account.add(chunks)


def _end(_call: Call, account: Gram) -> Matrix:
    return account.value()


class _Differences:
    """The Gram matrix of the differences of all other inputs from the one with the index `origin`."""

    def __init__(self, inputs: int, origin: int) -> None:
        self._gram = Gram(inputs - 1)
        self._origin = origin

    def add(self, chunks: Sequence[Tensor]) -> None:
        """Add the next elements of each input."""
        if len(chunks) == 1:
            return
        others = list(chunks)
        origin = others.pop(self._origin)
        self._gram.add(others, origin)

    def value(self) -> Matrix:
        """Return the matrix."""
        return self._gram.value()


def _begin_from_first(_call: Call, inputs: int) -> _Differences:
    return _Differences(inputs, 0)


def _begin_from_last(_call: Call, inputs: int) -> _Differences:
    return _Differences(inputs, inputs - 1)


def _look(_call: Call, account: Gram | _Differences, chunks: Sequence[Tensor], _start: int) -> None:
    account.add(chunks)


def _begin_from_base(call: Call, inputs: int) -> Gram | _Differences:
    return _Differences(inputs, 0) if call.flag("has_base") else Gram(inputs)


_GRAM = Statistic("gram", _begin_gram, _look_gram, _end)
_FROM_FIRST = Statistic("gram of differences from the first", _begin_from_first, _look, _end)
_FROM_LAST = Statistic("gram of differences from the last", _begin_from_last, _look, _end)
_FROM_BASE = Statistic("gram of differences from a base", _begin_from_base, _look, _end, arguments=("has_base",))


# ---- from coefficients to values ----


def _evaluate(coefficients: Coefficients, chunks: Sequence[Tensor]) -> Tensor:
    """Return the linear combination, as the linear methods compute it; if it equals an input, that input itself."""
    shares, pivot = _shares_of(coefficients)
    others = [index for index, share in enumerate(shares) if index != pivot and share]
    if pivot is not None and not others:
        return chunks[pivot]
    result = torch.empty_like(chunks[0])
    spare = torch.empty_like(result[:BLOCK])
    for at in range(0, len(result), BLOCK):
        parts = [chunk[at : at + BLOCK] for chunk in chunks]
        out = result[at : at + BLOCK]
        made = combine(
            None if pivot is None else parts[pivot],
            [parts[index] for index in others],
            [shares[index] for index in others],
            out,
            spare[: len(out)],
        )
        if made is not out:  # `combine` returned an input itself
            out.copy_(made)
    return result


@lru_cache(maxsize=REMEMBERED)
def _shares_of(coefficients: Coefficients) -> tuple[tuple[float, ...], int | None]:
    """Return the coefficients as float32, and the index of the pivot."""
    return tuple(float32_of(each) for each in coefficients), pivot_of(coefficients)


def _kernel(method: str, statistic: Statistic) -> Kernel:
    """Return the kernel of a method whose coefficients follow from a Gram matrix of whole tensors."""
    coefficients = COEFFICIENTS[method]

    def apply(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
        return _evaluate(coefficients(call, state, len(chunks)), chunks)

    return Kernel(apply, statistic)


# ---- nuslerp ----


class _Columns:
    """Squared norms and dot products of the columns of two tensors."""

    def __init__(self, columns: int) -> None:
        self._sums = [ColumnSums(columns) for _ in range(3)]

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add the next elements of both (float32 [n])."""
        for at in range(0, len(first), BLOCK):
            x, y = (each[at : at + BLOCK].to(torch.float64) for each in (first, second))
            for total, product in zip(self._sums, (x * x, x * y, y * y), strict=True):
                total.add(product)

    def value(self) -> tuple[Tensor, ...]:
        """Return <x, x>, <x, y> and <y, y> of each column (float64 [columns] each)."""
        return tuple(total.value() for total in self._sums)


def _columns_of(call: Call) -> int:
    """Return how many columns (vectors along the first dimension) a tensor has."""
    return max(1, prod(call.shape[1:]))


def _begin_nuslerp(call: Call, inputs: int) -> Gram | _Differences | _Columns | None:
    if call.word("per") == "tensor":
        return _begin_from_base(call, inputs)
    return _Columns(_columns_of(call)) if call.word("per") == "column" else None


def _look_nuslerp(
    call: Call, account: Gram | _Differences | _Columns | None, chunks: Sequence[Tensor], _start: int
) -> None:
    if isinstance(account, _Columns):
        account.add(*_pair_of(call, chunks))
    elif account is not None:
        account.add(chunks)


def _end_nuslerp(_call: Call, account: Gram | _Differences | _Columns | None) -> State:
    return None if account is None else account.value()


def _pair_of(call: Call, chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the two tensors between which nuslerp turns."""
    if call.flag("has_base"):
        return chunks[1] - chunks[0], chunks[2] - chunks[0]
    return chunks[0], chunks[1]


def _apply_nuslerp(call: Call, chunks: Sequence[Tensor], start: int, state: State) -> Tensor:
    t = nuslerp_share(call)
    models = chunks[call.flag("has_base") :]
    if t in (0, 1):
        return models[int(t)]
    if call.word("per") == "tensor":
        return _evaluate(COEFFICIENTS["nuslerp"](call, state, len(chunks)), chunks)
    arcs = _arcs(t, *state) if call.word("per") == "column" else None
    return _turned_vectors(call, chunks, start, t, arcs)


def _turned_vectors(
    call: Call, chunks: Sequence[Tensor], start: int, t: Fraction, arcs: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Return the first model, each row turned towards the second; if there are `arcs` of columns, each column."""
    models = chunks[call.flag("has_base") :]
    result = torch.empty_like(chunks[0])
    for begin, end in _whole_rows(call, len(result)):
        pair = _pair_of(call, [chunk[begin:end] for chunk in chunks])
        moved = torch.sub(models[1][begin:end], models[0][begin:end], out=result[begin:end])
        if arcs is None:
            _turn_rows(t, moved, pair, _width_of(call))
        else:
            _turn_columns(arcs, moved, pair[0], start + begin)
        moved.add_(models[0][begin:end])
    return result


def _width_of(call: Call) -> int:
    """Return the length of the vectors along the last dimension."""
    return call.shape[-1] if call.shape else 1


def _whole_rows(call: Call, count: int) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of parts of a chunk.

    Each part is whole vectors along the last dimension and fits the processor's cache.
    """
    step = max(1, BLOCK // _width_of(call)) * _width_of(call)
    for begin in range(0, count, step):
        yield begin, min(count, begin + step)


def _turn_rows(t: Fraction, moved: Tensor, pair: tuple[Tensor, Tensor], width: int) -> None:
    """Replace `moved`, which is second - first, by what is added to first, each row with its own angle."""
    first, second = (each.view(-1, width) for each in pair)
    x, y = first.to(torch.float64), second.to(torch.float64)
    dot = vector_sums(x * y)
    rest, share = _arcs(t, vector_sums(x.mul_(x)), dot, vector_sums(y.mul_(y)))
    moved.view(-1, width).mul_(share[:, None]).add_(first * rest[:, None])


def _turn_columns(arcs: tuple[Tensor, Tensor], moved: Tensor, first: Tensor, start: int) -> None:
    """Do the same as `_turn_rows` for columns, each with its own angle."""
    rest, share = arcs
    columns = torch.arange(start, start + len(first), device=first.device) % len(rest)
    moved.mul_(share[columns]).add_(first * rest[columns])


def _arcs(t: Fraction, squared: Tensor, dot: Tensor, other_squared: Tensor) -> tuple[Tensor, Tensor]:
    """Return two float32 coefficients for each pair of vectors, `rest` and `share`.

    The result of nuslerp is first + rest * first + share * (second - first). On a straight line the rest is 0, so equal
    vectors come back unchanged.
    """
    norms = square_root(squared).clamp_(min=1e-7), square_root(other_squared).clamp_(min=1e-7)
    cosine = (dot / (norms[0] * norms[1])).clamp_(-1, 1)
    squared_sine = (1 - cosine) * (1 + cosine)
    straight = squared_sine <= SINGULAR
    angle = angle_of(square_root(squared_sine), cosine)
    sine = sine_of(angle).masked_fill_(straight, 1)
    first, second = sine_of(angle * float(1 - t)) / sine, sine_of(angle * float(t)) / sine
    rest = (first + second - 1).masked_fill_(straight, 0)
    return rest.to(torch.float32), second.masked_fill_(straight, float(t)).to(torch.float32)


# ---- model_stock ----


def _begin_stock(call: Call, inputs: int) -> _Differences | None:
    return _Differences(inputs, 0) if call.word("per") == "tensor" else None


def _look_stock(_call: Call, account: _Differences | None, chunks: Sequence[Tensor], _start: int) -> None:
    if account is not None:
        account.add(chunks)


def _end_stock(_call: Call, account: _Differences | None) -> State:
    return None if account is None else account.value()


def _apply_stock(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
    if call.word("per") == "tensor":
        return _evaluate(COEFFICIENTS["model_stock"](call, state, len(chunks)), chunks)
    plain = call.word("compat") == "mergekit"
    clamp = call.flag("clamp") and not plain
    pairs = pairs_of(len(chunks) - 1, call.word("pairs"))
    result = torch.empty_like(chunks[0])
    for begin, end in _whole_rows(call, len(result)):
        parts = [chunk[begin:end] for chunk in chunks]
        moved = _stock_rows(parts, _width_of(call), pairs, clamp=clamp, plain=plain)
        torch.add(moved, parts[0], out=result[begin:end])
    return result


def _stock_rows(
    chunks: Sequence[Tensor], width: int, pairs: tuple[tuple[int, int], ...], *, clamp: bool, plain: bool
) -> Tensor:
    """Return what is added to the base's rows, each with a ratio of its own."""
    base, *models = (chunk.view(-1, width) for chunk in chunks)
    offsets = [model.to(torch.float64).sub_(base) for model in models]
    ratio = stock_ratio(lambda i, j: vector_sums(offsets[i] * offsets[j]), len(models), pairs, clamp=clamp, plain=plain)
    share = (ratio * (1 / len(models))).to(torch.float32)[:, None]
    moved = torch.sub(models[0], base).mul_(share)
    for model in models[1:]:
        moved.add_(torch.sub(model, base).mul_(share))
    return moved.view(-1)


def stock_ratio(
    dot: Callable[[int, int], Tensor], models: int, pairs: Sequence[tuple[int, int]], *, clamp: bool, plain: bool
) -> Tensor:
    """Return the share of the way from the base to the models' mean: `N c / (1 + (N - 1) c)` (float64, as `dot`).

    c is the mean cosine between the models' deltas.

    Args:
        dot: Returns the dot product of the deltas of two models, given their indexes.
        models: N, how many models there are.
        pairs: The pairs of models whose cosines count.
        clamp: Keep the share between 0 and 1.
        plain: Treat small norms as mergekit does.
    """
    norms = [square_root(dot(i, i)) for i in range(models)]
    total = torch.zeros_like(norms[0])
    for i, j in pairs:
        product = norms[i] * norms[j]
        product = product.clamp_(min=LEAST_PRODUCT) if plain else product.masked_fill(product == 0, 1)
        total += (dot(i, j) / product).clamp_(-1, 1)
    cosine = total * (1 / len(pairs))
    below = cosine * (models - 1) + 1
    singular = below.abs() < LEAST_DENOMINATOR
    ratio = (cosine * models / below.masked_fill(singular, 1)).masked_fill_(singular, 0)
    return ratio.clamp_(0, 1) if clamp else ratio


# ---- euclidean_add_difference ----


def _apply_euclidean(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
    alpha = call.number("alpha")
    if alpha in (0, 1):
        return chunks[int(alpha)]
    first, second = euclidean_factors(state, alpha)
    result = torch.empty_like(chunks[0])
    for at in range(0, len(result), BLOCK):
        origin = chunks[2][at : at + BLOCK]
        a, b = (chunk[at : at + BLOCK] - origin for chunk in chunks[:2])
        sign = (b - a).mul_(float32_of(alpha)).add_(a).add_(0.0)  # -0 + 0 is 0
        a.mul_(first)
        b.mul_(second)
        length = square_root(a.mul_(a).add_(b.mul_(b)))
        torch.add(length.copysign_(sign), origin, out=result[at : at + BLOCK])
    return result


KERNELS: Mapping[str, Kernel] = {
    "slerp": _kernel("slerp", _GRAM),
    "nuslerp": Kernel(
        _apply_nuslerp,
        Statistic("gram or columns", _begin_nuslerp, _look_nuslerp, _end_nuslerp, arguments=("has_base", "per")),
        Grain.VECTOR,
    ),
    "multislerp": _kernel("multislerp", _FROM_BASE),
    "karcher": _kernel("karcher", _GRAM),
    "model_stock": Kernel(
        _apply_stock,
        Statistic("gram of offsets", _begin_stock, _look_stock, _end_stock, arguments=("per",)),
        Grain.VECTOR,
    ),
    "add_perpendicular": _kernel("add_perpendicular", _FROM_LAST),
    "norm_direction": _kernel("norm_direction", _GRAM),
    "geometric_median": _kernel("geometric_median", _FROM_FIRST),
    "euclidean_add_difference": Kernel(_apply_euclidean, _FROM_LAST),
}
