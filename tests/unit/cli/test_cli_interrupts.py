"""A request to end is met whatever the process is doing, and never twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send to one process"),
]

ROOT = Path(__file__).parents[3]

DEAF = """
import hashlib, os, threading
from mergebuild.project import project
from mergebuild.system import scratch
class Deaf:
    def plan(self, targets, **options):
        with scratch.noted(["half"]):
            threading.Timer(0.3, os.write, (2, b"ready\\n")).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # half an hour in one call
project.load = lambda path, **options: Deaf()
from mergebuild.cli import main
main(["plan", "--json"])
"""

EARLY = """
import os, signal
from mergebuild.cli.interrupts import Ending
from mergebuild.cli.process import main
ending = Ending()
ending.listen()
os.kill(os.getpid(), signal.SIGTERM)
main(["methods"], ending)
"""

LATE = """
import os, signal
from mergebuild.project import project
from mergebuild.cli.interrupts import Ending
from mergebuild.cli import process
ending = Ending()
ending.listen()
real = process.run
def run(arguments, ending):
    code = real(arguments, ending)
    os.kill(os.getpid(), signal.SIGTERM)
    return code
process.run = run
process.main(["methods"], ending)
"""

TWICE = """
import os, signal, sys
from mergebuild.project import project
class Twice:
    def plan(self, targets, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            print("cleaned up", file=sys.stderr, flush=True)
project.load = lambda path, **options: Twice()
from mergebuild.cli import main
main(["plan"])
"""

IGNORED = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from mergebuild.cli.interrupts import Ending
from mergebuild.cli.process import main
ending = Ending()
ending.listen()
os.kill(os.getpid(), signal.SIGHUP)
main(["list", "layouts"], ending)
"""

SWALLOWED = """
import os, signal, sys, time
from mergebuild.project import project
class Swallows:
    def plan(self, targets, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            time.sleep(600)
project.load = lambda path, **options: Swallows()
from mergebuild.cli import main
main(["plan"])
"""


def ran(code: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a folder that has an empty mergefile."""
    (folder / "mergefile.toml").touch()
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", code],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 3], ids=str)
def test_a_process_that_is_in_one_long_call_ends_and_takes_its_scratch_files_along(
    numbers: Sequence[signal.Signals], tmp_path: Path
) -> None:
    """And a trace says what it was at."""
    (tmp_path / "mergefile.toml").touch()
    (tmp_path / "half").write_text("half")
    with subprocess.Popen(
        [sys.executable, "-c", DEAF],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "MERGEBUILD_TRACE": "trace.json"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == "ready\n"
            for number in numbers:
                process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # else its half hour is waited for, if it does not end

    assert process.returncode == 130
    assert err == "error[interrupted]: interrupted\n"
    assert json.loads(out)["errors"][0]["code"] == "interrupted"
    assert not (tmp_path / "half").exists()
    begun = [each for each in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if each["ph"] == "B"]
    assert [(each["name"], each["args"]) for each in begun] == [("command", {"words": "plan --json"})]


def test_a_request_before_the_start_is_met_at_the_start(tmp_path: Path) -> None:
    found = ran(EARLY, tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "error[interrupted]: interrupted\n")


def test_a_request_when_all_is_done_changes_nothing(tmp_path: Path) -> None:
    found = ran(LATE, tmp_path)
    assert (found.returncode, found.stderr) == (0, "")


def test_more_requests_do_not_disturb_the_ending(tmp_path: Path) -> None:
    found = ran(TWICE, tmp_path)
    assert found.returncode == 130
    assert found.stderr == "cleaned up\nerror[interrupted]: interrupted\n"


def test_what_is_ignored_for_us_stays_ignored(tmp_path: Path) -> None:
    """`nohup mergebuild build` outlives its terminal."""
    assert ran(IGNORED, tmp_path).returncode == 0


STARTED_IGNORING = """
import os, signal, sys
numbers = [signal.SIGHUP, signal.SIGINT]
from mergebuild.cli.interrupts import Ending
from mergebuild.cli.process import main
ending = Ending()
ending.listen()
for number in numbers:
    os.kill(os.getpid(), number)
print([signal.getsignal(number) is signal.SIG_IGN for number in numbers], file=sys.stderr, flush=True)
main(["list", "layouts"], ending)
"""


def test_what_a_process_is_started_to_ignore_it_ignores(tmp_path: Path) -> None:
    """By `nohup`, or a shell that starts it in its background."""

    def ignore() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    found = ran(STARTED_IGNORING, tmp_path, preexec_fn=ignore)
    assert (found.returncode, found.stderr) == (0, "[True, True]\n")


def test_nothing_of_that_is_so_in_this_suite(tmp_path: Path) -> None:
    """However it was started: the other tests here rely on it."""
    found = ran("import signal\nprint(signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGINT))", tmp_path)
    assert "SIG_IGN" not in found.stdout
    assert "default_int_handler" in found.stdout


def test_who_swallows_the_request_is_ended_all_the_same(tmp_path: Path) -> None:
    found = ran(SWALLOWED, tmp_path)
    assert (found.returncode, found.stderr) == (130, "error[interrupted]: interrupted\n")


def test_last_words_that_nobody_reads_keep_nobody_waiting(tmp_path: Path) -> None:
    """A pipe that is full, such as that of a pager."""
    (tmp_path / "mergefile.toml").touch()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    with subprocess.Popen(
        [sys.executable, "-m", "mergebuild", "methods"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=writer, stderr=writer,
    ) as process:  # fmt: skip
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
    os.close(reader)
    os.close(writer)
