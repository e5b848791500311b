"""Merges of task vectors, against their formulas written down again with sorts and float64, and the laws they keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels import importance, task_vectors
from mergebuild.methods.kernels.kernel import Call
from mergebuild.methods.kernels.randomness import bernoulli, bits
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.tables.task_vectors import ROWS

METHODS = {row.name: row for row in ROWS}
KERNELS = {**task_vectors.KERNELS, **importance.KERNELS}
Given = Mapping[str, Any]

VOTING = ("ties", "dare_ties", "breadcrumbs_ties", "della")
W = [1.0, 0.5, -0.75]

CASES: Sequence[tuple[str, int, Given]] = (
    ("ties", 4, {"weight": 1}),
    ("ties", 2, {"weight": 1, "density": 0.3}),
    ("ties", 4, {"weight": W, "density": [0.3, 0.01, 0.9], "lambda": 1.5}),
    ("ties", 4, {"weight": W, "density": [0.5, 1, 0], "normalize": False, "rescale": "l1"}),
    ("ties", 4, {"weight": [1.0, 2.0, 0.5], "density": 0.6, "rescale": "1/p", "average": "count"}),
    ("ties", 3, {"weight": 1, "density": 0.5, "vote": "count", "zero_vote": "none", "average": "count"}),
    ("ties", 3, {"weight": W[1:], "density": 0.5, "zero_vote": "none"}),
    ("dare_linear", 4, {"weight": W, "density": [0.3, 0.5, 1], "seed": 7}),
    ("dare_linear", 3, {"weight": 0.5, "density": 0.4, "seed": 1, "compat": "mergekit", "normalize": True}),
    ("dare_linear", 3, {"weight": [1, -1], "density": 0.4, "seed": 1, "rescale": "none", "normalize": True}),
    ("dare_ties", 4, {"weight": W, "density": [0.3, 0.5, 1], "seed": 7}),
    ("dare_ties", 3, {"weight": 1, "density": 0.6, "seed": 7, "rescale": "l1", "normalize": True, "lambda": 0.5}),
    ("breadcrumbs", 4, {"weight": W}),
    ("breadcrumbs", 4, {"weight": W, "density": [0.5, 0.9, 0.3], "gamma": [0.1, 0.5, 0]}),
    ("breadcrumbs", 3, {"weight": 1, "density": 0.7, "gamma": 0.1, "rescale": "l1", "normalize": True}),
    ("breadcrumbs_ties", 4, {"weight": W, "density": [0.5, 0.9, 0.3], "gamma": [0.1, 0.5, 0]}),
    ("della", 4, {"weight": W, "density": 0.5, "seed": 3}),
    ("della", 3, {"weight": 1, "density": [0.4, 1], "epsilon": 0.3, "seed": 3, "rescale": "1/p"}),
    ("della_linear", 3, {"weight": 1, "density": 0.6, "epsilon": 0.1, "seed": 3, "compat": "mergekit"}),
    ("della_linear", 3, {"weight": 1, "density": 0.6, "epsilon": 0.1, "seed": 3, "rescale": "none"}),
    ("sce", 4, {}),
    ("sce", 4, {"select_topk": 0.3}),
    ("sce", 3, {"select_topk": 0.01}),
    ("sce", 2, {"select_topk": 0.5}),
    ("sce", 3, {"select_topk": 0, "compat": "mergekit"}),
    ("sce", 4, {"compat": "mergekit"}),
    ("arcee_fusion", 2, {}),
    ("topk_mask", 2, {"alpha": 0.3}),
    ("topk_mask", 2, {"alpha": 1, "density": 0.2}),
    ("topk_mask", 2, {"alpha": 1.5, "density": 1}),
    ("topk_mask", 2, {"alpha": 0.5, "density": 0}),
)


def _call(name: str, count: int, given: Given, shape: tuple[int, ...]) -> Call:
    return call_of(METHODS[name], shape, count - 1, given)


# ---- the formulas ----


def _largest(values: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` largest magnitudes, the earlier of equal ones."""
    order = sorted(range(values.numel()), key=lambda i: (-abs(float(values.reshape(-1)[i])), i))
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.reshape(values.shape)


def _ranked(delta: Tensor, p: float, epsilon: float, compat: bool) -> Tensor:
    """Return the probabilities of DELLA, row by row."""
    if delta.dim() < 2:
        rows = delta.reshape(1, -1)
    elif compat:
        rows = delta.movedim(1, -1)
    else:
        rows = delta.reshape(delta.shape[0], -1)
    flat = rows.reshape(-1, rows.shape[-1])
    found = torch.empty(flat.shape, dtype=torch.float64)
    for row, result in zip(flat, found, strict=True):
        n = len(row)
        for rank, i in enumerate(sorted(range(n), key=lambda i: (abs(float(row[i])), i))):
            result[i] = p if n == 1 else p - epsilon + 2 * epsilon * rank / (n - 1)
    shaped = found.reshape(rows.shape)
    return shaped.movedim(-1, 1) if delta.dim() >= 2 and compat else shaped.reshape(delta.shape)


def _kept(call: Call, name: str, i: int, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is kept of a delta (float32), and the probability of each element to be."""
    p, n = call.numbers("density")[i], delta.numel()
    wide = torch.full(delta.shape, float(p), dtype=torch.float64)
    if name == "ties":
        return _largest(delta, max(1, math.floor(p * n))), wide
    if name.startswith("breadcrumbs"):
        target, top = math.floor(p * n), math.floor(call.numbers("gamma")[i] * n)
        below = max(0, n - target - top)
        return _largest(delta, n - below) & ~_largest(delta, n - below - target), wide
    seed = int(call.number("seed"))
    if name.startswith("dare"):
        return bernoulli(p, seed, call.tensor, i + 1, 0, n).reshape(delta.shape), wide
    chances = _ranked(delta, float(p), float(call.numbers("epsilon")[i]), call.word("compat") == "mergekit")
    drawn = bits(seed, call.tensor, i + 1, 0, n).reshape(delta.shape)
    return drawn.double() < (chances * 2**32).floor(), chances


def _task_vectors(name: str, call: Call, x: Sequence[Tensor]) -> Tensor:
    weights = [float(w) for w in call.numbers("weight")]
    rescale = "l1" if name.startswith("dare") and call.word("compat") == "mergekit" else call.word("rescale")
    edits = []
    for i, model in enumerate(x[1:]):
        delta, p = model - x[0], call.numbers("density")[i]
        edit = delta.double()
        if p <= 0:
            edit = torch.zeros_like(edit)
        elif p < 1:
            mask, chances = _kept(call, name, i, delta)
            before = float(edit.abs().sum())
            edit = edit * mask
            after = float(edit.abs().sum())
            if rescale == "1/p":
                edit = edit / chances
            elif rescale == "l1" and min(before, after) >= 1e-7:
                edit = edit * (before / after)
        edits.append(edit * weights[i])
    e, w = torch.stack(edits), torch.tensor(weights, dtype=torch.float64)
    w = w.reshape(-1, *([1] * x[0].dim()))
    if name in VOTING:
        votes = (e if call.word("vote") == "sum" else e.sign()).sum(0)
        side = votes.sign() if call.word("zero_vote") == "none" else torch.where(votes >= 0, 1.0, -1.0).double()
        agree = (e.sign() == side) & (e != 0)
        merged = (e * agree).sum(0)
        below = ((w if call.word("average") == "weight" else torch.ones_like(w)) * agree).sum(0)
        below = torch.where(below.abs() < 1e-12, 1, below)
    else:
        merged = e.sum(0)
        below = torch.tensor(sum(weights) if abs(sum(weights)) >= 1e-8 else 1.0)
    if call.flag("normalize"):
        merged = merged / below
    return x[0].double() + float(call.number("lambda")) * merged


def _sce(call: Call, x: Sequence[Tensor]) -> Tensor:
    share = call.number("select_topk")
    if share <= 0:
        return x[0].double()
    models = torch.stack([each.double() for each in x[1:]])
    d = models - x[0].double()
    if share < 1:
        spread = (models - models[:1]).var(0, unbiased=False).to(torch.float32)
        kept = _largest(spread, math.floor(share * int(torch.count_nonzero(spread))))
        d = d * kept
    energies = (d**2).reshape(len(d), -1).mean(1)
    least = 1e-6 if call.word("compat") == "mergekit" else 0.0
    even = float(energies.sum()) <= least
    weights = torch.ones_like(energies) / len(d) if even else energies / energies.sum()
    w = weights.reshape(-1, *([1] * x[0].dim()))
    side = torch.where(d.sum(0) >= 0, 1.0, -1.0)
    agree = d.sign() == side
    return x[0].double() + (d * w * agree).sum(0) / (w * agree).sum(0).clamp(min=1e-6)


def _arcee(x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the importance and its threshold."""
    a, b = (each.double() if each.dim() else each.double().reshape(1) for each in x)
    p, q = b.softmax(-1) + 1e-8, a.softmax(-1) + 1e-8
    importance = (b - a).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    ordered = importance.reshape(-1).sort().values
    low, middle, high = (ordered[math.floor(Fraction(k, 4) * (len(ordered) - 1))] for k in (1, 2, 3))
    return importance.reshape(x[0].shape), middle + 1.5 * (high - low)


def _reference(name: str, call: Call, x: Sequence[Tensor]) -> Tensor:
    if name == "sce":
        return _sce(call, x)
    if name == "topk_mask":
        a, b, p = x[0].double(), x[1].double(), call.number("density")
        mask = _largest(x[1] - x[0], max(1, math.floor(p * a.numel())) if p > 0 else 0)
        return a + float(call.number("alpha")) * mask * (b - a)
    return _task_vectors(name, call, x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case[0] != "arcee_fusion"], ids=str)
def test_the_kernel_is_the_formula(case: tuple[str, int, Given], shape: tuple[int, ...]) -> None:
    """For every kind of inputs, what float32 and the order of operations allow away from the formula in float64."""
    name, count, given = case
    call = _call(name, count, given, shape)
    for kind in KINDS:
        x = tensors(kind, shape, count)
        made = run(KERNELS[name], call, x, None)
        if not call.count:
            continue
        wanted = _reference(name, call, x)
        scale = max(1.0, float(wanted.abs().max()), *(float(each.abs().max()) for each in x))
        torch.testing.assert_close(made.double(), wanted, rtol=0, atol=3e-6 * scale, msg=kind)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape], ids=str)
def test_arcee_fusion_takes_what_stands_out(shape: tuple[int, ...]) -> None:
    """Each element is b's where its importance reaches the threshold, but for those within rounding of it."""
    call = _call("arcee_fusion", 2, {}, shape)
    for kind in KINDS:
        x = tensors(kind, shape, 2)
        made = run(KERNELS["arcee_fusion"], call, x, None)
        importance_, threshold = _arcee(x)
        near = (importance_ - threshold).abs() <= 1e-6 * threshold.abs() + 1e-12
        wanted = torch.where(importance_ >= threshold, x[1], x[0])
        assert bool(((made == wanted) | near).all()), kind
        assert bool(((made == x[0]) | (made == x[1])).all())


def test_arcee_fusion_of_an_empty_tensor_is_empty() -> None:
    assert (
        run(KERNELS["arcee_fusion"], _call("arcee_fusion", 2, {}, (0, 5)), tensors("random", (0, 5), 2), None).numel()
        == 0
    )


@pytest.mark.parametrize(
    ("name", "given", "same"),
    [
        ("ties", {"weight": [1, 0, 0]}, 1),
        ("ties", {"weight": [0, 0.3, 0]}, 2),
        ("ties", {"weight": 1, "density": 0}, 0),
        ("ties", {"weight": 1, "lambda": 0}, 0),
        ("dare_linear", {"weight": [0, 1, 0], "seed": 0}, 2),
        ("dare_linear", {"weight": 1, "density": 0, "seed": 0}, 0),
        ("della", {"weight": [1, 1, 5], "density": [0, 0, 1], "seed": 0}, 3),
        ("sce", {"select_topk": 0}, 0),
    ],
)
def test_an_input_itself_comes_out_to_the_bit(name: str, given: Given, same: int) -> None:
    """Where the parameters make the result one of the inputs, nothing is rounded."""
    x = tensors("random", (16, 24), 4)
    x[same][3, 3] = -0.0
    made = run(KERNELS[name], _call(name, 4, given, (16, 24)), x, None)
    assert torch.equal(made.view(torch.int32), x[same].view(torch.int32))


def test_exactly_k_are_kept_and_the_first_of_equal_ones() -> None:
    """TIES: of four equal magnitudes density 1/2 keeps the first two; of 10 elements 0.29 keeps 2, never 3."""
    base, call = torch.zeros(4), _call("ties", 2, {"weight": 1, "density": 0.5}, (4,))
    made = run(KERNELS["ties"], call, [base, torch.tensor([1.0, -1, 1, -1])], None)
    assert made.tolist() == [1, -1, 0, 0]
    call = _call("ties", 2, {"weight": 1, "density": 0.29}, (10,))
    made = run(KERNELS["ties"], call, [torch.zeros(10), torch.arange(1.0, 11)], None)
    assert made.tolist() == [0] * 8 + [9, 10]
    call = _call("ties", 2, {"weight": 1, "density": 0.01}, (10,))
    assert torch.count_nonzero(run(KERNELS["ties"], call, [torch.zeros(10), torch.ones(10)], None)) == 1


def test_a_vote_of_zero_goes_to_the_positive_or_to_none() -> None:
    x = [torch.zeros(2), torch.tensor([1.0, 1]), torch.tensor([-1.0, -1])]
    assert run(KERNELS["ties"], _call("ties", 3, {"weight": 1}, (2,)), x, None).tolist() == [1, 1]
    none = _call("ties", 3, {"weight": 1, "zero_vote": "none"}, (2,))
    assert run(KERNELS["ties"], none, x, None).tolist() == [0, 0]


def test_masks_follow_from_the_seed_the_name_the_place_and_nothing_else() -> None:
    x = tensors("random", (64, 64), 3)
    zeros = [torch.zeros(64, 64), *x[1:]]

    def made(seed: int, tensor: str = "a") -> Tensor:
        call = _call("dare_linear", 3, {"weight": [1, 0], "density": 0.3, "seed": seed}, (64, 64))
        return run(KERNELS["dare_linear"], Call(tensor, call.shape, call.arguments), zeros, None)

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))
    assert not torch.equal(made(1), made(1, "b"))
    other = _call("dare_linear", 3, {"weight": [0, 1], "density": 0.3, "seed": 1}, (64, 64))
    second = run(KERNELS["dare_linear"], Call("a", other.shape, other.arguments), zeros, None)
    assert not torch.equal(second != 0, made(1) != 0)


@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_what_is_kept_at_random_is_about_the_density(name: str) -> None:
    """Within five standard deviations; DELLA keeps more of the large half than of the small one."""
    delta = tensors("random", (200, 300), 2)[1]
    call = _call(name, 2, {"weight": 1, "density": 0.3, "seed": 5}, (200, 300))
    kept = run(KERNELS[name], call, [torch.zeros(200, 300), delta], None) != 0
    assert float(kept.double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 60000))
    large = delta.abs() > delta.abs().median()
    more = float(kept[large].double().mean()) - float(kept[~large].double().mean())
    assert more == pytest.approx(0.15 if name == "della_linear" else 0.0, abs=0.03)


def test_dare_leaves_the_sum_of_a_delta_as_it_was_on_average() -> None:
    """Scaling by 1 / density is unbiased: over many seeds the mean of the merges is the model."""
    base, model = tensors("random", (16, 24), 2)
    total = torch.zeros(16, 24)
    for seed in range(400):
        call = _call("dare_linear", 2, {"weight": 1, "density": 0.5, "seed": seed}, (16, 24))
        total += run(KERNELS["dare_linear"], call, [base, model], None)
    torch.testing.assert_close(total / 400, model, rtol=0, atol=5 * float((model - base).abs().max()) / math.sqrt(400))


@pytest.mark.parametrize("given", [{"density": 0.9}, {"density": 0.1}, {"density": 0.5, "epsilon": 0.5}])
def test_della_needs_probabilities_between_0_and_1(given: Given) -> None:
    call = _call("della", 2, {"weight": 1, "seed": 0, **given}, (16, 24))
    with pytest.raises(UndefinedError, match="between 0 and 1"):
        run(KERNELS["della"], call, tensors("random", (16, 24), 2), None)


@pytest.mark.parametrize("name", ["ties", "dare_ties", "breadcrumbs", "della_linear"])
def test_a_difference_beyond_float32_has_no_sum_to_be_scaled_by(name: str) -> None:
    """Whether its largest elements are kept or dropped: an infinity times 0 is none."""
    base, model = tensors("random", (16, 24), 2)
    base[3, 5], model[3, 5] = -3e38, 3e38
    seed = {"seed": 0} if any(each.name == "seed" for each in METHODS[name].parameters) else {}
    call = _call(name, 2, {"weight": 1, "density": 0.5, "rescale": "l1", **seed}, (16, 24))
    with pytest.raises(UndefinedError, match=r"model 1 .* overflows float32"):
        run(KERNELS[name], call, [base, model], None)


def test_sce_weighs_light_fine_tunes_by_their_energy_and_mergekits_way_does_not() -> None:
    base, first, second = tensors("random", (64, 64), 3)
    x = [base * 0, first * 5e-4, first.sign() * second.abs() * 1e-4]
    made = run(KERNELS["sce"], _call("sce", 3, {}, (64, 64)), x, None)
    plain = run(KERNELS["sce"], _call("sce", 3, {"compat": "mergekit"}, (64, 64)), x, None)
    torch.testing.assert_close(plain, (x[1] + x[2]) / 2)
    assert float((made - x[1]).norm()) < 0.1 * float((plain - x[1]).norm())


def test_states_do_not_depend_on_what_a_sweep_varies() -> None:
    """Weights, lambda and votes are no part of a statistic, so that a sweep over them takes it once."""
    for name, kernel in KERNELS.items():
        assert kernel.statistic is not None
        assert not {"weight", "lambda", "normalize", "vote", "zero_vote", "average", "alpha"} & set(
            kernel.statistic.arguments
        ), name


def test_what_needs_no_look_at_the_tensor_begins_with_none() -> None:
    """No account is opened where the parameters need no statistic: the engine may spare itself the pass."""
    for name, numbers in (("ties", {"weight": 1}), ("dare_linear", {"weight": 1, "density": 0.3, "seed": 0})):
        statistic = KERNELS[name].statistic
        assert statistic is not None
        assert statistic.begin(_call(name, 2, numbers, (16, 24)), 2) is None
