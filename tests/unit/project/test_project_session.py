"""A session keeps open what verbs need, and answers and builds what each verb would by itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, closing
from pathlib import Path

import pytest
from lab import Lab
from model_files import write_model
from torch import tensor

from mergebuild.errors import CorruptionError, LockTimeoutError, RecipeError, SourceError, UsageError
from mergebuild.events import Event, Hashing, Notice
from mergebuild.project import session as session_module
from mergebuild.project.project import Project, load
from mergebuild.project.stamp import Stamp
from mergebuild.results.build import BuildResult
from mergebuild.sources import settling
from mergebuild.store import locked

MIX = """
[targets.mix]
method = "weighted_sum"
a = "x"
b = "y"
alpha = 0.5
output = "mix.safetensors"

[targets.twice]
method = "weighted_sum"
a = "mix"
b = "y"
alpha = 0.5
output = "twice.safetensors"

[targets.sweep]
foreach.alpha = [0.25, 0.75]
method = "weighted_sum"
a = "x"
b = "y"
alpha = "${alpha}"
output = "sweep-${alpha}.safetensors"
"""


@pytest.fixture
def two(lab: Lab) -> Lab:
    """A project of two sources that have settled, never built."""
    lab.model("x", w=[1.0, 2.0])
    lab.model("y", w=[3.0, 4.0])
    lab.write(MIX)
    lab.settle()
    return lab


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources and stores that are opened, in order."""
    found: list[str] = []
    read, store = settling.read_model, session_module.DiskStore

    def read_model(path: Path, **words: object) -> object:
        found.append(path.name)
        return read(path, **words)  # type: ignore[arg-type]

    def open_store(*args: object, **words: object) -> object:
        found.append("store")
        return store(*args, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(settling, "read_model", read_model)
    monkeypatch.setattr(session_module, "DiskStore", open_store)
    return found


def verdicts(result: BuildResult) -> dict[str, str]:
    return {each.target: str(each.verdict) for each in result.targets}


def values(lab: Lab, *names: str) -> list[list[float]]:
    return [lab.values(f"{name}.safetensors") for name in names]


# What is kept


def test_verbs_of_a_session_open_store_and_sources_once(two: Lab, opened: list[str]) -> None:
    with two.project as project:
        assert [str(each.verdict) for each in project.plan(["mix"]).targets] == ["build"]
        project.build(["mix"])
        project.why("mix")
        project.status(["mix"])
        project.lineage("mix")
        project.verify(["mix"])
        project.gc()
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
    assert sorted(opened) == ["store", "x.safetensors", "y.safetensors"]


def test_without_a_session_each_verb_opens_them_and_closes_them(two: Lab, opened: list[str]) -> None:
    project = two.project
    project.build(["mix"])
    project.why("mix")
    assert opened.count("store") == 2
    with project:
        project.why("mix")
    project.why("mix")
    assert opened.count("store") == 4


def test_a_session_that_ended_has_closed_its_store(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        kept = project._sessions._kept
        assert kept is not None
    assert project._sessions._kept is None
    with pytest.raises(sqlite3.ProgrammingError):
        kept.store.state.has_artifacts()


def test_a_session_inside_a_session_is_the_same(two: Lab, opened: list[str]) -> None:
    with two.project as project:
        with project:
            project.plan(["mix"])
        project.plan(["mix"])
    assert opened.count("store") == 1


def test_no_lock_is_held_between_verbs(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        with locked(two / ".mergebuild", timeout=0, what="another"):
            assert verdicts_of_plan(project, "mix") == ["up-to-date"]
            assert project.status(["mix"]).targets[0].state == "up-to-date"


def verdicts_of_plan(project: Project, *targets: str) -> list[str]:
    return [str(each.verdict) for each in project.plan(targets).targets]


def test_looking_in_a_session_leaves_no_trace(two: Lab) -> None:
    before = sorted(two.root.iterdir())
    with two.project as project:
        project.plan(["mix"])
        project.why("mix")
        project.plan(["mix"])
    assert sorted(two.root.iterdir()) == before


def test_what_was_read_by_one_verb_is_not_read_by_the_next(two: Lab) -> None:
    with two.project as project:
        project.plan(["mix"])
        told: list[Event] = []
        result = project.build(["mix"], emit=told.append)
        assert verdicts(result) == {"mix": "built"}
        assert not [each for each in told if isinstance(each, Hashing)]


def test_each_verb_counts_what_it_reads_itself(two: Lab) -> None:
    with two.project as project:
        assert project.build(["mix"]).bytes_read > 0
        assert project.build(["mix"]).bytes_read == 0


@pytest.mark.parametrize("verb", ["plan", "status", "build", "verify", "lock"])
def test_whoever_listens_is_told_what_is_read(two: Lab, verb: str) -> None:
    """Also while it is planned, and of a source that changed since it was read."""
    told: list[Event] = []
    with two.project as project:
        getattr(project, verb)(emit=told.append)
        expected = [] if verb == "verify" else ["x.safetensors", "y.safetensors"]
        assert [each.path for each in told if isinstance(each, Hashing)] == expected
        two.model("x", w=[7.0, 7.0])
        told.clear()
        project.plan(emit=told.append)
        assert "x.safetensors" in [each.path for each in told if isinstance(each, Hashing)]


def test_each_verb_tells_its_own_listener(two: Lab) -> None:
    first: list[Event] = []
    second: list[Event] = []
    with two.project as project:
        project.build(["mix"], emit=first.append)
        seen = len(first)
        two.model("x", w=[7.0, 7.0])
        project.build(["mix"], emit=second.append)
    assert len(first) == seen
    assert second


# What changes in between


def test_a_source_that_changed_is_seen_by_the_next_verb(two: Lab) -> None:
    with two.project as project:
        project.build(["mix", "twice"])
        two.model("x", w=[5.0, 6.0])
        assert verdicts_of_plan(project, "mix", "twice") == ["build", "build"]
        assert [each.before for each in project.why("mix").changes]
        assert verdicts(project.build(["mix", "twice"])) == {"mix": "built", "twice": "built"}
        assert values(two, "mix", "twice") == [[4.0, 5.0], [3.5, 4.5]]


def test_a_byte_that_was_edited_in_place_is_seen(two: Lab) -> None:
    """Size and mtime are what they were."""
    with two.project as project:
        project.build(["mix"])
        before = values(two, "mix")
        two.edit_in_place("x.safetensors")
        project.build(["mix"])
        assert values(two, "mix") != before
    assert two.verdicts("mix") == {"mix": "up-to-date"}


def test_a_source_that_goes_and_comes_back_is_told_of_and_found_again(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        (two / "x.safetensors").rename(two / "away")
        assert verdicts_of_plan(project, "mix") == ["blocked"]
        with pytest.raises(SourceError):
            project.build(["mix"])
        (two / "away").rename(two / "x.safetensors")
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}


def test_a_source_that_is_found_elsewhere_now_is_another(two: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = two / "shelf"
    shelf.mkdir()
    (two / "x.safetensors").rename(shelf / "x.safetensors")
    monkeypatch.setenv("MERGEBUILD_MODELS", str(shelf))
    with two.project as project:
        project.build(["mix"])
        assert values(two, "mix") == [[2.0, 3.0]]
        two.model("x", w=[5.0, 6.0])
        project.build(["mix"])
        assert values(two, "mix") == [[4.0, 5.0]]


def _folder(lab: Lab, name: str, **files: object) -> None:
    folder = lab / name
    folder.mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))


def test_a_file_that_comes_into_a_source_that_is_a_folder_is_seen(two: Lab) -> None:
    """What is in the folder now makes it another model: an index that names another file."""
    _folder(two, "x", config={"model_type": "llama"})
    write_model(two / "x/model.safetensors", {"w": tensor([1.0, 2.0])})
    two.sources["x"] = "x/"
    two.write(MIX)
    two.settle()
    with two.project as project:
        project.build(["mix"])
        assert values(two, "mix") == [[2.0, 3.0]]
        (two / "x/model.safetensors").unlink()
        write_model(two / "x/model-00001-of-00001.safetensors", {"w": tensor([5.0, 6.0])})
        index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}, "metadata": {}}
        (two / "x/model.safetensors.index.json").write_text(json.dumps(index))
        project.build(["mix"])
        assert values(two, "mix") == [[4.0, 5.0]]


def test_a_small_file_that_a_pin_covers_is_asked_for_again(two: Lab) -> None:
    _folder(two, "x", config={"model_type": "llama"}, tokenizer={"version": 1})
    write_model(two / "x/model.safetensors", {"w": tensor([1.0, 2.0])})
    two.settle()
    two.sources["x"] = "x/"
    two.write(MIX)
    pin = two.project.lock() and json_of_lock(two)
    text = (two / "mergefile.toml").read_text()
    (two / "mergefile.toml").write_text(text.replace('x = "x/"', f'x = {{ path = "x/", sha256 = "{pin}" }}'))
    two.settle()
    with two.project as project:
        assert verdicts(project.build(["mix"])) == {"mix": "built"}
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
        _folder(two, "x", tokenizer={"version": 2})
        assert verdicts_of_plan(project, "mix") == verdicts_of_plan(two.project, "mix") == ["blocked"]


def json_of_lock(lab: Lab) -> str:
    import tomllib

    found: str = tomllib.loads((lab / "mergefile.lock").read_text())["sources"]["x"]["sha256"]
    return found


def test_an_output_that_was_deleted_or_edited_is_seen(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        (two / "mix.safetensors").unlink()
        assert project.status(["mix"]).targets[0].state == "missing"
        assert verdicts(project.build(["mix"])) == {"mix": "built"}
        (two / "mix.safetensors").write_bytes(b"mine")
        assert project.status(["mix"]).targets[0].state == "changed-by-hand"
        assert verdicts(project.build(["mix"])) == {"mix": "failed"}
        assert verdicts(project.build(["mix"], force=True)) == {"mix": "built"}
        assert values(two, "mix") == [[2.0, 3.0]]


def test_a_stamp_is_of_the_mergefile_that_was_loaded(two: Lab) -> None:
    """Wherever the current folder is by the time of a build: another's mergefile has other answers."""
    store = two / "store"
    with pytest.MonkeyPatch.context() as patch, chdir(two.root):
        patch.setenv("MERGEBUILD_STORE", str(store))
        project = load("mergefile.toml")
        (two / "other").mkdir()
        shutil.copy(two / "mergefile.toml", two / "other")
        with chdir(two / "other"):
            for _ in range(3):
                two.settle()
                project.build(["mix"])
                project = load(two / "mergefile.toml")
            assert Stamp("mergefile.toml", (), None, ["mix"]).answer() is None
        assert Stamp("mergefile.toml", (), None, ["mix"]).answer() is not None


def test_a_mergefile_is_not_read_again(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        two.write(MIX.replace("0.5", "0.25"))
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
    assert two.verdicts("mix") == {"mix": "built"}


def test_a_member_that_no_list_names_is_made_in_a_session_too(two: Lab) -> None:
    with two.project as project:
        project.build(["sweep"])
        assert verdicts(project.build(["sweep@alpha=1"])) == {"sweep@alpha=1": "built"}
        assert values(two, "sweep-1") == [[3.0, 4.0]]


# Others, who use the same store


def _by_another(two: Lab, do: Callable[[Project], object]) -> None:
    """Have another do something. That it is in this process makes no difference: it shares nothing but the files."""
    do(two.project)


def test_what_another_built_meanwhile_is_there(two: Lab) -> None:
    with two.project as project:
        assert verdicts_of_plan(project, "mix") == ["build"]
        _by_another(two, lambda other: other.build(["mix"]))
        assert verdicts_of_plan(project, "mix") == ["up-to-date"]
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
        _by_another(two, lambda other: other.build(["twice"]))
        assert verdicts(project.build(["twice"])) == {"twice": "up-to-date"}


def test_what_another_built_of_another_recipe_is_seen(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        _by_another(two, lambda _: load(two / "mergefile.toml", overrides=["mix.alpha=0.25"]).build(["mix"]))
        assert values(two, "mix") == [[1.5, 2.5]]
        assert verdicts_of_plan(project, "mix") == ["restore"]
        assert verdicts(project.build(["mix"])) == {"mix": "restored"}
        assert values(two, "mix") == [[2.0, 3.0]]


def test_what_another_freed_is_not_counted_on(two: Lab) -> None:
    """An artifact of the history that would be restored is gone when the session asks for it."""
    with two.project as project:
        project.build(["mix"])
        _by_another(two, lambda _: load(two / "mergefile.toml", overrides=["mix.alpha=0.25"]).build(["mix"]))
        assert verdicts_of_plan(project, "mix") == ["restore"]
        _by_another(two, lambda other: other.gc(max_size=0))
        assert verdicts_of_plan(project, "mix") == verdicts_of_plan(two.project, "mix")
        project.build(["mix"])
        assert values(two, "mix") == [[2.0, 3.0]]


def test_what_another_cleaned_is_made_again(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        _by_another(two, lambda other: other.clean(["mix"]))
        assert project.status(["mix"]).targets[0].state == "missing"
        assert verdicts(project.build(["mix"])) == {"mix": "built"}


def test_a_store_that_was_removed_is_made_again(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        shutil.rmtree(two / ".mergebuild")
        assert verdicts(project.build(["mix"])) == {"mix": "built"}
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
    assert two.verdicts("mix") == {"mix": "up-to-date"}


def test_a_store_that_is_elsewhere_now_is_another(two: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with two.project as project:
        project.build(["mix"])
        monkeypatch.setenv("MERGEBUILD_STORE", str(two / "other-store"))
        (two / "mix.safetensors").unlink()
        assert verdicts(project.build(["mix"])) == {"mix": "built"}
        assert (two / "other-store/state.sqlite3").is_file()


def test_a_state_of_a_later_version_is_left_alone(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        with closing(sqlite3.connect(two / ".mergebuild/state.sqlite3")) as db:
            db.execute("PRAGMA user_version = 1000")
        with pytest.raises(UsageError, match="later mergebuild"):
            project.build(["mix"])


def test_a_state_that_runs_statements_of_its_own_is_begun_afresh(two: Lab) -> None:
    told: list[Event] = []
    with two.project as project:
        project.build(["mix"])
        with closing(sqlite3.connect(two / ".mergebuild/state.sqlite3")) as db:
            db.execute("CREATE TRIGGER t AFTER INSERT ON source BEGIN DELETE FROM artifact; END")
        assert verdicts(project.build(["mix"], emit=told.append)) == {"mix": "built"}  # no row of it was taken over
    assert [each for each in told if isinstance(each, Notice) and "begun afresh" in each.text]


def test_a_state_that_is_damaged_is_begun_afresh(two: Lab) -> None:
    told: list[Event] = []
    with two.project as project:
        project.build(["mix"])
        state = two / ".mergebuild/state.sqlite3"
        for each in state.parent.glob("state.sqlite3-*"):
            each.unlink()
        state.unlink()
        state.write_bytes(b"no database at all" * 1000)
        assert verdicts(project.build(["mix"], emit=told.append)) == {"mix": "built"}  # for nobody knows whose it is
        assert [each for each in told if isinstance(each, Notice) and "begun afresh" in each.text]
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
    assert two.verdicts("mix") == {"mix": "up-to-date"}


def test_a_state_that_another_began_afresh_is_taken_up(two: Lab) -> None:
    """The connection to the old one, closed only now, does no harm to the files that are at its place."""
    with two.project as project, two.project as other:
        project.build(["mix"])
        state = two / ".mergebuild/state.sqlite3"
        with closing(sqlite3.connect(state)) as db:
            db.execute("CREATE VIEW stranger AS SELECT 1")
        assert verdicts(other.build(["mix", "twice"])) == {"mix": "built", "twice": "built"}
        assert verdicts(project.build(["twice"])) == {"twice": "up-to-date"}
        two.model("x", w=[5.0, 6.0])
        assert verdicts(other.build(["mix"])) == {"mix": "built"}
        assert verdicts(project.build(["mix", "twice"])) == {"mix": "up-to-date", "twice": "built"}
    with closing(sqlite3.connect(state)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert two.verdicts("mix", "twice") == {"mix": "up-to-date", "twice": "up-to-date"}


def test_damage_that_one_verb_meets_is_mended_for_it(two: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb begins again with a session that was opened after that."""
    with two.project as project:
        project.build(["mix"])
        kept = project._sessions._kept
        assert kept is not None

        def damaged(*_: object) -> None:
            raise session_module.DatabaseDamagedError("a read that failed once")

        monkeypatch.setattr(kept.store.ledger, "published", damaged)
        assert verdicts_of_plan(project, "mix") == ["up-to-date"]
        assert project._sessions._kept is not kept


def test_damage_that_stays_is_an_error(two: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise session_module.DatabaseDamagedError("for ever")

    with two.project as project:
        project.build(["mix"])
        monkeypatch.setattr("mergebuild.store.ledger.DiskLedger.published", damaged)
        with pytest.raises(CorruptionError):
            project.plan(["mix"])


_KILLED = """
import os, signal, sys
import mergebuild
from mergebuild.events import TargetDone

def stop(event):
    if isinstance(event, TargetDone) and event.target == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

mergebuild.load(sys.argv[1], overrides=["mix.alpha=0.25"]).build(["mix", "twice"], emit=stop)
"""


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
@pytest.mark.parametrize("at", ["mix", "twice"])
def test_what_a_process_left_that_was_killed_meanwhile_is_dealt_with(two: Lab, at: str) -> None:
    with two.project as project:
        project.build(["mix", "twice"])
        done = subprocess.run([sys.executable, "-c", _KILLED, str(two / "mergefile.toml"), at], check=False)
        assert done.returncode == -signal.SIGKILL
        assert {str(each.verdict) for each in project.build(["mix", "twice"]).targets} <= {"restored", "up-to-date"}
        assert values(two, "mix", "twice") == [[2.0, 3.0], [2.5, 3.5]]
    assert two.verdicts("mix", "twice") == {"mix": "up-to-date", "twice": "up-to-date"}


def test_a_lock_that_is_not_got_in_time_ends_a_verb_and_no_more(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        two.model("x", w=[5.0, 6.0])
        with locked(two / ".mergebuild", timeout=0, what="another"), pytest.raises(LockTimeoutError):
            project.build(["mix"], lock_timeout=0.05)
        assert verdicts(project.build(["mix"])) == {"mix": "built"}
        assert values(two, "mix") == [[4.0, 5.0]]


# That there is nothing to do


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is planned, and not answered from memory."""
    found: list[tuple[str, ...]] = []
    plan = session_module.Session.plan

    def noted(self: session_module.Session, names: Sequence[str], **words: bool) -> object:
        found.append(tuple(names))
        return plan(self, names, **words)

    monkeypatch.setattr(session_module.Session, "plan", noted)
    return found


def test_a_build_that_has_nothing_to_do_is_remembered(two: Lab, looks: list[tuple[str, ...]]) -> None:
    with two.project as project:
        project.build(["mix", "twice"])
        looks.clear()
        again = [project.build(["mix", "twice"]) for _ in range(3)]
        assert looks == []
        project.build(["mix"])
        assert looks == [("mix",)]
    alone = two.project.build(["mix", "twice"])
    assert [each.targets for each in again] == [alone.targets] * 3
    assert {(each.ok, each.exit_code, each.bytes_read, each.bytes_written) for each in again} == {(True, 0, 0, 0)}


def test_it_is_remembered_after_a_look_as_well(two: Lab, looks: list[tuple[str, ...]]) -> None:
    """Where what was made a moment ago has no time of its own, or was made by another."""
    two.build("mix")
    two.settle()
    with two.project as project:
        project.build(["mix"])
        looks.clear()
        project.build(["mix"])
        assert looks == []


def test_of_values_it_is_remembered_too(two: Lab, looks: list[tuple[str, ...]]) -> None:
    contents = {
        "sources": {"x": "x.safetensors", "y": "y.safetensors"},
        "targets": {"half": {"formula": "0.5 * x + 0.5 * y", "output": "half.safetensors"}},
    }
    with load(contents, root=two.root) as project:
        project.build()
        looks.clear()
        assert verdicts(project.build()) == {"half": "up-to-date"}
        assert looks == []


def _touch_folder(lab: Lab) -> None:
    (lab / "a file that is not ours").touch()


def _write_into_the_store(lab: Lab) -> None:
    """As a verify does that finds a file damaged: it may have the stat data that it had."""
    with closing(sqlite3.connect(lab / ".mergebuild/state.sqlite3")) as db, db:
        db.execute("UPDATE artifact SET boot = ''")


VOIDED: dict[str, Callable[[Lab, Project], object]] = {
    "an output is touched": lambda lab, _: (lab / "mix.safetensors").touch(),
    "an output is deleted": lambda lab, _: (lab / "mix.safetensors").unlink(),
    "an output is edited in place": lambda lab, _: lab.edit_in_place("mix.safetensors"),
    "a source is touched": lambda lab, _: (lab / "x.safetensors").touch(),
    "a source is edited in place": lambda lab, _: lab.edit_in_place("x.safetensors"),
    "a file comes into the folder": lambda lab, _: _touch_folder(lab),
    "another writes into the store": lambda lab, _: _write_into_the_store(lab),
    "another builds": lambda lab, _: lab.build("twice"),
    "the store is lost": lambda lab, _: shutil.rmtree(lab / ".mergebuild"),
    "the session builds": lambda _, project: project.build(["twice"]),
    "the session cleans": lambda _, project: project.clean(["mix"]),
}


@pytest.mark.parametrize("name", VOIDED)
def test_what_is_remembered_is_forgotten_when_anything_changes(
    two: Lab, looks: list[tuple[str, ...]], name: str
) -> None:
    with two.project as project:
        project.build(["mix"])
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
        VOIDED[name](two, project)
        looks.clear()
        project.build(["mix"], keep_going=True)
        assert ("mix",) in looks


def test_who_asks_for_a_closer_look_gets_it(two: Lab, looks: list[tuple[str, ...]]) -> None:
    with two.project as project:
        project.build(["mix"])
        project.lock()
        project.build(["mix"])
        looks.clear()
        project.build(["mix"], force=True)
        project.build(["mix"], locked=True)
        assert looks[:2] == [("mix",), ("mix",)]


def test_a_build_that_has_nothing_to_do_keeps_its_stamp(two: Lab) -> None:
    """Also of a project that was loaded before its outputs were made."""
    project = two.project
    for _ in range(3):
        project.build(["mix"])
        two.settle()
        assert Stamp(two / "mergefile.toml", (), None, ["mix"]).answer() is not None


# Verbs that fail, and verbs in verbs


class _StopError(Exception):
    pass


@pytest.mark.parametrize("error", [_StopError, KeyboardInterrupt])
def test_a_verb_that_is_interrupted_leaves_the_next_one_a_session_of_its_own(
    two: Lab, error: type[BaseException], opened: list[str]
) -> None:
    def stop(event: Event) -> None:
        raise error

    with two.project as project:
        project.plan(["mix"])
        before = opened.count("store")
        with pytest.raises(error):
            project.build(["mix"], emit=stop)
        assert verdicts(project.build(["mix"]))["mix"] in ("built", "up-to-date")
        assert opened.count("store") == before + 1
        assert values(two, "mix") == [[2.0, 3.0]]
    assert not [each for each in two.root.rglob("*") if each.name.startswith(".mix")]


def test_a_target_that_fails_does_not_end_the_session(two: Lab) -> None:
    two.model("y", w=[float("nan"), 4.0])
    two.settle()
    with two.project as project:
        assert verdicts(project.build(["mix"])) == {"mix": "failed"}
        two.model("y", w=[3.0, 4.0])
        assert verdicts(project.build(["mix"])) == {"mix": "built"}


def test_a_target_that_is_unknown_is_told_and_no_more(two: Lab) -> None:
    with two.project as project:
        with pytest.raises((RecipeError, UsageError)):
            project.build(["nothing"])
        assert verdicts(project.build(["mix"])) == {"mix": "built"}


def test_clean_and_gc_in_a_session(two: Lab) -> None:
    with two.project as project:
        project.build(["mix", "twice"])
        project.clean(["mix"])
        assert project.status(["mix"]).targets[0].state == "missing"
        assert verdicts(project.build(["mix"])) == {"mix": "built"}
        project.gc(max_size=0)
        assert verdicts(project.build(["mix", "twice"])) == {"mix": "up-to-date", "twice": "up-to-date"}


def test_a_verb_inside_of_another_has_a_session_of_its_own(two: Lab) -> None:
    states: list[str] = []
    with two.project as project:

        def ask(_: Event) -> None:
            states.append(str(project.status(["mix"]).targets[0].state))

        assert verdicts(project.build(["mix"], emit=ask)) == {"mix": "built"}
        assert set(states) <= {"missing", "up-to-date"}
        assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}


def test_another_thread_has_sessions_of_its_own(two: Lab) -> None:
    with two.project as project:
        project.build(["mix"])
        with ThreadPoolExecutor(1) as others:
            others.submit(project.build, ["twice"]).result()
        assert verdicts(project.build(["mix", "twice"])) == {"mix": "up-to-date", "twice": "up-to-date"}


def test_the_current_folder_does_not_matter(two: Lab) -> None:
    (two / "other").mkdir()
    with chdir(two.root), load("mergefile.toml") as project:
        project.build(["mix"])
        with chdir(two / "other"):
            assert verdicts(project.build(["mix"])) == {"mix": "up-to-date"}
            two.model("x", w=[5.0, 6.0])
            assert verdicts(project.build(["mix"])) == {"mix": "built"}
    assert values(two, "mix") == [[4.0, 5.0]]
    assert not list((two / "other").iterdir())


# As alone


STEPS: dict[str, Callable[[Lab], object]] = {
    "nothing": lambda lab: lab.root,
    "train": lambda lab: lab.model("x", w=[9.0, 9.0]),
    "train back": lambda lab: lab.model("x", w=[1.0, 2.0]),
    "touch": lambda lab: (lab / "y.safetensors").touch(),
    "lose an output": lambda lab: (lab / "mix.safetensors").unlink(missing_ok=True),
    "lose the store": lambda lab: shutil.rmtree(lab / ".mergebuild", ignore_errors=True),
    "another cleans": lambda lab: lab.project.clean(["twice"]),
    "another frees": lambda lab: lab.project.gc(max_size=0),
}


def _told(project: Project) -> list[object]:
    """Ask everything, and return the answers without what may differ: times, and what had to be read."""
    found: list[object] = [project.plan(["mix", "twice"]).to_json()]
    found += [project.why(name).to_json() for name in ("mix", "twice")]
    found += [project.status().to_json(), project.build(["mix", "twice"]).to_json()]
    found += [project.plan(["mix", "twice"]).to_json(), project.lineage("twice").to_json()]
    return [_without(each, "seconds", "bytes_read", "bytes_to_hash", "space_free", "memory") for each in found]


def _without(found: object, *names: str) -> object:
    if isinstance(found, dict):
        return {key: _without(value, *names) for key, value in found.items() if key not in names}
    return [_without(each, *names) for each in found] if isinstance(found, list) else found


class _Alone:
    """Verbs, each of a project that was loaded for it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def __getattr__(self, verb: str) -> object:
        return getattr(self._lab.project, verb)


@pytest.mark.parametrize("order", [list(STEPS), list(reversed(STEPS)), [*STEPS, *list(STEPS)[::3]]])
def test_verbs_of_a_session_answer_what_they_would_alone(
    order: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    labs = [Lab(tmp_path_factory.mktemp(name)) for name in ("session", "alone")]
    for lab in labs:
        lab.model("x", w=[1.0, 2.0])
        lab.model("y", w=[3.0, 4.0])
        lab.write(MIX)
    session, alone = labs
    with session.project as project:
        for name in order:
            for lab in labs:
                STEPS[name](lab)
            assert _told(project) == _told(_Alone(alone)), name  # type: ignore[arg-type]
            assert values(session, "mix", "twice") == values(alone, "mix", "twice")
