"""Rows of the methods that treat a tensor as rows: bands of them, or gates by the cosine of two vectors."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import Elementwise, Rowwise, Statistical
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_ZERO, _ONE = Fraction(0), Fraction(1)

_BAND = (
    Parameter("width", "the share of the rows that b gives; below 0 the band ends at the offset",
              default=Fraction(1, 2)),
    Parameter("offset", "where the band begins; past the end it goes on at the start", default=_ZERO),
    Parameter("rounding", "of the band's bounds to whole rows: down, or to the nearest", kind="word", default="int",
              choices=("int", "round")),
)  # fmt: skip

ROWS: Sequence[Method] = (
    Method(
        "tensor_sum",
        ("a", "b"),
        _BAND,
        "b in rows int(n * offset) to int(n * (offset + width)) of the n of the first dimension, a in the others",
        "Take whole rows of b, the others of a, with nothing blended.",
        Elementwise("rows"),
        aliases=("tensor",),
        differs="Bounds come from exact numbers: supermerger and sd-meh round in floating point (0.29 of 100 rows are "
        "28 there, 29 here). sd-mecha rounds to the nearest row (rounding = \"round\") and writes into its input. "
        "Numbers without dimensions stay a's unless the width is 1; with rounding = \"round\" they are b's above 0.5.",
        cite="supermerger; sd-mecha",
        reference="sd-mecha",
    ),
    Method(
        "tensor_sum2",
        ("a", "b"),
        _BAND,
        "as tensor_sum, along the second dimension where there is one longer than 100, else along the first",
        "Take whole input channels of b, the others of a, with nothing blended.",
        Elementwise("rows"),
        aliases=("tensor2",),
        differs="supermerger counts the rows of the first dimension and still cuts the second where that is short.",
        cite="supermerger",
    ),
    Method(
        "extract",
        ("base", "a", "b"),
        (
            Parameter("alpha", "the share of b in the difference", low=_ZERO, high=_ONE),
            Parameter("beta", "0 takes what a and b have in common, 1 what they have not", low=_ZERO, high=_ONE),
            Parameter("gamma", "the power of the similarity: the higher, the stricter", default=_ONE, low=_ZERO),
        ),
        "base + lerp(a - base, b - base, alpha) * lerp(d, 1 - d, beta), d = ((cos + 1) / 2)^gamma, cos of the two "
        "differences along the last dimension; without a base, of a and b themselves",
        "Take out of two fine-tunes what they share, or what only one of them has.",
        Rowwise("rows"),
        optional=("base",),
        differs="A difference of 0 has the cosine 0.",
        cite="supermerger",
        version=2,
    ),
    Method(
        "cosine_gate",
        ("a", "b"),
        (
            Parameter("alpha", "columns whose similarity is not above it become b's"),
            Parameter("form", "a: the similarity of each column; b: its mean with that of the whole tensors",
                      kind="word", default="a", choices=("a", "b")),
        ),
        "lerp(a, b, k), k = 1 - clamp(similarity - alpha, 0, 1), similarity = the cosine along the first dimension "
        "(form a), or its mean with the cosine of the whole tensors (form b)",
        "Take b where it differs from a, keep a where they are alike.",
        Statistical("rows"),
        aliases=("add_cosine_a", "add_cosine_b"),
        differs="Another method than supermerger's cosineA and cosineB. A column of zeros has the cosine 0, where "
        "sd-mecha's form b is NaN for a tensor of zeros.",
        cite="sd-mecha",
        reference="sd-mecha",
        version=2,
    ),
)  # fmt: skip
