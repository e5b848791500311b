"""The linear methods against mergekit and sd-mecha, and what of either tool is compared at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import kernel_of, run
from mergekit.merge_methods import merge_tensors, registered_methods
from sd_mecha.extensions.builtin.merge_methods import linear
from torch import Tensor

from mergebuild.methods.catalog import METHODS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Given = Mapping[str, Any]

MERGEKIT: Sequence[tuple[str, int, Given, str, Given]] = (
    # ours, inputs, our parameters, mergekit's name, its parameters
    ("linear", 3, {"weight": [1, 0.5, 0.75]}, "linear", {"weight": [1.0, 0.5, 0.75]}),
    ("linear", 3, {"weight": [1, 0.5, -0.75]}, "linear", {"weight": [1.0, 0.5, -0.75]}),
    ("linear", 2, {"weight": [0.25, 0.5], "normalize": False}, "linear", {"weight": [0.25, 0.5], "normalize": False}),
    ("task_arithmetic", 4, {"weight": [1, 0.5, -0.75]}, "task_arithmetic", {"weight": [1.0, 0.5, -0.75]}),
    (
        "task_arithmetic", 3, {"weight": [1, 0.5], "normalize": True, "lambda": 1.5}, "task_arithmetic",
        {"weight": [1.0, 0.5], "normalize": True, "lambda": 1.5},
    ),
    ("copy", 1, {}, "passthrough", {}),
    ("scale", 1, {"alpha": 0.75}, "passthrough", {"scale": 0.75}),
)  # fmt: skip


def _inputs(kind: str, shape: tuple[int, ...], dtype: torch.dtype, count: int) -> list[Tensor]:
    return [each.to(dtype).float() for each in tensors(kind, shape, max(count, 2))[:count]]


def _made(name: str, x: Sequence[Tensor], given: Given) -> Tensor:
    row = METHODS[name]
    models = len(x) - sum(each != "models" for each in row.inputs)
    return run(kernel_of(row), call_of(row, tuple(x[0].shape), models, given), x, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", MERGEKIT, ids=str)
def test_as_mergekit(case: tuple[str, int, Given, str, Given], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Called on float64 tensors, so that only ours are rounded: within 1e-6 of the largest value."""
    name, count, ours, theirs, parameters = case
    for kind in KINDS:
        x = _inputs(kind, shape, dtype, count)
        base = 0 if "base" in METHODS[name].inputs else None
        wide = [each.double() for each in x]
        wanted = merge_tensors(wide, theirs, parameters=dict(parameters), base_index=base, dtype=torch.float64)
        scale = max([1.0, *(float(each.abs().max()) for each in x if each.numel())])
        torch.testing.assert_close(_made(name, x, ours).double(), wanted, rtol=0, atol=1e-6 * scale)


def _weighted_sum(x: Sequence[Tensor]) -> Tensor:
    a, b = ({"w": each} for each in x)
    return linear.weighted_sum.__wrapped__(a, b, torch.tensor(0.3, dtype=torch.float64), key="w")


def _average(x: Sequence[Tensor]) -> Tensor:
    return linear.n_average.__wrapped__(*({"w": each} for each in x), key="w")


def _add_difference(x: Sequence[Tensor]) -> Tensor:
    a, delta = {"w": x[0]}, {"w": linear.subtract.__wrapped__(x[1], x[2])}
    return linear.add_difference.__wrapped__(a, delta, torch.tensor(0.7, dtype=torch.float64), key="w")


def _scaled(x: Sequence[Tensor]) -> Tensor:
    return linear.scale.__wrapped__({"w": x[0]}, torch.tensor(0.7, dtype=torch.float64), key="w")


MECHA: Sequence[tuple[str, int, Given, Callable[[Sequence[Tensor]], Tensor]]] = (
    ("weighted_sum", 2, {"alpha": 0.3}, _weighted_sum),
    ("linear", 4, {"weight": 1}, _average),
    ("add_difference", 3, {"alpha": 0.7}, _add_difference),
    ("subtract", 2, {}, lambda x: linear.subtract.__wrapped__(*x)),
    ("scale", 1, {"alpha": 0.7}, _scaled),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", MECHA, ids=lambda case: str(case[0]))
def test_as_sd_mecha(
    case: tuple[str, int, Given, Callable[[Sequence[Tensor]], Tensor]], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    name, count, given, theirs = case
    for kind in KINDS:
        x = _inputs(kind, shape, dtype, count)
        wanted = theirs([each.double() for each in x])
        scale = max([1.0, *(float(each.abs().max()) for each in x if each.numel())])
        torch.testing.assert_close(_made(name, x, given).double(), wanted, rtol=0, atol=1e-6 * scale)


def test_mergekit_rounds_on_the_way_and_we_round_once() -> None:
    """Of three models in bfloat16 mergekit's task arithmetic misses the nearest value in many of the elements."""
    x = _inputs("random", (200, 300), torch.bfloat16, 4)
    given = {"weight": [0.5, 0.4, 0.3]}
    exact = x[0].double() + sum(
        w * (each.double() - x[0].double()) for w, each in zip(given["weight"], x[1:], strict=True)
    )
    nearest = exact.float().bfloat16()
    halves = [each.bfloat16() for each in x]
    theirs = merge_tensors(halves, "task_arithmetic", parameters=given, base_index=0)
    assert float((theirs == nearest).double().mean()) < 0.6
    assert float((_made("task_arithmetic", x, given).bfloat16() == nearest).double().mean()) > 0.99


def test_mergekit_divides_by_weights_that_add_up_to_nothing() -> None:
    """Here that is an error: tests/unit/methods/test_methods_catalog.py."""
    x = tensors("random", (7,), 2)
    assert not bool(merge_tensors(x, "linear", parameters={"weight": [1.0, -1.0]}).isfinite().any())


def _text(tool: str) -> str:
    return "".join(path.read_text() for path in Path(__file__).parent.glob(f"test_*_against_{tool}.py"))


def test_all_of_mergekit_is_compared() -> None:
    """Each of its methods stands in a test of this folder that calls it."""
    compared = _text("mergekit") + _text("others")
    names = [method.spec.name for method in registered_methods()]
    assert len(names) == 20
    assert [name for name in names if f'"{name}"' not in compared] == []


def test_all_that_names_a_tool_as_its_reference_is_compared_with_it() -> None:
    for tool, text in (("mergekit", _text("mergekit")), ("sd-mecha", _text("sd_mecha"))):
        named = [row.name for row in METHODS.values() if row.reference == tool]
        assert named
        assert [name for name in named if name not in text + _text("others")] == []
