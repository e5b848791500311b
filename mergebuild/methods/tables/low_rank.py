"""Rows of the methods that keep only the leading directions of a difference."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import WholeTensor
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_ZERO, _ONE = Fraction(0), Fraction(1)

_APPROXIMATE = (
    Parameter("approximate", "find a close one by random vectors, much faster", kind="flag", default=False),
    Parameter("seed", "for approximate: which random vectors", kind="integer", default=_ZERO),
    Parameter(
        "iterations",
        "for approximate: power iterations; more come closer",
        kind="integer",
        default=Fraction(2),
        low=_ZERO,
    ),
)


def _rank(default: int) -> tuple[Parameter, ...]:
    return (
        Parameter("rank", "the rank that is kept; a full one keeps everything", kind="integer",
                  default=Fraction(default), low=_ZERO),
        Parameter("ratio", "instead of a rank, if above 0: the rank as a share of the shorter side", default=_ZERO,
                  low=_ZERO, high=_ONE),
    )  # fmt: skip


ROWS: Sequence[Method] = (
    Method(
        "truncate_rank",
        ("a",),
        (*_rank(8), *_APPROXIMATE),
        "U_r * diag(S_r) * V_r^T of the singular value decomposition of a as a matrix [a.shape[0], rest]; tensors of "
        "fewer than two dimensions stay a",
        "Cut a difference of models to its largest directions, as a LoRA of that rank would.",
        WholeTensor("low_rank"),
        differs="sd-mecha's default is an approximate, unseeded basis, and its cache rounds factors to float16; here "
        "the default is exact, and approximate = true is seeded and never depends on what ran before.",
        cite="sd-mecha; Eckart & Young 1936; Halko et al. 2011, arXiv:0909.4061",
        exact=False,
        reference="sd-mecha",
    ),
    Method(
        "lowrank_diff",
        ("a", "b"),
        (*_rank(4), *_APPROXIMATE),
        "a + truncate_rank(b - a); tensors of fewer than two dimensions are b's",
        "Give a coherent model the broad changes of a more accurate but distorted one.",
        WholeTensor("low_rank"),
        aliases=("contact_fusion", "接触融合"),
        cite="rimo_random_mix; Eckart & Young 1936",
        exact=False,
    ),
    Method(
        "truncate_kronecker",
        ("a",),
        (
            Parameter("kronecker_ratio", "how large the first factor is: 0 small, 1 large, 0.5 both alike",
                      default=Fraction(1, 2), low=_ZERO, high=_ONE),
            *_APPROXIMATE,
        ),
        "the kron(x, y) nearest to a, x of shape [m1, n1]; tensors of fewer than two dimensions stay a",
        "Cut a difference of models to one Kronecker product, as a LoKr would.",
        WholeTensor("low_rank"),
        differs="sd-mecha's default is an approximate, unseeded basis. Of equally good shapes of the factors it takes "
        "one by rounding error; here it is the squarest, then the one with the smallest m1.",
        cite="sd-mecha; Van Loan & Pitsianis 1993",
        exact=False,
        reference="sd-mecha",
    ),
)  # fmt: skip
