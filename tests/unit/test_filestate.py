"""Laws of what says that a file is still what it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mergebuild import filestate
from mergebuild.filestate import Identity, epoch


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


def test_an_epoch_is_the_boot_and_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without a disk, or of an unknown one, has the boot alone."""
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "one")
    device = tmp_path.stat().st_dev
    assert epoch(device).partition(" ")[0] == "one"
    assert epoch(os.makedev(0, 4_000)) == "one"
    assert epoch(device) == epoch(device)
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "two")
    assert epoch(device).startswith("two")
    monkeypatch.setenv("MERGEBUILD_PORTABLE", "1")
    assert epoch(device) == "two"


def test_a_partition_has_the_number_of_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives a disk one, its partitions none."""
    disk = tmp_path / "sda"
    (disk / "sda1").mkdir(parents=True)
    (disk / "diskseq").write_text("17\n")
    real = open
    prefix = f"/sys/dev/block/{os.major(0x801)}:{os.minor(0x801)}"
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "one")
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *more, **words: real(str(path).replace(prefix, str(disk / "sda1")), *more, **words),
    )
    assert epoch(0x801) == "one 17"
