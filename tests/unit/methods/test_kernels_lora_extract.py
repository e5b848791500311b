"""LoRA factors against singular value decompositions in float64."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.methods.kernels.lora import delta, factored
from mergebuild.methods.kernels.lora_extract import Pair, SpectrumCut, clamped, concatenated, extracted, reranked
from mergebuild.methods.kernels.low_rank import Sketch

SHAPES = [(24, 16), (16, 24), (20, 20), (12, 6, 3, 3), (30, 8, 1, 1), (5, 1), (1, 7)]


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def falling(rows: int, columns: int) -> Tensor:
    """Return a matrix whose singular values are 1, 1/2, 1/4..."""
    left, _ = torch.linalg.qr(random(rows, rows).double())
    right, _ = torch.linalg.qr(random(columns, columns, seed=2).double())
    count = min(rows, columns)
    return (left[:, :count] * 0.5 ** torch.arange(count) @ right[:count]).float()


def cut_of(matrix: Tensor, rank: int) -> Tensor:
    left, sizes, right = torch.linalg.svd(matrix.double().flatten(1), full_matrices=False)
    return (left[:, :rank] * sizes[:rank] @ right[:rank]).reshape(matrix.shape)


def product(pair: Pair) -> Tensor:
    return pair.up.double() @ pair.down.double()


@pytest.mark.parametrize("rank", [1, 3, 8, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_nearest_matrix_of_a_rank(shape: tuple[int, ...], rank: int) -> None:
    source = random(*shape)
    pair = extracted(source, SpectrumCut(rank))
    assert pair.rank == min(rank, *source.flatten(1).shape)
    assert pair.up.dtype == pair.down.dtype == torch.float32
    torch.testing.assert_close(product(pair).reshape(shape), cut_of(source, rank), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_factors_take_half_of_each_singular_value(shape: tuple[int, ...]) -> None:
    pair = extracted(random(*shape), SpectrumCut(4))
    sizes = torch.linalg.svdvals(random(*shape).double().flatten(1))[: pair.rank]
    torch.testing.assert_close(pair.up.double().norm(dim=0) ** 2, sizes, rtol=1e-5, atol=0)
    torch.testing.assert_close(pair.down.double().norm(dim=1) ** 2, sizes, rtol=1e-5, atol=0)


def test_the_largest_entry_of_a_right_vector_is_positive() -> None:
    source = random(18, 10)
    for pair in (
        extracted(source, SpectrumCut(6)),
        extracted(-source, SpectrumCut(6)),
        extracted(source.T, SpectrumCut(6)),
    ):
        largest = pair.down.gather(1, pair.down.abs().argmax(1, keepdim=True))
        assert (largest > 0).all()
    assert torch.equal(extracted(source, SpectrumCut(6)).down, extracted(-source, SpectrumCut(6)).down)


@pytest.mark.parametrize(("energy", "rank"), [("0.7", 1), ("0.9", 2), ("0.98", 3), ("1", 16), ("0", 1)])
def test_the_energy_decides_the_rank(energy: str, rank: int) -> None:
    """Squares 1, 1/4, 1/16...: the first holds 3/4 of all, the first two 15/16, the first three 63/64."""
    source = falling(24, 16)
    if energy == "1":
        assert extracted(source, SpectrumCut(100, Fraction(1))).rank >= 12  # the rest is below float32
    else:
        assert extracted(source, SpectrumCut(100, Fraction(energy))).rank == rank
        assert extracted(source.T, SpectrumCut(100, Fraction(energy))).rank == rank
    assert extracted(source, SpectrumCut(2, Fraction(energy))).rank == min(rank, 2)


def test_a_difference_of_nothing() -> None:
    pair = extracted(torch.zeros(6, 4), SpectrumCut(2))
    assert torch.equal(product(pair), torch.zeros(6, 4).double())
    assert torch.isfinite(pair.up).all()


def test_a_sketch_is_close_and_the_seed_s_alone() -> None:
    source = falling(60, 40)
    pair = extracted(source, SpectrumCut(6), sketch=Sketch(1, "layer", 2))
    again = extracted(source, SpectrumCut(6), sketch=Sketch(1, "layer", 2))
    assert torch.equal(pair.up, again.up)
    assert torch.equal(pair.down, again.down)
    best = (source.double() - cut_of(source, 6)).norm()
    assert (source.double() - product(pair)).norm() <= best * 1.001


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_kohya_clamps(shape: tuple[int, ...]) -> None:
    source = random(*shape)
    left, sizes, right = torch.linalg.svd(source.double().flatten(1), full_matrices=False)
    rank = min(4, len(sizes))
    up, down = left[:, :rank] * sizes[:rank], right[:rank]
    signs = down.gather(1, down.abs().argmax(1, keepdim=True)).sign()
    up, down = up * signs.T, down * signs
    most = torch.quantile(torch.cat([up.flatten(), down.flatten()]), 0.99)
    pair = extracted(source, SpectrumCut(4), clamp=Fraction(99, 100))
    torch.testing.assert_close(pair.up.double(), up.clamp(-most, most), rtol=0, atol=3e-6)
    torch.testing.assert_close(pair.down.double(), down.clamp(-most, most), rtol=0, atol=3e-6)


@pytest.mark.parametrize("quantile", ["0", "1/3", "1/2", "99/100", "1"])
def test_the_quantile_is_torch_s(quantile: str) -> None:
    pair = Pair(random(7, 3).abs(), random(3, 5).abs())
    most = torch.quantile(torch.cat([pair.up.flatten(), pair.down.flatten()]), float(Fraction(quantile)))
    found = clamped(pair, Fraction(quantile))
    torch.testing.assert_close(found.up, pair.up.clamp(max=float(most)))
    torch.testing.assert_close(found.down, pair.down.clamp(max=float(most)))


def test_convolutions_get_a_factor_of_their_size() -> None:
    pair = extracted(random(12, 6, 3, 3), SpectrumCut(4))
    factors = {"up": pair.up.view(12, 4, 1, 1), "down": pair.down.view(4, 6, 3, 3)}
    found = delta("lora", factors, {"rank": 4}, (12, 6, 3, 3))
    torch.testing.assert_close(found.double(), cut_of(random(12, 6, 3, 3), 4), rtol=0, atol=2e-6)


PAIRS = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([1.0, -0.5, 0.25, 0.0, 3.0])), min_size=1, max_size=4)


@given(PAIRS)
def test_concatenation_is_the_sum(kinds: list[tuple[int, float]]) -> None:
    pairs = [
        (random(6, rank, seed=at).half(), random(rank, 4, seed=at + 50).half(), strength)
        for at, (rank, strength) in enumerate(kinds)
    ]
    wanted = sum(strength * (up.double() @ down.double()) for up, down, strength in pairs)
    found = concatenated(pairs)
    assert found.rank == sum(rank for rank, _ in kinds)
    torch.testing.assert_close(product(found), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 5, 9])
@pytest.mark.parametrize("shape", [(20, 14), (14, 20), (4, 30)], ids=str)
def test_reranking_is_the_decomposition_of_the_sum(shape: tuple[int, int], rank: int) -> None:
    """Also where the ranks together exceed a side."""
    pairs = [(random(shape[0], 4, seed=at), random(4, shape[1], seed=at + 9), 0.5 + at) for at in range(2)]
    whole = sum(strength * (up.double() @ down.double()) for up, down, strength in pairs)
    assert isinstance(whole, Tensor)
    torch.testing.assert_close(product(reranked(pairs, SpectrumCut(rank))), cut_of(whole, rank), rtol=0, atol=5e-6)


def test_a_lora_resized_to_its_own_rank_is_the_same() -> None:
    up, down = random(20, 3), random(3, 5, 3, 3, seed=2)
    found = reranked([(up, down, 1.0)], SpectrumCut(64))
    assert found.rank == 3
    torch.testing.assert_close(product(found), up.double() @ down.double().flatten(1), rtol=0, atol=5e-6)


def test_the_two_matrices_of_a_lora() -> None:
    factors = {"up": random(6, 3), "down": random(3, 4), "alpha": torch.tensor(1.5)}
    up, down, scale = factored("lora", factors, {"rank": 3})
    assert scale == 0.5
    torch.testing.assert_close((scale * up @ down).float(), delta("lora", factors, {"rank": 3}, (6, 4)))
