"""Whatever ends a command has an exit code, one message and one document."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
import torch
from program_under_test import FakeProject, Mergebuild

from mergebuild import errors
from mergebuild.cli.failures import explained

CODES = {
    errors.TargetError: 1,
    errors.UsageError: 2,
    errors.RecipeError: 3,
    errors.SourceError: 4,
    errors.CorruptionError: 5,
    errors.ResultDiffersError: 6,
    errors.NoSpaceError: 7,
    errors.StatusError: 8,
    errors.MismatchError: 9,
    errors.TrustError: 10,
    errors.LockTimeoutError: 75,
    errors.Interrupted: 130,
}


@pytest.mark.parametrize(("kind", "code"), CODES.items(), ids=lambda each: getattr(each, "__name__", each))
def test_an_error_class_has_the_contracts_exit_code(
    kind: type[errors.MergeBuildError], code: int, project: FakeProject, mergebuild: Mergebuild
) -> None:
    project.answers["build"] = kind.one("some-code", "something is wrong", help="mend it")
    found = mergebuild("build", "--json")
    assert found.code == code
    assert found.json == {
        "ok": False,
        "errors": [{"code": "some-code", "message": "something is wrong", "where": None, "help": "mend it"}],
    }
    assert found.err == "error[some-code]: something is wrong\n  help: mend it\n"
    assert mergebuild("build").out == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_a_full_disk_wherever_it_is_met(
    number: int, project: FakeProject, mergebuild: Mergebuild
) -> None:
    project.answers["build"] = OSError(number, "File too large", "out/x.safetensors")
    found = mergebuild("build", "--json")
    assert found.code == 7
    assert found.json["errors"][0]["code"] == "no-space"
    assert "`out/x.safetensors`" in found.err


def test_a_full_disk_under_the_database_is_a_full_disk() -> None:
    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as full:
            database.executescript("CREATE TABLE a (b); INSERT INTO a VALUES (zeroblob(100000))")
    database.close()
    assert explained(full.value)[0] == 7


def test_what_the_system_refuses_is_said_without_a_traceback(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = PermissionError(errno.EACCES, "Permission denied", "out")
    found = mergebuild("build")
    assert (found.code, found.err) == (1, "error[system]: `out`: permission denied\n")


def test_an_interrupted_build_exits_with_130(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = KeyboardInterrupt()
    found = mergebuild("build", "--json")
    assert found.code == 130
    assert found.json["errors"][0]["code"] == "interrupted"


def test_a_bug_of_ours_shows_its_traceback_and_says_so(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = ZeroDivisionError("oh")
    found = mergebuild("build", "--json")
    assert found.code == 70
    assert found.json["errors"][0]["code"] == "internal"
    assert "Traceback" in found.err
    assert "this is a bug in mergebuild" in found.err
    assert found.err.index("Traceback") < found.err.index("error[internal]: ZeroDivisionError: oh")


def test_an_internal_error_shows_its_traceback_too(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = errors.InternalError.one("broken-law", "a plan has no artifact")
    found = mergebuild("build")
    assert found.code == 70
    assert "Traceback" in found.err
    assert "error[broken-law]" in found.err


def test_a_closed_pipe_is_silent(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = BrokenPipeError()
    found = mergebuild("build")
    assert (found.code, found.out, found.err) == (141, "", "")


def test_all_errors_of_a_recipe_are_shown_in_one_run(project: FakeProject, mergebuild: Mergebuild) -> None:
    project.answers["build"] = errors.RecipeError(
        [errors.Problem("one", "first", errors.Place("m.toml", 2, 1, 1, "x")), errors.Problem("two", "second")]
    )
    found = mergebuild("build", "--json")
    assert [each["code"] for each in found.json["errors"]] == ["one", "two"]
    assert found.json["errors"][0]["where"] == "m.toml:2:1"
    assert "error[one]" in found.err
    assert "error[two]" in found.err


def test_no_command_shows_the_help_on_stderr(mergebuild: Mergebuild) -> None:
    found = mergebuild()
    assert (found.code, found.out) == (2, "")
    assert "Commands:" in found.err
    assert mergebuild("--json").json["errors"][0]["code"] == "no-command"


def test_a_mistyped_command_or_option_gets_a_suggestion(mergebuild: Mergebuild) -> None:
    assert "did you mean `build`?" in mergebuild("bild").err
    assert "did you mean `--keep-going`?" in mergebuild("build", "--keep-goin").err


def sqlite_error(name: str) -> sqlite3.OperationalError:
    """Return an error as SQLite gives it."""
    error = sqlite3.OperationalError("it is as it is")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [
        ("SQLITE_READONLY", 1, "store-read-only"), ("SQLITE_READONLY_DIRECTORY", 1, "store-read-only"),
        ("SQLITE_CANTOPEN", 1, "store-unreadable"), ("SQLITE_IOERR_READ", 1, "store-unreadable"),
        ("SQLITE_BUSY", 75, "store-locked"), ("SQLITE_LOCKED", 75, "store-locked"),
        ("SQLITE_PROTOCOL", 75, "store-locked"),
        ("SQLITE_IOERR_WRITE", 1, "store-unreadable"), ("SQLITE_FULL", 7, "no-space"),
        ("SQLITE_NOMEM", 1, "no-memory"), ("SQLITE_IOERR_NOMEM", 1, "no-memory"),
        ("SQLITE_MISUSE", 70, "internal"),
    ],
)  # fmt: skip
def test_what_the_database_refuses_is_said_by_what_it_is(name: str, code: int, problem: str) -> None:
    found, (said,) = explained(sqlite_error(name))
    assert (found, said.code) == (code, problem)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too-many-files"),
        (OSError(errno.ENFILE, "Too many open files in system"), "too-many-files"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no-memory"),
        (MemoryError(), "no-memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), "no-memory"),
        (RuntimeError("can't start new thread"), "no-threads"),
        (UnicodeEncodeError("ascii", "out/é", 4, 5, "ordinal not in range(128)"), "unwritable-name"),
        (RuntimeError("something else"), "internal"),
    ],
)
def test_what_a_machine_is_short_of_is_no_bug(error: Exception, problem: str) -> None:
    code, (said,) = explained(error)
    assert (code, said.code) == (70 if problem == "internal" else 1, problem)
    assert said.help


def test_torch_says_that_memory_is_short_in_words_that_we_know() -> None:
    with pytest.raises(RuntimeError) as short:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert explained(short.value)[1][0].code == "no-memory"


def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as gone:
        Path.cwd()
    code, (said,) = explained(gone.value)
    assert (code, said.code) == (1, "no-folder")
