"""Compiled kernels have the bits of the torch kernels, whatever is given to them, and refuse what they can't take."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mergebuild import native
from mergebuild.methods.kernels.linear import combine
from mergebuild.methods.shares import shares_of

DTYPES = {name: getattr(torch, name) for name in native.DTYPES}


def raw(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


@st.composite
def combinations(draw: st.DrawFn) -> tuple[list[tuple[bytes, str]], list[Fraction], str, int]:
    """Draw inputs of any dtypes, exact coefficients (often with the sum 1), a dtype, and a length."""
    count = draw(st.sampled_from((0, 1, 3, 16, 31, 2048, 2049, 4500)))
    number = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for _ in range(number):
        dtype = draw(st.sampled_from(sorted(native.DTYPES)))
        values = torch.randn(count, generator=generator) * draw(st.sampled_from((1e-6, 1.0, 300.0)))
        inputs.append((raw(values.to(DTYPES[dtype])), dtype))
    shares = [Fraction(draw(st.integers(-20, 20)), draw(st.sampled_from((1, 3, 10)))) for _ in range(number)]
    if draw(st.booleans()):
        shares[-1] = 1 - sum(shares[:-1], Fraction(0))
    return inputs, shares, draw(st.sampled_from(sorted(native.DTYPES))), count


def by_torch(inputs: Sequence[tuple[bytes, str]], shares: Sequence[Fraction], dtype: str, count: int) -> bytes:
    found = shares_of(tuple(shares))
    values = [
        torch.frombuffer(bytearray(data), dtype=DTYPES[each]).float() if count else torch.empty(0)
        for data, each in inputs
    ]
    others = [each for index, each in enumerate(values) if index != found.pivot]
    centre = None if found.pivot is None else values[found.pivot]
    return raw(combine(centre, others, found.others, torch.empty(count), torch.empty(count)).to(DTYPES[dtype]))


@pytest.mark.usefixtures("variant")
@given(drawn=combinations())
def test_combinations_have_the_bits_of_torch(
    drawn: tuple[list[tuple[bytes, str]], list[Fraction], str, int],
) -> None:
    inputs, shares, dtype, count = drawn
    found = shares_of(tuple(shares))
    kernel = native.Prepared("linear", -1 if found.pivot is None else found.pivot, native.packed(found.others))
    out, running = bytearray(count * native.DTYPES[dtype][1]), native.Hash()
    hashes = {index: native.Hash() for index in range(len(inputs))}
    native.apply(kernel, inputs, out, dtype, (0, count), hash=running, hashes=hashes)
    assert bytes(out) == by_torch(inputs, shares, dtype, count)
    assert running.digest() == xxhash.xxh3_128_digest(bytes(out))
    for index, (data, _) in enumerate(inputs):
        assert hashes[index].digest() == xxhash.xxh3_128_digest(data)


@pytest.mark.usefixtures("variant")
@given(parts=st.lists(st.integers(0, 3000), max_size=8), seed=st.integers(0, 99))
def test_a_hash_does_not_depend_on_how_bytes_come(parts: list[int], seed: int) -> None:
    data = bytes(torch.randint(0, 256, (sum(parts),), generator=torch.Generator().manual_seed(seed)).tolist())
    running, done = native.Hash(), 0
    for part in parts:
        running.update(memoryview(data)[done : done + part])
        done += part
        assert running.digest() == xxhash.xxh3_128_digest(data[:done])


@pytest.mark.parametrize("length", range(0, 300, 7))
def test_short_texts_are_hashed_as_xxhash_does(length: int) -> None:
    running = native.Hash()
    running.update(bytes(range(256)) * 2 if length > 256 else bytes(range(length)))
    assert running.digest() == xxhash.xxh3_128_digest(bytes(range(256)) * 2 if length > 256 else bytes(range(length)))


@pytest.mark.parametrize(
    ("kernel", "inputs", "room", "count"),
    [
        (native.Prepared("linear", 0), [(bytes(3), "float32")], 4, 1),  # an input ends early
        (native.Prepared("linear", 0), [(bytes(4), "float32")], 3, 1),  # no room
        (native.Prepared("linear", 1), [(bytes(4), "float32")], 4, 1),  # no such input
        (native.Prepared("linear", -1), [(bytes(4), "float32")], 4, 1),  # no coefficient
        (native.Prepared("linear", 0, bytes(4)), [(bytes(4), "float32")], 4, 1),  # one too many
        (native.Prepared("greater"), [(bytes(4), "float32")], 4, 1),
        (native.Prepared("train_difference", 0, bytes(4)), [(bytes(4), "float32")] * 2, 4, 1),
        (native.Prepared("train_difference"), [(bytes(4), "float32")] * 3, 4, 1),
        (native.Prepared("similarity_add_difference", 1, bytes(4)), [(bytes(4), "float32")] * 3, 4, 1),
        (native.Prepared("nearswap"), [(bytes(4), "float32")] * 2, 4, 1),
        (native.Prepared("clamp", 0, bytes(4)), [(bytes(4), "float32")], 4, 1),
        (native.Prepared("ram", 1, bytes(4)), [(bytes(4), "float32")] * 3, 4, 1),
        (native.Prepared("ram", 0, bytes(4)), [], 4, 1),
        (native.Prepared("geometric", 0, bytes(23)), [(bytes(4), "float32")] * 2, 4, 1),
        (native.Prepared("multiply_difference", 0, bytes(12)), [(bytes(4), "float32")] * 3, 4, 1),
        (native.Prepared("multiply_quotient", 0, bytes(4)), [(bytes(4), "float32")] * 3, 4, 1),
        (native.Prepared("band", 0, bytes(24)), [(bytes(4), "float32")] * 2, 4, 1),  # rows of no length
        (native.Prepared("band", 0, struct.pack("=3q", 5, 4, 3)), [(bytes(4), "float32")] * 2, 4, 1),
        (native.Prepared("band", 0, struct.pack("=3q", 5, 1, 6)), [(bytes(4), "float32")] * 2, 4, 1),
        (native.Prepared("add_numbers"), [(bytes(4), "float32")], 4, 1),
        (native.Prepared("nothing"), [(bytes(4), "float32")], 4, 1),
        (native.Prepared("linear", 0), [(bytes(4), "float32")], 4, -1),
        (native.Prepared("linear", -1, bytes(4 * 65)), [(bytes(4), "float32")] * 65, 4, 1),
    ],
)
def test_what_does_not_fit_is_refused(
    kernel: native.Prepared, inputs: list[tuple[bytes, str]], room: int, count: int
) -> None:
    with pytest.raises(ValueError, match=r"input|output|kernel|count|take"):
        native.apply(kernel, inputs, bytearray(room), "float32", (0, count))


def test_values_not_finite_are_counted() -> None:
    values = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 1e30])
    assert native.count_nonfinite((raw(values), "float32"), 5) == 3
    assert native.count_nonfinite((raw(values.double() * 1e300), "float64"), 5) == 5  # as float32


def test_differences_that_count_are_counted() -> None:
    base, one, other = (
        raw(torch.tensor(each)) for each in ([0.0, 0.0, 0.0, 1.0], [1.0, 0.5, 2.0, 1.0], [0.5, 3.0, -1.0, 9.0])
    )
    chunks = [(each, "float32") for each in (base, one, other)]
    assert native.count_active(chunks, 4, 0.5) == (1, 1, 2, 1)
    assert native.count_active(chunks, 0, 0.5) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="fewer elements"):
        native.count_active(chunks, 5, 0.5)


def test_counts_and_states_that_cannot_be_are_refused() -> None:
    """A negative count is no large one, and a hash's state is one that was begun."""
    with pytest.raises(ValueError, match="negative"):
        native.count_nonfinite((b"", "float32"), -1)
    with pytest.raises(ValueError, match="negative"):
        native.count_active([(b"", "float32")] * 2, -1, 0.5)
    with pytest.raises(ValueError, match="negative"):
        native.GramMatrix(1).add([(b"", "float32")], -1)
    running = native.Hash()
    for state in (running.state[:-1], bytearray(b"\xff" * len(running.state))):
        running.state = state
        with pytest.raises(ValueError, match="state of a hash"):
            running.update(b"x")
        with pytest.raises(ValueError, match="state of a hash"):
            running.digest()
        with pytest.raises(ValueError, match="state of a hash"):
            native.apply(
                native.Prepared("linear", 0), [(bytes(4), "float32")], bytearray(4), "float32", (0, 1), hash=running
            )
