"""`nearswap`, `ram` and `ramplus_tl` against mergekit's."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

import pytest
import torch
from mergekit.merge_methods import merge_tensors
from torch import Tensor

from mergebuild.methods.kernels.elementwise import KERNELS
from mergebuild.methods.kernels.kernel import Argument, Call

_SHAPES = [(), (1,), (7,), (1, 8), (8, 1), (16, 24), (4, 3, 3, 3), (0, 5)]
_CASES = ["random", "identical", "no difference", "zero", "antipodal", "sparse"]
_DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _inputs(case: str, shape: tuple[int, ...], dtype: torch.dtype, count: int) -> list[Tensor]:
    """Return float32 inputs with the values of a dtype."""
    generator = torch.Generator().manual_seed(prod(shape))
    first, *others = (torch.randn(shape, generator=generator).mul(0.05).to(dtype).float() for _ in range(count))
    if case == "identical":
        others = [first.clone() for _ in others]
    elif case == "no difference":
        others[-1] = first.clone()
    elif case == "zero":
        others[-1] = torch.zeros(shape)
    elif case == "antipodal":
        others[0] = -first
    elif case == "sparse":
        kept = [torch.rand(shape, generator=generator) < 0.4 for _ in others]
        others = [torch.where(mask, other, first) for mask, other in zip(kept, others, strict=True)]
    return [first, *others]


def _made(method: str, inputs: Sequence[Tensor], **numbers: float) -> Tensor:
    arguments: dict[str, Argument] = {name: Fraction(str(number)) for name, number in numbers.items()}
    call = Call("x", tuple(inputs[0].shape), arguments)
    flat = [each.flatten() for each in inputs]
    kernel, state = KERNELS[method], None
    if kernel.statistic is not None:
        account = kernel.statistic.begin(call, len(flat))
        kernel.statistic.look(call, account, flat, 0)
        state = kernel.statistic.end(call, account)
    return kernel.apply(call, flat, 0, state).reshape(call.shape)


def _theirs(method: str, inputs: Sequence[Tensor], **numbers: float) -> Tensor:
    return merge_tensors(list(inputs), method, parameters=numbers, base_index=0, dtype=torch.float32)


def _assert_near(found: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    scale = sum((each.abs() for each in inputs), expected.abs())
    assert found.shape == expected.shape
    assert bool(((found - expected).abs() <= 1e-6 * scale).all())


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("t", [0, 1e-6, 0.01, 0.05, 10])
def test_nearswap_is_mergekits(t: float, dtype: torch.dtype, case: str, shape: tuple[int, ...]) -> None:
    inputs = _inputs(case, shape, dtype, 2)
    _assert_near(_made("nearswap", inputs, t=t), _theirs("nearswap", inputs, t=t), inputs)


def test_nearswap_takes_small_steps_where_mergekit_takes_smaller_ones() -> None:
    """Below 1e-6 mergekit divides t by 1e-6 and not by the difference: here 1e-7 of 4e-7 gives 4e-8 for 1e-7."""
    inputs = [torch.tensor([0.0]), torch.tensor([4e-7])]
    assert float(_made("nearswap", inputs, t=1e-7)) == pytest.approx(1e-7)
    assert float(_theirs("nearswap", inputs, t=1e-7)) == pytest.approx(4e-8)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("epsilon", [1e-5, 0.03])
def test_ram_is_mergekits(epsilon: float, count: int, dtype: torch.dtype, case: str, shape: tuple[int, ...]) -> None:
    inputs = _inputs(case, shape, dtype, count)
    _assert_near(_made("ram", inputs, epsilon=epsilon), _theirs("ram", inputs, epsilon=epsilon), inputs)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(
    "numbers", [{"epsilon": 1e-5, "r": 0.1, "alpha": 0.2}, {"epsilon": 0.03, "r": -2.0, "alpha": 5.0}]
)
def test_ramplus_tl_is_mergekits(
    numbers: dict[str, float], count: int, dtype: torch.dtype, case: str, shape: tuple[int, ...]
) -> None:
    inputs = _inputs(case, shape, dtype, count)
    _assert_near(_made("ramplus_tl", inputs, **numbers), _theirs("ramplus_tl", inputs, **numbers), inputs)


def test_mergekits_ramplus_tl_gives_float32_whatever_it_gets() -> None:
    """Here the file's dtype is what the target says: the kernel's float32 is rounded to it once."""
    inputs = [each.bfloat16() for each in _inputs("random", (7,), torch.bfloat16, 2)]
    assert merge_tensors(inputs, "ramplus_tl", base_index=0).dtype == torch.float32
