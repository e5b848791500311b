"""The scales of a tensor that is made of other tensors: of ranges of rows and columns, transposes, or several in a row.

Each part has its own scales, for its own blocks. When parts are put below each other, the new blocks have as many rows
as divide those of all parts, and a part with larger blocks repeats each of its scales. No number is read: like the
weight, the scales are a tensor made of pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.gathering import is_run, run_of
from mergebuild.formats.header import Piece, Scale, Scaling, TensorInfo

__all__ = ["ScaledPart", "put_together", "scales_of_rows"]


@dataclass(frozen=True, slots=True)
class ScaledPart:
    """A scaled tensor of which a part is wanted; the fields that select the part apply in this order."""

    info: TensorInfo
    first_file: int = 0
    """The index, among the files of the new tensor, of the first file of its model."""
    at: int | None = None
    """The index of the tensor in a stack; None: it is no stack."""
    rows: tuple[int, int] | None = None
    """The range of its first dimension; None: all of it."""
    columns: tuple[int, int, int] | None = None
    """The `range` of its last dimension; None: all of it."""
    transposed: bool = False
    """Whether the stored matrix is the transpose of the wanted one."""

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole tensor, unchanged."""
        return self.at is None and self.rows is None and self.columns is None and not self.transposed

    @property
    def span(self) -> tuple[int, int]:
        """The range of elements that its rows have: the first, and the one after the last."""
        begin, past, shape = 0, self.info.count, self.info.shape
        if self.at is not None:
            size, shape = past // shape[0], shape[1:]
            begin, past = self.at * size, (self.at + 1) * size
        if self.rows is not None:
            size = (past - begin) // shape[0]
            begin, past = begin + self.rows[0] * size, begin + self.rows[1] * size
        return begin, past


class _RowScales(NamedTuple):
    """The scales of a range of rows, given as first and past the last."""

    scale: Scale
    first: int
    past: int


class _RowsOfBlocks(NamedTuple):
    """Consecutive rows of blocks in a tensor of scales: `blocks` of them, from the row `first` on."""

    info: TensorInfo
    first: int
    blocks: int
    rows: int
    """How many rows of the scaled tensor each of them covers."""


def put_together(parts: Sequence[ScaledPart]) -> Scale | None:
    """Return the scales of parts one after another; None if a part has none, or if their blocks don't fit together."""
    cut = [_part(part) for part in parts]
    found = [each for each in cut if each is not None]
    if not found or len(found) < len(cut):
        return None
    scales = [scale for scale, _ in found]
    if len(found) == 1:
        return scales[0]
    columns = math.gcd(*(each.scaling.columns for each in scales))
    over = [_over(scale, columns) for scale in scales]
    return _below(
        [_RowScales(scale, 0, count // columns) for scale, (_, count) in zip(over, found, strict=True) if scale]
    )


def scales_of_rows(info: TensorInfo, columns: int, *, first_file: int = 0) -> Scale | None:
    """Return the scales of a tensor whose rows now have `columns` elements; None unless each row has one scale.

    Args:
        info: The tensor.
        columns: How many elements each index of its first dimension now has.
        first_file: The index, among the files of the new tensor, of the first file of its model.
    """
    over = _over(info.scale, math.prod(info.shape[1:])) if info.scale else None
    if over is None or over.info.shape[1] > 1:
        return None
    return Scale(_moved(over.info, first_file), Scaling(columns, over.scaling.block_rows, columns))


def _part(part: ScaledPart) -> tuple[Scale, int] | None:
    """Return the scales of a part, and its number of elements; None if they can't be determined."""
    scale = part.info.scale
    if scale is None or not part.info.count:
        return None
    scale = replace(scale, info=_moved(scale.info, part.first_file))
    if part.is_whole:
        return scale, part.info.count
    width, (begin, past) = part.info.shape[-1], part.span
    found = _over(scale, width)
    if found and (begin % width or past % width):
        return None
    if found and past - begin < part.info.count:
        found = _below([_RowScales(found, begin // width, past // width)])
    count = past - begin
    if found and part.columns is not None:
        found = _across(found, part.columns)
        wide = len(range(*part.columns))
        count, width = count // width * wide, wide
    if found and part.transposed:
        found = _turned(found, count)
    return (found, count) if found else None


def _over(scale: Scale, columns: int) -> Scale | None:
    """Return scales for rows of `columns` elements; None if blocks would not be rectangles then."""
    own = scale.scaling
    if scale.info.shape[1] > 1:
        return scale if own.columns == columns else None
    if not columns or own.columns % columns:
        return None
    return Scale(scale.info, Scaling(columns, own.block_rows * own.columns // columns, columns))


def _below(parts: Sequence[_RowScales]) -> Scale | None:
    """Return the scales of ranges of rows one below the other, all equally wide.

    None if their blocks don't fit together.
    """
    alike = {(each.scale.info.shape[1], each.scale.scaling.block_columns, each.scale.info.dtype) for each in parts}
    runs = [run for each in parts for run in _runs(*each)]
    if len(alike) > 1 or not runs or len({each.scale.scaling.columns for each in parts}) > 1:
        return None
    ((wide, block_columns, dtype),) = alike
    block_rows = _common_rows(runs)
    pieces = [piece for run in runs for piece in _pieces(run, math.ceil(run.rows / block_rows))]
    tall = sum(run.blocks * math.ceil(run.rows / block_rows) for run in runs)
    scaling = Scaling(parts[0].scale.scaling.columns, block_rows, block_columns)
    return Scale(_tensor(dtype, (tall, wide), pieces), scaling)


def _common_rows(runs: Sequence[_RowsOfBlocks]) -> int:
    """Return the largest number of rows that blocks of all runs can be cut into."""
    *others, last = (run.rows for run in runs)
    block_rows = math.gcd(*others) if others else last
    if last > block_rows or runs[-1].blocks > 1:  # only a single last block may be incomplete
        block_rows = math.gcd(block_rows, last)
    return block_rows


def _runs(scale: Scale, first: int, past: int) -> Iterator[_RowsOfBlocks]:
    """Yield the scales of a range of rows."""
    block = scale.scaling.block_rows
    while first < past:
        rows = min(block - first % block, past - first)
        blocks = (past - first) // block if rows == block else 1
        yield _RowsOfBlocks(scale.info, first // block, blocks, rows)
        first += blocks * rows


def _pieces(run: _RowsOfBlocks, times: int) -> Iterator[Piece]:
    """Yield where the scales of a run are, each row of them `times` times."""
    width, begin, past = DTYPES_BY_WORD[run.info.dtype].size, 0, run.first + run.blocks
    for piece in _lying(run.info):
        *outer, wide = piece.shape
        *steps, step = piece.strides
        tall = math.prod(outer)
        low, high = max(begin, run.first), min(begin + tall, past)
        if low < high and len(outer) == 1:
            at = piece.begin + (low - begin) * steps[0] * width
            if times == 1:
                yield Piece(piece.file, at, (high - low, wide), (steps[0], step))
            else:
                yield Piece(piece.file, at, (high - low, times, wide), (steps[0], 0, step))
        elif low < high:  # these rows are repeated already
            for row in range(low - begin, high - begin):
                at = piece.begin + row // outer[1] * steps[0] * width
                yield Piece(piece.file, at, (times, wide), (0, step))
        begin += tall


def _across(scale: Scale, columns: tuple[int, int, int]) -> Scale | None:
    """Return the scales of some columns, given as a `range`."""
    first, _, step = columns
    count, block, info = len(range(*columns)), scale.scaling.block_columns, scale.info
    if info.shape[1] == 1:
        return Scale(info, Scaling(count, scale.scaling.block_rows, count))
    shared = _shared_by(first, step, block)
    if shared is None:
        return None
    each, stride = shared
    wide, width = math.ceil(count / each), DTYPES_BY_WORD[info.dtype].size
    pieces = [_columns_of(piece, first // block, wide, stride, width) for piece in _lying(info)]
    made = _tensor(info.dtype, (info.shape[0], wide), pieces)
    return Scale(made, Scaling(count, scale.scaling.block_rows, each))


def _shared_by(first: int, step: int, block: int) -> tuple[int, int] | None:
    """Return how many columns, from `first` on in steps, share a scale, and the step from one scale to the next.

    None if their number would differ from scale to scale. `block`: the number of all columns that share a scale.
    """
    if block % step == 0 and first % block < step:
        return block // step, 1
    if step % block == 0:
        return 1, step // block
    return None


def _columns_of(piece: Piece, first: int, count: int, stride: int, width: int) -> Piece:
    """Return every `stride`-th column of a piece, from `first` on. `width`: bytes of an element."""
    return piece._replace(
        begin=piece.begin + first * piece.strides[-1] * width,
        shape=(*piece.shape[:-1], count),
        strides=(*piece.strides[:-1], piece.strides[-1] * stride),
    )


def _turned(scale: Scale, count: int) -> Scale | None:
    """Return the scales of the transpose of a matrix with `count` elements."""
    own, lying = scale.scaling, _lying(scale.info)
    if len(lying) > 1 or len(lying[0].shape) > 2:
        return None
    pieces = [lying[0]._replace(shape=lying[0].shape[::-1], strides=lying[0].strides[::-1])]
    made = _tensor(scale.info.dtype, scale.info.shape[::-1], pieces)
    return Scale(made, Scaling(count // own.columns, own.block_columns, own.block_rows))


def _lying(info: TensorInfo) -> Sequence[Piece]:
    return info.pieces or (Piece(info.file, info.begin, info.shape, run_of(info.shape)),)


def _tensor(dtype: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> TensorInfo:
    size = math.prod(shape) * DTYPES_BY_WORD[dtype].size
    if len(pieces) == 1 and is_run(pieces[0].shape, pieces[0].strides):
        return TensorInfo("", dtype, shape, pieces[0].begin, pieces[0].begin + size, pieces[0].file)
    return TensorInfo("", dtype, shape, 0, size, pieces[0].file, tuple(pieces))


def _moved(info: TensorInfo, by: int) -> TensorInfo:
    """Return a tensor's place if this many files come before its own."""
    pieces = tuple(piece._replace(file=piece.file + by) for piece in info.pieces)
    return replace(info, file=info.file + by, pieces=pieces)
