"""`MERGEBUILD_TRACE=FILE` and `build --profile`: what a command did when; nothing else depends on it."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from project_space import Space
from tiny_models import sd15


def events(path: Path) -> list[dict[str, Any]]:
    """Return the spans of a trace; it must be one JSON document."""
    found: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return [each for each in found if each["ph"] != "M"]


@pytest.fixture
def path(space: Space, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the trace of each command of this test goes."""
    monkeypatch.setenv("MERGEBUILD_TRACE", "trace.json")
    return space / "trace.json"


def test_a_build_is_told_from_the_recipe_to_the_record(pair: Space, path: Path) -> None:
    """With targets and tensors, in each thread in order."""
    built = pair.build("-j", "2")

    found = events(path)
    names = Counter(each["name"] for each in found)
    order = [each["name"] for each in sorted(found, key=lambda each: float(each["ts"])) if each["cat"] == "phase"]
    assert list(dict.fromkeys(order)) == [
        "command", "import", "stamp", "recipe", "fresh", "plan", "open", "hash", "describe", "judge", "weigh", "refuse",
        "pass", "publish", "record",
    ]  # fmt: skip
    of = {each["name"]: each["args"] for each in found}
    assert of["command"] == {"words": "build -j 2 --json"}
    assert of["pass"]["targets"] == ["mix"]
    assert of["publish"] == {"target": "mix", "file": "out/mix.safetensors"}
    made = {tensor for each in found if each["name"] == "make" for tensor in each["args"]["tensors"]}
    assert made < set(pair.read("out/mix.safetensors"))
    assert len(made) == built["mix"]["tensors_computed"]
    assert names["copy"] > 0
    assert names["write"] >= len(made)
    whole = next(each for each in found if each["name"] == "command")
    assert all(each["ts"] >= whole["ts"] for each in found)


def test_sources_never_seen_are_merged_while_they_are_hashed(
    pair: Space, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergebuild.plan.describe.SMALL", 0)

    pair.run("build")

    made = [each["args"]["tensors"] for each in events(path) if each["name"] == "make at first sight"]
    assert {tensor for tensors in made for tensor in tensors} == set(pair.read("out/mix.safetensors"))


@pytest.mark.parametrize(
    "arguments",
    [("plan",), ("status",), ("why", "mix"), ("lineage", "mix"), ("list",), ("verify",), ("gc", "-n"), ("lock",)],
    ids=" ".join,
)
def test_every_verb_has_one(pair: Space, path: Path, arguments: tuple[str, ...]) -> None:
    pair.run(*arguments)

    (whole,) = [each for each in events(path) if each["name"] == "command"]
    assert whole["args"]["words"] == " ".join(arguments)


def test_it_changes_no_byte(pair: Space, path: Path) -> None:
    pair.run("build")
    traced = pair.bytes("out/mix.safetensors")
    pair.process("clean", "-y", env={"MERGEBUILD_TRACE": ""})
    path.unlink()

    pair.process("build", env={"MERGEBUILD_TRACE": ""})

    assert pair.bytes("out/mix.safetensors") == traced
    assert not path.exists()


def test_a_build_that_fails_has_a_whole_one(pair: Space, path: Path) -> None:
    model = sd15(2)
    next(iter(model.values())).view(-1)[0] = float("nan")
    pair.model("two.safetensors", model)

    pair.run("build", code=1)

    assert {"pass", "publish", "command"} <= {each["name"] for each in events(path)}


def test_a_mistake_of_the_mergefile_is_in_it(pair: Space, path: Path) -> None:
    pair.edit("alpha = 0.3", "alpah = 0.3")

    pair.run("build", code=3)

    assert {each["name"]: each["args"].get("error") for each in events(path)}["command"] == "RecipeError"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_a_build_that_is_ended_has_a_whole_one(large: Space, path: Path, number: signal.Signals) -> None:
    """An interrupt ends what was under way; of a kill it is whole, too, as far as it goes."""
    process = large.spawn("build", "-j", "1")
    deadline = time.monotonic() + 60
    # What the trace has is written ten times a second: a kill before the first time leaves an empty one.
    while not (list(large.root.glob("out/.*mergebuild-*")) and b'"recipe"' in path.read_bytes()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    process.communicate(timeout=60)

    found = {each["name"]: each for each in events(path)}
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert number == signal.SIGKILL or found["command"]["args"]["error"] == "KeyboardInterrupt"
    assert "recipe" in found


def test_one_that_cant_be_written_is_told_before_any_work(pair: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no reason to lose a model: what is there and is no trace stays."""
    monkeypatch.setenv("MERGEBUILD_TRACE", "one.safetensors")

    refused = pair.refused("build", code=2)

    assert refused.err == (
        "error[no-trace-file]: the trace `one.safetensors` is there, and is no trace of mergebuild\n"
        "  help: MERGEBUILD_TRACE names it: a new file, or a trace that is to be replaced\n"
    )


def test_one_that_ends_early_is_told_and_the_build_is_done(
    pair: Space, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = "mergebuild.system.trace.TraceFile._flush"
    calls: list[int] = []

    def flush(_file: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(real, flush)

    built = pair.run("build")

    assert built.err.endswith("the trace `trace.json` ends early: no space left on device\n")
    assert (pair / "out/mix.safetensors").exists()
    assert events(path) == []


# Single tensors


def test_a_verbose_plan_lists_tensors_with_what_becomes_of_each(pair: Space) -> None:
    """Of each target the first 200; then how many more there are."""
    pair.model("one.safetensors", {f"w{each:03}": torch.tensor([float(each)]) for each in range(203)})
    pair.model("two.safetensors", {f"w{each:03}": torch.tensor([float(each % 200)]) for each in range(203)})

    lines = pair.run("plan", "-v").out.splitlines()

    assert lines[1:3] == ["    never built", "    copied  one  w000"]
    assert lines[202] == "    and 3 more tensors (-vv shows all)"
    assert [line for line in pair.run("plan", "-vv").out.splitlines() if "w20" in line] == [
        "    computed  one, two  w200",
        "    computed  one, two  w201",
        "    computed  one, two  w202",
    ]
    tensors = pair.json("plan", "-v")["targets"][0]["tensors"]
    assert len(tensors) == 203
    assert tensors[200] == {"tensor": "w200", "how": "computed", "from": ["source one", "source two"], "bytes": 4}
    assert "tensors" not in pair.json("plan")["targets"][0]


# Profiles


def test_a_profile_stands_below_what_was_built(pair: Space) -> None:
    """Phases in the order of work, then what threads did; asked for, it is shown to the quiet too."""
    lines = pair.run("build", "--profile", "-q").out.splitlines()

    begin, threads = lines.index("where the time went:"), lines.index("in all threads:")
    assert begin == 0
    names = [line.split()[0] for line in lines[1:threads]]
    assert names[-2:] == ["other", "in"]
    assert {"recipe", "open", "hash", "plan", "pass", "publish", "record"} <= set(names)
    assert [line.split()[0] for line in lines[threads + 1 :]] == ["computing", "reading", "writing", "waiting"]


def test_a_profile_is_in_the_document_when_it_is_asked_for(pair: Space) -> None:
    assert "profile" not in pair.build().document
    pair.edit("alpha = 0.3", "alpha = 0.4")

    found = pair.build("--profile").document["profile"]

    assert found.keys() == {"seconds", "phases", "threads"}
    assert sum(found["phases"].values()) == pytest.approx(found["seconds"], abs=0.02)
    assert found["phases"].keys() >= {"stamp", "recipe", "pass", "other"}


def test_a_build_that_is_refused_has_a_profile(pair: Space) -> None:
    (pair / "one.safetensors").unlink()

    found = pair.json("build", "--profile", code=4)

    assert found["profile"]["phases"].keys() >= {"recipe", "plan"}


def test_what_builds_nothing_has_no_profile(pair: Space) -> None:
    refused = pair.refused("build", "-n", "--profile", code=2)

    assert refused.err == (
        "error[dry-run-with-profile]: `-n` builds nothing that could have a profile\n"
        "  help: MERGEBUILD_TRACE=FILE shows where a plan's time goes\n"
    )
