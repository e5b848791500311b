"""Scaled 8-bit floats that compiled kernels read are the products that torch makes of them, in every cut."""

from __future__ import annotations

import math

import pytest
import torch
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from model_files import as_bytes
from torch import Tensor

from mergebuild import native
from mergebuild.engine.scaling import factors_of, multiply
from mergebuild.formats.header import Scaling
from mergebuild.methods.kernels.reduction import Gram

pytestmark = pytest.mark.usefixtures("variant")

ITSELF = native.Prepared("linear", 0)
NUMBERS = {dtype: getattr(torch, dtype) for dtype in ("float8_e4m3fn", "float8_e5m2")}
FACTORS = {dtype: getattr(torch, dtype) for dtype in ("float64", "float32", "float16", "bfloat16")}
EXTREMES = (0.0, -0.0, 1.0, -3e38, 1e-38, 2.0**-149, float("inf"), float("nan"))


def numbers(count: int, dtype: str, seed: int) -> Tensor:
    """Return 8-bit floats, all kinds of them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count,), generator=generator).to(torch.uint8).view(NUMBERS[dtype])


def factors(scaling: Scaling, count: int, dtype: str, seed: int) -> Tensor:
    """Return scales, one row of blocks a row; every other of extreme ones is a plain number."""
    tall = math.ceil(math.ceil(count / scaling.columns) / scaling.block_rows)
    wide = math.ceil(scaling.columns / scaling.block_columns)
    found = torch.randn(tall, wide, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if seed % 2:
        found.view(-1)[::2] = torch.tensor(EXTREMES, dtype=torch.float64)[
            torch.arange(0, tall * wide, 2) % len(EXTREMES)
        ]
    return found.to(FACTORS[dtype])


def products(values: Tensor, scales: Tensor, scaling: Scaling, *, odd: bool = False) -> Tensor:
    """Return what torch makes of them (float32)."""
    return multiply(values.float(), 0, factors_of(scales, lambda tensor: tensor), scaling, odd=odd)


@examples(60)
@given(
    form=st.tuples(st.integers(1, 6), st.integers(1, 7) | st.just(300), st.integers(1, 4), st.integers(1, 9)),
    dtypes=st.tuples(st.sampled_from(sorted(NUMBERS)), st.sampled_from(sorted(FACTORS))),
    cuts=st.lists(st.integers(1, 700), max_size=4),
    seed=st.integers(0, 99),
    odd=st.booleans(),
)
def test_each_element_is_multiplied_by_its_own_scale(
    form: tuple[int, int, int, int], dtypes: tuple[str, str], cuts: list[int], seed: int, odd: bool
) -> None:
    """To the nearest float32 and to odd, also where it overflows, is subnormal, or no number."""
    rows, columns, block_rows, block_columns = form
    scaling = Scaling(columns, block_rows, block_columns)
    values = numbers(rows * columns, dtypes[0], seed)
    scales = factors(scaling, len(values), dtypes[1], seed)
    wanted = products(values, scales, scaling, odd=odd)
    found, start = bytearray(), 0
    for size in (*cuts, len(values)):
        part = values[start : start + size]
        room = bytearray(4 * len(part))
        chunk = as_bytes(part), dtypes[0], native.BlockScales(as_bytes(scales), dtypes[1], *scaling, start)
        native.apply(ITSELF, [chunk], room, "float32", (start, len(part)), odd=odd)
        assert native.count_nonfinite(chunk, len(part)) == int(
            (~products(values, scales, scaling).isfinite())[start : start + size].sum()
        )
        found += room
        start += len(part)
    made = torch.frombuffer(found, dtype=torch.float32)
    assert torch.equal(made.isnan(), wanted.isnan())
    assert torch.equal(made.nan_to_num(nan=0).view(torch.int32), wanted.nan_to_num(nan=0).view(torch.int32))


@pytest.mark.parametrize("parts", [[70_001], [1, 65_536, 4464]], ids=str)
@pytest.mark.parametrize("origin", [None, 0, 1])
def test_dot_products_are_those_of_the_products(parts: list[int], origin: int | None) -> None:
    scaling = Scaling(259, 3, 100)
    values = [
        (torch.randn(sum(parts), generator=torch.Generator().manual_seed(seed)) * 9).to(torch.float8_e4m3fn)
        for seed in range(2)
    ]
    scales = [factors(scaling, sum(parts), "float32", 2 * seed) for seed in range(2)]
    found, start = native.GramMatrix(2, origin), 0
    for size in parts:
        found.add(
            [
                (
                    as_bytes(each[start : start + size]),
                    "float8_e4m3fn",
                    native.BlockScales(as_bytes(scale), "float32", *scaling, start),
                )
                for each, scale in zip(values, scales, strict=True)
            ],
            size,
        )
        start += size
    plain = [products(each, scale, scaling) for each, scale in zip(values, scales, strict=True)]
    wanted = Gram(2 if origin is None else 1)
    start_from = None if origin is None else plain.pop(origin)
    wanted.add(plain, start_from)
    assert found.value() == wanted.value()


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (native.BlockScales(bytes(4), "float32", 3, 1, 3, 0), "too few scales"),
        (native.BlockScales(bytes(8), "float32", 3, 1, 2, 0), "too few scales"),
        (native.BlockScales(bytes(8), "float32", 3, 1, 3, 3), "too few scales"),
        (native.BlockScales(bytes(8), "float8_e5m2", 3, 1, 3, 0), "another dtype"),
        (native.BlockScales(bytes(8), "float32", 0, 1, 3, 0), "no blocks"),
        (native.BlockScales(bytes(8), "float32", 3, 0, 3, 0), "no blocks"),
        (native.BlockScales(bytes(8), "float32", 3, 1, 0, 0), "no blocks"),
        (native.BlockScales(bytes(8), "float32", 3, 1, 3, (1 << 64) - 1), "no blocks"),
    ],
)
def test_scales_that_are_too_few_or_none_are_refused(scales: native.BlockScales, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.apply(ITSELF, [(bytes(6), "float8_e4m3fn", scales)], bytearray(24), "float32", (0, 6))
