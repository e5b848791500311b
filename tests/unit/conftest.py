"""What the tests of the core share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk, small_disk
from lab import Lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """An empty project, apart from what the user's machine says."""
    for name in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS", "MERGEBUILD_BOOT_ID", "MERGEBUILD_PORTABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    root = tmp_path / "project"
    root.mkdir()
    return Lab(root)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small file system that shares blocks, where this process may mount one."""
    with small_disk(tmp_path) as found:
        yield found
