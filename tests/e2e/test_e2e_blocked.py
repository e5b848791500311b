"""What a plan calls blocked is what a build refuses, for the same reason and with the same exit code.

And one target that can't be built hides no other, in any verb.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from project_space import Space
from tiny_models import sd15

from mergebuild.project import gate
from mergebuild.system import platform

GOOD = """
[sources]
one = "one.safetensors"
two = "two.safetensors"
odd = "odd.safetensors"
gone = "gone.safetensors"

[targets.good]
formula = "0.5*one + 0.5*two"
output = "out/good.safetensors"
"""
BAD = """
[targets.bad]
formula = "{}"
output = "{}"

[targets.after]
formula = "0.5*bad + 0.5*one"
output = "out/after.safetensors"
"""
FINE = "0.25*one + 0.75*two"

Hinder = Callable[[Space, pytest.MonkeyPatch], None]


def by_hand(space: Space, _: pytest.MonkeyPatch) -> None:
    space.build("bad")
    with (space / "out/bad.safetensors").open("ab") as file:
        file.write(b"by hand")
    space.edit("0.25*one", "0.125*one")


def stranger(space: Space, _: pytest.MonkeyPatch) -> None:
    (space / "out").mkdir(exist_ok=True)
    (space / "out/bad.safetensors").write_bytes(b"somebody else's")


def folder_in_the_way(space: Space, _: pytest.MonkeyPatch) -> None:
    (space / "out/bad.safetensors").mkdir(parents=True)


def no_folder(space: Space, _: pytest.MonkeyPatch) -> None:
    (space / "full").write_bytes(b"a file where a folder should be")


def unwritable(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, access = space / "full", os.access
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, *rest: Path(path) != folder and access(path, *rest))


def no_space(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "free_space", lambda _: 1000)


def nothing(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    pass


HINDRANCES = {
    "changed by hand": (FINE, "out/bad.safetensors", by_hand, 1, "changed-by-hand"),
    "a stranger's file": (FINE, "out/bad.safetensors", stranger, 1, "changed-by-hand"),
    "a folder in its place": (FINE, "out/bad.safetensors", folder_in_the_way, 1, "changed-by-hand"),
    "no folder": (FINE, "full/bad.safetensors", no_folder, 1, "output-unwritable"),
    "no folder deep down": (FINE, "full/deep/bad/", no_folder, 1, "output-unwritable"),
    "an unwritable folder": (FINE, "full/bad.safetensors", unwritable, 1, "output-unwritable"),
    "outside": (FINE, "../elsewhere/bad.safetensors", nothing, 10, "not-trusted"),
    "a folder outside": (FINE, "../elsewhere/bad/", nothing, 10, "not-trusted"),
    "inputs that do not fit": ("0.5*one + 0.5*odd", "out/bad.safetensors", nothing, 9, "shape-mismatch"),
    "a source that is missing": ("0.5*one + 0.5*gone", "out/bad.safetensors", nothing, 4, "source-missing"),
    "a configuration that nobody has": (
        '0.5*one + 0.5*two"\nconfig = "one', "out/bad/", nothing, 3, "no-config",
    ),
}  # fmt: skip


@pytest.fixture
def models(space: Space) -> Space:
    """Two models that fit together, and one that does not."""
    space.model("one.safetensors", sd15(1))
    space.model("two.safetensors", sd15(2))
    space.model("odd.safetensors", {name: torch.zeros(3, 5) for name in sd15(1)})
    return space


@pytest.mark.parametrize("name", HINDRANCES)
def test_what_a_plan_calls_blocked_a_build_refuses(models: Space, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    formula, output, hinder, code, problem = HINDRANCES[name]
    models.write(GOOD + BAD.format(formula, output))
    hinder(models, monkeypatch)

    planned = models.plan(code=code)
    before = models.tree()
    refused = models.run("build", "--json", code=code).json

    assert planned.verdicts == {"good": "build", "bad": "blocked", "after": "blocked"}
    assert planned.document["ok"] is False
    assert planned["bad"]["error"]["code"] == planned["after"]["error"]["code"] == problem
    assert planned["bad"]["error"]["message"] in planned["bad"]["reasons"]
    assert [error["code"] for error in planned.document["errors"]] == [problem]
    after = models.tree()
    after.pop(".mergebuild", None)
    assert after == {name: content for name, content in before.items() if name != ".mergebuild"}  # before any work
    codes = {error["code"] for error in refused["errors"]}
    assert codes == {problem}
    verdicts = {each["target"]: each["verdict"] for each in refused["targets"]}
    assert f"error[{problem}]" in models.run("build", "-n", code=code).err

    built = models.build("-k", code=code)
    assert built.verdicts["good"] == "built"
    assert verdicts == built.verdicts | {"good": "skipped"}
    assert {built.verdicts["bad"], built.verdicts["after"]} <= {"failed", "skipped"}
    assert not (models / "out/after.safetensors").exists()
    assert models.plan(code=code).verdicts == {"good": "up-to-date", "bad": "blocked", "after": "blocked"}
    assert models.plan("good").verdicts == {"good": "up-to-date"}


@pytest.mark.parametrize("name", HINDRANCES)
def test_a_blocked_target_hides_no_other(models: Space, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    formula, output, hinder, *_ = HINDRANCES[name]
    models.write(GOOD + BAD.format(formula, output))
    models.build("good")
    hinder(models, monkeypatch)

    assert models.states()["good"] == "up-to-date"
    assert models.states().keys() == {"good", "bad", "after"}
    assert models.json("why", "good")["verdict"] == "up-to-date"
    why = models.json("why", "bad")
    assert (why["verdict"], why["reasons"]) == ("blocked", list(models.plan("bad", code=None)["bad"]["reasons"]))
    assert models.json("lineage", "good")["proportions"] == {"one": "1/2", "two": "1/2"}
    damaged = name == "changed by hand"  # which a disk can do as well
    assert "out/good.safetensors" in models.json("verify", "--rebuild", code=5 if damaged else 0)["checked"]


def test_a_disk_that_is_too_small_blocks_what_goes_there(models: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(GOOD)
    models.build()
    models.write(GOOD + BAD.format(FINE, "out/bad.safetensors"))
    monkeypatch.setattr(platform, "free_space", lambda _: 1000)

    planned = models.plan(code=7)

    assert planned.verdicts == {"good": "up-to-date", "bad": "blocked", "after": "blocked"}
    assert planned["bad"]["error"]["code"] == "no-space"
    assert models.refused("build", code=7).errors == ["no-space"]
    assert models.plan("good").document["ok"] is True


def test_code_that_is_not_trusted_blocks_what_runs_it(models: Space) -> None:
    models.write("def blend(a, b, alpha):\n    return a\n", "blend.py")
    models.write(
        GOOD
        + """
        [methods.blend]
        file = "blend.py"
        inputs = ["a", "b"]
        parameters.alpha = {}
        [targets.own]
        method = "blend"
        a = "one"
        b = "two"
        alpha = 0.5
        output = "out/own.safetensors"
        """
    )

    assert models.plan(code=10).verdicts == {"good": "build", "own": "blocked"}
    assert models.refused("build", code=10).errors == ["not-trusted"]
    assert models.build("-k", code=10).verdicts == {"good": "built", "own": "failed"}
    assert models.plan(code=10).verdicts == {"good": "up-to-date", "own": "blocked"}
    models.run("trust")
    assert models.plan().verdicts == {"good": "up-to-date", "own": "build"}


SHARING = """
[sources]
one = "one.safetensors"
two = "two.safetensors"

[targets.x]
formula = "0.5*one + 0.5*two"
output = "{}"

[targets.y]
formula = "0.5*two + 0.5*one"
output = "out/y.safetensors"

[targets.z]
formula = "p*one + q*two"
p = {{ default = 0.5, IN = 0.25 }}
q = {{ default = 0.5, IN = 0.75 }}
output = "out/z.safetensors"

[targets.f]
formula = "0.5*two + 0.5*one"
output = "out/f/"

[targets.g]
formula = "0.5*one + 0.5*two"
output = "out/g/"
"""


@pytest.mark.parametrize("output", ["out/x.safetensors", "../elsewhere/x.safetensors", "out/x/", "../elsewhere/x/"])
def test_what_shares_tensors_with_a_blocked_target_is_planned_without_it(models: Space, output: str) -> None:
    """What is equal to it is made, and what shares tensors with it computes them."""
    models.write(SHARING.format(output))
    if "elsewhere" not in output:
        there = models / output
        there = there / "model.safetensors" if output.endswith("/") else there
        there.parent.mkdir(parents=True)
        there.write_bytes(b"mine")

    planned = models.plan(code=None)
    built = models.build("-k", code=None)

    assert planned.verdicts == {"x": "blocked", "y": "build", "z": "build", "f": "build", "g": "restore"}
    assert built.verdicts == {"x": "failed", "y": "built", "z": "built", "f": "built", "g": "restored"}
    for name in ("y", "z", "f", "g"):
        for key in ("tensors_computed", "tensors_reused", "bytes_written", "artifact"):
            assert built[name][key] == planned[name][key], f"{key} of {name}"
    assert planned["y"]["tensors_computed"] > planned["z"]["tensors_computed"] > 0
    assert planned["y"]["reasons"] == ["never built"]
    assert planned["g"]["reasons"] == ["never built", "it is what `y` is", "it is what `f` is"]


def test_what_no_room_is_left_for_is_nobodys_twin(models: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(SHARING.format("full/x.safetensors"))
    monkeypatch.setattr(gate, "_device", lambda folder: "full" in Path(folder).parts)
    monkeypatch.setattr(platform, "free_space", lambda folder: 1000 if "full" in Path(folder).parts else 1 << 40)
    (models / "full").mkdir()

    planned, built = models.plan(code=7), models.build("-k", code=7)

    assert planned.verdicts == {"x": "blocked", "y": "build", "z": "build", "f": "build", "g": "restore"}
    assert built.verdicts == {"x": "failed", "y": "built", "z": "built", "f": "built", "g": "restored"}
    assert built.computed == planned.computed


def test_what_is_up_to_date_needs_no_word_again(models: Space) -> None:
    """Nothing would be written: neither a closer look at it nor a lock makes a difference."""
    models.write(GOOD.replace('gone = "gone.safetensors"\n', "") + BAD.format(FINE, "../elsewhere/bad.safetensors"))
    models.run("trust")
    models.build()
    models.run("lock")
    shutil.rmtree(Path(os.environ["XDG_CONFIG_HOME"]))
    os.utime(models / "two.safetensors")

    for _ in range(2):
        assert set(models.plan().verdicts.values()) == {"up-to-date"}
        os.utime(models / "two.safetensors")
        assert set(models.build().verdicts.values()) == {"up-to-date"}
        assert set(models.build("--locked").verdicts.values()) == {"up-to-date"}
    (models.root.parent / "elsewhere/bad.safetensors").unlink()
    assert models.plan(code=10).verdicts == {"good": "up-to-date", "bad": "blocked", "after": "up-to-date"}


def test_what_only_stands_between_tensors_is_computed_once(models: Space) -> None:
    """For the first target that needs it; whoever is just that has it ready."""
    models.model("three.safetensors", sd15(3))
    models.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        three = "three.safetensors"
        [targets.skills]
        method = "ties"
        base = "one"
        models = ["two", "three"]
        weight = 0.5
        density = 0.5
        [targets.more]
        method = "slerp"
        a = "skills"
        b = "one"
        t = 0.5
        [targets.mix]
        method = "weighted_sum"
        a = "more"
        b = "one"
        alpha = 0.25
        output = "out/mix.safetensors"
        [targets.file]
        method = "ties"
        base = "one"
        models = ["two", "three"]
        weight = 0.5
        density = 0.5
        dtype = "float32"
        output = "out/file.safetensors"
        """
    )
    for order in (("mix", "skills", "more", "file"), ("skills", "mix", "more"), ("file", "more", "skills", "mix")):
        shutil.rmtree(models / ".mergebuild", ignore_errors=True)
        shutil.rmtree(models / "out", ignore_errors=True)
        planned, built = models.plan(*order), models.build(*order)
        for name in order:
            for key in ("tensors_computed", "tensors_reused", "bytes_written"):
                assert built[name][key] == planned[name][key], f"{key} of {name} in {order}"
        if order[0] == "mix":
            assert [planned[name]["tensors_computed"] > 0 for name in order] == [True, False, False, False]


def test_of_very_many_problems_the_first_are_told_and_every_row(models: Space) -> None:
    models.write(
        GOOD
        + """
        [targets.mix]
        foreach.alpha = { from = 0.001, to = 0.503, step = 0.001 }
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${alpha}"
        output = "out/mix-${alpha}.safetensors"
        """
    )
    (models / "out").mkdir()
    for number in range(1, 504):
        (models / f"out/mix-0.{str(number).zfill(3).rstrip('0')}.safetensors").write_bytes(b"mine")

    for command in (("plan",), ("build",), ("build", "-n")):
        outcome = models.run(*command, "--json", code=1)
        assert sum(each["error"] is not None for each in outcome.json["targets"]) == 503
        assert (outcome.errors[-1], len(outcome.errors)) == ("too-many-mistakes", 501)
        assert outcome.err.count("error[") == 501


def test_the_first_blocked_target_says_the_exit_code(models: Space) -> None:
    """For `plan` and `build` alike, whatever kinds there are; all are told."""
    lost = '[targets.lost]\nformula = "0.5*one + 0.5*gone"\noutput = "out/lost.safetensors"\n'
    misfit = '[targets.misfit]\nformula = "0.5*one + 0.5*odd"\noutput = "out/misfit.safetensors"\n'
    hand = f'[targets.hand]\nformula = "{FINE}"\noutput = "out/hand.safetensors"\n'
    (models / "out").mkdir()
    (models / "out/hand.safetensors").write_bytes(b"mine")
    told = {"source-missing", "shape-mismatch", "changed-by-hand"}
    for first, rest, code in ((lost, misfit + hand, 4), (misfit, hand + lost, 9), (hand, lost + misfit, 1)):
        models.write(GOOD + first + rest)
        assert {error["code"] for error in models.plan(code=code).document["errors"]} == told
        assert set(models.refused("build", code=code).errors) == told
        models.build("-k", code=code)


def test_a_member_that_is_wrong_hides_no_other(models: Space) -> None:
    """Of a family only the first member is read with the mergefile."""
    models.write(
        GOOD
        + """
        [targets.mix]
        foreach.alpha = [0.25, "much"]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${alpha}"
        output = "out/mix-${alpha}.safetensors"
        """
    )

    verdicts = models.plan(code=3).verdicts
    assert verdicts == {"good": "build", "mix@alpha=0.25": "build", "mix@alpha=much": "blocked"}
    assert models.build("-k", code=3).verdicts == {
        "good": "built", "mix@alpha=0.25": "built", "mix@alpha=much": "failed",
    }  # fmt: skip
    assert models.states() == {"good": "up-to-date", "mix@alpha=0.25": "up-to-date", "mix@alpha=much": "missing"}
    assert models.json("why", "mix@alpha=much")["verdict"] == "blocked"
    assert models.json("gc", "-n")["removed"] == []
    assert len(models.json("clean", "--yes", "-n")["removed"]) == 2


def test_a_lock_that_can_not_be_whole_says_everything_that_is_wrong(models: Space) -> None:
    """And is not written: what it lacks would be refused by whoever holds to it."""
    models.write(
        GOOD.replace('gone = "gone.safetensors"\n', "")
        + BAD.format("0.5*one + 0.5*odd", "out/bad.safetensors")
        + """
        [targets.mix]
        foreach.alpha = [0.25, "much"]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${alpha}"
        output = "out/mix-${alpha}.safetensors"
        """
    )
    assert set(models.refused("lock", code=9).errors) == {"shape-mismatch", "wrong-type"}


def test_verify_rebuilds_what_it_can(models: Space) -> None:
    """A target whose sources went away since is told of, and the others are compared."""
    models.write(GOOD + BAD.format(FINE, "out/bad.safetensors").replace("two", "odd"))
    models.model("odd.safetensors", sd15(3))
    models.build()
    (models / "odd.safetensors").unlink()

    found = models.json("verify", "--rebuild", code=4)
    assert [error["code"] for error in found["errors"]] == ["source-missing"]
    assert len(found["checked"]) == 3
    assert found["bytes_read"] > sum((models / path).stat().st_size for path in found["checked"])

    models.edit("0.5*one + 0.5*two", "0.25*one + 0.75*two")
    codes = [error["code"] for error in models.json("verify", "--rebuild", code=6)["errors"]]
    assert codes == ["stale", "source-missing"]


def test_why_says_what_is_the_matter_with_whatever_there_is(models: Space) -> None:
    models.write(GOOD + BAD.format("0.5*one + 0.5*gone", "out/bad.safetensors"))

    assert models.json("why", "good")["reasons"] == ["never built"]
    blocked = models.json("why", "bad")
    assert (blocked["verdict"], blocked["changes"]) == ("blocked", [])
    assert blocked["reasons"] == ["source `gone` is missing: no file `gone.safetensors`"]
    assert "error[source-missing]" in models.run("why", "bad").err


def test_every_source_that_is_missing_is_named(models: Space) -> None:
    models.write(GOOD.replace('two = "two', 'two = "far') + BAD.format("0.5*gone + 0.5*two", "out/bad.safetensors"))

    for command in (("plan", "bad"), ("build", "bad"), ("lineage", "bad")):
        outcome = models.run(*command, "--json", code=4)
        assert sorted(error["message"] for error in outcome.json["errors"]) == [
            "source `gone` is missing: no file `gone.safetensors`",
            "source `two` is missing: no file `far.safetensors`",
        ]
    assert len(models.plan("bad", code=4)["bad"]["reasons"]) == 2


def test_force_is_planned_with(models: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(GOOD + BAD.format(FINE, "out/bad.safetensors"))
    by_hand(models, monkeypatch)

    assert models.json("build", "-n", "--force")["targets"][1]["verdict"] == "build"
    models.build("--force")
    assert set(models.plan().verdicts.values()) == {"up-to-date"}


def test_a_file_that_is_the_result_is_not_in_the_way(models: Space) -> None:
    """The records were lost, and the outputs were not: before the sources are read their size tells."""
    models.write(GOOD + BAD.format(FINE, "out/bad.safetensors"))
    models.build()
    shutil.rmtree(models / ".mergebuild")

    assert set(models.plan().verdicts.values()) == {"build"}
    assert set(models.build().verdicts.values()) == {"built"}
    assert set(models.plan().verdicts.values()) == {"up-to-date"}
