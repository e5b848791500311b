from __future__ import annotations

import math

import pytest
import torch

from mergebuild.methods.kernels.elementary import cos_pi, exp2, log2, normal_quantile


def _spread(count: int) -> torch.Tensor:
    """Magnitudes over all of float32, the ones below the normal ones too."""
    generator = torch.Generator().manual_seed(1)
    exponents = torch.rand(count, generator=generator, dtype=torch.float64) * 276 - 148
    return torch.exp2(exponents).to(torch.float32)


def test_the_logarithm_is_right_over_all_of_float32() -> None:
    values = torch.cat([_spread(20_000), 1 + torch.arange(-200, 200) * 2.0**-23, torch.tensor([1e-45, 3.4e38])])
    expected = [math.log2(each) for each in values.tolist()]
    assert log2(values).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_logarithm_takes_the_magnitude_and_is_exact_at_powers_of_two() -> None:
    assert log2(torch.tensor([-8.0, 0.25, 1.0, -1.0])).tolist() == [3, -2, 0, 0]


def test_the_logarithm_of_zero_is_finite_and_that_of_no_number_is_none() -> None:
    zero, infinite, none = log2(torch.tensor([0.0, math.inf, math.nan])).tolist()
    assert zero < -1000
    assert math.isfinite(zero)
    assert math.isnan(infinite)
    assert math.isnan(none)


def test_powers_of_two() -> None:
    exponents = torch.linspace(-160, 160, 20_001, dtype=torch.float64)
    expected = [2.0**each for each in exponents.tolist()]
    assert exp2(exponents.clone()).tolist() == pytest.approx(expected, rel=1e-12)
    assert exp2(torch.tensor([0.0, 1, -1, 52], dtype=torch.float64)).tolist() == [1, 2, 0.5, 2.0**52]


def test_powers_beyond_float32_are_zero_or_infinite_in_it() -> None:
    far = exp2(torch.tensor([1e30, -1e30, math.inf, -math.inf], dtype=torch.float64)).to(torch.float32)
    assert far.tolist() == [math.inf, 0, math.inf, 0]
    assert math.isnan(float(exp2(torch.tensor([math.nan], dtype=torch.float64))))


def test_cosines() -> None:
    turns = torch.linspace(-7.3, 7.3, 20_001, dtype=torch.float64)
    expected = [math.cos(math.pi * each) for each in turns.tolist()]
    assert cos_pi(turns.clone()).tolist() == pytest.approx(expected, abs=1e-12)


def test_cosines_of_whole_and_half_turns_are_exact() -> None:
    turns = torch.tensor([0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 2.5], dtype=torch.float64)
    assert cos_pi(turns).tolist() == [1, -1, -1, 1, -1, 0, 0, 0, 0]


def test_quantiles_mirror_each_other_and_are_known() -> None:
    uniform = torch.tensor([0.5, 0.025, 0.975, 2.0**-33, 1 - 2.0**-33], dtype=torch.float64)
    expected = [0, -1.959963984540054, 1.959963984540054, -6.337957745553790, 6.337957745553790]
    assert normal_quantile(uniform).tolist() == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize("function", [log2, exp2, cos_pi])
def test_a_value_does_not_depend_on_its_neighbours(function: object) -> None:
    """A vector's body and its tail give the same bits: each value alone is what it is among others."""
    values = _spread(997).double().log2() if function is not log2 else _spread(997)
    together = function(values.clone())  # type: ignore[operator]
    alone = torch.cat([function(values[index : index + 1].clone()) for index in range(997)])  # type: ignore[operator]
    assert torch.equal(together, alone)


def test_tensors_without_dimensions_and_without_elements() -> None:
    assert log2(torch.tensor(4.0)).shape == ()
    assert exp2(torch.zeros(0, 5, dtype=torch.float64)).shape == (0, 5)
