"""Compiled Gram matrices have the bits of those of torch, however tensors are cut, and refuse what they cannot take."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

from mergebuild import native
from mergebuild.methods.kernels.reduction import BLOCK, Gram

pytestmark = pytest.mark.usefixtures("variant")

DTYPES = {name: getattr(torch, name) for name in native.DTYPES}
COUNTS = (0, 1, 2, 63, 64, 511, 512, 513, 4099, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 640, 3 * BLOCK + 12_345)


def drawn(count: int, dtypes: Sequence[str], seed: int) -> list[torch.Tensor]:
    """Return vectors of about one size, of different magnitudes within, with zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-3, 2, (count,), generator=generator)
    found = []
    for dtype in dtypes:
        values = torch.randn(count, generator=generator, dtype=torch.float64) * scale
        values[::7] = -0.0
        found.append(values.to(DTYPES[dtype]))
    return found


def raw(values: torch.Tensor) -> memoryview:
    return memoryview(values.contiguous().view(torch.uint8).numpy())


def by_torch(values: Sequence[torch.Tensor], origin: int | None) -> tuple[tuple[float, ...], ...]:
    others = [each.float() for each in values]
    start = None if origin is None else others.pop(origin)
    found = Gram(len(others))
    if others:
        found.add(others, start)
    return found.value()


@examples(30)
@given(
    count=st.sampled_from(COUNTS) | st.integers(0, 2 * BLOCK),
    dtypes=st.lists(st.sampled_from(sorted(native.DTYPES)), min_size=1, max_size=5),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_a_matrix_has_the_bits_of_torch(count: int, dtypes: list[str], seed: int, data: st.DataObject) -> None:
    """Of whole tensors and of what is added part by part; looking at it on the way changes nothing."""
    origin = data.draw(st.none() | st.integers(0, len(dtypes) - 1), "origin")
    values = drawn(count, dtypes, seed)
    wanted = by_torch(values, origin)
    whole, parts = native.GramMatrix(len(dtypes), origin), native.GramMatrix(len(dtypes), origin)
    whole.add([(raw(each), dtype) for each, dtype in zip(values, dtypes, strict=True)], count)
    assert whole.value() == wanted
    cuts, done = random.Random(seed), 0
    while done < count:
        more = min(
            count - done, cuts.choice((1, 7, 640, BLOCK // 2, BLOCK, BLOCK + 3)) if cuts.random() < 0.9 else count
        )
        if count > 5000:
            more = min(count - done, max(more, 4000))
        parts.add([(raw(each[done : done + more]), dtype) for each, dtype in zip(values, dtypes, strict=True)], more)
        done += more
        if cuts.random() < 0.3:
            parts.value()
    assert parts.value() == wanted


@pytest.mark.parametrize("vectors", [16, 64])
def test_as_many_inputs_as_a_call_takes_have_a_matrix(vectors: int) -> None:
    values = drawn(700, ["float16"] * vectors, 3)
    found = native.GramMatrix(vectors, 5)
    found.add([(raw(each), "float16") for each in values], 700)
    assert found.value() == by_torch(values, 5)


def test_values_at_odd_addresses_are_added() -> None:
    (values,) = drawn(BLOCK + 5, ["float32"], 1)
    shifted = memoryview(b"x" + bytes(raw(values)))[1:]
    found = native.GramMatrix(1)
    found.add([(shifted, "float32")], len(values))
    assert found.value() == by_torch([values], None)


def test_a_value_that_is_not_finite_shows_in_the_diagonal() -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        values = torch.ones(600)
        values[599] = bad
        found = native.GramMatrix(1)
        found.add([(raw(values), "float32")], 600)
        assert not torch.isfinite(torch.tensor(found.value())).all()


@pytest.mark.parametrize(
    ("inputs", "sizes", "count"),
    [
        (2, [4], 1),  # an input is missing
        (1, [4, 4], 1),  # one too many
        (2, [4, 3], 1),  # one ends early
        (1, [4], -1),
    ],
)
def test_what_does_not_fit_is_refused(inputs: int, sizes: list[int], count: int) -> None:
    found = native.GramMatrix(inputs)
    with pytest.raises(ValueError, match=r"input|count"):
        found.add([(bytes(size), "float32") for size in sizes], count)
    assert found.value() == by_torch([torch.zeros(0)] * inputs, None)


@pytest.mark.parametrize(("inputs", "origin"), [(65, None), (-1, None), (2, 2), (2, -2), (0, 0)])
def test_sums_over_what_cannot_be_are_not_begun(inputs: int, origin: int | None) -> None:
    with pytest.raises(ValueError, match="inputs must be"):
        native.GramMatrix(inputs, origin)


def test_only_a_state_of_sums_is_taken_for_one() -> None:
    found = native.GramMatrix(1)
    for state in (bytearray(8), bytearray(b"\xff" * len(found.state)), found.state[:-100]):
        found.state = state
        with pytest.raises(ValueError, match="no state of sums"):
            found.value()
