"""SIGKILL at a random moment: of a build, of one that replaces outputs, of gc and of clean.

The moment is drawn evenly over the time that the command takes, measured beforehand; how many came before anything
was published, in between and too late is among the figures. Every tenth process is the program from its real start,
with its moment drawn over the part in which it works.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench import Bench, Trouble
from forked_runs import Ended
from forty_targets import FIRST, OTHER, published, remove


class Killer:
    """Kills one command at random moments, and counts where the kills landed."""

    def __init__(self, bench: Bench, *arguments: str) -> None:
        self._program = bench.program
        self._chance = bench.chance
        self._arguments = arguments
        self._spans: dict[bool, tuple[float, float]] = {}
        self.landed: Counter[str] = Counter()

    def measure(self, root: Path, *, execute: bool = False, began: Callable[[], bool] | None = None) -> None:
        """Run the command to its end, and note from when to when it worked: since its start, or since `began` held."""
        start = time.monotonic()
        running = self._program.start(*self._arguments, here=root, execute=execute)
        while began is not None and not began() and not running.is_over(0.002):
            pass
        worked = time.monotonic() - start if began is not None else 0.0
        running.wait().checked()
        self._spans[execute] = (worked, time.monotonic() - start)

    def kill(self, root: Path, *, execute: bool = False) -> Ended:
        """Start the command and kill it."""
        before = published(root)
        running = self._program.start(*self._arguments, here=root, execute=execute)
        ended_early = running.is_over(self._chance.uniform(*self._spans[execute]))
        running.signal(signal.SIGKILL)
        ended = running.wait()
        if ended_early:
            ended.checked()
        self.landed["too late" if ended_early else "between" if published(root) != before else "before"] += 1
        return ended


def test_a_build_killed_at_any_moment_goes_on_from_what_it_published(bench: Bench) -> None:
    count = bench.rounds(300, 3)
    killer = Killer(bench, "build")
    killer.measure(bench.project(bench.space / "quick"))
    if bench.is_long:
        real = bench.project(bench.space / "real")
        killer.measure(real, execute=True, began=(real / ".mergebuild").is_dir)
    trouble = Trouble()
    for number in range(count):
        root = bench.project(bench.space / f"round-{number}", link=bench.link())
        with trouble.noted(f"round {number}"):
            killer.kill(root, execute=number % 10 == 5)
            bench.check_promise(root, bench.first, execute=number % 50 == 5)
            remove(root)
    bench.report(rounds=count, landed=killer.landed)
    trouble.check()


def test_a_killed_rebuild_leaves_every_output_old_or_new(bench: Bench) -> None:
    count = bench.rounds(100, 2)
    killer = Killer(bench, "build")
    root = bench.project(bench.space / "quick")
    bench.program.run("build", here=root).checked()
    killer.measure(bench.project(root, m=OTHER))
    trouble = Trouble()
    for number in range(count):
        link = bench.link()
        root = bench.project(bench.space / f"round-{number}", link=link)
        bench.program.run("build", here=root).checked()
        bench.project(root, m=OTHER, link=link)
        with trouble.noted(f"round {number}"):
            killer.kill(root)
            assert published(root).keys() == bench.other.outputs.keys(), "an output is gone"
            bench.check_promise(root, bench.other, bench.first)
            remove(root)
    bench.report(rounds=count, landed=killer.landed)
    trouble.check()


def test_one_project_that_is_killed_again_and_again(bench: Bench) -> None:
    """There and back between two recipes, several kills in a row: outputs come out of the history, and go into it."""
    count = bench.rounds(100, 3)
    killer = Killer(bench, "build")
    root = bench.project(bench.space / "project")
    bench.program.run("build", here=root).checked()
    killer.measure(bench.project(root, m=OTHER))
    trouble, is_first = Trouble(), False
    for number in range(count):
        is_first = not is_first
        wanted, former = (bench.first, bench.other) if is_first else (bench.other, bench.first)
        bench.project(root, m=wanted.m)
        with trouble.noted(f"round {number}"):
            killer.kill(root)
            if number == count - 1 or bench.chance.random() < 0.5:
                bench.check_promise(root, wanted, former)
                bench.program.run("verify", here=root).checked()
    bench.report(rounds=count, landed=killer.landed)
    trouble.check()


def test_a_killed_gc_takes_nothing_that_is_needed(bench: Bench) -> None:
    count = bench.rounds(50, 1)
    killer = Killer(bench, "gc", "--max-size", "0")
    root = bench.space / "project"
    trouble = Trouble()
    for number in range(-1, count):
        for m in (FIRST, OTHER):
            bench.program.run("build", here=bench.project(root, m=m)).checked()
        if number < 0:
            killer.measure(root)
            continue
        with trouble.noted(f"round {number}"):
            killer.kill(root)
            assert published(root) == bench.other.outputs
            bench.check_promise(root, bench.other)
    bench.program.run("gc", "--max-size", "0", here=root).checked()
    assert not list((root / ".mergebuild/history").iterdir())
    bench.report(rounds=count, landed=killer.landed)
    trouble.check()


def test_a_killed_clean_leaves_every_output_whole_or_gone(bench: Bench) -> None:
    count = bench.rounds(50, 1)
    killer = Killer(bench, "clean", "--yes")
    root = bench.project(bench.space / "project")
    bench.program.run("build", here=root).checked()
    killer.measure(root)
    trouble = Trouble()
    for number in range(count):
        bench.program.run("build", here=root).checked()
        with trouble.noted(f"round {number}"):
            killer.kill(root)
            bench.check_promise(root, bench.first)
    bench.program.run("clean", "--yes", here=root).checked()
    assert not published(root)
    bench.report(rounds=count, landed=killer.landed)
    trouble.check()
