"""Laws of archives read in place: what the usual writer stores is found where it lies."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.formats import zips
from mergebuild.formats.zips import read_archive

NAMES = st.from_regex(r"[a-z0-9]{1,8}(/\.?[a-zü_]{1,8}){0,3}", fullmatch=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives") / "x.zip"


def contents(path: Path) -> dict[str, bytes]:
    """Return the entries as the archive's places say."""
    raw = path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    try:
        archive = read_archive(fd, len(raw))
        places = {name: archive.place(name) for name in archive.entries}
    finally:
        os.close(fd)
    return {name: raw[begin:end] for name, (begin, end) in places.items()}


@given(entries=st.dictionaries(NAMES, st.binary(max_size=100), max_size=6), comment=st.binary(max_size=20))
def test_stored_entries_are_found_in_the_order_of_the_file(
    file: Path, entries: dict[str, bytes], comment: bytes
) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.comment = comment.replace(b"P", b"")
    assert list(contents(file).items()) == list(entries.items())


def test_entries_written_without_knowing_their_sizes_are_found(file: Path) -> None:
    """Their own headers then say nothing of sizes, or that they are large."""

    class Pipe(io.RawIOBase):
        """Something that can't go back, so that sizes follow the bytes."""

        def __init__(self) -> None:
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[arg-type]
        for name, is_large in (("a", False), ("b", True)):
            with archive.open(name, "w", force_zip64=is_large) as entry:
                entry.write(name.encode() * 5)
    file.write_bytes(pipe.written)
    assert contents(file) == {"a": b"aaaaa", "b": b"bbbbb"}


def test_more_entries_than_any_model_has_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(3):
            archive.writestr(str(number), b"")
    monkeypatch.setattr(zips, "MOST_ENTRIES", 2)
    with pytest.raises(Exception, match="zip-too-many"):
        contents(file)
