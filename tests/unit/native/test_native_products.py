"""Compiled products add up terms in the order of the rank, and refuse what they cannot take."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

from mergebuild import native
from mergebuild.native import MatrixProduct, make_rows

pytestmark = pytest.mark.usefixtures("variant")

Matrix = Sequence[Sequence[float]]


def drawn(rows: int, columns: int, chance: random.Random) -> Matrix:
    """Return a matrix of float32 values, of many magnitudes."""
    values = native.packed([chance.gauss(0, 1) * 10 ** chance.randint(-8, 8) for _ in range(rows * columns)])
    flat = struct.unpack(f"={rows * columns}f", values)
    return [flat[row * columns : (row + 1) * columns] for row in range(rows)]


def turned(matrix: Matrix, columns: int) -> Matrix:
    return [[row[column] for row in matrix] for column in range(columns)]


def lying(matrix: Matrix) -> tuple[bytes, str]:
    return native.packed([value for row in matrix for value in row]), "float32"


def element(left: Sequence[float], right: Matrix, column: int) -> float:
    total = 0.0
    for k, value in enumerate(left):
        total += value * right[k][column]
    return total


@examples(60)
@given(
    sizes=st.tuples(st.integers(0, 20), st.integers(0, 9), st.integers(0, 40)),
    seed=st.integers(0, 999),
    scale=st.sampled_from((1.0, 1 / 3, -2.0)),
    data=st.data(),
)
def test_terms_are_added_up_in_the_order_of_the_rank(
    sizes: tuple[int, int, int], seed: int, scale: float, data: st.DataObject
) -> None:
    """As Python's floats do it; then scaled, and rounded once. Rows of any number, and sides lying either way."""
    rows, rank, columns = sizes
    chance = random.Random(seed)
    left, right = drawn(rows, rank, chance), drawn(rank, columns, chance)
    product = MatrixProduct(lying(left), lying(right), sizes)
    other = MatrixProduct(lying(turned(left, rank)), lying(turned(right, columns)), sizes, turned=True)
    assert product.state == other.state
    first = data.draw(st.integers(0, rows))
    count = data.draw(st.integers(0, rows - first))
    room = bytearray(b"\xa5" * (4 * count * columns + 8))
    make_rows([product], scale, (first, count), room)
    wanted = [
        element(left[row], right, column) * scale for row in range(first, first + count) for column in range(columns)
    ]
    assert room[-8:] == b"\xa5" * 8
    assert room[:-8] == native.packed(wanted)


def test_two_products_are_multiplied_before_they_are_scaled() -> None:
    chance = random.Random(3)
    sides = [(drawn(11, rank, chance), drawn(rank, 18, chance)) for rank in (2, 5)]
    products = [MatrixProduct(lying(left), lying(right), (11, len(right), 18)) for left, right in sides]
    room = bytearray(4 * 11 * 18)
    make_rows(products, 0.3, (0, 11), room)
    wanted = [
        element(sides[0][0][row], sides[0][1], column) * element(sides[1][0][row], sides[1][1], column) * 0.3
        for row in range(11)
        for column in range(18)
    ]
    assert room == native.packed(wanted)


def test_rows_are_added_to_what_is_there_in_float32() -> None:
    product = MatrixProduct(lying([[1.0], [2.0**-30]]), lying([[2.0**-24, 1.0, 3.0]]), (2, 1, 3))
    room = bytearray(native.packed([1.0, 2.0, -3.0, 1.0, 0.0, 5.0]))
    make_rows([product], 1.0, (0, 2), room, add=True)
    assert room == native.packed([1.0, 3.0, 0.0, 1.0, 2.0**-30, 5.0])


def test_what_is_no_product_is_refused() -> None:
    sides = lying([[1.0, 2.0]]), lying([[3.0], [4.0]])
    product = MatrixProduct(*sides, (1, 2, 1))
    room = bytearray(4)
    for wrong in (
        (2, 2, 1),
        (1, 3, 1),
        (1, 2, 2),
        (-1, 2, 1),
        (1, -2, 1),
        (2**62, 2, 1),
        (1, 2**62, 1),
        (2**62, 0, 2**62),
    ):
        with pytest.raises(ValueError, match=r"sizes|elements|negative"):
            MatrixProduct(*sides, wrong)
    with pytest.raises(ValueError, match="no more than float32"):
        MatrixProduct((bytes(16), "float64"), sides[1], (1, 2, 1))
    for span in ((0, 2), (2, 0), (-1, 1), (0, -1), (1, 2**62)):
        with pytest.raises(ValueError, match=r"no such rows|negative"):
            make_rows([product], 1.0, span, bytearray(64))
    for products in ([], [product] * 3):
        with pytest.raises(ValueError, match="one to 2"):
            make_rows(products, 1.0, (0, 1), room)
    with pytest.raises(ValueError, match="other columns"):
        make_rows([product, MatrixProduct(sides[0], (bytes(16), "float32"), (1, 2, 2))], 1.0, (0, 1), room)
    with pytest.raises(ValueError, match="too little room"):
        make_rows([product], 1.0, (0, 1), bytearray(3))
    product.state = product.state[:-4]
    with pytest.raises(ValueError, match="no product"):
        make_rows([product], 1.0, (0, 1), room)
    product.state = bytearray(8)
    with pytest.raises(ValueError, match="no product"):
        make_rows([product], 1.0, (0, 1), room)
