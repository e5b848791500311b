"""Square roots are those nearest to the true ones, however many are taken at once."""

from __future__ import annotations

import math
from fractions import Fraction
from math import isqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.kernels.roots import square_root

EDGES = (0.0, 1.0, 4.0, 1 + 2.0**-52, 1 - 2.0**-53, 4 - 2.0**-51, 2.0**-298, 1e-280, 1e280, 2.0**-149, 3.0**20, 1e76)


def nearest(value: float, digits: int) -> float:
    """Return the root in so many binary digits, from integers."""
    if not value:
        return 0.0
    number = Fraction(value)
    shift = 2 * (digits + 3) - number.numerator.bit_length() + number.denominator.bit_length()
    shift += shift % 2
    scaled = number * Fraction(2) ** shift
    root = isqrt(math.floor(scaled))
    extra = root.bit_length() - digits
    rest = root & ((1 << extra) - 1)
    above = rest > 1 << (extra - 1) or (rest == 1 << (extra - 1) and Fraction(root) ** 2 < scaled)
    return float(((root >> extra) + above) * Fraction(2) ** (extra - shift // 2))


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 24), (torch.float64, 53)])
@given(
    values=st.lists(st.floats(1e-280, 1e280) | st.integers(0, 2**53).map(float) | st.sampled_from(EDGES), max_size=40)
)
def test_a_root_is_the_nearest(dtype: torch.dtype, digits: int, values: list[float]) -> None:
    taken = torch.tensor(values, dtype=torch.float64).to(dtype)
    taken = torch.where(torch.isfinite(taken), taken, torch.zeros_like(taken))
    assert square_root(taken).tolist() == [nearest(each, digits) for each in taken.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_many_each_has_the_root_that_it_has_alone(dtype: torch.dtype) -> None:
    values = torch.rand(200_000, generator=torch.Generator().manual_seed(1), dtype=dtype) * 3
    found = square_root(values)
    assert found.dtype == dtype
    if dtype == torch.float64:
        assert found.tolist() == [math.sqrt(each) for each in values.tolist()]
    single = [square_root(each).item() for each in values[:300].unbind()]
    assert found[:300].tolist() == single


def test_what_has_no_root_has_none() -> None:
    for dtype in (torch.float32, torch.float64):
        found = square_root(torch.tensor([math.inf, math.nan, -1.0, -0.0], dtype=dtype))
        assert found[0] == math.inf
        assert found[1:3].isnan().all()
        assert found[3] == 0
