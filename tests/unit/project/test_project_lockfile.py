"""A lock is read back as it was written, and held against sources and results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from mergebuild.errors import RecipeError, ResultDiffersError, SourceError, TargetError
from mergebuild.project import lockfile

SUM = '[targets.t]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}\noutput = "t.safetensors"\n'
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
DIGITS = st.text("0123456789abcdef", min_size=64, max_size=64)
FILES = st.dictionaries(NAMES, DIGITS, max_size=3)
LOCKS = st.builds(
    lockfile.Locked,
    st.dictionaries(NAMES, st.builds(lockfile.LockedSource, DIGITS, st.integers(0, 2**60), FILES), max_size=4),
    st.dictionaries(NAMES, st.builds(lockfile.LockedTarget, st.text("0123456789abcdef:-xh"), FILES), max_size=4),
)


@given(LOCKS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, locked: lockfile.Locked) -> None:
    path = tmp_path_factory.mktemp("lock") / "mergefile.lock"
    lockfile.write(path, locked)
    assert lockfile.read(path) == locked
    lockfile.check(path, locked)


@given(LOCKS, LOCKS)
def test_what_differs_is_told_and_refused_by_a_check(
    tmp_path_factory: pytest.TempPathFactory, one: lockfile.Locked, other: lockfile.Locked
) -> None:
    assert list(lockfile.differences(one, one)) == []
    assert bool(list(lockfile.differences(one, other))) == (one != other)
    path = tmp_path_factory.mktemp("lock") / "mergefile.lock"
    lockfile.write(path, one)
    if one != other:
        with pytest.raises(ResultDiffersError):
            lockfile.check(path, other)


@given(LOCKS)
def test_every_entry_has_a_line_of_its_own(locked: lockfile.Locked) -> None:
    """And no other order of what is locked gives another text."""
    files = [each.files for each in (*locked.sources.values(), *locked.targets.values())]
    entries = len(locked.sources) + len(locked.targets) + sum(map(len, files))
    text = lockfile.text_of(locked)
    assert sum(line.startswith('"') for line in text.split("\n")) == entries
    turned = lockfile.Locked(dict(reversed(list(locked.sources.items()))), dict(reversed(list(locked.targets.items()))))
    assert lockfile.text_of(turned) == text


def test_a_lock_that_says_the_same_in_another_text_is_written_anew(tmp_path: Path) -> None:
    path, locked = tmp_path / "mergefile.lock", lockfile.Locked({}, {})
    path.write_text(lockfile.text_of(locked) + "# mine\n")
    assert lockfile.read(path) == locked
    with pytest.raises(ResultDiffersError) as caught:
        lockfile.check(path, locked)
    assert caught.value.problems[0].rows == ("it says the same in another text",)


def test_of_many_differences_the_first_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mergefile.lock"
    lockfile.write(path, lockfile.Locked({}, {}))
    targets = {f"t{number:03}": lockfile.LockedTarget("xxh3-128:0") for number in range(100)}
    with pytest.raises(ResultDiffersError) as caught:
        lockfile.check(path, lockfile.Locked({}, targets))
    (problem,) = caught.value.problems
    assert problem.rows[0] == "target `t000` is new"
    assert problem.rows[-1] == "and 80 more"
    assert len(problem.rows) == 21


@pytest.mark.parametrize("rest", ["", '[sources.x]\nsha256 = "0"\nsize = 3\n', "targets = 3\n"])
def test_a_lock_of_the_first_form_is_named_as_one(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "mergefile.lock"
    path.write_text(f"version = 1\n{rest}")
    with pytest.raises(RecipeError) as caught:
        lockfile.read(path)
    assert caught.value.problems[0].code == "old-lock"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version = 2\n",
        "version = 3\n[sources]\n[targets]\n",
        "nonsense",
        "version = 2\n[targets]\n[sources.x]\nsize = 3\n",
        "version = 2\n[targets]\nt = 3\n[sources]\n",
        "version = 2\nfiles = 3\n[targets]\n[sources]\n",
        'version = 2\n[sources]\n[targets]\nt = "x"\n[files]\ntargets = { t = 3 }\n',
        "\xff",
        "version = " + "[" * 100_000,
        'version = 2\n[targets]\n[sources.x]\nsha256 = "0"\nsize = inf\n',
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mergefile.lock"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError) as caught:
        lockfile.read(path)
    assert caught.value.problems[0].code == "bad-lock"
    with pytest.raises(ResultDiffersError):
        lockfile.check(path, lockfile.Locked({}, {}))


def test_a_missing_lock_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "mergefile.lock", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(RecipeError):
            lockfile.read(path)


def test_a_folder_in_the_place_of_a_lock_is_named(tmp_path: Path) -> None:
    """Not the temporary file that could not take its place."""
    path = tmp_path / "mergefile.lock"
    path.mkdir()
    with pytest.raises(TargetError) as caught:
        lockfile.write(path, lockfile.Locked({}, {}))
    (problem,) = caught.value.problems
    assert (problem.code, problem.message) == ("lock-unwritable", "`mergefile.lock` can't be written: it is a folder")
    assert list(tmp_path.iterdir()) == [path]


def test_a_locked_build_refuses_other_sources_and_other_results(lab: Lab) -> None:
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    lab.write(SUM.format(0.25))
    lab.build()
    first = lab.project.lock().read_text()
    assert lab.build(locked=True).ok
    assert lab.project.lock().read_text() == first
    before = (lab / "t.safetensors").read_bytes()
    lab.write(SUM.format(0.5))
    with pytest.raises(ResultDiffersError):
        lab.build(locked=True)
    lab.write(SUM.format(0.25))
    lab.edit_in_place("x.safetensors")
    with pytest.raises(SourceError):
        lab.build(locked=True)
    assert (lab / "t.safetensors").read_bytes() == before
