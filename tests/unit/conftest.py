"""What the tests of the core share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from disks import Disk, small_disk
from lab import Lab


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
