"""Blending by likeness, against float64 written from the formulas."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from math import prod

import pytest
import torch
from kernel_cases import KINDS, SHAPES, tensors
from kernel_driver import run
from lab import Lab
from torch import Tensor

from mergebuild.methods.kernels.kernel import Call
from mergebuild.methods.kernels.model_wide import KERNELS, similarities, similarity_range
from mergebuild.methods.making import CatalogKernel
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.tables.model_wide import ROWS

METHODS = ("cosine_a", "cosine_b")


def cosine(x: Sequence[float], y: Sequence[float]) -> float | None:
    product = sum(p * q for p, q in zip(x, y, strict=True))
    length = sum(p * p for p in x) ** 0.5 * sum(q * q for q in y) ** 0.5
    return product / length if length else None


def columns(values: Tensor) -> list[list[float]]:
    flat = values.double().reshape(values.shape[0] if values.dim() else 1, -1)
    return flat.T.tolist()  # type: ignore[no-any-return]


def unit(vector: list[float]) -> list[float]:
    length = sum(each * each for each in vector) ** 0.5
    return [each / length for each in vector] if length else vector


def cosines(method: str, a: Tensor, b: Tensor) -> tuple[list[float], float | None]:
    first, second = columns(a), columns(b)
    if method == "cosine_a":
        first, second = [unit(each) for each in first], [unit(each) for each in second]
    whole = cosine([*chain(*first)], [*chain(*second)])
    return [cosine(x, y) or 0.0 for x, y in zip(first, second, strict=True)], whole


def blended(method: str, a: Tensor, b: Tensor, alpha: float, low: float, high: float) -> Tensor:
    along, whole = cosines(method, a, b)
    less = abs(alpha) if method == "cosine_a" else alpha
    shares = torch.tensor([min(max(((s + (whole or 0)) / 2 - low) / (high - low) - less, 0), 1) for s in along])
    shares = shares.double().reshape(a.shape[1:] if a.dim() else ())
    return (1 - shares) * b.double() + shares * a.double()


def made(method: str, a: Tensor, b: Tensor, alpha: float, low: float, high: float, name: str = "w") -> Tensor:
    call = Call(name, tuple(a.shape), {"alpha": Fraction(str(alpha))})
    return run(KERNELS[method], call, [a, b], None, (low, high))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_blend_is_the_formula_s(method: str, kind: str, shape: tuple[int, ...]) -> None:
    a, b = tensors(kind, shape, 2)
    for alpha, low, high in ((0.0, -1.0, 1.0), (0.3, 0.1, 0.9), (-0.2, -0.5, 0.6)):
        if not a.numel():
            assert torch.equal(made(method, a, b, alpha, low, high), a)
            continue
        wanted = blended(method, a, b, alpha, low, high)
        torch.testing.assert_close(made(method, a, b, alpha, low, high).double(), wanted, rtol=0, atol=1e-6 * 4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_similarities_are_the_formula_s(method: str, shape: tuple[int, ...]) -> None:
    for kind in KINDS:
        a, b = tensors(kind, shape, 2)
        found = similarities(method, a, b)
        along, whole = cosines(method, a, b) if a.numel() else ([], None)
        wanted = along if method == "cosine_a" else [] if whole is None else [(each + whole) / 2 for each in along]
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_all_of_one_model_has_its_bits(method: str) -> None:
    a, b = tensors("random", (6, 5), 2)
    assert torch.equal(made(method, a, b, 0, -3, -2), a)  # far above the range: all of a
    assert torch.equal(made(method, a, b, 1, -1, 1), b)
    same = tensors("identical", (6, 5), 2)
    assert torch.equal(made(method, *same, 0.3, -1, 1), same[0])


def test_the_range_leaves_one_percent_out_at_each_end() -> None:
    """The 99th percentile is that of what the first cut left, and a percentile between two values is their middle."""
    values = torch.arange(101, dtype=torch.float64)
    assert similarity_range([values[50:], values[:50]]) == (1, 99)
    assert similarity_range([torch.tensor([0.25, 0.5, 0.75, 1.0])]) == (0.5, 0.75)


def by_numpy_s_rule(values: list[float]) -> tuple[float, float]:
    def percentile(ordered: list[float], percent: int) -> float:
        place = percent / 100 * (len(ordered) - 1)
        below = int(place + 1e-12)
        above = below if abs(place - below) < 1e-9 else below + 1
        return (ordered[below] + ordered[above]) / 2

    ordered = sorted(values)
    ordered = [each for each in ordered if each >= percentile(ordered, 1)]
    ordered = [each for each in ordered if each <= percentile(ordered, 99)]
    return ordered[0], ordered[-1]


@pytest.mark.parametrize("count", [2, 3, 5, 100, 101, 250, 999])
def test_the_range_is_that_of_the_percentiles(count: int) -> None:
    values = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    if count < 4:  # the cuts leave one value of so few
        with pytest.raises(UndefinedError):
            similarity_range([values])
        return
    low, high = similarity_range([values[: count // 3], values[count // 3 :]])
    assert (low, high) == by_numpy_s_rule(values.tolist())


@pytest.mark.parametrize("collected", [[], [torch.zeros(0)]], ids=["no tensors", "empty tensors"])
def test_nothing_to_compare_is_an_error(collected: list[Tensor]) -> None:
    with pytest.raises(UndefinedError, match="no common tensors"):
        similarity_range(collected)


def test_models_that_are_equally_alike_everywhere_are_an_error() -> None:
    with pytest.raises(UndefinedError, match="equally alike"):
        similarity_range([torch.ones(100)])


def test_rows_name_their_kernels() -> None:
    assert [
        row.name for row in ROWS if isinstance(row.makes, CatalogKernel) and row.makes.module == "model_wide"
    ] == sorted(KERNELS)


@pytest.mark.parametrize("method", ["cosine_a", "cosine_b"])
def test_numbers_empty_tensors_and_64_axes_are_built_with_the_others(lab: Lab, method: str) -> None:
    """What a survey looks at, and what memory is asked for, is of any shape too."""
    shapes = {
        "n": (),
        "e": (0, 5),
        "none": (0,) * 64,
        "one": (1,) * 64,
        "last": (*(1,) * 63, 2),
        "m": (4, 3),
        "v": (3,),
    }
    for index, name in enumerate("xy"):
        lab.model(name, **{each: tensors("random", shape, 2, 3)[index] for each, shape in shapes.items()})
    lab.write(f'[targets.t]\nmethod = "{method}"\na = "x"\nb = "y"\nalpha = 0.3\noutput = "t.safetensors"\n')
    assert lab.verdicts() == {"t": "built"}
    found = lab.read("t.safetensors")
    assert {name: tuple(each.shape) for name, each in found.items()} == shapes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_working_sets_hold_the_inputs(shape: tuple[int, ...]) -> None:
    """Of a number without dimensions, too."""
    for kernel in KERNELS.values():
        assert kernel.working_set is not None
        assert kernel.working_set(Call("w", shape, {}), 2) >= 4 * 2 * prod(shape)
