"""A stamp answers for a build with nothing to do, and for nothing else."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.project.stamp import Stamp
from mergebuild.sources.sources import Sources

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


def answers(lab: Lab, *targets: str, overrides: tuple[str, ...] = ()) -> bool:
    """Say whether the stamp answers."""
    return Stamp(lab / "mergefile.toml", overrides, None, targets).answer() is not None


def test_a_stamp_gives_the_answer_of_the_build(mix: Lab) -> None:
    found = Stamp(mix / "mergefile.toml", (), None, ()).answer()
    built = mix.build()
    assert found is not None
    assert found.targets == built.targets
    assert (found.ok, found.bytes_read, found.bytes_written) == (True, 0, 0)


def test_a_build_that_did_something_leaves_no_stamp(lab: Lab) -> None:
    lab.model("x", w=[1.0])
    lab.model("y", w=[3.0])
    lab.write(MIX)
    lab.build()
    assert not answers(lab)


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


@pytest.mark.parametrize("name", ["x.safetensors", "mix.safetensors", "mergefile.toml"])
def test_a_file_that_changed_since_the_build_began_is_not_stamped(mix: Lab, name: str) -> None:
    """The answer may follow from what it was before, and the stamp would be of what it is now."""
    (mix / ".mergebuild/stamps").rename(mix / ".mergebuild/earlier")
    project = mix.project
    mix.edit_in_place(name)
    project.build(force=True)
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
