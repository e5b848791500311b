"""Disks that are full, and files that may not grow: exit code 7, nothing lost, and the next build goes on."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from pathlib import Path

import pytest
from bench import Bench, Trouble
from forked_runs import Ended
from forty_targets import OTHER, Reference, check_tidy, published, remove
from mounts import command, tmpfs

_NO_SPACE = 7


def checked(ended: Ended, root: Path, *, may_fit: bool = False) -> None:
    """Check how a build ended that had too little room, and that it took its temporary files away."""
    assert "Traceback" not in ended.err, ended.err[ended.err.index("Traceback") :]
    assert ended.code == _NO_SPACE or (may_fit and ended.code == 0), f"exit code {ended.code}: {ended.err[-400:]}"
    check_tidy(root)


def begin(bench: Bench, root: Path, *, is_rebuild: bool) -> tuple[Reference, list[Reference]]:
    """Make a project; of a rebuild, build it once. Return what the next build is to come to, and what stood before."""
    bench.project(root)
    if not is_rebuild:
        return bench.first, []
    bench.program.run("build", here=root).checked()
    bench.project(root, m=OTHER)
    return bench.other, [bench.first]


def test_files_that_may_not_grow(bench: Bench) -> None:
    """`RLIMIT_FSIZE`, from too small for the state to just too small for the largest output."""
    count = bench.rounds(40, 2)
    trouble, codes = Trouble(), Counter[int]()
    largest = max(map(len, bench.first.outputs.values()))
    for number in range(count):
        root = bench.space / f"round-{number}"
        wanted, former = begin(bench, root, is_rebuild=bool(number % 2))
        limit = 12_000 + (largest - 12_001) * (number // 2 * 2) // max(1, count - 2)
        ended = bench.program.run("build", "-q", here=root, limits={resource.RLIMIT_FSIZE: limit})
        codes[ended.code] += 1
        with trouble.noted(f"round {number}, {limit} bytes a file"):
            checked(ended, root)
            bench.check_promise(root, wanted, *former)
            remove(root)
    bench.report(rounds=count, codes=codes)
    trouble.check()


@pytest.mark.faults
def test_full_disks_of_many_sizes(full_bench: Bench) -> None:
    """Twenty, from too small for the state to just too small for the last output; first builds and rebuilds."""
    bench = full_bench
    trouble, codes = Trouble(), Counter[int]()
    with tmpfs(bench.space / "roomy", "size=64m") as disk:
        begin(bench, disk / "project", is_rebuild=False)
        bench.program.run("build", here=disk / "project").checked()
        needed = allocated(disk)
    for number in range(40):
        size = 24_576 + (needed - 24_576 - 8192) * (number // 2) // 19
        with tmpfs(bench.space / f"disk-{number}", f"size={'64m' if number % 2 else size}") as disk:
            root = disk / "project"
            wanted, former = begin(bench, root, is_rebuild=bool(number % 2))
            if number % 2:  # as much room as the other has, beside what is there already
                command("mount", "-o", f"remount,size={allocated(disk) + size}", str(disk))
            ended = bench.program.run("build", here=root)
            codes[ended.code] += 1
            with trouble.noted(f"round {number}, {size} bytes"):
                checked(ended, root, may_fit=number > 30)
                command("mount", "-o", "remount,size=64m", str(disk))
                bench.check_promise(root, wanted, *former)
    bench.report(rounds=40, codes=codes)
    trouble.check()


@pytest.mark.faults
def test_disks_that_hold_no_more_files(full_bench: Bench) -> None:
    """Free bytes are no help then: this is met in mid-work, at every file in turn."""
    bench = full_bench
    trouble, codes = Trouble(), Counter[int]()
    for number in range(40):
        with tmpfs(
            bench.space / f"disk-{number}", f"size=64m,nr_inodes={10_000 if number % 2 else 5 + number}"
        ) as disk:
            root = disk / "project"
            wanted, former = begin(bench, root, is_rebuild=bool(number % 2))
            if number % 2:
                found = os.statvfs(disk)
                command("mount", "-o", f"remount,nr_inodes={found.f_files - found.f_ffree + number}", str(disk))
            ended = bench.program.run("build", here=root)
            codes[ended.code] += 1
            with trouble.noted(f"round {number}"):
                checked(ended, root, may_fit=True)
                command("mount", "-o", "remount,nr_inodes=10000", str(disk))
                bench.check_promise(root, wanted, *former)
    bench.report(rounds=40, codes=codes)
    trouble.check()


@pytest.mark.faults
def test_disks_that_somebody_else_fills_meanwhile(full_bench: Bench) -> None:
    """There was room when the build looked, and a moment later there is none."""
    bench = full_bench
    trouble, codes = Trouble(), Counter[int]()
    for number in range(40):
        with tmpfs(bench.space / f"disk-{number}", "size=16m") as disk:
            root = disk / "project"
            wanted, former = begin(bench, root, is_rebuild=bool(number % 2))
            before = published(root)
            running = bench.program.start("build", here=root)
            time.sleep(bench.chance.uniform(0.02, wanted.seconds))
            fill(disk)
            ended = running.wait()
            codes[ended.code] += 1
            with trouble.noted(f"round {number}"):
                checked(ended, root, may_fit=True)
                assert published(root).keys() >= before.keys()
                (disk / "ballast").unlink()
                bench.check_promise(root, wanted, *former)
    bench.report(rounds=40, codes=codes)
    trouble.check()


def fill(disk: Path) -> None:
    """Take all the room that is left."""
    with (disk / "ballast").open("wb") as file:
        found = os.statvfs(disk)
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize))
        except OSError:
            while True:  # somebody was quicker: piece by piece
                try:
                    os.write(file.fileno(), bytes(4096))
                except OSError:
                    return


def allocated(folder: Path) -> int:
    """Return the bytes in use on a file system."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize
