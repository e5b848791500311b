"""Reads and writes tensors whose elements are not consecutive: views with strides, and several pieces in a row.

No torch: importing it takes a second and a half, too long just to hash a tensor. Elements are moved by slices with
steps, along the longest dimension of a row, so a transposed matrix, or a convolution stored channels last, takes some
thousand slices instead of millions of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Literal, Protocol

from mergebuild.formats.header import Piece

__all__ = ["Bytes", "gather", "is_run", "run_of", "scatter", "span_of"]

_FORMATS: Mapping[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""By size of an element: the format of a memory view."""


class Bytes(Protocol):
    """Gives bytes of a file by slices with a start and a stop, as a memory view does."""

    def __getitem__(self, span: slice, /) -> memoryview: ...


def run_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(prod(shape[index + 1 :]) for index in range(len(shape)))


def is_run(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements with these strides are contiguous; a dimension of size 1 may have any stride."""
    if 0 in shape:
        return True
    return all(size == 1 or own == run for size, own, run in zip(shape, strides, run_of(shape), strict=True))


def span_of(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements there are from the first to the last of a view, inclusive."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def gather(pieces: Sequence[Piece], bytes_of: Callable[[int], Bytes], width: int, start: int, count: int) -> bytearray:
    """Return elements of a tensor that is made of pieces.

    Args:
        pieces: The pieces, one after another.
        bytes_of: Returns the bytes of a file, by its index.
        width: Bytes of an element: 1, 2, 4 or 8.
        start: The first element wanted.
        count: How many are wanted; the pieces must have that many.
    """
    found = bytearray(count * width)
    target = memoryview(found).cast(_FORMATS[width])
    for piece, first, low, high in _wanted(pieces, start, start + count):
        source = _view(bytes_of(piece.file), piece, width)
        _fill(target[low - start : high - start], source, piece.shape, piece.strides, first)
    return found


def scatter(pieces: Sequence[Piece], target: memoryview, width: int, start: int, data: memoryview) -> None:
    """Write elements of a tensor to their places in a file: the reverse of `gather`.

    Args:
        pieces: The places of the tensor's elements, one after another; all in one file.
        target: The file's bytes.
        width: Bytes of an element: 1, 2, 4 or 8.
        start: The index of the first element.
        data: The elements' bytes.
    """
    source = data.cast(_FORMATS[width])
    for piece, first, low, high in _wanted(pieces, start, start + len(source)):
        into = _view(target, piece, width)
        _spread(source[low - start : high - start], into, piece.shape, piece.strides, first)


def _wanted(pieces: Iterable[Piece], start: int, past: int) -> Iterator[tuple[Piece, int, int, int]]:
    """Yield the pieces that have some of a tensor's elements from `start` to before `past`.

    With each, the index in the piece of the first of them, and where they begin and end in the tensor.
    """
    begin = 0
    for piece in pieces:
        size = prod(piece.shape)
        low, high = max(start, begin), min(past, begin + size)
        if low < high:
            yield piece, low - begin, low, high
        begin += size


def _view(data: Bytes, piece: Piece, width: int) -> memoryview:
    """Return the elements of a file from the first to the last of a piece."""
    end = piece.begin + span_of(piece.shape, piece.strides) * width
    return data[piece.begin : end].cast(_FORMATS[width])


def _spread(source: memoryview, target: memoryview, shape: Sequence[int], strides: Sequence[int], first: int) -> None:
    """Write elements to a view, from its element `first` on."""
    if is_run(shape, strides):
        target[first : first + len(source)] = source
        return
    dimensions = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    (_, step), inner = dimensions[0], dimensions[1:]
    if not inner:
        begin = first * step
        target[begin : begin + (len(source) - 1) * step + 1 : step] = source
        return
    sizes, steps = [size for size, _ in inner], [stride for _, stride in inner]
    row = prod(sizes)
    index, done = first // row, -(first % row)
    while done < len(source):
        low, high = max(done, 0), min(done + row, len(source))
        _spread(source[low:high], target[index * step :], sizes, steps, low - done)
        done += row
        index += 1


def _fill(target: memoryview, source: memoryview, shape: Sequence[int], strides: Sequence[int], first: int) -> None:
    """Fill a target with elements of a view, from its element `first` on."""
    if is_run(shape, strides):
        target[:] = source[first : first + len(target)]
        return
    dimensions = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
    (_, step), inner = dimensions[0], dimensions[1:]
    row = prod(size for size, _ in inner)
    if not inner:
        target[:] = _line(source, first * step, len(target), step)
        return
    index, done = first // row, -(first % row)
    whole = memoryview(bytearray(row * source.itemsize)).cast(_FORMATS[source.itemsize])
    while done < len(target):
        if done >= 0 and done + row <= len(target):
            _row(target[done : done + row], source, inner, index * step)
        else:  # only a part of this row is wanted
            _row(whole, source, inner, index * step)
            low, high = max(done, 0), min(done + row, len(target))
            target[low:high] = whole[low - done : high - done]
        done += row
        index += 1


def _row(target: memoryview, source: memoryview, dimensions: Sequence[tuple[int, int]], offset: int) -> None:
    """Fill a target with all elements of some dimensions, (size, stride) each, along the longest of them."""
    runs = run_of([size for size, _ in dimensions])
    longest = max(range(len(dimensions)), key=lambda index: dimensions[index][0])
    length, step = dimensions[longest]
    others = [index for index in range(len(dimensions)) if index != longest]
    for place in product(*(range(dimensions[index][0]) for index in others)):
        at = sum(runs[index] * number for index, number in zip(others, place, strict=True))
        lying = offset + sum(dimensions[index][1] * number for index, number in zip(others, place, strict=True))
        run = runs[longest]
        target[at : at + (length - 1) * run + 1 : run] = _line(source, lying, length, step)


def _line(source: memoryview, begin: int, length: int, step: int) -> memoryview:
    """Return elements at equal distances; for distance 0, the same element again and again."""
    if step:
        return source[begin : begin + (length - 1) * step + 1 : step]
    return memoryview(bytes(source[begin : begin + 1]) * length).cast(_FORMATS[source.itemsize])
