"""Requests to end: signals at random moments, and streams that nobody reads any more.

The program ends with 130 within two seconds, whatever it was about, and leaves no file that is not whole at the path of
an output. A pipe that is closed is no such request: Python ignores the signal, and the next write says so.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
from bench import Bench, Trouble
from forty_targets import OTHER, check_tidy, remove

_SOON = 2.0
"""Seconds, as promised. On a machine with nothing else to do the longest wait is a tenth of it."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["INT", "TERM", "HUP"])
def test_a_request_to_end_is_met_soon_and_in_order(bench: Bench, number: signal.Signals) -> None:
    """Half of them on a first build, half on one that replaces outputs; some twice, as by an impatient hand."""
    count = bench.rounds(50, 2)
    trouble, codes, longest = Trouble(), Counter[int](), 0.0
    for each in range(count):
        root = bench.project(bench.space / f"round-{each}", link=bench.chance.choice(("auto", "copy")))
        is_rebuild = bool(each % 2)
        if is_rebuild:
            bench.program.run("build", here=root).checked()
            bench.project(root, m=OTHER)
        wanted, former = (bench.other, [bench.first]) if is_rebuild else (bench.first, [])
        running = bench.program.start("build", here=root, execute=each % 10 == 4)
        time.sleep(bench.chance.uniform(0.05, wanted.seconds) + (0.3 if each % 10 == 4 else 0))
        sent = time.monotonic()
        running.signal(number)
        if each % 3 == 1:
            time.sleep(bench.chance.uniform(0, 0.02))
            running.signal(number)
        ended = running.wait()
        took = time.monotonic() - sent
        codes[ended.code] += 1
        with trouble.noted(f"round {each}"):
            assert ended.code in (0, 130), f"exit code {ended.code}\n{ended.err}"
            assert "Traceback" not in ended.err, ended.err[ended.err.index("Traceback") :]
            if ended.code == 130:
                longest = max(longest, took)
                assert took < _SOON
                check_tidy(root)
            bench.check_promise(root, wanted, *former)
            remove(root)
    bench.report(rounds=count, codes=codes, longest_seconds=round(longest, 3))
    trouble.check()


@pytest.mark.parametrize("stream", ["out", "err", "signal"])
def test_a_pipe_that_nobody_reads_harms_nothing(bench: Bench, stream: str) -> None:
    count = bench.rounds(50, 1)
    trouble, codes = Trouble(), Counter[int]()
    for each in range(count):
        root = bench.project(bench.space / f"round-{each}")
        after = bench.chance.uniform(0, bench.first.seconds)
        if stream == "signal":
            running = bench.program.start("build", here=root)
            time.sleep(after)
            running.signal(signal.SIGPIPE)
        else:
            pipe = bench.space / f"pipe-{each}"
            os.mkfifo(pipe)
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            running = bench.program.start("build", "-v", here=root, execute=True, **{stream: pipe})
            time.sleep(0.2 + after)
            os.close(reader)
        ended = running.wait()
        codes[ended.code] += 1
        with trouble.noted(f"round {each}"):
            # 141 is what a shell shows for a program that the signal ended; 0 where all was said before
            assert ended.code in (0, 141), f"exit code {ended.code}\n{ended.err}"
            assert "Traceback" not in ended.err, ended.err[ended.err.index("Traceback") :]
            bench.check_promise(root, bench.first)
            remove(root)
    bench.report(rounds=count, codes=codes)
    trouble.check()
