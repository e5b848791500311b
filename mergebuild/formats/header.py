"""The header of a safetensors file: 8 bytes of length (little-endian), JSON, then the tensors' bytes without gaps.

It has everything that a plan needs, and is read without reading a tensor. Files may be untrusted or broken downloads:
each rule of the format that a file can break has its own error code, and no memory is allocated that exceeds the file's
actual size.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from mergebuild.digest import scaled_as
from mergebuild.errors import did_you_mean
from mergebuild.formats.dtypes import DTYPES, DTYPES_BY_WORD, QUANTIZED, UNSUPPORTED
from mergebuild.formats.foreign import LOOKED_AT, recognize
from mergebuild.formats.reading import (
    UNFIT,
    UNQUANTIZED,
    BrokenRuleError,
    bytes_at,
    checked,
    clipped,
    in_bytes,
    kind_in_json,
    opened,
    quoted,
    shown_json,
)
from mergebuild.system.bounded_text import what_is_wrong

__all__ = [
    "MAX_HEADER",
    "METADATA",
    "Header",
    "Piece",
    "Scale",
    "Scaling",
    "TensorInfo",
    "read_header",
    "read_header_fd",
]

MAX_HEADER: Final = 100_000_000
"""The longest header that safetensors allows (bytes of JSON)."""

METADATA: Final = "__metadata__"
"""The entry of a header that is not a tensor."""

_MOST_TENSORS: Final = 250_000
"""The most tensors of a file. A model with 671 billion parameters has 140,000, in many files."""
_MOST_METADATA: Final = 10_000
"""The most entries of metadata; trainers write about a hundred."""
_MOST_BRACKETS: Final = 2_000_000
"""The most lists and objects in the JSON; brackets inside strings count too."""
_LONGEST_NAME: Final = 10_000
"""Characters of a tensor's name; real ones rarely have 200."""

_HALVES: Final = re.compile("[\ud800-\udfff]")
_MOST_BYTES: Final = 2**63 - 1
_MOST_DIMENSIONS: Final = 64
_ENTRY_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})


class Piece(NamedTuple):
    """A block of elements in one file: a part of a tensor, in the order of its elements."""

    file: int
    """The index of the file in the model's files."""
    begin: int
    """The offset of its first element in the file, in bytes."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """By dimension, the distance between neighbours, in elements."""


class Scaling(NamedTuple):
    """Which elements of a tensor share a scale: it has rows of `columns` elements, with one scale for each block.

    The last blocks of rows and columns may be incomplete.
    """

    columns: int
    """How many elements a row has: those of the tensor's last dimensions together."""
    block_rows: int
    block_columns: int

    @property
    def shown(self) -> str:
        """All of it as text."""
        return f"{self.block_rows}x{self.block_columns} of {self.columns}"


@dataclass(frozen=True, slots=True)
class Scale:
    """The scales by which the elements of a tensor are multiplied."""

    info: TensorInfo
    """Where the scales are: floating-point numbers, as a matrix with one for each block."""
    scaling: Scaling


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is: bytes `begin` to `end` of a file. `dtype` is the contract's word.

    If the tensor is not contiguous it is made of `pieces`, one after another, and `begin` is 0. If it has a `scale`,
    its value is the product of the stored numbers and their scales.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: int = 0
    """The index of the file in the model's files."""
    pieces: tuple[Piece, ...] = ()
    scale: Scale | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes it has, including its scales."""
        return self.end - self.begin + (self.scale.info.nbytes if self.scale else 0)

    @property
    def offered(self) -> str:
        """The dtype that `source` means.

        Products of 8-bit floats with scales were 16-bit floats before they were quantized.
        """
        return "bfloat16" if self.scale else self.dtype

    @property
    def shown_dtype(self) -> str:
        """Its dtype as shown to people."""
        return f"scaled {self.dtype}" if self.scale else self.dtype

    @property
    def stored(self) -> str:
        """Its stored form: dtype and scaling. Together with a checksum of its bytes it identifies the tensor."""
        if self.scale is None:
            return self.dtype
        return scaled_as(self.dtype, self.scale.info.dtype, self.scale.scaling.shown)

    @property
    def count(self) -> int:
        """How many elements it has (1 for a scalar)."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it has floating-point numbers, and so can be merged."""
        return DTYPES_BY_WORD[self.dtype].is_float


class Header(NamedTuple):
    """What a file's header says: tensors in the order of their bytes, metadata, and where the data begin."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    file_size: int


def read_header(path: Path, *, shown: str | None = None) -> Header:
    """Read and check the header of a file; tensors are not read.

    Args:
        path: The file.
        shown: What to call it in errors; by default the path.

    Raises:
        SourceError: the file does not exist, can't be read, or breaks a rule of the format.
    """
    name = str(path) if shown is None else shown
    with opened(path, name) as fd:
        return read_header_fd(fd, name)


def read_header_fd(fd: int, shown: str) -> Header:
    """Read and check the header of an open file, even if its path now leads to another one. Its position may change.

    Raises:
        SourceError: it can't be read, breaks a rule of the format, or is being written to.
    """
    with checked(fd, shown) as size:
        return _read(fd, size)


def _read(fd: int, file_size: int) -> Header:
    head = bytes(bytes_at(fd, 0, min(file_size, LOOKED_AT)))
    length = int.from_bytes(head[:8], "little")
    plausible = length <= MAX_HEADER and head[8:9] == b"{"
    foreign = None if plausible else recognize(head)
    if foreign is not None:
        raise BrokenRuleError(foreign.code, foreign.sentence, foreign.help, foreign.rows)
    _check_length(length, file_size)
    if not plausible:
        found = "nothing" if length == 0 else f"byte 0x{head[8]:02x}"
        raise BrokenRuleError("header-start", f"has a header that starts with {found} instead of `{{`")
    return _parse(bytes_at(fd, 8, length), file_size)


def _check_length(length: int, file_size: int) -> None:
    """Refuse a length of the header that is longer than allowed, or than the file."""
    if file_size < 8:
        sentence = f"is {in_bytes(file_size)} long, and the header's length alone takes 8"
        raise BrokenRuleError("file-too-short", sentence)
    if length > MAX_HEADER:
        sentence = f"claims a header of {length:,} bytes, and at most {MAX_HEADER:,} are allowed"
        raise BrokenRuleError("header-too-large", sentence, "it is damaged, or no safetensors file")
    if 8 + length > file_size:
        sentence = f"claims a header of {in_bytes(length)}, and only {file_size - 8:,} follow"
        mend = f"at least {in_bytes(8 + length - file_size)} are missing: download it again"
        raise BrokenRuleError("header-truncated", sentence, mend)


def _check_end(end: int, file_size: int) -> None:
    """Refuse a file that does not end with its last tensor, which ends at `end`."""
    if end > file_size:
        sentence = f"is cut short: {in_bytes(end - file_size)} of {end:,} are missing"
        raise BrokenRuleError("data-truncated", sentence, "the download or copy stopped early: do it again")
    if end < file_size:
        sentence = f"has {in_bytes(file_size - end)} after its last tensor, which nothing describes"
        raise BrokenRuleError("trailing-bytes", sentence)


def _parse(raw: bytearray, file_size: int) -> Header:
    """Parse the JSON of a header, and check every rule. `file_size`: of the whole file, in bytes."""
    if raw.count(b"{") + raw.count(b"[") > _MOST_BRACKETS:
        raise BrokenRuleError("header-too-large", f"has a header of more than {_MOST_BRACKETS:,} lists and objects")
    document = _document(raw)
    data_start = 8 + len(raw)
    metadata = _metadata(document.pop(METADATA, None))
    if len(document) > _MOST_TENSORS:
        sentence = f"names {len(document):,} tensors, and at most {_MOST_TENSORS:,} are read"
        raise BrokenRuleError("header-too-large", sentence)
    _check_names(document)
    infos = [_tensor(name, entry, data_start) for name, entry in document.items()]
    infos.sort(key=attrgetter("begin", "end", "name"))
    _check_end(_check_places(infos, data_start), file_size)
    return Header({info.name: info for info in infos}, metadata, data_start, file_size)


def _document(raw: bytearray) -> dict[str, object]:
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        sentence = f"has a header that is not UTF-8 (byte {8 + error.start} of the file)"
        raise BrokenRuleError("header-not-utf8", sentence) from error
    except RecursionError:
        # without `from`: a traceback of a thousand frames is of no use
        raise BrokenRuleError("header-too-deep", "has a header of JSON nested without end") from None
    except ValueError as error:
        raise BrokenRuleError(
            "header-not-json", f"has a header that is not JSON: {clipped(what_is_wrong(error))}"
        ) from error
    assert isinstance(found, dict)  # it starts with `{`
    return found


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise BrokenRuleError("duplicate-name", f"names {quoted(name)} twice in its header")
    return found


def _refuse_constant(word: str) -> NoReturn:
    message = f"{word} is no JSON"
    raise ValueError(message)


def _metadata(found: object) -> Mapping[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BrokenRuleError("bad-metadata", f"has {kind_in_json(found)} as `{METADATA}` instead of an object")
    if len(found) > _MOST_METADATA:
        sentence = f"has {len(found):,} entries of `{METADATA}`, and at most {_MOST_METADATA:,} are read"
        raise BrokenRuleError("bad-metadata", sentence)
    for key, value in found.items():
        if not isinstance(value, str):
            sentence = f"has {kind_in_json(value)} as `{METADATA}` {quoted(key)}, and only strings are allowed"
            raise BrokenRuleError("bad-metadata", sentence)
        if _HALVES.search(key) or _HALVES.search(value):
            raise BrokenRuleError("bad-metadata", f"has half a character in `{METADATA}` {quoted(key)}")
    return found


def _check_names(document: Mapping[str, object]) -> None:
    longest = max(document, key=len, default="")
    if len(longest) > _LONGEST_NAME:
        sentence = f"has a tensor's name of {len(longest):,} signs, and at most {_LONGEST_NAME:,} are read"
        raise BrokenRuleError("bad-tensor-name", sentence)
    together = "".join(document)
    if (together.isascii() and together.isprintable()) or not UNFIT.search(together):
        return
    name = next(name for name in document if UNFIT.search(name))
    raise BrokenRuleError("bad-tensor-name", f"has a control character or half a character in the name {quoted(name)}")


def _tensor(name: str, entry: object, data_start: int) -> TensorInfo:
    """Return what an entry of the header says. It uses plain checks, as headers have thousands of entries."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _bad_entry(name, entry)
    tag, shape = entry["dtype"], entry["shape"]
    dtype = DTYPES.get(tag) if isinstance(tag, str) else None
    if dtype is None:
        raise _bad_dtype(name, tag)
    needed = _count(name, shape) * dtype.size
    begin, end = _offsets(name, entry["data_offsets"])
    if needed != end - begin:
        takes = f"{dtype.word} {shown_json(shape)} takes {needed:,}"
        raise BrokenRuleError("size-mismatch", f"gives {quoted(name)} {in_bytes(end - begin)}, and {takes}")
    return TensorInfo(name, dtype.word, tuple(shape), data_start + begin, data_start + end)


def _count(name: str, shape: object) -> int:
    """Return how many elements a shape has.

    The product without zeros must not overflow either, as readers may compute it.
    """
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise _bad_shape(name, shape)
    count = reach = 1
    for size in shape:
        if type(size) is not int or size < 0:  # True is an instance of int
            raise _bad_shape(name, shape)
        count *= size
        reach *= size or 1
    if reach > _MOST_BYTES // 8:
        sentence = f"gives {quoted(name)} the shape {shown_json(shape)}, which is more than any file holds"
        raise BrokenRuleError("shape-overflow", sentence)
    return count


def _offsets(name: str, offsets: object) -> tuple[int, int]:
    if isinstance(offsets, list) and len(offsets) == 2:
        begin, end = offsets
        if type(begin) is int and type(end) is int and 0 <= begin <= end <= _MOST_BYTES:
            return begin, end
    sentence = (
        f"gives {quoted(name)} data_offsets {shown_json(offsets)}, and two whole numbers, begin <= end, are expected"
    )
    raise BrokenRuleError("bad-offsets", sentence)


def _bad_shape(name: str, shape: object) -> BrokenRuleError:
    allowed = f"at most {_MOST_DIMENSIONS} whole numbers from 0 on are expected"
    return BrokenRuleError("bad-shape", f"gives {quoted(name)} the shape {shown_json(shape)}, and {allowed}")


def _bad_entry(name: str, entry: object) -> BrokenRuleError:
    allowed = "`dtype`, `shape` and `data_offsets`"
    if not isinstance(entry, dict):
        sentence = f"describes {quoted(name)} with {kind_in_json(entry)}, and an object with {allowed} is expected"
    elif missing := sorted(_ENTRY_KEYS - entry.keys()):
        sentence = f"describes {quoted(name)} without `{'`, `'.join(missing)}`; an object with {allowed} is expected"
    else:
        unknown = min(entry.keys() - _ENTRY_KEYS)
        sentence = f"describes {quoted(name)} with {quoted(unknown)}, and only {allowed} are allowed"
    return BrokenRuleError("bad-entry", sentence)


def _bad_dtype(name: str, tag: object) -> BrokenRuleError:
    allowed = ", ".join(DTYPES)
    if isinstance(tag, str) and tag in QUANTIZED:
        sentence = f"holds quantized weights, which can't be merged: {quoted(name)} is {tag}"
        return BrokenRuleError("quantized-weights", sentence, UNQUANTIZED)
    if isinstance(tag, str) and tag in UNSUPPORTED:
        sentence = f"stores {quoted(name)} as {tag}, which this version can't merge or copy"
        return BrokenRuleError("unsupported-dtype", sentence, f"take a release of the model in one of {allowed}")
    way_out = did_you_mean(tag[:20] if isinstance(tag, str) else "", DTYPES, otherwise=f"known: {allowed}")
    return BrokenRuleError("unknown-dtype", f"gives {quoted(name)} the unknown dtype {shown_json(tag)}", way_out)


def _check_places(infos: list[TensorInfo], data_start: int) -> int:
    """Check that sorted tensors are consecutive from the beginning of the data, and return where they end."""
    end = data_start
    before = ""
    for info in infos:
        if info.begin != end:
            raise _misplaced(info, before, info.begin - end, is_first=end == data_start)
        end = info.end
        before = info.name
    return end


def _misplaced(info: TensorInfo, before: str, gap: int, *, is_first: bool) -> BrokenRuleError:
    if gap < 0:
        sentence = f"has overlapping tensors: {quoted(info.name)} begins {in_bytes(-gap)} before {quoted(before)} ends"
        return BrokenRuleError("tensors-overlap", sentence)
    if is_first:
        sentence = f"has its first tensor {quoted(info.name)} at byte {gap:,} of its data instead of 0"
        return BrokenRuleError("data-start", sentence)
    return BrokenRuleError("hole-in-data", f"has a hole of {in_bytes(gap)} before {quoted(info.name)}")
