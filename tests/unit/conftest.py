"""What the tests of the core share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from disks import Disk, small_disk
from lab import Lab

HERE = Path(__file__).parent


BUILDING = frozenset(("disk", "lab"))
"""The fixtures of tests that build projects."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark `fast` what neither builds a project on disk nor starts a process, and is not slow."""
    for item in items:
        if (
            HERE in item.path.parents
            and not item.get_closest_marker("processes")
            and not item.get_closest_marker("slow")
        ):
            assert isinstance(item, pytest.Function)
            if not BUILDING & set(item.fixturenames):
                item.add_marker("fast")


@pytest.fixture
def lab(tmp_path: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Lab:
    """An empty project, apart from what the user's machine says."""
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)
    root = tmp_path / "project"
    root.mkdir()
    return Lab(root)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small file system that shares blocks, where this process may mount one."""
    with small_disk(tmp_path) as found:
        yield found
