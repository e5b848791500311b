"""Compiled sums of columns have the bits of those of torch, however tensors are cut; rows are made whole."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from model_files import as_bytes

from mergebuild import native
from mergebuild.methods.kernels import gram, rows
from mergebuild.methods.kernels.reduction import ColumnSums
from mergebuild.native import calls

pytestmark = pytest.mark.usefixtures("variant")


@examples(30)
@given(
    form=st.sampled_from([(1, 1), (5, 3), (70_001, 1), (300, 999), (3, 40_000), (2, 70_000)]),
    cuts=st.lists(st.integers(1, 70_000), max_size=4),
    has_base=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_of_columns_are_added_up_in_one_order(
    form: tuple[int, int], cuts: list[int], has_base: bool, seed: int
) -> None:
    count, columns = form[0] * form[1], form[1]
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(count, generator=generator).half() for _ in range(3 if has_base else 2)]
    products, start = native.ColumnProducts(columns), 0
    for size in (*cuts, count):
        parts = [each[start : start + size] for each in inputs]
        products.add([(as_bytes(part), "float16") for part in parts], len(parts[0]))
        start += len(parts[0])
    x, y = (each.float() - inputs[0].float() if has_base else each.float() for each in inputs[-2:])
    wanted = []
    for one, other in ((x, x), (x, y), (y, y)):
        total = ColumnSums(columns)
        total.add(one.double() * other.double())
        wanted.append(total.value())
    totals = products.totals()
    assert torch.equal(torch.frombuffer(totals, dtype=torch.float64), torch.cat(wanted))

    t = Fraction(3, 10)
    arcs = torch.frombuffer(native.arcs_of_columns(totals, float(1 - t), float(t)), dtype=torch.float32)
    assert torch.equal(arcs, torch.cat(gram._arcs(t, *wanted)))


def test_cosines_are_those_of_torch() -> None:
    """Of columns and of all together; of columns of zeros too."""
    values = [torch.randn(40, 33, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    values[0][:, 4] = 0
    products = native.ColumnProducts(33)
    products.add([(as_bytes(each), "float32") for each in values], values[0].numel())
    call = rows.Call("w", (40, 33), {})
    account = rows._begin_columns(call, 2)
    rows._look_at_columns(call, account, [each.view(-1) for each in values], 0)
    wanted, whole = rows._end_columns(call, account)
    cosines, found = native.cosines_of_columns(products)
    assert found == whole
    assert torch.equal(torch.frombuffer(cosines, dtype=torch.float64), wanted)


def test_what_are_no_sums_of_columns_is_refused() -> None:
    one = [(bytes(8), "float32")]
    for columns, block in ((0, 8), (-1, 8), (3, 8), (3, 9), (4, 0), (1, 1 << 62)):
        with pytest.raises(ValueError, match="power of two of rows"):
            calls.compiled.columns_begin(columns, block)
    with pytest.raises(ValueError, match="two inputs, or three"):
        native.ColumnProducts(2).add(one, 2)
    with pytest.raises(ValueError, match="fewer elements"):
        native.ColumnProducts(2).add(one * 2, 3)
    with pytest.raises(ValueError, match="too little room"):
        calls.compiled.columns_end(bytearray(8))
    for place, value in ((0, 1 << 60), (8, 1 << 60), (16, 1 << 60), (0, 0)):
        sums = calls.compiled.columns_begin(2, 8)
        sums[place : place + 8] = value.to_bytes(8, "little")
        with pytest.raises(ValueError, match="no sums of columns"):
            calls.compiled.columns_end(sums)
    with pytest.raises(ValueError, match="too little room"):
        native.arcs_of_columns(bytearray(16), 0.5, 0.5)


def test_rows_are_made_whole() -> None:
    """And by a kernel of rows, which does nothing else."""
    inputs = [(bytes(24), "float32"), (bytes(24), "float32")]
    kernel = native.Prepared("divergence", row=3)
    native.apply(kernel, inputs, bytearray(24), "float32", (0, 6))
    with pytest.raises(ValueError, match="rows must be whole"):
        native.apply(kernel, inputs, bytearray(24), "float32", (0, 5))
    with pytest.raises(ValueError, match="there is no kernel"):
        native.apply(native.Prepared("difference", row=3), inputs, bytearray(24), "float32", (0, 6))
    with pytest.raises(ValueError, match="there is no kernel"):
        native.tally(kernel, inputs, (0, 6), [native.Histogram()])
    work = calls.work_of(kernel, inputs, (0, 6))
    with pytest.raises(ValueError, match="too little room"):
        calls.compiled.apply(work, 1, bytearray(24), None, False, 3, bytearray(64))
    for row in (-1, 1 << 61):
        with pytest.raises(ValueError, match=r"length|too long"):
            calls.compiled.apply(work, 1, bytearray(24), None, False, row, bytearray(64))
