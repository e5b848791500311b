"""Numbers of sd-mecha's longer forms of TIES: how many elements are kept, the factor, the shares of a median.

`kernels/ties_sums.py` says what the methods compute; it and the compiled form take their numbers from here. No torch.
"""

from __future__ import annotations

from fractions import Fraction
from math import isfinite

from mergebuild.methods.call import Call
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import pivot_of
from mergebuild.methods.spheres import Coefficients, Matrix, median_of

__all__ = ["median_shares", "scale_of", "takes"]


def takes(call: Call) -> int | None:
    """Return how many of a delta's largest magnitudes are kept; None if all or none of them are."""
    density = call.number("density")
    return max(1, int(density * call.count)) if 0 < density < 1 else None


def scale_of(call: Call) -> Fraction:
    """Return the factor for everything that is added to the base."""
    scale = call.number("lambda")
    keep = call.number("keep") if "keep" in call.arguments else Fraction(1)
    return scale / (keep if keep < 1 and call.flag("rescale") else 1)


def median_shares(call: Call, gram: Matrix) -> tuple[int, Coefficients]:
    """Return the pivot and the coefficients of the deltas' geometric median.

    `gram`: of their differences from the first.

    Raises:
        UndefinedError: a delta is beyond float32.
    """
    _check_finite(gram)
    eps, ftol = float(call.number("eps")), float(call.number("ftol"))
    shares = median_of(gram, eps, int(call.number("maxiter")), ftol)
    pivot = pivot_of(shares)
    assert pivot is not None  # a mean
    return pivot, shares


def _check_finite(gram: Matrix) -> None:
    if not all(isfinite(row[index]) for index, row in enumerate(gram)):
        message = "a difference from the base overflows float32, so that there is no median"
        raise UndefinedError(message)
