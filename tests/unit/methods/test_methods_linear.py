"""The linear kernel: close to the exact value, exact where it must be, and rounding every operation on its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.shares import float32_of, pivot_of

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]


def run(inputs: Sequence[Tensor], shares: Sequence[Fraction]) -> Tensor:
    """Return a combination of float32 tensors."""
    size = len(inputs[0]) if inputs else 4
    out, spare = torch.full((size,), torch.nan), torch.full((size,), torch.nan)
    pivot = pivot_of(shares)
    rest = [index for index in range(len(inputs)) if index != pivot]
    coefficients = [float32_of(shares[index]) for index in rest]
    others = [inputs[index] for index in rest]
    centre = None if pivot is None else inputs[pivot]
    found = combine(centre, others, coefficients, out, spare)
    if others:  # the same bits when the result takes the first one's place
        others[0] = others[0].clone()
        assert torch.equal(
            combine(centre, others, coefficients, others[0], spare).view(torch.int32), found.view(torch.int32)
        )
    return found


def f32(value: float) -> float:
    """Round a float64 to float32."""
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


def by_hand(values: Sequence[float], shares: Sequence[Fraction]) -> float:
    """Return the contract's form in scalar Python: each operation in float64, rounded once to float32.

    A product, sum or difference of two float32 in float64, rounded again, is the correctly rounded one: 53 >= 2*24 + 2.
    """
    numbers = [float(torch.tensor(float(share), dtype=torch.float64).float()) for share in shares]
    if sum(shares) != 1:
        total = f32(values[0] * numbers[0])
        for value, number in zip(values[1:], numbers[1:], strict=True):
            total = f32(total + f32(value * number))
        return total
    pivot = max(range(len(shares)), key=lambda index: (abs(shares[index]), -index))
    parts = [f32(number * f32(value - values[pivot])) for value, number in zip(values, numbers, strict=True)]
    parts.pop(pivot)
    if not parts:
        return values[pivot]
    total = parts[0]
    for part in parts[1:]:
        total = f32(total + part)
    return f32(total + values[pivot])


SHARES = st.lists(st.fractions(-2, 2, max_denominator=40).filter(bool), min_size=1, max_size=4)


@settings(deadline=None)
@given(SHARES, st.booleans(), st.randoms(use_true_random=False))
def test_every_operation_is_rounded_on_its_own(shares: list[Fraction], to_one: bool, draw: object) -> None:
    """To the bit what scalar arithmetic gives in the contract's order: no fused operation, no other order."""
    if to_one:
        shares = [*shares, 1 - sum(shares, Fraction(0))]
    generator = torch.Generator().manual_seed(draw.randrange(10**6))  # type: ignore[attr-defined]
    inputs = [torch.randn(40, generator=generator) for _ in shares]
    expected = [by_hand([each[index].item() for each in inputs], shares) for index in range(40)]
    assert run(inputs, shares).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shares", [(1, 1), (3, 7), (1, 2, 7), (1, 9, 5, 5), (-2, 12)])
def test_the_result_is_within_a_unit_of_the_exact_value(dtype: torch.dtype, shares: tuple[int, ...]) -> None:
    """Against float64, after rounding to the dtype; where terms cancel, a unit of the largest of them in float32."""
    torch.manual_seed(3)
    inputs = [torch.randn(20_000).to(dtype).float() for _ in shares]
    exact_shares = [Fraction(share, sum(shares)) for share in shares]
    found = run(inputs, exact_shares).to(dtype)
    exact = sum(
        (each.double() * float(share) for each, share in zip(inputs, exact_shares, strict=True)),
        torch.zeros(1, dtype=torch.float64),
    )
    nearest = exact.to(dtype)
    unit = torch.nextafter(nearest.abs(), torch.full_like(nearest, torch.inf)).double() - nearest.abs().double()
    noise = 2**-22 * torch.stack(inputs).abs().amax(0).double()
    assert bool(((found.double() - nearest.double()).abs() <= torch.maximum(unit, noise)).all())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shares", [(3, 7), (1, 1, 1), (-5, 15), (1, 2, 3, 4)])
def test_equal_inputs_give_themselves(dtype: torch.dtype, shares: tuple[int, ...]) -> None:
    """Of every finite value of the small dtypes, and of many of the large ones."""
    if dtype.itemsize == 1:
        values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype).float()
    elif dtype.itemsize == 2:
        values = torch.arange(-32768, 32768).to(torch.int16).view(dtype).float()
    else:
        values = (torch.randn(5000, dtype=torch.float64) * 1e30).to(dtype).float()
    values = values[values.isfinite()]
    found = run([values] * len(shares), [Fraction(share, sum(shares)) for share in shares])
    assert torch.equal(found.to(dtype), values.to(dtype))


def test_a_lone_one_is_the_input_itself() -> None:
    values = torch.tensor([1.0, torch.nan, -0.0, torch.inf])
    assert run([values], [Fraction(1)]) is values


def test_no_terms_are_zeros() -> None:
    assert run([], []).tolist() == [0.0] * 4


def test_inputs_are_not_written_to() -> None:
    inputs = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0]), torch.tensor([0.5, 0.25])]
    before = [each.clone() for each in inputs]
    for shares in ([Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], [Fraction(1), Fraction(2), Fraction(3)]):
        run(inputs, shares)
        assert all(torch.equal(one, other) for one, other in zip(inputs, before, strict=True))


@pytest.mark.parametrize(
    ("shares", "pivot"),
    [((1,), 0), ((1, 1), 0), ((1, 3), 1), ((-3, 4, 4, -4), 1), ((2, -3, 2), 1)],
)
def test_the_pivot_is_the_first_of_the_largest(shares: tuple[int, ...], pivot: int) -> None:
    assert pivot_of([Fraction(share, sum(shares)) for share in shares]) == pivot


def test_without_a_sum_of_one_there_is_no_pivot() -> None:
    """The sum is exact: a float32's breadth beside 1 is not 1."""
    assert pivot_of([Fraction(1, 3), Fraction(1, 3), Fraction(1, 3)]) == 0
    assert pivot_of([Fraction(1, 2), Fraction(1, 2) + Fraction(1, 10**30)]) is None
    assert pivot_of([]) is None


def test_infinities_do_not_vanish() -> None:
    """A value that is not finite never gives a finite one, in either form."""
    for bad in (torch.inf, -torch.inf, torch.nan):
        inputs = [torch.tensor([1.0, bad, 1.0]), torch.tensor([bad, 1.0, bad])]
        for shares in ([Fraction(1, 3), Fraction(2, 3)], [Fraction(1, 10**60), Fraction(1, 2)]):
            assert not run(inputs, shares).isfinite().any()
