"""Laws of the store: a crash anywhere leaves the old file or the new one; what is ours is known again by its bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab import Lab

from mergebuild.store import DiskStore, comparing
from mergebuild.store import publisher as publisher_module
from mergebuild.store.ledger import DiskLedger
from mergebuild.store.publisher import DiskPublisher
from mergebuild.store.state import State

MIX = '[targets.mix]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}\noutput = "out/mix.safetensors"\n'
OLD, NEW = [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]


def mix(lab: Lab, alpha: float, head: str = "") -> None:
    """Write a mergefile of one mix of [1, 2, 3] and [5, 6, 7]."""
    lab.write(head + "#sources\n" + MIX.format(alpha))


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """A project whose mix was built with alpha 0.25, and that now asks for 0.75."""
    lab.model("x", w=[1.0, 2.0, 3.0], v=[0.0, 0.0])
    lab.model("y", w=[5.0, 6.0, 7.0], v=[1.0, 1.0])
    lab.settle()
    mix(lab, 0.25)
    lab.build()
    mix(lab, 0.75)
    return lab


class CrashError(BaseException):
    """The process is gone."""


STEPS: list[tuple[object, str]] = [
    (os, "replace"),
    (os, "link"),
    (State, "add_artifact"),
    (State, "move_artifact"),
    (DiskLedger, "put_record"),
    (DiskPublisher, "trim_history"),
]


@contextmanager
def crash_at(number: int, *, after: bool) -> Iterator[list[str]]:
    """Raise before or after the so-many-th step that publishing takes; gives the steps that were reached."""
    reached: list[str] = []

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            reached.append(name)
            if len(reached) == number and not after:
                raise CrashError
            found = real(*args, **kwargs)
            if len(reached) == number and after:
                raise CrashError
            return found

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, wrapped(name, getattr(owner, name)))
        yield reached


@pytest.mark.parametrize("is_portable", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_leaves_the_old_file_or_the_new_one(
    pair: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, is_portable: bool
) -> None:
    """At every step of publishing; the next build finishes, and the way back is there too.

    Where files can't have two names, the old one is in the history for a moment before the new one is in its place.
    """
    if is_portable:
        monkeypatch.setenv("MERGEBUILD_PORTABLE", "1")
    number, crashed = 0, True
    while crashed:
        number += 1
        lab = Lab(tmp_path / f"copy-{number}")
        lab.sources = pair.sources
        shutil.copytree(pair.root, lab.root)
        with crash_at(number, after=after) as reached:
            try:
                lab.build()
                crashed = False
            except CrashError:
                pass
        at = reached[-1] if crashed else "the end"
        if not is_portable or (lab / "out/mix.safetensors").exists():
            assert lab.values("out/mix.safetensors") in (OLD, NEW), at
        assert lab.states()["mix"] in ("up-to-date", "stale", "missing"), at
        assert lab.build().ok, at
        assert lab.values("out/mix.safetensors") == NEW, at
        assert [path.name for path in (lab / "out").iterdir()] == ["mix.safetensors"], at
        assert lab.verdicts() == {"mix": "up-to-date"}, at
        assert lab.project.verify().problems == (), at
        with lab.project._sessions.open(lambda _event: None) as session:
            intents = session.store.state.artifacts(kind="intended")
            assert {row.path.exists() for row in intents} <= {False}, at
            assert all(row.path != lab / "out/mix.safetensors" for row in intents), at
        mix(lab, 0.25)
        assert lab.build().ok, at
        assert lab.values("out/mix.safetensors") == OLD, at
        assert lab.project.verify().problems == (), at
    assert number > 6


@pytest.mark.parametrize("cache", [True, False])
def test_what_a_killed_build_left_of_a_former_folder_goes_where_it_was_to_go(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, cache: bool
) -> None:
    """Into the history, or nowhere where the target has only its output."""
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    text = MIX.replace("mix.safetensors", "mix/") + f"cache = {str(cache).lower()}\n"
    lab.write("#sources\n" + text.format(0.25))
    lab.build()
    lab.write("#sources\n" + text.format(0.75))
    with monkeypatch.context() as patch:
        patch.setattr(DiskPublisher, "_finish_exchange", _crash)
        with pytest.raises(CrashError):
            lab.build()
    assert lab.values("out/mix/model.safetensors") == [4.0]
    assert lab.verdicts() == {"mix": "up-to-date"}
    assert [path.name for path in (lab / "out").iterdir()] == ["mix"]
    assert bool(list((lab / ".mergebuild").glob("history/*"))) is cache
    assert lab.project.verify().problems == ()


def _crash(*_args: object, **_words: object) -> None:
    raise CrashError


def test_what_is_superseded_comes_back_without_arithmetic(pair: Lab) -> None:
    before = (pair / "out/mix.safetensors").read_bytes()
    assert pair.verdicts() == {"mix": "built"}
    mix(pair, 0.25)
    (found,) = pair.build().targets
    assert (str(found.verdict), found.tensors_computed, found.bytes_written) == ("restored", 0, 0)
    assert (pair / "out/mix.safetensors").read_bytes() == before


def test_without_a_history_nothing_is_kept(lab: Lab) -> None:
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    for alpha in (0.25, 0.75, 0.25):
        mix(lab, alpha, '[project]\nhistory = "0"\n')
        assert lab.verdicts() == {"mix": "built"}
    history = lab / ".mergebuild/history"
    assert not history.exists() or not list(history.iterdir())


def test_the_history_keeps_the_newest_that_fit(lab: Lab) -> None:
    """One artifact takes a bit over 4 KiB; two fit into 9 kB."""
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    for alpha in (0.1, 0.2, 0.3, 0.4):
        mix(lab, alpha, '[project]\nhistory = "9kB"\n')
        lab.build()
    assert len(list((lab / ".mergebuild/history").iterdir())) == 2
    for alpha, verdict in ((0.3, "restored"), (0.1, "built")):
        mix(lab, alpha, '[project]\nhistory = "9kB"\n')
        assert lab.verdicts() == {"mix": verdict}


# Whether a file is ours


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the store reads again to know a file."""
    found: list[int] = []
    real = comparing.file_checksum

    def counted(fd: int, begin: int, end: int) -> bytes:
        found.append(end - begin)
        return real(fd, begin, end)

    monkeypatch.setattr(comparing, "file_checksum", counted)
    return found


def test_a_null_build_reads_no_output(pair: Lab, hashed: list[int]) -> None:
    pair.build()
    hashed.clear()
    assert pair.verdicts() == {"mix": "up-to-date"}
    assert hashed == []


def test_the_way_back_reads_no_output(pair: Lab, hashed: list[int]) -> None:
    """What went into the history is known there by its stat data, though losing a name changed its ctime."""
    pair.build()
    hashed.clear()
    mix(pair, 0.25)
    assert pair.verdicts() == {"mix": "restored"}
    assert hashed == []


def test_a_new_ctime_alone_is_accepted_once_the_bytes_are_seen(pair: Lab, hashed: list[int]) -> None:
    """A changed permission, a new name: read once more, and then known again, if that was not a moment ago."""
    pair.build()
    pair.settle()
    (pair / "out/mix.safetensors").chmod(0o600)
    pair.settle()
    hashed.clear()
    assert pair.verdicts() == {"mix": "up-to-date"}
    assert hashed
    hashed.clear()
    assert pair.verdicts() == {"mix": "up-to-date"}
    assert hashed == []


def test_after_a_restart_bytes_are_seen_first(pair: Lab, hashed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk had not taken when the machine went down would show in no stat data."""
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "one")
    pair.build()
    hashed.clear()
    assert pair.states() == {"mix": "up-to-date"}
    assert hashed == []
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "two")
    assert pair.states() == {"mix": "up-to-date"}
    assert hashed


def test_a_restart_that_lost_bytes_is_seen(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "one")
    pair.build()
    path = pair / "out/mix.safetensors"
    pair.edit_in_place("out/mix.safetensors")
    state = pair.project
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "two")
    assert {each.target: str(each.state) for each in state.status().targets} == {"mix": "changed-by-hand"}
    assert path.exists()


def test_an_edit_that_puts_size_and_mtime_back_is_seen(pair: Lab) -> None:
    pair.build()
    pair.edit_in_place("out/mix.safetensors")
    assert pair.states() == {"mix": "changed-by-hand"}
    result = pair.build()
    assert result.exit_code == 1
    assert result.targets[0].error
    assert result.targets[0].error.code == "changed-by-hand"
    assert pair.build(force=True).ok
    assert pair.values("out/mix.safetensors") == NEW
    assert (pair / "out/mix.by-hand-1.safetensors").exists()


def test_a_copy_of_ours_is_ours(pair: Lab) -> None:
    """Deleted and copied back by a user: known by its bytes."""
    pair.build()
    data = (pair / "out/mix.safetensors").read_bytes()
    (pair / "out/mix.safetensors").unlink()
    assert pair.states() == {"mix": "missing"}
    (pair / "out/mix.safetensors").write_bytes(data)
    assert pair.verdicts() == {"mix": "up-to-date"}


# The database


@pytest.mark.parametrize("damage", [b"garbage" * 5000, b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_database_that_cannot_be_read_is_begun_afresh(pair: Lab, damage: bytes) -> None:
    """What it knew costs work, never data: the old output is not taken for a stranger's once it is the result."""
    pair.build()
    before = (pair / "out/mix.safetensors").read_bytes()
    for suffix in ("-wal", "-shm"):
        (pair / f".mergebuild/state.sqlite3{suffix}").unlink(missing_ok=True)
    (pair / ".mergebuild/state.sqlite3").write_bytes(damage)
    assert pair.build().ok
    assert (pair / "out/mix.safetensors").read_bytes() == before
    assert pair.verdicts() == {"mix": "up-to-date"}


def test_a_database_with_a_sound_beginning_is_begun_afresh_too(pair: Lab) -> None:
    pair.build()
    path = pair / ".mergebuild/state.sqlite3"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    assert pair.build().ok
    assert pair.verdicts() == {"mix": "up-to-date"}


def test_a_row_number_is_never_used_twice(tmp_path: Path) -> None:
    """What a session remembers by row number must never meet another file."""
    (tmp_path / "store").mkdir()
    store = DiskStore(tmp_path / "store", project=".")
    numbers = []
    for name in "abc":
        path = tmp_path / name
        path.write_bytes(b"12345678")
        numbers.append(store.state.add_file(path, "output", b"d" * 16, b"h" * 16, []))
        store.state.forget_artifact(numbers[-1])
    store.close()
    assert len(set(numbers)) == 3


def test_a_project_can_be_moved_as_a_whole(pair: Lab, tmp_path: Path) -> None:
    pair.build()
    moved = tmp_path / "elsewhere"
    pair.root.rename(moved)
    lab = Lab(moved)
    assert lab.verdicts() == {"mix": "up-to-date"}


# Second names


@pytest.mark.parametrize("link", ["hard", "copy"])
def test_a_deleted_output_comes_back_where_the_project_keeps_another(lab: Lab, link: str) -> None:
    lab.model("x", w=[1.0, 2.0, 3.0])
    lab.model("y", w=[5.0, 6.0, 7.0])
    mix(lab, 0.25, f'[project]\nlink = "{link}"\n')
    lab.build()
    before = (lab / "out/mix.safetensors").read_bytes()
    (kept,) = (lab / ".mergebuild/kept").iterdir()
    assert (kept.stat().st_ino == (lab / "out/mix.safetensors").stat().st_ino) == (link == "hard")
    assert kept.suffix not in (".safetensors", ".ckpt")
    assert lab.verdicts() == {"mix": "up-to-date"}
    (lab / "out/mix.safetensors").unlink()
    (found,) = lab.build().targets
    assert (str(found.verdict), found.tensors_computed) == ("restored", 0)
    assert (lab / "out/mix.safetensors").read_bytes() == before
    assert lab.verdicts() == {"mix": "up-to-date"}


def test_a_store_ignores_itself_in_git_and_looking_makes_none(lab: Lab) -> None:
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    mix(lab, 0.25)
    project = lab.project
    project.plan()
    project.status()
    project.lineage("mix")
    assert not (lab / ".mergebuild").exists()
    lab.build()
    assert (lab / ".mergebuild/.gitignore").read_text() == "*\n"


def test_whether_files_can_be_cloned_into_the_store_is_found_out_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each of ten thousand outputs; and nothing is left of the attempt."""
    asked: list[Path] = []

    def clone(_source: Path, copy: Path) -> bool:
        asked.append(copy)
        copy.touch()
        return False

    monkeypatch.setattr(publisher_module.platform, "clone_file", clone)
    lab.model("x", w=[1.0])
    lab.write("".join(MIX.replace("mix", name).replace('b = "y"', 'b = "x"').format(1) for name in ("m1", "m2", "m3")))
    lab.build("m1")
    assert len(asked) == 1
    assert list((lab / ".mergebuild/kept").iterdir()) == []
