"""sd-mecha's longer forms of TIES, called on float64 tensors."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

import pytest
import torch
from kernel_cases import SHAPES, call_of, tensors
from kernel_driver import run
from sd_mecha.extensions.builtin.merge_methods import ties

from mergebuild.methods.kernels.randomness import bernoulli
from mergebuild.methods.kernels.ties_sums import KERNELS
from mergebuild.methods.tables.ties_sums import ROWS

ROW = ROWS[0]
LARGE: Sequence[tuple[int, ...]] = [shape for shape in SHAPES if prod(shape) > 1]


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("vote", ["count", "sum"])
@pytest.mark.parametrize("end", ["mean", "stock", "median"])
def test_as_sd_mecha(end: str, vote: str, shape: tuple[int, ...]) -> None:
    """With all elements: sd-mecha keeps one more than asked for. What it calls apply_stock leaves stock out."""
    for kind in ("random", "fine-tunes"):
        inputs = tensors(kind, shape, 4)
        call = call_of(ROW, shape, 3, {"density": 1, "vote": vote, "end": end, "clamp": False})
        found = run(KERNELS[ROW.name], call, inputs, None).double()
        deltas = [(each - inputs[0]).double() for each in inputs[1:]]
        wanted = inputs[0].double() + ties.ties_sum_extended.__wrapped__(
            *deltas,
            k=1.0,
            vote_sgn=vote == "sum",
            apply_stock=end != "stock",
            apply_median=end == "median",
            cos_eps=1e-9,  # a row that is 0 has the cosine 0, there and here
        )
        spread = max(float(each.abs().max()) for each in deltas)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * (1 + spread))


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("rescale", [True, False])
def test_with_dropout_as_sd_mecha(monkeypatch: pytest.MonkeyPatch, rescale: bool, shape: tuple[int, ...]) -> None:
    """Its masks are replaced by ours: the rest is its own."""
    row = next(row for row in ROWS if row.name == "ties_sum_with_dropout")
    inputs = tensors("random", shape, 4)
    call = call_of(row, shape, 3, {"density": 1, "keep": 0.6, "seed": 5, "rescale": rescale})
    found = run(KERNELS[row.name], call, inputs, None).double()
    masks = (bernoulli(Fraction(3, 5), 5, call.tensor, place, 0, prod(shape)).reshape(shape) for place in (1, 2, 3))
    monkeypatch.setattr(ties, "find_della_dropout", lambda *_given: next(masks).double())
    deltas = [(each - inputs[0]).double() for each in inputs[1:]]
    merged = ties.ties_sum_with_dropout.__wrapped__(*deltas, probability=0.4, k=1.0, rescale=rescale, apply_stock=True)
    torch.testing.assert_close(found, inputs[0].double() + merged, rtol=0, atol=1e-5)
