"""SIGKILL at a random moment: of a build, of one that replaces outputs, of gc and of clean.

The moment is drawn evenly over the time that the command takes, measured beforehand; how many came before anything was
published, in between and too late is among the figures. Every tenth process is the program from its real start, with its
moment drawn over the part in which it works.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from forked_runs import Ended, Program
from forty_targets import FIRST, OTHER, Reference, check_promise, make_project, published, remove
from many_cases import Report, Rounds, Trouble


class Killer:
    """Kills one command at random moments, and counts where the kills landed."""

    def __init__(self, program: Program, chance: random.Random, *arguments: str) -> None:
        self._program = program
        self._chance = chance
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


def test_a_build_killed_at_any_moment_goes_on_from_what_it_published(
    program: Program,
    sources: Path,
    first: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    count = rounds(300, 6)
    killer = Killer(program, chance, "build")
    killer.measure(make_project(tmp_path / "quick", sources))
    real = make_project(tmp_path / "real", sources)
    killer.measure(real, execute=True, began=(real / ".mergebuild").is_dir)
    trouble = Trouble()
    for number in range(count):
        root = make_project(tmp_path / f"round-{number}", sources, link=chance.choice(("auto", "copy", "hard")))
        with trouble.noted(f"round {number}"):
            killer.kill(root, execute=number % 10 == 5)
            check_promise(program, root, first, execute=number % 50 == 5)
            remove(root)
    figures(rounds=count, landed=killer.landed)
    trouble.check()


def test_a_killed_rebuild_leaves_every_output_old_or_new(
    program: Program,
    sources: Path,
    first: Reference,
    other: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    count = rounds(300, 4)
    killer = Killer(program, chance, "build")
    root = make_project(tmp_path / "quick", sources)
    program.run("build", here=root).checked()
    killer.measure(make_project(root, sources, m=OTHER))
    trouble = Trouble()
    for number in range(count):
        link = chance.choice(("auto", "copy", "hard"))
        root = make_project(tmp_path / f"round-{number}", sources, link=link)
        program.run("build", here=root).checked()
        make_project(root, sources, m=OTHER, link=link)
        with trouble.noted(f"round {number}"):
            killer.kill(root)
            assert published(root).keys() == other.outputs.keys(), "an output is gone"
            check_promise(program, root, other, first)
            remove(root)
    figures(rounds=count, landed=killer.landed)
    trouble.check()


def test_one_project_that_is_killed_again_and_again(
    program: Program,
    sources: Path,
    first: Reference,
    other: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    """There and back between two recipes, several kills in a row: outputs come out of the history, and go into it."""
    count = rounds(300, 6)
    killer = Killer(program, chance, "build")
    root = make_project(tmp_path / "project", sources)
    program.run("build", here=root).checked()
    killer.measure(make_project(root, sources, m=OTHER))
    is_first = False
    for _ in range(count):
        is_first = not is_first
        make_project(root, sources, m=FIRST if is_first else OTHER)
        killer.kill(root)
        if chance.random() < 0.5:
            continue
        wanted, former = (first, other) if is_first else (other, first)
        check_promise(program, root, wanted, former)
    wanted, former = (first, other) if is_first else (other, first)
    check_promise(program, root, wanted, former)
    program.run("verify", here=root).checked()
    figures(rounds=count, landed=killer.landed)


def test_a_killed_gc_takes_nothing_that_is_needed(
    program: Program,
    sources: Path,
    first: Reference,
    other: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    count = rounds(100, 3)
    killer = Killer(program, chance, "gc", "--max-size", "0")
    root = tmp_path / "project"
    for number in range(-1, count):
        for m in (FIRST, OTHER):
            program.run("build", here=make_project(root, sources, m=m)).checked()
        if number < 0:
            killer.measure(root)
            continue
        killer.kill(root)
        assert published(root) == other.outputs
        check_promise(program, root, other)
    program.run("gc", "--max-size", "0", here=root).checked()
    assert not list((root / ".mergebuild/history").iterdir())
    figures(rounds=count, landed=killer.landed)


def test_a_killed_clean_leaves_every_output_whole_or_gone(
    program: Program,
    sources: Path,
    first: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    count = rounds(100, 3)
    killer = Killer(program, chance, "clean")
    root = make_project(tmp_path / "project", sources)
    program.run("build", here=root).checked()
    killer.measure(root)
    for _ in range(count):
        program.run("build", here=root).checked()
        killer.kill(root)
        check_promise(program, root, first)
    program.run("clean", here=root).checked()
    assert not published(root)
    figures(rounds=count, landed=killer.landed)
