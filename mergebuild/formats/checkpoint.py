"""The layout of our own `.ckpt` files: the zip archive that `torch.save` writes, with every byte known beforehand.

It is a function of names, dtypes and shapes alone, except for the CRC-32 of each tensor, which is in its local header
and in the directory. Tensors of a page or more begin on a page boundary, so that whole pages can be shared with an
older file; the gap before them is an extra field of the local header, as in torch's files.

The tensors are under `state_dict`: scripts of CompVis look only there, and all others look there first. The archive,
named `archive`, has `data.pkl`, `version` and `data/<number>` and nothing else: the check that A1111 makes before it
loads a checkpoint refuses other entries, including `byteorder`; without that, readers assume little-endian, which is
right. All times are the earliest that a zip archive can have.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from mergebuild.formats.header import Header, TensorInfo
from mergebuild.formats.layout import PLAIN, StoredRun, Written, runs_of, scattered_in
from mergebuild.formats.unpickling import STORAGES
from mergebuild.formats.zips import END, END64, ENTRY, FULL16, FULL32, LOCAL, LOCATOR
from mergebuild.system.platform import PAGE, pread_into, pwrite_all

__all__ = ["CheckpointLayout"]

_ALIGNMENT: Final = 64
_FOLDER: Final = "archive/"
_VERSION: Final = b"3\n"
_TIME: Final = 0
_DATE: Final = 1 << 5 | 1
"""The first of January 1980."""
_PLAIN: Final = 10
"""The version of the zip format that readers must support; `_LARGE` if something takes more than 32 bits."""
_LARGE: Final = 45
_PADDING: Final = 0x4246
"""The kind of extra field with which torch pads (`FB`)."""
_CRC_AT: Final = 14
"""The offset of the CRC-32 in a local header."""
_CRC_PIECE: Final = 1 << 22
"""Bytes read at a time for a CRC-32."""


class _Placed(NamedTuple):
    """An entry of the archive, with the offsets of its local header and of its bytes."""

    name: bytes
    header: int
    begin: int
    size: int

    @property
    def end(self) -> int:
        return self.begin + self.size

    def local(self, crc: int) -> bytes:
        """Return its local header, up to where its bytes begin."""
        is_large = self.size >= FULL32
        size = FULL32 if is_large else self.size
        extra = struct.pack("<2H2Q", 1, 16, self.size, self.size) if is_large else b""
        gap = self.begin - self.header - LOCAL.size - len(self.name) - len(extra)
        if gap:
            extra += struct.pack("<2H", _PADDING, gap - 4) + bytes(gap - 4)
        version = _LARGE if is_large else _PLAIN
        head = LOCAL.pack(b"PK\3\4", version, 0, 0, _TIME, _DATE, crc, size, size, len(self.name), len(extra))
        return head + self.name + extra

    def listed(self, crc: int) -> bytes:
        """Return its entry in the directory."""
        wide = [value for value in (self.size, self.size, self.header) if value >= FULL32]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        version = _LARGE if wide else _PLAIN
        size, header = min(self.size, FULL32), min(self.header, FULL32)
        lengths = len(self.name), len(extra), 0
        about = ENTRY.pack(b"PK\1\2", version, version, 0, 0, _TIME, _DATE, crc, size, size, *lengths, 0, 0, 0, header)
        return about + self.name + extra


class CheckpointLayout:
    """The layout of a checkpoint of given tensors.

    The tensors' bytes at `begin(name)`, `fixed`, and what `late` returns cover the file without gaps or overlaps.
    """

    def __init__(self, tensors: Iterable[tuple[str, str, Sequence[int]]], written: Written = PLAIN) -> None:
        """Lay out tensors, given as (name, dtype, shape) in any order. `written`: how the file writes them.

        Raises:
            ValueError: two tensors have one name, a name is not allowed in a file, or a dtype is unknown.
        """
        self._runs = sorted(runs_of(tensors, written), key=lambda run: run.whole.name)
        self.layout = " ".join(filter(None, ("checkpoint", written.mark)))
        self.specs = [spec for run in self._runs for spec in run.tensors]
        """The tensors in the order of the file, which is that of their names."""
        described = (("data.pkl", _pickle(self._runs)), ("version", _VERSION))
        at = 0
        own: list[tuple[_Placed, bytes]] = []
        for name, content in described:
            own.append((_placed(name, at, len(content), _ALIGNMENT), content))
            at = own[-1][0].end
        self._storages: list[_Placed] = []
        self._begins: dict[str, int] = {}
        for run in self._runs:
            at = self._place(run, at)
        self._own = [(each, zlib.crc32(content)) for each, content in own]
        self._directory = at
        self.size: int = at + len(self._tail([0] * len(self._runs)))
        """The length of the file."""
        self.fixed: Sequence[tuple[int, bytes]] = _fixed(own, self._storages)
        """The bytes that are known beforehand, with their offsets, beginning with offset 0."""
        self.turned = written.turned
        self.scattered = scattered_in(self._runs, written)

    def _place(self, run: StoredRun, at: int) -> int:
        """Place a run after an entry that ends at `at`; return where the run ends."""
        size = run.whole.nbytes
        name = f"data/{len(self._storages)}"
        self._storages.append(_placed(name, at, size, PAGE if size >= PAGE else _ALIGNMENT))
        at = self._storages[-1].begin
        for spec in run.tensors:
            self._begins[spec.name] = at
            at += spec.nbytes
        return at

    def header(self, metadata: Mapping[str, str]) -> Header:  # noqa: ARG002 -- the format has no metadata
        """Return where the tensors are; the data begin after the first of the fixed bytes."""
        infos = {
            spec.name: TensorInfo(*spec, self._begins[spec.name], self._begins[spec.name] + spec.nbytes)
            for spec in self.specs
        }
        return Header(infos, {}, len(self.fixed[0][1]), self.size)

    def encoded(self, header: Header) -> bytes:  # noqa: ARG002 -- there is one
        """Return the bytes before the first tensor's local header, which describe the tensors."""
        return self.fixed[0][1]

    def begin(self, name: str) -> int:
        """Return the offset of a tensor's bytes."""
        return self._begins[name]

    def finish(self, fd: int) -> Sequence[tuple[int, bytes]]:
        """Write the CRC-32 of each tensor and the directory.

        Return all bytes after and between tensors, with their offsets.
        """
        late = self.late(lambda begin, size: _crc32(fd, begin, size))
        for offset, content in late:
            pwrite_all(fd, memoryview(content), offset)
        return sorted([*self.fixed[1:], *late])

    def late(self, crc32_of: Callable[[int, int], int]) -> Sequence[tuple[int, bytes]]:
        """Return the bytes that depend on the tensors' bytes, with their offsets, ascending.

        `crc32_of`: returns the CRC-32 of a range of the file, given begin and size; it is called once for each stored
        tensor, but not for one without elements, whose CRC-32 is 0.
        """
        crcs = [crc32_of(each.begin, each.size) if each.size else 0 for each in self._storages]
        marks = zip(self._storages, crcs, strict=True)
        found = [(each.header + _CRC_AT, crc.to_bytes(4, "little")) for each, crc in marks]
        return [*found, (self._directory, self._tail(crcs))]

    def _tail(self, crcs: Sequence[int]) -> bytes:
        """Return the directory and its end."""
        listed = [*self._own, *zip(self._storages, crcs, strict=True)]
        directory = b"".join(each.listed(crc) for each, crc in listed)
        return directory + _end(len(listed), len(directory), self._directory)


def _placed(name: str, at: int, size: int, alignment: int) -> _Placed:
    """Return an entry whose local header begins at `at`, and its bytes at the next offset that the alignment allows."""
    raw = f"{_FOLDER}{name}".encode()
    least = at + LOCAL.size + len(raw) + (20 if size >= FULL32 else 0)
    begin = least + -least % alignment
    if 0 < begin - least < 4:  # shorter than an empty extra field
        begin += alignment
    return _Placed(raw, at, begin, size)


def _crc32(fd: int, begin: int, size: int) -> int:
    """Return the CRC-32 of a range of a file. The file is read, not mapped: it may be larger than the address space."""
    found, buffer = 0, memoryview(bytearray(min(size, _CRC_PIECE)))
    for start in range(begin, begin + size, _CRC_PIECE):
        piece = buffer[: min(begin + size - start, _CRC_PIECE)]
        pread_into(fd, piece, start)
        found = zlib.crc32(piece, found)
    return found


def _fixed(own: Sequence[tuple[_Placed, bytes]], tensors: Sequence[_Placed]) -> list[tuple[int, bytes]]:
    found = [(0, b"".join(each.local(zlib.crc32(content)) + content for each, content in own))]
    for each in tensors:
        local = each.local(0)
        found += [(each.header, local[:_CRC_AT]), (each.header + _CRC_AT + 4, local[_CRC_AT + 4 :])]
    return found


def _end(count: int, size: int, begin: int) -> bytes:
    """Return the end records of the zip archive; its directory has `count` entries and `size` bytes from `begin` on."""
    large = b""
    if count >= FULL16 or size >= FULL32 or begin >= FULL32:
        large = END64.pack(b"PK\6\6", END64.size - 12, _LARGE, _LARGE, 0, 0, count, count, size, begin)
        large += LOCATOR.pack(b"PK\6\7", 0, begin + size, 1)
    count = min(count, FULL16)
    return large + END.pack(b"PK\5\6", 0, 0, count, count, min(size, FULL32), min(begin, FULL32), 0)


# The pickle

_CLASSES: Final = {word: name for name, (word, _) in STORAGES.items() if "Untyped" not in name}


def _pickle(runs: Sequence[StoredRun]) -> bytes:
    """Return the pickle of the state dict as `torch.save` would describe it, in opcodes that every reader knows."""
    pickling = _Pickling()
    tensors = [pickling.tensors(number, run) for number, run in enumerate(runs)]
    return b"".join((b"\x80\x02}", _text("state_dict"), b"}(", *tensors, b"us."))


class _Pickling:
    """Writes the pickle that describes the tensors; a value that is repeated is written as a reference."""

    def __init__(self) -> None:
        self._memo: dict[bytes, bytes] = {}

    def _once(self, code: bytes) -> bytes:
        """Return the code that pushes a value, which from the second time on refers to the memo."""
        if code in self._memo:
            return self._memo[code]
        self._memo[code] = b"h" + bytes((len(self._memo),))
        return code + b"q" + self._memo[code][1:]

    def tensors(self, number: int, run: StoredRun) -> bytes:
        """Return the items of the state dict for the tensors of one storage, given by its number."""
        once, parts, begin = self._once, [], 0
        dtype = run.whole.dtype
        storage, count = _CLASSES.get(dtype), run.whole.nbytes
        rebuild, kind = _named("torch._utils", "_rebuild_tensor_v3"), _named("torch.storage", "UntypedStorage")
        if storage is not None:
            rebuild, kind = _named("torch._utils", "_rebuild_tensor_v2"), _named("torch", storage)
            count = run.elements
        for name, shape in run.stored:
            parts += [_text(name), once(rebuild), b"((", once(_text("storage")), once(kind), _text(str(number))]
            parts += [once(_text("cpu")), _integer(count), b"tQ", _integer(begin), _tuple(shape)]
            parts += [_tuple(_strides(shape)), b"\x89", once(_named("collections", "OrderedDict")), b")R"]
            parts += [b"tR"] if storage is not None else [once(_named("torch", dtype)), b"tR"]
            begin += math.prod(shape)
        return b"".join(parts)


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _integer(value: int) -> bytes:
    for code, length, limit in ((b"K", 1, 1 << 8), (b"M", 2, 1 << 16), (b"J", 4, 1 << 31)):
        if value < limit:
            return code + value.to_bytes(length, "little")
    return b"\x8a\x08" + value.to_bytes(8, "little")


def _tuple(values: Sequence[int]) -> bytes:
    code = b"".join(map(_integer, values))
    if len(values) > 3:
        return b"(" + code + b"t"
    return code + (b")", b"\x85", b"\x86", b"\x87")[len(values)]


def _strides(shape: Sequence[int]) -> list[int]:
    found = [1]
    for size in reversed(shape[1:]):
        found.append(found[-1] * max(size, 1))
    return found[: len(shape)][::-1]
