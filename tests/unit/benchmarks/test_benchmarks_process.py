"""What is measured of a process is what it did."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.process import ProcessFailedError, Sample, even_out, measure, parse_counters

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="measures with what only Linux has"),
]

MIB = 1 << 20


def python(code: str, tmp_path: Path) -> tuple[Sample, str]:
    return measure([sys.executable, "-S", "-c", code], folder=tmp_path, log=tmp_path / "log")


def test_counters_are_bytes_and_other_lines_are_passed_over() -> None:
    text = "Name:\tcat 7\nVmHWM:\t    12 kB\nThreads:\t3\nread_bytes: 4096\nempty:\nGroups:\t1 2\n"
    assert parse_counters(text) == {"VmHWM": 12288, "Threads": 3, "read_bytes": 4096}


def test_time_is_from_start_to_end(tmp_path: Path) -> None:
    sample, _ = python("import time; time.sleep(0.2)", tmp_path)
    assert sample.seconds >= 0.2
    assert sample.cpu_seconds < sample.seconds


def test_a_process_that_does_nothing_is_measured_too(tmp_path: Path) -> None:
    """However short it lives, its counters are read before it is reaped."""
    sample, said = measure(["true"], folder=tmp_path, log=tmp_path / "log")
    assert said == ""
    assert sample.seconds > 0
    assert sample.written == 0


def test_memory_of_its_own_counts_as_anonymous_and_as_resident(tmp_path: Path) -> None:
    code = f"import time; held = bytearray(b'x') * (64 * {MIB}); time.sleep(0.1)"
    sample, _ = python(code, tmp_path)
    assert 64 * MIB <= sample.anonymous <= sample.resident


def test_a_mapped_file_counts_as_resident_and_not_as_anonymous(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (64 * MIB))
    code = (
        "import mmap, time; file = open('file', 'rb'); held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ);"
        f"sum(held[at] for at in range(0, 64 * {MIB}, 4096)); time.sleep(0.1)"
    )
    sample, _ = python(code, tmp_path)
    assert sample.resident >= 64 * MIB
    assert sample.anonymous < 64 * MIB


def test_a_small_process_does_not_answer_with_its_parents_memory(tmp_path: Path) -> None:
    """The kernel hands a parent's peak down to a child that starts in its memory."""
    held = bytearray(b"x") * (256 * MIB)
    sample, _ = measure(["sleep", "0.05"], folder=tmp_path, log=tmp_path / "log")
    assert sample.resident < len(held) // 4


def test_what_it_says_is_returned_and_it_runs_in_its_folder(tmp_path: Path) -> None:
    assert measure(["pwd"], folder=tmp_path, log=tmp_path / "log")[1] == f"{tmp_path.resolve()}\n"


def test_a_process_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailedError, match=r"(?s)ended with 3.*no such thing"):
        measure(["sh", "-c", "echo no such thing >&2; exit 3"], folder=tmp_path, log=tmp_path / "log")


def test_memory_is_touched_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process of its own."""
    monkeypatch.setattr("benchmarks.process._TOUCHED", 1 << 20)
    even_out()
