"""Rows of the methods that treat a tensor as a signal: crossovers, smoothing, exchange of value distributions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import WholeTensor
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_ZERO, _ONE = Fraction(0), Fraction(1)

ROWS: Sequence[Method] = (
    Method(
        "crossover",
        ("a", "b"),
        (
            Parameter(
                "alpha",
                "how much of the spectrum is b's",
                default=Fraction(1, 2),
                low=_ZERO,
                high=_ONE,
                nothing_at_zero=True,
                second_at_one=True,
            ),
            Parameter(
                "tilt",
                "how soft the cut between the frequencies is: 0 sharp, 0.5 a ramp of 45 degrees, 1 a weighted sum",
                default=_ZERO,
            ),
        ),
        "irfftn((1 - F) * rfftn(a) + F * rfftn(b)), F the share of b in each frequency: for tilt 0, 1 where the root "
        "mean square over the axes of the frequency (0..1) is above 1 - alpha; alpha 0 is a, 1 is b",
        "Take the low frequencies of a, its broad structure, and the high ones of b, its detail.",
        WholeTensor("spectra"),
        differs="sd-mecha transforms both inputs; here the difference is transformed and added to a, which is the same "
        "up to rounding and closer to the exact value.",
        cite="sd-mecha",
        exact=False,
        reference="sd-mecha",
    ),
    Method(
        "distribution_crossover",
        ("a", "b", "c"),
        (
            Parameter("alpha", "where the cut lies: 0 takes all frequencies from b, 1 none"),
            Parameter("beta", "how wide the ramp around the cut is; 0 cuts sharply", low=_ZERO),
        ),
        "with all values in the order of c's: irfft((1 - F) * rfft(a) + F * rfft(b)), "
        "F_i = clamp((i/K - alpha) / beta + 1/2, 0, 1) for K frequencies, and [i/K >= alpha] for beta 0",
        "Take what varies slowly along the sorted values of a third model from a, and what varies fast from b.",
        WholeTensor("spectra"),
        differs="For 0-d tensors sd-meh gives alpha * a + (1 - alpha) * b; here it is (1 - alpha) * a + alpha * b. "
        "Equal values of c keep their order.",
        cite="sd-meh",
        exact=False,
    ),
    Method(
        "smooth_add",
        ("a", "b", "c"),
        (
            Parameter(
                "alpha",
                "how much of the smoothed difference is added, often 0 to 2",
                default=_ONE,
                nothing_at_zero=True,
            ),
        ),
        "a + alpha * gaussian(median(b - c)): median of 3, then a Gaussian of sigma 1 cut at 4, over all dimensions, "
        "mirrored at the edges",
        "Add a difference without its outliers. Slow.",
        WholeTensor("spectra"),
        aliases=("smoothAdd", "smoothAdd MT"),
        differs="Supermerger writes float32 whatever the model's dtype.",
        cite="supermerger",
    ),
    Method(
        "top_k_tensor_sum",
        ("a", "b"),
        (
            Parameter("width", "the share of a's values, by magnitude, that moves", default=_ONE),
            Parameter("offset", "where that share begins; beyond 1 it goes on at the start", default=_ZERO),
            Parameter(
                "lower",
                "whether values as large as the lower bound belong to the share (inclusive) or not (strict)",
                kind="word",
                default="inclusive",
                choices=("inclusive", "strict"),
            ),
        ),
        "s = sort(a), r_j = the rank of b_j: s[r_j] where the magnitude of s[r_j] is from the start-th to the end-th "
        "smallest of a, else a_j",
        "Arrange the values of a in the order of b's: the distribution of a with the structure of b.",
        WholeTensor("spectra"),
        differs='sd-meh leaves out values equal to the lower bound (lower = "strict"). Bounds are rounded from exact '
        "numbers, and zeros of both signs keep their order.",
        cite="sd-mecha; sd-meh",
        reference="sd-mecha",
    ),
)
