"""Makes tensors with other numbers of input channels: fewer of them, or those of several models joined.

The channels of a layer `[out, channels, ...]` are its second dimension, so a tensor with other channels is made of
pieces of each row: nothing is read for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from math import prod
from typing import NamedTuple

from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.gathering import run_of
from mergebuild.formats.header import Piece, TensorInfo
from mergebuild.formats.model import Model
from mergebuild.formats.scales import scales_of_rows

__all__ = ["Joint", "LyingChannels", "cut", "is_served", "joined"]


class LyingChannels(NamedTuple):
    """A tensor of a model."""

    model: Model
    tensor: str

    @property
    def info(self) -> TensorInfo:
        """Where its elements are."""
        return self.model.tensors[self.tensor]


class Joint(NamedTuple):
    """The tensor that joined channels make."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """`[out, channels, ...]`."""
    channels: int
    """How many of them come from the first tensor."""


def is_served(of: LyingChannels) -> bool:
    """Whether channels of a tensor can be cut out: its pieces are whole rows, and so are the blocks of its scales."""
    info = of.info
    has_rows = info.scale is None or scales_of_rows(info, prod(info.shape[1:])) is not None
    return has_rows and all(piece.shape[1:] == info.shape[1:] for piece in info.pieces)


def cut(of: LyingChannels, name: str, channels: int) -> Model:
    """Return a model of one tensor: the first channels of another."""
    info = of.info
    shape = (info.shape[0], channels, *info.shape[2:])
    pieces = tuple(piece._replace(shape=(piece.shape[0], *shape[1:])) for piece in _pieces(info))
    size = prod(shape) * DTYPES_BY_WORD[info.dtype].size
    made = TensorInfo(name, info.dtype, shape, 0, size, info.file, pieces, scales_of_rows(info, prod(shape[1:])))
    return Model(of.model.format, of.model.files, of.model.sizes, {name: made}, {})


def joined(first: LyingChannels | None, then: LyingChannels | None, zero: LyingChannels, made: Joint) -> Model:
    """Return a model of one tensor: some channels of one tensor, then those of another.

    Args:
        first: Has the first channels; None: they are zeros.
        then: Has the other channels, at the same indices; None: they are zeros. If both are given, neither has scales.
        zero: A tensor that begins with eight bytes of zeros.
        made: The new tensor.
    """
    channels, (rows, full, *kernel) = made.channels, made.shape
    low = _rows(first or zero, (channels, *kernel), 0 if first else None)
    high = _rows(then or zero, (full - channels, *kernel), channels if then else None)
    models = [(first or zero).model, (then or zero).model]
    pieces = [
        piece
        for _, one, other in zip(range(rows), low, high, strict=False)  # zeros repeat without end
        for piece in (one, other._replace(file=len(models[0].files) + other.file))
    ]
    size = prod(made.shape) * DTYPES_BY_WORD[made.dtype].size
    own, before = (then.info, len(models[0].files)) if then and not first else ((first or zero).info, 0)
    scale = scales_of_rows(own, prod(made.shape[1:]), first_file=before)
    info = TensorInfo(made.name, made.dtype, made.shape, 0, size, pieces[0].file, tuple(pieces), scale)
    files, sizes = ((*models[0].files, *models[1].files), (*models[0].sizes, *models[1].sizes))
    return Model(models[0].format, files, sizes, {made.name: info}, {})


def _rows(of: LyingChannels, shape: tuple[int, ...], begin: int | None) -> Iterator[Piece]:
    """Yield some channels of each row of a tensor, beginning with channel `begin`; None: repeat its first number."""
    info = of.info
    if begin is None:
        yield from repeat(Piece(info.file, info.begin, (prod(shape),), (0,)))
        return
    size = DTYPES_BY_WORD[info.dtype].size
    for piece in _pieces(info):
        for row in range(piece.shape[0]):
            at = row * piece.strides[0] + begin * piece.strides[1]
            yield Piece(piece.file, piece.begin + at * size, shape, piece.strides[1:])


def _pieces(info: TensorInfo) -> tuple[Piece, ...]:
    return info.pieces or (Piece(info.file, info.begin, info.shape, run_of(info.shape)),)
