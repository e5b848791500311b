"""Laws of reading ahead: what is not in memory is asked for in order, so far ahead and no farther; nothing hangs."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

import pytest

from mergebuild.engine.mappings import Mappings
from mergebuild.engine.prefetch import Prefetch
from mergebuild.engine.work import Leaf, Location
from mergebuild.system import platform

PIECE = 10


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the disk is asked for, as (offset, size)."""
    found: list[tuple[int, int]] = []

    def advise(_mapping: mmap.mmap, what: str, offset: int, size: int) -> None:
        assert what == "willneed"
        found.append((offset, size))

    monkeypatch.setattr(platform, "advise", advise)
    monkeypatch.setattr(platform, "is_cached", lambda _fd, _offset: False)
    monkeypatch.setattr("mergebuild.engine.prefetch._PIECE", PIECE)
    return found


def leaf(path: Path, offset: int, size: int) -> Leaf:
    return Leaf(b"", "uint8", size, Location(path, offset, size))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.write_bytes(bytes(1000))
    return path


def test_leaves_are_asked_for_in_pieces_in_their_order(source: Path, asked: list[tuple[int, int]]) -> None:
    """Whatever their order in the file."""
    with Mappings() as mappings, Prefetch([leaf(source, 500, 25), leaf(source, 3, 10)], mappings) as prefetch:
        prefetch._thread.join()
    assert asked == [(500, 10), (510, 10), (520, 5), (3, 10)]


def test_no_more_is_asked_for_than_is_needed_soon(
    source: Path, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The farther the workers, the farther the reading."""
    monkeypatch.setattr("mergebuild.engine.prefetch.AHEAD", 20)
    monkeypatch.setattr("mergebuild.engine.prefetch._STRIDE", 10)
    arrived = threading.Semaphore(0)
    monkeypatch.setattr(platform, "is_cached", lambda _fd, _offset: bool(arrived.release()))
    with Mappings() as mappings, Prefetch([leaf(source, 0, 50)], mappings) as prefetch:
        for _ in range(2):
            assert arrived.acquire(timeout=60)
        assert not arrived.acquire(timeout=0.05)
        prefetch.began(10)
        assert arrived.acquire(timeout=60)
        assert not arrived.acquire(timeout=0.05)
    assert asked == [(0, 10), (10, 10), (20, 10)]


def test_what_is_in_memory_is_not_asked_for(
    source: Path, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at the end of each piece tells."""
    monkeypatch.setattr(platform, "is_cached", lambda _fd, offset: offset < 20)
    with Mappings() as mappings, Prefetch([leaf(source, 0, 40)], mappings) as prefetch:
        prefetch._thread.join()
    assert asked == [(20, 10), (30, 10)]


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_file_that_cannot_be_read_is_left_to_who_needs_it(
    source: Path, asked: list[tuple[int, int]], name: str
) -> None:
    """Reading ahead raises nothing."""
    (source.parent / "empty").touch()
    with Mappings() as mappings, Prefetch([leaf(source.parent / name, 0, 5)], mappings) as prefetch:
        prefetch._thread.join()
    assert asked == []
