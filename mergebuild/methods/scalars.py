"""Cosines and powers of a recipe's exact numbers, computed in software with 80 bits: the same float64 on every machine.

The functions of a platform's mathematics library may differ in the last bit.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

__all__ = ["cos_pi_of", "power_of"]


def cos_pi_of(turns: Fraction) -> float:
    """Return cos(pi * turns) in float64, correctly rounded but for rare ties; exactly 0 for half-integers."""
    reduced = turns % 2
    if reduced.denominator == 2:
        return 0.0
    context = _context()
    return float(context.cospi(context.mpf(reduced.numerator) / reduced.denominator))


def power_of(base: Fraction, exponent: Fraction) -> float:
    """Return `base ** exponent` in float64, for a base above 0; Inf or 0 if that is beyond the range of float64."""
    context = _context()
    return float(
        context.power(
            context.mpf(base.numerator) / base.denominator, context.mpf(exponent.numerator) / exponent.denominator
        )
    )


@cache
def _context() -> Any:
    """Return a private context: other code may change the precision of the global one."""
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.prec = 80
    return context
