"""Odd surroundings: clocks that jump, and stores that are read-only, far away or behind a link.

Each works, or is refused with an error that says why; nothing is ever called up to date that is not, and nothing of the
user's is lost.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench, Trouble
from forty_targets import OTHER, check_tidy, outputs, published
from model_files import write_model
from mounts import command, tmpfs
from tiny_models import sd15

HOUR, YEAR = 3600, 365 * 24 * 3600


def shift(path: Path, seconds: int) -> None:
    """Move a file's times."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns + seconds * 10**9, found.st_mtime_ns + seconds * 10**9))


def verdicts(bench: Bench, root: Path, **options: object) -> set[str]:
    """Build, and return the verdicts."""
    ended = bench.program.run("build", "--json", here=root, **options).checked()
    return {each["verdict"] for each in ended.document["targets"]}


def copied_sources(bench: Bench) -> Path:
    """Return sources that a test may change."""
    return shutil.copytree(bench.sources, bench.space / "sources")


@pytest.mark.parametrize("jump", [-HOUR, YEAR])
def test_times_of_files_that_jump_build_nothing_again(full_bench: Bench, jump: int) -> None:
    """And what is then edited, its times put back, is still seen."""
    bench = full_bench
    sources = copied_sources(bench)
    root = bench.project(bench.space / "project", sources=sources)
    time.sleep(0.05)
    verdicts(bench, root)
    for path in (*sources.iterdir(), *(root / name for name in bench.first.outputs)):
        shift(path, jump)
    time.sleep(0.05)
    for _ in range(3):
        assert verdicts(bench, root) <= {"up-to-date", "restored"}
        assert outputs(root) == bench.first.outputs
    found = (sources / "one.safetensors").stat()
    write_model(sources / "one.safetensors", sd15(9, names=list(sd15(1))[:24]))
    assert (sources / "one.safetensors").stat().st_size == found.st_size
    os.utime(sources / "one.safetensors", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert "built" in verdicts(bench, root)
    assert outputs(root) != bench.first.outputs
    bench.program.run("verify", here=root).checked()


@pytest.mark.parametrize(
    ("before", "later"),
    [
        (0, -HOUR),
        (YEAR, 0),
        pytest.param(-HOUR, 0, marks=pytest.mark.faults),
        pytest.param(0, YEAR, marks=pytest.mark.faults),
    ],
)
def test_a_clock_that_jumps_between_builds(full_bench: Bench, before: int, later: int) -> None:
    """The program's own clock, in seconds ahead of the time: that of the first build and that of all others."""
    bench = full_bench
    root = bench.project(bench.space / "project")
    verdicts(bench, root, clock=before)
    assert verdicts(bench, root, clock=later) == {"up-to-date"}
    bench.project(root, m=OTHER)
    assert "built" in verdicts(bench, root, clock=later)
    assert outputs(root) == bench.other.outputs
    bench.project(root)
    assert "built" not in verdicts(bench, root, clock=later), "the history is lost"
    assert outputs(root) == bench.first.outputs
    bench.program.run("gc", "--older-than", "30d", here=root, clock=later).checked()
    assert verdicts(bench, root, clock=later) == {"up-to-date"}


@pytest.mark.faults
@pytest.mark.parametrize("work", ["nothing", "some"])
def test_a_read_only_store(full_bench: Bench, work: str) -> None:
    bench = full_bench
    root = bench.project(bench.space / "project")
    bench.program.run("build", here=root).checked()
    store = root / ".mergebuild"
    command("mount", "--bind", str(store), str(store))
    try:
        command("mount", "-o", "remount,ro,bind", str(store))
        if work == "some":
            bench.project(root, m=OTHER)
        ended = bench.program.run("build", "--json", here=root)
        assert "Traceback" not in ended.err, ended.err
        assert ended.code in (0, 1), ended.problems
        assert ended.code == 0 or "read-only" in ended.problems
        for verb in ("plan", "status", "verify"):
            bench.program.run(verb, here=root).checked()
        for name, data in published(root).items():
            assert data in (bench.first.outputs[name], bench.other.outputs[name])
    finally:
        command("umount", str(store))
    wanted, former = (bench.other, [bench.first]) if work == "some" else (bench.first, [])
    bench.check_promise(root, wanted, *former)


@pytest.mark.faults
def test_kills_with_a_store_on_another_file_system(full_bench: Bench) -> None:
    """Where no name can be given to a file of the other: forty kills of a build and of a rebuild."""
    bench, trouble = full_bench, Trouble()
    with tmpfs(bench.space / "elsewhere", "size=256m") as disk:
        for number in range(40):
            root = bench.project(bench.space / f"round-{number}", link=bench.link())
            env = {"MERGEBUILD_STORE": str(disk / f"store-{number}")}
            wanted, former = bench.first, []
            if number % 2:
                bench.program.run("build", here=root, env=env).checked()
                bench.project(root, m=OTHER)
                wanted, former = bench.other, [bench.first]
            running = bench.program.start("build", here=root, env=env)
            running.is_over(bench.chance.uniform(0, wanted.seconds))
            running.signal(signal.SIGKILL)
            running.wait()
            with trouble.noted(f"round {number}"):
                bench.check_promise(root, wanted, *former, env=env)
                check_tidy(root, disk / f"store-{number}")
                bench.program.run("verify", here=root, env=env).checked()
            shutil.rmtree(disk / f"store-{number}")
    trouble.check()


def link_to_folder(root: Path, there: Path) -> None:
    """Have the store be a link to another folder of the project."""
    (root / "real").mkdir()
    (root / ".mergebuild").symlink_to("real")


def link_out(root: Path, there: Path) -> None:
    """Have the store be a link out of the project."""
    there.mkdir()
    (root / ".mergebuild").symlink_to(there)


def link_to_nowhere(root: Path, there: Path) -> None:
    """Have the store be a link to what is not there."""
    (root / ".mergebuild").symlink_to("nowhere")


def link_to_itself(root: Path, there: Path) -> None:
    """Have the store be a link to itself."""
    (root / ".mergebuild").symlink_to(there.parent / "project/.mergebuild")


def file_as_store(root: Path, there: Path) -> None:
    """Have the store be a file."""
    (root / ".mergebuild").write_text("a note of the user's")


def linked_outputs(root: Path, there: Path) -> None:
    """Have the folder of outputs be a link to another of the project."""
    (root / "real").mkdir()
    (root / "out").symlink_to("real")


def outputs_linked_away(root: Path, there: Path) -> None:
    """Have the folder of outputs be a link out of the project."""
    there.mkdir()
    (root / "out").symlink_to(there)


@pytest.mark.parametrize(
    ("arrange", "codes"),
    [
        (link_to_folder, {0}),
        (link_out, {10}),
        (link_to_nowhere, {0, 1}),
        (link_to_itself, {1}),
        (file_as_store, {1}),
        (linked_outputs, {0}),
        (outputs_linked_away, {10}),
    ],
)
def test_links_in_the_way(full_bench: Bench, arrange: Callable[[Path, Path], None], codes: set[int]) -> None:
    bench = full_bench
    root, there = bench.project(bench.space / "project"), bench.space / "there"
    arrange(root, there)
    before = sorted(root.iterdir())
    ended = bench.program.run("build", "--json", here=root)
    assert "Traceback" not in ended.err, ended.err
    assert ended.code in codes, ended.problems
    if ended.code:
        assert ended.problems
        assert sorted(root.iterdir()) == before
        assert not there.exists() or not list(there.iterdir())
    if ended.code == 10:
        bench.program.run("trust", here=root).checked()
        ended = bench.program.run("build", here=root)
    if ended.code:
        assert "Traceback" not in ended.err, ended.err
        return
    assert outputs(root) == bench.first.outputs
    assert verdicts(bench, root) == {"up-to-date"}
    bench.project(root, m=OTHER)
    assert "built" in verdicts(bench, root)
    assert outputs(root) == bench.other.outputs
    bench.program.run("verify", here=root).checked()
    check_tidy(root)


def test_an_output_that_became_a_link_is_not_written_through(full_bench: Bench) -> None:
    bench = full_bench
    root = bench.project(bench.space / "project")
    bench.program.run("build", here=root).checked()
    precious = bench.space / "precious"
    precious.write_bytes(b"precious")
    (root / "out/plain.safetensors").unlink()
    (root / "out/plain.safetensors").symlink_to(precious)
    bench.project(root, m=OTHER)
    ended = bench.program.run("build", "-k", "--json", here=root).checked(1)
    failed = [each["target"] for each in ended.document["targets"] if each["verdict"] == "failed"]
    assert failed == ["plain"]
    assert precious.read_bytes() == b"precious"
