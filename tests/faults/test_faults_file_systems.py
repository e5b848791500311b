"""XFS and Btrfs, which share blocks between files: the same faults again, and what a small change costs on the disk."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from bench import Bench, Trouble
from forty_targets import OTHER, check_tidy, outputs, published, remove
from model_files import write_model
from mounts import loop, make_image, used

_SHARING = ("xfs", "btrfs")

pytestmark = [pytest.mark.faults, pytest.mark.parametrize("kind", _SHARING)]


def test_kills_on_it(full_bench: Bench, kind: str) -> None:
    """Thirty of a first build and thirty of a rebuild."""
    bench, trouble, landed = full_bench, Trouble(), Counter[str]()
    with loop(make_image(bench.space / "image", kind), bench.space / "disk") as disk:
        for number in range(60):
            root = bench.project(disk / f"round-{number}")
            wanted, former = bench.first, []
            if number % 2:
                bench.program.run("build", here=root).checked()
                bench.project(root, m=OTHER)
                wanted, former = bench.other, [bench.first]
            before = published(root)
            running = bench.program.start("build", here=root)
            is_late = running.is_over(bench.chance.uniform(0, wanted.seconds))
            running.signal(signal.SIGKILL)
            running.wait()
            landed["too late" if is_late else "between" if published(root) != before else "before"] += 1
            with trouble.noted(f"round {number}"):
                bench.check_promise(root, wanted, *former)
                bench.program.run("verify", here=root).checked()
            remove(root)
    bench.report(rounds=60, landed=landed)
    trouble.check()


def test_interrupts_on_it(full_bench: Bench, kind: str) -> None:
    bench, trouble, codes = full_bench, Trouble(), Counter[int]()
    with loop(make_image(bench.space / "image", kind), bench.space / "disk") as disk:
        for number in range(15):
            root = bench.project(disk / f"round-{number}")
            running = bench.program.start("build", here=root)
            time.sleep(bench.chance.uniform(0.05, bench.first.seconds))
            running.signal((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[number % 3])
            ended = running.wait()
            codes[ended.code] += 1
            with trouble.noted(f"round {number}"):
                assert ended.code in (0, 130)
                check_tidy(root)
                bench.check_promise(root, bench.first)
            remove(root)
    bench.report(rounds=15, codes=codes)
    trouble.check()


def test_a_full_disk_of_it(full_bench: Bench, kind: str) -> None:
    """Ten amounts of room, on a first build and on a rebuild."""
    bench, trouble, codes = full_bench, Trouble(), Counter[int]()
    needed = sum(map(len, bench.first.outputs.values()))
    with loop(make_image(bench.space / "image", kind), bench.space / "disk") as disk:
        for number in range(20):
            root = bench.project(disk / "project")
            wanted, former = bench.first, []
            if number % 2:
                bench.program.run("build", here=root).checked()
                bench.project(root, m=OTHER)
                wanted, former = bench.other, [bench.first]
            os.sync()
            leave(disk, 16_384 + needed * (number // 2) // 10)
            ended = bench.program.run("build", here=root)
            codes[ended.code] += 1
            with trouble.noted(f"round {number}"):
                assert ended.code in (0, 7), f"exit code {ended.code}: {ended.err[-400:]}"
                check_tidy(root)
                (disk / "ballast").unlink()
                os.sync()
                bench.check_promise(root, wanted, *former)
            (disk / "ballast").unlink(missing_ok=True)
            remove(root)
    bench.report(rounds=20, codes=codes)
    trouble.check()


def test_many_builders_on_it(full_bench: Bench, kind: str) -> None:
    bench, trouble = full_bench, Trouble()
    with loop(make_image(bench.space / "image", kind), bench.space / "disk") as disk:
        for number in range(10):
            root = bench.project(disk / f"round-{number}")
            some = [bench.program.start("build", "--json", here=root) for _ in range((2, 4, 16)[number % 3])]
            ended = [each.wait() for each in some]
            with trouble.noted(f"round {number}"):
                documents = [each.checked().document for each in ended]
                computed = sum(target["tensors_computed"] for each in documents for target in each["targets"])
                assert computed == bench.first.all_computed
                assert outputs(root) == bench.first.outputs
                check_tidy(root)
            remove(root)
    bench.report(rounds=10)
    trouble.check()


TENSORS, BYTES = 64, 512 * 1024
"""Of a model that is large enough for a change of it to be seen among what the file system itself writes."""

LARGE = """
[sources]
one = "{sources}/one.safetensors"
two = "{sources}/two.safetensors"
[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
alpha = {{ default = 0.5, {changed} }}
output = "out/mix.safetensors"
dtype = "float32"
"""


@pytest.mark.parametrize("changed", [1, 8, 32])
def test_a_change_takes_the_room_of_what_changed(full_bench: Bench, kind: str, changed: int) -> None:
    """Within 5 % or a page a tensor: the old version stays in the history, and shares the rest with the new one."""
    bench = full_bench
    dice = torch.Generator().manual_seed(1)
    for name in ("one", "two"):
        write = {f"layer.{index:02}.weight": torch.randn(BYTES // 4, generator=dice) for index in range(TENSORS)}
        write_model(bench.space / f"{name}.safetensors", write)
    with loop(make_image(bench.space / "image", kind, 512), bench.space / "disk") as disk:
        root = disk / "project"
        root.mkdir()
        taken = []
        for number in (0.25, 0.75):
            keys = ", ".join(f'"layer.{index:02}.weight" = {number}' for index in range(changed))
            (root / "mergefile.toml").write_text(LARGE.format(sources=bench.space, changed=keys))
            time.sleep(0.05)
            ended = bench.program.run("build", "--json", here=root).checked()
            taken.append(used(disk) - state_size(root))
        (target,) = ended.document["targets"]
        assert target["tensors_computed"] == changed
        assert len(list((root / ".mergebuild/history").iterdir())) == 1
        added = taken[1] - taken[0]
        bench.report(changed_bytes=changed * BYTES, added_bytes=added, whole_bytes=TENSORS * BYTES)
        assert added <= 1.05 * changed * BYTES + 4096 * TENSORS


def leave(disk: Path, room: int) -> None:
    """Take all the room of a file system but this."""
    with (disk / "ballast").open("wb") as file:
        for turn in range(12):  # what a file system needs for itself grows with the file
            found = os.statvfs(disk)
            more = found.f_bavail * found.f_frsize - room
            if more <= 0:
                break
            size = file.seek(0, os.SEEK_END)
            with suppress(OSError):  # less can be had than it says: then half of it, next time round
                os.posix_fallocate(file.fileno(), size, more if turn % 2 == 0 else max(4096, more // 2))
            os.fsync(file.fileno())


def state_size(root: Path) -> int:
    """Return the bytes that the state takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in (root / ".mergebuild").glob("state*"))
