"""The SHA-256 of a file is remembered for as long as its stat data say that it is that file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.sources import hashes
from mergebuild.sources.file_hashes import FileHashes
from mergebuild.store import STATE, SourceRow
from mergebuild.store.ledger import DiskLedger
from mergebuild.store.state import State
from mergebuild.system.filestate import identity


@pytest.fixture
def kept(tmp_path: Path) -> FileHashes:
    """Hashes in a state that nothing is known in."""
    return FileHashes(DiskLedger(State(tmp_path / STATE), "project"))


def of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_file_is_read_once(kept: FileHashes, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lab / "tokenizer.json"
    path.write_text("{}")
    lab.settle()
    assert kept.known(path) is None
    assert kept.of(path) == of("{}")
    monkeypatch.setattr(hashes, "sha256", lambda _path: pytest.fail("it was read again"))
    assert kept.of(path) == of("{}") == kept.known(path)


def test_an_edit_that_puts_size_and_mtime_back_is_seen(kept: FileHashes, lab: Lab) -> None:
    path = lab / "tokenizer.json"
    path.write_text("{}")
    lab.settle()
    kept.of(path)
    found = path.stat()
    path.write_text("[]")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert kept.known(path) is None
    assert kept.of(path) == of("[]")


def test_what_was_written_just_now_is_not_remembered(kept: FileHashes, lab: Lab) -> None:
    """It may be written to once more within the tick, and its stat data stay."""
    path = lab / "tokenizer.json"
    path.write_text("{}")
    assert kept.of(path) == of("{}")
    assert kept.known(path) is None


def test_what_else_is_known_of_a_file_stays(tmp_path: Path, lab: Lab) -> None:
    """A shard may be a source of its own."""
    path = lab.model("x", w=[1.0])
    lab.settle()
    state = DiskLedger(State(tmp_path / STATE), "project")
    state.remember_source(SourceRow(identity(path), b"c" * 16, b"content", None, "autov3"))
    found = FileHashes(state).of(path)
    assert state.source(identity(path), "") == SourceRow(identity(path), b"c" * 16, b"content", found, "autov3")


def test_a_file_that_is_not_there_is_an_error(kept: FileHashes, tmp_path: Path) -> None:
    for ask in (kept.of, kept.known):
        with pytest.raises(FileNotFoundError):
            ask(tmp_path / "nothing")
