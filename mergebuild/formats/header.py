"""The header of a safetensors file: 8 bytes of length (little-endian), JSON, then the tensors' bytes without holes.

Everything that a plan needs stands in it, and it is read without touching a tensor. Files come from strangers and
from downloads that broke: each rule of the format that a file can break has an error code of its own, and nothing
is allocated that the file's real size does not bear out.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from mergebuild.errors import Place, SourceError, did_you_mean
from mergebuild.formats.dtypes import DTYPES, DTYPES_BY_WORD, UNSUPPORTED
from mergebuild.formats.foreign import LOOKED_AT, recognize
from mergebuild.portable import open_to_read, pread_into

__all__ = ["MAX_HEADER", "METADATA", "UNFIT", "Header", "Piece", "TensorInfo", "read_header", "read_header_fd"]

MAX_HEADER: Final = 100_000_000
"""The longest header that safetensors allows (bytes of JSON)."""

METADATA: Final = "__metadata__"
"""The entry of a header that is no tensor."""

UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no name may hold: control characters, and halves of surrogate pairs, which have no bytes in UTF-8."""

_HALVES: Final = re.compile("[\ud800-\udfff]")
_MOST_BYTES: Final = 2**63 - 1
_MOST_DIMENSIONS: Final = 64
_ENTRY_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})
_WRITTEN_TO: Final = "wait until whatever writes it is done, and try again"
_AGAIN: Final = "the file is damaged, or whatever wrote it is wrong: download or export it again"


class Piece(NamedTuple):
    """A block of elements in one file: a part of a tensor, in the order of its elements."""

    file: int
    """Which of the model's files."""
    begin: int
    """The byte of its first element, counted from the file's beginning."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """How many elements lie between neighbours, by dimension."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is: `dtype` in the contract's word, bytes `begin` to `end` counted from the file's beginning.

    A tensor that does not lie in one run is put together of `pieces`, one behind the other; it then has `begin` 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: int = 0
    """Which of the model's files."""
    pieces: tuple[Piece, ...] = ()

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.end - self.begin

    @property
    def count(self) -> int:
        """How many elements it has (1 for a scalar)."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers, and so can be merged."""
        return DTYPES_BY_WORD[self.dtype].is_float


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself: tensors in the order of their bytes, metadata, and where the data start."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int
    file_size: int


class _BrokenRuleError(Exception):
    """A rule that the file breaks: code, the sentence after the file's name, help. Turned into a `SourceError`."""

    def __init__(self, code: str, sentence: str, help: str = _AGAIN, rows: tuple[str, ...] = ()) -> None:
        super().__init__(code)
        self.code = code
        self.sentence = sentence
        self.help = help
        self.rows = rows

    def named(self, shown: str) -> SourceError:
        """Return the error that names the file."""
        message = f"`{_clip(shown)}` {self.sentence}"
        return SourceError.one(self.code, message, where=Place(shown), help=self.help, rows=self.rows)


def read_header(path: Path, *, shown: str | None = None) -> Header:
    """Read and check the header of a file, and nothing of its tensors.

    Args:
        path: the file.
        shown: what to call it in errors; the path itself by default.

    Raises:
        SourceError: there is no such file, it can't be read, or it breaks a rule of the format.
    """
    name = str(path) if shown is None else shown
    try:
        fd = open_to_read(path)
    except (OSError, ValueError) as error:
        raise _not_opened(path, error).named(name) from error
    try:
        return read_header_fd(fd, name)
    finally:
        os.close(fd)


def read_header_fd(fd: int, shown: str) -> Header:
    """Read and check the header of an open file, whatever its path leads to by now; its position may change.

    Raises:
        SourceError: it can't be read, breaks a rule of the format, or is being written to.
    """
    try:
        before = os.fstat(fd)
        _check_kind(before)
        header = _read(fd, before.st_size)
        _check_unchanged(before, os.fstat(fd))
    except _BrokenRuleError as broken:
        raise broken.named(shown) from None
    except OSError as error:
        raise _unreadable(error).named(shown) from error
    return header


# The file


def _not_opened(path: Path, error: OSError | ValueError) -> _BrokenRuleError:
    if isinstance(error, ValueError):
        return _BrokenRuleError("file-unreadable", f"is no possible path: {error}", "mend the path")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        sentence = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        return _BrokenRuleError("file-missing", sentence, "mend the path, or put the file there")
    if os.path.isdir(path):  # noqa: PTH112 -- never raises. Some systems refuse to open folders
        return _folder()
    if error.errno == errno.ENXIO:
        return _BrokenRuleError("file-not-regular", "is a socket or a device, not a file", "name a file")
    return _unreadable(error)


def _unreadable(error: OSError) -> _BrokenRuleError:
    reason = (error.strerror or str(error)).lower()
    way_out = "check its permissions" if isinstance(error, PermissionError) else "check the disk and the path"
    return _BrokenRuleError("file-unreadable", f"can't be read: {reason}", way_out)


def _folder() -> _BrokenRuleError:
    return _BrokenRuleError(
        "file-is-a-folder", "is a folder, and a `.safetensors` file is expected", "name the file in it"
    )


def _check_kind(found: os.stat_result) -> None:
    """Refuse what is not a regular file with at least a length in it."""
    if stat.S_ISDIR(found.st_mode):
        raise _folder()
    if not stat.S_ISREG(found.st_mode):
        raise _BrokenRuleError("file-not-regular", "is a pipe, a socket or a device, not a file", "name a file")
    if found.st_size == 0:
        raise _BrokenRuleError("file-empty", "is empty", "the download or export never began: do it again")


def _check_unchanged(before: os.stat_result, after: os.stat_result) -> None:
    """Refuse a file that is being written; a new name or new permissions (its ctime) do no harm."""
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _BrokenRuleError("file-changed", "changed while it was read", _WRITTEN_TO)


def _read(fd: int, file_size: int) -> Header:
    head = bytes(_bytes_at(fd, 0, min(file_size, LOOKED_AT)))
    length = int.from_bytes(head[:8], "little")
    plausible = length <= MAX_HEADER and head[8:9] == b"{"
    foreign = None if plausible else recognize(head)
    if foreign is not None:
        raise _BrokenRuleError(*foreign)
    if file_size < 8:
        sentence = f"is {_bytes(file_size)} long, and the header's length alone takes 8"
        raise _BrokenRuleError("file-too-short", sentence)
    if length > MAX_HEADER:
        sentence = f"claims a header of {length:,} bytes, and at most {MAX_HEADER:,} are allowed"
        raise _BrokenRuleError("header-too-large", sentence, "it is damaged, or no safetensors file")
    if 8 + length > file_size:
        sentence = f"claims a header of {_bytes(length)}, and only {file_size - 8:,} follow"
        raise _BrokenRuleError(
            "header-truncated", sentence, f"at least {_bytes(8 + length - file_size)} are missing: download it again"
        )
    if not plausible:
        found = "nothing" if length == 0 else f"byte 0x{head[8]:02x}"
        raise _BrokenRuleError("header-start", f"has a header that starts with {found} instead of `{{`")
    return _parse(_bytes_at(fd, 8, length), file_size)


def _bytes_at(fd: int, offset: int, length: int) -> bytearray:
    """Return the bytes that `fstat` promised."""
    found = bytearray(length)
    if pread_into(fd, found, offset) < length:
        raise _BrokenRuleError("file-changed", "became shorter while it was read", _WRITTEN_TO)
    return found


# The header


def _parse(raw: bytearray, file_size: int) -> Header:
    """Return what the JSON says of a file of that size, with every rule checked."""
    document = _document(raw)
    data_start = 8 + len(raw)
    metadata = _metadata(document.pop(METADATA, None))
    _check_names(document)
    infos = [_tensor(name, entry, data_start) for name, entry in document.items()]
    infos.sort(key=attrgetter("begin", "end", "name"))
    end = _check_places(infos, data_start)
    if end > file_size:
        sentence = f"is cut short: {_bytes(end - file_size)} of {end:,} are missing"
        raise _BrokenRuleError("data-truncated", sentence, "the download or copy stopped early: do it again")
    if end < file_size:
        sentence = f"has {_bytes(file_size - end)} after its last tensor, which nothing describes"
        raise _BrokenRuleError("trailing-bytes", sentence)
    return Header({info.name: info for info in infos}, metadata, data_start, file_size)


def _document(raw: bytearray) -> dict[str, object]:
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        sentence = f"has a header that is not UTF-8 (byte {8 + error.start} of the file)"
        raise _BrokenRuleError("header-not-utf8", sentence) from error
    except RecursionError:
        # without `from`: a traceback of a thousand frames helps nobody
        raise _BrokenRuleError("header-too-deep", "has a header of JSON nested without end") from None
    except ValueError as error:
        raise _BrokenRuleError("header-not-json", f"has a header that is not JSON: {_clip(str(error))}") from error
    assert isinstance(found, dict)  # it starts with `{`
    return found


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _BrokenRuleError("duplicate-name", f"names {_quote(name)} twice in its header")
    return found


def _refuse_constant(word: str) -> NoReturn:
    message = f"{word} is no JSON"
    raise ValueError(message)


def _metadata(found: object) -> Mapping[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _BrokenRuleError("bad-metadata", f"has {_kind(found)} as `{METADATA}` instead of an object")
    for key, value in found.items():
        if not isinstance(value, str):
            sentence = f"has {_kind(value)} as `{METADATA}` {_quote(key)}, and only strings are allowed"
            raise _BrokenRuleError("bad-metadata", sentence)
        if _HALVES.search(key) or _HALVES.search(value):
            raise _BrokenRuleError("bad-metadata", f"has half a character in `{METADATA}` {_quote(key)}")
    return found


def _check_names(document: Mapping[str, object]) -> None:
    together = "".join(document)
    if (together.isascii() and together.isprintable()) or not UNFIT.search(together):
        return
    name = next(name for name in document if UNFIT.search(name))
    raise _BrokenRuleError("bad-tensor-name", f"has a control character or half a character in the name {_quote(name)}")


def _tensor(name: str, entry: object, data_start: int) -> TensorInfo:
    """Return what an entry of the header says; checked by loops and `type(...)`, since there are thousands."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _bad_entry(name, entry)
    tag, shape = entry["dtype"], entry["shape"]
    dtype = DTYPES.get(tag) if isinstance(tag, str) else None
    if dtype is None:
        raise _bad_dtype(name, tag)
    needed = _count(name, shape) * dtype.size
    begin, end = _offsets(name, entry["data_offsets"])
    if needed != end - begin:
        sentence = f"gives {_quote(name)} {_bytes(end - begin)}, and {dtype.word} {_show(shape)} takes {needed:,}"
        raise _BrokenRuleError("size-mismatch", sentence)
    return TensorInfo(name, dtype.word, tuple(shape), data_start + begin, data_start + end)


def _count(name: str, shape: object) -> int:
    """Return how many elements a shape has; the product without its zeros must fit too, as readers may compute it."""
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise _bad_shape(name, shape)
    count = reach = 1
    for size in shape:
        if type(size) is not int or size < 0:  # True is an instance of int
            raise _bad_shape(name, shape)
        count *= size
        reach *= size or 1
    if reach > _MOST_BYTES // 8:
        sentence = f"gives {_quote(name)} the shape {_show(shape)}, which is more than any file holds"
        raise _BrokenRuleError("shape-overflow", sentence)
    return count


def _offsets(name: str, offsets: object) -> tuple[int, int]:
    if isinstance(offsets, list) and len(offsets) == 2:
        begin, end = offsets
        if type(begin) is int and type(end) is int and 0 <= begin <= end <= _MOST_BYTES:
            return begin, end
    sentence = f"gives {_quote(name)} data_offsets {_show(offsets)}, and two whole numbers, begin <= end, are expected"
    raise _BrokenRuleError("bad-offsets", sentence)


def _bad_shape(name: str, shape: object) -> _BrokenRuleError:
    allowed = f"at most {_MOST_DIMENSIONS} whole numbers from 0 on are expected"
    return _BrokenRuleError("bad-shape", f"gives {_quote(name)} the shape {_show(shape)}, and {allowed}")


def _bad_entry(name: str, entry: object) -> _BrokenRuleError:
    allowed = "`dtype`, `shape` and `data_offsets`"
    if not isinstance(entry, dict):
        sentence = f"describes {_quote(name)} with {_kind(entry)}, and an object with {allowed} is expected"
    elif missing := sorted(_ENTRY_KEYS - entry.keys()):
        sentence = f"describes {_quote(name)} without `{'`, `'.join(missing)}`; an object with {allowed} is expected"
    else:
        unknown = min(entry.keys() - _ENTRY_KEYS)
        sentence = f"describes {_quote(name)} with {_quote(unknown)}, and only {allowed} are allowed"
    return _BrokenRuleError("bad-entry", sentence)


def _bad_dtype(name: str, tag: object) -> _BrokenRuleError:
    allowed = ", ".join(DTYPES)
    if isinstance(tag, str) and tag in UNSUPPORTED:
        sentence = f"stores {_quote(name)} as {tag}, which this version can't merge or copy"
        return _BrokenRuleError("unsupported-dtype", sentence, f"take a release of the model in one of {allowed}")
    way_out = did_you_mean(tag[:20] if isinstance(tag, str) else "", DTYPES, otherwise=f"known: {allowed}")
    return _BrokenRuleError("unknown-dtype", f"gives {_quote(name)} the unknown dtype {_show(tag)}", way_out)


def _check_places(infos: list[TensorInfo], data_start: int) -> int:
    """Check that sorted tensors lie side by side from the beginning of the data, and return where they end."""
    end = data_start
    before = ""
    for info in infos:
        if info.begin != end:
            raise _misplaced(info, before, info.begin - end, is_first=end == data_start)
        end = info.end
        before = info.name
    return end


def _misplaced(info: TensorInfo, before: str, gap: int, *, is_first: bool) -> _BrokenRuleError:
    if gap < 0:
        sentence = f"has overlapping tensors: {_quote(info.name)} begins {_bytes(-gap)} before {_quote(before)} ends"
        return _BrokenRuleError("tensors-overlap", sentence)
    if is_first:
        sentence = f"has its first tensor {_quote(info.name)} at byte {gap:,} of its data instead of 0"
        return _BrokenRuleError("data-start", sentence)
    return _BrokenRuleError("hole-in-data", f"has a hole of {_bytes(gap)} before {_quote(info.name)}")


# Words for what was found


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count:,} bytes"


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _quote(text: str) -> str:
    """Return a name for a message: in backticks, short, and with nothing that could act on a terminal."""
    return f"`{_clip(text)}`"


def _show(value: object) -> str:
    """Return a JSON value for a message, short however large or deep it is."""
    if isinstance(value, list):
        shown = ", ".join(_kind(each) if isinstance(each, list) else _show(each) for each in value[:8])
        return f"[{shown}]" if len(value) <= 8 else f"[{shown}, … {len(value)} in all]"
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return json.dumps(value) if isinstance(value, bool | int | float) else _kind(value)


def _clip(text: str, most: int = 100) -> str:
    short = text if len(text) <= most else f"{text[: most - 20]}…{text[-19:]}"
    return UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", short)
