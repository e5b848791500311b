"""Laws of scales that are put together: each element has the scale that it had."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.formats.gathering import gather
from mergebuild.formats.header import Scale, Scaling, TensorInfo
from mergebuild.formats.scales import ScaledPart, put_together

Draw = st.DrawFn


def spread(scale: Scale, shape: Sequence[int], data: bytes) -> torch.Tensor:
    """Return the scale of each element, as the theory has it."""
    info = scale.info
    raw = (
        gather(info.pieces, lambda _: memoryview(data), 4, 0, info.count)
        if info.pieces
        else data[info.begin : info.end]
    )
    scales = torch.frombuffer(bytearray(raw), dtype=torch.float32).view(info.shape)
    rows = math.prod(shape) // scale.scaling.columns
    tall = torch.arange(rows) // scale.scaling.block_rows
    wide = torch.arange(scale.scaling.columns) // scale.scaling.block_columns
    assert info.shape == (int(tall[-1]) + 1, int(wide[-1]) + 1)
    return scales[tall][:, wide].reshape(tuple(shape))


class Parts:
    """Scaled tensors, whose scales are 0, 1, 2, ... one behind the other in a file."""

    def __init__(self) -> None:
        self.count = 0

    def info(self, shape: tuple[int, ...], scaling: Scaling) -> tuple[TensorInfo, torch.Tensor]:
        """Return a tensor, and the scales of its elements."""
        tall = math.ceil(math.prod(shape) // scaling.columns / scaling.block_rows)
        wide = math.ceil(scaling.columns / scaling.block_columns)
        begin = 4 * self.count
        self.count += tall * wide
        scale = Scale(TensorInfo("s", "float32", (tall, wide), begin, 4 * self.count), scaling)
        info = TensorInfo("w", "float8_e4m3fn", shape, 0, math.prod(shape), scale=scale)
        return info, spread(scale, shape, self.data)

    @property
    def data(self) -> bytes:
        return torch.arange(self.count, dtype=torch.float32).numpy().tobytes()


@st.composite
def scalings(draw: Draw, rows: int, columns: int) -> Scaling:
    if draw(st.booleans()):
        return Scaling(rows * columns, 1, rows * columns)
    return Scaling(columns, draw(st.integers(1, rows)), draw(st.sampled_from([1, 2, columns])))


def ranges(draw: Draw, size: int) -> tuple[int, int] | None:
    found = sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True)))
    return (found[0], found[1]) if draw(st.booleans()) else None


@st.composite
def cuts(draw: Draw, parts: Parts, columns: int) -> tuple[ScaledPart, torch.Tensor]:
    """Return a part of so many columns, and the scales of its elements."""
    stack = draw(st.sampled_from([None, 1, 3]))
    transposed, step = draw(st.booleans()), draw(st.sampled_from([None, 1, 2]))
    rows = draw(st.integers(1, 7))
    first = draw(st.integers(0, 2))
    shape = (columns, rows) if transposed else (rows, columns)
    span = None if step is None else (first, first + step * shape[1], step)
    stored = (shape[0], shape[1] if span is None else span[1] + draw(st.integers(0, 2)))
    chosen = ranges(draw, rows) if not transposed else None
    info, wanted = parts.info(
        stored if stack is None else (stack, *stored), draw(scalings((stack or 1) * stored[0], stored[1]))
    )
    at = None if stack is None else draw(st.integers(0, stack - 1))
    wanted = wanted if at is None else wanted[at]
    wanted = wanted if chosen is None else wanted[chosen[0] : chosen[1]]
    wanted = wanted if span is None else wanted[:, span[0] : span[1] : span[2]]
    part = ScaledPart(info, at=at, rows=chosen, columns=span, transposed=transposed)
    return part, wanted.t() if transposed else wanted


@given(st.data())
def test_each_element_of_parts_below_each_other_keeps_its_scale(data: st.DataObject) -> None:
    parts, columns = Parts(), data.draw(st.integers(1, 5))
    given = [data.draw(cuts(parts, columns)) for _ in range(data.draw(st.integers(1, 3)))]
    made = put_together([part for part, _ in given])
    wanted = torch.cat([each for _, each in given])
    is_simple = all(part.info.scale and part.info.scale.info.count == 1 for part, _ in given)
    assert made is not None or not is_simple
    if made is not None:
        assert torch.equal(spread(made, tuple(wanted.shape), parts.data), wanted)


def test_queries_keys_and_values_with_a_scale_each_are_one_tensor_in_blocks_of_rows() -> None:
    parts = Parts()
    given = [parts.info((rows, 4), Scaling(4 * rows, 1, 4 * rows)) for rows in (8, 2, 2)]
    made = put_together([ScaledPart(info) for info, _ in given])
    assert made is not None
    assert made.scaling == Scaling(8, 1, 8)
    assert torch.equal(spread(made, (12, 4), parts.data), torch.cat([each for _, each in given]))


def test_gates_and_ups_that_alternate_are_cut_out_of_one_tensor() -> None:
    parts = Parts()
    for scaling in (Scaling(8, 2, 4), Scaling(8, 1, 1), Scaling(8, 3, 8)):
        info, wanted = parts.info((4, 8), scaling)
        for first in (0, 1):
            made = put_together([ScaledPart(info, columns=(first, 8, 2), transposed=True)])
            assert made is not None
            assert torch.equal(spread(made, (4, 4), parts.data), wanted[:, first::2].t())


def test_one_tensor_under_another_name_keeps_its_scales_as_they_are() -> None:
    info, _ = Parts().info((8, 4), Scaling(32, 1, 32))
    assert put_together([ScaledPart(info)]) == info.scale
    moved = put_together([ScaledPart(info, 3)])
    assert moved is not None
    assert moved.info.file == 3


def test_what_was_put_together_can_be_cut_again() -> None:
    parts = Parts()
    (one, first), (two, second) = parts.info((4, 3), Scaling(12, 1, 12)), parts.info((2, 3), Scaling(6, 1, 6))
    whole = put_together([ScaledPart(one), ScaledPart(two)])
    assert whole is not None
    info = TensorInfo("w", "float8_e4m3fn", (6, 3), 0, 18, scale=whole)
    cut = put_together([ScaledPart(info, rows=(2, 6))])
    assert cut is not None
    assert torch.equal(spread(cut, (4, 3), parts.data), torch.cat([first, second])[2:])


def test_a_tensor_without_scales_beside_one_with_some_has_none_in_common() -> None:
    part = ScaledPart(Parts().info((8, 4), Scaling(32, 1, 32))[0])
    plain = ScaledPart(TensorInfo("w", "float8_e4m3fn", (8, 4), 0, 32))
    assert put_together([part, plain]) is None
    assert put_together([plain, part]) is None


def test_blocks_of_other_columns_do_not_fit() -> None:
    parts = Parts()
    one, two = parts.info((4, 4), Scaling(4, 2, 2))[0], parts.info((4, 4), Scaling(4, 2, 4))[0]
    assert put_together([ScaledPart(one), ScaledPart(two)]) is None
