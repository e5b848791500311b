"""Rows of the methods on task vectors: what fine-tunes changed, thinned out, put to a vote and added to their base."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import Statistical
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_WEIGHT = Parameter(
    "weight", "the weight of each model; a negative one takes its delta away, and turns its vote", per="model",
    nothing_at_zero=True,
)  # fmt: skip
_LAMBDA = Parameter("lambda", "scales what is added to the base", default=Fraction(1), nothing_at_zero=True)
_SEED = Parameter("seed", "which random numbers", kind="integer")
_VOTE = (
    Parameter(
        "vote", "how the sign of an element is elected: by the sum of the weighted deltas, or by their number",
        kind="word", default="sum", choices=("sum", "count"),
    ),
    Parameter(
        "zero_vote", "who wins a vote that comes to 0: the positive ones, or none",
        kind="word", default="plus", choices=("plus", "none"),
    ),
    Parameter(
        "average", "what normalize divides by: the sum of the weights on the elected side, or their number",
        kind="word", default="weight", choices=("weight", "count"),
    ),
)  # fmt: skip
_ELECTED = (
    "m = the sign of sum(e_i); base + lambda * sum(e_i of sign m), divided by sum(weight_i of these) if normalize"
)
_ADDED = "base + lambda * sum(e_i), divided by sum(weight_i) if normalize"


def _density(kept: str) -> Parameter:
    return Parameter(
        "density", f"the share of each delta that is kept: {kept}", per="model", default=Fraction(1),
        nothing_at_zero=True,
    )  # fmt: skip


def _normalize(*, default: bool) -> Parameter:
    return Parameter("normalize", "divide by the weights", kind="flag", default=default)


def _rescale(default: str) -> Parameter:
    return Parameter(
        "rescale",
        "how what is kept is scaled up: not at all, to the sum of magnitudes of the whole, or by 1 / probability",
        kind="word", default=default, choices=("none", "l1", "1/p"),
    )  # fmt: skip


def _compat(summary: str) -> Parameter:
    return Parameter("compat", summary, kind="word", default="none", choices=("none", "mergekit"))


_GAMMA = Parameter(
    "gamma", "the share of each delta, of its largest magnitudes, that is dropped as outliers",
    per="model", default=Fraction(1, 100), low=Fraction(0),
)  # fmt: skip
_EPSILON = Parameter(
    "epsilon", "how far the probabilities of the smallest and largest magnitudes lie from density",
    per="model", default=Fraction(15, 100), low=Fraction(0),
)  # fmt: skip
_DARE_COMPAT = _compat("mergekit: rescale = l1, as mergekit does it")
_DELLA_COMPAT = _compat("mergekit: rank along the second dimension alone, as mergekit does it")

_TIES_DIFFERS = (
    "Elements of equal magnitude are kept in the order of their indices; in mergekit the order is left to its sort. "
    "sd-mecha and sd-meh: vote = count, zero_vote = none, average = count, and all elements at the threshold are kept."
)
_BREADCRUMBS_DIFFERS = "Elements of equal magnitude are taken in the order of their indices, the first as the largest."
_RANDOM_DIFFERS = (
    "mergekit draws from one global generator, unseeded, in the order of its work: its masks cannot be repeated. Here "
    "an element is kept or not by seed, tensor name, the model's place and the element's index."
)

ROWS: Sequence[Method] = (
    Method(
        "ties",
        ("base", "models"),
        (_WEIGHT, _density("the largest magnitudes"), _normalize(default=True), _rescale("none"), _LAMBDA, *_VOTE),
        f"e_i = weight_i * (model_i - base where it is among the density * n largest magnitudes, else 0); {_ELECTED}",
        "Merge fine-tunes that disagree: keep what each changed most, and let the sign of the sum decide.",
        Statistical("task_vectors"),
        aliases=("TIES",),
        differs=_TIES_DIFFERS,
        cite="Yadav et al. 2023, arXiv:2306.01708; mergekit",
        reference="mergekit",
    ),
    Method(
        "dare_linear",
        ("base", "models"),
        (_WEIGHT, _density("any, at random"), _normalize(default=False), _rescale("1/p"), _LAMBDA, _SEED, _DARE_COMPAT),
        f"e_i = weight_i / density_i * (model_i - base, each element with probability density_i, else 0); {_ADDED}",
        "Add fine-tunes of which most is dropped at random, so that they meet less.",
        Statistical("task_vectors"),
        aliases=("dare", "supermario"),
        differs=f"{_RANDOM_DIFFERS} mergekit scales by the ratio of the sums of magnitudes (compat = mergekit), the "
        "paper and this by 1 / density.",
        cite="Yu et al. 2023, arXiv:2311.03099; mergekit",
        reference="mergekit",
    ),
    Method(
        "dare_ties",
        ("base", "models"),
        (
            _WEIGHT, _density("any, at random"), _normalize(default=False), _rescale("1/p"), _LAMBDA, _SEED,
            _DARE_COMPAT, *_VOTE,
        ),
        f"e_i as in dare_linear; {_ELECTED}",
        "Drop most of each fine-tune at random, then let the sign of the sum decide.",
        Statistical("task_vectors"),
        differs=f"{_RANDOM_DIFFERS} mergekit scales by the ratio of the sums of magnitudes (compat = mergekit), the "
        "paper and this by 1 / density.",
        cite="Yu et al. 2023, arXiv:2311.03099; mergekit",
        reference="mergekit",
    ),
    Method(
        "breadcrumbs",
        ("base", "models"),
        (
            _WEIGHT, _density("what the outliers and the smallest magnitudes leave"), _GAMMA, _normalize(default=False),
            _rescale("none"), _LAMBDA,
        ),
        "e_i = weight_i * (model_i - base where its magnitude is among the density * n largest after the gamma * n "
        f"largest, else 0); {_ADDED}",
        "Add fine-tunes without their outliers and without what they hardly changed.",
        Statistical("task_vectors"),
        differs=_BREADCRUMBS_DIFFERS,
        cite="Davari & Belilovsky 2023, arXiv:2312.06795; mergekit",
        reference="mergekit",
    ),
    Method(
        "breadcrumbs_ties",
        ("base", "models"),
        (
            _WEIGHT, _density("what the outliers and the smallest magnitudes leave"), _GAMMA, _normalize(default=False),
            _rescale("none"), _LAMBDA, *_VOTE,
        ),
        f"e_i as in breadcrumbs; {_ELECTED}",
        "Breadcrumbs, then let the sign of the sum decide.",
        Statistical("task_vectors"),
        differs=_BREADCRUMBS_DIFFERS,
        cite="Davari & Belilovsky 2023, arXiv:2312.06795; mergekit",
        reference="mergekit",
    ),
    Method(
        "della",
        ("base", "models"),
        (
            _WEIGHT, _density("any, at random, large magnitudes rather than small ones"), _EPSILON,
            _normalize(default=True), _rescale("l1"), _LAMBDA, _SEED, _DELLA_COMPAT, *_VOTE,
        ),
        "e_i = weight_i * (model_i - base, each element with a probability from density - epsilon to density + epsilon "
        f"by the rank of its magnitude in its row, else 0), scaled; {_ELECTED}",
        "Drop at random what each fine-tune changed little, then let the sign of the sum decide.",
        Statistical("task_vectors"),
        differs=f"{_RANDOM_DIFFERS} A row is all behind an index of the first dimension (compat = mergekit: the second "
        "dimension); mergekit fails on rows of one element, whose probability is density here.",
        cite="Deep et al. 2024, arXiv:2406.11617; mergekit",
        reference="mergekit",
    ),
    Method(
        "della_linear",
        ("base", "models"),
        (
            _WEIGHT, _density("any, at random, large magnitudes rather than small ones"), _EPSILON,
            _normalize(default=False), _rescale("l1"), _LAMBDA, _SEED, _DELLA_COMPAT,
        ),
        f"e_i as in della; {_ADDED}",
        "Add fine-tunes of which small changes are dropped at random rather than large ones.",
        Statistical("task_vectors"),
        differs=f"{_RANDOM_DIFFERS} A row is all behind an index of the first dimension (compat = mergekit: the second "
        "dimension); mergekit fails on rows of one element, whose probability is density here.",
        cite="Deep et al. 2024, arXiv:2406.11617; mergekit",
        reference="mergekit",
    ),
    Method(
        "sce",
        ("base", "models"),
        (
            Parameter("select_topk", "the share of the elements, where the models differ most, that is merged",
                      default=Fraction(1)),
            _compat("mergekit: equal weights where mean(delta**2) of all models adds up to less than 1e-6"),
        ),
        "d_i = model_i - base where the variance over the models is among the largest, else 0; w_i = sum(d_i**2), "
        "divided by their sum; base + sum(w_i * d_i of the sign of sum(d_i)) / max(sum(w_i of these), 1e-6)",
        "Merge fine-tunes where they differ, each weighed by how much of it is left.",
        Statistical("importance"),
        differs="mergekit takes equal weights for deltas as small as those of most fine-tunes (compat = mergekit); "
        "here only where all are 0. Elements of equal variance are taken in the order of their indices.",
        cite="Wan et al. 2024, arXiv:2408.07990; mergekit",
        reference="mergekit",
    ),
    Method(
        "arcee_fusion",
        ("a", "b"),
        (),
        "b where |b - a| * KL(softmax(b), softmax(a)) (per row) is at least its median + 1.5 * (third - first "
        "quartile), else a",
        "Take from b only the changes that stand out, without any parameter.",
        Statistical("importance"),
        differs="Beyond a million elements mergekit takes the quartiles of a random sample, so that two runs differ; "
        "here they are exact.",
        cite="Arcee AI; mergekit",
        reference="mergekit",
    ),
    Method(
        "topk_mask",
        ("a", "b"),
        (
            Parameter("alpha", "the share of b where it is taken", nothing_at_zero=True),
            Parameter("density", "the share of the elements, of the largest differences, that is taken",
                      default=Fraction(1, 2)),
        ),
        "(1 - alpha) * a + alpha * b where |b - a| is among the density * n largest, else a",
        "Blend two models only where they differ most.",
        Statistical("importance"),
        aliases=("sparse_topk",),
        differs="sd-webui-model-mixer calls it TIES; there is no vote in it.",
        cite="sd-webui-model-mixer",
    ),
)  # fmt: skip
