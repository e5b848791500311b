"""The packed table of an artifact is read back as it was, also one of an earlier format, on any machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mergebuild.digest import checksum
from mergebuild.store.contents import Entry, is_whole, pack, unpack

NUMBER = st.integers(0, 2**63 - 1)
DIGEST = st.binary(min_size=16, max_size=16)
ENTRIES = st.lists(st.builds(Entry, st.text(), NUMBER, NUMBER, DIGEST, DIGEST, NUMBER), max_size=6)


@given(ENTRIES)
def test_what_is_packed_is_unpacked(entries: list[Entry]) -> None:
    assert unpack(pack(entries)) == entries
    assert is_whole(pack(entries))


KNOWN = [Entry("a", 8, 16, b"d" * 16, b"c" * 16, 0), Entry("ü", 2**40, 2**40 + 4096, b"e" * 16, b"f" * 16, 3)]
TABLE = (
    "170000000000000078018b564a54d251508a293530484b568a05001da003e8"
    "080000000000000010000000000000000000000000000000"
    "000000000001000000100000000100000300000000000000"
    f"{'64' * 16}{'63' * 16}{'65' * 16}{'66' * 16}"
)
"""Behind its format: the length of the names, the names packed, three numbers a tensor, digests and checksums."""


def test_bytes_are_the_same_on_every_machine() -> None:
    """The number of the format, and the lowest byte of each number first."""
    assert pack(KNOWN)[16:].hex() == "01" + TABLE
    assert pack(KNOWN)[:16].hex() == "ac11b1981bf36ac8347e16cccde6dd70"


def test_a_table_without_a_format_is_read() -> None:
    """Stores hold them: of artifacts that were built before tables had one."""
    table = bytes.fromhex(TABLE)
    old = checksum(table) + table
    assert old[:16].hex() == "b58f8085292a7fb77ba6544d859afd56"
    assert is_whole(old)
    assert unpack(old) == KNOWN


def test_damage_of_any_byte_shows() -> None:
    table = bytes.fromhex(TABLE)
    for packed in (pack(KNOWN), checksum(table) + table):
        for index in range(len(packed)):
            assert not is_whole(packed[:index] + bytes([packed[index] ^ 1]) + packed[index + 1 :])


def test_a_table_of_another_format_is_none() -> None:
    table = b"\2" + bytes.fromhex(TABLE)
    assert not is_whole(checksum(b"table" + table) + table)
