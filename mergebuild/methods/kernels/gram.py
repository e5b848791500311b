"""Merges on spheres and in spans: linear combinations whose coefficients follow from the inputs' dot products.

Lengths, angles, projections and geodesics within the span of N tensors need nothing of them but the Gram matrix
G_ij = <x_i, x_j>: one streamed pass in float64, N * N numbers, which no parameter of the method enters, so that all
members of a sweep share them. What the method says about its parameters is then arithmetic of small matrices in 80
bits, and the result is one linear combination, evaluated like those of the linear family. Coefficients that add up to
1 take the pivot form, so that equal inputs come back unchanged.

Where a method works on differences from a first input, the Gram matrix is that of the differences (each exact in
float64): that of the inputs would lose those of a light fine-tune to cancellation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from itertools import combinations, pairwise
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from mergebuild.methods.kernels.angles import angle_of, sine_of
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State, Statistic
from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.kernels.reduction import BLOCK, ColumnSums, Gram, vector_sums
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of, pivot_of

__all__ = ["KERNELS", "median_of", "stock_ratio"]

Matrix = tuple[tuple[float, ...], ...]
Coefficients = tuple[Fraction, ...]

_SINGULAR = 1e-12
"""The squared sine of an angle below which vectors are taken for colinear, and the squared length below which a sum of
unit vectors is taken for 0: what sums in float64 can tell from rounding."""
_AFFINE = 1e-12
"""Coefficients whose sum is that near to 1 are made to add up to 1."""
_LEAST_NORM = 1e-8
"""slerp: a norm up to it counts as 1."""
_PARALLEL = 0.9995
"""slerp: a cosine beyond it is that of a straight line."""
_LEAST_WEIGHT = Fraction(1, 10**6)
"""nuslerp: weights whose sum is nearer to 0 share alike."""
_LEAST_DENOMINATOR = 1e-6
"""model_stock: no interpolation is estimated below it."""
_LEAST_PRODUCT = 1e-6
"""model_stock, compat mergekit: the least product of two norms."""

_REMEMBERED = 256
"""Coefficients kept, so that the chunks of a tensor work them out once."""

_remember = lru_cache(maxsize=_REMEMBERED)


# ---- the statistics ----


def _begin_gram(_call: Call, inputs: int) -> Gram:
    return Gram(inputs)


def _look_gram(_call: Call, account: Gram, chunks: Sequence[Tensor], _start: int) -> None:
    account.add(chunks)


def _end(_call: Call, account: Gram) -> Matrix:
    return account.value()


class _Differences:
    """The Gram matrix of the differences of all inputs but one from that one."""

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
    """Return the linear combination, as the linear family does it: an input itself where it is that."""
    shares, pivot = _shares_of(coefficients)
    others = [index for index, share in enumerate(shares) if index != pivot and share]
    if pivot is not None and not others:
        return chunks[pivot]
    result = torch.empty_like(chunks[0])
    spare = torch.empty_like(result[:BLOCK])
    for at in range(0, len(result), BLOCK):
        parts = [chunk[at : at + BLOCK] for chunk in chunks]
        out = result[at : at + BLOCK]
        combine(
            None if pivot is None else parts[pivot],
            [parts[index] for index in others],
            [shares[index] for index in others],
            out,
            spare[: len(out)],
        )
    return result


@_remember
def _shares_of(coefficients: Coefficients) -> tuple[tuple[float, ...], int | None]:
    """Return the coefficients as float32, and the pivot."""
    return tuple(float32_of(each) for each in coefficients), pivot_of(coefficients)


def _exact(values: Sequence[Any], *, affine: bool = True) -> Coefficients:
    """Return coefficients as rationals; those that add up to 1 but for rounding do so exactly if `affine`."""
    found = [Fraction(float(value)) for value in values]
    if affine and abs(sum(found, Fraction(-1))) <= _AFFINE:
        largest = max(range(len(found)), key=lambda index: abs(found[index]))
        found[largest] += 1 - sum(found)
    return tuple(found)


def _around(coefficients: Coefficients, *, base: bool) -> Coefficients:
    """Return the coefficients of all inputs from those of the differences from a base, if there is one."""
    return (1 - sum(coefficients, Fraction(0)), *coefficients) if base else coefficients


def _kernel(statistic: Statistic, coefficients: Callable[[Call, Matrix, int], Coefficients]) -> Kernel:
    """Return the kernel of a method that needs the Gram matrix of whole tensors and the number of inputs."""

    def apply(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
        return _evaluate(coefficients(call, state, len(chunks)), chunks)

    return Kernel(apply, statistic)


@cache
def _context() -> Any:
    """Return a context of our own with 80 bits; what is used of it reads its precision and changes nothing."""
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.prec = 80
    return context


def _real(value: Fraction | float) -> Any:
    """Return a number in 80 bits."""
    exact = Fraction(value)
    return _context().mpf(exact.numerator) / exact.denominator


def _root(value: Any) -> Any:
    """Return the square root of a number that only rounding makes negative."""
    return _context().sqrt(max(value, _context().zero))


def _form(left: Sequence[Any], gram: Matrix, right: Sequence[Any]) -> Any:
    """Return the dot product of two combinations of the vectors."""
    return sum(
        (a * _real(entry) * b for a, row in zip(left, gram, strict=True) for b, entry in zip(right, row, strict=True)),
        _context().zero,
    )


def _arc(t: Fraction, angle: Any) -> tuple[Any, Any]:
    """Return sin((1 - t) * angle) / sin(angle) and sin(t * angle) / sin(angle)."""
    sin = _context().sin
    return sin(_real(1 - t) * angle) / sin(angle), sin(_real(t) * angle) / sin(angle)


def _lerp(t: Fraction) -> Coefficients:
    """Return the coefficients of the straight line."""
    return (1 - t, t)


# ---- slerp ----


def _slerp(call: Call, gram: Matrix, _inputs: int) -> Coefficients:
    t = call.number("t")
    if t in (0, 1):
        return _lerp(t)
    return (_slerp_raw if call.word("magnitude") == "raw" else _slerp_lerp)(gram, t)


@_remember
def _slerp_raw(gram: Matrix, t: Fraction) -> Coefficients:
    """Return the coefficients of the inputs as they are."""
    norms = [_root(_real(gram[i][i])) for i in range(2)]
    first, second = (norm if norm > _LEAST_NORM else _real(1) for norm in norms)
    cosine = min(max(_real(gram[0][1]) / (first * second), _real(-1)), _real(1))
    if abs(cosine) > _PARALLEL:
        return _lerp(t)
    return _exact(_arc(t, _context().acos(cosine)))


@_remember
def _slerp_lerp(gram: Matrix, t: Fraction) -> Coefficients:
    """Return the coefficients of directions that turn and a length that goes straight."""
    first, second = (_root(_real(gram[i][i])) for i in range(2))
    if not first or not second:
        return _lerp(t)
    cosine = _real(gram[0][1]) / (first * second)
    if 1 - cosine * cosine <= _SINGULAR:
        return _lerp(t)
    length = first + _real(t) * (second - first)
    arc = _arc(t, _context().acos(cosine))
    return _exact([arc[0] * length / first, arc[1] * length / second])


# ---- nuslerp ----


class _Columns:
    """The squared norms and the dot products of the columns of two vectors of columns."""

    def __init__(self, columns: int) -> None:
        self._sums = [ColumnSums(columns) for _ in range(3)]

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add the next elements of both (float32 [n])."""
        for at in range(0, len(first), BLOCK):
            x, y = (each[at : at + BLOCK].to(torch.float64) for each in (first, second))
            for total, product in zip(self._sums, (x * x, x * y, y * y), strict=True):
                total.add(product)

    def value(self) -> tuple[Tensor, ...]:
        """Return them, float64 [columns] each."""
        return tuple(total.value() for total in self._sums)


def _columns_of(call: Call) -> int:
    """Return how many columns (along the first dimension) a tensor has."""
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
    """Return the two vectors between which nuslerp turns."""
    if call.flag("has_base"):
        return chunks[1] - chunks[0], chunks[2] - chunks[0]
    return chunks[0], chunks[1]


def _apply_nuslerp(call: Call, chunks: Sequence[Tensor], start: int, state: State) -> Tensor:
    first, second = call.numbers("weight")
    total = first + second
    t = second / total if abs(total) >= _LEAST_WEIGHT else Fraction(1, 2)
    models = chunks[call.flag("has_base") :]
    if t in (0, 1):
        return models[int(t)]
    if call.word("per") == "tensor":
        return _evaluate(_around(_nuslerp(state, t), base=call.flag("has_base")), chunks)
    result = torch.empty_like(chunks[0])
    arcs = _arcs(t, *state) if call.word("per") == "column" else None
    for begin, end in _whole_rows(call, len(result)):
        parts = [chunk[begin:end] for chunk in chunks]
        pair = _pair_of(call, parts)
        moved = result[begin:end]
        torch.sub(models[1][begin:end], models[0][begin:end], out=moved)
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
    """Yield parts of a chunk, of whole vectors along the last dimension, that stay in the processor's cache."""
    step = max(1, BLOCK // _width_of(call)) * _width_of(call)
    for begin in range(0, count, step):
        yield begin, min(count, begin + step)


@_remember
def _nuslerp(gram: Matrix, t: Fraction) -> Coefficients:
    first, second = (max(_root(_real(gram[i][i])), _real(1e-7)) for i in range(2))
    cosine = min(max(_real(gram[0][1]) / (first * second), _real(-1)), _real(1))
    if 1 - cosine * cosine <= _SINGULAR:
        return _lerp(t)
    return _exact(_arc(t, _context().acos(cosine)), affine=False)


def _turn_rows(t: Fraction, moved: Tensor, pair: tuple[Tensor, Tensor], width: int) -> None:
    """Replace the second vectors less the first by what is to be added to the first, every row by its own angle."""
    first, second = (each.view(-1, width) for each in pair)
    x, y = first.to(torch.float64), second.to(torch.float64)
    dot = vector_sums(x * y)
    rest, share = _arcs(t, vector_sums(x.mul_(x)), dot, vector_sums(y.mul_(y)))
    moved.view(-1, width).mul_(share[:, None]).add_(first * rest[:, None])


def _turn_columns(arcs: tuple[Tensor, Tensor], moved: Tensor, first: Tensor, start: int) -> None:
    """Do the same to columns, every one by its own angle."""
    rest, share = arcs
    columns = torch.arange(start, start + len(first), device=first.device) % len(rest)
    moved.mul_(share[columns]).add_(first * rest[columns])


def _arcs(t: Fraction, squared: Tensor, dot: Tensor, other_squared: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each pair of vectors, what to add to the first (its coefficient less 1, and the second's), float32.

    The result is first + rest * first + share * (second - first): on a straight line the rest is 0, and equal vectors
    come back unchanged.
    """
    norms = torch.sqrt(squared).clamp_(min=1e-7), torch.sqrt(other_squared).clamp_(min=1e-7)
    cosine = (dot / (norms[0] * norms[1])).clamp_(-1, 1)
    squared_sine = (1 - cosine) * (1 + cosine)
    straight = squared_sine <= _SINGULAR
    angle = angle_of(torch.sqrt(squared_sine), cosine)
    sine = sine_of(angle).masked_fill_(straight, 1)
    first, second = sine_of(angle * float(1 - t)) / sine, sine_of(angle * float(t)) / sine
    rest = (first + second - 1).masked_fill_(straight, 0)
    return rest.to(torch.float32), second.masked_fill_(straight, float(t)).to(torch.float32)


# ---- multislerp ----


def _multislerp(call: Call, gram: Matrix, inputs: int) -> Coefficients:
    base = call.flag("has_base")
    if inputs - base == 1:
        return _around((Fraction(1),), base=base)
    weights = call.numbers("weight")
    if call.flag("normalize"):
        weights = _normalized(weights)
    found = _barycentre(gram, weights, call.number("eps"), call.flag("linear_fallback"))
    if found is None:
        message = "the weighted directions of the inputs cancel out, and `linear_fallback` is off"
        raise UndefinedError(message)
    return _around(found, base=base)


def _normalized(weights: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Return weights that add up to 1."""
    total = sum(weights, Fraction(0))
    if not total:
        message = "the weights add up to 0 and cannot be normalized"
        raise UndefinedError(message)
    return tuple(weight / total for weight in weights)


@_remember
def _barycentre(gram: Matrix, weights: Coefficients, eps: Fraction, straight: bool) -> Coefficients | None:
    """Return the coefficients; None where the weighted directions cancel out and no straight line is taken."""
    if not any(gram[i][i] for i in range(len(gram))):
        return weights  # zeros, whatever the weights
    shares = [_real(weight) for weight in weights]
    norms = [_root(_real(gram[i][i])) for i in range(len(gram))]
    mean = [share / (norm + _real(eps)) if norm else norm for share, norm in zip(shares, norms, strict=True)]
    squared = _form(mean, gram, mean)
    if squared < max(_real(eps) ** 2, _SINGULAR):
        return weights if straight else None
    towards = [each / _root(squared) for each in mean]
    along = _form(mean, gram, towards)
    tangent = [each - along * other for each, other in zip(mean, towards, strict=True)]
    length = _root(_form(tangent, gram, tangent)) + _real(eps)
    ahead, aside = _context().cos(length), _context().sin(length) / length if length else length
    scale = sum((share * norm for share, norm in zip(shares, norms, strict=True)), _context().zero)
    return _exact([(ahead * m + aside * t) * scale for m, t in zip(towards, tangent, strict=True)])


# ---- karcher ----


def _karcher(call: Call, gram: Matrix, inputs: int) -> Coefficients:
    if inputs == 1:
        return (Fraction(1),)
    weights = _normalized(call.numbers("weight"))
    return _karcher_mean(gram, weights, int(call.number("max_iter")), call.number("tol"))


@_remember
def _karcher_mean(gram: Matrix, weights: Coefficients, most: int, tol: Fraction) -> Coefficients:
    """Return the coefficients of the mean direction, as long as the mean length."""
    least = _real(tol)
    norms = [_root(_real(gram[i][i])) for i in range(len(gram))]
    valid = [i for i, norm in enumerate(norms) if norm > least]
    if not valid:
        return tuple(Fraction(0) for _ in gram)
    kept = tuple(weights[i] for i in valid)
    alphas = [_real(weight) for weight in _normalized(kept)]
    units = tuple(tuple(float(_real(gram[i][j]) / (norms[i] * norms[j])) for j in valid) for i in valid)
    mean = _scaled(alphas, units, least)
    if mean is None:
        mean = [_real(int(i == 0)) for i in range(len(valid))]
    for _ in range(most):
        tangent = _tangent(mean, units, alphas, least)
        length = _root(_form(tangent, units, tangent))
        if length <= least:
            break
        ahead, aside = _context().cos(length), _context().sin(length) / length
        mean = [ahead * m + aside * t for m, t in zip(mean, tangent, strict=True)]
        mean = _scaled(mean, units, least) or mean
    scale = sum((_real(weight) * norm for weight, norm in zip(weights, norms, strict=True)), _context().zero)
    found = {i: m * scale / norms[i] for i, m in zip(valid, mean, strict=True)}
    return _exact([found.get(i, 0) for i in range(len(gram))])


def _scaled(vector: list[Any], gram: Matrix, least: Any) -> list[Any] | None:
    """Return a combination scaled to length 1; None for one shorter than `least`."""
    length = _root(_form(vector, gram, vector))
    return None if length <= least else [each / length for each in vector]


def _tangent(mean: list[Any], units: Matrix, alphas: Sequence[Any], least: Any) -> list[Any]:
    """Return the weighted mean of the directions in which the unit vectors lie from `mean`, as far as they are."""
    tangent = [_context().zero for _ in mean]
    for i, alpha in enumerate(alphas):
        dot = sum((_real(entry) * m for entry, m in zip(units[i], mean, strict=True)), _context().zero)
        dot = min(max(dot, _real(-1)), _real(1))
        angle = _context().acos(dot)
        if angle <= least or (dot < 0 and 1 - dot * dot <= _SINGULAR):
            continue  # it lies there already, or opposite: in no direction
        factor = alpha * angle / _context().sin(angle)
        for j, m in enumerate(mean):
            tangent[j] += factor * (int(i == j) - dot * m)
    return tangent


# ---- model_stock ----


def _begin_stock(call: Call, inputs: int) -> _Differences | None:
    return _Differences(inputs, 0) if call.word("per") == "tensor" else None


def _look_stock(_call: Call, account: _Differences | None, chunks: Sequence[Tensor], _start: int) -> None:
    if account is not None:
        account.add(chunks)


def _end_stock(_call: Call, account: _Differences | None) -> State:
    return None if account is None else account.value()


def _apply_stock(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
    plain = call.word("compat") == "mergekit"
    clamp = call.flag("clamp") and not plain
    pairs = _pairs(len(chunks) - 1, call.word("pairs"))
    if call.word("per") == "tensor":
        return _evaluate(_stock(state, pairs, clamp, plain), chunks)
    result = torch.empty_like(chunks[0])
    for begin, end in _whole_rows(call, len(result)):
        parts = [chunk[begin:end] for chunk in chunks]
        moved = _stock_rows(parts, _width_of(call), pairs, clamp=clamp, plain=plain)
        torch.add(moved, parts[0], out=result[begin:end])
    return result


def _pairs(models: int, which: str) -> tuple[tuple[int, int], ...]:
    """Return the pairs of models whose angles count."""
    return tuple(combinations(range(models), 2) if which == "all" else pairwise(range(models)))


@_remember
def _stock(gram: Matrix, pairs: tuple[tuple[int, int], ...], clamp: bool, plain: bool) -> Coefficients:
    """Return the coefficients of base and models."""
    one = torch.ones(1, dtype=torch.float64)
    ratio = stock_ratio(lambda i, j: one * gram[i][j], len(gram), pairs, clamp=clamp, plain=plain)
    exact = Fraction(float(ratio))
    if abs(exact - 1) <= _AFFINE:
        exact = Fraction(1)
    return _around((exact / len(gram),) * len(gram), base=True)


def _stock_rows(
    chunks: Sequence[Tensor], width: int, pairs: tuple[tuple[int, int], ...], *, clamp: bool, plain: bool
) -> Tensor:
    """Return what to add to the base's rows, each moved by a ratio of its own."""
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
    """Return how far to go from the base to the mean of the models: `N c / (1 + (N - 1) c)` (float64, as `dot`)."""
    norms = [torch.sqrt(dot(i, i)) for i in range(models)]
    total = torch.zeros_like(norms[0])
    for i, j in pairs:
        product = norms[i] * norms[j]
        product = product.clamp_(min=_LEAST_PRODUCT) if plain else product.masked_fill(product == 0, 1)
        total += (dot(i, j) / product).clamp_(-1, 1)
    cosine = total * (1 / len(pairs))
    below = cosine * (models - 1) + 1
    singular = below.abs() < _LEAST_DENOMINATOR
    ratio = (cosine * models / below.masked_fill(singular, 1)).masked_fill_(singular, 0)
    return ratio.clamp_(0, 1) if clamp else ratio


# ---- other forms in the span ----


def _add_perpendicular(call: Call, gram: Matrix, _inputs: int) -> Coefficients:
    return _perpendicular(gram, call.number("alpha"))


@_remember
def _perpendicular(gram: Matrix, alpha: Fraction) -> Coefficients:
    """Return the coefficients of a, b and c from the Gram matrix of a - c and b - c."""
    if not gram[0][0]:
        return (Fraction(1), Fraction(0), Fraction(0))
    along = alpha * Fraction(gram[0][1]) / Fraction(gram[0][0])
    return (1 - along, alpha, along - alpha)


def _norm_direction(call: Call, gram: Matrix, _inputs: int) -> Coefficients:
    alpha = call.number("alpha")
    return _lerp(alpha) if alpha in (0, 1) else _directed(gram, alpha)


@_remember
def _directed(gram: Matrix, alpha: Fraction) -> Coefficients:
    first, second = (_root(_real(gram[i][i])) for i in range(2))
    if not first or not second:
        return _lerp(alpha)
    share = _real(alpha)
    direction = [(1 - share) / first, share / second]
    squared = _form(direction, gram, direction)
    if squared < _SINGULAR:
        return _lerp(alpha)
    scale = (first + share * (second - first)) / _root(squared)
    return _exact([each * scale for each in direction])


def _geometric_median(call: Call, gram: Matrix, inputs: int) -> Coefficients:
    if inputs == 1:
        return (Fraction(1),)
    eps, ftol = float(call.number("eps")), float(call.number("ftol"))
    return median_of(gram, eps, int(call.number("maxiter")), ftol)


@_remember
def median_of(gram: Matrix, eps: float, most: int, ftol: float) -> Coefficients:
    """Return the coefficients by Weiszfeld's iteration. `gram` is that of the differences from the first input."""
    count = len(gram) + 1
    weights = [1.0] * count
    distances = _distances(gram, weights)
    objective = _plain_sum(distances) / count
    for _ in range(most):
        before = objective
        weights = [1 / max(distance, eps) for distance in distances]
        distances = _distances(gram, weights)
        objective = _plain_sum(distances) / count
        if abs(before - objective) <= ftol * objective:
            break
    return _normalized(tuple(Fraction(weight) for weight in weights))


def _distances(gram: Matrix, weights: Sequence[float]) -> list[float]:
    """Return how far each input is from the weighted mean of them."""
    total = _plain_sum(weights)
    mean = [weight / total for weight in weights[1:]]  # the first input is the origin
    found = []
    for i in range(len(weights)):
        away = [(1.0 if i == j + 1 else 0.0) - share for j, share in enumerate(mean)]
        squared = _plain_sum(
            [a * entry * b for a, row in zip(away, gram, strict=True) for b, entry in zip(away, row, strict=True)]
        )
        found.append(sqrt(max(squared, 0.0)))
    return found


def _plain_sum(values: Sequence[float]) -> float:
    """Return the sum in the order given: the built-in one's rounding depends on Python's version."""
    total = 0.0
    for value in values:
        total += value
    return total


def _apply_euclidean(call: Call, chunks: Sequence[Tensor], _start: int, state: State) -> Tensor:
    alpha = call.number("alpha")
    if alpha in (0, 1):
        return chunks[int(alpha)]
    first, second = _euclidean(state, alpha)
    result = torch.empty_like(chunks[0])
    for at in range(0, len(result), BLOCK):
        origin = chunks[2][at : at + BLOCK]
        a, b = (chunk[at : at + BLOCK] - origin for chunk in chunks[:2])
        sign = (b - a).mul_(float32_of(alpha)).add_(a).add_(0.0)  # -0 + 0 is 0
        a.mul_(first)
        b.mul_(second)
        length = a.mul_(a).add_(b.mul_(b)).sqrt_()
        torch.add(length.copysign_(sign), origin, out=result[at : at + BLOCK])
    return result


@_remember
def _euclidean(gram: Matrix, alpha: Fraction) -> tuple[float, float]:
    """Return by what the two differences are multiplied before they are squared."""
    share = _real(alpha)
    parts = [share_of / _real(gram[i][i]) if gram[i][i] else _real(0) for i, share_of in enumerate((1 - share, share))]
    present = [share_of for i, share_of in enumerate((1 - share, share)) if gram[i][i]]
    if not present:
        return 0.0, 0.0
    straight = [1 - share, share]
    scale = _form(straight, gram, straight) / sum(present)
    first, second = (float32_of(Fraction(float(_root(part * scale)))) for part in parts)
    return first, second


KERNELS: Mapping[str, Kernel] = {
    "slerp": _kernel(_GRAM, _slerp),
    "nuslerp": Kernel(
        _apply_nuslerp,
        Statistic("gram or columns", _begin_nuslerp, _look_nuslerp, _end_nuslerp, arguments=("has_base", "per")),
        Grain.VECTOR,
    ),
    "multislerp": _kernel(_FROM_BASE, _multislerp),
    "karcher": _kernel(_GRAM, _karcher),
    "model_stock": Kernel(
        _apply_stock,
        Statistic("gram of offsets", _begin_stock, _look_stock, _end_stock, arguments=("per",)),
        Grain.VECTOR,
    ),
    "add_perpendicular": _kernel(_FROM_LAST, _add_perpendicular),
    "norm_direction": _kernel(_GRAM, _norm_direction),
    "geometric_median": _kernel(_FROM_FIRST, _geometric_median),
    "euclidean_add_difference": Kernel(_apply_euclidean, _FROM_LAST),
}
