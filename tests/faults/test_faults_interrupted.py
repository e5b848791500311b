"""Requests to end: signals at random moments, and streams that nobody reads any more.

The program ends with 130 within two seconds, whatever it was about, and leaves no file that is not whole at the path of
an output. A pipe that is closed is no such request: Python ignores the signal, and the next write says so.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from forked_runs import Program
from forty_targets import OTHER, Reference, check_promise, check_tidy, make_project, remove
from many_cases import Report, Rounds, Trouble

_SOON = 2.0
"""Seconds, as promised. On a machine with nothing else to do the longest wait is a tenth of it."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["INT", "TERM", "HUP"])
def test_a_request_to_end_is_met_soon_and_in_order(
    program: Program, sources: Path, first: Reference, other: Reference, tmp_path: Path, number: signal.Signals,
    rounds: Rounds, chance: random.Random, figures: Report,
) -> None:  # fmt: skip
    """Half of them on a first build, half on one that replaces outputs; some twice, as by an impatient hand."""
    count = rounds(50, 3)
    trouble, codes, longest = Trouble(), Counter[int](), 0.0
    for each in range(count):
        root = make_project(tmp_path / f"round-{each}", sources, link=chance.choice(("auto", "copy")))
        is_rebuild = bool(each % 2)
        if is_rebuild:
            program.run("build", here=root).checked()
            make_project(root, sources, m=OTHER)
        wanted, former = (other, [first]) if is_rebuild else (first, [])
        running = program.start("build", here=root, execute=each % 10 == 4)
        time.sleep(chance.uniform(0.05, wanted.seconds) + (0.3 if each % 10 == 4 else 0))
        sent = time.monotonic()
        running.signal(number)
        if each % 3 == 1:
            time.sleep(chance.uniform(0, 0.02))
            running.signal(number)
        ended = running.wait()
        took = time.monotonic() - sent
        codes[ended.code] += 1
        with trouble.noted(f"round {each}"):
            assert ended.code in (0, 130), f"exit code {ended.code}\n{ended.err}"
            assert "Traceback" not in ended.err, ended.err
            if ended.code == 130:
                longest = max(longest, took)
                assert took < _SOON
                check_tidy(root)
            check_promise(program, root, wanted, *former)
            remove(root)
    figures(rounds=count, codes=codes, longest_seconds=round(longest, 3))
    trouble.check()


@pytest.mark.parametrize("stream", ["out", "err", "signal"])
def test_a_pipe_that_nobody_reads_harms_nothing(
    program: Program, sources: Path, first: Reference, tmp_path: Path, stream: str, rounds: Rounds,
    chance: random.Random, figures: Report,
) -> None:  # fmt: skip
    count = rounds(50, 3)
    trouble, codes = Trouble(), Counter[int]()
    for each in range(count):
        root = make_project(tmp_path / f"round-{each}", sources)
        after = chance.uniform(0, first.seconds)
        if stream == "signal":
            running = program.start("build", here=root)
            time.sleep(after)
            running.signal(signal.SIGPIPE)
        else:
            pipe = tmp_path / f"pipe-{each}"
            os.mkfifo(pipe)
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            running = program.start("build", "-v", here=root, **{stream: pipe})
            time.sleep(after)
            os.close(reader)
        ended = running.wait()
        codes[ended.code] += 1
        with trouble.noted(f"round {each}"):
            # 141 is what a shell shows for a program that the signal ended; 0 where all was said before
            assert ended.code in (0, 141), f"exit code {ended.code}\n{ended.err}"
            assert "Traceback" not in ended.err, ended.err
            check_promise(program, root, first)
            remove(root)
    figures(rounds=count, codes=codes)
    trouble.check()
