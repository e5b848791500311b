"""`tensor_sum` and `cosine_gate` against sd-mecha's, called on float64 tensors so that only ours round to float32."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

import pytest
import torch
from sd_mecha.extensions.builtin.merge_methods import cosine, slicing
from torch import Tensor

from mergebuild.methods.kernels.kernel import Argument, Call
from mergebuild.methods.kernels.rows import KERNELS

_SHAPES = [(), (1,), (7,), (1, 8), (8, 1), (16, 24), (4, 3, 3, 3), (0, 5)]
_CASES = ["random", "identical", "antipodal", "zero column"]
_DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _inputs(case: str, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Return two float32 inputs with the values of a dtype."""
    generator = torch.Generator().manual_seed(prod(shape))
    a, b = (torch.randn(shape, generator=generator).mul(0.05).to(dtype).float() for _ in range(2))
    if case == "identical":
        b = a.clone()
    elif case == "antipodal":
        b = -a
    elif case == "zero column" and len(shape) > 1 and shape[1] > 1:  # all of zeros: see below
        b[:, 0] = 0
    return [a, b]


def _made(method: str, inputs: Sequence[Tensor], **given: float | str) -> Tensor:
    arguments: dict[str, Argument] = {
        name: each if isinstance(each, str) else Fraction(str(each)) for name, each in given.items()
    }
    if method == "cosine_gate":
        arguments["form"] = str(given["form"])
    call = Call("x", tuple(inputs[0].shape), arguments)
    flat = [each.flatten() for each in inputs]
    kernel, state = KERNELS[method], None
    if kernel.statistic is not None:
        account = kernel.statistic.begin(call, len(flat))
        kernel.statistic.look(call, account, flat, 0)
        state = kernel.statistic.end(call, account)
    return kernel.apply(call, flat, 0, state).reshape(call.shape)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("width", [0, 0.3, 0.5, 0.75, 1, 1.5, -0.3, -1])
@pytest.mark.parametrize("offset", [0, 0.3, 0.75, 1, 1.25, -0.3, -1.25])
def test_bands_to_the_nearest_row_are_sd_mechas(width: float, offset: float, shape: tuple[int, ...]) -> None:
    """Bit for bit. It writes into its inputs, so it gets copies."""
    a, b = _inputs("random", shape, torch.float32)
    expected = slicing.tensor_sum.__wrapped__(a.clone(), b.clone(), float(width), float(offset))
    assert torch.equal(_made("tensor_sum", [a, b], width=width, offset=offset, rounding="round"), expected)


def test_bounds_are_rounded_down_where_sd_mecha_rounds_to_the_nearest() -> None:
    a, b = torch.zeros(10), torch.ones(10)
    theirs = slicing.tensor_sum.__wrapped__(a.clone(), b.clone(), 0.28, 0.0)
    assert int(theirs.sum()) == 3
    assert int(_made("tensor_sum", [a, b], width=0.28, offset=0, rounding="int").sum()) == 2


@pytest.mark.parametrize("shape", _SHAPES[1:])  # sd-mecha has no first dimension to go along in a number
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.parametrize("alpha", [1, 0.25, 0, -0.5])
def test_cosine_gate_is_sd_mechas(
    alpha: float, form: str, dtype: torch.dtype, case: str, shape: tuple[int, ...]
) -> None:
    inputs = _inputs(case, shape, dtype)
    oracle = cosine.add_cosine_a if form == "a" else cosine.add_cosine_b
    expected = oracle.__wrapped__(*(each.double() for each in inputs), alpha=alpha)
    found = _made("cosine_gate", inputs, alpha=alpha, form=form)
    scale = inputs[0].abs() + inputs[1].abs()
    assert found.shape == expected.shape
    assert bool(((found - expected).abs() <= 1e-6 * scale).all())


def test_a_tensor_of_zeros_has_the_cosine_0_where_sd_mecha_has_nan() -> None:
    a, b = _inputs("random", (4, 4), torch.float32)
    b.zero_()
    assert bool(cosine.add_cosine_b.__wrapped__(a, b, alpha=0.0).isnan().all())
    assert torch.equal(_made("cosine_gate", [a, b], alpha=0, form="b"), b)


def test_sd_mecha_writes_into_its_input() -> None:
    a, b = torch.zeros(10), torch.ones(10)
    slicing.tensor_sum.__wrapped__(a, b, 0.5, 0.0)
    assert not (bool((a == 0).all()) and bool((b == 1).all()))
