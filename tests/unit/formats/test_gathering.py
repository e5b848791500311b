"""Tensors that do not lie in one run are put together as torch would."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st
from model_files import as_bytes

from mergebuild.formats.gathering import gather, is_run, scatter, span_of
from mergebuild.formats.header import Piece

WIDTHS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@st.composite
def views(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    """A flat tensor, a view with strides into it, and where the view begins."""
    width = draw(st.sampled_from([1, 2, 4, 8]))
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    strides = [draw(st.integers(0, 7)) for _ in shape]
    begin = draw(st.integers(0, 5))
    flat = torch.arange(begin + span_of(shape, strides) + 3).to(WIDTHS[width])
    return flat, flat.as_strided(shape, strides, begin), begin


@given(st.lists(views(), min_size=1, max_size=3), st.data())
def test_any_part_of_pieces_is_what_torch_makes_of_the_views(
    parts: list[tuple[torch.Tensor, torch.Tensor, int]], data: st.DataObject
) -> None:
    """Pieces one behind the other, and any run of elements of them."""
    dtype = parts[0][0].dtype
    width = dtype.itemsize
    files = [bytearray(b"x" * 7) + as_bytes(flat.to(dtype)) for flat, _, _ in parts]
    pieces = [
        Piece(number, 7 + begin * width, tuple(view.shape), view.stride())
        for number, (_, view, begin) in enumerate(parts)
    ]
    whole = torch.cat([view.to(dtype).reshape(-1) for _, view, _ in parts])
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    found = gather(pieces, lambda file: memoryview(files[file]), width, start, count)
    assert bytes(found) == as_bytes(whole[start : start + count])


@given(views())
def test_a_run_is_what_torch_calls_contiguous(view: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    """Dimensions of one element may have any stride."""
    _, strided, _ = view
    assert is_run(strided.shape, strided.stride()) == strided.is_contiguous()
    assert prod(strided.shape) == strided.numel()


@st.composite
def places(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and strides by which no two elements lie in one place."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    strides, unit = [0] * len(shape), draw(st.integers(1, 3))
    for index in draw(st.permutations(range(len(shape)))):
        strides[index] = unit
        unit *= shape[index] + draw(st.integers(0, 2))
    return tuple(shape), tuple(strides)


@given(st.lists(places(), min_size=1, max_size=3), st.sampled_from([1, 2, 4, 8]), st.data())
def test_what_is_scattered_in_any_parts_is_gathered_again(
    views: list[tuple[tuple[int, ...], tuple[int, ...]]], width: int, data: st.DataObject
) -> None:
    begin, pieces = 3, []
    for shape, strides in views:
        pieces.append(Piece(0, begin, shape, strides))
        begin += span_of(shape, strides) * width
    count = sum(prod(shape) for shape, _ in views)
    values = bytes(number % 251 for number in range(count * width))
    file = memoryview(bytearray(begin))
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count), max_size=4))})
    for low, high in pairwise(cuts):
        scatter(pieces, file, width, low, memoryview(values)[low * width : high * width])
    assert bytes(gather(pieces, lambda _: file, width, 0, count)) == values
