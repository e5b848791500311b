"""The deltas that LoRAs add to a tensor, row by row; see `methods/kernels/lora.py`.

The compiled form makes products of two matrices (LoRA, convolutions as matrices, embeddings of PEFT), two products
multiplied element by element (LoHa), and tensors that are added unchanged. All others are made by torch: contracted
cores, Kronecker products, deltas that also depend on the weight, and float64 factors.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from mergebuild.lora import DeltaSum, ShapedDelta
from mergebuild.lora.factors import matrix_of, scale_of
from mergebuild.methods.compiled.method import Applied, Chunk, Plain
from mergebuild.native import DTYPES, ROWS_TOGETHER, MatrixProduct, Prepared, apply, make_rows, packed

__all__ = ["applied", "takes", "unit_of"]

_SIDES: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "lora": (("up", "down"),),
    "peft_embedding": (("up", "down"),),
    "loha": (("w1_a", "w1_b"), ("w2_a", "w2_b")),
}
"""By family: the factors of its products."""
_AS_THEY_ARE: Final = frozenset({"full", "norm", "bias"})
"""Families of one tensor that is added."""
_NUMBERS: Final = {"float16": "<e", "bfloat16": "<f", "float32": "<f", "float64": "<d"}
"""The dtypes that a single number may have, as `struct` knows them; bfloat16 is the upper half of float32."""
_OTHER_FACTS: Final = frozenset({"dora", "channels"})
_LONG_ROW: Final = 1 << 16
"""Elements of a row beyond which several rows take more memory than they save time."""
_ZERO: Final = Prepared("constant", 0, packed([0.0]))
_COPY: Final = Prepared("linear", 0)
_SUM: Final = Prepared("linear", -1, packed([1.0, 1.0]))


def unit_of(shape: Sequence[int]) -> int:
    """Return how many elements are made together: a row, or several unless they are long."""
    columns = _columns(shape)
    return columns * ROWS_TOGETHER if columns <= _LONG_ROW else columns


def _columns(shape: Sequence[int]) -> int:
    return max(1, matrix_of(shape)[1])


def takes(added: DeltaSum, shape: Sequence[int], dtypes: Sequence[str]) -> bool:
    """Return whether the compiled form can make the deltas of a tensor, by its shape and the dtypes of all factors."""
    if len(dtypes) != sum(len(delta.factors) for delta in added.deltas):
        return False
    left = iter(dtypes)
    return all(_takes(delta, shape, list(islice(left, len(delta.factors)))) for delta in added.deltas)


def _takes(delta: ShapedDelta, shape: Sequence[int], dtypes: Sequence[str]) -> bool:
    shapes, facts = dict(delta.factors), dict(delta.facts)
    dtype_of = dict(zip(shapes, dtypes, strict=True))
    if facts.keys() & _OTHER_FACTS or facts.get("rank") == 0:
        return False
    if delta.family in _AS_THEY_ARE:
        is_whole = len(shapes) == 1 and _columns(*shapes.values()) == _columns(shape)
        return is_whole and not facts.get("transposed") and dtypes[0] in DTYPES
    return _takes_product(delta, dtype_of, shape)


def _takes_product(delta: ShapedDelta, dtype_of: Mapping[str, str], shape: Sequence[int]) -> bool:
    """Return whether a delta is made of products of two matrices that fit. `dtype_of`: the factors' dtypes by role."""
    shapes = dict(delta.factors)
    sides = [side for pair in _SIDES.get(delta.family, ()) for side in pair]
    numbers = shapes.keys() - set(sides)
    return (
        bool(sides)
        and set(sides) <= shapes.keys()
        and numbers <= {"alpha", "scale"}
        and all(dtype_of[role] in _NUMBERS and matrix_of(shapes[role]) == (1, 1) for role in numbers)
        and all(dtype_of[side] in DTYPES and dtype_of[side] != "float64" for side in sides)
        and all(_fit(shapes[left], shapes[right], delta, shape) for left, right in _SIDES[delta.family])
    )


def _fit(left: Sequence[int], right: Sequence[int], delta: ShapedDelta, shape: Sequence[int]) -> bool:
    """Return whether two factors can be multiplied, and their product has rows of a tensor's shape."""
    (rows, rank), (other, columns) = matrix_of(left), matrix_of(right)
    return rank == other and (rows if dict(delta.facts).get("transposed") else columns) == matrix_of(shape)[1]


def applied(added: DeltaSum, shape: Sequence[int], factors: Sequence[Plain], room: memoryview | None = None) -> Applied:
    """Return what makes what is added to a tensor of a shape, as `takes` says, of all factors in their order.

    `room`: memory for float32 chunks, each of which is overwritten by the next; None: memory of its own.
    """
    left = iter(factors)
    modules = [_module(delta, list(islice(left, len(delta.factors))), matrix_of(shape)[0]) for delta in added.deltas]
    return Applied(_COPY, (), _Rows(modules, _columns(shape), room).made)


class _ModuleRows(NamedTuple):
    """The delta that a module adds to some rows of a tensor."""

    rows: tuple[int, int]
    """The first of these rows, and the first one after them."""
    is_for_all: bool
    """Whether the module changes all rows of the tensor."""
    offset: int
    """The row of the delta that is added to the first of these rows."""
    products: Sequence[MatrixProduct]
    """The products whose elementwise product has its rows; empty: the rows are those of `lying`."""
    scale: float
    lying: Plain

    def put(self, first: int, last: int, out: memoryview, *, add: bool) -> None:
        """Write the delta of the rows from `first` to before `last` to `out`, or add it to `out`."""
        span = (first + self.offset, last - first)
        if self.products and self.scale != 0:
            make_rows(self.products, self.scale, span, out, add=add)
        elif self.products and not add:
            apply(_ZERO, (), out, "float32", (0, len(out) // 4))
        elif not self.products:
            count, width = len(out) // 4, DTYPES[self.lying[1]][1]
            begin = count // span[1] * span[0] * width
            there = (memoryview(self.lying[0])[begin : begin + count * width], self.lying[1])
            before: Sequence[Chunk] = ((out, "float32"),) if add else ()
            apply(_SUM if add else _COPY, (*before, there), out, "float32", (0, count))


def _module(delta: ShapedDelta, factors: Sequence[Plain], rows: int) -> _ModuleRows:
    shapes, facts = dict(delta.factors), dict(delta.facts)
    lying = dict(zip(shapes, factors, strict=True))
    turned = bool(facts.get("transposed"))
    products = [
        _product((lying[left], lying[right]), (shapes[left], shapes[right]), turned=turned)
        for left, right in _SIDES.get(delta.family, ())
    ]
    scale = scale_of(lying, lambda role: _number(lying[role]), facts)
    place = delta.rows or (0, rows)
    return _ModuleRows(place, delta.rows is None, int(facts.get("offset", 0)), products, scale, factors[0])


def _product(sides: tuple[Plain, Plain], shapes: tuple[Sequence[int], Sequence[int]], *, turned: bool) -> MatrixProduct:
    """Return the product of two sides, or its transpose."""
    (rows, rank), (_, columns) = map(matrix_of, shapes)
    if turned:
        return MatrixProduct(sides[1], sides[0], (columns, rank, rows), turned=True)
    return MatrixProduct(*sides, (rows, rank, columns))


def _number(lying: Plain) -> float:
    """Return a single number."""
    data, dtype = lying
    (found,) = struct.unpack(_NUMBERS[dtype], bytes(2) + data if dtype == "bfloat16" else data)
    return float(found)


class _Rows:
    """Makes rows of what modules add up to, in room that is used again."""

    def __init__(self, modules: Sequence[_ModuleRows], columns: int, room: memoryview | None) -> None:
        self._modules = modules
        self._columns = columns
        self._room = memoryview(bytearray()) if room is None else room

    def made(self, _chunks: Sequence[Chunk], span: tuple[int, int]) -> Sequence[Chunk]:
        """Return the rows of a span as float32: the index of its first element, and its number of elements."""
        start, count = span
        out = self._room_of(4 * count)
        above, past = start // self._columns, (start + count) // self._columns
        is_lone = len(self._modules) == 1 and self._modules[0].is_for_all
        if not is_lone:
            apply(_ZERO, (), out, "float32", (0, count))
        for module in self._modules:
            low, high = module.rows
            begin, end = max(above, low), min(past, high)
            if begin < end:
                place = out[4 * (begin - above) * self._columns : 4 * (end - above) * self._columns]
                module.put(begin - low, end - low, place, add=not is_lone)
        return [(out, "float32")]

    def _room_of(self, size: int) -> memoryview:
        """Return memory of this many bytes, the same one as before if that is large enough."""
        if len(self._room) < size:
            self._room = memoryview(bytearray(size))
        return self._room[:size]
