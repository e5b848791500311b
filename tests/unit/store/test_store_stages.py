"""What a stage can carry over as it is, and what keeps a folder from being replaced as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mergebuild.build.temporaries import Temporaries
from mergebuild.store import Stage
from mergebuild.store.stages import files_below, former_of, left_of, marked_stage, remove_empty
from mergebuild.system import platform, scratch

PART = "sub/model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of ours, and what somebody else keeps there."""
    found = tmp_path / "mix"
    (found / "sub").mkdir(parents=True)
    (found / PART).write_bytes(b"old")
    (found / "README.md").write_text("mine")
    (found / "notes").mkdir()
    (found / "notes/link").symlink_to("../README.md")
    return found


def staged(folder: Path) -> Stage:
    stage = Stage(folder)
    place = stage.place(folder / PART)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"new")
    return stage


def contents(folder: Path) -> dict[str, str]:
    """Return what is in a folder: files by their bytes, links by where they lead."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in files_below(folder)
        if not path.is_fifo()
    }


def linked_part(folder: Path) -> None:
    (folder / PART).rename(folder.parent / "elsewhere")
    (folder / PART).symlink_to("../../elsewhere")


def folder_at_a_part(folder: Path) -> None:
    (folder / PART).unlink()
    (folder / PART).mkdir()


def linked_sub_folder(folder: Path) -> None:
    (folder / "sub").rename(folder.parent / "elsewhere")
    (folder / "sub").symlink_to("../elsewhere")


def file_in_the_way(folder: Path) -> None:
    (folder / PART).unlink()
    (folder / "sub").rmdir()
    (folder / "sub").write_text("a file")


def test_whatever_else_is_there_gets_a_second_name(folder: Path) -> None:
    before = (folder / "README.md").stat().st_ino
    (folder / "empty").mkdir()
    os.mkfifo(folder / "empty/pipe")
    folder.chmod(0o750)
    stage = staged(folder)
    assert stage.carry_over(without={folder / PART})
    former = stage.take_place()
    assert former is not None
    assert contents(folder) == {
        PART: "new",
        "README.md": "mine",
        "notes/link": "../README.md",
        f".stage.mergebuild-{os.getpid()}": stage.path.name,
    }
    assert (folder / "empty/pipe").is_fifo()
    assert (folder / "README.md").stat().st_ino == before
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (former / PART).read_bytes() == b"old"
    assert marked_stage(folder) == stage.path
    assert former == former_of(stage.path)


@pytest.mark.parametrize("obstacle", [linked_part, folder_at_a_part, linked_sub_folder, file_in_the_way])
def test_what_would_not_be_the_same_is_left_where_it_is(folder: Path, obstacle: Callable[[Path], None]) -> None:
    """The folder is not replaced as a whole then, and nothing in it was touched."""
    obstacle(folder)
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    stage = staged(folder)
    assert not stage.carry_over(without={folder / PART})
    stage.remove()
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    assert not list(folder.parent.glob(".mix*"))


def test_where_there_are_no_links_nothing_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is another file: who has the first one open would write to nothing."""
    monkeypatch.setattr(platform, "link_or_none", lambda *_: False)
    assert not staged(folder).carry_over(without={folder / PART})


def test_of_another_disk_nothing_is_carried_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def far(path: Path, **words: bool) -> os.stat_result:
        found = stat(path, **words)
        if path.name != "notes":
            return found
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:]))

    monkeypatch.setattr(Path, "stat", far)
    assert not staged(folder).carry_over(without={folder / PART})


def test_a_folder_of_another_owner_stays_theirs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be given to them is not replaced."""
    given: list[tuple[Path, int, int]] = []

    def refuse(path: Path, user: int, group: int) -> None:
        given.append((path, user, group))
        raise PermissionError(1, "not permitted")

    stat = Path.stat

    def theirs(path: Path, **words: bool) -> os.stat_result:
        found = stat(path, **words)
        if path != folder / "notes":
            return found
        return os.stat_result((*found[:4], 4321, 1234, *found[6:]))

    monkeypatch.setattr(os, "chown", refuse)
    monkeypatch.setattr(Path, "stat", theirs)
    stage = staged(folder)
    assert not stage.carry_over(without={folder / PART})
    assert given == [(stage.path / "notes", 4321, 1234)]


def test_a_stage_that_was_left_is_removed_and_a_former_folder_is_not(folder: Path) -> None:
    staged(folder)
    former = folder.parent / ".mix.mergebuild-1-former"
    former.mkdir()
    (former / "a").write_text("somebody's")
    assert list(left_of(folder)) == [former]
    assert [path.name for path in folder.parent.glob(".mix*")] == [former.name]
    assert not remove_empty(former)


def test_a_mark_names_nothing_but_a_stage(folder: Path) -> None:
    """It may have come with a stranger's files."""
    for name in ("../elsewhere", "/etc", ".other", "", ".x.mergebuild-1/../../y"):
        (folder / ".stage.mergebuild-7").write_text(name)
        assert marked_stage(folder) is None
    (folder / ".stage.mergebuild-7").write_bytes(b"\xff" * 5000)
    assert marked_stage(folder) is None


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_stage_that_steps_back_leaves_the_folder_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, exchanges: bool
) -> None:
    """Names are exchanged in one step, or one after the other where the file system can't."""
    if not exchanges:
        monkeypatch.setattr(platform, "exchange", lambda *_: False)
    before = contents(folder)
    stage = staged(folder)
    assert stage.carry_over(without={folder / PART})
    former = stage.take_place()
    assert contents(folder)[PART] == "new"
    stage.step_back(former)
    assert contents(folder) == before
    stage.remove()
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("can_rename", [True, False])
def test_once_names_are_exchanged_no_look_at_the_former_folder_undoes_that(
    folder: Path, can_rename: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error would mean that the folder is what it was: its new files would then be taken for somebody else's."""
    rename, stat, stage = Path.rename, os.stat, Stage(folder)
    before = set(folder.iterdir())

    def refused(path: Path, target: Path) -> Path:
        if can_rename:
            return rename(path, target)
        raise PermissionError(13, "permission denied")

    def no_look(path: os.PathLike[str], **named: bool) -> os.stat_result:
        if os.fspath(path).endswith("-former"):
            raise PermissionError(13, "permission denied")
        return stat(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        patch.setattr(os, "stat", no_look)
        former = stage.take_place()
    assert former == (former_of(stage.path) if can_rename else stage.path)
    assert {path.name for path in former.iterdir()} == {path.name for path in before}


def test_a_stage_that_steps_back_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    folder = tmp_path / "mix"
    stage = staged(folder)
    stage.step_back(stage.take_place())
    stage.remove()
    assert list(tmp_path.iterdir()) == []


class _Judged:
    """What `Temporaries` asks of a judgement."""

    def __init__(self, folder: Path) -> None:
        self.description = SimpleNamespace(goal=SimpleNamespace(path=folder))


def test_an_interrupt_while_a_stage_is_made_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object, **_words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Stage(folder)
    with monkeypatch.context() as patched:
        patched.setattr(scratch, "noted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Temporaries(None).stage(_Judged(folder))  # type: ignore[arg-type]
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]
