"""Coefficients of merges on spheres and in spans, from the inputs' dot products. No torch.

All lengths, angles, projections and geodesics within the span of N tensors follow from the Gram matrix G_ij = <x_i,
x_j>. So each of these methods is arithmetic on a small matrix, with 80 bits if it takes roots or angles, and its result
is one linear combination. `methods/kernels/gram.py` and `methods/compiled/gram.py` both compute with these
coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from itertools import combinations, pairwise
from math import sqrt
from typing import Any, NamedTuple, TypeVar

from mergebuild.methods.call import Call
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of

__all__ = [
    "COEFFICIENTS",
    "LEAST_DENOMINATOR",
    "LEAST_PRODUCT",
    "REMEMBERED",
    "SINGULAR",
    "Coefficients",
    "Matrix",
    "euclidean_factors",
    "median_of",
    "nuslerp_share",
    "pairs_of",
]

Matrix = tuple[tuple[float, ...], ...]
Coefficients = tuple[Fraction, ...]
Point = TypeVar("Point")

SINGULAR = 1e-12
"""Vectors whose angle has a smaller squared sine count as colinear, and a sum of unit vectors with a smaller squared
length counts as 0: sums in float64 can't tell such small numbers from rounding errors."""
_AFFINE = 1e-12
"""Coefficients whose sum is this near to 1 are corrected to add up to 1 exactly."""
_LEAST_NORM = 1e-8
"""slerp: a norm up to this counts as 1."""
_PARALLEL = 0.9995
"""slerp: beyond this cosine the blend is a straight line."""
_LEAST_WEIGHT = Fraction(1, 10**6)
"""nuslerp: if the weights' sum is nearer to 0 than this, both models get half."""
LEAST_DENOMINATOR = 1e-6
"""model_stock: if the ratio's denominator is smaller, the ratio is 0."""
LEAST_PRODUCT = 1e-6
"""model_stock with compat = "mergekit": the least value that a product of two norms counts as."""

REMEMBERED = 256
"""How many results each function keeps, so that the chunks of a tensor compute the coefficients once."""

_remember = lru_cache(maxsize=REMEMBERED)


# ---- arithmetic ----


def _exact(values: Sequence[Any], *, affine: bool = True) -> Coefficients:
    """Return coefficients as rationals.

    If `affine`, coefficients that add up to nearly 1 are made to add up to 1 exactly.
    """
    found = [Fraction(float(value)) for value in values]
    if affine and abs(sum(found, Fraction(-1))) <= _AFFINE:
        largest = max(range(len(found)), key=lambda index: abs(found[index]))
        found[largest] += 1 - sum(found)
    return tuple(found)


def _around(coefficients: Coefficients, *, base: bool) -> Coefficients:
    """Return coefficients for the base and the models, given those of the models' deltas.

    Unchanged if there is no base.
    """
    return (1 - sum(coefficients, Fraction(0)), *coefficients) if base else coefficients


@cache
def _context() -> Any:
    """Return a private context with 80 bits. It is shared by all threads, as nothing that is called here changes it."""
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.prec = 80
    return context


def _real(value: Fraction | float) -> Any:
    """Return a number with 80 bits."""
    exact = Fraction(value)
    return _context().mpf(exact.numerator) / exact.denominator


def _root(value: Any) -> Any:
    """Return the square root of a number that can be negative by rounding only; it then counts as 0."""
    return _context().sqrt(max(value, _context().zero))


def _form(left: Sequence[Any], gram: Matrix, right: Sequence[Any]) -> Any:
    """Return the dot product of two combinations of the vectors, given the combinations' coefficients."""
    return sum(
        (a * _real(entry) * b for a, row in zip(left, gram, strict=True) for b, entry in zip(right, row, strict=True)),
        _context().zero,
    )


def _arc(t: Fraction, angle: Any) -> tuple[Any, Any]:
    """Return sin((1 - t) * angle) / sin(angle) and sin(t * angle) / sin(angle)."""
    sin = _context().sin
    return sin(_real(1 - t) * angle) / sin(angle), sin(_real(t) * angle) / sin(angle)


def _lerp(t: Fraction) -> Coefficients:
    """Return the coefficients of a blend along the straight line."""
    return (1 - t, t)


# ---- slerp ----


def _slerp(call: Call, gram: Matrix, _inputs: int) -> Coefficients:
    t = call.number("t")
    if t in (0, 1):
        return _lerp(t)
    return (_slerp_raw if call.word("magnitude") == "raw" else _slerp_lerp)(gram, t)


@_remember
def _slerp_raw(gram: Matrix, t: Fraction) -> Coefficients:
    """Return the coefficients of slerp between the inputs as they are."""
    norms = [_root(_real(gram[i][i])) for i in range(2)]
    first, second = (norm if norm > _LEAST_NORM else _real(1) for norm in norms)
    cosine = min(max(_real(gram[0][1]) / (first * second), _real(-1)), _real(1))
    if abs(cosine) > _PARALLEL:
        return _lerp(t)
    return _exact(_arc(t, _context().acos(cosine)))


@_remember
def _slerp_lerp(gram: Matrix, t: Fraction) -> Coefficients:
    """Return the coefficients of slerp between the inputs' directions, the length going linearly from a's to b's."""
    first, second = (_root(_real(gram[i][i])) for i in range(2))
    if not first or not second:
        return _lerp(t)
    cosine = _real(gram[0][1]) / (first * second)
    if 1 - cosine * cosine <= SINGULAR:
        return _lerp(t)
    length = first + _real(t) * (second - first)
    arc = _arc(t, _context().acos(cosine))
    return _exact([arc[0] * length / first, arc[1] * length / second])


# ---- nuslerp ----


def nuslerp_share(call: Call) -> Fraction:
    """Return the share of the second model, from 0 to 1 for weights that are not negative."""
    first, second = call.numbers("weight")
    total = first + second
    return second / total if abs(total) >= _LEAST_WEIGHT else Fraction(1, 2)


def _nuslerp(call: Call, gram: Matrix, _inputs: int) -> Coefficients:
    base, t = call.flag("has_base"), nuslerp_share(call)
    if t in (0, 1):
        return (*(Fraction(0),) * base, *_lerp(t))
    return _around(_turned(gram, t), base=base)


@_remember
def _turned(gram: Matrix, t: Fraction) -> Coefficients:
    first, second = (max(_root(_real(gram[i][i])), _real(1e-7)) for i in range(2))
    cosine = min(max(_real(gram[0][1]) / (first * second), _real(-1)), _real(1))
    if 1 - cosine * cosine <= SINGULAR:
        return _lerp(t)
    return _exact(_arc(t, _context().acos(cosine)), affine=False)


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
    """Return weights scaled to add up to 1.

    Raises:
        UndefinedError: they add up to 0.
    """
    total = sum(weights, Fraction(0))
    if not total:
        message = "the weights add up to 0 and cannot be normalized"
        raise UndefinedError(message)
    return tuple(weight / total for weight in weights)


@_remember
def _barycentre(gram: Matrix, weights: Coefficients, eps: Fraction, straight: bool) -> Coefficients | None:
    """Return the coefficients of multislerp; None if the weighted directions cancel out and `straight` is False."""
    if not any(gram[i][i] for i in range(len(gram))):
        return weights  # all inputs are 0
    shares = [_real(weight) for weight in weights]
    norms = [_root(_real(gram[i][i])) for i in range(len(gram))]
    mean = [share / (norm + _real(eps)) if norm else norm for share, norm in zip(shares, norms, strict=True)]
    squared = _form(mean, gram, mean)
    if squared < max(_real(eps) ** 2, SINGULAR):
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
    """Return the coefficients of a vector with the inputs' mean direction and mean length."""
    least = _real(tol)
    norms = [_root(_real(gram[i][i])) for i in range(len(gram))]
    valid = [i for i, norm in enumerate(norms) if norm > least]
    if not valid:
        return tuple(Fraction(0) for _ in gram)
    kept = tuple(weights[i] for i in valid)
    alphas = [_real(weight) for weight in _normalized(kept)]
    units = tuple(tuple(float(_real(gram[i][j]) / (norms[i] * norms[j])) for j in valid) for i in valid)
    mean = _mean_direction(alphas, units, most, least)
    scale = sum((_real(weight) * norm for weight, norm in zip(weights, norms, strict=True)), _context().zero)
    found = {i: m * scale / norms[i] for i, m in zip(valid, mean, strict=True)}
    return _exact([found.get(i, 0) for i in range(len(gram))])


def _mean_direction(alphas: list[Any], units: Matrix, most: int, least: Any) -> list[Any]:
    """Return the coefficients of the weighted mean of unit vectors on the sphere, found in at most `most` steps.

    `units`: the Gram matrix of these vectors. The search ends where a step would be no longer than `least`.
    """
    mean = _scaled(alphas, units, least)
    if mean is None:
        mean = [_real(int(i == 0)) for i in range(len(alphas))]

    def step(mean: list[Any]) -> list[Any] | None:
        tangent = _tangent(mean, units, alphas, least)
        length = _root(_form(tangent, units, tangent))
        if length <= least:
            return None
        moved = _moved(mean, tangent, length)
        return _scaled(moved, units, least) or moved

    return _iterated(step, mean, most)


def _iterated(step: Callable[[Point], Point | None], state: Point, most: int) -> Point:
    """Return what a state becomes by `most` steps, or by as many as there are until a step returns None.

    Rounded values can come back to what they were instead of nearer to a limit. Then whole cycles are left out, which
    changes nothing but time (Brent 1980: a state is compared with one of before, of which the distance doubles).
    """
    before, length, longest = state, 0, 1
    while most > 0:
        after = step(state)
        if after is None:
            return state
        state, most, length = after, most - 1, length + 1
        if state == before:
            most %= length
        elif length == longest:
            before, length, longest = state, 0, 2 * longest
    return state


def _moved(mean: list[Any], tangent: list[Any], length: Any) -> list[Any]:
    """Return the point that a tangent of this length leads to from `mean`, along the sphere."""
    ahead, aside = _context().cos(length), _context().sin(length) / length
    return [ahead * m + aside * t for m, t in zip(mean, tangent, strict=True)]


def _scaled(vector: list[Any], gram: Matrix, least: Any) -> list[Any] | None:
    """Return a combination scaled to length 1; None if its length is `least` or less."""
    length = _root(_form(vector, gram, vector))
    return None if length <= least else [each / length for each in vector]


def _tangent(mean: list[Any], units: Matrix, alphas: Sequence[Any], least: Any) -> list[Any]:
    """Return the weighted mean of the tangents that lead from `mean` along the sphere to each unit vector."""
    tangent = [_context().zero for _ in mean]
    for i, alpha in enumerate(alphas):
        dot = sum((_real(entry) * m for entry, m in zip(units[i], mean, strict=True)), _context().zero)
        dot = min(max(dot, _real(-1)), _real(1))
        angle = _context().acos(dot)
        if angle <= least or (dot < 0 and 1 - dot * dot <= SINGULAR):
            continue  # equal to the mean, or opposite to it: no direction leads there
        factor = alpha * angle / _context().sin(angle)
        for j, m in enumerate(mean):
            tangent[j] += factor * (int(i == j) - dot * m)
    return tangent


# ---- model_stock ----


def _model_stock(call: Call, gram: Matrix, inputs: int) -> Coefficients:
    plain = call.word("compat") == "mergekit"
    return _stock(gram, pairs_of(inputs - 1, call.word("pairs")), call.flag("clamp") and not plain, plain)


def pairs_of(models: int, which: str) -> tuple[tuple[int, int], ...]:
    """Return the pairs of models whose angles enter model_stock: all pairs, or each model and the next."""
    return tuple(combinations(range(models), 2) if which == "all" else pairwise(range(models)))


@_remember
def _stock(gram: Matrix, pairs: tuple[tuple[int, int], ...], clamp: bool, plain: bool) -> Coefficients:
    """Return the coefficients of the base and the models for model_stock."""
    exact = Fraction(_stock_ratio(gram, pairs, clamp=clamp, plain=plain))
    if abs(exact - 1) <= _AFFINE:
        exact = Fraction(1)
    return _around((exact / len(gram),) * len(gram), base=True)


def _stock_ratio(gram: Matrix, pairs: tuple[tuple[int, int], ...], *, clamp: bool, plain: bool) -> float:
    """Return the share of the way from the base to the models' mean.

    The same operations as `stock_ratio` of the torch kernels.
    """
    models = len(gram)
    cosine = _mean_cosine(gram, pairs, plain=plain)
    below = cosine * (models - 1) + 1
    ratio = 0.0 if abs(below) < LEAST_DENOMINATOR else cosine * models / below
    return min(max(ratio, 0.0), 1.0) if clamp else ratio


def _mean_cosine(gram: Matrix, pairs: tuple[tuple[int, int], ...], *, plain: bool) -> float:
    """Return the mean cosine of the pairs; `plain`: small norms count as mergekit counts them."""
    norms = [sqrt(gram[i][i]) for i in range(len(gram))]
    total = 0.0
    for i, j in pairs:
        product = norms[i] * norms[j]
        product = max(product, LEAST_PRODUCT) if plain else product or 1.0
        total += min(max(gram[i][j] / product, -1.0), 1.0)
    return total * (1 / len(pairs))


# ---- other forms in the span ----


def _add_perpendicular(call: Call, gram: Matrix, _inputs: int) -> Coefficients:
    return _perpendicular(gram, call.number("alpha"))


@_remember
def _perpendicular(gram: Matrix, alpha: Fraction) -> Coefficients:
    """Return the coefficients of a, b and c, given the Gram matrix of a - c and b - c."""
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
    if squared < SINGULAR:
        return _lerp(alpha)
    scale = (first + share * (second - first)) / _root(squared)
    return _exact([each * scale for each in direction])


def _geometric_median(call: Call, gram: Matrix, inputs: int) -> Coefficients:
    if inputs == 1:
        return (Fraction(1),)
    eps, ftol = float(call.number("eps")), float(call.number("ftol"))
    return median_of(gram, eps, int(call.number("maxiter")), ftol)


class _Median(NamedTuple):
    """A step of Weiszfeld's iteration."""

    weights: list[float]
    distances: list[float]
    """Of each input from the mean by these weights."""
    objective: float
    is_last: bool = False
    """Whether the objective changed so little that the iteration ends."""


@_remember
def median_of(gram: Matrix, eps: float, most: int, ftol: float) -> Coefficients:
    """Return the coefficients of the geometric median by Weiszfeld's iteration.

    Args:
        gram: The Gram matrix of the differences of all other inputs from the first.
        eps: The least distance that counts as such.
        most: The greatest number of steps.
        ftol: The iteration ends when a step changes the objective by no larger a share.
    """
    count = len(gram) + 1
    weights = [1.0] * count

    def step(state: _Median) -> _Median | None:
        if state.is_last:
            return None
        weights = [1 / max(distance, eps) for distance in state.distances]
        distances = _distances(gram, weights)
        objective = _plain_sum(distances) / count
        return _Median(weights, distances, objective, abs(state.objective - objective) <= ftol * objective)

    distances = _distances(gram, weights)
    found = _iterated(step, _Median(weights, distances, _plain_sum(distances) / count), most)
    return _normalized(tuple(Fraction(weight) for weight in found.weights))


def _distances(gram: Matrix, weights: Sequence[float]) -> list[float]:
    """Return each input's distance from the weighted mean of all inputs."""
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
    """Return the sum in the given order; how the built-in `sum` rounds depends on Python's version."""
    total = 0.0
    for value in values:
        total += value
    return total


@_remember
def euclidean_factors(gram: Matrix, alpha: Fraction) -> tuple[float, float]:
    """Return the float32 factors that a - c and b - c get in euclidean_add_difference before they are squared."""
    share = _real(alpha)
    parts = [share_of / _real(gram[i][i]) if gram[i][i] else _real(0) for i, share_of in enumerate((1 - share, share))]
    present = [share_of for i, share_of in enumerate((1 - share, share)) if gram[i][i]]
    if not present:
        return 0.0, 0.0
    straight = [1 - share, share]
    scale = _form(straight, gram, straight) / sum(present)
    first, second = (float32_of(Fraction(float(_root(part * scale)))) for part in parts)
    return first, second


COEFFICIENTS: Mapping[str, Callable[[Call, Matrix, int], Coefficients]] = {
    "slerp": _slerp,
    "nuslerp": _nuslerp,
    "multislerp": _multislerp,
    "karcher": _karcher,
    "model_stock": _model_stock,
    "add_perpendicular": _add_perpendicular,
    "norm_direction": _norm_direction,
    "geometric_median": _geometric_median,
}
"""By method: a function from a call, the Gram matrix and the number of inputs to the coefficient of each input. Those
of nuslerp and model_stock apply to whole tensors (`per = "tensor"`)."""
