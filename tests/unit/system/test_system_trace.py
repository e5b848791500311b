"""A trace is a whole JSON document at any moment, and replaces no file that is no trace."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mergebuild.system import trace
from mergebuild.system.spans import span, tell_of_the_end
from mergebuild.system.trace import NoTraceFileError, TraceFile


def events(path: Path, phase: str = "X") -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    assert document["otherData"] == {"program": "mergebuild"}
    return [each for each in document["traceEvents"] if each["ph"] == phase]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


class Named(NamedTuple):
    """A tuple that has a name."""

    name: str


def test_spans_are_bars_in_rows_of_threads(path: Path) -> None:
    with TraceFile(str(path), "build mix"), span("pass", targets=["mix"]):
        thread = threading.Thread(
            target=lambda: span("make", tensors=(Named("w"), Named("v"))).__enter__().__exit__(None, None, None),
            name="worker",
        )
        thread.start()
        thread.join()

    made, whole = events(path)
    assert (made["name"], made["cat"], made["args"]) == ("make", "computing", {"tensors": ["w", "v"]})
    assert (whole["name"], whole["cat"], whole["args"]) == ("pass", "phase", {"targets": ["mix"]})
    assert made["tid"] != whole["tid"]
    assert whole["ts"] <= made["ts"]
    assert made["ts"] + made["dur"] <= whole["ts"] + whole["dur"]
    named = {each["tid"]: each["args"]["name"] for each in events(path, "M") if each["name"] == "thread_name"}
    assert named[made["tid"]] == "worker"
    (process,) = [each for each in events(path, "M") if each["name"] == "process_name"]
    assert process["args"] == {"name": "mergebuild build mix"}


def test_facts_are_shown_by_name(path: Path) -> None:
    facts = {"file": Path("a/b.safetensors"), "digest": b"\x0f", "many": [Named(str(each)) for each in range(70)]}

    with TraceFile(str(path), ""), span("read", **facts, nothing=None):
        pass

    ((found),) = events(path)
    assert found["args"]["file"] == "b.safetensors"
    assert found["args"]["digest"] == "0f"
    assert found["args"]["nothing"] is None
    assert found["args"]["many"][-2:] == ["63", "and 6 more"]


def test_it_is_whole_at_any_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_PAUSE", 0)

    with TraceFile(str(path), ""):
        assert events(path) == []
        for count in range(1, 4):
            with span("judge"):
                pass
            assert len(events(path)) == count


def test_what_has_not_ended_is_there_as_begun(path: Path) -> None:
    """When the process ends at once, a trace says what it was at."""
    with TraceFile(str(path), ""), span("pass", targets=["mix"]):
        tell_of_the_end()

    ((found),) = events(path, "B")
    assert (found["name"], found["args"]) == ("pass", {"targets": ["mix"]})
    assert events(path) == []  # nothing follows the end


def test_an_error_ends_it_whole(path: Path) -> None:
    with pytest.raises(ValueError, match="x"), TraceFile(str(path), ""), span("pass"):
        raise ValueError("x")

    ((found),) = events(path)
    assert found["args"] == {"error": "ValueError"}


def test_an_earlier_trace_is_replaced(path: Path) -> None:
    for _ in range(2):
        with TraceFile(str(path), ""), span("plan"):
            pass

    assert len(events(path)) == 1


def test_an_empty_file_is_replaced(path: Path) -> None:
    path.touch()

    with TraceFile(str(path), ""):
        pass

    assert events(path) == []


def test_no_other_file_is_replaced(path: Path) -> None:
    path.write_bytes(b"a model")

    with pytest.raises(NoTraceFileError, match=r"^is there, and is no trace of mergebuild$"):
        TraceFile(str(path), "")

    assert path.read_bytes() == b"a model"


def test_where_no_file_can_be_written_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoTraceFileError, match=r"^is there, and is no file$"):
        TraceFile(str(tmp_path), "")
    with pytest.raises(NoTraceFileError, match=r"^cannot be written: no such file or directory$"):
        TraceFile(str(tmp_path / "none" / "trace.json"), "")


def test_a_disk_that_takes_no_more_ends_the_trace_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there stays whole; why it ends early can be told."""
    monkeypatch.setattr(trace, "_PAUSE", 0)
    real = TraceFile._write

    def full(self: TraceFile, data: bytes) -> None:
        if b"judge" in data:
            real(self, data[:20])
            raise OSError(28, "No space left on device")
        real(self, data)

    with TraceFile(str(path), "") as file:
        with span("plan"):
            pass
        monkeypatch.setattr(TraceFile, "_write", full)
        for name in ("judge", "pass"):
            with span(name):
                pass

    assert [each["name"] for each in events(path)] == ["plan"]
    assert file.lost == "no space left on device"
