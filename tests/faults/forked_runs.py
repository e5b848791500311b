"""Runs the program in processes of its own, many times over: real processes that can be killed, without their start.

Importing torch takes a second or two, the build of forty small targets a third of one: of kills at random moments
nearly all would land in an import. So one *parent* process imports everything once and forks for each run; the child
gets a process group, streams, limits and environment of its own and calls the program's `main`, which ends the process
as always. With `execute` the child becomes `python -m mergebuild` instead: the real start, for a share of the rounds.

Run as a script this module is the parent; it takes one JSON request a line and answers each with one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Ended", "Program", "Running"]

_IMPORTED = (
    "torch",
    "filelock",
    "mergebuild.build.builder",
    "mergebuild.cli.build",
    "mergebuild.cli.clean",
    "mergebuild.cli.failures",
    "mergebuild.cli.interrupts",
    "mergebuild.cli.lock",
    "mergebuild.cli.process",
    "mergebuild.cli.program",
    "mergebuild.cli.status",
    "mergebuild.cli.verify",
    "mergebuild.engine.run",
    "mergebuild.project.project",
    "mergebuild.project.verify",
)
"""All but `mergebuild.cli.gc`, which hides the `gc` that `main` means."""
_LIMIT = 120.0
"""Seconds that no run of these tests comes near: a process that takes them hangs."""


@dataclass(frozen=True)
class Ended:
    """How a run ended. `code`: the exit code, or minus the signal that ended it. `seconds`: from start to end."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def document(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)

    @property
    def problems(self) -> str:
        """What the run said was wrong."""
        with contextlib.suppress(ValueError):
            return "; ".join(each["message"] for each in self.document["errors"])
        return self.err[-2000:]

    def checked(self, code: int = 0) -> Ended:
        """Return this run, which must have ended with this exit code and without a traceback."""
        assert "Traceback" not in self.err, self.err[self.err.index("Traceback") :]
        assert self.code == code, f"exit code {self.code}, expected {code}: {self.problems}"
        return self


class Running:
    """A run that was started."""

    def __init__(self, program: Program, number: int, out: Path, err: Path) -> None:
        self.number = number
        self._program = program
        self._out, self._err = out, err
        self._began = time.monotonic()
        self._watch = os.pidfd_open(number)

    def signal(self, number: int) -> None:
        """Send a signal to the run's process group, if it is there still."""
        if not self.is_over():
            os.killpg(self.number, number)  # not reaped before `wait`: the number cannot be another's

    def is_over(self, seconds: float = 0) -> bool:
        """Wait at most so long for the end, and say whether it came."""
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def wait(self, seconds: float = _LIMIT) -> Ended:
        """Wait for the end. A run that does not end is killed, and the test fails."""
        is_over = self.is_over(seconds)
        took = time.monotonic() - self._began
        if not is_over:
            os.killpg(self.number, signal.SIGKILL)
        status = self._program.ask({"wait": self.number})
        os.close(self._watch)
        texts = [path.read_text(errors="replace") if path.is_file() else "" for path in (self._out, self._err)]
        for path in (self._out, self._err):
            path.unlink(missing_ok=True)
        assert is_over, f"did not end in {seconds} s\n{texts[1][-4000:]}"
        return Ended(os.waitstatus_to_exitcode(status), texts[0], texts[1], took)


class Program:
    """The program, ready to be started any number of times."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._parent = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment
        )
        self.ask({})

    def start(
        self,
        *arguments: str,
        here: Path,
        env: Mapping[str, str] | None = None,
        limits: Mapping[int, int] | None = None,
        execute: bool = False,
        clock: int = 0,
        out: Path | None = None,
        err: Path | None = None,
    ) -> Running:
        """Start one command line in `here`.

        `env` is added to the environment. `limits` are numbers of `resource`. The clock of a forked run is `clock`
        seconds ahead. `out` and `err` are paths to write to, such as named pipes; else what is written there is part of
        the end.
        """
        places = [path or Path(tempfile.mkstemp(dir=self._folder)[1]) for path in (out, err)]
        request = {
            "arguments": arguments,
            "here": str(here),
            "env": {**self._environment, **(env or {})},
            "limits": list((limits or {}).items()),
            "execute": execute,
            "clock": clock,
            "streams": [str(path) for path in places],
        }
        return Running(self, self.ask(request), *places)

    def run(self, *arguments: str, here: Path, **options: Any) -> Ended:
        """Run one command line to its end."""
        return self.start(*arguments, here=here, **options).wait()

    def ask(self, request: Mapping[str, object]) -> int:
        """Ask the parent for something; return its number."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(request).encode() + b"\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        """End the parent."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()


def _serve() -> None:
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch looks for what nothing here needs
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no child walks through what all share
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer = 0
        if "wait" in request:
            _, answer = os.waitpid(request["wait"], 0)
        elif request:
            streams = [os.open(each, os.O_WRONLY) for each in request["streams"]]  # a pipe has its writer by now
            answer = os.fork()
            if not answer:
                _become(request, streams)
            for each in streams:
                os.close(each)
            with contextlib.suppress(OSError):  # the child was quicker, and is something else by now
                os.setpgid(answer, answer)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Turn this process, a child just forked, into the run that was asked for."""
    os.setpgid(0, 0)  # done by the parent too: whoever hears of the child may signal its group
    os.chdir(request["here"])
    os.environ.clear()
    os.environ.update(request["env"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, place in enumerate((nothing, *streams)):
        os.dup2(place, number)
        os.close(place)
    arguments = request["arguments"]
    for number, limit in request["limits"]:
        resource.setrlimit(number, (limit, limit))
    if "FAILING_CALLS_FOLDER" in os.environ and not request["execute"]:
        ctypes.CDLL(None).failing_calls_begin()  # failing_calls.c; what is executed begins by itself
    if request["execute"]:
        os.execv(sys.executable, [sys.executable, "-m", "mergebuild", *arguments])
    if ahead := request["clock"]:
        clock, clock_ns = time.time, time.time_ns
        time.time, time.time_ns = lambda: clock() + ahead, lambda: clock_ns() + ahead * 10**9
    sys.argv = ["mergebuild", *arguments]
    importlib.import_module("mergebuild.cli").main(arguments)


if __name__ == "__main__":
    _serve()
