"""`crossover` and `top_k_tensor_sum` against sd-mecha's, called on float64 tensors: only ours round to float32."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from sd_mecha.extensions.builtin.merge_methods import crossover, slicing
from torch import Tensor

from mergebuild.methods.kernels.spectra import KERNELS
from mergebuild.methods.tables.spectra import ROWS

METHODS = {row.name: row for row in ROWS}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def pair(kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    return [each.to(dtype).float() for each in tensors(kind, shape, 2)]


def made(method: str, inputs: list[Tensor], **given: float) -> Tensor:
    return run(KERNELS[method], call_of(METHODS[method], tuple(inputs[0].shape), 2, given), inputs, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize("tilt", [0.0, 0.5, 1.0, 1.6, 2.0, 2.7, 3.3])
def test_crossover(alpha: float, tilt: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Within 1e-6 of the greatest value. sd-mecha's filter is in float32: on a sharp edge no frequency may lie."""
    for kind in KINDS:
        inputs = pair(kind, shape, dtype)
        if not inputs[0].numel():
            assert torch.equal(made("crossover", inputs, alpha=alpha, tilt=tilt), inputs[0])
            continue
        wanted = crossover.__wrapped__(*(each.double() for each in inputs), alpha=alpha, tilt=tilt)
        scale = max(float(each.abs().max()) for each in inputs)
        found = made("crossover", inputs, alpha=alpha, tilt=tilt)
        torch.testing.assert_close(found.double(), wanted.double(), rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("width", "offset"), [(1.0, 0.0), (0.4, 0.3), (0.5, 0.8), (0.0, 0.0), (-0.3, 0.5), (2.0, 0.0), (0.25, -0.4)]
)
def test_top_k_tensor_sum(width: float, offset: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Value for value. With an offset below 0 sd-mecha's own rounding of the bounds is the same here."""
    for kind in KINDS:
        inputs = pair(kind, shape, dtype)
        if not inputs[0].numel():
            assert torch.equal(made("top_k_tensor_sum", inputs, width=width, offset=offset), inputs[0])
            continue
        wanted = slicing.top_k_tensor_sum.__wrapped__(*inputs, width=width, offset=offset)
        assert torch.equal(made("top_k_tensor_sum", inputs, width=width, offset=offset), wanted)
