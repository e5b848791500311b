"""Rows of the methods that make each value from the inputs' values at the same place, and are not linear."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import Elementwise, Statistical
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_ZERO, _ONE = Fraction(0), Fraction(1)

_GATED = Parameter("alpha", "how much of the gated difference is added", nothing_at_zero=True)
_EPSILON = Parameter(
    "epsilon", "differences up to this magnitude do not count; absolute", default=Fraction(1, 10**5), low=_ZERO
)
_SEED = Parameter("seed", "which random numbers: another integer, other ones", kind="integer")

ROWS: Sequence[Method] = (
    Method(
        "train_difference",
        ("a", "b", "c"),
        (_GATED,),
        "a + 1.8 * alpha * s * (b - c), s = |b - a| / (|b - c| + |b - a|), 0/0 = 0",
        "Add the difference b - c as if a had been trained on it: little where a is already near b.",
        Elementwise("elementwise"),
        aliases=("trainDifference", "train_difference_mask"),
        differs="supermerger skips tensors whose b and c are equal: the same values. sd-mecha has the mask alone.",
        cite="supermerger",
        reference="sd-mecha",
    ),
    Method(
        "add_opposite",
        ("a", "b", "c"),
        (_GATED,),
        "a + 2 * alpha * m * (b - c), m = |a - b| / (|a - b| + |a + b - 2 * c|), 0/0 = 0",
        "Add the difference b - c most where a and b went opposite ways from c.",
        Elementwise("elementwise"),
        aliases=("add_opposite_mask",),
        differs="sd-mecha has the mask alone.",
        cite="sd-mecha",
        reference="sd-mecha",
    ),
    Method(
        "add_strict_opposite",
        ("a", "b", "c"),
        (_GATED,),
        "a + 2 * alpha * m * (b - c), m = max(0, (c - a) * (b - c) / max(|a - c|, |b - c|)^2), 0/0 = 0",
        "Add the difference b - c only where a and b went opposite ways from c.",
        Elementwise("elementwise"),
        aliases=("add_strict_opposite_mask",),
        differs="sd-mecha has the mask alone, and squares small differences out of float32's range.",
        cite="sd-mecha",
        reference="sd-mecha",
    ),
    Method(
        "similarity_add_difference",
        ("a", "b", "c"),
        (
            Parameter("alpha", "how much of b, or of the difference b - c, is added", nothing_at_zero=True),
            Parameter("beta", "1 blends a and b where they are alike; 0 is add_difference"),
        ),
        "(1 - s) * (a + alpha * (b - c)) + s * ((1 - alpha / 2) * a + (alpha / 2) * b), "
        "s = beta * (a * b / max(|a|, |b|)^2 + 1) / 2, s = beta where 0/0",
        "Add a difference where a and b are unlike, average them where they are alike.",
        Elementwise("elementwise"),
        aliases=("similarity_add_diff",),
        cite="sd-meh",
    ),
    Method(
        "multiply_difference",
        ("a", "b", "c"),
        (
            Parameter("alpha", "the share of b in the geometric mean of the differences", low=_ZERO, high=_ONE),
            Parameter("beta", "the share of b in the blend that gives the sign"),
        ),
        "c + copysign(|a - c|^(1 - alpha) * |b - c|^alpha, lerp(a, b, beta) - c)",
        "Keep what both a and b changed from c: where one of them changed nothing, c stays.",
        Elementwise("elementwise"),
        differs="sd-meh takes any alpha and divides by 0 outside 0..1; here that is an error.",
        cite="sd-meh",
        version=2,
    ),
    Method(
        "geometric",
        ("a", "b"),
        (Parameter("alpha", "the share of b", low=_ZERO, high=_ONE, nothing_at_zero=True, second_at_one=True),),
        "Re(a^(1 - alpha) * b^alpha) "
        "= |a|^(1 - alpha) * |b|^alpha * cos(pi * ((1 - alpha) * [a < 0] + alpha * [b < 0]))",
        "Blend two models by multiplication: where either is 0, so is the result.",
        Elementwise("elementwise"),
        aliases=("geometric_sum", "GEO"),
        differs="Chattiori takes real powers, which negative weights do not have.",
        cite="sd-mecha",
        reference="sd-mecha",
        version=2,
    ),
    Method(
        "multiply_quotient",
        ("a", "b", "c"),
        (Parameter("alpha", "the power of the quotient b / c", nothing_at_zero=True),),
        "Re(a * (b / c)^x), x = alpha * max(0, -r_a * r_b / max(|r_a|, |r_b|)^2), r_a = ln|a / c|, r_b = ln|b / c|; "
        "a where that has no value",
        "Multiply by the quotient b / c where a and b went opposite ways from c.",
        Elementwise("elementwise"),
        cite="sd-mecha",
        reference="sd-mecha",
    ),
    Method(
        "max",
        ("a", "b"),
        (),
        "max(a, b)",
        "The greater of two values.",
        Elementwise("elementwise"),
        cite="sd-webui-model-mixer",
    ),
    Method(
        "clamp",
        ("a", "models"),
        (Parameter("stiffness", "0: between the extremes; 1: between those nearest to their mean", default=_ZERO),),
        "min(max(a, low), high), high = (1 - stiffness) * max(model_i) + stiffness * min(model_i >= m), "
        "low = (1 - stiffness) * min(model_i) + stiffness * max(model_i <= m), m = mean(model_i)",
        "Keep a model within what others reach.",
        Elementwise("elementwise"),
        aliases=("clip", "weights_clip"),
        differs="sd-mecha takes the mean in float32, which may miss the only value that it lies on.",
        cite="sd-mecha",
        reference="sd-mecha",
    ),
    Method(
        "nearswap",
        ("a", "b"),
        (Parameter("t", "how far a may go towards b", low=_ZERO, nothing_at_zero=True),),
        "a + clamp(b - a, -t, t), and b itself where |b - a| <= t",
        "Take b where it is close to a, and a small step towards it elsewhere.",
        Elementwise("elementwise"),
        differs="mergekit treats differences under 1e-6 alike, which shows for a t below that; it passes a lone base "
        "through, here that is an error.",
        cite="alchemonaut, QuartetAnemoi; mergekit",
        reference="mergekit",
    ),
    Method(
        "ram",
        ("base", "models"),
        (_EPSILON,),
        "base + sum(d_i * [|d_i| > epsilon]) / max(1, count(|d_i| > epsilon)), d_i = model_i - base",
        "Merge fine-tunes that changed few weights each: average only over those that changed a weight.",
        Elementwise("elementwise"),
        cite="Reinforced Agent Merging, arXiv:2601.13572; mergekit",
        reference="mergekit",
    ),
    Method(
        "ramplus_tl",
        ("base", "models"),
        (
            _EPSILON,
            Parameter("r", "how much what only one model changed gains", default=Fraction(1, 10)),
            Parameter("alpha", "the ratio of shared to lone changes beyond which it gains no more",
                      default=Fraction(1, 5)),
        ),
        "as ram, with what only model_i changed times 1 + r * clamp(shared_i / max(lone_i, epsilon), 0, alpha); "
        "lone_i, shared_i: how many values of the tensor it alone, or it and others changed",
        "As ram, with more weight on what only one model learned.",
        Statistical("elementwise"),
        differs="mergekit writes float32 unless told otherwise; here it is the dtype asked for.",
        cite="Reinforced Agent Merging, arXiv:2601.13572; mergekit",
        reference="mergekit",
    ),
    Method(
        "plus_random",
        ("a",),
        (Parameter("alpha", "the noise's standard deviation"), _SEED),
        "a + alpha * N(0, 1); tensors whose name contains to_out, proj_out or norm stay a",
        "Add noise, the same for the same seed.",
        Elementwise("elementwise"),
        aliases=("plusRandom", "plus random"),
        differs="supermerger's noise is another in each run.",
        cite="supermerger",
        version=2,
    ),
    Method(
        "dropout",
        ("base", "models"),
        (
            Parameter("probability", "of each value of each difference to be dropped", default=Fraction(9, 10),
                      low=_ZERO, high=_ONE),
            Parameter("rescale", "the power of 1 - probability that what is kept is divided by", default=_ONE),
            _SEED,
        ),
        "base + sum(mask_i * (model_i - base)) / max(1, sum(mask_i)) / (1 - probability)^rescale, "
        "mask_i = 1 with a chance of 1 - probability, each on its own",
        "Drop most of what fine-tunes changed, at random, and scale up the rest.",
        Elementwise("elementwise"),
        aliases=("n-supermario",),
        differs="sd-mecha draws the same masks for all tensors of one shape; its joint masks (overlap) are not there.",
        cite="Yu et al. 2023, arXiv:2311.03099; sd-mecha",
        reference="sd-mecha",
    ),
)  # fmt: skip
