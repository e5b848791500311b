"""Functions of a recipe's exact numbers, taken in software to 80 bits: the same float64 on every machine.

A platform's mathematics library may round in its own way.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

__all__ = ["cos_pi_of", "power_of"]


def cos_pi_of(turns: Fraction) -> float:
    """Return cos(pi * turns) in float64, right to the last bit but for rare ties; half-integers give exactly 0."""
    reduced = turns % 2
    if reduced.denominator == 2:
        return 0.0
    context = _context()
    return float(context.cospi(context.mpf(reduced.numerator) / reduced.denominator))


def power_of(base: Fraction, exponent: Fraction) -> float:
    """Return `base ** exponent` in float64 for a base above 0; Inf or 0 where it lies beyond float64."""
    context = _context()
    return float(
        context.power(
            context.mpf(base.numerator) / base.denominator, context.mpf(exponent.numerator) / exponent.denominator
        )
    )


@cache
def _context() -> Any:
    """Return a context of our own: the global one's precision is anybody's to change."""
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.prec = 80
    return context
