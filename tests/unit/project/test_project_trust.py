"""A project writes into its own folder alone until its user has said otherwise, for exactly what it asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.errors import TrustError
from mergebuild.methods.catalog import METHODS, Method
from mergebuild.methods.making import OwnProgram, Program
from mergebuild.project import trust
from mergebuild.project.project import Project

COPY = '[targets.t]\nmethod = "copy"\na = "x"\noutput = "{}"\n'


@pytest.fixture
def one(lab: Lab) -> Lab:
    lab.model("x", w=[1.0])
    return lab


@pytest.mark.parametrize("inside", ["t.safetensors", "a/b/t.safetensors", "a/../t.safetensors"])
def test_inside_needs_no_word(one: Lab, inside: str) -> None:
    one.write(COPY.format(inside))
    assert one.build().ok


def test_outside_needs_a_word_which_ends_with_a_change(one: Lab, tmp_path: Path) -> None:
    for folder, code in (("out", True), ("other", True)):
        path = tmp_path / folder / "t.safetensors"
        one.write(COPY.format(path.as_posix()))
        with pytest.raises(TrustError):
            one.build()
        assert not path.parent.exists()
        assert one.project.trust() == ((str(path.parent),), ())
        assert one.build().ok is code
        assert path.exists()


def test_a_link_out_of_the_project_is_outside(one: Lab, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (one / "out").symlink_to(tmp_path / "elsewhere")
    one.write(COPY.format("out/t.safetensors"))
    with pytest.raises(TrustError):
        one.build()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_word_is_for_one_project(one: Lab, tmp_path: Path) -> None:
    paths = [tmp_path / "out" / "t"]
    trust.grant(one.root, paths)
    trust.require(one.root, dict.fromkeys(paths), paths)
    with pytest.raises(TrustError):
        trust.require(tmp_path / "another", dict.fromkeys(paths), paths)
    trust.grant(one.root, [one / "inside"])
    with pytest.raises(TrustError):
        trust.require(one.root, dict.fromkeys(paths), paths)


def test_a_broken_record_of_trust_is_none(one: Lab, tmp_path: Path) -> None:
    paths = [tmp_path / "out" / "t"]
    trust.grant(one.root, paths)
    trust._file().write_text("{")
    with pytest.raises(TrustError):
        trust.require(one.root, dict.fromkeys(paths), paths)


def own(text: str, table: str = "", name: str = "blend") -> Method:
    return Method(name, ("a",), (), "", "", OwnProgram(Program(f"{name}.py", text, table)))


def test_code_runs_as_it_was_trusted_and_no_other(one: Lab, tmp_path: Path) -> None:
    """For each method its text and its table; for one project; folders stand apart."""
    blend, other = own("x = 1"), own("x = 2", name="other")
    with pytest.raises(TrustError) as caught:
        trust.require_code(one.root, [blend, other])
    assert caught.value.exit_code == 10
    assert caught.value.problems[0].rows == ("runs blend.py for `blend`", "runs other.py for `other`")
    assert trust.grant(one.root, [tmp_path / "out" / "t"], [blend, other]) == (
        (str(tmp_path / "out"),),
        ("blend.py", "other.py"),
    )
    trust.require_code(one.root, [blend, other, blend])
    for changed in (own("x = 3"), own("x = 1", "table")):
        trust.require_code(one.root, [other])
        with pytest.raises(TrustError, match="changed since"):
            trust.require_code(one.root, [other, changed])
    with pytest.raises(TrustError):
        trust.require_code(tmp_path / "another", [blend])
    trust.grant(one.root, [tmp_path / "out" / "t"])
    with pytest.raises(TrustError):
        trust.require_code(one.root, [blend])


@pytest.mark.parametrize(
    "kept", ["[]", '{"folders": 3, "methods": {}}', '{"methods": {}}', '{"folders": [], "methods": 3}']
)
def test_a_word_of_another_shape_is_none(one: Lab, kept: str) -> None:
    trust.grant(one.root, [], [own("x")])
    trust._file().write_text(f'{{"{one.root.resolve().as_posix()}": {kept}}}')
    with pytest.raises(TrustError):
        trust.require_code(one.root, [own("x")])


def test_a_method_of_the_catalog_needs_no_word(one: Lab) -> None:
    trust.require_code(one.root, [METHODS["ties"]])


VERBS: dict[str, Callable[[Project], object]] = {
    "plan": Project.plan,
    "build": Project.build,
    "status": Project.status,
    "why": lambda project: project.why("t"),
    "verify": Project.verify,
    "gc": Project.gc,
    "clean": Project.clean,
    "lock": Project.lock,
}


@pytest.fixture
def elsewhere(one: Lab, tmp_path: Path) -> Path:
    """A folder of the user's outside the project, with something in it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "letter").write_text("precious")
    one.write(COPY.format("t.safetensors"))
    return folder


def as_it_was(folder: Path) -> bool:
    return [(path.name, path.read_text()) for path in folder.iterdir()] == [("letter", "precious")]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["lock", "lock.holder", "state.sqlite3", "state.sqlite3-wal", ".gitignore", "new"])
def test_a_link_in_the_store_is_refused_by_every_verb(one: Lab, elsewhere: Path, name: str, verb: str) -> None:
    """It may have come with the project's files; what writes to the store would write through it."""
    (one / ".mergebuild").mkdir()
    (one / ".mergebuild" / name).symlink_to(elsewhere / "letter")
    with pytest.raises(TrustError) as caught:
        VERBS[verb](one.project)
    assert caught.value.problems[0].code == "foreign-store"
    assert caught.value.problems[0].rows == (f"`{name}` is a link, or no file",)
    assert as_it_was(elsewhere)


@pytest.mark.parametrize("name", ["history", "kept", "quarantine", "between", "stamps"])
def test_a_linked_folder_in_the_store_loses_nothing_of_what_is_behind_it(one: Lab, elsewhere: Path, name: str) -> None:
    (one / ".mergebuild").mkdir()
    (one / ".mergebuild" / name).symlink_to(elsewhere)
    for verb in ("build", "gc", "clean"):
        with pytest.raises(TrustError):
            VERBS[verb](one.project)
    assert as_it_was(elsewhere)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("how", ["a link", "`[project] store`"])
def test_a_store_outside_needs_the_word_for_every_verb(one: Lab, elsewhere: Path, how: str, verb: str) -> None:
    if how == "a link":
        (one / ".mergebuild").symlink_to(elsewhere)
    else:
        one.write(f'[project]\nstore = "{elsewhere.as_posix()}"\n#sources\n{COPY.format("t.safetensors")}')
    with pytest.raises(TrustError):
        VERBS[verb](one.project)
    assert as_it_was(elsewhere)
    assert one.project.trust().folders == (str(elsewhere),)
    assert one.build().ok
    VERBS[verb](one.project)


@pytest.mark.parametrize("out", ["out/t.safetensors", "out/deep/t.safetensors", "out/deep/"])
def test_a_path_that_the_user_types_is_not_led_out_of_the_project_by_a_link(
    one: Lab, elsewhere: Path, tmp_path: Path, out: str
) -> None:
    (one / "out").symlink_to(elsewhere)
    path = f"{(one / 'out').as_posix()}{out.removeprefix('out')}"
    with pytest.raises(TrustError, match="by a link"):
        one.build("t", out=path)
    assert as_it_was(elsewhere)
    assert one.build("t", out=tmp_path / "elsewhere/mine.safetensors").ok


def test_a_store_that_the_user_names_needs_no_word(one: Lab, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_STORE", str(elsewhere))
    assert one.build().ok


def test_a_project_that_was_moved_or_copied_has_no_word(one: Lab, tmp_path: Path) -> None:
    one.write(COPY.format((tmp_path / "out/t.safetensors").as_posix()))
    one.project.trust()
    one.root.rename(tmp_path / "moved")
    with pytest.raises(TrustError):
        Lab(tmp_path / "moved").build()


def test_variables_of_a_mergefile_are_no_ones_of_the_environment(one: Lab, elsewhere: Path) -> None:
    path = (elsewhere / "t.safetensors").as_posix()
    one.write(f'[vars]\nMERGEBUILD_STORE = "x"\nXDG_CONFIG_HOME = "x"\nHOME = "x"\n#sources\n{COPY.format(path)}')
    with pytest.raises(TrustError):
        one.build()
    assert as_it_was(elsewhere)


@pytest.mark.processes
def test_no_word_is_lost_when_many_are_given_at_once(one: Lab, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\nfrom mergebuild.project.project import trust\nfolder = pathlib.Path(sys.argv[1])\n"
        "for number in range(20):\n"
        "    trust.grant(folder / sys.argv[2] / str(number), [folder / 'out' / sys.argv[2] / 't'])\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name], env={**os.environ}) for name in "abcd"
    ]
    assert [each.wait() for each in started] == [0] * 4
    for name in "abcd":
        for number in range(20):
            paths = [tmp_path / "out" / name / "t"]
            trust.require(tmp_path / name / str(number), dict.fromkeys(paths), paths)


def test_a_word_that_is_not_written_in_full_is_none(one: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the old one or the new one, and what a killed process left beside it does no harm."""
    paths = [tmp_path / "out" / "t"]
    trust.grant(one.root, paths)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        trust.grant(tmp_path / "another", paths)
    trust.require(one.root, dict.fromkeys(paths), paths)


@pytest.mark.processes
def test_python_m_imports_nothing_from_the_folder_that_one_stands_in(tmp_path: Path) -> None:
    for name in ("click", "tomli", "xxhash", "torch", "json", "platformdirs"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mergebuild", "list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert not (tmp_path / "ran").exists()
