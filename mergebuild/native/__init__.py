"""Compiled kernels: loops in C that give the bits of the torch kernels, without torch, in a part of the time.

They are written once and compiled for several instruction sets (`kernels.h`); the best that the processor has is taken
when this is imported. Where the package was installed without a C compiler there are none. `MERGEBUILD_NATIVE` in the
environment, read at import, chooses: `0` none, else the name of an instruction set (`avx512`, `avx2`, `neon`, `plain`).
Nothing but time depends on it.
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
    import mergebuild.native._compiled as _compiled  # noqa: PLR0402 -- so what is not there and what can't be loaded differ
except ModuleNotFoundError:
    _UNUSABLE = "installed without a C compiler"
except ImportError as error:
    _UNUSABLE = str(error)
else:
    _UNUSABLE = ""


def _is_outdated() -> bool:
    """Whether the kernels were compiled of other sources than lie here: those of a clone that was brought up to date.

    An installed package has no sources in C.
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
    "GramMatrix",
    "Hash",
    "Histogram",
    "MagnitudeSum",
    "MatrixProduct",
    "Prepared",
    "Ranking",
    "Seen",
    "apply",
    "choose",
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
"""What kernels read and write: the number that stands for a dtype (`enum dtype`), and the bytes of an element."""

MOST_INPUTS = 64
"""Inputs at most that one call takes."""


class Seen(NamedTuple):
    """What was seen of values that were rounded."""

    nonfinite: int
    overflowed: int
    """Finite, and beyond the dtype's largest."""


class Hash:
    """A running XXH3-128, as `xxhash.xxh3_128`; values can be added while they are made."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        """Begin with nothing."""
        self.state = _compiled.xxh3_begin()

    def update(self, data: Buffer) -> None:
        """Add bytes."""
        _compiled.xxh3_update(self.state, data)

    def digest(self) -> bytes:
        """Return the 16 bytes of the hash so far."""
        return _compiled.xxh3_digest(self.state)


class GramMatrix:
    """The dot product of each of some vectors with each, in float64: in the order of `methods/kernels/reduction.py`.

    With an origin, the vectors are the differences of the other inputs from that one.
    """

    __slots__ = ("_vectors", "state")

    def __init__(self, inputs: int, origin: int | None = None) -> None:
        """Begin with so many inputs, and the index of the origin among them."""
        self.state = _compiled.gram_begin(inputs, -1 if origin is None else origin)
        self._vectors = inputs - (origin is not None)

    def add(self, chunks: Sequence[tuple[Buffer, str]], count: int) -> None:
        """Add the next `count` elements of each input: the bytes of each, and its dtype. Nothing is kept.

        Raises:
            ValueError: there are more or fewer inputs, or one is too small.
        """
        _compiled.gram_add(self.state, tuple((buffer, DTYPES[each][0]) for buffer, each in chunks), count)

    def value(self) -> tuple[tuple[float, ...], ...]:
        """Return the matrix so far, symmetric."""
        found, places = iter(_compiled.gram_value(self.state)), range(self._vectors)
        entries = {(i, j): next(found) for i in places for j in places[i:]}
        return tuple(tuple(entries[min(i, j), max(i, j)] for j in places) for i in places)


class MatrixProduct:
    """`left @ right` of a small inner size, the rank: terms in float64, added up in the order of the rank."""

    __slots__ = ("columns", "rows", "state")

    def __init__(
        self,
        left: tuple[Buffer, str],
        right: tuple[Buffer, str],
        sizes: tuple[int, int, int],
        *,
        turned: bool = False,
    ) -> None:
        """Take both sides, of a dtype up to float32. Nothing of them is kept.

        Args:
            left: the bytes of `[rows, rank]`, and their dtype.
            right: those of `[rank, columns]`.
            sizes: rows, rank and columns.
            turned: the sides lie transposed, `[rank, rows]` and `[columns, rank]`.

        Raises:
            ValueError: a side is too small, or of float64.
        """
        self.rows, _, self.columns = sizes
        one, other = ((buffer, DTYPES[dtype][0]) for buffer, dtype in (left, right))
        self.state = _compiled.product_begin((one,), (other,), *sizes, turned)


def make_rows(
    products: Sequence[MatrixProduct], scale: float, span: tuple[int, int], out: Buffer, *, add: bool = False
) -> None:
    """Make rows of a product, or of two multiplied element by element, times a scale, and round them to float32.

    Args:
        products: one, or two of the same columns.
        scale: what they are multiplied by, in float64.
        span: the first row, and how many.
        out: room for them, whole rows.
        add: they are added in float32 to what is there.

    Raises:
        ValueError: there are no such rows, or `out` is too small.
    """
    _compiled.product_rows(tuple(each.state for each in products), scale, *span, out, add)


class Prepared(NamedTuple):
    """A kernel, and what it is called with besides values."""

    name: str
    option: int = 0
    """A number that the kernel knows."""
    numbers: bytes = b""
    """The values that it computes with: `packed`, of most."""


def packed(numbers: Sequence[float]) -> bytes:
    """Return float32 values as kernels have them."""
    return struct.pack(f"={len(numbers)}f", *numbers)


def packed_doubles(numbers: Sequence[float]) -> bytes:
    """Return float64 values as those kernels have them that compute with these."""
    return struct.pack(f"={len(numbers)}d", *numbers)


def apply(
    kernel: Prepared,
    inputs: Sequence[tuple[Buffer, str]],
    out: Buffer,
    dtype: str,
    span: tuple[int, int],
    *,
    hash: Hash | None = None,
    hashes: Mapping[int, Hash] | None = None,
    odd: bool = False,
) -> Seen:
    """Make elements of a tensor, and round them once.

    Args:
        kernel: what makes them.
        inputs: the bytes of each, from the first element on, and its dtype.
        out: room for the result.
        dtype: the result's.
        span: the index in the tensor of the first element, and how many.
        hash: what the bytes of the result are added to.
        hashes: what the bytes of inputs are added to, by index.
        odd: inputs of float64 are rounded to odd, not to the nearest.

    Raises:
        ValueError: a buffer is too small, or the kernel does not take these.
    """
    state = None if hash is None else hash.state
    return Seen(*_compiled.apply(_work(kernel, inputs, span, hashes or {}), DTYPES[dtype][0], out, state, odd))


def _work(
    kernel: Prepared,
    inputs: Sequence[tuple[Buffer, str]],
    span: tuple[int, int],
    hashes: Mapping[int, Hash] = MappingProxyType({}),
) -> tuple[str, int, bytes, int, tuple[tuple[Buffer, int, bytearray | None], ...], int]:
    """Return a kernel with what it is called with."""
    start, count = span
    states = [hashes[index].state if index in hashes else None for index in range(len(inputs))]
    taken = tuple((buffer, DTYPES[each][0], state) for (buffer, each), state in zip(inputs, states, strict=True))
    return (*kernel, start, taken, count)


class Histogram:
    """Counts of half a key: of the upper halves of all keys, or of the lower halves of those with a certain upper one.

    A key is the bits of a value's magnitude, as a number.
    """

    __slots__ = ("counts", "upper")

    def __init__(self, upper: int | None = None) -> None:
        """Begin with no keys. `upper`: the upper half of the keys whose lower halves are counted."""
        self.upper = upper
        self.counts = bytearray(4 * 2 * 65_536)

    def digit_of(self, wanted: int) -> tuple[int, int, int]:
        """Return the digit at which the `wanted` largest end, how many of it are among them, and how many there are.

        Digits of the upper half begin at the least number of 16 bits, which counts as 0.
        """
        return _compiled.digit_of(self.counts, wanted)


def tally(
    kernel: Prepared,
    inputs: Sequence[tuple[Buffer, str]],
    span: tuple[int, int],
    histograms: Sequence[Histogram],
) -> None:
    """Count the keys of what a kernel makes; see `apply` for the other arguments. All of them less than 2**32."""
    pairs = tuple((-(1 << 31) if each.upper is None else each.upper, each.counts) for each in histograms)
    _compiled.tally(_work(kernel, inputs, span), pairs)


def find(
    kernel: Prepared, inputs: Sequence[tuple[Buffer, str]], span: tuple[int, int], key: int, nth: int
) -> tuple[int, int]:
    """Return how many elements have a key, and which place among those of the call the `nth` of them has, from 1."""
    return _compiled.find(_work(kernel, inputs, span), key, nth)


class Ranking(NamedTuple):
    """With which probability elements are kept, by the rank of their magnitude among `length`, from the smallest up.

    The probability is `rank * step + least`. Between two that are ranked with each other lie `behind - 1` of others.
    """

    length: int
    behind: int
    stream: int
    """The key of the random numbers."""
    least: float
    step: float


def keep_by_rank(
    kernel: Prepared,
    inputs: Sequence[tuple[Buffer, str]],
    span: tuple[int, int],
    ranking: Ranking,
    *,
    with_chances: bool = False,
) -> list[tuple[bytearray, str]]:
    """Return which elements of what a kernel makes are kept, as 1 or 0, and their probabilities if asked; all float32.

    See `apply` for the other arguments. Rows must be whole, and less than 2**31 elements.
    """
    room = bytearray(16 * ranking.length + 4 * ranking.length * ranking.behind)
    found = [bytearray(4 * span[1]) for _ in range(2 if with_chances else 1)]
    kept, chances = found[0], found[1] if with_chances else None
    _compiled.keep_by_rank(_work(kernel, inputs, span), *ranking, room, kept, chances)
    return [(each, "float32") for each in found]


class MagnitudeSum:
    """The sum of a stream of magnitudes or squares, as that of the torch kernels takes it."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        """Begin at 0."""
        self._room: bytearray | None = None

    def add(self, kernel: Prepared, inputs: Sequence[tuple[Buffer, str]], span: tuple[int, int]) -> None:
        """Add the magnitudes of what a kernel makes; see `apply` for the arguments."""
        if self._room is None:
            self._room = _compiled.sum_begin()
        _compiled.sum_magnitudes(_work(kernel, inputs, span), self._room)

    def add_squares(
        self,
        pair: Sequence[tuple[Buffer, str]],
        kernel: Prepared,
        inputs: Sequence[tuple[Buffer, str]],
        span: tuple[int, int],
    ) -> None:
        """Add the squares of the second of two inputs less the first, each difference times what a kernel makes."""
        if self._room is None:
            self._room = _compiled.sum_begin()
        taken = tuple((buffer, DTYPES[each][0], None) for buffer, each in pair)
        _compiled.sum_squares(_work(kernel, inputs, span), taken, self._room)

    def value(self) -> float:
        """Return the sum. Nothing can be added after that."""
        return 0.0 if self._room is None else _compiled.sum_end(self._room)


def count_nonfinite(data: Buffer, dtype: str, count: int) -> int:
    """Return how many of `count` elements are NaN or infinite as float32."""
    return _compiled.count_nonfinite(((data, DTYPES[dtype][0]),), count)


def count_active(inputs: Sequence[tuple[Buffer, str]], count: int, epsilon: float) -> tuple[int, ...]:
    """Return two counts of each of `count` elements' inputs but the first, in order.

    At how many places only it differs from the first by more than a float32 `epsilon`, and at how many others do too.
    """
    return _compiled.count_active(tuple((data, DTYPES[each][0]) for data, each in inputs), count, epsilon)


def variants() -> list[str]:
    """Return the instruction sets that the kernels can be run with here, best first; none without compiled kernels."""
    return [] if _UNUSABLE else _compiled.variants()


def choose(name: str) -> None:
    """Have kernels run with an instruction set.

    Raises:
        ValueError: there is none of that name here.
    """
    global variant  # noqa: PLW0603 -- what C was told is remembered beside it
    _compiled.choose(name)
    variant = name


variant = ""
"""The instruction set that kernels run with; empty: there are no compiled kernels, or they were not wanted."""


reason = ""
"""Why there are no compiled kernels, or why not those of the best instruction set; empty: they are the best."""


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
