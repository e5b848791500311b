"""The packed table of an artifact is read back as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mergebuild.store.contents import Entry, pack, unpack

NUMBER = st.integers(0, 2**63 - 1)
DIGEST = st.binary(min_size=16, max_size=16)
ENTRIES = st.lists(st.builds(Entry, st.text(), NUMBER, NUMBER, DIGEST, DIGEST, NUMBER), max_size=6)


@given(ENTRIES)
def test_what_is_packed_is_unpacked(entries: list[Entry]) -> None:
    assert unpack(pack(entries)) == entries
