"""`smooth_add` against the filters of scipy that it is defined by, value for value."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import KINDS, SHAPES, call_of, tensors
from kernel_driver import run
from scipy import ndimage
from torch import Tensor

from mergebuild.methods.kernels.spectra import KERNELS, smoothed
from mergebuild.methods.tables.spectra import ROWS

ROW = next(row for row in ROWS if row.name == "smooth_add")
MORE = [(40, 9), (3, 5, 7), (64, 20, 3, 3), (11, 1, 1, 1), (1, 6, 3, 3), (2, 2), (2, 3, 4, 5, 2)]


def by_scipy(values: Tensor) -> Tensor:
    """Return what supermerger makes of a difference, in float32."""
    if not values.dim():
        return values
    medians = ndimage.median_filter(values.numpy(), size=3, mode="reflect")
    return torch.from_numpy(ndimage.gaussian_filter(medians, sigma=1, mode="reflect"))


@pytest.mark.parametrize("shape", [*(shape for shape in SHAPES if 0 not in shape), *MORE], ids=str)
def test_the_filters_are_scipy_s(shape: tuple[int, ...]) -> None:
    """To the last bit but one: scipy may fuse a product and a sum, and blurs dimensions of one, which we leave out."""
    for kind in KINDS:
        values = tensors(kind, shape, 2)[1]
        torch.testing.assert_close(smoothed(values), by_scipy(values), rtol=2.5e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [*SHAPES, *MORE], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("alpha", [1.0, 0.3, -2.0])
def test_smooth_add(alpha: float, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for kind in ("random", "fine-tunes", "one delta zero", "antipodal"):
        inputs = [each.to(dtype).float() for each in tensors(kind, shape, 3)]
        found = run(KERNELS["smooth_add"], call_of(ROW, shape, 3, {"alpha": alpha}), inputs, None)
        if not found.numel():
            assert torch.equal(found, inputs[0])
            continue
        wanted = inputs[0] + alpha * by_scipy(inputs[1] - inputs[2])
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
