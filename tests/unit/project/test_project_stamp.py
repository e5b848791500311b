"""A stamp answers for a build with nothing to do, and for nothing else."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.project import stamp
from mergebuild.project.project import load
from mergebuild.project.stamp import Stamp
from mergebuild.sources.sources import Sources
from mergebuild.store.publisher import DiskPublisher

MIX = """
[targets.mix]
method = "weighted_sum"
a = "x"
b = "y"
alpha = 0.5
output = "mix.safetensors"
"""


@pytest.fixture
def mix(lab: Lab) -> Lab:
    """A project whose last build had nothing to do."""
    lab.model("x", w=[1.0])
    lab.model("y", w=[3.0])
    lab.write(MIX)
    lab.build()
    lab.settle()
    lab.build()
    return lab


@pytest.fixture
def first(lab: Lab) -> Lab:
    """A project that was never built, of files that are old enough."""
    lab.model("x", w=[1.0])
    lab.model("y", w=[3.0])
    lab.write(MIX)
    lab.settle()
    return lab


def answers(lab: Lab, *targets: str, overrides: tuple[str, ...] = ()) -> bool:
    """Say whether the stamp answers."""
    return Stamp(lab / "mergefile.toml", overrides, None, targets).answer() is not None


def test_a_stamp_gives_the_answer_of_the_build(mix: Lab) -> None:
    found = Stamp(mix / "mergefile.toml", (), None, ()).answer()
    built = mix.build()
    assert found is not None
    assert found.targets == built.targets
    assert (found.ok, found.bytes_read, found.bytes_written) == (True, 0, 0)


def test_a_build_that_did_something_leaves_the_answer_of_the_next(first: Lab) -> None:
    first.write(MIX + MIX.replace("mix", "other").replace("0.5", "0.25"))
    first.settle()
    first.build("mix")
    first.settle()
    assert first.verdicts() == {"mix": "up-to-date", "other": "built"}
    left = Stamp(first / "mergefile.toml", (), None, ()).answer()
    assert left is not None
    assert left.targets == first.build().targets


def _write_one_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x40")


def _replace(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


AT_ONCE = {"write": _write_one_byte, "touch": os.utime, "replace": _replace, "remove": Path.unlink}


@pytest.mark.parametrize("name", ["mix.safetensors", "x.safetensors"])
@pytest.mark.parametrize("change", AT_ONCE)
def test_a_change_right_after_a_first_build_voids_its_stamp(first: Lab, change: str, name: str) -> None:
    """In the same tick of the file system's clock, if it can be."""
    for _ in range(5):
        first.build(force=True)
        assert answers(first)
        AT_ONCE[change](first / name)
        assert not answers(first)
        first.model("x", w=[1.0])
        first.settle()


@pytest.mark.parametrize("change", AT_ONCE)
def test_an_output_that_was_changed_before_it_is_stamped_is_not(
    first: Lab, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """By somebody who was quick: between the rename that published it, and the end of the build."""
    trim = DiskPublisher.trim_history

    def quick(self: DiskPublisher) -> None:
        AT_ONCE[change](first / "mix.safetensors")
        trim(self)

    monkeypatch.setattr(DiskPublisher, "trim_history", quick)
    assert first.verdicts() == {"mix": "built"}
    assert not answers(first)


def test_what_changes_while_it_is_stamped_is_not(first: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the records were asked, which know of an output's state when it was published."""
    write = Stamp.write

    def late(*args: object, **words: object) -> None:
        _write_one_byte(first / "mix.safetensors")
        write(*args, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(Stamp, "write", late)
    first.build()
    assert not answers(first)


def test_what_a_killed_build_left_while_this_one_worked_is_not_overlooked(
    first: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = first / ".mix.safetensors.mergebuild-1"
    trim = DiskPublisher.trim_history

    def crowded(self: DiskPublisher) -> None:
        left.touch()
        trim(self)

    with monkeypatch.context() as once:
        once.setattr(DiskPublisher, "trim_history", crowded)
        first.build()
    assert not answers(first)
    first.build()
    assert not left.exists()


def test_a_file_that_comes_into_a_folder_right_after_voids_its_stamp(first: Lab) -> None:
    for number in range(3):
        first.write(MIX.replace("0.5", f"0.2{number}"))
        first.settle()
        first.build()
        assert answers(first)
        (first / f"new-{number}").touch()
        assert not answers(first)


def test_nothing_is_stamped_at_once_where_times_are_coarse(first: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time of its own tells nothing where it is rounded to whole seconds."""
    monkeypatch.setattr(stamp, "has_fine_times", lambda _state: False)
    first.build()
    assert not answers(first)


def test_a_folder_that_we_may_not_date_is_not_stamped_at_once(first: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write to a folder of another user may still not set its time. The next build keeps a stamp."""

    def refuse(path: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(stamp, "date", refuse)
    assert first.verdicts() == {"mix": "built"}
    assert not answers(first)
    first.settle()
    first.build()
    assert answers(first)


def test_a_build_of_which_something_failed_leaves_no_stamp(first: Lab) -> None:
    first.model("bad", w=[float("nan")])
    first.write(MIX + MIX.replace("mix", "other").replace('"y"', '"bad"'))
    first.settle()
    assert first.verdicts(keep_going=True) == {"mix": "built", "other": "failed"}
    assert not answers(first)


def test_other_words_have_other_stamps(mix: Lab) -> None:
    assert answers(mix)
    assert not answers(mix, "mix")
    assert not answers(mix, overrides=("mix.alpha=0.6",))


def test_a_change_of_anything_voids_it(mix: Lab) -> None:
    def edit() -> None:
        mix.write(MIX.replace("0.5", "0.6"))

    def touch_source() -> None:
        os.utime(mix / "x.safetensors")

    def flip_source() -> None:
        mix.edit_in_place("x.safetensors")

    def flip_output() -> None:
        mix.edit_in_place("mix.safetensors")

    def copy_output() -> None:
        shutil.copy2(mix / "mix.safetensors", mix / "copy")
        (mix / "copy").replace(mix / "mix.safetensors")

    def remove_output() -> None:
        (mix / "mix.safetensors").unlink()

    for change in (edit, touch_source, flip_source, flip_output, copy_output, remove_output):
        mix.write(MIX)
        mix.build(force=True)
        mix.settle()
        mix.build()
        assert answers(mix), change.__name__
        change()
        assert not answers(mix), change.__name__


@pytest.mark.parametrize("name", ["x.safetensors", "mergefile.toml"])
def test_a_file_that_changed_since_the_build_began_is_not_stamped(mix: Lab, name: str) -> None:
    """The answer may follow from what it was before, and the stamp would be of what it is now."""
    (mix / ".mergebuild/stamps").rename(mix / ".mergebuild/earlier")
    project = mix.project
    mix.edit_in_place(name)
    project.build()
    assert not (mix / ".mergebuild/stamps").exists()
    assert [str(each.verdict) for each in project.build().targets] == ["up-to-date"]


def test_an_output_that_changed_since_the_build_began_is_not_stamped(mix: Lab) -> None:
    """It was read, and is what it was; but what was read may have been another content than the one of its times."""
    (mix / ".mergebuild/stamps").rename(mix / ".mergebuild/earlier")
    project = mix.project
    os.utime(mix / "mix.safetensors")
    assert [str(each.verdict) for each in project.build().targets] == ["up-to-date"]
    assert not (mix / ".mergebuild/stamps").exists()


def test_a_source_that_is_not_the_one_opened_is_not_stamped(mix: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told without any clock: one whose times are an hour old by the server that keeps it."""
    monkeypatch.setattr(Sources, "changed", lambda _self, names: list(names))
    assert answers(mix)
    mix.build()
    assert not answers(mix)


def test_nothing_is_stamped_when_the_clock_was_set_during_the_build(mix: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    project = mix.project
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    project.build()
    assert not answers(mix)


@pytest.mark.parametrize("years", [-1, 1])
def test_files_dated_far_away_are_stamped(mix: Lab, years: int) -> None:
    """A clock that was wrong when they were written changes nothing in whether they are equal."""
    then = time.time() + years * 365 * 24 * 3600
    for name in ("x.safetensors", "mix.safetensors", "mergefile.toml"):
        os.utime(mix / name, (then, then))
    mix.settle()
    mix.build()
    assert answers(mix)
    mix.edit_in_place("x.safetensors")
    assert not answers(mix)


def test_a_source_found_elsewhere_is_not_stamped(mix: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may appear where the recipe says that it is, and no stat data would tell."""
    (tmp_path / "models").mkdir()
    (mix / "x.safetensors").rename(tmp_path / "models/x.safetensors")
    monkeypatch.setenv("MERGEBUILD_MODELS", str(tmp_path / "models"))
    mix.build()
    mix.settle()
    assert [str(each.verdict) for each in mix.build().targets] == ["up-to-date"]
    assert not answers(mix)


def test_another_boot_voids_it(mix: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "another")
    assert not answers(mix)


@pytest.mark.parametrize("kept", [b"", b"{}", b"[]", b"\xff", b'{"texts": 1, "files": [], "targets": []}'])
def test_a_damaged_stamp_is_no_answer(mix: Lab, kept: bytes) -> None:
    (path,) = (mix / ".mergebuild/stamps").iterdir()
    path.write_bytes(kept)
    assert not answers(mix)


def test_a_store_of_its_own_has_no_stamp(lab: Lab) -> None:
    """Where the recipe names the store, it must be read to find the stamp."""
    lab.model("x", w=[1.0])
    lab.model("y", w=[3.0])
    lab.write('[project]\nstore = "elsewhere"\n#sources\n' + MIX)
    for _ in range(3):
        lab.build()
        lab.settle()
    assert not answers(lab)
    assert not (lab / ".mergebuild").exists()


def test_without_records_it_is_no_answer(mix: Lab) -> None:
    """Else no build would find out anew whose the outputs are, and the next edit would find a stranger's."""
    for path in (mix / ".mergebuild").glob("state.sqlite3*"):
        path.unlink()
    assert not answers(mix)
    mix.build()
    mix.write(MIX.replace("0.5", "0.25"))
    assert mix.verdicts() == {"mix": "built"}


@pytest.mark.parametrize(
    ("source", "name"),
    [("x.safetensors", "adapter_config.json"), ("consolidated.00.safetensors", "consolidated.01.safetensors")],
)
def test_a_file_that_appears_beside_a_source_and_would_be_part_of_it_voids_the_stamp(
    lab: Lab, source: str, name: str
) -> None:
    """A configuration gives an adapter its alpha; of several files of ranks none is a model by itself."""
    (lab / "models").mkdir()  # not where outputs are: any new file there voids the stamp
    lab.model("x", w=[1.0], file=f"models/{source}")
    lab.model("y", w=[3.0])
    lab.write(MIX)
    lab.settle()
    lab.build()
    assert answers(lab)
    (lab / "models" / name).symlink_to("elsewhere")
    assert not answers(lab)
    (lab / "models" / name).unlink()
    lab.settle()
    lab.build()
    lab.settle()
    lab.build()
    assert answers(lab)


def test_a_caller_that_changes_its_overrides_later_leaves_no_stamp_for_them(first: Lab) -> None:
    overrides, variables = ["mix.alpha=0.25"], {"p": "0.25"}
    first.write("[vars]\np = 0.5\n" + MIX)
    first.settle()
    project = load(first / "mergefile.toml", overrides=overrides, variables=variables)
    overrides[0], variables["p"] = "mix.alpha=0.75", "0.75"
    project.build()
    assert Stamp(first / "mergefile.toml", ("mix.alpha=0.25",), {"p": "0.25"}, ()).answer() is not None
    assert Stamp(first / "mergefile.toml", overrides, variables, ()).answer() is None


@pytest.mark.parametrize("is_link", [False, True])
def test_a_text_that_another_one_replaced_since_it_was_read_is_not_stamped(first: Lab, is_link: bool) -> None:
    """By way of its folder, so that its times are old."""
    for name, alpha in (("one", "0.25"), ("two", "0.75")):
        (first / name).mkdir()
        (first / name / "more.toml").write_text(MIX.replace("0.5", alpha).replace('"mix.', '"../mix.'))
    if is_link:
        (first / "now").symlink_to("one")
    else:
        (first / "one").rename(first / "now")
    first.write("#sources\n")
    text = (first / "mergefile.toml").read_text()
    (first / "mergefile.toml").write_text('[project]\ninclude = ["now/more.toml"]\n' + text)
    first.settle()
    project = first.project
    if is_link:
        (first / "now").unlink()
        (first / "now").symlink_to("two")
    else:
        (first / "now").rename(first / "one")
        (first / "two").rename(first / "now")
    project.build()
    assert not answers(first)
    assert first.verdicts() == {"mix": "built"}


def test_another_home_has_another_stamp(mix: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of sources and outputs may begin with `~`."""
    assert answers(mix)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not answers(mix)
