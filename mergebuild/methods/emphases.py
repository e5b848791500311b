"""The factors that `ramplus_tl` applies to elements that only one model changed, from exact numbers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.call import Call
from mergebuild.methods.shares import float32_of

__all__ = ["emphases"]


def emphases(call: Call, counts: Sequence[int]) -> list[float]:
    """Return the factor of each model: 1 + r * clamp(shared / max(lone, epsilon), 0, alpha), rounded to float32.

    `counts` has two numbers per model: how many elements it alone changed, and how many it changed along with others.
    """
    epsilon, rate, most = call.number("epsilon"), call.number("r"), call.number("alpha")
    found = []
    for lone, shared in zip(counts[::2], counts[1::2], strict=True):
        ratio = shared / max(Fraction(lone), epsilon) if lone else Fraction(0)  # with none alone it isn't used
        found.append(float32_of(1 + rate * min(ratio, most)))
    return found
