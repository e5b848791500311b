"""The elementwise methods against sd-mecha's, called on float64 tensors so that only ours round to float32.

sd-mecha gives masks where these methods give `a + mask * (b - c)`; the product is taken here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sd_mecha.extensions.builtin.merge_methods import limiting, linear, ties
from torch import Tensor

from mergebuild.methods.kernels.elementwise import KERNELS
from mergebuild.methods.kernels.kernel import Argument, Call
from mergebuild.methods.kernels.randomness import bernoulli

_SHAPES = [(), (1,), (7,), (1, 8), (8, 1), (16, 24), (4, 3, 3, 3), (0, 5)]
_CASES = ["random", "identical", "no difference", "zero", "antipodal"]
_DTYPES = [torch.float32, torch.bfloat16, torch.float16]

Oracle = Callable[..., Tensor]


def _inputs(case: str, shape: tuple[int, ...], dtype: torch.dtype, count: int) -> list[Tensor]:
    """Return float32 inputs with the values of a dtype."""
    generator = torch.Generator().manual_seed(prod(shape))
    first, *others = (torch.randn(shape, generator=generator).mul(0.05).to(dtype).float() for _ in range(count))
    if case == "identical":
        others = [first.clone() for _ in others]
    elif case == "no difference":
        others[-1] = others[0].clone()
    elif case == "zero":
        others[-1] = torch.zeros(shape)
    elif case == "antipodal":
        others[0] = -first
    return [first, *others]


def _made(method: str, inputs: Sequence[Tensor], **numbers: float) -> Tensor:
    arguments: dict[str, Argument] = {name: Fraction(str(number)) for name, number in numbers.items()}
    call = Call("x", tuple(inputs[0].shape), arguments)
    return KERNELS[method].apply(call, [each.flatten() for each in inputs], 0, None).reshape(call.shape)


def _assert_near(found: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    scale = sum((each.abs() for each in inputs), expected.abs())
    assert found.shape == expected.shape
    assert bool(((found - expected).abs() <= 1e-6 * scale).all())


def _masked(mask: Oracle) -> Oracle:
    def merged(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
        return a + mask(a, b, c, alpha) * (b - c)

    return merged


def _geometric(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    return linear.geometric_sum.__wrapped__(a, b, alpha)


def _multiply_quotient(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    return linear.multiply_quotient.__wrapped__(a, b, c, alpha)


_ORACLES: dict[str, tuple[Oracle, int, Sequence[float]]] = {
    "train_difference": (_masked(linear.train_difference_mask.__wrapped__), 3, (1, 0.3, -0.7)),
    "add_opposite": (_masked(linear.add_opposite_mask.__wrapped__), 3, (1, 0.3, -0.7)),
    "add_strict_opposite": (_masked(linear.add_strict_opposite_mask.__wrapped__), 3, (1, 0.3, -0.7)),
    "geometric": (_geometric, 2, (0.5, 0.3, 0, 1)),
    "multiply_quotient": (_multiply_quotient, 3, (1, 0.3, -0.7)),
}


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("method", _ORACLES)
def test_a_method_is_sd_mechas(method: str, dtype: torch.dtype, case: str, shape: tuple[int, ...]) -> None:
    oracle, count, alphas = _ORACLES[method]
    inputs = _inputs(case, shape, dtype, count)
    for alpha in alphas:
        expected = oracle(*(each.double() for each in inputs), alpha=alpha)
        _assert_near(_made(method, inputs, alpha=alpha), expected, inputs)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("stiffness", [0, 0.25, 1])
def test_clamp_is_sd_mechas(stiffness: float, dtype: torch.dtype, case: str, shape: tuple[int, ...]) -> None:
    inputs = _inputs(case, shape, dtype, 4)
    a, *bounds = (each.double() for each in inputs)
    expected = limiting.clamp.__wrapped__(a, *bounds, stiffness=stiffness)
    _assert_near(_made("clamp", inputs, stiffness=stiffness), expected, inputs)


@pytest.mark.parametrize("shape", _SHAPES[1:])  # sd-mecha cannot index tensors without dimensions
@pytest.mark.parametrize("probability", [0, 0.3, 0.9, 1])
@pytest.mark.parametrize("rescale", [1, 0, 0.5])
def test_dropout_is_sd_mechas_with_the_same_masks(
    monkeypatch: pytest.MonkeyPatch, probability: float, rescale: float, shape: tuple[int, ...]
) -> None:
    """Its generator is replaced by ours: the masks are the seed's, the arithmetic is its own."""
    inputs = _inputs("random", shape, torch.float32, 4)
    kept = 1 - Fraction(str(probability))
    masks = iter(bernoulli(kept, 3, "x", position, 0, prod(shape)).reshape(shape) for position in (1, 2, 3))
    drawn = SimpleNamespace(binomial=lambda **_given: next(masks).numpy().astype(np.int64))
    monkeypatch.setattr(ties.np.random, "default_rng", lambda _seed: drawn)
    base, *models = (each.double() for each in inputs)
    deltas = [model - base for model in models]
    expected = base + ties.dropout.__wrapped__(*deltas, probability=float(probability), rescale=float(rescale))
    found = _made("dropout", inputs, probability=probability, rescale=rescale, seed=3)
    _assert_near(found, expected, inputs)
