"""Merges from dot products against mergekit, over shapes, dtypes, kinds of inputs and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from mergekit.merge_methods import merge_tensors
from torch import Tensor

from mergebuild.methods.kernels.gram import KERNELS
from mergebuild.methods.tables.gram import ROWS

METHODS = {row.name: row for row in ROWS}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

CASES: Sequence[tuple[str, int, bool, Mapping[str, Any], Mapping[str, Any]]] = (
    # method, inputs, base, our parameters, mergekit's
    ("slerp", 2, True, {"t": 0.3}, {"t": 0.3}),
    ("slerp", 2, True, {"t": 1.4}, {"t": 1.4}),
    ("nuslerp", 2, False, {"weight": [1.0, 2.0]}, {"weight": [1.0, 2.0]}),
    ("nuslerp", 3, True, {"weight": [1.0, -0.25]}, {"weight": [1.0, -0.25]}),
    ("nuslerp", 2, False, {"weight": [1.0, -1.0]}, {"weight": [1.0, -1.0]}),
    (
        "nuslerp", 3, True, {"weight": [1.0, 0.5], "per": "row"},
        {"weight": [1.0, 0.5], "nuslerp_flatten": False, "nuslerp_row_wise": False},
    ),
    (
        "nuslerp", 2, False, {"weight": [1.0, 0.5], "per": "column"},
        {"weight": [1.0, 0.5], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    (
        "nuslerp", 3, True, {"weight": [1.0, 0.5], "per": "column"},
        {"weight": [1.0, 0.5], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    ("multislerp", 1, False, {"weight": 0.5}, {"weight": 0.5}),
    ("multislerp", 2, True, {"weight": 0.5}, {"weight": 0.5}),
    ("multislerp", 2, False, {"weight": [1.0, 1.0], "linear_fallback": True}, {"weight": 1.0}),
    ("multislerp", 3, True, {"weight": [1.0, -0.4], "linear_fallback": True}, {"weight": [1.0, -0.4]}),
    ("multislerp", 4, True, {"weight": [1.0, 2.0, 0.5]}, {"weight": [1.0, 2.0, 0.5]}),
    (
        "multislerp", 4, False, {"weight": [0.5, 0.4, 0.2, 0.1], "normalize": False},
        {"weight": [0.5, 0.4, 0.2, 0.1], "normalize_weights": False},
    ),
    ("karcher", 1, False, {}, {}),
    ("karcher", 3, False, {}, {}),
    ("karcher", 4, False, {"max_iter": 2}, {"max_iter": 2}),
    ("model_stock", 3, True, {"compat": "mergekit"}, {}),
    ("model_stock", 4, True, {"compat": "mergekit"}, {}),
    ("model_stock", 4, True, {"compat": "mergekit", "per": "row"}, {"filter_wise": True}),
)  # fmt: skip


def _agree(case: tuple[str, int, bool, Mapping[str, Any], Mapping[str, Any]], x: Sequence[Tensor]) -> None:
    name, count, base, ours, theirs = case
    row = METHODS[name]
    singles = sum(1 for each in row.inputs if each != "models" and (each not in row.optional or base))
    call = call_of(row, tuple(x[0].shape), count - singles, ours, has_base=base)
    made = run(KERNELS[name], call, x, None)
    # in float64 mergekit is exact enough to be compared with; in float32 its own rounding is larger than ours
    wanted = merge_tensors(
        [each.double() for each in x], name, parameters=theirs, base_index=0 if base else None, dtype=torch.float64
    )
    scale = max(1.0, float(wanted.abs().max()), *(float(each.abs().max()) for each in x))
    torch.testing.assert_close(made.double(), wanted.double(), rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_mergekit(case: tuple[str, int, bool, Mapping[str, Any], Mapping[str, Any]], shape: tuple[int, ...]) -> None:
    """To within 2e-6 of the largest value, but where a deviation is asserted below."""
    fails = case[0] == "multislerp" and case[1:3] == (4, True)  # on deltas of 0: see below
    for kind in ("random", "fine-tunes", *(() if fails else ("identical",))):
        for dtype in DTYPES:
            _agree(case, [each.to(dtype).to(torch.float32) for each in tensors(kind, shape, case[1] + 1)[: case[1]]])


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in ("slerp", "nuslerp", "karcher")], ids=str)
def test_as_mergekit_at_the_edges(case: tuple[str, int, bool, Mapping[str, Any], Mapping[str, Any]]) -> None:
    """Zeros, deltas of zero and opposites. Those per column, mergekit divides by a sine that is rounding alone."""
    for kind in KINDS:
        if case[1] > 1 and (kind != "antipodal" or case[3].get("per") != "column"):
            _agree(case, tensors(kind, (16, 24), case[1]))


def test_mergekit_does_not_clamp_model_stock_and_we_do() -> None:
    base, first, second = tensors("random", (16, 24), 3)
    first, second = base + first, base - first + second.mul(0.5)
    parameters: dict[str, Any] = {}
    wanted = merge_tensors([base, first, second], "model_stock", parameters=parameters, base_index=0)
    plain = call_of(METHODS["model_stock"], (16, 24), 2, {"compat": "mergekit"})
    ours = call_of(METHODS["model_stock"], (16, 24), 2, {})
    torch.testing.assert_close(
        run(KERNELS["model_stock"], plain, [base, first, second], None), wanted, rtol=0, atol=1e-4
    )
    assert torch.equal(run(KERNELS["model_stock"], ours, [base, first, second], None), base)


def test_mergekit_loses_small_deltas_in_model_stock_and_we_do_not() -> None:
    base, delta = tensors("random", (16, 24), 2)
    tuned = base + delta / delta.norm() * 1e-4
    wanted = merge_tensors([base, tuned, tuned], "model_stock", parameters={}, base_index=0)
    ours = run(KERNELS["model_stock"], call_of(METHODS["model_stock"], (16, 24), 2, {}), [base, tuned, tuned], None)
    assert (wanted - base).norm() < 0.1 * (tuned - base).norm()
    assert torch.equal(ours, tuned)


def test_mergekit_cannot_multislerp_what_nobody_trained_and_we_can() -> None:
    base = tensors("random", (16, 24), 1)[0]
    with pytest.raises(ValueError, match="weighted sum of the input tensors is zero"):
        merge_tensors([base] * 4, "multislerp", parameters={"weight": 1.0}, base_index=0)
    call = call_of(METHODS["multislerp"], (16, 24), 3, {"weight": 1})
    assert torch.equal(run(KERNELS["multislerp"], call, [base] * 4, None), base)
