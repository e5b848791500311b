"""Compiled conversions have the bits of torch's, for every instruction set that this processor has."""

from __future__ import annotations

import math
import random

import pytest
import torch

from mergebuild import native

pytestmark = pytest.mark.usefixtures("variant")

DTYPES = {name: getattr(torch, name) for name in native.DTYPES}
NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
NAN = {"float32": 0x7FC00000, "float16": 0x7E00, "bfloat16": 0x7FC0, "float8_e4m3fn": 0x7F, "float8_e5m2": 0x7F}
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}


def converted(values: torch.Tensor, dtype: str, *, odd: bool = False) -> tuple[torch.Tensor, native.Seen]:
    """Return what a compiled kernel makes of values, in another dtype."""
    source = next(name for name, each in DTYPES.items() if each is values.dtype)
    out = bytearray(native.DTYPES[dtype][1] * len(values))
    data = bytes(values.contiguous().view(torch.uint8).tolist())
    copy = native.Prepared("linear", 0)
    seen = native.apply(copy, [(data, source)], out, dtype, (0, len(values)), odd=odd)
    return torch.frombuffer(out, dtype=DTYPES[dtype]), seen


def bits(values: torch.Tensor) -> torch.Tensor:
    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize]
    return values.view(word)


@pytest.mark.parametrize("dtype", NARROW)
def test_every_value_is_widened_exactly(dtype: str) -> None:
    width = native.DTYPES[dtype][1]
    every = torch.arange(256, dtype=torch.uint8) if width == 1 else torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    values = every.view(DTYPES[dtype])
    found, _ = converted(values, "float32")
    wanted = values.float()
    is_nan = wanted.isnan()
    assert torch.equal(bits(found)[~is_nan], bits(wanted)[~is_nan])
    assert bool((bits(found)[is_nan] == NAN["float32"]).all())


def edges() -> torch.Tensor:
    """Return float32 values of all exponents and signs, about every tie of every narrower dtype."""
    chance = random.Random(1)
    low = [
        0,
        1,
        2,
        *(value + off for shift in (12, 15, 19, 20) for value in (1 << shift, 3 << shift) for off in (-1, 0, 1)),
    ]
    found = [(high << 16) + (each & 0xFFFF) for high in range(1 << 16) for each in chance.sample(low, 3)]
    found += [(high << 16 | 0x8000) + off for high in range(1 << 16) for off in (-1, 0, 1)]
    every = torch.tensor(found, dtype=torch.int64) & 0xFFFFFFFF
    return torch.where(every >= 1 << 31, every - (1 << 32), every).to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("dtype", NARROW)
def test_values_are_rounded_to_nearest_even(dtype: str) -> None:
    values = edges()
    found, seen = converted(values, dtype)
    is_nan = values.isnan()
    assert torch.equal(bits(found)[~is_nan], bits(values.to(DTYPES[dtype]))[~is_nan])
    assert {int(each) & 0xFFFF for each in bits(found)[is_nan]} == {NAN[dtype]}
    finite = torch.isfinite(values)
    beyond = values.double().abs() > LARGEST[dtype]
    rounded_away = (
        beyond & ~torch.isfinite(values.to(DTYPES[dtype]).double()) if dtype != "float8_e4m3fn" else values.abs() > 464
    )
    assert seen == (int((~finite).sum()), int((finite & rounded_away).sum()))


@pytest.mark.parametrize("count", [1, 2, 7, 15, 16, 17, 33, 2047, 2048, 2049, 5000])
def test_any_number_of_values_is_rounded_alike(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 3
    for dtype in NARROW:
        found, _ = converted(values, dtype)
        assert torch.equal(bits(found), bits(values.to(DTYPES[dtype]))), dtype


def test_float64_is_rounded_to_the_nearest_or_to_odd() -> None:
    from mergebuild.engine.rounding import to_odd

    generator = torch.Generator().manual_seed(5)
    values = torch.cat([
        torch.randn(5000, dtype=torch.float64, generator=generator) * 10.0 ** torch.arange(-60, 40).repeat(50),
        torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e300, -1e300, 1.5 * 2.0**-150], dtype=torch.float64),
    ])  # fmt: skip
    found, _ = converted(values, "float32")
    assert torch.equal(bits(found), bits(values.float()))
    found, _ = converted(values, "float32", odd=True)
    assert torch.equal(bits(found), bits(to_odd(values, torch.empty(len(values)))))
    found, _ = converted(torch.tensor([1.0, math.nan]), "float64")
    assert bits(found).tolist() == [0x3FF0000000000000, 0x7FF8000000000000]


def test_values_that_lie_at_odd_addresses_are_read() -> None:
    data = bytes(range(251)) * 40
    for dtype, (_, width) in native.DTYPES.items():
        for shift in (1, 2, 3, 5):
            lying = memoryview(data)[shift : shift + 64 * width]
            out, straight = bytearray(4 * 64), bytearray(4 * 64)
            native.apply(native.Prepared("linear", 0), [(lying, dtype)], out, "float32", (0, 64))
            native.apply(native.Prepared("linear", 0), [(bytes(lying), dtype)], straight, "float32", (0, 64))
            assert out == straight
