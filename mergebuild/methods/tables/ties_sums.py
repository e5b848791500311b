"""Rows of sd-mecha's longer forms of TIES."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import WholeTensor
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_PARAMETERS = (
    Parameter("density", "the share of each delta, of its largest magnitudes, that is kept", default=Fraction(1, 5)),
    Parameter(
        "vote", "how the sign of an element is elected: by the number of deltas, or by their sum",
        kind="word", default="count", choices=("count", "sum"),
    ),
    Parameter(
        "end", "what becomes of those that agree: their mean; that as far as their angles say that they agree, for "
        "each vector along the last dimension (model stock of each delta and the next); or their geometric median",
        kind="word", default="mean", choices=("mean", "stock", "median"),
    ),
    Parameter("clamp", "keep the ratio of end = stock between 0 and 1", kind="flag", default=True),
    Parameter("eps", "median: the least distance that counts", default=Fraction(1, 10**6), low=Fraction(1, 10**30)),
    Parameter("maxiter", "median: steps at most", kind="integer", default=Fraction(100), low=Fraction(0)),
    Parameter("ftol", "median: ends where a step gains no larger share", default=Fraction(1, 10**20), low=Fraction(0)),
    Parameter("lambda", "scales what is added to the base", default=Fraction(1), nothing_at_zero=True),
)  # fmt: skip
_THINNED = (
    "e_i = d_i where it is among the density * n largest magnitudes, else 0; m = sign(sum(sign(e_i))); base + lambda * "
    "the mean (or stock, median) of the e_i of sign m"
)
_DIFFERS = (
    "Exactly density * n elements are kept, equal ones in the order of their indices; sd-mecha keeps all at the "
    "threshold. Its apply_stock does the opposite of what it says: true leaves the ratio out. The ratio is clamped, "
    "and small deltas count as much as large ones. A vote that comes to 0 keeps nothing."
)

ROWS: Sequence[Method] = (
    Method(
        "ties_sum_extended",
        ("base", "models"),
        _PARAMETERS,
        f"d_i = model_i - base; {_THINNED}",
        "TIES without weights, which can end in model stock or a geometric median.",
        WholeTensor("ties_sums"),
        differs=_DIFFERS,
        cite="sd-mecha; Yadav et al. 2023, arXiv:2306.01708",
        reference="sd-mecha",
        version=2,
    ),
    Method(
        "ties_sum_with_dropout",
        ("base", "models"),
        (
            Parameter(
                "keep", "the probability that an element of a delta is kept, before the largest are chosen",
                default=Fraction(1, 10),
            ),
            Parameter(
                "epsilon", "how much likelier the largest magnitude is to be kept than the smallest",
                default=Fraction(0), low=Fraction(0),
            ),
            Parameter("rescale", "divide what is left by keep", kind="flag", default=True),
            Parameter("seed", "which random numbers", kind="integer"),
            *_PARAMETERS,
        ),
        f"d_i = model_i - base with probability keep + (rank / n - (n + 1) / (2 * n)) * epsilon, else 0; {_THINNED}, "
        "divided by keep if rescale",
        "Drop most of each delta at random, then TIES.",
        WholeTensor("ties_sums"),
        differs=f"{_DIFFERS} sd-mecha has the probability to drop, 1 - keep, and masks that depend on the device and "
        "on what was drawn before; here they follow from seed, tensor name, the model's place and the element's index.",
        cite="sd-mecha; Deep et al. 2024, arXiv:2406.11617",
        reference="sd-mecha",
        version=2,
    ),
)  # fmt: skip
