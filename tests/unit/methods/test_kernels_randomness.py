from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.kernels.randomness import bernoulli, bits, normal

_WORD = (1 << 64) - 1
_MANY = 1 << 18


def _split_mix(key: int, index: int) -> int:
    """The generator in plain integers, after Steele, Lea & Flood 2014."""
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return (z ^ (z >> 31)) >> 32


def test_the_first_bits_are_those_of_the_published_splitmix64() -> None:
    """SplitMix64 from the seed 0 gives these three words; here their upper halves."""
    assert [_split_mix(0, index) for index in range(3)] == [0xE220A839, 0x6E789E6A, 0x06C45D18]


@given(
    seed=st.integers(-(1 << 70), 1 << 70),
    name=st.text(max_size=20),
    position=st.integers(0, 50),
    start=st.integers(0, 1 << 40),
    count=st.integers(0, 40),
)
def test_bits_are_a_function_of_seed_tensor_position_and_index(
    seed: int, name: str, position: int, start: int, count: int
) -> None:
    """Nothing else decides: a transcription in plain integers agrees at any index."""
    text = f"{seed}\n{position}\n{name}".encode("utf-8", "surrogatepass")
    key = xxhash.xxh3_64_intdigest(text)
    expected = [_split_mix(key, index) for index in range(start, start + count)]
    assert bits(seed, name, position, start, count).tolist() == expected


def test_bits_stay_what_they_are() -> None:
    """Outputs in the world were made with these numbers: another stream would be another method."""
    assert bits(7, "model.layers.0.weight", 1, 0, 4).tolist() == [1727102909, 3837542013, 2064948126, 1028856075]


@pytest.mark.parametrize("threshold", [1, 2, 3, 1 << 31, (1 << 31) + 1, (1 << 31) + 2, 3435973837, (1 << 32) - 1])
def test_a_mask_is_what_lies_below_its_threshold(threshold: int) -> None:
    """Whatever of the mixing is left out for it, also next to the threshold, where the lowest bit counts."""
    drawn = bits(5, "x", 2, 0, _MANY)
    for near in {threshold, int(drawn[threshold % 1000]), int(drawn[threshold % 1000]) + 1}:
        mask = bernoulli(Fraction(near, 1 << 32), 5, "x", 2, 0, _MANY)
        assert torch.equal(mask, drawn < near)


@pytest.mark.parametrize("cut", [1000, 32767, 32768, 32769, 70000])
def test_a_stream_does_not_depend_on_its_chunks(cut: int) -> None:
    count = 100_000
    whole = normal(5, "x", 2, 0, count), bernoulli(Fraction(1, 3), 5, "x", 2, 0, count), bits(5, "x", 2, 0, count)
    parts = [
        (normal(5, "x", 2, at, size), bernoulli(Fraction(1, 3), 5, "x", 2, at, size), bits(5, "x", 2, at, size))
        for at in range(0, count, cut)
        for size in [min(cut, count - at)]
    ]
    for index, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in parts]), expected)
    assert torch.equal(torch.cat([bits(5, "x", 2, at, 1) for at in range(20)]), whole[2][:20])


@pytest.mark.parametrize("other", [(6, "x", 2), (5, "y", 2), (5, "x", 3), (5, "", 2), (-5, "x", 2)])
def test_streams_of_other_keys_have_nothing_to_do_with_each_other(other: tuple[int, str, int]) -> None:
    """The correlation of two streams is that of independent ones: within five standard errors of 0."""
    one = normal(5, "x", 2, 0, _MANY).double()
    two = normal(*other, 0, _MANY).double()
    assert abs(float((one * two).mean())) < 5 / math.sqrt(_MANY)


@pytest.mark.parametrize("probability", [Fraction(1, 10), Fraction(1, 2), Fraction(9, 10), Fraction(1, 1000)])
def test_a_mask_keeps_its_share(probability: Fraction) -> None:
    kept = int(bernoulli(probability, 1, "x", 0, 0, _MANY).sum())
    error = math.sqrt(_MANY * probability * (1 - probability))
    assert abs(kept - _MANY * probability) < 5 * error


def test_the_threshold_of_a_mask_is_exact() -> None:
    """True where the 32 bits are below floor(p * 2**32)."""
    drawn = bits(3, "x", 0, 0, 1000)
    for probability in (Fraction(1, 3), Fraction(int(drawn[17]), 1 << 32), Fraction(int(drawn[17]) + 1, 1 << 32)):
        expected = [Fraction(each) < math.floor(probability * (1 << 32)) for each in drawn.tolist()]
        assert bernoulli(probability, 3, "x", 0, 0, 1000).tolist() == expected


@pytest.mark.parametrize(("probability", "kept"), [("0", 0), ("-1", 0), ("1", 100), ("7", 100), ("1e-20", 0)])
def test_certain_masks(probability: str, kept: int) -> None:
    assert int(bernoulli(Fraction(probability), 3, "x", 0, 0, 100).sum()) == kept


def test_a_wider_mask_contains_a_narrower_one() -> None:
    narrow = bernoulli(Fraction(1, 4), 3, "x", 0, 0, 10_000)
    wide = bernoulli(Fraction(1, 2), 3, "x", 0, 0, 10_000)
    assert bool((wide | ~narrow).all())


def test_normals_are_the_quantiles_of_the_bits() -> None:
    """To 3e-7, against torch's own quantile function in float64."""
    uniform = (bits(9, "x", 1, 0, _MANY).double() + 0.5) * 2.0**-32
    expected = torch.special.ndtri(uniform)
    found = normal(9, "x", 1, 0, _MANY)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=3e-7, atol=1e-9)


def test_normals_have_the_moments_of_normals() -> None:
    """Mean 0, variance 1, skewness 0, kurtosis 3, each within five standard errors."""
    drawn = normal(9, "x", 1, 0, _MANY).double()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((drawn**power).mean()) - expected) < 5 * math.sqrt(variance / _MANY)
