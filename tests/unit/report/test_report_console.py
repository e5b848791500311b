from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from mergebuild.errors import Problem
from mergebuild.events import Hashing, Notice, PassBegun, PassEnded, Progress, TargetDone
from mergebuild.report.console import Console, make_streams_safe


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """To be called within the test, for pytest takes the streams between a fixture and its test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def make() -> Terminal:
        found = Terminal()
        monkeypatch.setattr(sys, "stderr", found)
        return found

    return make


def test_json_is_one_ascii_document_whatever_is_answered_later(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.answer({"name": "橙"}, ["not shown"])
    console.failure([Problem("late", "too late")])
    out, err = capsys.readouterr()
    assert out.isascii()
    assert json.loads(out) == {"name": "橙"}
    assert "too late" in err


def test_a_failure_is_text_on_stderr_and_a_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=True).failure([Problem("one", "first", help="mend it"), Problem("two", "second")])
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "ok": False,
        "errors": [
            {"code": "one", "message": "first", "where": None, "help": "mend it"},
            {"code": "two", "message": "second", "where": None, "help": None},
        ],
    }
    assert err == "error[one]: first\n  help: mend it\n\nerror[two]: second\n"


@pytest.mark.parametrize(("count", "told", "last"), [
    (500, 500, "number 499"), (501, 501, "number 500"),
    (502, 501, "these are the first 500 mistakes, and there are 2 more"),
    (9000, 501, "these are the first 500 mistakes, and there are 8500 more"),
])  # fmt: skip
def test_of_many_problems_the_first_are_told_and_how_many_more_there_are(
    count: int, told: int, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Console(as_json=True).failure([Problem("x", f"number {n}") for n in range(count)])
    out, err = capsys.readouterr()
    errors = json.loads(out)["errors"]
    assert len(errors) == told == err.count("error[")
    assert [each["message"] for each in errors[:500]] == [f"number {n}" for n in range(500)]
    assert errors[-1]["message"] == last


def test_a_line_of_an_answer_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Console().answer({}, ["a\nb\x1b[2J"])
    assert capsys.readouterr().out == "a\\nb\\x1b[2J\n"


def test_any_encoding_of_a_console_can_show_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    make_streams_safe()
    Console().answer({}, ["橙 … \udc80"])
    assert raw.getvalue() == b"\\u6a59 \\u2026 \\udc80\n"


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process started without stdout and stderr has None there."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    make_streams_safe()
    Console().answer({}, ["x"])
    Console(as_json=True).failure([Problem("x", "y")])


def test_errors_are_coloured_on_a_terminal_alone(
    a_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = a_terminal()
    Console().problems([Problem("x", "y")])
    assert terminal.getvalue() == "\x1b[1;31merror[x]\x1b[0m: y\n"
    for console in (Console(color=False), _under(monkeypatch, "NO_COLOR", "1"), _under(monkeypatch, "TERM", "dumb")):
        terminal.truncate(0)
        terminal.seek(0)
        console.problems([Problem("x", "y")])
        assert terminal.getvalue() == "error[x]: y\n"


def _under(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> Console:
    with monkeypatch.context() as patch:
        patch.setenv(name, value)
        return Console()


EVENTS = (
    Notice("a fact"),
    Notice("a danger", warning=True),
    Hashing("models/big.safetensors", 2_100_000_000),
    Hashing("models/small.safetensors", 1000),
    PassBegun(("orange", "mix"), 4_000_000_000),
    Progress(10),
    TargetDone("orange", "built", "1130 computed"),
    TargetDone("mix", "up-to-date"),
    PassEnded(),
)


def play(console: Console) -> None:
    with console.listening() as emit:
        for event in EVENTS:
            emit(event)


def test_off_a_terminal_events_are_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    play(Console())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "note: a fact",
        "warning: a danger",
        "hashing models/big.safetensors (2.1 GB)",
        "building 2 targets: 4.0 GB to write",
        "built orange: 1130 computed",
    ]


@pytest.mark.parametrize(
    ("console", "lines"), [(lambda: Console(quiet=True), 1), (lambda: Console(verbose=1), 7)], ids=["quiet", "verbose"]
)
def test_quiet_keeps_warnings_and_verbose_says_more(
    console: Callable[[], Console], lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    play(console())
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_on_a_terminal_a_pass_is_a_bar_that_goes_away(a_terminal: Callable[[], Terminal]) -> None:
    terminal = a_terminal()
    with Console().listening() as emit:
        for event in (EVENTS[4], EVENTS[5], Notice("a [danger]", warning=True), EVENTS[6]):
            emit(event)
        emit(PassEnded())
        text = terminal.getvalue()
    assert "2 targets" in text
    assert "warning: a [danger]" in text
    assert "built orange" not in text
    assert "\x1b[?25h" in text  # the cursor is shown again


def test_a_bar_is_taken_away_when_a_build_fails(a_terminal: Callable[[], Terminal]) -> None:
    """Else the cursor stays hidden, and a thread goes on drawing."""
    terminal = a_terminal()

    def fail() -> None:
        with Console().listening() as emit:
            emit(PassBegun(("orange",), 100))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert "\x1b[?25h" in terminal.getvalue()


def test_without_colour_there_is_no_bar(a_terminal: Callable[[], Terminal]) -> None:
    terminal = a_terminal()
    play(Console(color=False))
    assert "\x1b" not in terminal.getvalue()
    assert "building 2 targets" in terminal.getvalue()
