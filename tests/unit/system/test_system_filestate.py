"""Laws of what says that a file is still what it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mergebuild.system import filestate
from mergebuild.system.filestate import Identity, Moment, epoch


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
    prefix = "/sys/dev/block/2047:1"
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "one")
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *more, **words: real(str(path).replace(prefix, str(disk / "sda1")), *more, **words),
    )
    assert epoch(os.makedev(2047, 1)) == "one 17"


SECOND = 10**9
MINUTE, YEAR = 60 * SECOND, 365 * 24 * 3600 * SECOND


def at(wall: int, steady: int = 0) -> Moment:
    """Return a moment; by default one of a clock that nobody set."""
    return Moment(wall, steady or wall)


@pytest.mark.parametrize(
    ("mtime", "ctime", "now", "racy"),
    [
        (1_000_000_001, 1_000_000_001, 1_000_000_001, True),
        (1_000_000_001, 1_000_000_001, 1_019_000_000, True),
        (1_000_000_001, 1_000_000_001, 1_020_000_001, False),
        (1, 1_000_000_001, 1_019_000_000, True),
        (1_000_000_001, 1, 1_019_000_000, True),
        (2_000_000_000, 2_000_000_000, 3_900_000_000, True),
        (2_000_000_000, 2_000_000_000, 4_000_000_000, False),
        (
            2_000_000_000,
            1,
            3_900_000_000,
            False,
        ),  # a clock of the system that ticks finely, and a time put back by hand
        (1_010_000_001, 1, 1_000_000_000, True),
        (1_020_000_001, 1, 1_000_000_000, False),
        (1_000_000_001 + YEAR, 1_000_000_001 + YEAR, 1_000_000_001, False),
    ],
)
def test_a_file_is_racily_clean_within_the_clocks_grain(mtime: int, ctime: int, now: int, racy: bool) -> None:
    """20 ms; 2 s where times are whole; before the clock or behind it, however far others are away."""
    assert filestate.is_racy(Identity(1, 1, 1, mtime, ctime), at(now), at(now)) == racy


@pytest.mark.parametrize(("ctime", "racy"), [(990, True), (1_000, True), (4_000, True), (7_010, True), (900, False)])
def test_what_is_dated_between_two_moments_may_have_changed_in_between(ctime: int, racy: bool) -> None:
    state = Identity(1, 1, 1, 1, ctime * 1_000_000 + 1)
    assert filestate.is_racy(state, at(1_000_000_000), at(7_000_000_000)) == racy


@pytest.mark.parametrize(("set_by", "racy"), [(0, False), (SECOND // 100, False), (-MINUTE, True), (YEAR, True)])
def test_no_time_says_anything_when_the_clock_was_set_in_between(set_by: int, racy: bool) -> None:
    since, until = Moment(YEAR, 1), Moment(YEAR + SECOND + set_by, SECOND + 1)
    assert filestate.is_racy(Identity(1, 1, 1, 5, 5), since, until) == racy


@pytest.mark.parametrize(("age", "rested"), [(0, False), (4, False), (5, True), (-5, False), (YEAR // MINUTE, True)])
def test_a_file_has_rested_when_it_did_not_change_for_five_minutes(age: int, rested: bool) -> None:
    state = Identity(1, 1, 1, YEAR - age * MINUTE, 1)
    assert filestate.is_rested(state, at(YEAR)) == rested
    assert filestate.is_rested(state._replace(mtime_ns=1, ctime_ns=state.mtime_ns), at(YEAR)) == rested


def test_a_moment_is_told_by_two_clocks() -> None:
    first, second = Moment.now(), Moment.now()
    assert second.steady >= first.steady
    assert abs((second.wall - first.wall) - (second.steady - first.steady)) < SECOND


def failing_disk(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Have the system fail to look at a path."""
    for name in ("stat", "lstat"):
        real = getattr(os, name)

        def fail(asked: Path | str, *, real: Callable[..., os.stat_result] = real, **options: object) -> os.stat_result:
            if os.fspath(asked) == str(path):
                raise OSError(number, os.strerror(number), str(path))
            return real(asked, **options)

        monkeypatch.setattr(os, name, fail)


def test_what_is_nowhere_is_neither_file_nor_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    for path in ("none", "file/none", "loop", "dangling", "x" * 5000, "x" * 300, "\0"):
        assert not filestate.is_file(tmp_path / path)
        assert not filestate.is_folder(tmp_path / path)
    (tmp_path / "link").symlink_to("file")
    assert filestate.is_file(tmp_path / "link")
    assert filestate.is_folder(tmp_path)
    assert not filestate.is_folder(tmp_path / "file")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM])
def test_what_cannot_be_looked_at_is_not_called_absent(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    failing_disk(monkeypatch, tmp_path / "file", number)
    assert not filestate.is_gone(tmp_path / "file")
    for ask in (filestate.is_file, filestate.is_folder):
        with pytest.raises(OSError, match=os.strerror(number)):
            ask(tmp_path / "file")
