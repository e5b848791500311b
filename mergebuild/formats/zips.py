"""Zip archives as torch writes them: uncompressed entries, found without reading them.

Only the directory at the end is read, and the local header of an entry. Nothing is unpacked: a compressed entry is
refused when it is needed, so a zip bomb can do no harm. Names are only compared; names that would lead out of a folder
or overwrite another entry are refused nevertheless, as no honest program writes them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from mergebuild.formats.reading import AGAIN, UNFIT, BrokenRuleError, bytes_at, in_bytes, quoted

__all__ = ["END", "ENTRY", "LOCAL", "Archive", "ZipEntry", "read_archive"]

LOCAL: Final = struct.Struct("<4s5H3L2H")
"""A local header: signature, version, flags, method, time, date, CRC-32, both sizes, lengths of name and extra."""
ENTRY: Final = struct.Struct("<4s6H3L5H2L")
"""An entry of the directory: as above with two versions, then length of comment, disk, attributes, offset."""
END: Final = struct.Struct("<4s4H2LH")
"""The end of the directory: signature, disks, numbers of entries, its size and offset, length of the comment."""
END64: Final = struct.Struct("<4sQ2H2L4Q")
"""The same for large files; it is followed by its `LOCATOR`."""
LOCATOR: Final = struct.Struct("<4sLQL")

MOST_ENTRIES: Final = 1 << 18
_MOST_DIRECTORY: Final = 1 << 26
FULL16: Final = 0xFFFF
FULL32: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 1
_SIZES_FOLLOW: Final = 8
_UTF8: Final = 0x800
_OUTSIDE: Final = re.compile(r"^[/\\]|^[A-Za-z]:|\\|(^|/)\.\.?(/|$)|//")
_CUT: Final = "the download or copy stopped early: do it again"
_NOT_TORCH: Final = "PyTorch never writes such archives: do not use it, unless you know who made it and why"


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """An entry of the directory."""

    name: str
    raw: bytes
    header: int
    size: int
    stored: int
    """Its size in the file."""
    method: int
    flags: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The entries by name, in the order of the file."""

    fd: int
    entries: Mapping[str, ZipEntry]
    limits: Mapping[str, int]
    """By name, where the next entry or the directory begins."""

    def place(self, name: str) -> tuple[int, int]:
        """Return where an entry's bytes begin and end in the file.

        Raises:
            BrokenRuleError: it is compressed or encrypted, or its local header contradicts the directory.
        """
        entry = self.entries[name]
        _check_is_plain(entry)
        begin = self._begin(entry)
        if begin + entry.size > self.limits[name]:
            raise _overlap(name)
        return begin, begin + entry.size

    def _begin(self, entry: ZipEntry) -> int:
        """Return where the bytes of an entry begin, after comparing its local header with the directory."""
        name = entry.name
        head = LOCAL.unpack(bytes_at(self.fd, entry.header, LOCAL.size))
        signature, _, flags, method, _, _, _, stored, size, name_length, extra_length = head
        if signature != b"PK\3\4":
            raise BrokenRuleError("bad-zip", f"has no entry where its directory says that {quoted(name)} is", AGAIN)
        raw = bytes(bytes_at(self.fd, entry.header + LOCAL.size, name_length)) if name_length == len(entry.raw) else b""
        unsaid = {entry.size, FULL32} | ({0} if flags & _SIZES_FOLLOW else set())
        if raw != entry.raw or method or flags & _ENCRYPTED or not {size, stored} <= unsaid:
            sentence = f"has an entry {quoted(name)} that its directory describes otherwise than the entry itself"
            raise BrokenRuleError("zip-disagrees", sentence, _NOT_TORCH)
        begin: int = entry.header + LOCAL.size + name_length + extra_length
        return begin


def _check_is_plain(entry: ZipEntry) -> None:
    """Refuse an entry that is encrypted or compressed."""
    if entry.flags & _ENCRYPTED:
        raise BrokenRuleError("encrypted-entry", f"has the encrypted entry {quoted(entry.name)}", _NOT_TORCH)
    if entry.method or entry.size != entry.stored:
        sentence = f"has the compressed entry {quoted(entry.name)}, and PyTorch stores entries as they are"
        way_out = "unpack it and save it again with `torch.save`, if you trust it"
        raise BrokenRuleError("compressed-entry", sentence, way_out)


def read_archive(fd: int, file_size: int) -> Archive:
    """Read the directory of a zip archive.

    Raises:
        BrokenRuleError: it has none, or an impossible one.
    """
    begin, size, count = _directory(fd, file_size)
    if count > MOST_ENTRIES or size > _MOST_DIRECTORY or count * ENTRY.size > size:
        sentence = f"claims {count:,} entries in a directory of {in_bytes(size)}, which is not possible or too much"
        raise BrokenRuleError("zip-too-many", sentence, "it is damaged, or made to do harm: do not use it")
    entries = _entries(bytes(bytes_at(fd, begin, size)), count)
    entries.sort(key=attrgetter("header"))
    limits = _limits(entries, begin)
    return Archive(fd, {entry.name: entry for entry in entries}, limits)


def _limits(entries: Sequence[ZipEntry], begin: int) -> dict[str, int]:
    """Return where each entry must end, by name: where the next one begins, or the directory at `begin`.

    Raises:
        BrokenRuleError: one does not end there, or two have one name.
    """
    limits = dict[str, int]()
    for entry, limit in zip(entries, [*(entry.header for entry in entries[1:]), begin], strict=False):
        if entry.header + LOCAL.size + len(entry.raw) + entry.stored > limit:
            raise _outside(entry, begin) if limit == begin else _overlap(entry.name)
        if entry.name in limits:
            raise BrokenRuleError("duplicate-entry", f"has two entries named {quoted(entry.name)}", _NOT_TORCH)
        limits[entry.name] = limit
    return limits


def _directory(fd: int, file_size: int) -> tuple[int, int, int]:
    """Return where the directory begins, its size in bytes, and its number of entries."""
    reach = min(file_size, END.size + FULL16)
    tail = bytes(bytes_at(fd, file_size - reach, reach))
    at, numbers = _end_in(tail)
    end = file_size - reach + at
    locator = tail[at - LOCATOR.size : at] if at >= LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        end, numbers = _large_end(fd, locator, end, numbers)
    disk, disk_too, here, count, size, begin = numbers
    if disk or disk_too or here != count or begin + size != end:
        raise BrokenRuleError("bad-zip", "has a zip directory that is not where its end says", AGAIN)
    return begin, size, count


def _end_in(tail: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the offset of the end record in the last bytes of a file, and the numbers in it."""
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + END.size > len(tail):
        sentence = "is a zip archive without its directory, which stands at the end"
        raise BrokenRuleError("zip-truncated", sentence, _CUT)
    _, *numbers, comment = END.unpack_from(tail, at)
    if at + END.size + comment != len(tail):
        raise BrokenRuleError("bad-zip", "has bytes behind the end of its zip archive, or not all of them", _CUT)
    return at, tuple(numbers)


def _large_end(fd: int, locator: bytes, end: int, small: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the offset of the end record with room for large numbers, and the numbers in it.

    `end`: the offset of the `small` end record, which has the same numbers as far as it has room for them.
    """
    large: int = LOCATOR.unpack(locator)[2]
    if large != end - LOCATOR.size - END64.size:
        raise BrokenRuleError("bad-zip", "has a zip directory whose end is not where it says", AGAIN)
    found = END64.unpack(bytes_at(fd, large, END64.size))
    exact, full = found[4:], (FULL16, FULL16, FULL16, FULL16, FULL32, FULL32)
    if found[0] != b"PK\6\6" or any(a not in (b, most) for a, b, most in zip(small, exact, full, strict=True)):
        raise BrokenRuleError("zip-disagrees", "has two ends of its zip directory that disagree", _NOT_TORCH)
    return large, exact


def _entries(raw: bytes, count: int) -> list[ZipEntry]:
    found = []
    at = 0
    for _ in range(count):
        if at + ENTRY.size > len(raw):
            raise BrokenRuleError("bad-zip", f"has a zip directory of fewer entries than the {count:,} it claims")
        entry, at = _entry(raw, at)
        found.append(entry)
    if at != len(raw):
        raise BrokenRuleError("bad-zip", "has a zip directory that is longer than its entries")
    return found


def _entry(raw: bytes, at: int) -> tuple[ZipEntry, int]:
    """Return the entry at an offset of the directory, and the offset of the next one."""
    fields = ENTRY.unpack_from(raw, at)
    signature, made_by, _, flags, method, _, _, _, stored, size = fields[:10]
    name_length, extra_length, comment_length, disk, _, attributes, header = fields[10:]
    name = raw[at + ENTRY.size : at + ENTRY.size + name_length]
    extra = raw[at + ENTRY.size + name_length : at + ENTRY.size + name_length + extra_length]
    at += ENTRY.size + name_length + extra_length + comment_length
    if signature != b"PK\1\2" or at > len(raw) or disk not in (0, FULL16):
        raise BrokenRuleError("bad-zip", "has a damaged zip directory")
    size, stored, header = _widened(extra, size, stored, header)
    if made_by >> 8 == 3 and attributes >> 28 == 0xA:
        sentence = f"has the entry {quoted(name.decode('cp437'))}, which is a link"
        raise BrokenRuleError("unsafe-entry", sentence, _NOT_TORCH)
    return ZipEntry(_named(name, flags), name, header, size, stored, method, flags), at


def _widened(extra: bytes, size: int, stored: int, header: int) -> tuple[int, int, int]:
    """Return sizes and offset; those that take more than 32 bits come from the extra field."""
    wide = [value == FULL32 for value in (size, stored, header)]
    at = 0
    while at + 4 <= len(extra) and any(wide):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and sum(wide) * 8 <= length <= len(extra) - at - 4:
            values = iter(struct.unpack_from(f"<{sum(wide)}Q", extra, at + 4))
            found = [
                next(values) if is_wide else value for is_wide, value in zip(wide, (size, stored, header), strict=True)
            ]
            return found[0], found[1], found[2]
        at += 4 + length
    return size, stored, header


def _named(raw: bytes, flags: int) -> str:
    """Return the name of an entry, after checking that it could be a file's."""
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise BrokenRuleError("bad-zip", "has an entry whose name is not UTF-8") from None
    if not name or UNFIT.search(name) or _OUTSIDE.search(name):
        sentence = f"has the entry {quoted(name)}, whose name leads out of a folder or is none"
        raise BrokenRuleError("unsafe-entry", sentence, _NOT_TORCH)
    return name


def _overlap(name: str) -> BrokenRuleError:
    sentence = f"has the entry {quoted(name)}, which overlaps what lies behind it"
    return BrokenRuleError("entries-overlap", sentence, _NOT_TORCH)


def _outside(entry: ZipEntry, begin: int) -> BrokenRuleError:
    sentence = f"has the entry {quoted(entry.name)}, which would end behind byte {begin:,}, where the directory begins"
    return BrokenRuleError("entry-outside", sentence, AGAIN)
