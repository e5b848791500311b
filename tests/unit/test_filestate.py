"""Laws of what says that a file is still what it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mergebuild import filestate
from mergebuild.filestate import Identity


def test_boot_id_is_the_environments_before_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "given")
    assert filestate.boot_id() == "given"


@pytest.mark.parametrize("hidden", ["", "1"])
def test_boot_id_is_constant_and_empty_where_unknown(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_PORTABLE", hidden)
    monkeypatch.delenv("MERGEBUILD_BOOT_ID", raising=False)
    found = filestate.boot_id()
    assert found == filestate.boot_id()
    assert bool(found) == (not hidden and Path("/proc/sys/kernel/random/boot_id").exists())


def test_identity_tells_a_touched_and_a_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1")
    first = filestate.identity(path)
    assert first == filestate.identity(path) == filestate.identity_of(path.stat())
    assert first == Identity(first.device, path.stat().st_ino, 1, path.stat().st_mtime_ns, path.stat().st_ctime_ns)
    os.utime(path, ns=(0, 10**9))
    touched = filestate.identity(path)
    assert touched != first
    (tmp_path / "g").write_bytes(b"1")
    os.utime(tmp_path / "g", ns=(0, 10**9))
    (tmp_path / "g").replace(path)
    assert filestate.identity(path) != touched


def test_identity_looks_through_links(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "f")
    assert filestate.identity(tmp_path / "link") == filestate.identity(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        filestate.identity(tmp_path / "none")


@pytest.mark.parametrize(("value", "hidden"), [("", False), ("0", False), ("1", True)])
def test_the_switch_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch, value: str, hidden: bool) -> None:
    monkeypatch.setenv("MERGEBUILD_PORTABLE", value)
    assert filestate.is_hidden() is hidden
