"""How kernels are called: the extension, dtypes, inputs, and `apply`, which has a kernel make elements of a tensor."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mergebuild.native._compiled import Input

try:
    import mergebuild.native._compiled as compiled
except ModuleNotFoundError:
    UNUSABLE = "installed without a C compiler"
except ImportError as error:
    UNUSABLE = str(error)
else:
    UNUSABLE = ""


def _is_outdated() -> bool:
    """Return whether the extension was compiled from other C sources than are in this folder.

    That happens in a clone that was updated and not compiled again. An installed package has no C sources: False.
    """
    folder, known = Path(__file__).parent, getattr(compiled, "SOURCES", -1)
    names = sorted(path.name for path in folder.iterdir() if path.suffix in {".c", ".h", ".inc"})
    if not names or not known:
        return False
    return known != zlib.crc32(b"".join((folder / name).read_bytes() for name in names)) >> 1


if not UNUSABLE and _is_outdated():
    UNUSABLE = "compiled of other sources: install the package anew"

__all__ = [
    "DTYPES", "MOST_INPUTS", "UNUSABLE", "BlockScales", "Chunk", "Destination", "Hash", "Plain", "Prepared", "Seen",
    "apply", "compiled", "count_active", "count_nonfinite", "input_of", "new_lock", "packed", "packed_doubles",
    "work_of",
]  # fmt: skip

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


def input_of(chunk: Chunk, state: bytearray | None = None) -> Input:
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
        self.state = compiled.xxh3_begin()

    def update(self, data: Buffer) -> None:
        """Add bytes."""
        compiled.xxh3_update(self.state, data)

    def digest(self) -> bytes:
        """Return the hash (16 bytes) of the bytes so far."""
        return compiled.xxh3_digest(self.state)


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


class Destination(NamedTuple):
    """Where in an open file a kernel writes what it makes, through the page cache."""

    file: int
    """The file's descriptor."""
    offset: int
    lock: object
    """From `new_lock`: only one thread at a time writes with it."""
    block: Buffer
    """Memory in which elements are made before they are written, as many at a time as it holds."""


def new_lock() -> object | None:
    """Return a lock that kernels wait for without the interpreter's; None if there are none that can write files."""
    return compiled.lock() if not UNUSABLE and hasattr(compiled, "lock") else None


def apply(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    out: Buffer | Destination,
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
        out: The buffer, or the place in a file, that the result is written to.
        dtype: The result's dtype.
        span: The index in the tensor of the first element, and the number of elements.
        hash: The hash that the bytes of the result are added to.
        hashes: Hashes that the bytes of inputs are added to, by the input's index.
        odd: Round inputs of float64 to odd instead of to the nearest float32, so that rounding again changes nothing.

    Returns:
        Counts of NaN, infinite and overflowed values of the result.

    Raises:
        OSError: Writing to the file fails.
        ValueError: A buffer is too small, or the kernel does not take these inputs and numbers; or it makes whole rows
            for a file.
    """
    state = None if hash is None else hash.state
    work = work_of(kernel, inputs, span, hashes or {})
    if isinstance(out, Destination):
        return Seen(*compiled.make(work, DTYPES[dtype][0], odd, state, *out))
    return Seen(*compiled.apply(work, DTYPES[dtype][0], out, state, odd, kernel.row, kernel.room(len(inputs))))


def work_of(
    kernel: Prepared,
    inputs: Sequence[Chunk],
    span: tuple[int, int],
    hashes: Mapping[int, Hash] = MappingProxyType({}),
) -> compiled.Work:
    """Return the arguments that every function of the extension takes which runs a kernel; see `apply`."""
    start, count = span
    states = [hashes[index].state if index in hashes else None for index in range(len(inputs))]
    taken = tuple(map(input_of, inputs, states))
    return (kernel.name, kernel.option, kernel.numbers, start, taken, count)


def count_nonfinite(chunk: Chunk, count: int) -> int:
    """Return how many of `count` elements are NaN or infinite as float32."""
    return compiled.count_nonfinite((input_of(chunk),), count)


def count_active(inputs: Sequence[Chunk], count: int, epsilon: float) -> tuple[int, ...]:
    """Return two counts for each input but the first, in order, over the first `count` elements.

    The first counts elements at which only this input differs from the first one by more than `epsilon` (rounded to
    float32); the second counts those at which others do too.
    """
    return compiled.count_active(tuple(map(input_of, inputs)), count, epsilon)
