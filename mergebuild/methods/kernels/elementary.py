"""Logarithm, power of two, cosine and normal quantile of every element, with the same bits on every machine.

A platform's `exp`, `log`, `cos` and `pow` differ in their last bits between processors and libraries, and even between
the vectorized part of a tensor and the rest, so a result would depend on how the tensor was cut into chunks. Here these
functions are polynomials in float64, made of operations that IEEE 754 rounds in only one way (`+ - * /`, square root)
and of operations on a float64's bits. The absolute errors of logarithm and cosine and the relative error of the power
are below 1e-11. Rounded to float32, about one value in 10,000 is not the correctly rounded one.

- log2(m * 2**k) = k + 2/ln 2 * (s + s**3/3 + s**5/5 + ...), s = (m - 1)/(m + 1), m from sqrt(1/2) to sqrt(2)
- 2**(n + f) = 2**n * (1 + z + z**2/2! + ...), z = f * ln 2, |f| <= 1/2
- cos(pi * (n + f)) = (-1)**n * (1 - z**2/2! + z**4/4! - ...), z = pi * f, |f| <= 1/2
- the normal quantile: rational approximations of Wichura 1988, algorithm AS 241 (PPND7), accurate to 1e-7
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import torch
from torch import Tensor

from mergebuild.methods.kernels.roots import square_root

__all__ = ["cos_pi", "exp2", "log2", "normal_quantile"]

_LN2 = 0.6931471805599453
_PI = 3.141592653589793
_ROOT_HALF = 0x3FE6A09E667F3BCD
"""The bits of the square root of 1/2."""
_EXPONENT = 1 << 52
"""1 in the exponent field of a float64, as bits."""
_FARTHEST = 1000.0
"""Exponents of larger magnitude count as this: 2 to it is finite in float64, and 0 or Inf in float32."""

_LOG2_SERIES = tuple(2 / (_LN2 * power) for power in range(15, 0, -2))
_EXP2_SERIES = tuple(1 / factorial(power) for power in range(11, -1, -1))
_COS_SERIES = tuple((-1) ** (power // 2) / factorial(power) for power in range(20, -1, -2))

_CENTRE = 0.425
"""The first approximation of the quantile covers probabilities this near to 1/2."""
_CENTRE_ABOVE = (59.109374720, 159.29113202, 50.434271938, 3.3871327179)
_CENTRE_BELOW = (67.187563600, 78.757757664, 17.895169469, 1.0)
_TAIL_ABOVE = (0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777)
_TAIL_BELOW = (0.12021132975, 0.73700164250, 1.0)


def log2(values: Tensor) -> Tensor:
    """Return the base-2 logarithm of the magnitudes of `values` in float64, new.

    `values`: float32 or float64, any shape.

    For 0 it is about -1023, not -Inf: callers treat a 0 themselves. For Inf and NaN it is NaN.
    """
    magnitude = values.to(torch.float64).abs()  # a subnormal float32 is a normal float64
    bits = magnitude.view(torch.int64)
    whole = (bits - _ROOT_HALF).bitwise_right_shift_(52)
    mantissa = (bits - whole * _EXPONENT).view(torch.float64)
    magnitude.sub_(magnitude)  # 0, or NaN
    below = mantissa + 1
    ratio = mantissa.sub_(1).div_(below)
    squared = torch.mul(ratio, ratio, out=below)
    return _horner(_LOG2_SERIES, squared).mul_(ratio).add_(whole).add_(magnitude)


def exp2(exponents: Tensor) -> Tensor:
    """Return 2 ** `exponents` in float64. NaN stays NaN. `exponents`: float64, any shape; overwritten."""
    exponents.clamp_(-_FARTHEST, _FARTHEST)
    whole = torch.round(exponents)
    result = _horner(_EXP2_SERIES, exponents.sub_(whole).mul_(_LN2))
    result.view(torch.int64).add_(whole.to(torch.int64).mul_(_EXPONENT))
    return result


def cos_pi(turns: Tensor) -> Tensor:
    """Return cos(pi * `turns`) in float64; exactly 0 for half-integers. `turns`: float64, any shape; overwritten."""
    whole = torch.round(turns)
    turns.sub_(whole).mul_(_PI)
    result = _horner(_COS_SERIES, turns.mul_(turns))
    result.masked_fill_(torch.eq(turns, (0.5 * _PI) * (0.5 * _PI)), 0.0)
    odd = whole.mul_(0.5).sub_(torch.floor(whole))  # 0 or 1/2
    return result.mul_(odd.mul_(-4).add_(1))


def normal_quantile(uniform: Tensor) -> Tensor:
    """Return the quantiles of the standard normal distribution at probabilities `uniform` (float64 [n]), in float64.

    The probabilities are between 2**-36 and 1 - 2**-36.
    """
    centred = uniform - 0.5
    squared = torch.mul(centred, centred).neg_().add_(_CENTRE * _CENTRE)
    result = _horner(_CENTRE_ABOVE, squared).mul_(centred).div_(_horner(_CENTRE_BELOW, squared))
    (outside,) = torch.nonzero(centred.abs() > _CENTRE, as_tuple=True)
    if outside.numel():
        side = centred[outside]
        nearer = torch.where(side < 0, uniform[outside], 1 - uniform[outside])
        distance = square_root(log2(nearer).mul_(-_LN2)).sub_(1.6)
        tail = _horner(_TAIL_ABOVE, distance).div_(_horner(_TAIL_BELOW, distance))
        result[outside] = tail.copysign_(side)
    return result


def _horner(series: Sequence[float], at: Tensor) -> Tensor:
    """Return the value of a polynomial, its coefficients from the highest power down, new."""
    result = torch.mul(at, series[0])
    for coefficient in series[1:-1]:
        result.add_(coefficient).mul_(at)
    return result.add_(series[-1])
