"""Merges of task vectors against mergekit, over shapes, dtypes, kinds of inputs and parameters.

What mergekit draws at random is replaced by our numbers, so that its masks are ours and all the rest is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from mergekit.merge_methods import merge_tensors
from torch import Tensor

from mergebuild.methods.kernels import importance, task_vectors
from mergebuild.methods.kernels.kernel import Call
from mergebuild.methods.kernels.randomness import bits
from mergebuild.methods.tables.task_vectors import ROWS

METHODS = {row.name: row for row in ROWS}
KERNELS = {**task_vectors.KERNELS, **importance.KERNELS}
DTYPES = (torch.bfloat16, torch.float16)
W = [1.0, 0.5, -0.75]
Given = Mapping[str, Any]

CASES: Sequence[tuple[str, int, Given, Given]] = (
    # method, inputs, parameters of both, ours alone
    ("ties", 2, {"weight": 1.0}, {}),
    ("ties", 4, {"weight": W, "density": 0.3, "lambda": 1.5}, {}),
    ("ties", 4, {"weight": W, "density": [0.5, 1.0, 0.0], "normalize": False}, {}),
    ("ties", 4, {"weight": [1.0, 2.0, 0.5], "density": 0.5, "rescale": True}, {"rescale": "l1"}),
    ("breadcrumbs", 4, {"weight": W}, {}),
    ("breadcrumbs", 4, {"weight": W, "density": 0.5, "gamma": [0.125, 0.75, 0.0], "normalize": True}, {}),
    ("breadcrumbs", 3, {"weight": 1.0, "density": 0.5, "gamma": 0.25, "rescale": True}, {"rescale": "l1"}),
    ("breadcrumbs_ties", 4, {"weight": W, "density": 0.25, "gamma": 0.125}, {}),
    ("dare_linear", 3, {"weight": 1.0, "density": 0.5, "normalize": True}, {"seed": 1, "compat": "mergekit"}),
    ("dare_linear", 4, {"weight": W, "density": 0.25, "rescale": False}, {"seed": 2, "rescale": "none"}),
    ("dare_ties", 4, {"weight": W, "density": [0.5, 1.0, 0.25]}, {"seed": 3, "compat": "mergekit"}),
    ("della", 4, {"weight": W, "density": 0.5}, {"seed": 4, "compat": "mergekit"}),
    ("della", 3, {"weight": 1.0, "density": 0.5, "epsilon": 0.25, "rescale": False},
     {"seed": 5, "compat": "mergekit", "rescale": "none"}),
    ("della_linear", 3, {"weight": 1.0, "density": 0.75, "epsilon": 0.125}, {"seed": 6, "compat": "mergekit"}),
    ("sce", 4, {}, {"compat": "mergekit"}),
    ("sce", 4, {"select_topk": 0.3}, {"compat": "mergekit"}),
    ("sce", 2, {"select_topk": 0.5}, {"compat": "mergekit"}),
)  # fmt: skip


class _Ours:
    """Draws masks as we do, in place of `torch.bernoulli`: one a model whose delta is thinned, in order."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._positions = iter([i + 1 for i, p in enumerate(call.numbers("density")) if 0 < p < 1])

    def __call__(self, chances: Tensor) -> Tensor:
        drawn = bits(int(self._call.number("seed")), self._call.tensor, next(self._positions), 0, chances.numel())
        return (drawn < (chances.reshape(-1).double() * 2**32).floor()).reshape(chances.shape).to(chances.dtype)


def _theirs(name: str, call: Call, x: Sequence[Tensor], given: Given, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return mergekit's result in float64: it is exact enough then to be compared with.

    Its sort leaves the order of equal magnitudes open; here it keeps that of the indices.
    """
    argsort = torch.argsort
    monkeypatch.setattr(torch, "argsort", lambda values, **how: argsort(values, stable=True, **how))
    if "seed" in call.arguments:
        monkeypatch.setattr(torch, "bernoulli", _Ours(call))
    wide = [each.double() for each in x]
    made: Tensor = merge_tensors(wide, name, parameters=dict(given), base_index=0, dtype=torch.float64)
    monkeypatch.undo()
    return made


def _mergekit_can(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether it has a value at all: its della fails on rows of one element."""
    return not name.startswith("della") or (bool(shape) and (shape[0] if len(shape) == 1 else shape[1]) > 1)


@pytest.mark.parametrize(
    ("case", "shape"),
    [(case, shape) for case in CASES for shape in SHAPES if 0 not in shape and _mergekit_can(case[0], shape)],
    ids=str,
)
def test_as_mergekit(
    case: tuple[str, int, Given, Given], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To within 3e-6 of the largest value.

    Values of 16 bits have deltas of equal magnitudes; which of them breadcrumbs and sce take is our own rule.
    """
    name, count, both, ours = case
    call = call_of(METHODS[name], shape, count - 1, {**both, **ours})
    coarse = name in ("ties", "dare_linear", "dare_ties", "della", "della_linear")
    inputs = [tensors(kind, shape, count) for kind in KINDS]
    inputs += [[each.to(dtype).to(torch.float32) for each in inputs[0]] for dtype in DTYPES if coarse]
    for x in inputs:
        wanted = _theirs(name, call, x, both, monkeypatch)
        made = run(KERNELS[name], call, x, None)
        scale = max(1.0, float(wanted.abs().max()), *(float(each.abs().max()) for each in x))
        torch.testing.assert_close(made.double(), wanted, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) and 0 not in shape], ids=str)
def test_arcee_fusion_as_mergekit(shape: tuple[int, ...]) -> None:
    """Every element, but for those whose importance is within rounding of the threshold: at most one in a hundred."""
    call = call_of(METHODS["arcee_fusion"], shape, 0, {})
    for kind in KINDS:
        x = tensors(kind, shape, 2)
        wanted = merge_tensors([each.double() for each in x], "arcee_fusion", base_index=0, dtype=torch.float64)
        made = run(KERNELS["arcee_fusion"], call, x, None).double()
        differing = (made - wanted).abs() > 1e-6
        assert int(differing.sum()) * 100 <= call.count, kind


def test_mergekit_makes_sce_of_light_fine_tunes_a_plain_mean_and_we_do_not() -> None:
    base, first, second = tensors("random", (64, 64), 3)
    x = [base * 0, first * 5e-4, first.sign() * second.abs() * 1e-4]
    theirs = merge_tensors(x, "sce", base_index=0, dtype=torch.float32)
    ours = run(KERNELS["sce"], call_of(METHODS["sce"], (64, 64), 2, {}), x, None)
    torch.testing.assert_close(theirs, (x[1] + x[2]) / 2)
    assert float((ours - x[1]).norm()) < 0.1 * float((theirs - x[1]).norm())


@pytest.mark.parametrize("shape", [(), (1,), (8, 1)], ids=str)
def test_mergekit_has_no_della_of_rows_of_one_element_and_we_do(shape: tuple[int, ...]) -> None:
    x = tensors("random", shape, 2)
    with pytest.raises((RuntimeError, IndexError)):
        merge_tensors(x, "della", parameters={"weight": 1.0, "density": 0.5}, base_index=0)
    call = call_of(METHODS["della"], shape, 1, {"weight": 1, "density": 0.5, "seed": 0})
    made = run(KERNELS["della"], call, x, None)
    assert bool(made.isfinite().all())


def test_della_ranks_along_all_of_a_row_and_mergekit_along_its_second_dimension() -> None:
    """The default differs from mergekit on convolutions, and `compat = "mergekit"` does not (see above)."""
    x = tensors("random", (4, 3, 3, 3), 2)
    given = {"weight": 1, "density": 0.5, "epsilon": 0.45, "seed": 1, "rescale": "none"}
    ours = run(KERNELS["della"], call_of(METHODS["della"], x[0].shape, 1, given), x, None)
    plain = call_of(METHODS["della"], x[0].shape, 1, {**given, "compat": "mergekit"})
    assert not torch.equal(ours, run(KERNELS["della"], plain, x, None))


def test_dare_scales_by_the_density_and_mergekit_by_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tensors("random", (16, 24), 2)
    call = call_of(METHODS["dare_linear"], (16, 24), 1, {"weight": 1, "density": 0.3, "seed": 1})
    theirs = _theirs("dare_linear", call, x, {"weight": 1.0, "density": 0.3}, monkeypatch)
    ours = run(KERNELS["dare_linear"], call, x, None).double()
    kept = (ours - x[0]).abs() > 1e-6
    ratio = ((ours - x[0]) / (theirs - x[0]))[kept]
    torch.testing.assert_close(ratio, ratio[0].expand(ratio.shape), rtol=1e-3, atol=0)
    assert abs(float(ratio[0]) - 1) > 1e-4


def test_mergekit_draws_from_one_unseeded_generator_and_we_by_seed_and_name() -> None:
    x, given = tensors("random", (64, 64), 2), {"weight": 1.0, "density": 0.5}
    theirs = [merge_tensors(x, "dare_linear", parameters=given, base_index=0) for _ in range(2)]
    call = call_of(METHODS["dare_linear"], (64, 64), 1, {**given, "seed": 1})
    ours = [run(KERNELS["dare_linear"], call, x, None) for _ in range(2)]
    assert not torch.equal(*theirs)
    assert torch.equal(*ours)


def test_mergekit_samples_the_quartiles_of_large_tensors_and_ours_are_exact() -> None:
    """Two runs of mergekit's arcee_fusion differ beyond a million elements, and none of ours do."""
    x = tensors("random", (1100, 1000), 2)
    theirs = [merge_tensors(x, "arcee_fusion", base_index=0) for _ in range(2)]
    call = call_of(METHODS["arcee_fusion"], (1100, 1000), 0, {})
    ours = [run(KERNELS["arcee_fusion"], call, x, None) for _ in range(2)]
    assert not torch.equal(*theirs)
    assert torch.equal(*ours)


def test_mergekit_leaves_the_order_of_equal_magnitudes_to_its_sort_and_we_take_the_first() -> None:
    """How many are kept is the same; which, only here is said."""
    base, model = torch.zeros(1000), torch.ones(1000)
    given = {"weight": 1.0, "density": 0.3}
    theirs = merge_tensors([base, model], "ties", parameters=given, base_index=0)
    ours = run(KERNELS["ties"], call_of(METHODS["ties"], (1000,), 1, given), [base, model], None)
    assert int(theirs.sum()) == int(ours.sum()) == 300
    assert bool((ours[:300] == 1).all())
