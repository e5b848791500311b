"""Laws of the store's locks: where the kernel has none, how long SQLite's own is waited for, what they keep in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from lab import Lab

from mergebuild.cli.failures import explained
from mergebuild.errors import LockTimeoutError
from mergebuild.project.project import Project
from mergebuild.store import REBUILDS, locked
from mergebuild.system import locks

MIX = """
[targets.mix]
method = "weighted_sum"
a = "x"
b = "y"
alpha = {}
output = "mix.safetensors"
"""


@pytest.fixture
def mix(lab: Lab) -> Lab:
    lab.model("x", w=[1.0, 2.0])
    lab.model("y", w=[3.0, 5.0])
    lab.write(MIX.format(0.5))
    return lab


# File systems without locks


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel say that it locks no files here; and nobody wait for that to change."""

    def flock(_fd: object, _operation: int) -> None:
        raise OSError(getattr(errno, request.param), "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.mark.usefixtures("no_flock")
def test_a_file_system_without_locks_is_built_on_and_nothing_is_said(
    mix: Lab, recwarn: pytest.WarningsRecorder
) -> None:
    """By way of a file that is there while the lock is held; a project can be trusted there, too."""
    assert mix.verdicts() == {"mix": "built"}
    mix.write(MIX.format(0.25))
    assert mix.verdicts() == {"mix": "built"}
    assert mix.project.verify(rebuild=True).problems == ()
    mix.project.trust()
    mix.project.clean()
    assert not list((mix / ".mergebuild").glob("*.held"))
    assert not recwarn


@pytest.mark.usefixtures("no_flock")
def test_that_file_keeps_others_out(tmp_path: Path) -> None:
    one, two = (locked(tmp_path, timeout=0, what=each) for each in ("one", "two"))
    with one, pytest.raises(LockTimeoutError), two:
        pass
    with locked(tmp_path, timeout=0, what="three"):
        pass


def test_a_kernel_that_is_short_of_locks_for_a_moment_has_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two processes could hold the lock, each in another way."""
    flock, left = fcntl.flock, [2]

    def busy(fd: int, operation: int) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOLCK, "no locks available")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", busy)
    with locked(tmp_path, timeout=0, what="one"):
        assert not (tmp_path / "lock.held").exists()


# SQLite's own lock


@pytest.mark.parametrize(
    "verb",
    [
        lambda project: project.build(lock_timeout=0.1),
        lambda project: project.clean(lock_timeout=0.1),
    ],
    ids=["build", "clean"],
)
def test_the_time_for_locks_bounds_the_wait_for_the_records(mix: Lab, verb: Callable[[Project], object]) -> None:
    """Exit 75 in about that time, whoever holds them: a backup, an editor of databases."""
    mix.build()
    mix.write(MIX.format(0.25))
    with contextlib.closing(sqlite3.connect(mix / ".mergebuild/state.sqlite3", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError) as caught:
            verb(mix.project)
        assert time.monotonic() - began < 20  # the default is a minute
    code, (problem,) = explained(caught.value)
    assert (code, problem.code) == (75, "store-locked")
    assert "state.sqlite3`) are in use by another process" in problem.message


# What a killed rebuild left


def left_over(lab: Lab) -> Path:
    """Make the folder that a killed `verify --rebuild` leaves."""
    folder = lab / ".mergebuild/.verify-k1ll3d_8"
    (folder / "store/kept").mkdir(parents=True)
    (folder / "mix.safetensors").write_bytes(bytes(1000))
    return folder


VERBS = {
    "build": lambda project: project.build(),
    "gc": lambda project: project.gc(),
    "verify": lambda project: project.verify(),
    "clean": lambda project: project.clean(["mix"]),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_whoever_comes_next_removes_the_scratch_folder_of_a_killed_rebuild(
    mix: Lab, verb: Callable[[Project], object]
) -> None:
    mix.build()
    left = left_over(mix)
    mix.write(MIX.format(0.25))
    verb(mix.project)
    assert not left.exists()


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_nobody_removes_the_scratch_folder_of_one_that_runs(mix: Lab, verb: Callable[[Project], object]) -> None:
    mix.build()
    left = left_over(mix)
    mix.write(MIX.format(0.25))
    with locked(mix / ".mergebuild", timeout=0, what="verify --rebuild", name=REBUILDS):
        verb(mix.project)
    assert (left / "mix.safetensors").exists()
