"""Low rank and Kronecker products against sd-mecha's exact forms, called on float64 tensors."""

from __future__ import annotations

from fractions import Fraction
from math import log, prod

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from sd_mecha.extensions.builtin.merge_methods import kronecker, svd

from mergebuild.methods.kernels.low_rank import KERNELS, factor_dims
from mergebuild.methods.tables.low_rank import ROWS

METHODS = {row.name: row for row in ROWS}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MORE = [(24, 16), (6, 4, 3, 3), (40, 30, 1, 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, *MORE], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 3, 8, 100])
def test_truncate_rank(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for kind in KINDS:
        delta = tensors(kind, shape, 2)[1].to(dtype).float()
        found = run(
            KERNELS["truncate_rank"], call_of(METHODS["truncate_rank"], shape, 1, {"rank": rank}), [delta], None
        )
        if not delta.numel():
            assert torch.equal(found, delta)
            continue
        wanted = svd.truncate_rank.__wrapped__(delta.double(), rank=rank, use_approximate_basis=False)
        scale = float(delta.abs().max())
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("shape", [(16, 24), (4, 3, 3, 3), (9, 5)], ids=str)
def test_the_ratio_is_sd_mecha_s(ratio: float, shape: tuple[int, ...]) -> None:
    delta = tensors("random", shape, 1)[0]
    rank = svd.get_rank_from_ratio.__wrapped__(delta, ratio=ratio)
    found, wanted = (
        run(KERNELS["truncate_rank"], call_of(METHODS["truncate_rank"], shape, 1, given), [delta], None)
        for given in ({"ratio": ratio}, {"rank": rank})
    )
    assert torch.equal(found, wanted)


def test_approximations_are_as_close() -> None:
    """Not the same: the random vectors are others, and here there are some more than the rank."""
    source = torch.Generator().manual_seed(1)
    delta = torch.randn(64, 48, generator=source) * torch.logspace(0, -2, 48)
    call = call_of(METHODS["truncate_rank"], (64, 48), 1, {"approximate": True, "seed": 1})
    ours = run(KERNELS["truncate_rank"], call, [delta], None)
    theirs = svd.truncate_rank.__wrapped__(delta, rank=8, use_approximate_basis=True, approximate_basis_seed=1)
    assert float((delta - ours).norm()) <= float((delta - theirs).norm()) * 1.001


def goodness(shape: tuple[int, ...], ratio: float, dims: tuple[int, int, int, int]) -> tuple[float, float]:
    """Return how far the size of the first factor is from what is asked for, and how far from square both are."""
    m1, m2, n1, n2 = dims
    half = log(prod(shape)) / 2
    target = (2 * ratio - 1) * max(half, abs(log(shape[0] * shape[1]) - half))
    return abs(log(m1 * n1) - half - target), abs(log(m1 / m2)) + abs(log(n1 / n2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, *MORE], ids=str)
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_truncate_kronecker(ratio: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Where the shapes of the factors are the same: of equally good ones sd-mecha's choice is by rounding errors."""
    delta = tensors("random", shape, 1)[0].to(dtype).float()
    call = call_of(METHODS["truncate_kronecker"], shape, 1, {"kronecker_ratio": ratio})
    found = run(KERNELS["truncate_kronecker"], call, [delta], None)
    if not delta.numel() or delta.dim() < 2:
        assert torch.equal(found, delta)
        return
    ours, theirs = factor_dims(shape, Fraction(str(ratio))), kronecker.kron_dims_from_ratio(torch.Size(shape), ratio)
    assert goodness(shape, ratio, ours) == pytest.approx(goodness(shape, ratio, theirs), abs=1e-9)
    if ours != theirs:
        assert ratio == 0.5  # where the first factor may as well be larger as smaller
        return
    wanted = kronecker.truncate_kronecker.__wrapped__(
        delta.double(), kronecker_ratio=ratio, use_approximate_basis=False
    )
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6 * float(delta.abs().max()))
