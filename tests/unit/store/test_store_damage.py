"""Laws of damage: what nobody changed and is not what was written is found, put aside and made again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.errors import LockTimeoutError
from mergebuild.events import Notice
from mergebuild.store import ArtifactRow, DiskStore, Presence, locked
from mergebuild.store.shelf import DiskShelf
from mergebuild.store.values import DOUBTED
from mergebuild.system import filestate, publishing
from mergebuild.system.platform import PAGE

MIX = '[targets.{0}]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {1}\n'
OUTPUT = 'output = "out/mix.safetensors"\n'
FILE = "out/mix.safetensors"
BIG = [float(number) for number in range(4096)]


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """A project whose mix of two pages of tensors was built, in the boot `one`."""
    lab.model("x", w=BIG, v=[1.0, 2.0])
    lab.model("y", w=BIG[::-1], v=[3.0, 4.0])
    lab.settle()
    lab.write(MIX.format("mix", 0.25) + OUTPUT)
    lab.build()
    return lab


@pytest.fixture(autouse=True)
def _boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "one")


def rot(lab: Lab, path: Path, offset: int = -1) -> None:
    """Flip a bit of an artifact in a way that its stat data don't show: the records say what they say after it."""
    lab.edit_in_place(path.relative_to(lab.root).as_posix(), offset)
    store = DiskStore(lab / ".mergebuild", project="../mergefile.toml")
    for row in store.state.artifacts():
        if row.path.exists() and row.path.samefile(path):
            store.state.move_artifact(row.id, row.path, row.kind, filestate.identity(path), row.epoch)
    store.close()


def lose(path: Path, content: bytes) -> None:
    """Have a file be what a crash left of it: other bytes in the same file, all dates as they were or older.

    The dates of a file can't be put back, so the records are dated forward instead.
    """
    with path.open("rb+") as file:
        file.truncate(0)
        file.write(content)


def date_forward(lab: Lab, path: Path) -> None:
    store = DiskStore(lab / ".mergebuild", project="../mergefile.toml")
    (row,) = store.state.artifacts(path=path)
    assert row.identity is not None
    later = filestate.identity(path)._replace(size=row.identity.size)
    later = later._replace(mtime_ns=later.mtime_ns + 1, ctime_ns=later.ctime_ns + 1)
    store.state.move_artifact(row.id, path, row.kind, later, row.epoch)
    store.close()


def notices(lab: Lab) -> list[str]:
    found = [event.text for event in lab.events if isinstance(event, Notice)]
    lab.events.clear()
    return found


def quarantined(lab: Lab) -> list[Path]:
    folder = lab / ".mergebuild/quarantine"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_what_verify_found_to_be_damaged_is_made_again_by_the_next_build(pair: Lab) -> None:
    before = (pair / FILE).read_bytes()
    rot(pair, pair / FILE)
    damaged = (pair / FILE).read_bytes()
    assert pair.verdicts() == {"mix": "up-to-date"}  # no stat data show it
    (problem,) = pair.project.verify().problems
    assert (problem.code, problem.rows) == ("corrupt", ("v",))
    assert pair.states() == {"mix": "stale"}
    assert pair.verdicts() == {"mix": "built"}
    assert (pair / FILE).read_bytes() == before
    (aside,) = quarantined(pair)
    assert aside.read_bytes() == damaged
    (notice,) = notices(pair)
    assert notice.startswith("out/mix.safetensors was damaged, and is made again; the damaged file is ")
    assert notice.endswith(str(aside))
    assert pair.project.verify().problems == ()
    pair.project.gc()
    assert quarantined(pair) == []


def test_nothing_is_taken_from_a_damaged_file(pair: Lab) -> None:
    """A damaged file lends nothing: whatever hurt one tensor may have hurt others since."""
    rot(pair, pair / FILE)
    pair.project.verify()
    (found,) = pair.build().targets
    assert (found.tensors_computed, found.tensors_reused) == (2, 0)


def test_after_another_boot_the_bytes_are_read_and_not_the_stat_data(
    pair: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (pair / FILE).read_bytes()
    rot(pair, pair / FILE)
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "two")
    assert pair.states() == {"mix": "stale"}
    assert pair.verdicts() == {"mix": "built"}
    assert (pair / FILE).read_bytes() == before


@pytest.mark.parametrize("link", ["hard", "copy"])
def test_a_copy_of_a_damaged_file_is_looked_at_before_it_is_believed(
    pair: Lab, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    """Copies may share their bytes on the disk, and a hard link is the file itself."""
    before = (pair / FILE).read_bytes()
    pair.write(f'[project]\nlink = "{link}"\n#sources\n' + MIX.format("mix", 0.25) + OUTPUT)
    pair.build()
    (kept,) = (pair / ".mergebuild/kept").iterdir()
    rot(pair, pair / FILE)
    assert kept.samefile(pair / FILE) == (link == "hard")
    pair.project.verify(["mix"])
    assert pair.verdicts() == {"mix": "built" if link == "hard" else "restored"}
    assert (pair / FILE).read_bytes() == before
    assert (pair / FILE).stat().st_nlink == (2 if link == "hard" else 1)
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "two")
    assert pair.project.verify().problems == ()


def test_what_the_store_keeps_and_is_damaged_goes_into_the_quarantine_at_once(pair: Lab) -> None:
    pair.write(MIX.format("far", 0.5) + MIX.format("mix", 0.75) + OUTPUT)
    pair.build("far", "mix")
    (kept,) = (pair / ".mergebuild/kept").iterdir()
    (old,) = (pair / ".mergebuild/history").iterdir()
    for path in (kept, old):
        rot(pair, path, 5000)
    problems = pair.project.verify().problems
    assert {problem.rows for problem in problems} == {("w",)}
    assert len(problems) == len(quarantined(pair)) == 2
    assert not kept.exists()
    assert not old.exists()
    assert pair.project.verify().problems == ()
    assert pair.verdicts("far") == {"far": "built"}


@pytest.mark.parametrize("state", ["known", "lost"])
@pytest.mark.parametrize("what", ["zeros at the end", "zeros at the beginning", "nothing", "half"])
def test_what_a_crash_kept_from_the_disk_is_made_again(
    pair: Lab, monkeypatch: pytest.MonkeyPatch, what: str, state: str
) -> None:
    """Whether the records reached the disk before the crash or not, nobody has to say `--force`."""
    before = (pair / FILE).read_bytes()
    left = {
        "zeros at the end": before[: 3 * PAGE] + bytes(len(before) - 3 * PAGE),
        "zeros at the beginning": bytes(2 * PAGE) + before[2 * PAGE :],
        "nothing": b"",
        "half": before[: len(before) // 2],
    }[what]
    lose(pair / FILE, left)
    if state == "known":
        date_forward(pair, pair / FILE)
    else:
        shutil.rmtree(pair / ".mergebuild")
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "two")
    assert pair.states() == {"mix": "stale" if state == "known" else "changed-by-hand"}
    assert pair.verdicts() == {"mix": "built"}
    assert (pair / FILE).read_bytes() == before
    (notice,) = notices(pair)
    assert ("was damaged" in notice) if state == "known" else ("did not reach the disk in full" in notice)


def test_what_a_user_put_there_is_no_crash_s_work(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after another boot, not with zeros in it, not if it is empty: the file was seen whole in this boot."""
    before = (pair / FILE).read_bytes()
    for content in (b"", before[:-PAGE] + bytes(PAGE), before[:-1] + b"?"):
        lose(pair / FILE, content)
        (found,) = pair.build().targets
        assert found.error is not None
        assert found.error.code == "changed-by-hand"
        assert (pair / FILE).read_bytes() == content
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "two")
    assert pair.states() == {"mix": "changed-by-hand"}
    assert pair.verdicts() == {"mix": "failed"}


def test_verify_beside_a_build_says_nothing_of_files_that_were_replaced(
    pair: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.write(MIX.format("mix", 0.75) + OUTPUT)
    real = DiskShelf.damage

    def damage(shelf: DiskShelf, row: object) -> list[str]:
        monkeypatch.setattr(DiskShelf, "damage", real)
        assert pair.verdicts() == {"mix": "built"}  # by another process, between the list and the look
        return real(shelf, row)  # type: ignore[arg-type]

    monkeypatch.setattr(DiskShelf, "damage", damage)
    assert pair.project.verify().problems == ()
    assert pair.verdicts() == {"mix": "up-to-date"}


def test_an_edit_while_a_new_file_is_published_is_not_taken_for_the_old_one(
    pair: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file is on its way into the history then, and its row says that it has the old bytes."""
    before = (pair / FILE).read_bytes()
    real = publishing.place

    def place(temporary: Path, path: Path, **words: bool) -> None:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            file.write(b"!")
        real(temporary, path, **words)

    pair.write(MIX.format("mix", 0.75) + OUTPUT)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "place", place)
        pair.build()
    pair.write(MIX.format("mix", 0.25) + OUTPUT)
    assert pair.verdicts() == {"mix": "built"}
    assert (pair / FILE).read_bytes() == before


def test_an_edit_while_a_file_is_known_again_by_its_bytes_is_seen(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.write('[project]\nlink = "copy"\n#sources\n' + MIX.format("mix", 0.25) + OUTPUT)
    pair.build()
    store = DiskStore(pair / ".mergebuild", project="../mergefile.toml")
    for row in store.state.artifacts(path=pair / FILE):
        store.state.forget_artifact(row.id)  # the copy in the store is left, and says what has these bytes
    store.close()
    real = DiskShelf.has_bytes

    def has_bytes(shelf: DiskShelf, path: Path, row: ArtifactRow) -> bool:
        found = real(shelf, path, row)
        if found:
            pair.edit_in_place(FILE)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(DiskShelf, "has_bytes", has_bytes)
        pair.project.status()
    assert pair.states() == {"mix": "changed-by-hand"}
    assert pair.verdicts() == {"mix": "failed"}


def test_who_only_looks_takes_no_row_from_a_build_that_was_quicker(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DiskShelf.has_bytes

    def has_bytes(shelf: DiskShelf, path: Path, row: ArtifactRow) -> bool:
        found = real(shelf, path, row)
        monkeypatch.setattr(DiskShelf, "has_bytes", real)
        pair.write(MIX.format("mix", 0.75) + OUTPUT)
        assert pair.verdicts() == {"mix": "built"}  # by another process
        return found

    project = pair.project
    (pair / FILE).touch()
    monkeypatch.setattr(DiskShelf, "has_bytes", has_bytes)
    project.status()
    assert pair.states() == {"mix": "up-to-date"}
    assert pair.verdicts() == {"mix": "up-to-date"}
    pair.write(MIX.format("mix", 0.25) + OUTPUT)
    assert pair.verdicts() == {"mix": "restored"}


@pytest.mark.parametrize("portable_only", ["", "1"])
def test_what_verify_found_is_not_believed_wherever_boots_have_no_names(
    pair: Lab, monkeypatch: pytest.MonkeyPatch, portable_only: str
) -> None:
    monkeypatch.setenv("MERGEBUILD_PORTABLE", portable_only)
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "")
    pair.write(MIX.format("mix", 0.75) + OUTPUT)
    pair.build()
    rot(pair, pair / FILE)
    assert pair.project.verify(["mix"]).exit_code == 5
    assert pair.verdicts() == {"mix": "built"}
    assert pair.project.verify(["mix"]).exit_code == 0


def test_a_pipe_in_place_of_an_output_keeps_nobody_waiting(pair: Lab) -> None:
    (pair / FILE).unlink()
    os.mkfifo(pair / FILE)
    assert pair.states() == {"mix": "changed-by-hand"}
    assert pair.verdicts() == {"mix": "failed"}
    assert pair.project.verify().exit_code == 5


def test_what_is_no_file_in_the_store_is_put_aside_too(pair: Lab) -> None:
    pair.write(MIX.format("far", 0.5))
    pair.build("far")
    (kept,) = (pair / ".mergebuild/kept").iterdir()
    kept.unlink()
    kept.mkdir()
    assert pair.verdicts("far") == {"far": "built"}
    assert pair.project.verify().problems == ()


def test_damage_is_told_where_no_lock_can_be_had(pair: Lab) -> None:
    rot(pair, pair / FILE)
    (pair / ".mergebuild/lock").unlink(missing_ok=True)
    (pair / ".mergebuild/lock").mkdir()
    assert [each.rows for each in pair.project.verify().problems] == [("v",)]


def test_who_waits_is_not_stopped_by_a_name_that_is_no_text(pair: Lab) -> None:
    (pair / ".mergebuild/lock.holder").write_bytes(b"\xff\xfe")
    with locked(pair / ".mergebuild", timeout=None, what="one"):
        (pair / ".mergebuild/lock.holder").write_bytes(b"\xff\xfe")
        with pytest.raises(LockTimeoutError), locked(pair / ".mergebuild", timeout=0, what="two"):
            pass


def test_a_state_in_which_a_later_change_may_not_show_is_not_put_on_record(pair: Lab) -> None:
    """An output that was copied a moment ago is what it was by its bytes, and may change in the same tick."""
    path = pair / FILE
    for settles in (False, True):
        shutil.copyfile(path, pair / "copy")
        (pair / "copy").replace(path)
        if settles:
            pair.settle()
        store = DiskStore(pair / ".mergebuild", project="../mergefile.toml")
        (row,) = store.state.artifacts(path=path)
        assert store.shelf.is_intact(row)
        (then,) = store.state.artifacts(path=path)
        assert (then.identity == filestate.identity(path)) == settles
        store.close()


def test_an_output_without_records_that_was_copied_a_moment_ago_is_read_again(pair: Lab) -> None:
    path = pair / FILE
    shutil.copyfile(path, pair / "out/copy.safetensors")
    store = DiskStore(pair / ".mergebuild", project="../mergefile.toml")
    presence, row = store.shelf.at(pair / "out/copy.safetensors")
    assert presence is Presence.OURS
    assert row is not None
    assert row.epoch == DOUBTED
    store.close()
