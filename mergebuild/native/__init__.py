"""Compiled kernels: loops in C that give the same bits as the torch kernels, faster and without torch.

Begin with `kernels.h`, which says what a kernel gets and gives. Each is written once, in an `.inc` file, and compiled
for several instruction sets (`variant_*.c`); importing this module chooses the best one that the processor has.
`module.c` is the Python extension, and this file wraps it with types. A package installed without a C compiler has no
compiled kernels, and torch is used.

`MERGEBUILD_NATIVE` in the environment, read at import, chooses: `0` none, else an instruction set (`avx512`, `avx2`,
`neon`, `plain`). Only time depends on it. Imports nothing else of mergebuild.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    import mergebuild.native._compiled as _compiled  # noqa: PLR0402 -- tells a missing module from one that fails to load
except ModuleNotFoundError:
    _UNUSABLE = "installed without a C compiler"
except ImportError as error:
    _UNUSABLE = str(error)
else:
    _UNUSABLE = ""


def _is_outdated() -> bool:
    """Return whether the extension was compiled from other C sources than are in this folder.

    That happens in a clone that was updated and not compiled again. An installed package has no C sources: False.
    """
    folder, known = Path(__file__).parent, getattr(_compiled, "SOURCES", -1)
    names = sorted(path.name for path in folder.iterdir() if path.suffix in {".c", ".h", ".inc"})
    if not names or not known:
        return False
    return known != zlib.crc32(b"".join((folder / name).read_bytes() for name in names)) >> 1


if not _UNUSABLE and _is_outdated():
    _UNUSABLE = "compiled of other sources: install the package anew"

__all__ = [
    "DTYPES",
    "BlockScales",
    "Chunk",
    "ColumnProducts",
    "GramMatrix",
    "Hash",
    "Histogram",
    "MagnitudeSum",
    "MatrixProduct",
    "Plain",
    "Prepared",
    "Ranking",
    "Region",
    "Seen",
    "apply",
    "arcs_of_columns",
    "arranged",
    "choose",
    "cosines_of_columns",
    "count_active",
    "count_nonfinite",
    "find",
    "keep_by_rank",
    "make_rows",
    "packed",
    "packed_doubles",
    "reason",
    "tally",
    "variant",
    "variants",
]

DTYPES: Mapping[str, tuple[int, int]] = {
    "float64": (0, 8),
    "float32": (1, 4),
    "float16": (2, 2),
    "bfloat16": (3, 2),
    "float8_e4m3fn": (4, 1),
    "float8_e5m2": (5, 1),
}
"""The dtypes that kernels read and write: for each, its number in C (`enum dtype`), and the bytes of an element."""

MOST_INPUTS = 64
"""The most inputs that one call takes."""

_TILE = 2048
"""Elements that are computed together."""

_COLUMN_BLOCK = 65_536
"""The size of a block of sums of columns is about this many values."""

ROWS_TOGETHER = 8
"""The most rows of a product that are made at once (`STRIP` in `products.h`)."""


class Seen(NamedTuple):
    """Counts of values that a call rounded to a dtype."""

    nonfinite: int
    """NaN or infinite before rounding."""
    overflowed: int
    """Finite before rounding, but larger than the dtype's largest value."""


class BlockScales(NamedTuple):
    """The scales by which the elements of a tensor of 8-bit floats are multiplied, before anything else is computed.

    The elements are a matrix with rows of `columns`, divided into blocks with a scale each, in row order; blocks at the
    ends may be smaller.
    """

    data: Buffer
    dtype: str
    columns: int
    block_rows: int
    block_columns: int
    first: int = 0
    """The index in the tensor of the chunk's first element."""


Plain = tuple["Buffer", str]
"""The bytes of some elements of a tensor as they are stored in a file, and their dtype."""

Chunk = Plain | tuple["Buffer", str, BlockScales]
"""The same, and perhaps the scales of the elements."""


def _input(chunk: Chunk, state: bytearray | None = None) -> _compiled.Input:
    """Return a chunk as the kernels take it; `state`: of a hash that its bytes are added to."""
    if len(chunk) == 2:
        return chunk[0], DTYPES[chunk[1]][0], state, None
    data, dtype, columns, block_rows, block_columns, first = chunk[2]
    scales = (data, DTYPES[dtype][0], columns, block_rows, block_columns, first)
    return chunk[0], DTYPES[chunk[1]][0], state, scales


class Hash:
    """A running XXH3-128, as `xxhash.xxh3_128`; `apply` can add the bytes that it reads or writes."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        """Begin with no bytes."""
        self.state = _compiled.xxh3_begin()

    def update(self, data: Buffer) -> None:
        """Add bytes."""
        _compiled.xxh3_update(self.state, data)

    def digest(self) -> bytes:
        """Return the hash (16 bytes) of the bytes so far."""
        return _compiled.xxh3_digest(self.state)


class GramMatrix:
    """The dot products of all pairs of some vectors, float64, in the order of sums of `methods/kernels/reduction.py`.

    Without an origin the vectors are the inputs; with one, they are the differences of the other inputs from that one.
    """

    __slots__ = ("_vectors", "state")

    def __init__(self, inputs: int, origin: int | None = None) -> None:
        """Begin with no elements.

        Args:
            inputs: The number of inputs, at most `MOST_INPUTS`.
            origin: The index of the origin among them, if there is one.
        """
        self.state = _compiled.gram_begin(inputs, -1 if origin is None else origin)
        self._vectors = inputs - (origin is not None)

    def add(self, chunks: Sequence[Chunk], count: int) -> None:
        """Add the next `count` elements of each input. The bytes may change afterwards.

        Raises:
            ValueError: The number of inputs is another one, or an input is too small.
        """
        _compiled.gram_add(self.state, tuple(map(_input, chunks)), count)

    def value(self) -> tuple[tuple[float, ...], ...]:
        """Return the symmetric matrix over the elements so far, as rows."""
        found, places = iter(_compiled.gram_value(self.state)), range(self._vectors)
        entries = {(i, j): next(found) for i in places for j in places[i:]}
        return tuple(tuple(entries[min(i, j), max(i, j)] for j in places) for i in places)


class MatrixProduct:
    """The matrix product `left @ right` with a small inner size, the rank. Float64 terms, added up in their order.

    One thread at a time may make its rows.
    """

    __slots__ = ("columns", "rows", "state")

    def __init__(
        self,
        left: Plain,
        right: Plain,
        sizes: tuple[int, int, int],
        *,
        turned: bool = False,
    ) -> None:
        """Copy both sides; their bytes may change afterwards. The product is not computed before `make_rows`.

        Args:
            left: The bytes of `[rows, rank]`, and their dtype: any but float64.
            right: The bytes of `[rank, columns]`, and their dtype: any but float64.
            sizes: Rows, rank and columns.
            turned: The bytes of both sides are of their transposes, `[rank, rows]` and `[columns, rank]`.

        Raises:
            ValueError: A side is too small, or float64.
        """
        self.rows, _, self.columns = sizes
        self.state = _compiled.product_begin((_input(left),), (_input(right),), *sizes, turned)


def make_rows(
    products: Sequence[MatrixProduct], scale: float, span: tuple[int, int], out: Buffer, *, add: bool = False
) -> None:
    """Make rows of a product, or of two products multiplied element by element, times a scale; round them to float32.

    Args:
        products: One, or two with the same number of columns.
        scale: The factor, multiplied in float64 before rounding.
        span: The first row, and the number of rows.
        out: The float32 buffer that the rows are written to.
        add: Add the rows, in float32, to the values in `out` instead of replacing them.

    Raises:
        ValueError: A product has no such rows, or `out` is too small.
    """
    _compiled.product_rows(tuple(each.state for each in products), scale, *span, out, add)


class ColumnProducts:
    """The dot products <x, x>, <x, y> and <y, y> of the columns x and y of two matrices, for each column.

    In float64, in the order of `ColumnSums` of `methods/kernels/reduction.py`.
    """

    __slots__ = ("_sums",)

    def __init__(self, columns: int) -> None:
        """Begin with no rows. `columns`: the number of columns, at least 1."""
        rows = 1 << max(0, (_COLUMN_BLOCK // columns).bit_length() - 1)
        self._sums = _compiled.columns_begin(columns, rows * columns)

    def add(self, chunks: Sequence[Chunk], count: int) -> None:
        """Add the next `count` elements of two inputs. If there are three, the first is subtracted, in float32."""
        _compiled.columns_add(self._sums, tuple(map(_input, chunks)), count)

    def totals(self) -> bytearray:
        """Return the sums, float64: <x, x> of each column, then <x, y>, then <y, y>. Nothing can be added then."""
        return _compiled.columns_end(self._sums)


def cosines_of_columns(products: ColumnProducts) -> tuple[bytearray, float]:
    """Return the cosine of each column (float64), and that of all columns together. Nothing can be added afterwards."""
    return _compiled.columns_cosines(products.totals())


def arcs_of_columns(totals: bytearray, rest_of_t: float, t: float) -> bytearray:
    """Return the factors of nuslerp for each column (`struct arc` of `rows.inc`), float32: all rests, then all shares.

    Args:
        totals: The totals of `ColumnProducts`.
        rest_of_t: 1 - t.
        t: The share of the angle.
    """
    return _compiled.columns_arcs(totals, rest_of_t, t)


class Region(NamedTuple):
    """A range of a tensor's magnitudes, sorted from the smallest: from `begin` to before `end`, or all outside it."""

    begin: int
    end: int
    is_outside: bool
    is_strict: bool
    """Whether magnitudes equal to the last one before the range are left out."""


def arranged(pair: Sequence[Chunk], count: int, region: Region) -> Chunk:
    """Return the `count` values of the first of two tensors, with those of a region moved, as float32.

    A value of the region goes to the index at which the second tensor has its value of the same rank. Neither tensor
    may have a NaN, nor 2**32 values.
    """
    room, out = bytearray(20 * count), bytearray(4 * count)
    begin, end, is_outside, is_strict = region
    _compiled.arrange(tuple(map(_input, pair)), count, begin, end, is_strict, is_outside, room, out)
    return out, "float32"


class Prepared(NamedTuple):
    """A kernel, with the option and the numbers that it is called with."""

    name: str
    option: int = 0
    """Chooses among forms of the kernel; its C file says what it means."""
    numbers: bytes = b""
    """The numbers that it computes with: most kernels take float32 values (`packed`)."""
    row: int = 0
    """For a kernel that makes whole rows: the number of elements in a row. Only `apply` takes such a kernel."""

    def room(self, inputs: int) -> bytearray | None:
        """Return the working memory of a kernel that makes whole rows, of the size that `take_rows` in C asks for."""
        if not self.row:
            return None
        return bytearray(8 * (inputs + 3) * self.row + 4 * (inputs + 1) * max(self.row, _TILE))


def packed(numbers: Sequence[float]) -> bytes:
    """Return numbers as float32 values for a kernel."""
    return struct.pack(f"={len(numbers)}f", *numbers)


def packed_doubles(numbers: Sequence[float]) -> bytes:
    """Return numbers as float64 values for a kernel that computes in float64."""
    return struct.pack(f"={len(numbers)}d", *numbers)


def apply(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    out: Buffer,
    dtype: str,
    span: tuple[int, int],
    *,
    hash: Hash | None = None,
    hashes: Mapping[int, Hash] | None = None,
    odd: bool = False,
) -> Seen:
    """Make elements of a tensor with a kernel, and round them once.

    Args:
        kernel: The kernel.
        inputs: For each input its bytes, from the first element of the span on, and its dtype.
        out: The buffer that the result is written to.
        dtype: The result's dtype.
        span: The index in the tensor of the first element, and the number of elements.
        hash: The hash that the bytes of the result are added to.
        hashes: Hashes that the bytes of inputs are added to, by the input's index.
        odd: Round inputs of float64 to odd instead of to the nearest float32, so that rounding again changes nothing.

    Returns:
        Counts of NaN, infinite and overflowed values of the result.

    Raises:
        ValueError: A buffer is too small, or the kernel does not take these inputs and numbers.
    """
    state = None if hash is None else hash.state
    work, room = _work(kernel, inputs, span, hashes or {}), kernel.room(len(inputs))
    return Seen(*_compiled.apply(work, DTYPES[dtype][0], out, state, odd, kernel.row, room))


def _work(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    hashes: Mapping[int, Hash] = MappingProxyType({}),
) -> _compiled.Work:
    """Return the arguments that every function of the extension takes which runs a kernel; see `apply`."""
    start, count = span
    states = [hashes[index].state if index in hashes else None for index in range(len(inputs))]
    taken = tuple(map(_input, inputs, states))
    return (kernel.name, kernel.option, kernel.numbers, start, taken, count)


class Histogram:
    """How often each digit occurs: the upper halves of all keys, or the lower halves of keys with one upper half.

    A key is the 32 bits of a float32's magnitude, as a number; a signed key is a number in the order of the values
    themselves. A digit is a half of it.
    """

    __slots__ = ("counts", "upper")

    def __init__(self, upper: int | None = None) -> None:
        """Begin with no keys. `upper`: count lower halves of keys with this upper half; None: count upper halves."""
        self.upper = upper
        self.counts = bytearray(4 * 2 * 65_536)

    def digit_of(self, wanted: int) -> tuple[int, int, int]:
        """Return the digit of the smallest of the `wanted` largest keys counted.

        After it come two counts: how many of the `wanted` largest have this digit, and how many of all. An upper half
        is returned with 32,768 added.
        """
        return _compiled.digit_of(self.counts, wanted)


def tally(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    histograms: Sequence[Histogram],
    *,
    signed: bool = False,
) -> None:
    """Add the keys of the values that a kernel makes to histograms; see `apply` for the other arguments.

    A histogram counts at most 2**32 - 1 keys in all calls together.
    """
    pairs = tuple((-(1 << 31) if each.upper is None else each.upper, each.counts) for each in histograms)
    _compiled.tally(_work(kernel, inputs, span), pairs, signed)


def find(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    key: int,
    nth: int,
    *,
    signed: bool = False,
) -> tuple[int, int]:
    """Return how many of the values that a kernel makes have a key, and the index in the span of the `nth` of them.

    `nth` counts from 1. If fewer have the key, the index is the number of elements. See `apply` for other arguments.
    """
    return _compiled.find(_work(kernel, inputs, span), key, nth, signed)


class Ranking(NamedTuple):
    """The probabilities with which elements are kept: `rank * step + least`.

    An element's rank is that of its magnitude in its row; the smallest magnitude has rank 0.
    """

    length: int
    """The number of elements of a row."""
    behind: int
    """How many rows are interleaved: the next element of a row is this many elements further on."""
    stream: int
    """The key of the random numbers."""
    least: float
    step: float


def keep_by_rank(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    ranking: Ranking,
    *,
    with_chances: bool = False,
) -> list[tuple[bytearray, str]]:
    """Return which of the values that a kernel makes are kept, as float32 chunks of ones and zeros.

    With `with_chances`, a second chunk has their probabilities. See `apply` for the other arguments. The span must be
    whole rows; a group of interleaved rows has less than 2**31 elements.
    """
    room = bytearray(16 * ranking.length + 4 * ranking.length * ranking.behind)
    found = [bytearray(4 * span[1]) for _ in range(2 if with_chances else 1)]
    kept, chances = found[0], found[1] if with_chances else None
    _compiled.keep_by_rank(_work(kernel, inputs, span), *ranking, room, kept, chances)
    return [(each, "float32") for each in found]


class MagnitudeSum:
    """The sum of a stream of magnitudes or squares, added up in the same order as by the torch kernels."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        """Begin at 0."""
        self._room: bytearray | None = None

    def add(self, kernel: Prepared, inputs: Sequence[Chunk], span: tuple[int, int]) -> None:
        """Add the magnitudes of the values that a kernel makes; see `apply` for the arguments."""
        if self._room is None:
            self._room = _compiled.sum_begin()
        _compiled.sum_magnitudes(_work(kernel, inputs, span), self._room)

    def add_squares(
        self,
        pair: Sequence[Chunk],
        kernel: Prepared,
        inputs: Sequence[Chunk],
        span: tuple[int, int],
    ) -> None:
        """Add the squares of `(second - first) * value`, for the two inputs of `pair` and the values of a kernel."""
        if self._room is None:
            self._room = _compiled.sum_begin()
        _compiled.sum_squares(_work(kernel, inputs, span), tuple(map(_input, pair)), self._room)

    def value(self) -> float:
        """Return the sum. Nothing can be added afterwards."""
        return 0.0 if self._room is None else _compiled.sum_end(self._room)


def count_nonfinite(chunk: Chunk, count: int) -> int:
    """Return how many of `count` elements are NaN or infinite as float32."""
    return _compiled.count_nonfinite((_input(chunk),), count)


def count_active(inputs: Sequence[Chunk], count: int, epsilon: float) -> tuple[int, ...]:
    """Return two counts for each input but the first, in order, over the first `count` elements.

    The first counts elements at which only this input differs from the first one by more than `epsilon` (rounded to
    float32); the second counts those at which others do too.
    """
    return _compiled.count_active(tuple(map(_input, inputs)), count, epsilon)


def variants() -> list[str]:
    """Return the instruction sets that this processor can run kernels with, best first; none without the extension."""
    return [] if _UNUSABLE else _compiled.variants()


def choose(name: str) -> None:
    """Run kernels with an instruction set from now on.

    Raises:
        ValueError: This processor has none of that name.
    """
    global variant  # noqa: PLW0603 -- the extension's choice, remembered here
    _compiled.choose(name)
    variant = name


variant = ""
"""The instruction set that kernels run with; empty if there are no compiled kernels, or they were not wanted."""


reason = ""
"""Why compiled kernels are missing, or don't use the best instruction set; empty if they use the best."""


def _begin() -> None:
    global reason  # noqa: PLW0603 -- set once, here
    wanted, there = os.environ.get("MERGEBUILD_NATIVE", ""), variants()
    is_known = wanted in ("", "0", *there)
    reason = _UNUSABLE or (
        wanted and f"MERGEBUILD_NATIVE={wanted}" + ("" if is_known else ", which this processor lacks")
    )
    if there and wanted != "0":
        choose(wanted if wanted in there else there[0])


_begin()
