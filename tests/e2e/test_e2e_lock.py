"""`mergefile.lock`: what a locked build lets through is what was locked, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import CONFIG, SIDECARS, document, sharded
from project_space import NewSpace, Space
from tiny_models import llama

MERGEFILE = """
[sources]
one = "one/"
two = "two.safetensors"

[targets.half]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.5

[targets.mix]
method = "weighted_sum"
a = "half"
b = "two"
alpha = 0.25
output = "out/mix/"

[targets.file]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.75
output = "out/file.safetensors"

[targets.step]
foreach.t = [0.1, 0.2]
method = "weighted_sum"
a = "mix"
b = "two"
alpha = "${t}"
output = "out/step-${t}.safetensors"
"""
TWICE = """
[targets.twice]
method = "scale"
a = "two"
alpha = 2
output = "out/twice.safetensors"
"""
TARGETS = {"half", "mix", "file", "step@t=0.1", "step@t=0.2"}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def project(space: Space) -> Space:
    """A folder and a file, a virtual target, a folder made of it, files, a family; nothing built."""
    sharded(space / "one", llama(1))
    (space / "one/chat_template.jinja").write_text("{{ messages }}\n")
    (space / "one/README.md").write_text("# One\n")
    space.model("two.safetensors", llama(2))
    space.write(MERGEFILE)
    space.settle()
    return space


@pytest.fixture
def locked(project: Space) -> Space:
    """The same, locked."""
    project.run("lock")
    return project


def lock_of(space: Space) -> dict[str, dict[str, object]]:
    return tomli.loads((space / "mergefile.lock").read_text())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What it lists


def test_it_lists_every_target_before_anything_is_built(locked: Space) -> None:
    found = lock_of(locked)["targets"]
    assert set(found) == TARGETS
    planned = locked.plan(*TARGETS).document["targets"]
    assert found == {each["target"]: each["artifact"] for each in planned}
    assert not (locked / "out").exists()
    built = locked.build("--locked").document["targets"]
    assert {each["target"]: each["artifact"] for each in built}.items() <= found.items()


def test_it_lists_sources_and_every_small_file_of_a_folder(locked: Space) -> None:
    lock = lock_of(locked)
    two = locked / "two.safetensors"
    assert lock["sources"]["two"] == {"sha256": sha256(two), "size": two.stat().st_size}
    hashes = locked.json("inspect", "one/")["hashes"]
    assert lock["sources"]["one"] == {
        "sha256": hashes["sha256"],
        "size": sum((locked / "one" / name).stat().st_size for name in SHARDS),
    }
    names = {*SIDECARS, "chat_template.jinja", INDEX}
    assert lock["files"]["sources"] == {"one": {name: sha256(locked / "one" / name) for name in names}}


def test_it_lists_the_small_files_of_a_target_as_they_are_written(project: Space) -> None:
    project.edit('output = "out/mix/"', 'output = "out/mix/"\ndtype = "bfloat16"')
    project.run("lock")
    project.build()
    names = {*SIDECARS, "chat_template.jinja"}
    found = lock_of(project)["files"]
    assert found["targets"] == {"mix": {name: sha256(project / "out/mix" / name) for name in names}}
    assert found["targets"]["mix"]["config.json"] != found["sources"]["one"]["config.json"]


def test_its_text_is_sorted_has_one_entry_a_line_and_is_the_same_each_time(locked: Space) -> None:
    text = (locked / "mergefile.lock").read_text()
    sections = [section.splitlines() for section in text.split("\n\n")[1:]]
    assert [section[0] for section in sections] == [
        "[sources]", "[targets]", '[files.sources."one"]', '[files.targets."mix"]',
    ]  # fmt: skip
    for _, *entries in sections:
        assert entries == sorted(entries)
        assert all(entry.startswith('"') and " = " in entry for entry in entries)
    locked.build()
    locked.run("lock")
    assert (locked / "mergefile.lock").read_text() == text


MORE = """
[targets.beyond]
method = "weighted_sum"
a = "step@t=0.15"
b = "two"
alpha = 0.5
output = "out/beyond.safetensors"

[targets.unused]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.3
"""


@pytest.mark.parametrize("is_built", [False, True])
def test_it_lists_what_only_others_read_and_what_nobody_reads(project: Space, is_built: bool) -> None:
    """A member that no list names, and a virtual target, whatever there is of them."""
    project.write(MERGEFILE + MORE)
    if is_built:
        project.build("beyond")
    project.run("lock")
    assert set(lock_of(project)["targets"]) == TARGETS | {"beyond", "unused", "step@t=0.15"}
    project.build("beyond", "unused", "--locked")


# Targets


def test_an_edited_target_is_refused_whatever_was_locked_of_it_twice(project: Space) -> None:
    """Built, edited, locked again: it is listed as it is now, not left out; and then nothing else goes through."""
    project.build()
    project.run("lock")
    first = lock_of(project)["targets"]
    project.edit("alpha = 0.75", "alpha = 0.7")
    assert project.refused("build", "--locked", code=6).errors == ["lock-result"]
    project.run("lock")
    second = lock_of(project)["targets"]
    assert set(second) == TARGETS
    assert {name for name in TARGETS if first[name] != second[name]} == {"file"}
    project.build("--locked")
    project.edit("alpha = 0.7\n", "alpha = 0.6\n")
    assert project.refused("build", "--locked", code=6).errors == ["lock-result"]


def test_a_target_that_the_lock_lacks_is_refused(locked: Space) -> None:
    text = (locked / "mergefile.toml").read_text()
    locked.write(text.replace("targets.file", "targets.other"))
    outcome = locked.refused("build", "other", "--locked", code=6)
    assert outcome.errors == ["lock-result"]
    assert "`other` is not in mergefile.lock" in outcome.err
    assert locked.refused("build", "step@t=0.15", "--locked", code=6).errors == ["lock-result"]
    assert locked.refused("build", "other", "-o", "x.safetensors", "--locked", code=6).errors == ["lock-result"]
    locked.build("mix", "--locked")


def test_what_is_virtual_or_written_elsewhere_is_held_to_the_lock(locked: Space) -> None:
    locked.build("half", "--locked")
    locked.build("half", "-o", "half.safetensors", "--locked", "--dtype", "float16")
    locked.edit("alpha = 0.5", "alpha = 0.4")
    assert locked.refused("build", "half", "--locked", code=6).errors == ["lock-result"]
    assert locked.refused("build", "half", "-o", "x.safetensors", "--locked", code=6).errors == ["lock-result"]
    locked.build("file", "--locked")


def test_all_targets_that_differ_are_told_at_once(locked: Space) -> None:
    locked.edit("alpha = 0.5", "alpha = 0.4")
    locked.edit("alpha = 0.75", "alpha = 0.7")
    outcome = locked.refused("build", "--locked", code=6)
    assert outcome.errors == ["lock-result"] * 4
    assert {name for name in TARGETS if f"target `{name}` is not" in outcome.err} == TARGETS - {"half"}


def test_a_plan_is_held_to_the_lock(locked: Space) -> None:
    """`build -n --locked` says what `build --locked` refuses, target by target, with its exit code."""
    locked.edit("alpha = 0.75", "alpha = 0.7")
    planned = locked.build("-n", "--locked", code=6)
    assert planned.verdicts == {"mix": "build", "file": "blocked", "step@t=0.1": "build", "step@t=0.2": "build"}
    assert planned["file"]["error"]["code"] == "lock-result"
    refused = locked.build("--locked", code=6)
    assert refused.verdicts == {"mix": "skipped", "file": "failed", "step@t=0.1": "skipped", "step@t=0.2": "skipped"}
    locked.build("-n", "mix", "--locked")
    assert locked.plan().verdicts["file"] == "build"

    locked.model("two.safetensors", llama(3))
    assert set(locked.build("-n", "--locked", code=4).verdicts.values()) == {"blocked"}

    (locked / "mergefile.lock").unlink()
    for command in (("build", "--locked"), ("build", "-n", "--locked")):
        assert locked.refused(*command, code=3).errors == ["no-lock"]


def test_what_is_as_locked_is_built_beside_what_is_not(locked: Space) -> None:
    """With `-k`; without it all that is wrong is told before any work."""
    locked.edit("[targets.step]", '[targets.lost]\nformula = "gone"\noutput = "out/lost.safetensors"\n\n[targets.step]')
    locked.edit("[sources]", '[sources]\ngone = "gone.safetensors"')
    locked.edit("alpha = 0.75", "alpha = 0.7")
    document(locked / "one/tokenizer.json", {"version": "2.0"})
    locked.edit("foreach.t", 'merge = "*"\nforeach.t')
    locked.write((locked / "mergefile.toml").read_text() + TWICE)
    planned = locked.build("-n", "--locked", code=4)
    refused = locked.refused("build", "--locked", code=4)
    built = locked.build("-k", "--locked", code=4)

    blocked = {"mix": "lock-mismatch", "file": "lock-mismatch", "step@t=0.1": "lock-mismatch",
               "step@t=0.2": "lock-mismatch", "lost": "source-missing", "twice": "lock-result"}  # fmt: skip
    assert {each["target"]: each["error"]["code"] for each in planned.document["targets"]} == blocked
    assert set(refused.errors) == set(blocked.values())
    assert {name for name, verdict in built.verdicts.items() if verdict == "failed"} == set(blocked)

    document(locked / "one/tokenizer.json", SIDECARS["tokenizer.json"])
    built = locked.build("-k", "--locked", code=6)
    assert {name for name, verdict in built.verdicts.items() if verdict == "built"} == {
        "mix", "step@t=0.1", "step@t=0.2",
    }  # fmt: skip
    assert [each["target"] for each in built.document["targets"] if each["error"]] == ["file", "lost", "twice"]
    again = locked.build("-k", "--locked", code=6)
    assert again.verdicts["mix"] == "up-to-date"
    locked.edit("alpha = 0.25", "alpha = 0.3")
    locked.build("mix")
    assert locked.build("mix", "--locked", code=6).verdicts == {"mix": "failed"}  # up to date, and not as locked


def test_a_lock_says_all_that_is_wrong_at_once(project: Space) -> None:
    project.edit("[sources]", '[sources]\ngone = "gone.safetensors"\nfar = "far.safetensors"')
    project.edit('output = "out/file.safetensors"', 'output = "out/file.safetensors"\nmerge = "nothing.like.it"')
    codes = project.refused("lock", code=4).errors
    assert codes[:2] == ["source-missing"] * 2
    assert len(codes) == 3
    assert "nothing.like.it" in project.run("lock", code=4).err


def test_who_asks_for_a_member_that_no_list_names_is_told_how_it_gets_into_the_lock(locked: Space) -> None:
    error = locked.build("step@t=0.15", "--locked", code=6)["step@t=0.15"]["error"]
    assert "`foreach`" in error["help"]
    locked.edit("foreach.t = [0.1, 0.2]", "foreach.t = [0.1, 0.15, 0.2]")
    assert locked.build("step@t=0.15", "--locked", code=6)["step@t=0.15"]["error"]["help"].startswith(
        "run `mergebuild lock`"
    )
    locked.run("lock")
    locked.build("step@t=0.15", "--locked")


def test_another_donor_is_another_result(project: Space, new_space: NewSpace) -> None:
    """Its tensors are the same, and it is another model."""
    sharded(project / "three", llama(1), beside=SIDECARS | {"config.json": CONFIG | {"rope_theta": 5e5}})
    project.edit('one = "one/"', 'one = "one/"\nthree = "three/"')
    project.settle()
    project.run("lock")
    project.edit('output = "out/mix/"', 'output = "out/mix/"\nconfig = "three"')
    outcome = project.refused("build", "mix", "--locked", code=6)
    assert outcome.errors == ["lock-result"]
    assert "config.json changed" in outcome.err
    assert "chat_template.jinja is gone" in outcome.err


# Sources


def test_a_source_that_the_lock_lacks_is_refused(locked: Space) -> None:
    shutil.copytree(locked / "one", locked / "same")
    locked.edit('one = "one/"', 'one = "one/"\nsame = "same/"')
    locked.edit('a = "half"', 'a = "half"\nconfig = "same"')
    outcome = locked.refused("build", "mix", "--locked", code=4)
    assert outcome.errors == ["lock-mismatch"]
    assert "source `same` is not in mergefile.lock" in outcome.err
    locked.build("file", "--locked")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config.json", CONFIG | {"rms_norm_eps": 1e-5}),
        ("config.json", CONFIG | {"rope_theta": 500_000}),
        ("tokenizer.json", {"version": "2.0"}),
        ("special_tokens_map.json", {}),
    ],
)
@pytest.mark.parametrize("is_built", [False, True])
def test_another_small_file_is_refused_and_named(locked: Space, name: str, value: object, is_built: bool) -> None:
    if is_built:
        locked.build("--locked")
        locked.settle()
        locked.build("--locked")
    document(locked / "one" / name, value)
    outcome = locked.refused("build", "--locked", code=4)
    assert outcome.errors == ["lock-mismatch"]
    assert f"{name} {'changed' if name in SIDECARS else 'is new'}" in outcome.err
    locked.run("lock")
    locked.build("--locked")
    assert json.loads((locked / "out/mix" / name).read_text()) == value


def test_all_sources_that_differ_are_told_at_once(locked: Space) -> None:
    document(locked / "one/tokenizer.json", {"version": "2.0"})
    locked.model("two.safetensors", llama(3))
    assert locked.refused("build", "--locked", code=4).errors == ["lock-mismatch"] * 2


def test_what_no_client_needs_is_not_locked(locked: Space) -> None:
    (locked / "one/README.md").write_text("# Another\n")
    (locked / "one/notes.py").write_text("print()\n")
    locked.build("--locked")
    locked.run("lock", "--check")


KEPT = ("two.safetensors", *(f"one/{name}" for name in (*SHARDS, INDEX, *SIDECARS, "chat_template.jinja")))
NEW = ("one/vocab.json", "one/merges.txt", "one/tokenizer.model", "one/additional_chat_templates/tool.jinja")


@given(
    st.sampled_from([*KEPT, *NEW]),
    st.sampled_from(["flip", "append", "remove"]),
    st.integers(0, 2**32),
    st.integers(0, 7),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_edit_of_any_file_that_counts_goes_through(locked: Space, name: str, how: str, at: int, bit: int) -> None:
    """Whatever byte of whatever file is another, gone or new: nothing is written; put back, it is the model again."""
    path = locked / name
    before = path.read_bytes() if path.exists() else None
    try:
        if before is None:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"new\n")
        elif how == "remove":
            path.unlink()
        else:
            raw = bytearray(before + b" " if how == "append" else before)
            raw[at % len(before)] ^= 1 << bit if how == "flip" else 0
            path.write_bytes(raw)
        locked.settle()
        locked.refused("build", "--locked", code=4)
        assert locked.run("lock", "--check", code=None).code in (4, 6)
    finally:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)
        locked.settle()
    locked.run("lock", "--check")


# --check, and other locks


def test_check_writes_nothing_and_says_what_would_change(locked: Space) -> None:
    assert locked.json("lock", "--check") == {"ok": True, "lock": str(locked / "mergefile.lock")}
    before = locked.bytes("mergefile.lock")
    locked.edit("foreach.t = [0.1, 0.2]", "foreach.t = [0.1, 0.3]")
    document(locked / "one/tokenizer.json", {"version": "2.0"})
    outcome = locked.refused("lock", "--check", code=6)
    assert outcome.errors == ["lock-differs"]
    for said in (
        "source `one`: tokenizer.json changed",
        "target `mix`: tokenizer.json changed",
        "target `step@t=0.2` is gone",
        "target `step@t=0.3` is new",
    ):
        assert said in outcome.err
    assert "`half`" not in outcome.err
    assert locked.bytes("mergefile.lock") == before
    locked.run("lock")
    locked.run("lock", "--check")


def test_check_without_a_lock_is_6_too(project: Space) -> None:
    assert project.refused("lock", "--check", code=6).errors == ["lock-differs"]
    assert not (project / "mergefile.lock").exists()
    assert not (project / ".mergebuild").exists()


OLD = """# Written by `mergebuild lock`; held against by `mergebuild build --locked`.
version = 1

[sources."two"]
sha256 = "{sha256}"
size = 1

[targets]
"file" = "xxh3-128:00000000000000000000000000000000"
"""


def test_a_lock_of_the_older_form_is_named_as_one(project: Space) -> None:
    """It lacks what is held against now; it must neither pass nor be taken for damage."""
    project.write(OLD.format(sha256=sha256(project / "two.safetensors")), "mergefile.lock")
    outcome = project.refused("build", "--locked", code=3)
    assert outcome.errors == ["old-lock"]
    assert "older form" in outcome.err
    assert "mergebuild lock" in outcome.err
    assert project.refused("lock", "--check", code=6).errors == ["lock-differs"]
    project.run("lock")
    project.build("--locked")


def test_a_lock_with_other_line_ends_is_the_same(locked: Space) -> None:
    path = locked / "mergefile.lock"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    locked.run("lock", "--check")
    locked.build("--locked")


@pytest.mark.parametrize("section", ["sources", "targets", 'files.sources."one"', 'files.targets."mix"'])
def test_no_line_of_it_can_be_left_out(locked: Space, section: str) -> None:
    """Not even by a merge of two versions of it that lost some."""
    path = locked / "mergefile.lock"
    text = path.read_text()
    head, mark, rest = text.partition(f"[{section}]\n")
    for number, line in enumerate(rest.partition("\n\n")[0].splitlines()):
        left = [each for at, each in enumerate(rest.splitlines()) if at != number]
        path.write_text("\n".join([f"{head}{mark}{left[0]}", *left[1:], ""]))
        if '"half"' not in line:  # virtual: it is in what reads it
            locked.refused("build", "--locked", code=4 if "sources" in section else 6)
        locked.refused("lock", "--check", code=6)
    path.write_text(text)
    locked.build("--locked")


def test_what_a_killed_lock_left_is_removed_by_the_next(project: Space) -> None:
    """Where there is a store, whose lock says that no other one is writing."""
    left = project / ".mergefile.lock.mergebuild-1"
    left.touch()
    project.run("lock")
    assert left.exists()
    project.run("build", "file")
    project.run("lock")
    assert not left.exists()


def test_a_store_that_cannot_be_written_to_keeps_nobody_from_locking(project: Space) -> None:
    project.run("build", "file")
    project.run("lock")
    before = project.bytes("mergefile.lock")
    (project / "mergefile.lock").unlink()
    (project / ".mergebuild/lockfile.lock").unlink()
    (project / ".mergebuild/lockfile.lock").mkdir()  # of root too
    project.run("lock")
    assert project.bytes("mergefile.lock") == before
