"""By what models weigh in `sce`: their share of all that is left of the deltas, squared. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.call import Call
from mergebuild.methods.shares import float32_of

__all__ = ["weights_of"]

_LEAST_ENERGY = 1e-6
"""compat mergekit: mean squares whose sum is below it count as equal."""


def weights_of(call: Call, energies: Sequence[float]) -> list[float]:
    """Return the weights of the models, float32."""
    exact = [Fraction(energy) for energy in energies]
    total = sum(exact, Fraction(0))
    least = Fraction(_LEAST_ENERGY) * call.count if call.word("compat") == "mergekit" else 0
    if not total or total < least:
        return [float32_of(Fraction(1, len(exact)))] * len(exact)
    return [float32_of(energy / total) for energy in exact]
