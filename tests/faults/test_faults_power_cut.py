"""A power cut: what the file system had not yet written to its disk is gone, and the machine starts anew.

A project lies on a file system in an image. In mid-build, or shortly after, the builder is stopped and the image
copied; what is only in the file system's cache is not in the copy. At random moments before, something was written to
the disk: all, the state alone, or one file; so what is durable and what is not is as bad a choice as it can be. The
copy is mounted where the original was, and looked at under another boot id.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
from bench import Bench, Trouble
from forty_targets import OTHER, Reference, outputs, published, strays
from mounts import KINDS, loop, make_image

from mergebuild.store import DiskStore
from mergebuild.system import filestate

AFTER = {"MERGEBUILD_BOOT_ID": "after the cut"}
_NO_UUID = {"xfs": "nouuid"}


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_power_cuts(full_bench: Bench, kind: str) -> None:
    """Half of them in a first build, half in one that replaces outputs which are safe on the disk."""
    bench, trouble, landed, lost = full_bench, Trouble(), Counter[str](), Counter[str]()
    image, copy, folder = (bench.space / name for name in ("image", "copy", "disk"))
    for number in range(50):
        with loop(make_image(image, kind), folder) as disk:
            root = bench.project(disk / "project", link=bench.link())
            wanted, former = bench.first, []
            if number % 2:
                bench.program.run("build", here=root).checked()
                wanted, former = bench.other, [bench.first]
                bench.project(root, m=OTHER)
            os.sync()
            before = published(root)
            running = bench.program.start("build", here=root)
            for _ in range(bench.chance.randrange(3)):
                running.is_over(bench.chance.uniform(0.2, 0.6) * wanted.seconds)
                write_some(bench, root)
            is_over = running.is_over(bench.chance.uniform(0.2, 0.8) * wanted.seconds)
            running.signal(signal.SIGSTOP)
            subprocess.run(["cp", "--sparse=always", image, copy], check=True)
            landed["after" if is_over else "between" if published(root) != before else "before"] += 1
            running.signal(signal.SIGKILL)
            running.wait()
        with loop(copy, folder, _NO_UUID.get(kind, "")) as disk, trouble.noted(f"round {number}"):
            lost[f"wrong bytes at {check_after(bench, disk / 'project', wanted, former)} outputs"] += 1
        copy.unlink()
    bench.report(rounds=50, landed=landed, lost=lost)
    trouble.check()


def test_a_power_cut_without_a_mount(bench: Bench) -> None:
    """Files that were published last lose their ends, as some file systems have it, and the state stays."""
    count = bench.rounds(50, 2)
    trouble = Trouble()
    for number in range(count):
        root = bench.project(bench.space / f"round-{number}", link=bench.link())
        bench.program.run("build", here=root).checked()
        wanted, former = bench.first, []
        if number % 2:
            wanted, former = bench.other, [bench.first]
            bench.program.run("build", here=bench.project(root, m=OTHER)).checked()
        with closing(DiskStore(root / ".mergebuild", project="../mergefile.toml")) as store:
            for name in bench.chance.sample(sorted(wanted.outputs), 5):
                lose_end(root / name, bench.chance)
                remember_later(store, root / name)
        with trouble.noted(f"round {number}"):
            check_after(bench, root, wanted, former)
        shutil.rmtree(root)
    bench.report(rounds=count)
    trouble.check()


def lose_end(path: Path, chance: random.Random) -> None:
    """Have a file lose its last pages, or all; half the time zeros stand for them."""
    size = path.stat().st_size
    os.truncate(path, chance.choice((0, (size - 1) // 4096 * 4096, size // 8192 * 4096)))
    if chance.random() < 0.5:
        os.truncate(path, size)


def remember_later(store: DiskStore, path: Path) -> None:
    """Have a file be on record as touched after this: a power cut is not seen in its times, and what we just did is."""
    for row in store.state.artifacts(path=path):
        assert row.identity is not None
        now = filestate.identity(path)
        later = now._replace(size=row.identity.size, mtime_ns=now.mtime_ns + 1, ctime_ns=now.ctime_ns + 1)
        store.state.move_artifact(row.id, path, row.kind, later, row.epoch)


def write_some(bench: Bench, root: Path) -> None:
    """Have some of what was written so far reach the disk."""
    what = bench.chance.choice(("all", "state", "output", "nothing"))
    if what == "all":
        os.sync()
    elif what == "state":
        paths = sorted((root / ".mergebuild").glob("state.sqlite3*"))
        for path in paths:
            write_out(path)
    elif what == "output":
        paths = [path for path in (root / "out").rglob("*") if path.is_file()]
        if paths:
            write_out(bench.chance.choice(paths))


def write_out(path: Path) -> None:
    """Have one file reach the disk."""
    with suppress(FileNotFoundError):  # it was a temporary one
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def check_after(bench: Bench, root: Path, wanted: Reference, former: list[Reference]) -> int:
    """Check that nothing wrong is called right, and that a build makes it right; return how many files were wrong."""
    there = published(root)
    whole = {name for name, data in there.items() if data == wanted.outputs.get(name)}
    known = {name for name, data in there.items() if data in [each.outputs.get(name) for each in (wanted, *former)]}
    if not (root / "mergefile.toml").exists():
        bench.project(root, m=wanted.m)
    status = bench.program.run("status", "--json", here=root, env=AFTER).checked().document
    for each in status["targets"]:
        files = [name for name in wanted.outputs if name.startswith(each["output"])]
        if each["state"] == "up-to-date":
            assert whole.issuperset(files), f"{each['target']} is called up to date, and is not"
    again = bench.program.run("build", "--json", here=root, env=AFTER).checked()
    assert outputs(root) == wanted.outputs, "the next build is not right"
    assert not strays(root)
    assert again.document["ok"]
    found = bench.program.run("verify", "--json", here=root, env=AFTER)
    if found.code:  # what the store keeps beside outputs, and no build had a use for, was torn too: it is taken away
        assert all("`.mergebuild/" in each["message"] for each in found.checked(5).document["errors"])
        bench.program.run("verify", here=root, env=AFTER).checked()
    return len(there) - len(known)
