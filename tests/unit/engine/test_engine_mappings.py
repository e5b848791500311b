"""Files to read: as many as the process may have, mapped where that can be, and the same bytes in any case."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest

from mergebuild.engine.mappings import Mappings, OpenFile
from mergebuild.engine.work import Location
from mergebuild.formats.header import Piece
from mergebuild.system import limits, platform


@pytest.fixture(params=["mapped", "read"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How bytes are come by: the second as where the address space is too small, or nothing can be mapped."""
    if request.param == "read":

        def refuse(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr(mmap, "mmap", refuse)
    return str(request.param)


def descriptors(folder: Path) -> list[str]:
    """Return which files of a folder this process has open, once for each descriptor."""
    found = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(path.name for path in found if path.parent == folder)


def test_bytes_are_the_same_mapped_and_read(way: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / "a").write_bytes(content)
    with Mappings() as mappings:
        assert mappings.view(tmp_path / "a", 0, len(content)) == content
        assert mappings.view(tmp_path / "a", 3, 5000) == content[3:5003]
        assert mappings.view(tmp_path / "a", 7, 0) == b""
        assert (mappings.opened(tmp_path / "a").mapping is None) == (way == "read")
        mappings.release(tmp_path / "a", 0, 1 << 30)


def test_a_tensor_in_pieces_is_put_together_either_way(way: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(12)))
    (tmp_path / "b").write_bytes(bytes(range(100, 112)))
    files = (tmp_path / "a", tmp_path / "b")
    pieces = (Piece(1, 4, (4,), (1,)), Piece(0, 0, (3, 2), (1, 3)))
    lying = Location(files[0], 0, 10, pieces, files)
    with Mappings() as mappings:
        assert list(mappings.gathered(lying, 0, 10)) == [104, 105, 106, 107, 0, 3, 1, 4, 2, 5]


def test_a_file_that_ends_early_is_an_error_and_no_shorter_tensor(way: str, tmp_path: Path) -> None:
    """Mapped, what is missing would be found out by the system, which ends the process."""
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "empty").touch()
    with Mappings() as mappings:
        for name, size in (("a", 11), ("empty", 1)):
            with pytest.raises(OSError, match="ends 1 bytes early") as early:
                mappings.view(tmp_path / name, 0, size)
            assert early.value.filename == str(tmp_path / name)


def test_a_file_system_that_fails_is_no_file_system_without_mappings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(mmap, "mmap", fail)
    (tmp_path / "a").write_bytes(bytes(10))
    with Mappings() as mappings, pytest.raises(OSError, match="Input/output error"):
        mappings.view(tmp_path / "a", 0, 1)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux shows what is open")
def test_no_more_files_are_open_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was not used for longest is closed for the next, but never under whoever uses it."""
    monkeypatch.setattr(limits, "files_at_once", lambda: 2)
    for name in "abc":
        (tmp_path / name).write_text(name)
    with Mappings() as mappings:
        held = mappings.opened(tmp_path / "a")
        view = mappings.view(tmp_path / "b", 0, 1)
        assert mappings.view(tmp_path / "a", 0, 1) == b"a"
        assert mappings.view(tmp_path / "c", 0, 1) == b"c"
        assert set(descriptors(tmp_path)) == {"a", "b", "c"}
        assert view == b"b"
        del view
        assert set(descriptors(tmp_path)) == {"a", "c"}
        mappings.opened(tmp_path / "c")
        mappings.opened(tmp_path / "b")
        assert os.pread(held.fd, 1, 0) == b"a"
        del held
        assert set(descriptors(tmp_path)) == {"b", "c"}
        assert mappings.view(tmp_path / "a", 0, 1) == b"a"
    assert descriptors(tmp_path) == []


def test_a_file_that_was_read_and_is_not_closed_well_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints what is raised where nobody can be told."""
    (tmp_path / "a").write_bytes(b"a")
    file, real, said = OpenFile(tmp_path / "a"), os.close, []

    def fail(fd: int) -> None:
        real(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "close", fail)
    monkeypatch.setattr("sys.unraisablehook", said.append)
    del file
    assert not said
    assert not descriptors(tmp_path)


def test_a_file_stays_open_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's next file may take its place among those open, and its number."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1" * 8)
    other.write_bytes(b"2" * 8)
    monkeypatch.setattr(limits, "files_at_once", lambda: 1)
    read = platform.pread_into
    with Mappings() as mappings:

        def while_another_opens_a_file(fd: int, room: memoryview, offset: int) -> int:
            mappings.opened(other)
            return read(fd, room, offset)

        monkeypatch.setattr(platform, "pread_into", while_another_opens_a_file)
        room = bytearray(8)
        mappings.read_into(memoryview(room), one, 0)

    assert room == b"1" * 8
