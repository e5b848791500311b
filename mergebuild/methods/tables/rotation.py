"""The row of `rotate`, which turns one model towards another."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import WholeTensor
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

ROWS: Sequence[Method] = (
    Method(
        "rotate",
        ("a", "b"),
        (
            Parameter("alignment", "how far a is turned towards b: 0 not, 1 wholly", default=Fraction(1)),
            Parameter("alpha", "how much of what turning cannot change comes from b", default=Fraction(0)),
            Parameter("centralization", "how much of the mean row is taken off before turning", default=Fraction(1)),
            Parameter(
                "stiefel_eps",
                "for wide matrices and a fractional alignment: the error allowed",
                default=Fraction(1, 10**8),
                low=Fraction(0),
            ),
            Parameter(
                "stiefel_max_iters",
                "for wide matrices and a fractional alignment: how often to try",
                kind="integer",
                default=Fraction(100),
                low=Fraction(1),
            ),
        ),
        "lerp(a', b' * Q^-1, alpha) * Q^alignment + lerp(mean(a), mean(b), alignment), a' and b' the rows less their "
        "mean, Q the orthogonal matrix nearest to turning a' into b'; tensors of one dimension: lerp(a, b, alpha)",
        "Turn the weights of a into the frame of b without changing what they do among themselves.",
        WholeTensor("rotation"),
        differs="sd-mecha caches Q as float16, and where inputs leave Q open (fewer directions than columns, or a wide "
        "matrix less its mean) takes what rounding errors say; here what is open is not turned. Its powers assume "
        "eigenvectors to be orthonormal, and a geodesic that was not found is used anyway; here that is an error.",
        cite="sd-mecha; Schoenemann 1966; Zimmermann & Hueper 2022, arXiv:2103.12046",
        exact=False,
        reference="sd-mecha",
    ),
)
