"""How a renamed tensor is made of stored tensors: whole ones, ranges of rows, one of a stack, or a transpose.

The same values describe both directions. Nothing is computed here: these are names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Renamed", "RowsOf", "Shapes", "State", "StoredTensor", "TensorView", "renamed", "translated", "view_of"]

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""


class RowsOf(NamedTuple):
    """A part of a stored tensor. The fields apply in their order, except that `transposed` applies last."""

    component: str
    """`unet`, `vae`, `text_encoder` or `text_encoder_2`; empty if everything is in a single file."""
    tensor: str
    """The stored tensor's name."""
    rows: tuple[int, int] | None = None
    """The range of its first dimension (for a stack: of the chosen tensor's); None: all of it."""
    transposed: bool = False
    """Whether the stored matrix is the transpose of the wanted one."""
    at: int | None = None
    """The index of a tensor in a stack, along the first dimension, such as one expert of many. None: it is no stack."""
    columns: tuple[int, int, int] | None = None
    """Start, stop and step (as in `range`) along its last dimension; None: all of it."""


class TensorView(NamedTuple):
    """Where the elements of a cut are; all numbers count elements."""

    begin: int
    """The first element, from the beginning of the stored tensor."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Renamed:
    """A tensor under a new name: its cuts one after another along the first dimension, in this shape.

    The shape may have additional dimensions of size 1 at the end: a linear map as a 1x1 convolution.
    """

    shape: tuple[int, ...]
    cuts: tuple[RowsOf, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is one stored tensor, unchanged."""
        return len(self.cuts) == 1 and not any(self.cuts[0][2:])


class StoredTensor(NamedTuple):
    """A tensor as it is stored."""

    component: str
    tensor: str
    shape: tuple[int, ...]


State = Mapping[str, StoredTensor]
"""The tensors of one component, by their names without a prefix; stored names may have one."""


def renamed(stored: StoredTensor, shape: tuple[int, ...] | None = None) -> Renamed:
    """Return a stored tensor unchanged, or in another shape with as many elements."""
    return Renamed(stored.shape if shape is None else shape, (RowsOf(stored.component, stored.tensor),))


def translated(name: str, modules: Mapping[str, str]) -> str | None:
    """Return a tensor's name with its longest known module replaced; None if none is known."""
    module = name
    while module:
        if module in modules:
            return modules[module] + name[len(module) :]
        module = module.rpartition(".")[0]
    return None


def view_of(cut: RowsOf, shape: tuple[int, ...], strides: tuple[int, ...]) -> TensorView:
    """Return where a cut of a stored tensor with this shape and these strides is."""
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
