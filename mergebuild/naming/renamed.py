"""How a tensor of one naming is made of tensors of another: whole ones, ranges of rows, one of a stack, or a transpose.

Both ways are told by the same words. Nothing is computed here: names and shapes go in, and come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Renamed", "RowsOf", "Shapes", "State", "StoredTensor", "TensorView", "renamed", "translated", "view_of"]

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""


class RowsOf(NamedTuple):
    """A part of a stored tensor. Its fields are applied in their order, but for `transposed`, which is the last."""

    component: str
    """`unet`, `vae`, `text_encoder` or `text_encoder_2`; empty where everything is stored in a single file."""
    tensor: str
    """Its name there."""
    rows: tuple[int, int] | None = None
    """The range of its first dimension; None: all of it. Of a stack, of the one that is taken."""
    transposed: bool = False
    """Whether the stored matrix is the transpose of what is wanted."""
    at: int | None = None
    """Which tensor of a stack, whose first dimension counts them: an expert of many. None: it is no stack."""
    columns: tuple[int, int, int] | None = None
    """Of its last dimension, from where, to where and in which steps (`range`); None: all of it."""


class TensorView(NamedTuple):
    """Where the elements of a cut lie: all numbers count elements."""

    begin: int
    """The first, from where the stored tensor begins."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Renamed:
    """A tensor under its new name: its cuts one behind the other along the first dimension, in that shape.

    The shape may differ from what the cuts give by dimensions of size 1 at the end: a linear map as a 1x1 convolution.
    """

    shape: tuple[int, ...]
    cuts: tuple[RowsOf, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is a tensor as it is."""
        return len(self.cuts) == 1 and not any(self.cuts[0][2:])


class StoredTensor(NamedTuple):
    """A tensor as it is stored."""

    component: str
    tensor: str
    shape: tuple[int, ...]


State = Mapping[str, StoredTensor]
"""The tensors of one component, by the name that the naming in use knows them by; stored names may have a prefix."""


def renamed(stored: StoredTensor, shape: tuple[int, ...] | None = None) -> Renamed:
    """Return a stored tensor as it is, or in another shape of as many elements."""
    return Renamed(stored.shape if shape is None else shape, (RowsOf(stored.component, stored.tensor),))


def translated(name: str, modules: Mapping[str, str]) -> str | None:
    """Return a tensor's name with the longest known module in front exchanged; None if none of them is known."""
    module = name
    while module:
        if module in modules:
            return modules[module] + name[len(module) :]
        module = module.rpartition(".")[0]
    return None


def view_of(cut: RowsOf, shape: tuple[int, ...], strides: tuple[int, ...]) -> TensorView:
    """Return where a cut of a stored tensor lies, which has this shape and these strides."""
    begin = 0
    if cut.at is not None:
        begin += cut.at * strides[0]
        shape, strides = shape[1:], strides[1:]
    if cut.rows is not None:
        begin += cut.rows[0] * strides[0]
        shape = (cut.rows[1] - cut.rows[0], *shape[1:])
    if cut.columns is not None:
        begin += cut.columns[0] * strides[-1]
        shape = (*shape[:-1], len(range(*cut.columns)))
        strides = (*strides[:-1], strides[-1] * cut.columns[2])
    return TensorView(begin, shape[::-1], strides[::-1]) if cut.transposed else TensorView(begin, shape, strides)
