"""`rotate` against sd-mecha's, called on float64 tensors without its cache.

Where the inputs leave the rotation open, sd-mecha's is chance: wide matrices less their mean are not compared, and
fractions of a turn only where its planes have angles of their own.
"""

from __future__ import annotations

import pytest
import torch
from kernel_cases import SHAPES, call_of, tensors
from kernel_driver import run
from sd_mecha.extensions.builtin.merge_methods import svd
from torch import Tensor

from mergebuild.methods.kernels.rotation import KERNELS
from mergebuild.methods.tables.rotation import ROWS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TALL = [(24, 16), (8, 1), (4, 3, 3, 3), (30, 5), (7, 6, 1, 1)]
WIDE = [(16, 24), (1, 8), (3, 40)]


def compare(inputs: list[Tensor], tolerance: float = 2e-6, *, alpha: float = 0.0, **given: float) -> None:
    call = call_of(ROWS[0], tuple(inputs[0].shape), 2, {**given, "alpha": alpha})
    found = run(KERNELS["rotate"], call, inputs, None)
    a, b = ({"w": each.double()} for each in inputs)
    share = torch.tensor(alpha, dtype=torch.float64)
    wanted = svd.rotate.__wrapped__(a, b, alpha=share, **given, key="w")
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * float(inputs[0].abs().max()))


@pytest.mark.filterwarnings("ignore:Casting complex values")  # sd-mecha's powers
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", TALL, ids=str)
@pytest.mark.parametrize("alignment", [0.0, 0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("alpha", "centralization"), [(0.0, 1.0), (0.4, 0.5), (1.0, 0.0)])
def test_tall_matrices(
    alpha: float, centralization: float, alignment: float, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    for kind in ("random", "fine-tunes"):
        inputs = [each.to(dtype).float() for each in tensors(kind, shape, 2)]
        compare(inputs, alignment=alignment, alpha=alpha, centralization=centralization)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", WIDE, ids=str)
@pytest.mark.parametrize("alignment", [0.0, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_wide_matrices(alpha: float, alignment: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for kind in ("random", "fine-tunes"):
        inputs = [each.to(dtype).float() for each in tensors(kind, shape, 2)]
        compare(inputs, alignment=alignment, alpha=alpha, centralization=0.0)


@pytest.mark.parametrize("shape", [(4, 12), (3, 40), (8, 10)], ids=str)
@pytest.mark.parametrize("alignment", [0.25, 0.5, 0.8])
def test_fractions_of_a_wide_turn(alignment: float, shape: tuple[int, ...]) -> None:
    """Models that are near each other have one geodesic between them."""
    compare(tensors("fine-tunes", shape, 2), 1e-5, alignment=alignment, centralization=0.0)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape], ids=str)
def test_equal_models(shape: tuple[int, ...]) -> None:
    compare(tensors("identical", shape, 2), alignment=0.7, alpha=0.2)


@pytest.mark.parametrize("shape", [(), (1,), (7,)], ids=str)
def test_few_dimensions(shape: tuple[int, ...]) -> None:
    compare(tensors("random", shape, 2), alignment=0.7, alpha=0.2)
