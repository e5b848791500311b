"""Laws of products with scales: the same in every cut, exact but for one rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.engine.rounding import to_odd
from mergebuild.engine.scaling import factors_of, multiply
from mergebuild.formats.header import Scaling


def same(tensor: torch.Tensor) -> torch.Tensor:
    """The host's is where it is computed with."""
    return tensor


NUMBERS = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(1.0)


def scales_for(scaling: Scaling, count: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    tall = math.ceil(count // scaling.columns / scaling.block_rows)
    wide = math.ceil(scaling.columns / scaling.block_columns)
    return torch.randn(tall, wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


@examples(60)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 4), st.integers(1, 4)),
    st.lists(st.integers(1, 20), max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    st.integers(0, 9),
)
def test_each_element_is_multiplied_by_its_own_scale_wherever_it_is_cut(
    form: tuple[int, int, int, int], cuts: list[int], dtype: torch.dtype, seed: int
) -> None:
    rows, columns, block_rows, block_columns = form
    scaling = Scaling(columns, block_rows, block_columns)
    values = torch.randn(rows * columns, generator=torch.Generator().manual_seed(seed))
    scales = scales_for(scaling, len(values), dtype, seed)
    tall, wide = torch.arange(rows) // block_rows, torch.arange(columns) // block_columns
    wanted = (values.double() * scales.double()[tall][:, wide].reshape(-1)).float()
    found, start = [], 0
    for size in (*cuts, len(values)):
        part = values[start : start + size].clone()
        if len(part):
            found.append(multiply(part, start, factors_of(scales, same), scaling))
        start += size
    assert torch.equal(torch.cat(found), wanted)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=2.0**-100, max_value=2.0**100))
def test_rounded_to_odd_is_the_exact_product_where_float32_has_it_and_else_its_odd_neighbour(scale: float) -> None:
    found = multiply(NUMBERS.clone(), 0, factors_of(torch.tensor([[scale]]), same), Scaling(256, 1, 256), odd=True)
    for number, product in zip(NUMBERS.tolist(), found.tolist(), strict=True):
        exact = Fraction(number) * Fraction(scale)
        if Fraction(product) != exact:
            assert torch.tensor(product).view(torch.int32) % 2 == 1
            away = torch.nextafter(
                torch.tensor(product), torch.tensor(math.copysign(math.inf, exact - Fraction(product)))
            )
            assert abs(exact - Fraction(product)) < abs(Fraction(away.item()) - Fraction(product))


@examples(60)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), st.sampled_from(["float8_e4m3fn", "float8_e5m2"]))
def test_rounded_to_odd_is_what_the_product_in_float64_comes_to(bits: list[int], dtype: str) -> None:
    """Of all scales, zeros, infinities and what is none among them."""
    scales = torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)
    every = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(getattr(torch, dtype)).float()
    for some in (scales, scales[scales.abs().log2().abs() < 50]):
        if not len(some):
            continue
        values = every.repeat(len(some))
        wanted = to_odd((every.double()[None] * some.double()[:, None]).view(-1), torch.empty(len(values)))
        found = multiply(values, 0, factors_of(some[:, None], same), Scaling(256, 1, 256), odd=True)
        bad = found.isnan() | wanted.isnan()
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(found[~bad].view(torch.int32), wanted[~bad].view(torch.int32))


def test_a_scale_that_is_no_number_makes_none() -> None:
    found = multiply(torch.ones(4), 0, factors_of(torch.tensor([[1.0], [math.nan]]), same), Scaling(2, 1, 2))
    assert found.isnan().tolist() == [False, False, True, True]
