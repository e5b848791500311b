"""Each command calls its verb with what the arguments say, prints the answer, and exits as the contract says."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from program_under_test import FakeProject, Mergebuild

from mergebuild.errors import Problem
from mergebuild.events import Notice, silent
from mergebuild.recipe.overrides import raw_variable
from mergebuild.report.console import Console
from mergebuild.results.build import BuildResult, PlanResult, TargetResult, Verdict
from mergebuild.results.looks import (
    CleanResult,
    KeyLine,
    Lineage,
    OutputState,
    StatusResult,
    TargetState,
    TensorWhy,
    Trusted,
    VerifyResult,
    WhatItIs,
    WhyResult,
)

CURRENT = TargetResult("orange", Verdict.UP_TO_DATE, "out/orange.safetensors")
NOTHING = BuildResult(True, 0.04, 0, 0, (CURRENT,))
PLAN = PlanResult(0.1, (TargetResult("orange", Verdict.BUILD, "out/o.safetensors", reasons=("new",)),), 5, 10)

BUILD_DEFAULTS: dict[str, Any] = {
    "keep_going": False,
    "threads": None,
    "device": "auto",
    "force": False,
    "locked": False,
    "durable": False,
    "out": None,
    "dtype": None,
    "lock_timeout": None,
}


def test_build_with_nothing_to_do_prints_one_line(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = NOTHING
    found = mergebuild("build")
    assert (found.code, found.out, found.err) == (0, "nothing to do: 1 target is up to date (0.04 s)\n", "")
    verb, arguments, options = project.call
    assert (verb, arguments) == ("build", ((),))
    assert options.pop("emit") is not silent
    assert options == BUILD_DEFAULTS


def test_build_passes_every_option_on(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = NOTHING
    given = "build a b -k -j 3 --device cpu --force --locked --durable --lock-timeout 90"
    mergebuild(*given.split())
    _, arguments, options = project.call
    assert arguments == (("a", "b"),)
    del options["emit"]
    assert options == BUILD_DEFAULTS | {
        "keep_going": True,
        "threads": 3,
        "device": "cpu",
        "force": True,
        "locked": True,
        "durable": True,
        "lock_timeout": 90.0,
    }


def test_build_of_one_target_elsewhere(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = NOTHING
    mergebuild("build", "a", "-o", "x.safetensors", "--dtype", "float16", "--lock-timeout", "5m")
    options = project.call[2]
    assert (options["out"], options["dtype"], options["lock_timeout"]) == ("x.safetensors", "float16", 300.0)


def test_quiet_build_prints_nothing(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = NOTHING
    found = mergebuild("build", "-q")
    assert (found.code, found.out, found.err) == (0, "", "")


def test_events_of_a_build_go_to_stderr(project: FakeProject, mergebuild: Mergebuild) -> None:
    def build(_targets: object, *, emit: Callable[[object], None], **_options: object) -> BuildResult:
        emit(Notice("EMA copies are dropped"))
        return NOTHING

    project.answers["build"] = build
    found = mergebuild("build", "--json")
    assert found.err == "note: EMA copies are dropped\n"
    assert found.json["targets"][0]["verdict"] == "up-to-date"


def test_a_failed_target_is_in_the_document_and_on_stderr_with_the_builds_exit_code(
    project: FakeProject, mergebuild: Mergebuild
) -> None:
    problem = Problem("not-finite", "target `x` has NaN")
    failed = TargetResult("x", Verdict.FAILED, "out/x.safetensors", error=problem)
    project.answers["build"] = BuildResult(False, 1.0, 0, 0, (failed,), 1, (problem,))
    found = mergebuild("build", "x", "--json")
    assert found.code == 1
    assert found.json == project.answers["build"].to_json() | {"errors": [problem.to_json()]}
    assert "error[not-finite]: target `x` has NaN" in found.err
    plain = mergebuild("build", "x")
    assert plain.out.startswith("failed  out/x.safetensors")
    assert plain.err == found.err


@pytest.mark.parametrize(
    "arguments",
    [
        "build --device tpu",
        "build --device cuda:",
        "build a --dtype float16",
        "build -o x.safetensors",
        "build a b -o x.safetensors",
        "build a -n -o x.safetensors",
        "build a -o x.safetensors --dtype float17",
        "build -j 0",
        "build --lock-timeout soon",
        "build --set m",
        "build --vars missing.toml",
        "build --oops",
        "gc --max-size big",
        "gc --max-size 20",
        "gc --older-than old",
        "why",
        "why a b",
        "lineage",
        "list things",
        "graph --format svg",
        "methods tis",
        "methods weighted_sum --set m=1",
        "oops",
        "-C missing build",
    ],
)
def test_a_wrong_command_line_exits_with_2_and_calls_nothing(
    arguments: str, project: FakeProject, mergebuild: Mergebuild
) -> None:
    found = mergebuild(*arguments.split(), "--json")
    assert found.code == 2
    (error,) = found.json["errors"]
    assert error["code"]
    assert found.json["ok"] is False
    assert found.err.startswith(f"error[{error['code']}]: {error['message']}")
    assert error["message"][0] == error["message"][0].lower()
    assert project.calls == []


def test_dry_run_is_plan(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["plan"] = PLAN
    assert mergebuild("build", "-n", "orange").out == mergebuild("plan", "orange").out
    assert [call[:2] for call in project.calls] == [("plan", (("orange",),))] * 2


def test_plan_prints_a_blocked_targets_error(project: FakeProject, mergebuild: Mergebuild) -> None:
    problem = Problem("source-missing", "source `a` is missing")
    blocked = TargetResult("x", Verdict.BLOCKED, error=problem)
    project.answers["plan"] = PlanResult(0.1, (blocked,), 0, 10, problems=(problem,))
    found = mergebuild("plan", "--json")
    assert found.json["ok"] is False
    assert found.json["errors"] == [problem.to_json()]
    assert "error[source-missing]" in found.err


@pytest.mark.parametrize(("state", "flag", "code"), [
    (OutputState.UP_TO_DATE, "--exit-code", 0),
    (OutputState.STALE, "--exit-code", 8),
    (OutputState.MISSING, "--exit-code", 8),
    (OutputState.CHANGED_BY_HAND, "--exit-code", 8),
    (OutputState.STALE, "--verbose", 0),
])  # fmt: skip
def test_status_exits_with_8_on_demand_unless_all_are_up_to_date(
    state: OutputState, flag: str, code: int, project: FakeProject, mergebuild: Mergebuild
) -> None:
    project.answers["status"] = StatusResult((TargetState("orange", state, "out/o.safetensors"),), ())
    found = mergebuild("status", flag)
    assert (found.code, found.err) == (code, "")
    assert found.out.split() == [state.value, "orange", "out/o.safetensors"]
    assert mergebuild("status", flag, "--json").json == project.answers["status"].to_json()


def test_why_and_lineage_take_one_target(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["why"] = WhyResult("orange", Verdict.BUILD, (), ("alpha[IN04] 0.35 -> 0.4",))
    project.answers["lineage"] = Lineage("orange", True, {"a": "1/2", "b": "1/2"}, {}, ())
    assert mergebuild("why", "orange").out == "alpha[IN04] 0.35 -> 0.4\n"
    assert mergebuild("lineage", "orange").out == "orange = 1/2 a + 1/2 b\n"
    assert mergebuild("lineage", "orange", "--json").json == {
        "target": "orange",
        "linear": True,
        "proportions": {"a": "1/2", "b": "1/2"},
        "by_block": {},
        "rounded_at": [],
    }
    assert [call[:2] for call in project.calls] == [("why", ("orange",)), *[("lineage", ("orange",))] * 2]


def test_why_of_a_tensor_is_its_lines(project: FakeProject, mergebuild: Mergebuild) -> None:
    what = WhatItIs("xxh3-128:aa", None)
    told = TensorWhy("w", None, what, (KeyLine("method", None, "linear@1"),), "never built")
    project.answers["why"] = WhyResult("orange", Verdict.BUILD, (), ("never built",), (), told)
    assert mergebuild("why", "orange", "--tensor", "w").out.splitlines()[-1] == "    method  linear@1"
    assert mergebuild("why", "orange", "--tensor", "w", "--json").json["tensor"] == told.to_json()
    assert [(arguments, options["tensor"]) for _, arguments, options in project.calls] == [(("orange",), "w")] * 2


def test_verify_exits_as_its_result_says(project: FakeProject, mergebuild: Mergebuild) -> None:
    problem = Problem("damaged", "artifact `x` is damaged")
    project.answers["verify"] = VerifyResult(("x",), 10, (problem,), exit_code=5)
    found = mergebuild("verify", "--rebuild", "--json")
    assert found.code == 5
    assert found.json["errors"] == [problem.to_json()]
    assert "error[damaged]" in found.err
    _, arguments, options = project.call
    assert (arguments, options["rebuild"]) == (((),), True)


def test_gc_reads_sizes_and_ages(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["gc"] = CleanResult((), bytes_freed=5)
    assert mergebuild("gc", "--max-size", "20GB", "--older-than", "30d", "-n").out.endswith("freed 5 B\n")
    assert project.call[2] == {
        "max_size": 20 * 10**9,
        "older_than": 30 * 86400.0,
        "dry_run": True,
        "lock_timeout": None,
    }


def test_a_size_without_a_unit_is_told_how_to_be_written(mergebuild: Mergebuild) -> None:
    """Who writes 20 means gigabytes: as bytes it would take the whole history."""
    found = mergebuild("gc", "--max-size", "20")
    assert found.code == 2
    assert "`--max-size`: `20` is no size, for it has no unit\n  help: write `20GB`\n" in found.err


def test_clean_prints_the_bytes_freed(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["clean"] = CleanResult(("out/old.safetensors",), bytes_freed=2_000_000)
    found = mergebuild("clean", "a", "--orphans")
    assert found.out == "removed out/old.safetensors\nfreed 2.0 MB\n"
    assert project.call[1:] == ((("a",),), {"orphans": True, "dry_run": False, "lock_timeout": None})


@pytest.mark.parametrize("arguments", ["clean a", "clean --orphans", "clean -n", "clean --yes", "clean -y --json"])
def test_clean_asks_nothing_where_it_is_said_what_is_meant(
    project: FakeProject, mergebuild: Mergebuild, arguments: str
) -> None:
    project.answers["clean"] = CleanResult(())
    assert mergebuild(*arguments.split()).code == 0
    assert project.call[2]["dry_run"] is ("-n" in arguments)


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "yesterday\n"])
def test_clean_of_all_targets_asks_on_a_terminal(
    project: FakeProject, mergebuild: Mergebuild, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """With what would go and how much that is; whatever is not yes is no."""
    monkeypatch.setattr(Console, "can_ask", lambda _: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    project.answers["clean"] = CleanResult(("out/a.safetensors", "out/b.safetensors"), bytes_freed=3_000_000)
    found = mergebuild("clean")
    assert (found.code, found.out) == (0, "nothing was removed\n")
    assert "out/a.safetensors\n" in found.err
    assert "remove 2 files, 3.0 MB? [y/N] " in found.err
    assert project.call[2]["dry_run"] is True


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_clean_of_all_targets_goes_on_when_the_answer_is_yes(
    project: FakeProject, mergebuild: Mergebuild, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(Console, "can_ask", lambda _: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    project.answers["clean"] = CleanResult(("out/a.safetensors",), bytes_freed=3_000_000)
    assert mergebuild("clean", "--json").json["removed"] == ["out/a.safetensors"]
    assert [options["dry_run"] for _, _, options in project.calls] == [True, False]
    assert project.calls[-1][2]["foreseen"] is project.answers["clean"]  # a build may have ended since it was shown


def test_clean_of_all_targets_is_refused_where_nobody_can_be_asked(
    project: FakeProject, mergebuild: Mergebuild
) -> None:
    found = mergebuild("clean", "--json")
    assert found.code == 2
    assert [error["code"] for error in found.json["errors"]] == ["clean-all"]
    assert "--yes" in found.json["errors"][0]["help"]
    assert project.calls == []


def test_lock_and_trust_say_what_they_wrote(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["lock"] = Path("mergefile.lock")
    project.answers["trust"] = Trusted(("/elsewhere",), ("blend.py",))
    assert mergebuild("lock").out == "wrote mergefile.lock\n"
    assert project.calls[-1][2]["check"] is False
    assert mergebuild("lock", "--json").json == {"ok": True, "lock": "mergefile.lock"}
    assert mergebuild("lock", "--check").out == "mergefile.lock is up to date\n"
    assert project.calls[-1][2]["check"] is True
    assert mergebuild("trust").out == "trusted: /elsewhere\ntrusted to run: blend.py\n"
    assert mergebuild("trust", "--json").json == {"ok": True, "trusted": ["/elsewhere", "blend.py"]}


def test_overrides_and_variables_reach_the_recipe_as_exact_numbers(
    project: FakeProject, mergebuild: Mergebuild, tmp_path: Path
) -> None:
    project.answers["plan"] = PLAN
    (tmp_path / "v.toml").write_text("m = 0.1\nn = 1\n")
    (tmp_path / "v.json").write_text('{"m": 0.2}')
    mergebuild("plan", "--set", "m=0.4", "--set", "orange.alpha=1", "--vars", "v.toml", "--vars", "v.json")
    assert project.overrides == ("m=0.4", "orange.alpha=1")
    assert project.variables == {"m": Fraction(2, 10), "n": 1}


def test_variables_may_come_from_standard_input(
    project: FakeProject, mergebuild: Mergebuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.answers["plan"] = PLAN
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"m": 0.3}')))
    assert mergebuild("plan", "--vars", "-").code == 0
    assert project.variables == {"m": Fraction(3, 10)}


@pytest.mark.parametrize("text", ["{", "m = ", '{"m": 1} x', "[1, 2]"])
def test_variables_that_are_neither_toml_nor_json_are_a_usage_error(
    text: str, project: FakeProject, mergebuild: Mergebuild, tmp_path: Path
) -> None:
    (tmp_path / "v").write_text(text)
    found = mergebuild("plan", "--vars", "v")
    assert found.code == 2
    assert "error[vars-invalid]" in found.err


class Endless(io.RawIOBase):
    """A stream of so many bytes that reading them all is no option."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        self.given = getattr(self, "given", 0) + len(buffer)
        assert self.given < 1 << 24
        buffer[:] = b"#" * len(buffer)
        return len(buffer)


def test_variables_without_end_are_refused_by_their_size(
    project: FakeProject, mergebuild: Mergebuild, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file is not even read; of a stream no more than shows it."""
    with (tmp_path / "v").open("wb") as file:
        file.truncate(1 << 40)
    found = mergebuild("plan", "--vars", "v")
    assert (found.code, "at most 1,048,576 are read" in found.err) == (2, True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    found = mergebuild("plan", "--vars", "-")
    assert (found.code, found.err) == (
        2, "error[vars-unreadable]: cannot read variables from `-`: it has more than 1,048,576 bytes\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/dev/zero", "it is a pipe, a socket or a device, not a file"),
        ("pipe", "it is a pipe that nobody writes to"),
    ],
)
def test_variables_that_never_come_are_refused_at_once(
    project: FakeProject, mergebuild: Mergebuild, tmp_path: Path, path: str, why: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = mergebuild("plan", "--vars", path)
    assert found.code == 2
    assert f"cannot read variables from `{path}`: {why}" in found.err
    assert "`--vars -` reads what a command writes" in found.err


@pytest.mark.processes
def test_variables_from_a_pipe_without_end_are_refused(project: FakeProject, mergebuild: Mergebuild) -> None:
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        found = mergebuild("plan", "--vars", f"/dev/fd/{writer.stdout.fileno()}")
    assert (found.code, "it has more than 1,048,576 bytes" in found.err) == (2, True)


@pytest.mark.processes
@pytest.mark.parametrize("command", ["echo m=0.3", "(printf m=; sleep 0.3; echo 0.3)"])
def test_variables_may_come_from_a_pipe(
    project: FakeProject, mergebuild: Mergebuild, tmp_path: Path, command: str
) -> None:
    """As `--vars <(command)` is, however long the command takes between its writes."""
    project.answers["plan"] = PLAN
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert mergebuild("plan", "--vars", f"/dev/fd/{writer.stdout.fileno()}").code == 0
    assert project.variables == {"m": Fraction(3, 10)}


@pytest.mark.parametrize("text", ["m = 1e", "m = 1e-", '{"m": 1e', '{"m": 1e-'])
def test_variables_may_have_numbers_of_thousands_of_digits(
    text: str, project: FakeProject, mergebuild: Mergebuild, tmp_path: Path
) -> None:
    """They are told as in a mergefile: by whoever knows which variable that is."""
    project.answers["plan"] = PLAN
    (tmp_path / "v").write_text(f"{text}{'9' * 6000}{'}' if '{' in text else ''}")
    assert mergebuild("plan", "--vars", "v").code == 0
    with pytest.raises(ValueError, match="beyond 1e-1000 to 1e1000"):
        raw_variable(project.variables["m"])


@pytest.mark.parametrize(("age", "seconds"), [("0", 0.0), ("30s", 30.0), ("30d", 30 * 86400.0)])
def test_an_age_has_a_unit(age: str, seconds: float, project: FakeProject, mergebuild: Mergebuild) -> None:
    """Whoever writes 30 means days, and by seconds all history would go."""
    project.answers["gc"] = CleanResult(())
    found = mergebuild("gc", "--older-than", "30")
    assert found.code == 2
    assert "`--older-than`: `30` is no time, for it has no unit" in found.err
    assert "help: write `30d` for days" in found.err
    mergebuild("gc", "--older-than", age)
    assert project.call[2]["older_than"] == seconds


@pytest.mark.parametrize("text", ["m = " + "[" * 100_000, '{"m": ' + "[" * 100_000, "m" + ".m" * 20_000 + " = 1"])
def test_variables_that_cost_too_much_are_a_usage_error(
    text: str, project: FakeProject, mergebuild: Mergebuild, tmp_path: Path
) -> None:
    (tmp_path / "v").write_text(text)
    found = mergebuild("plan", "--vars", "v")
    assert (found.code, "error[vars-invalid]" in found.err) == (2, True)


def test_shared_options_stand_before_the_command_or_behind_it(
    project: FakeProject, mergebuild: Mergebuild, tmp_path: Path
) -> None:
    project.answers["plan"] = PLAN
    (tmp_path / "other.toml").touch()
    document = mergebuild("plan", "--json", "-f", "other.toml").json
    assert project.path == Path("other.toml")
    project.path = None
    assert mergebuild("--json", "-f", "other.toml", "plan").json == document
    assert project.path == Path("other.toml")


def test_folders_are_changed_before_anything_else_each_from_the_last(
    project: FakeProject, mergebuild: Mergebuild, tmp_path: Path
) -> None:
    """As in make: `-C a -C b -f x` reads `a/b/x`."""
    project.answers["plan"] = PLAN
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.toml").touch()
    assert mergebuild("-f", "x.toml", "-C", "a", "plan", "-C", "b").code == 0
    assert Path.cwd() == tmp_path / "a/b"
    assert project.path == Path("x.toml")


def test_the_nearest_mergefile_above_is_the_project(
    project: FakeProject, mergebuild: Mergebuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.answers["plan"] = PLAN
    (tmp_path / "deep/down").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/down")
    found = mergebuild("plan", "../../out/o.safetensors", "orange")
    assert project.path == Path("../../mergefile.toml")
    assert project.call[1] == (("out/o.safetensors", "orange"),)
    assert "../../out/o.safetensors" in found.out


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_mergefile_that_cannot_be_looked_at_is_not_passed_over(
    number: int, project: FakeProject, mergebuild: Mergebuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one above is another project, with outputs of its own to clean."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "mergefile.toml").touch()
    monkeypatch.chdir(inner)
    real = os.stat

    def broken(path: Path | str | int, **options: object) -> os.stat_result:
        if path == str(inner / "mergefile.toml"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", broken)
    found = mergebuild("clean", "orange", "--json")
    assert (found.code, found.json["errors"][0]["code"]) == (3, "unreadable-mergefile")
    assert project.calls == []


@pytest.mark.parametrize("arguments", [("build",), ("build", "-f", "missing.toml"), ("build", "-f", ".git")])
def test_without_a_mergefile_the_error_says_how_to_get_one(
    arguments: tuple[str, ...],
    project: FakeProject,
    mergebuild: Mergebuild,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mergefile.toml").unlink()
    (tmp_path / ".git").mkdir()
    found = mergebuild(*arguments, "--json")
    assert found.code in (2, 3)
    assert found.json["ok"] is False
    assert project.calls == []


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path, mergebuild: Mergebuild) -> None:
    (tmp_path / "file").touch()
    found = mergebuild("-C", str(tmp_path / "file"), "build")
    assert (found.code, "is a file, expected a folder" in found.err) == (2, True)
    found = mergebuild("-f", str(tmp_path), "build")
    assert (found.code, "is a folder, expected a file" in found.err) == (2, True)
