"""Laws of the state: in memory until there is something to write, and the first on disk is everyone's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergebuild.portable import Identity
from mergebuild.store.state import SourceRow, State

ONE, TWO = (SourceRow(Identity(1, inode, 3, 4, 5), b"c" * 16, b"d" * 16, None) for inode in (1, 2))


@pytest.mark.parametrize("portable", ["", "1"])
def test_of_two_first_builds_the_quicker_ones_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portable: str
) -> None:
    """Both were in memory; the slower one goes on with what the other wrote, and leaves no file of its own."""
    monkeypatch.setenv("MERGEBUILD_PORTABLE", portable)
    path = tmp_path / "store/state.sqlite3"
    quick, slow = State(path), State(path)
    quick.remember_source(ONE)
    slow.remember_source(TWO)
    path.parent.mkdir()
    quick.write_to_disk()
    slow.write_to_disk()
    assert slow.is_on_disk
    assert slow.source(ONE.identity) == ONE
    assert slow.source(TWO.identity) is None
    quick.close()
    slow.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
