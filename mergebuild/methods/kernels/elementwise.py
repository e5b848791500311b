"""Methods that make each value from the inputs' values at the same place, but not linearly.

Most add a gated difference, `a + gate * (b - c)`, with a gate between 0 and an amount; if the gate's formula is 0/0, a
stated value is used. Quotients of squares are computed as products of quotients, as squares of small weights underflow
float32. Powers are computed with `elementary`, in float64, and rounded to float32 once.

All functions take chunks float32 [n] and return float32 [n]. If a parameter makes the result equal to an input, that
input itself is returned. `max`, `min` and `clamp` are not used where they could see zeros of both signs, as they may
return either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import nan

import torch
from torch import Tensor

from mergebuild.methods.emphases import emphases
from mergebuild.methods.kernels.blend import lerp
from mergebuild.methods.kernels.elementary import cos_pi, exp2, log2
from mergebuild.methods.kernels.kernel import Call, Kernel, Statistic
from mergebuild.methods.kernels.randomness import bernoulli, normal
from mergebuild.methods.noise import rescaling, takes_noise
from mergebuild.methods.scalars import cos_pi_of
from mergebuild.methods.shares import float32_of

__all__ = ["KERNELS"]

_BLOCK = 1 << 15
"""Values processed in float64 at a time, few enough for the temporaries to stay in the processor's cache."""


def _train_difference(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return a + 1.8 alpha s (b - c), s = |b - a| / (|b - c| + |b - a|), 0/0 -> 0."""
    a, b, c = chunks
    alpha = call.number("alpha")
    if not alpha:
        return a
    difference = b - c
    moved = (b - a).abs_()
    total = difference.abs().add_(moved)
    return _gated(a, moved.div_(total).masked_fill_(total == 0, 0), alpha * Fraction(9, 5), difference)


def _add_opposite(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return a + 2 alpha |a - b| / (|a - b| + |a + b - 2 c|) (b - c), 0/0 -> 0."""
    a, b, c = chunks
    alpha = call.number("alpha")
    if not alpha:
        return a
    difference = b - c
    apart = (a - b).abs_()
    total = (a - c).add_(difference).abs_().add_(apart)
    return _gated(a, apart.div_(total).masked_fill_(total == 0, 0), 2 * alpha, difference)


def _add_strict_opposite(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return a + 2 alpha max(0, (c - a)(b - c) / max(|a - c|, |b - c|)**2) (b - c), 0/0 -> 0."""
    a, b, c = chunks
    alpha = call.number("alpha")
    if not alpha:
        return a
    difference = b - c
    product, undefined = _scaled_product(c - a, difference)
    undefined.logical_or_(product <= 0)
    return _gated(a, product.masked_fill_(undefined, 0), 2 * alpha, difference)


def _similarity_add_difference(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return lerp(a + alpha (b - c), lerp(a, b, alpha / 2), s), s = beta (a b / max(|a|, |b|)**2 + 1) / 2, 0/0 -> beta.

    It is computed as a + alpha lerp(b - c, (b - a) / 2, s), which costs less and avoids cancellation.
    """
    a, b, c = chunks
    alpha, beta = call.number("alpha"), call.number("beta")
    if not alpha:
        return a
    change = b - c
    if beta:
        similar, undefined = _scaled_product(a, b)
        similar.add_(1).mul_(float32_of(beta / 2)).masked_fill_(undefined, float32_of(beta))
        change.add_((b - a).mul_(0.5).sub_(change).mul_(similar))
    return change.mul_(float32_of(alpha)).add_(a)


def _multiply_difference(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return c + copysign(|a - c|**(1 - alpha) |b - c|**alpha, lerp(a, b, beta) - c)."""
    a, b, c = chunks
    alpha, beta = call.number("alpha"), call.number("beta")
    if alpha == beta and alpha in {0, 1}:
        return b if alpha else a
    first, second = a - c, b - c
    magnitude, side = _power_product(first, second, alpha), lerp(first, second, beta)
    return magnitude.copysign_(side).add_(c).masked_fill_(side.isnan(), nan)  # a NaN's sign depends on the processor


def _power_product(first: Tensor, second: Tensor, alpha: Fraction) -> Tensor:
    """Return |first|**(1 - alpha) |second|**alpha (float32, new), with 0**0 = 1."""
    if alpha in {0, 1}:
        return (second if alpha else first).abs()

    def powers(one: Tensor, other: Tensor) -> Tensor:
        return _magnitude(one, other, alpha)

    return _blockwise(powers, (first, second))


def _geometric(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return the real part of a**(1 - alpha) b**alpha: |a|**(1 - alpha) |b|**alpha cos(pi (angle of the signs))."""
    a, b = chunks
    alpha = call.number("alpha")
    if alpha in {0, 1}:
        return b if alpha else a
    cosine = cos_pi_of(alpha)

    def real_part(one: Tensor, other: Tensor) -> Tensor:
        # Both negative: cos(pi) = -1. Only b: cos(pi alpha). Only a: cos(pi (1 - alpha)) = -cos(pi alpha).
        magnitude = _magnitude(one, other, alpha).copysign_(_signs_of(one))
        return torch.where((one < 0) ^ (other < 0), magnitude * cosine, magnitude)

    return _blockwise(real_part, chunks)


def _signs_of(values: Tensor) -> Tensor:
    """Return values with the signs of `values`, and 0 for NaN, whose sign depends on the processor."""
    return values.masked_fill(values.isnan(), 0)


def _magnitude(one: Tensor, other: Tensor, alpha: Fraction) -> Tensor:
    """Return |one|**(1 - alpha) |other|**alpha in float64, for an alpha between 0 and 1."""
    exponents = log2(one).mul_(float(1 - alpha)).add_(log2(other).mul_(float(alpha)))
    return exp2(exponents).masked_fill_((one == 0).logical_or_(other == 0), 0)


def _multiply_quotient(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return the real part of a (b / c)**x, x = alpha max(0, -r_a r_b / max(|r_a|, |r_b|)**2), r the logs over |c|."""
    alpha = call.number("alpha")
    if not alpha:
        return chunks[0]

    def multiplied(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        reference = log2(c)
        quotient = log2(b).sub_(reference)
        exponent, undefined = _scaled_product(reference.sub_(log2(a)), quotient)
        undefined.logical_or_(exponent <= 0).logical_or_(a == 0).logical_or_(b == 0).logical_or_(c == 0)
        exponent.masked_fill_(undefined, 0).mul_(float(alpha))
        result = exp2(quotient.mul_(exponent)).mul_(a)
        (turned,) = torch.nonzero(((b < 0) ^ (c < 0)).logical_and_(undefined.logical_not_()), as_tuple=True)
        if turned.numel():
            result[turned] = result[turned].mul_(cos_pi(exponent[turned]))
        return result

    return _blockwise(multiplied, chunks)


def _max(_call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return the greater of a and b; of equal ones, a."""
    return _greater(*chunks)


def _clamp(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return the first input, kept between the others; stiffness draws both bounds towards the others' mean."""
    values, *bounds = chunks
    low = high = bounds[0]
    for bound in bounds[1:]:
        low, high = _lesser(low, bound), _greater(high, bound)
    stiffness = call.number("stiffness")
    if stiffness:
        low, high = _stiffened(bounds, low, high, stiffness)
    return _lesser(_greater(values, low), high)


def _stiffened(bounds: Sequence[Tensor], low: Tensor, high: Tensor, stiffness: Fraction) -> tuple[Tensor, Tensor]:
    """Return the bounds moved towards the mean.

    `low` is moved towards the greatest value up to the mean, `high` towards the least value from the mean up.
    """
    # In float64 the mean is never outside the range of the values, so each side of it has one.
    mean = torch.zeros_like(low, dtype=torch.float64)
    for bound in bounds:
        mean.add_(bound)
    mean.div_(mean.new_full((), len(bounds)))  # dividing by a Python number, a device would multiply by its inverse
    under, over = low, high
    for bound in bounds:
        under = torch.where((bound > under) & (bound <= mean), bound, under)
        over = torch.where((bound < over) & (bound >= mean), bound, over)
    return lerp(low, under, stiffness), lerp(high, over, stiffness)


def _nearswap(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return a + clamp(b - a, -t, t); exactly b if it is no farther from a than t."""
    a, b = chunks
    threshold = float32_of(call.number("t"))
    if not threshold:
        return a
    difference = b - a
    near = difference.abs() <= threshold
    return torch.where(near, b, difference.clamp_(-threshold, threshold).add_(a))


def _ram(call: Call, chunks: Sequence[Tensor], _start: int, _state: object) -> Tensor:
    """Return base + the mean of the active differences: those with a magnitude above epsilon."""
    base, *models = chunks
    epsilon = float32_of(call.number("epsilon"))
    total, active = torch.zeros_like(base), torch.zeros_like(base)
    for model in models:
        difference = model - base
        inactive = _inactive(difference, epsilon)
        total.add_(difference.masked_fill_(inactive, 0))
        active.add_(inactive.logical_not_())
    return total.div_(active.clamp_(min=1)).add_(base)


def _ramplus_tl(call: Call, chunks: Sequence[Tensor], _start: int, state: tuple[int, ...]) -> Tensor:
    """Return `ram`, with each element that a single model changed multiplied by that model's lambda."""
    base, *models = chunks
    epsilon = float32_of(call.number("epsilon"))
    active = _active(base, models, epsilon)
    lone = active == 1
    total = torch.zeros_like(base)
    for model, factor in zip(models, emphases(call, state), strict=True):
        difference = model - base
        difference.masked_fill_(_inactive(difference, epsilon), 0)
        total.add_(torch.where(lone, difference * factor, difference))
    return total.div_(active.clamp_(min=1)).add_(base)


def _begin_counts(_call: Call, inputs: int) -> list[int]:
    return [0] * (2 * (inputs - 1))


def _look_at_counts(call: Call, account: list[int], chunks: Sequence[Tensor], _start: int) -> None:
    """Count for each model its active differences: those at elements that no other model changed, and the rest."""
    base, *models = chunks
    epsilon = float32_of(call.number("epsilon"))
    active = _active(base, models, epsilon)
    lone = active == 1
    for index, model in enumerate(models):
        own = _inactive(model - base, epsilon).logical_not_()
        alone = int(torch.count_nonzero(own & lone))
        account[2 * index] += alone
        account[2 * index + 1] += int(torch.count_nonzero(own)) - alone


def _end_counts(_call: Call, account: list[int]) -> tuple[int, ...]:
    return tuple(account)


def _active(base: Tensor, models: Sequence[Tensor], epsilon: float) -> Tensor:
    """Return how many models have an active difference at each element (float32 [n])."""
    count = torch.zeros_like(base)
    for model in models:
        count.add_(_inactive(model - base, epsilon).logical_not_())
    return count


def _inactive(difference: Tensor, epsilon: float) -> Tensor:
    """Return where a difference is too small to count (bool [n])."""
    return difference.abs() <= epsilon


def _plus_random(call: Call, chunks: Sequence[Tensor], start: int, _state: object) -> Tensor:
    """Return a + alpha N(0, 1)."""
    (a,) = chunks
    alpha = float32_of(call.number("alpha"))
    if not alpha or not takes_noise(call.tensor):
        return a
    noise = normal(int(call.number("seed")), call.tensor, 0, start, a.numel(), a.device)
    return noise.mul_(alpha).add_(a)


def _dropout(call: Call, chunks: Sequence[Tensor], start: int, _state: object) -> Tensor:
    """Return base + the mean of the differences that each model's mask keeps, divided by (1 - probability)**rescale."""
    base, *models = chunks
    kept = 1 - call.number("probability")
    if kept <= 0:
        return base
    if kept >= 1 and len(models) == 1:
        return models[0]
    seed = int(call.number("seed"))
    total, count = torch.zeros_like(base), torch.zeros_like(base)
    for position, model in enumerate(models, start=1):
        mask = bernoulli(kept, seed, call.tensor, position, start, base.numel(), base.device)
        count.add_(mask)
        total.add_((model - base).masked_fill_(mask.logical_not_(), 0))
    return total.div_(count.clamp_(min=1)).mul_(rescaling(kept, call.number("rescale"))).add_(base)


def _gated(a: Tensor, gate: Tensor, amount: Fraction, difference: Tensor) -> Tensor:
    """Return a + amount * gate * difference, in place of `gate`."""
    return gate.mul_(float32_of(amount)).mul_(difference).add_(a)


def _scaled_product(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return first * second / max(|first|, |second|)**2, and where that is 0/0. Neither input is changed."""
    largest = torch.maximum(first.abs(), second.abs())
    return (first / largest).mul_(second / largest), largest == 0


def _greater(first: Tensor, second: Tensor) -> Tensor:
    """Return the greater value; of two equal ones (zeros of different sign) the first; NaN if either is NaN."""
    return torch.where((second > first).logical_or_(second.isnan()), second, first)


def _lesser(first: Tensor, second: Tensor) -> Tensor:
    """Return the lesser value; of two equal ones (zeros of different sign) the first; NaN if either is NaN."""
    return torch.where((second < first).logical_or_(second.isnan()), second, first)


def _blockwise(function: Callable[..., Tensor], chunks: Sequence[Tensor]) -> Tensor:
    """Return `function` of the chunks, computed in float64 block by block and rounded to float32."""
    result = torch.empty_like(chunks[0])
    for at in range(0, result.numel(), _BLOCK):
        result[at : at + _BLOCK].copy_(function(*(chunk[at : at + _BLOCK] for chunk in chunks)))
    return result


KERNELS: Mapping[str, Kernel] = {
    "train_difference": Kernel(_train_difference),
    "add_opposite": Kernel(_add_opposite),
    "add_strict_opposite": Kernel(_add_strict_opposite),
    "similarity_add_difference": Kernel(_similarity_add_difference),
    "multiply_difference": Kernel(_multiply_difference),
    "geometric": Kernel(_geometric),
    "multiply_quotient": Kernel(_multiply_quotient),
    "max": Kernel(_max),
    "clamp": Kernel(_clamp),
    "nearswap": Kernel(_nearswap),
    "ram": Kernel(_ram),
    "ramplus_tl": Kernel(
        _ramplus_tl,
        Statistic("lone and shared differences", _begin_counts, _look_at_counts, _end_counts, arguments=("epsilon",)),
    ),
    "plus_random": Kernel(_plus_random),
    "dropout": Kernel(_dropout),
}
