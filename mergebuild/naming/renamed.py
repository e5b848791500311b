"""How a tensor of one naming is made of tensors of another: whole ones, ranges of rows, or a transposed one.

Both ways are told by the same words. Nothing is computed here: names and shapes go in, and come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Renamed", "RowsOf", "Shapes", "State", "StoredTensor", "renamed", "translated"]

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""


class RowsOf(NamedTuple):
    """A part of a stored tensor."""

    component: str
    """`unet`, `vae`, `text_encoder` or `text_encoder_2`; empty where everything is stored in a single file."""
    tensor: str
    """Its name there."""
    rows: tuple[int, int] | None = None
    """The range of its first dimension; None: all of it."""
    transposed: bool = False
    """Whether the stored matrix is the transpose of what is wanted."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A tensor under its new name: its cuts one behind the other along the first dimension, in that shape.

    The shape may differ from what the cuts give by dimensions of size 1 at the end: a linear map as a 1x1 convolution.
    """

    shape: tuple[int, ...]
    cuts: tuple[RowsOf, ...]


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
