"""Merges from dot products, against their formulas written down again in float64, and the laws that they keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels.gram import KERNELS
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.tables.gram import ROWS

METHODS = {row.name: row for row in ROWS}
Given = Mapping[str, Any]


# ---- the formulas, in float64 ----


def _lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    return (1 - t) * a + t * b


def _turned(a: Tensor, b: Tensor, cosine: float, t: float) -> Tensor:
    angle = math.acos(cosine)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def slerp(x: Sequence[Tensor], given: Given, _base: bool) -> Tensor:
    a, b, t = *x, given["t"]
    norms = [float(each.norm()) for each in x]
    if given.get("magnitude", "raw") == "lerp":
        if 0 in norms:
            return _lerp(a, b, t)
        cosine = float((a * b).sum()) / (norms[0] * norms[1])
        if cosine**2 > 1 - 1e-12:
            return _lerp(a, b, t)
        return _turned(a / norms[0], b / norms[1], cosine, t) * ((1 - t) * norms[0] + t * norms[1])
    norms = [norm if norm > 1e-8 else 1.0 for norm in norms]
    cosine = float((a * b).sum()) / (norms[0] * norms[1])
    return _lerp(a, b, t) if abs(cosine) > 0.9995 else _turned(a, b, cosine, t)


def _nuslerp_one(a: Tensor, b: Tensor, t: float) -> Tensor:
    cosine = float((a / max(float(a.norm()), 1e-7) * (b / max(float(b.norm()), 1e-7))).sum())
    return _lerp(a, b, t) if cosine**2 > 1 - 1e-12 else _turned(a, b, cosine, t)


def nuslerp(x: Sequence[Tensor], given: Given, base: bool) -> Tensor:
    weights = given["weight"]
    t = weights[1] / sum(weights) if abs(sum(weights)) >= 1e-6 else 0.5
    origin = x[0] if base else torch.zeros_like(x[0])
    a, b = (each - origin for each in x[base:])
    per = given.get("per", "tensor")
    if per == "tensor":
        return origin + _nuslerp_one(a, b, t)
    if per == "row":
        rows = [each.reshape(-1, each.shape[-1] if each.dim() else 1) for each in (a, b)]
        made = torch.stack([_nuslerp_one(p, q, t) for p, q in zip(*rows, strict=True)])
        return origin + made.reshape(a.shape)
    columns = [each.reshape(each.shape[0] if each.dim() else 1, -1).T for each in (a, b)]
    made = torch.stack([_nuslerp_one(p, q, t) for p, q in zip(*columns, strict=True)])
    return origin + made.T.reshape(a.shape)


def multislerp(x: Sequence[Tensor], given: Given, base: bool) -> Tensor:
    origin = x[0] if base else torch.zeros_like(x[0])
    d = [each - origin for each in x[base:]]
    if len(d) == 1:
        return x[-1]
    eps = given.get("eps", 1e-8)
    w = list(given["weight"])
    if given.get("normalize", True):
        w = [each / sum(w) for each in w]
    norms = [float(each.norm()) for each in d]
    if not any(norms):
        return origin
    units = [each / (norm + eps) for each, norm in zip(d, norms, strict=True)]
    mean = sum(share * unit for share, unit in zip(w, units, strict=True))
    assert isinstance(mean, Tensor)
    if float(mean.norm()) < 1e-6:
        assert given["linear_fallback"]
        return origin + sum(share * each for share, each in zip(w, d, strict=True))
    mean = mean / mean.norm()
    tangent = sum(share * (unit - (unit * mean).sum() * mean) for share, unit in zip(w, units, strict=True))
    assert isinstance(tangent, Tensor)
    length = float(tangent.norm()) + eps
    made = mean * math.cos(length) + tangent * math.sin(length) / length
    return origin + made * sum(share * norm for share, norm in zip(w, norms, strict=True))


def karcher(x: Sequence[Tensor], given: Given, _base: bool) -> Tensor:
    w = given.get("weight", [1] * len(x))
    w = [each / sum(w) for each in w]
    tol = given.get("tol", 1e-5)
    norms = [float(each.norm()) for each in x]
    kept = [i for i, norm in enumerate(norms) if norm > tol]
    if not kept:
        return torch.zeros_like(x[0])
    if len(x) == 1:
        return x[0]
    units = [x[i] / norms[i] for i in kept]
    alphas = [w[i] / sum(w[i] for i in kept) for i in kept]
    mean = torch.stack([alpha * unit for alpha, unit in zip(alphas, units, strict=True)]).sum(0)
    mean = units[0] if float(mean.norm()) < tol else mean / mean.norm()
    for _ in range(given.get("max_iter", 10)):
        tangent = torch.zeros_like(mean)
        for alpha, unit in zip(alphas, units, strict=True):
            dot = max(-1.0, min(1.0, float((unit * mean).sum())))
            angle = math.acos(dot)
            if angle >= tol and dot > -1 + 1e-12:
                tangent += alpha * angle / math.sin(angle) * (unit - dot * mean)
        length = float(tangent.norm())
        if length < tol:
            break
        mean = math.cos(length) * mean + math.sin(length) * tangent / length
        mean = mean / mean.norm()
    return mean * sum(share * norm for share, norm in zip(w, norms, strict=True))


def model_stock(x: Sequence[Tensor], given: Given, _base: bool) -> Tensor:
    row = given.get("per", "tensor") == "row"
    flat = [each.reshape((-1, each.shape[-1] if each.dim() else 1) if row else (1, -1)) for each in x]
    plain = given.get("compat", "none") == "mergekit"
    d = [each - flat[0] for each in flat[1:]]
    n = len(d)
    pairs = list(combinations(d, 2) if given.get("pairs", "all") == "all" else pairwise(d))
    cosines = []
    for p, q in pairs:
        product = p.norm(dim=-1) * q.norm(dim=-1)
        product = product.clamp(min=1e-6) if plain else torch.where(product == 0, 1, product)
        cosines.append(((p * q).sum(-1) / product).clamp(-1, 1))
    cosine = torch.stack(cosines).mean(0)
    below = 1 + (n - 1) * cosine
    t = torch.where(below.abs() < 1e-6, 0, n * cosine / torch.where(below.abs() < 1e-6, 1, below))
    if given.get("clamp", True) and not plain:
        t = t.clamp(0, 1)
    t = t[:, None]
    return (t * torch.stack(flat[1:]).mean(0) + (1 - t) * flat[0]).reshape(x[0].shape)


def add_perpendicular(x: Sequence[Tensor], given: Given, _base: bool) -> Tensor:
    p, q = x[0] - x[2], x[1] - x[2]
    squared = float((p * p).sum())
    return x[0] if squared == 0 else x[0] + given["alpha"] * (q - p * (float((p * q).sum()) / squared))


def norm_direction(x: Sequence[Tensor], given: Given, _base: bool) -> Tensor:
    a, b, t = *x, given["alpha"]
    if 0 in (float(a.norm()), float(b.norm())):
        return _lerp(a, b, t)
    direction = _lerp(a / a.norm(), b / b.norm(), t)
    if float(direction.norm()) < 1e-6:
        return _lerp(a, b, t)
    return direction / direction.norm() * ((1 - t) * a.norm() + t * b.norm())


def geometric_median(x: Sequence[Tensor], given: Given, _base: bool) -> Tensor:
    eps, most, ftol = given.get("eps", 1e-6), given.get("maxiter", 100), given.get("ftol", 1e-20)
    points = torch.stack([each.reshape(-1) for each in x])
    median = points.mean(0)
    objective = (points - median).norm(dim=1).mean()
    for _ in range(most):
        weights = 1 / (points - median).norm(dim=1).clamp(min=eps)
        median = (points * weights[:, None]).sum(0) / weights.sum()
        before, objective = objective, (points - median).norm(dim=1).mean()
        if abs(before - objective) <= ftol * objective:
            break
    return median.reshape(x[0].shape)


def euclidean_add_difference(x: Sequence[Tensor], given: Given, _base: bool) -> Tensor:
    alpha, (p, q) = given["alpha"], (x[0] - x[2], x[1] - x[2])
    straight = _lerp(p, q, alpha)
    p, q = (each / each.norm() if each.norm() else each for each in (p, q))
    sides = ((1 - alpha) * p**2 + alpha * q**2).sqrt()
    if sides.norm() == 0:
        return x[2]
    return x[2] + torch.copysign(sides / sides.norm() * straight.norm(), straight + 0.0)


Reference = Callable[[Sequence[Tensor], Given, bool], Tensor]

CASES: Sequence[tuple[Reference, int, bool, Given]] = (
    (slerp, 2, False, {"t": 0.3}),
    (slerp, 2, False, {"t": 1.25}),
    (slerp, 2, False, {"t": 0.3, "magnitude": "lerp"}),
    (slerp, 2, False, {"t": -0.5, "magnitude": "lerp"}),
    (nuslerp, 2, False, {"weight": [1.0, 2.0]}),
    (nuslerp, 3, True, {"weight": [1.0, 2.0]}),
    (nuslerp, 3, True, {"weight": [1.0, -0.25]}),
    (nuslerp, 2, False, {"weight": [1.0, -1.0]}),
    (nuslerp, 2, False, {"weight": [1.0, 2.0], "per": "row"}),
    (nuslerp, 3, True, {"weight": [1.0, 0.5], "per": "row"}),
    (nuslerp, 2, False, {"weight": [1.0, 2.0], "per": "column"}),
    (nuslerp, 3, True, {"weight": [1.0, -0.5], "per": "column"}),
    (multislerp, 1, False, {"weight": [0.5]}),
    (multislerp, 2, True, {"weight": [0.5]}),
    (multislerp, 3, False, {"weight": [1.0, 2.0, 0.5], "linear_fallback": True}),
    (multislerp, 4, True, {"weight": [1.0, 2.0, 0.5], "linear_fallback": True}),
    (multislerp, 4, True, {"weight": [0.4, -0.2, 0.5], "normalize": False, "linear_fallback": True}),
    (karcher, 1, False, {}),
    (karcher, 3, False, {}),
    (karcher, 4, False, {"weight": [1.0, 2.0, 0.5, 3.0]}),
    (karcher, 3, False, {"max_iter": 0}),
    (model_stock, 3, True, {}),
    (model_stock, 4, True, {}),
    (model_stock, 4, True, {"clamp": False}),
    (model_stock, 4, True, {"compat": "mergekit"}),
    (model_stock, 4, True, {"pairs": "adjacent"}),
    (model_stock, 4, True, {"per": "row"}),
    (model_stock, 4, True, {"per": "row", "pairs": "adjacent", "compat": "mergekit"}),
    (add_perpendicular, 3, False, {"alpha": 1}),
    (add_perpendicular, 3, False, {"alpha": -0.7}),
    (norm_direction, 2, False, {"alpha": 0.3}),
    (geometric_median, 1, False, {}),
    (geometric_median, 4, False, {}),
    (geometric_median, 3, False, {"maxiter": 0}),
    (euclidean_add_difference, 3, False, {"alpha": 0.3}),
    (euclidean_add_difference, 3, False, {"alpha": 0.5}),
)


def _named(case: tuple[Reference, int, bool, Given]) -> str:
    return f"{case[0].__name__}-{case[1]}{'-base' if case[2] else ''}-{dict(case[3])}"


def _call(case: tuple[Reference, int, bool, Given], shape: tuple[int, ...]) -> Any:
    reference, count, base, given = case
    row = METHODS[reference.__name__]
    singles = sum(1 for name in row.inputs if name != "models" and (name not in row.optional or base))
    return call_of(row, shape, count - singles, given, has_base=base)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=_named)
def test_the_kernel_is_the_formula(case: tuple[Reference, int, bool, Given], shape: tuple[int, ...]) -> None:
    """For every kind of inputs, what float32 and the order of operations allow away from the formula in float64."""
    reference, count, base, given = case
    call = _call(case, shape)
    for kind in KINDS:
        x = tensors(kind, shape, count) if count > 1 else tensors("random", shape, 1)
        made = run(KERNELS[reference.__name__], call, x, None)
        if call.count:
            wanted = reference([each.double() for each in x], given, base)
            scale = max(1.0, float(wanted.abs().max()), *(float(each.abs().max()) for each in x))
            torch.testing.assert_close(made.double(), wanted, rtol=0, atol=2e-6 * scale, msg=kind)


@pytest.mark.parametrize(
    ("name", "count", "given", "same"),
    [
        ("slerp", 2, {"t": 0}, 0),
        ("slerp", 2, {"t": 1}, 1),
        ("slerp", 2, {"t": 0, "magnitude": "lerp"}, 0),
        ("slerp", 2, {"t": 1, "magnitude": "lerp"}, 1),
        ("nuslerp", 3, {"weight": [2.0, 0]}, 1),
        ("nuslerp", 3, {"weight": [0, 0.5], "per": "row"}, 2),
        ("nuslerp", 3, {"weight": [0, 0.5], "per": "column"}, 2),
        ("multislerp", 2, {"weight": [0.3]}, 1),
        ("multislerp", 4, {"weight": [0, 3, 0]}, 2),
        ("norm_direction", 2, {"alpha": 0}, 0),
        ("norm_direction", 2, {"alpha": 1}, 1),
        ("add_perpendicular", 3, {"alpha": 0}, 0),
        ("euclidean_add_difference", 3, {"alpha": 0}, 0),
        ("euclidean_add_difference", 3, {"alpha": 1}, 1),
    ],
)
def test_an_input_itself_comes_out_to_the_bit(name: str, count: int, given: Given, same: int) -> None:
    """Where the parameters make the result one of the inputs, nothing is rounded, -0 neither."""
    x = tensors("random", (16, 24), count)
    x[same][3, 3] = -0.0
    row = METHODS[name]
    call = call_of(row, (16, 24), count - ("base" in row.inputs), given)
    assert torch.equal(run(KERNELS[name], call, x, None).view(torch.int32), x[same].view(torch.int32))


def test_fine_tunes_that_agree_are_taken_whole_by_model_stock() -> None:
    """Two models with one delta: t is 1 however small the delta is."""
    base, other = tensors("random", (16, 24), 2)
    tuned = base + other * 2.0**-20
    call = call_of(METHODS["model_stock"], (16, 24), 2, {})
    assert torch.equal(run(KERNELS["model_stock"], call, [base, tuned, tuned], None), tuned)


def test_directions_that_cancel_out_have_no_mean_unless_a_straight_line_will_do() -> None:
    first, second = tensors("antipodal", (7,), 2)
    row = METHODS["multislerp"]
    with pytest.raises(UndefinedError, match="cancel out"):
        run(KERNELS["multislerp"], call_of(row, (7,), 2, {"weight": 1}, has_base=False), [first, second], None)


@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_weights_that_add_up_to_nothing_are_refused(name: str) -> None:
    x = tensors("random", (7,), 2)
    with pytest.raises(UndefinedError, match="add up to 0"):
        run(KERNELS[name], call_of(METHODS[name], (7,), 2, {"weight": [1, -1]}, has_base=False), x, None)


def test_gram_statistics_depend_on_no_parameter_that_a_sweep_varies() -> None:
    """All members of a sweep over weights or shares find the state in one place, keyed by the inputs alone."""
    for name, kernel in KERNELS.items():
        assert kernel.statistic is not None, name
        assert set(kernel.statistic.arguments) <= {"has_base", "per"}, name


def test_gram_states_are_numbers_that_can_be_kept() -> None:
    x = [each.reshape(-1) for each in tensors("random", (16, 24), 3)]
    statistic = KERNELS["karcher"].statistic
    assert statistic is not None
    call = call_of(METHODS["karcher"], (16, 24), 3, {})
    account = statistic.begin(call, 3)
    statistic.look(call, account, x, 0)
    state = statistic.end(call, account)
    assert all(isinstance(entry, float) for row in state for entry in row)
    for i, row in enumerate(state):
        assert row == pytest.approx([math.fsum((x[i].double() * each.double()).tolist()) for each in x], rel=1e-13)
    assert hash(state)


def test_a_coefficient_that_rounds_to_zero_leaves_the_other_input() -> None:
    """Of 1 and 1e-50, which do not add up to 1, float32 has 1 and 0."""
    x = [torch.full((3, 5), 2.5), torch.zeros(3, 5)]
    call = call_of(METHODS["nuslerp"], (3, 5), 2, {"weight": [1, 1e-50]}, has_base=False)
    assert torch.equal(run(KERNELS["nuslerp"], call, x, None), x[0])
