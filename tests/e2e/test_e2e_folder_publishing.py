"""A folder is published wholly or not at all, whatever fails, ends or happens in the folder meanwhile."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import torch
from model_files import write_model
from model_folders import llama_pair
from project_space import NewSpace, Space

from mergebuild.build import waves
from mergebuild.errors import NoSpaceError
from mergebuild.store import ArtifactRow, Stage, publisher
from mergebuild.store.publisher import DiskPublisher
from mergebuild.store.state import State
from mergebuild.system import platform

MERGEFILE = """
[sources]
one = "one/"
two = "two/"

[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.25
output = "out/mix/"
max_shard_size = "10KB"
"""
READER = """
[targets.reader]
method = "slerp"
a = "two"
b = "mix"
t = 0.5
output = "out/reader.safetensors"
"""
FOLDER = "out/mix"


class KilledError(BaseException):
    """Stands for the end of the process: nothing of the builder's is done after it."""


@pytest.fixture(params=["exchanged", "renamed", "one by one"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a folder takes its place: at once, where systems can't do that, and where it can't be renamed."""
    if request.param == "renamed":
        monkeypatch.setattr(platform, "exchange", lambda _one, _other: False)
    if request.param == "one by one":
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mix" and Path(path).is_dir())
    found: str = request.param
    return found


@pytest.fixture
def built(space: Space, way: str) -> Space:
    """A folder of four shards, built from two, and what others keep in it."""
    llama_pair(space, MERGEFILE)
    space.build()
    space.settle()
    (space / FOLDER / "README.md").write_text("mine")
    (space / FOLDER / "notes/deep").mkdir(parents=True)
    (space / FOLDER / "notes/deep/letter").write_text("mine too")
    (space / FOLDER / "link").symlink_to("README.md")
    return space


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(space: Space) -> dict[str, bytes]:
    """Return the files that we made."""
    return {name: data for name, data in contents(space / FOLDER).items() if "notes" not in name and name not in KEPT}


KEPT = ("README.md", "link")


def check_others(space: Space) -> None:
    """What others keep in the folder is there, and nothing of ours is left beside it."""
    assert (space / FOLDER / "README.md").read_text() == "mine"
    assert (space / FOLDER / "notes/deep/letter").read_text() == "mine too"
    assert (space / FOLDER / "link").readlink() == Path("README.md")
    assert not [path for path in space.root.rglob("*") if ".mergebuild-" in path.name]


def fresh(space: Space, new_space: NewSpace, name: str) -> dict[str, bytes]:
    """Return what a build of the project from nothing makes."""
    other = new_space(name)
    for each in ("one", "two"):
        shutil.copytree(space / each, other / each)
    (other / "mergefile.toml").write_text((space / "mergefile.toml").read_text())
    other.build("mix")
    return contents(other / FOLDER)


def test_a_change_is_published_and_others_files_stay(built: Space, new_space: NewSpace) -> None:
    inode = (built / FOLDER / "README.md").stat().st_ino
    built.edit("alpha = 0.25", "alpha = { default = 0.25, L02 = 0.5 }")
    found = built.build()["mix"]
    assert found["verdict"] == "built"
    assert made(built) == fresh(built, new_space, "fresh")
    check_others(built)
    assert (built / FOLDER / "README.md").stat().st_ino == inode
    assert built.build()["mix"]["verdict"] == "up-to-date"
    built.edit("alpha = { default = 0.25, L02 = 0.5 }", "alpha = 0.25")
    assert built.build()["mix"]["verdict"] == "restored"
    assert made(built) == fresh(built, new_space, "back")
    check_others(built)
    built.run("verify")


def test_nothing_of_it_is_published_when_one_file_fails(built: Space) -> None:
    before = contents(built / FOLDER)
    weights = built.read("two/model-00002-of-00002.safetensors")
    name = next(iter(weights))
    weights[name] = torch.full_like(weights[name], float("nan"))
    write_model(built / "two/model-00002-of-00002.safetensors", weights)
    built.edit("alpha = 0.25", "alpha = 0.75")
    found = built.build(code=1)["mix"]
    assert (found["verdict"], found["tensors_computed"], found["bytes_written"]) == ("failed", 0, 0)
    assert contents(built / FOLDER) == before
    check_others(built)


def shorter(space: Space) -> None:
    """Have the folder be one file less, so that one of the old ones must go."""
    space.edit('max_shard_size = "10KB"', 'max_shard_size = "1GB"')
    space.edit("alpha = 0.25", "alpha = 0.5")


def failing(*_: object, **__: object) -> None:
    raise KilledError


PLACES: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "while it is filled": lambda patch: patch.setattr(Stage, "carry_over", failing),
    "before it takes its place": lambda patch: patch.setattr(Stage, "take_place", failing),
    "before what was there is taken apart": lambda patch: patch.setattr(DiskPublisher, "_take_apart", failing),
    "while what was there is taken apart": lambda patch: patch.setattr(DiskPublisher, "_into_history", failing),
    "before its rows follow": lambda patch: patch.setattr(DiskPublisher, "_exchange_rows", failing),
    "before the mark goes": lambda patch: patch.setattr(publisher, "unmark", failing),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_whoever_is_killed_leaves_the_old_folder_or_the_new_one(
    built: Space, new_space: NewSpace, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next build makes it the new one, with nothing left and no step by hand."""
    before = made(built)
    shorter(built)
    after = fresh(built, new_space, "fresh")
    assert after.keys() != before.keys()
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "remove", lambda _: None)
        PLACES[place](patch)
        with pytest.raises(KilledError):
            built.build()
    found = made(built)
    assert found == before or {name: found[name] for name in after} == after
    assert not (before.keys() - after.keys() & found.keys() if found != before else ())
    assert built.build()["mix"]["verdict"] in ("built", "restored", "up-to-date")
    assert made(built) == after
    check_others(built)
    assert built.build()["mix"]["verdict"] == "up-to-date"


@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_between_two_renames_the_old_folder_comes_back(built: Space) -> None:
    """Where names can't be exchanged, there is a moment without the folder."""
    folder = built / FOLDER
    before = contents(folder)
    stage = Stage(folder)
    (stage.path / "model.safetensors").write_bytes(b"half of it")
    folder.rename(stage.path.with_name(stage.path.name + "-former"))
    assert built.build()["mix"]["verdict"] == "up-to-date"
    assert contents(folder) == before
    check_others(built)


@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_what_comes_into_the_folder_in_that_moment_is_moved_over(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is new goes to its place; where ours stands now, it is set aside, and said."""
    take_place = Stage.take_place

    def late(stage: Stage) -> Path | None:
        (stage.folder / "new").mkdir()
        (stage.folder / "new/one").write_text("just saved")
        (stage.folder / "README.md").unlink()
        (stage.folder / "README.md").write_text("saved anew")
        return take_place(stage)

    monkeypatch.setattr(Stage, "take_place", late)
    built.edit("alpha = 0.25", "alpha = 0.5")
    outcome = built.run("build")
    assert (built / FOLDER / "new/one").read_text() == "just saved"
    aside = built / ".mergebuild/by-hand/mix-1/README.md"
    assert aside.read_text() == "saved anew"
    assert str(aside) in outcome.err
    assert not [path for path in built.root.rglob("*") if ".mergebuild-" in path.name]


def test_its_mode_stays(built: Space) -> None:
    (built / FOLDER).chmod(0o750)
    built.edit("alpha = 0.25", "alpha = 0.5")
    built.build()
    assert (built / FOLDER).stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_a_link_to_the_folder_stays_one(built: Space, new_space: NewSpace) -> None:
    (built / FOLDER).rename(built / "out/elsewhere")
    (built / FOLDER).symlink_to("elsewhere")
    built.edit("alpha = 0.25", "alpha = 0.5")
    built.build()
    assert (built / FOLDER).is_symlink()
    assert made(built) == fresh(built, new_space, "fresh")
    check_others(built)


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_a_folder_that_takes_several_waves_is_published_once(
    built: Space, new_space: NewSpace, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads it is made behind all of it, of the values that were written."""
    monkeypatch.setattr(waves, "_WAVE", most)
    monkeypatch.setattr(Stage, "take_place", counted := Counted(Stage.take_place))
    with (built / "mergefile.toml").open("a") as file:
        file.write(READER)
    built.edit("alpha = 0.25", "alpha = 0.5")
    assert set(built.build().verdicts.values()) == {"built"}
    assert counted.calls == 1
    together = built.bytes("out/reader.safetensors")
    assert made(built) == fresh(built, new_space, "fresh")
    (built / "out/reader.safetensors").unlink()
    for left in (built / ".mergebuild").glob("state*"):
        left.unlink()
    built.run("build", "--force")
    assert built.bytes("out/reader.safetensors") == together


class Counted:
    """A method that counts how often it is called."""

    def __init__(self, method: Callable[[Stage], Path | None]) -> None:
        self.calls = 0
        self._method = method

    def __get__(self, stage: Stage, _: type) -> Callable[[], Path | None]:
        def call() -> Path | None:
            self.calls += 1
            return self._method(stage)

        return call


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_a_file_in_place_of_the_folder_is_refused(built: Space) -> None:
    shutil.rmtree(built / FOLDER)
    (built / FOLDER).write_text("a file")
    found = built.build(code=1)["mix"]
    assert found["error"]["code"] == "output-unwritable"
    assert (built / FOLDER).read_text() == "a file"


@pytest.mark.parametrize("place", ["before what was there is taken apart", "before its rows follow"])
@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_who_looks_in_between_changes_nothing_about_it(
    built: Space, new_space: NewSpace, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` and `verify` know the new files by their bytes, and the old ones stay ours: they go into the history."""
    built.edit("alpha = 0.25", "alpha = 0.5")
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "remove", lambda _: None)
        PLACES[place](patch)
        with pytest.raises(KilledError):
            built.build()
    assert built.states() == {"mix": "up-to-date"}
    built.run("verify")
    built.run("plan")
    assert built.build()["mix"]["verdict"] == "up-to-date"
    assert not (built / ".mergebuild/by-hand").exists()
    assert made(built) == fresh(built, new_space, "fresh")
    check_others(built)
    built.edit("alpha = 0.5", "alpha = 0.25")
    assert built.build()["mix"]["tensors_computed"] == 0
    built.run("verify")


@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_a_mark_that_can_t_be_removed_changes_nothing(
    built: Space, new_space: NewSpace, is_lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder has taken its place by then: nothing may be done as if it had not. It is tried again."""
    failed: list[Path] = []
    unmark = publisher.unmark

    def fail(path: Path) -> None:
        failed.append(path)
        if is_lasting or len(failed) == 1:
            raise PermissionError(13, "permission denied")
        unmark(path)

    built.edit("alpha = 0.25", "alpha = 0.5")
    with monkeypatch.context() as patch:
        patch.setattr(publisher, "unmark", fail)
        assert built.build()["mix"]["verdict"] == "built"
    assert failed
    if not is_lasting:
        check_others(built)
    assert built.build()["mix"]["verdict"] == "up-to-date"
    assert made(built) == fresh(built, new_space, "fresh")
    built.run("build", "--durable")
    check_others(built)


@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_where_the_records_can_t_follow_the_folder_is_as_it_was(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be nobody's: so names are exchanged back, and the next build makes it again."""
    before = made(built)
    built.edit("alpha = 0.25", "alpha = { default = 0.25, L02 = 0.5 }")

    def full(*_: object) -> None:
        raise NoSpaceError.one("no-space", "no space is left")

    with monkeypatch.context() as patch:
        patch.setattr(DiskPublisher, "_exchange_rows", full)
        built.refused("build", "mix", code=7)
    assert made(built) == before
    check_others(built)
    assert built.build()["mix"]["verdict"] == "built"
    assert made(built) != before
    check_others(built)


@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_one_file_that_can_t_be_moved_keeps_nobody_from_the_others(
    built: Space, new_space: NewSpace, is_lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again; what is left of the former folder then is said, and removed by the next build."""
    failed: list[Path] = []
    into_history = DiskPublisher._into_history

    def move(publisher: DiskPublisher, path: Path, row: ArtifactRow, *, is_wanted: bool) -> None:
        if not failed or (is_lasting and path == failed[0]):
            failed.append(path)
            raise OSError(5, "input/output error")
        into_history(publisher, path, row, is_wanted=is_wanted)

    built.edit("alpha = 0.25", "alpha = 0.5")
    with monkeypatch.context() as patch:
        patch.setattr(DiskPublisher, "_into_history", move)
        outcome = built.run("build")
    assert failed[0].exists() == is_lasting
    assert ("the next build removes it" in outcome.err) == is_lasting
    assert not is_lasting or len(list(failed[0].parent.rglob("*.*"))) == 1
    assert made(built) == fresh(built, new_space, "fresh")
    if not is_lasting:
        check_others(built)
    built.build()
    check_others(built)
    built.run("verify")


@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize("method", ["move_artifact", "forget_artifact"])
@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_where_the_history_can_t_be_recorded_nothing_is_left_of_the_former_folder(
    built: Space, new_space: NewSpace, method: str, is_lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new folder is in place: what was there goes, and is neither left beside it nor unknown in the history."""
    told: list[int] = []
    real = getattr(State, method)

    def full(state: State, number: int, *rest: object, **named: object) -> None:
        if rest[1:2] in ((), ("history",)) and (is_lasting or not told):
            told.append(number)
            raise sqlite3.OperationalError("database or disk is full")
        real(state, number, *rest, **named)

    built.edit("alpha = 0.25", "alpha = 0.5")
    if method == "forget_artifact":
        built.write('[project]\nhistory = "0"\n' + (built / "mergefile.toml").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(State, method, full)
        assert built.build()["mix"]["verdict"] == "built"
    assert told
    assert made(built) == fresh(built, new_space, "fresh")
    check_others(built)
    assert {path.name for path in (built / ".mergebuild/history").glob("*")} == in_history(built)
    assert built.build()["mix"]["verdict"] == "up-to-date"
    built.run("verify")


@pytest.mark.parametrize("call", range(8))
@pytest.mark.parametrize("name", ["move_artifact", "forget_artifact", "artifacts"])
@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_an_interrupt_once_the_folder_is_replaced_leaves_nothing_of_the_former_one(
    built: Space, name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt is raised once in a process, here before one of the calls that follow the exchange."""
    calls: list[str] = []
    begun: list[Path] = []
    real, exchange = getattr(State, name), Stage.take_place

    def interrupted(state: State, *arguments: object, **named: object) -> object:
        if begun:
            calls.append(name)
            if len(calls) == call + 1:
                raise KeyboardInterrupt
        return real(state, *arguments, **named)

    def replaced(stage: Stage) -> Path | None:
        former = exchange(stage)
        begun.append(stage.folder)
        return former

    built.edit("alpha = 0.25", "alpha = 0.5")
    with monkeypatch.context() as patch:
        patch.setattr(State, name, interrupted)
        patch.setattr(Stage, "take_place", replaced)
        code = built.run("build", code=None).code
    assert begun
    assert code == (130 if len(calls) > call else 0)
    check_others(built)
    assert built.build()["mix"]["verdict"] == "up-to-date"
    built.run("verify")


def in_history(space: Space) -> set[str]:
    """Return the names of the files that are recorded as files of the history."""
    with closing(sqlite3.connect(space / ".mergebuild/state.sqlite3")) as db:
        return {Path(path).name for (path,) in db.execute("SELECT path FROM artifact WHERE kind = 'history'")}


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_what_is_edited_in_the_last_moment_is_set_aside(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours by the last look, and then somebody writes into it: that is not lost."""
    take_place = Stage.take_place
    shard = min((built / FOLDER).glob("*.safetensors"))

    def late(stage: Stage) -> Path | None:
        with shard.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
        return take_place(stage)

    monkeypatch.setattr(Stage, "take_place", late)
    built.edit("alpha = 0.25", "alpha = 0.5")
    built.run("build")
    assert (built / ".mergebuild/by-hand/mix-1" / shard.name).read_bytes()[-1:] == b"\x55"


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_a_link_to_a_folder_that_comes_in_that_moment_is_moved_over(
    built: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_place = Stage.take_place

    def late(stage: Stage) -> Path | None:
        (stage.folder / "there").symlink_to("notes", target_is_directory=True)
        return take_place(stage)

    monkeypatch.setattr(Stage, "take_place", late)
    built.edit("alpha = 0.25", "alpha = 0.5")
    built.build()
    assert (built / FOLDER / "there").readlink() == Path("notes")
    check_others(built)


@pytest.mark.parametrize("place", ["before what was there is taken apart", "before its rows follow"])
@pytest.mark.parametrize("way", ["exchanged", "renamed"], indirect=True)
def test_after_a_kill_another_recipe_leaves_nothing_of_the_one_before(
    built: Space, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that had not followed are found: files that the folder has no more are ours to remove."""
    before = made(built)
    built.edit('max_shard_size = "10KB"', 'max_shard_size = "16KB"')
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "remove", lambda _: None)
        PLACES[place](patch)
        with pytest.raises(KilledError):
            built.build()
    assert made(built).keys() != before.keys()
    built.edit('max_shard_size = "16KB"', 'max_shard_size = "10KB"')
    assert built.build()["mix"]["verdict"] == "restored"
    assert made(built) == before
    check_others(built)
    built.run("verify")


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_equal_folders_come_back_from_the_history_each_with_files_of_its_own(built: Space) -> None:
    """What the history has once is moved to one place; the other gets a copy."""
    text = (built / "mergefile.toml").read_text()
    second = text[text.index("[targets.mix]") :].replace("targets.mix", "targets.also").replace("out/mix/", "out/also/")
    for number in ("0.25", "0.5", "0.25"):
        (built / "mergefile.toml").write_text((text + second).replace("alpha = 0.25", f"alpha = {number}"))
        assert built.build()["also"]["tensors_computed"] == 0
    assert made(built) == contents(built / "out/also")
    names = [name for name in contents(built / "out/also") if name in made(built)]
    assert not [name for name in names if (built / FOLDER / name).samefile(built / "out/also" / name)]
    built.run("verify")


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_a_former_folder_that_came_with_a_stranger_s_files_leads_nowhere_else(built: Space, tmp_path: Path) -> None:
    """What is moved over from it never goes through a link."""
    home = tmp_path / "home"
    home.mkdir()
    (built / FOLDER / "config").symlink_to(home)
    forged = built / "out/.mix.mergebuild-1/config"
    forged.mkdir(parents=True)
    (forged / "autostart").write_text("run me")
    built.edit("alpha = 0.25", "alpha = 0.5")
    built.build()
    assert list(home.iterdir()) == []
    assert (built / ".mergebuild/by-hand/mix-1/config/autostart").read_text() == "run me"


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_nothing_is_tidied_where_the_project_may_not_write(built: Space, tmp_path: Path) -> None:
    """A folder that a link leads out of the project is looked at once it is trusted."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (built / FOLDER).rename(elsewhere / "mix")
    (built / FOLDER).symlink_to(elsewhere / "mix")
    stage = Stage(elsewhere / "mix")  # of another project's build
    built.edit("alpha = 0.25", "alpha = 0.5")
    built.run("build", code=10)
    assert stage.path.is_dir()


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_who_writes_to_a_file_of_theirs_goes_on_writing_to_it(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are no second names: then no copy takes its place."""
    monkeypatch.setenv("MERGEBUILD_PORTABLE", "1")
    with (built / FOLDER / "train.log").open("a") as log:
        built.edit("alpha = 0.25", "alpha = 0.5")
        built.build()
        log.write("later")
    assert (built / FOLDER / "train.log").read_text() == "later"
    check_others(built)


@pytest.mark.parametrize("place", ["before its rows follow", "before what was there is taken apart"])
@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_what_a_killed_build_left_waits_for_who_names_that_folder(
    built: Space, new_space: NewSpace, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another output, or another project of the same store, touches nothing of it: somebody's files are in there."""
    shard = min((built / FOLDER).glob("*.safetensors"))
    with shard.open("ab") as file:
        file.write(b"by hand")
    by_hand = shard.read_bytes()
    built.edit("alpha = 0.25", "alpha = 0.5")
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "remove", lambda _: None)
        PLACES[place](patch)
        with pytest.raises(KilledError):
            built.build("--force")
    built.edit('output = "out/mix/"', 'output = "out/other/"')
    built.build()
    built.edit('output = "out/other/"', 'output = "out/mix/"')
    assert built.build()["mix"]["verdict"] in ("restored", "up-to-date")
    assert (built / ".mergebuild/by-hand/mix-1" / shard.name).read_bytes() == by_hand
    assert made(built) == fresh(built, new_space, "fresh")
    check_others(built)


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_after_a_kill_what_came_from_the_history_goes_back_to_it(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is restored has no row of a stage: that of the folder before is known by which file it is for."""
    built.edit("alpha = 0.25", "alpha = 0.5")
    built.build()
    built.edit("alpha = 0.5", "alpha = 0.25")
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "remove", lambda _: None)
        PLACES["before its rows follow"](patch)
        with pytest.raises(KilledError):
            built.build()
    assert built.build()["mix"]["tensors_computed"] == 0
    built.edit("alpha = 0.25", "alpha = 0.5")
    assert built.build()["mix"]["tensors_computed"] == 0
    built.run("verify")


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_two_outputs_that_are_one_folder_are_not_both_built(built: Space) -> None:
    (built / "out/link").symlink_to("mix")
    text = (built / "mergefile.toml").read_text()
    second = text[text.index("[targets.mix]") :].replace("targets.mix", "targets.also").replace("out/mix/", "out/link/")
    (built / "mergefile.toml").write_text((text + second).replace("alpha = 0.25", "alpha = 0.5"))
    assert built.run("plan", "--json", code=1).json["targets"][1]["error"]["code"] == "output-taken"
    assert built.build("-k", code=1).verdicts == {"mix": "built", "also": "failed"}


@pytest.mark.parametrize("link", ["copy", "hard", "auto"])
@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_what_an_output_keeps_in_the_store_and_a_virtual_target_is_kept_as_do_not_meet(built: Space, link: str) -> None:
    """Both are written to one place, in one wave."""
    text = (built / "mergefile.toml").read_text()
    body = text[text.index('method = "weighted_sum"') :].replace('output = "out/mix/"\nmax_shard_size = "10KB"\n', "")
    more = f'[targets.file]\n{body}output = "out/file.safetensors"\n[targets.virtual]\n{body}'
    again = f"[targets.again]\n{body}"
    text = f'[project]\nlink = "{link}"\n' + (text + more + again).replace("alpha = 0.25", "alpha = 0.5")
    (built / "mergefile.toml").write_text(text)
    found = built.build("mix", "file", "virtual", "again")
    assert set(found.verdicts.values()) <= {"built", "restored"}
    built.run("verify")


@pytest.mark.parametrize("way", ["exchanged"], indirect=True)
def test_a_stage_that_was_left_is_removed_though_there_is_nothing_to_do(built: Space) -> None:
    """It may be as large as the model: what is remembered of the answer includes the folder that it lies in."""
    built.build()
    built.settle()
    assert "nothing to do" in built.run("build").out
    stage = Stage(built / FOLDER)
    (stage.path / "model.safetensors").write_bytes(b"half of it")
    built.settle()
    built.run("build")
    assert not stage.path.exists()
    check_others(built)
