"""Cuts of a stored tensor: which elements they are."""

from __future__ import annotations

import numpy as np
import pytest

from mergebuild.naming import RowsOf, view_of

_STACK = np.arange(3 * 4 * 6).reshape(3, 4, 6)


def _taken(cut: RowsOf, stored: np.ndarray) -> list[object]:
    """Return the elements of a cut, from where its view says that they lie."""
    strides = tuple(stride // stored.itemsize for stride in stored.strides)
    view = view_of(cut, stored.shape, strides)
    flat = stored.reshape(-1)[view.begin :]
    made = np.lib.stride_tricks.as_strided(flat, view.shape, [stride * stored.itemsize for stride in view.strides])
    found: list[object] = made.tolist()
    return found


@pytest.mark.parametrize(
    ("cut", "right"),
    [
        (RowsOf("", "experts"), _STACK),
        (RowsOf("", "experts", (1, 3)), _STACK[1:3]),
        (RowsOf("", "experts", at=2), _STACK[2]),
        (RowsOf("", "experts", (2, 4), at=1), _STACK[1, 2:4]),
        (RowsOf("", "experts", transposed=True, at=1), _STACK[1].T),
        (RowsOf("", "experts", None, True, 1, (3, 6, 1)), _STACK[1, :, 3:].T),
        (RowsOf("", "experts", None, True, 2, (1, 6, 2)), _STACK[2, :, 1::2].T),
    ],
)
def test_a_cut_is_these_elements(cut: RowsOf, right: np.ndarray) -> None:
    assert _taken(cut, _STACK) == right.tolist()


def test_columns_of_a_vector_are_its_elements() -> None:
    assert _taken(RowsOf("", "bias", at=1, columns=(1, 6, 2)), _STACK[:, 0, :].copy()) == [25, 27, 29]
