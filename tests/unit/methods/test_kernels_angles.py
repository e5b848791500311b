"""Angles and sines of float64 are right to the last digits, the smallest ones too."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.kernels.angles import angle_of, sine_of


@given(st.floats(0, math.pi), st.floats(-30, 30))
def test_angles_and_sines_are_right_to_the_last_digits(angle: float, other: float) -> None:
    sine, cosine = torch.tensor([[math.sin(angle)], [math.cos(angle)]], dtype=torch.float64)
    assert float(angle_of(sine, cosine)) == pytest.approx(angle, rel=1e-15, abs=1e-15)
    assert float(sine_of(torch.tensor([other], dtype=torch.float64))) == pytest.approx(math.sin(other), abs=1e-15)


def test_the_smallest_angles_keep_their_digits() -> None:
    small = torch.tensor([1e-3, 1e-8, 1e-30], dtype=torch.float64)
    torch.testing.assert_close(angle_of(small, (1 - small * small).sqrt()), small.asin(), rtol=1e-15, atol=0)
    torch.testing.assert_close(sine_of(small), small.sin(), rtol=1e-15, atol=0)
