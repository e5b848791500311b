"""What sd-mecha has of the merges from dot products and of task vectors, called on float64 tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from sd_mecha.extensions.builtin.merge_methods import linear, ties
from torch import Tensor

from mergebuild.methods.kernels import gram, task_vectors
from mergebuild.methods.tables.gram import ROWS as GRAM_ROWS
from mergebuild.methods.tables.task_vectors import ROWS as TASK_ROWS

METHODS = {row.name: row for row in (*GRAM_ROWS, *TASK_ROWS)}
KERNELS = {**gram.KERNELS, **task_vectors.KERNELS}
Given = Mapping[str, Any]


def _slerp(x: Sequence[Tensor]) -> Tensor:
    return linear.slerp.__wrapped__(*x, alpha=torch.tensor(0.3, dtype=torch.float64))


def _perpendicular(x: Sequence[Tensor]) -> Tensor:
    return x[0] + 0.7 * linear.perpendicular_component.__wrapped__(x[0] - x[2], x[1] - x[2])


def _median(x: Sequence[Tensor]) -> Tensor:
    return ties.geometric_median.__wrapped__(*x)


def _stock(x: Sequence[Tensor]) -> Tensor:
    shaped = [each if each.dim() else each.reshape(1) for each in x]
    return (shaped[0] + ties.model_stock.__wrapped__(*[each - shaped[0] for each in shaped[1:]])).reshape(x[0].shape)


def _ties(vote_sgn: bool) -> Callable[[Sequence[Tensor]], Tensor]:
    def merged(x: Sequence[Tensor]) -> Tensor:
        deltas = [(each - x[0]).float() for each in x[1:]]  # of float64 its own filter drops the smallest
        return x[0] + ties.ties_sum.__wrapped__(*deltas, k=1.0, vote_sgn=vote_sgn)

    return merged


CASES: Sequence[tuple[str, int, Given, Callable[[Sequence[Tensor]], Tensor], Sequence[str]]] = (
    # method, inputs, our parameters, sd-mecha's, the kinds of inputs for which it has a value
    ("slerp", 2, {"t": 0.3, "magnitude": "lerp"}, _slerp, ("random", "fine-tunes", "one zero", "all zero")),
    ("add_perpendicular", 3, {"alpha": 0.7}, _perpendicular, KINDS),
    ("geometric_median", 4, {}, _median, KINDS),
    (
        "model_stock", 4, {"pairs": "adjacent", "per": "row", "clamp": False}, _stock,
        ("random", "fine-tunes", "one zero", "identical"),
    ),
    (
        "ties", 4, {"weight": 1, "vote": "count", "zero_vote": "none", "average": "count"}, _ties(False), KINDS,
    ),
    (
        "ties", 4, {"weight": 1, "zero_vote": "none", "average": "count"}, _ties(True),
        ("random", "fine-tunes", "one zero", "all zero", "antipodal"),
    ),
)  # fmt: skip


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape and shape != (1,)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{dict(case[2])}")
def test_as_sd_mecha(
    case: tuple[str, int, Given, Callable[[Sequence[Tensor]], Tensor], Sequence[str]], shape: tuple[int, ...]
) -> None:
    """To within 3e-6 of the largest value. Its slerp of single numbers of opposite signs divides by rounding alone."""
    name, count, given, theirs, kinds = case
    row = METHODS[name]
    call = call_of(row, shape, count - ("base" in row.inputs), given)
    for kind in kinds if shape or name != "slerp" else ():
        x = tensors(kind, shape, count)
        made = run(KERNELS[name], call, x, None)
        wanted = theirs([each.double() for each in x])
        scale = max(1.0, float(wanted.abs().max()), *(float(each.abs().max()) for each in x))
        torch.testing.assert_close(made.double(), wanted, rtol=0, atol=3e-6 * scale, msg=kind)
