"""Rows of the methods on spheres and in spans: their coefficients follow from the inputs' dot products."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import Statistical
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_TINY = Fraction(1, 10**30)

ROWS: Sequence[Method] = (
    Method(
        "slerp",
        ("a", "b"),
        (
            Parameter("t", "the share of b; 0 is a and 1 is b", nothing_at_zero=True, second_at_one=True),
            Parameter(
                "magnitude",
                "raw: the inputs as they are; lerp: directions turn, and the length goes straight from a's to b's",
                kind="word", default="raw", choices=("raw", "lerp"),
            ),
        ),
        "raw: (sin((1 - t) * w) * a + sin(t * w) * b) / sin(w), w the angle between a and b; a straight line where "
        "|cos(w)| > 0.9995. lerp: the same of a/|a| and b/|b|, times (1 - t) * |a| + t * |b|; a straight line where a "
        "or b is 0 or they are colinear",
        "Blend two models along the arc between them, which keeps the length of what a straight line shortens.",
        Statistical("gram"),
        differs="mergekit and sd-mecha mean different things by it: magnitude raw is mergekit's, lerp sd-mecha's. "
        "sd-mecha divides by a sine of 0 down to the last bit; here vectors are colinear below an angle of 1e-6.",
        cite="Shoemake 1985; mergekit; sd-mecha",
        reference="mergekit",
    ),
    Method(
        "nuslerp",
        ("base", "models"),
        (
            Parameter("weight", "the weight of each of the two models", per="model", nothing_at_zero=True),
            Parameter(
                "per",
                "tensor: one angle for all; row: one for each vector along the last dimension; column: along the first",
                kind="word", default="tensor", choices=("tensor", "row", "column"),
            ),
        ),
        "t = weight_2 / (weight_1 + weight_2), 1/2 where the sum is 0; base + (sin((1 - t) * w) * d_1 + sin(t * w) * "
        "d_2) / sin(w), d_i = model_i - base, w the angle between them; a straight line where they are colinear",
        "Slerp of two models, or of what they learned since a base, for whole tensors, rows or columns.",
        Statistical("gram"),
        optional=("base",),
        least_models=2,
        most_models=2,
        differs="mergekit's nuslerp_flatten is per = tensor; its nuslerp_row_wise = true is per = column, false is "
        "per = row. Exactly two models. Colinear means a squared sine up to 1e-12 (mergekit 1e-16, in float32).",
        cite="mergekit",
        reference="mergekit",
        version=2,
    ),
    Method(
        "multislerp",
        ("base", "models"),
        (
            Parameter("weight", "the weight of each model", per="model", nothing_at_zero=True),
            Parameter("normalize", "divide the weights by their sum", kind="flag", default=True),
            Parameter("eps", "added to lengths before dividing by them", default=Fraction(1, 10**8), low=Fraction(0)),
            Parameter(
                "linear_fallback",
                "take the weighted sum where the weighted directions cancel out, instead of failing",
                kind="flag", default=False,
            ),
        ),
        "d_i = model_i - base; m the direction of sum(weight_i * d_i / |d_i|), T = sum(weight_i * u_i) less its part "
        "along m, u_i = d_i / |d_i|; base + (m * cos|T| + T * sin|T| / |T|) * sum(weight_i * |d_i|)",
        "A weighted mean of directions and of lengths, for any number of models.",
        Statistical("gram"),
        optional=("base",),
        differs="mergekit falls back to the weighted sum for two models without being asked. It fails where all "
        "differences are 0, as for a tensor that nobody trained; here that is the base. Of two models it is not slerp.",
        cite="mergekit",
        reference="mergekit",
    ),
    Method(
        "karcher",
        ("models",),
        (
            Parameter("weight", "the weight of each model", per="model", default=Fraction(1), nothing_at_zero=True),
            Parameter("max_iter", "steps at most", kind="integer", default=Fraction(10), low=Fraction(0)),
            Parameter("tol", "a length or an angle up to it counts as 0", default=Fraction(1, 10**5), low=Fraction(0)),
        ),
        "the unit vector u with the least sum of weight_i * angle(u, model_i) ** 2, times the weighted mean of the "
        "lengths; weights are divided by their sum",
        "The mean of directions on the sphere itself, for any number of models.",
        Statistical("gram"),
        differs="mergekit has no weights. An input opposite to the mean is skipped, as no way leads to it.",
        cite="Karcher 1977; arXiv:2603.04972; mergekit",
        reference="mergekit",
    ),
    Method(
        "model_stock",
        ("base", "models"),
        (
            Parameter("clamp", "keep t between 0 and 1", kind="flag", default=True),
            Parameter(
                "pairs", "whose angles count: those of all pairs, or of each model and the next",
                kind="word", default="all", choices=("all", "adjacent"),
            ),
            Parameter(
                "per", "tensor: one t for all; row: one for each vector along the last dimension",
                kind="word", default="tensor", choices=("tensor", "row"),
            ),
            Parameter(
                "compat", "mergekit: as mergekit does it, t not clamped and products of norms at least 1e-6",
                kind="word", default="none", choices=("none", "mergekit"),
            ),
        ),
        "c = mean of cos(model_i - base, model_j - base) over the pairs; t = N * c / (1 + (N - 1) * c), 0 where that "
        "divides by 0; t * mean(model_i) + (1 - t) * base",
        "Average fine-tunes of one base, going as far from it as their angles say that they agree.",
        Statistical("gram"),
        least_models=2,
        differs="mergekit does not clamp t, which reaches -2 for opposing models, and lets the angles of deltas whose "
        "norms' product is below 1e-6 go to 90 degrees: both under compat = mergekit. sd-mecha takes adjacent pairs, "
        "per row.",
        cite="Jang et al. 2024, arXiv:2403.19522; mergekit",
        reference="mergekit",
        version=2,
    ),
    Method(
        "add_perpendicular",
        ("a", "b", "c"),
        (Parameter("alpha", "how much is added", default=Fraction(1), nothing_at_zero=True),),
        "a + alpha * (q - p * <p, q> / <p, p>), p = a - c, q = b - c; a where p is 0",
        "Add to a what b learned and a did not: the part of b - c that is perpendicular to a - c.",
        Statistical("gram"),
        aliases=("perpendicular_component", "ORTHO"),
        differs="sd-mecha's perpendicular_component is the part that is added, without a.",
        cite="sd-mecha",
        reference="sd-mecha",
    ),
    Method(
        "norm_direction",
        ("a", "b"),
        (Parameter("alpha", "the share of b", nothing_at_zero=True, second_at_one=True),),
        "lerp(a/|a|, b/|b|, alpha), scaled to the length (1 - alpha) * |a| + alpha * |b|; a straight line where a or b "
        "is 0 or they are opposite",
        "Blend directions and lengths apart: a cheap slerp.",
        Statistical("gram"),
        aliases=("NORM",),
        cite="Chattiori-Model-Merger",
    ),
    Method(
        "geometric_median",
        ("models",),
        (
            Parameter("eps", "the least distance to divide by", default=Fraction(1, 10**6), low=_TINY),
            Parameter("maxiter", "steps at most", kind="integer", default=Fraction(100), low=Fraction(0)),
            Parameter("ftol", "stop where a step lessens the mean distance by no more than this part of it",
                      default=Fraction(1, 10**20), low=Fraction(0)),
        ),
        "the point with the least sum of distances to the models, by Weiszfeld's iteration from their mean",
        "A mean that outliers hardly move, for three or more models.",
        Statistical("gram"),
        cite="Weiszfeld 1937; Pillutla et al. 2022, arXiv:1912.13445; sd-mecha",
        reference="sd-mecha",
    ),
    Method(
        "euclidean_add_difference",
        ("a", "b", "c"),
        (Parameter("alpha", "the share of b", low=Fraction(0), high=Fraction(1)),),
        "c + D / |D| * |S|, S = (1 - alpha) * (a - c) + alpha * (b - c), D = sqrt((1 - alpha) * p**2 + alpha * q**2) "
        "with the sign of S, p and q the differences a - c and b - c divided by their norms; c where D is 0",
        "Add two differences elementwise as sides of a right angle, which keeps what is large in either.",
        Statistical("gram"),
        cite="sd-meh",
        version=2,
    ),
)  # fmt: skip
