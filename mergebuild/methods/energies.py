"""The weights of models in `sce`: each model's share of the sum of squares of all selected deltas. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.call import Call
from mergebuild.methods.shares import float32_of

__all__ = ["weights_of"]

_LEAST_ENERGY = 1e-6
"""With compat = "mergekit": if the mean squares sum up to less, all models get equal weights."""


def weights_of(call: Call, energies: Sequence[float]) -> list[float]:
    """Return the weight of each model as a float32, given the sum of squares of its delta."""
    exact = [Fraction(energy) for energy in energies]
    total = sum(exact, Fraction(0))
    least = Fraction(_LEAST_ENERGY) * call.count if call.word("compat") == "mergekit" else 0
    if not total or total < least:
        return [float32_of(Fraction(1, len(exact)))] * len(exact)
    return [float32_of(energy / total) for energy in exact]
