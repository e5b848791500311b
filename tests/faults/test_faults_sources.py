"""Sources that are rewritten at the same size, before a build, while it runs and right after it, mtime put back.

Each round has one edit: in place by a few writes or through a mapping, cut short and written anew, or another file
renamed to its place; with the times it had before, or those of a clock that is an hour or a year off. Whatever a build
publishes is the merge of wholly old or wholly new bytes, and the next build comes to the new ones: no edit is missed.

The program runs in processes of its own, forked from one that has imported it: the start of a thousand would take most
of the time. The clock of the machine is not set: there is no namespace for it, and others work on the machine. What a
clock does to stat data is done to these, and clocks that are set are tested where they are read (`test_sources.py`).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch

from mergebuild.formats.layout import encode_header

ROUNDS = {("small", "short"): 20, ("large", "short"): 5, ("small", "long"): 800, ("large", "long"): 200}

MERGEFILE = """
[sources]
one = "one.safetensors"
two = "two.safetensors"

[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.3
output = "mix.safetensors"

[targets.copied]
method = "copy"
a = "one"
output = "copied.safetensors"

[targets.next]
method = "weighted_sum"
a = "mix"
b = "copied"
alpha = 0.5
output = "next.safetensors"
"""
OUTPUTS = ("mix.safetensors", "copied.safetensors", "next.safetensors")

SIZES = {"small": 700, "large": 1 << 20}
"""Numbers in each of a model's tensors: a few kilobytes, and 32 MiB."""
TENSORS = 8

YEAR = 365 * 24 * 3600
CLOCKS = (0, -3600, YEAR, -YEAR)
"""By how many seconds the clock is off that dates an edit: the mtime of before is put back where it is right."""


def _main(root: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Run the program in a folder; its words go to files beside it."""
    for name in [name for name in os.environ if name.startswith("MERGEBUILD_")]:
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(root)
    for stream, name in ((1, "out"), (2, "err")):
        fd = os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(fd, stream)
    from mergebuild.cli import main

    main(arguments)


def _model(seed: int, count: int) -> bytes:
    """Return a file; those of one size have one header, and no number in common."""
    raw, _ = encode_header([(f"layer.{index}.weight", "float32", (count,)) for index in range(TENSORS)], {})
    numbers = torch.randn(TENSORS * count, generator=torch.Generator().manual_seed(seed))
    return raw + ctypes.string_at(numbers.data_ptr(), 4 * numbers.numel())


@dataclass
class Ground:
    """A project whose first source comes in two versions, and what its outputs are with each."""

    size: str
    root: Path
    context: ForkServerContext
    environment: Mapping[str, str]
    chance: random.Random
    versions: tuple[bytes, bytes]
    now: int = 0
    wanted: list[dict[str, bytes]] = field(default_factory=list)
    seconds: float = 0.0
    """What a build takes that has something to do."""

    @property
    def source(self) -> Path:
        return self.root / "one.safetensors"

    def start(self, *arguments: str) -> ForkServerProcess:
        process = self.context.Process(target=_main, args=(str(self.root), arguments, self.environment))
        process.start()
        return process

    def build(self) -> None:
        """Build undisturbed, and check that the outputs are those of the source as it is now."""
        process = self.start("build", "--json")
        process.join(60)
        assert process.exitcode == 0, f"exit code {process.exitcode}: {self.said}"
        assert self.published() == self.wanted[self.now], "the next build missed an edit"
        assert not list(self.root.glob(".*.mergebuild-*"))

    @property
    def said(self) -> str:
        return (self.root.parent / "err").read_text()

    def check_refusal(self, code: int | None, former: Mapping[str, bytes], case: str) -> None:
        """Check how a build ended that did not publish all: it says why, and what stands is whole."""
        assert code == 4, f"{case}: exit code {code}: {self.said}"
        document = json.loads((self.root.parent / "out").read_text())
        assert {error["code"] for error in document["errors"]} == {"source-changed"}, f"{case}: {self.said}"
        for name, content in self.published().items():
            assert content in (former.get(name), *(each[name] for each in self.wanted)), f"{case}: bytes of both"

    def published(self) -> dict[str, bytes]:
        return {name: (self.root / name).read_bytes() for name in OUTPUTS if (self.root / name).exists()}

    def forget(self) -> None:
        """Leave nothing of former builds: the next one sees its sources for the first time."""
        for path in (self.root / ".mergebuild").rglob("*"):
            if path.is_file():
                path.unlink()
        for name in OUTPUTS:
            (self.root / name).unlink(missing_ok=True)

    def measure(self) -> None:
        """Build with each version, and note what comes of it and how long it takes."""
        for self.now in (1, 0):
            self.source.write_bytes(self.versions[self.now])
            began = time.monotonic()
            process = self.start("build")
            process.join(60)
            self.seconds = time.monotonic() - began
            assert process.exitcode == 0, self.said
            self.wanted.append(self.published())
        self.wanted.reverse()
        assert all(self.wanted[0][name] != self.wanted[1][name] for name in OUTPUTS)

    # Edits

    def edit(self) -> str:
        """Write the other version, and date it; return how."""
        how = self.chance.choice(_EDITS)
        clock = self.chance.choice(CLOCKS)
        before = self.source.stat()
        self.now = 1 - self.now
        how(self.source, self.versions[self.now], self.chance)
        mtime = time.time_ns() + clock * 10**9 if clock else before.st_mtime_ns
        os.utime(self.source, ns=(before.st_atime_ns, mtime))
        return how.__name__.replace("_", " ").strip()


def _in_place(path: Path, content: bytes, chance: random.Random) -> None:
    with path.open("r+b", buffering=0) as file:
        _write_slowly(file.fileno(), content, chance)


def _anew(path: Path, content: bytes, chance: random.Random) -> None:
    with path.open("wb", buffering=0) as file:
        _write_slowly(file.fileno(), content, chance)


def _through_a_mapping(path: Path, content: bytes, chance: random.Random) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        step = len(content) // chance.choice((1, 2, 5)) + 1
        for begin in range(0, len(content), step):
            mapping[begin : begin + step] = content[begin : begin + step]


def _by_rename(path: Path, content: bytes, _chance: random.Random) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def _write_slowly(fd: int, content: bytes, chance: random.Random) -> None:
    step = len(content) // chance.choice((1, 2, 5)) + 1
    pause = chance.choice((0.0, 0.0, 0.002))
    for begin in range(0, len(content), step):
        os.pwrite(fd, content[begin : begin + step], begin)
        time.sleep(pause)


_EDITS: Sequence[Callable[[Path, bytes, random.Random], None]] = (
    _in_place,
    _in_place,
    _through_a_mapping,
    _anew,
    _by_rename,
)


@pytest.fixture(scope="session")
def context() -> ForkServerContext:
    """Makes processes in which the program is imported already."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(
        ["pytest", "mergebuild.cli.build", "mergebuild.build.builder", "mergebuild.engine.compute"]
    )
    return found


@pytest.fixture(params=["small", "large"])
def ground(request: pytest.FixtureRequest, tmp_path: Path, context: ForkServerContext) -> Ground:
    """A project, and dice whose seed is shown when a test fails."""
    seed = os.environ.get("MERGEBUILD_FAULTS_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"MERGEBUILD_FAULTS_SEED={seed}")
    root = tmp_path / "project"
    root.mkdir()
    count = SIZES[request.param]
    (root / "mergefile.toml").write_text(MERGEFILE)
    (root / "two.safetensors").write_bytes(_model(3, count))
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "NO_COLOR": "1"}
    versions = (_model(1, count), _model(2, count))
    found = Ground(request.param, root, context, environment, random.Random(seed), versions)
    found.measure()
    return found


@pytest.mark.parametrize("length", ["short", pytest.param("long", marks=pytest.mark.faults)])
def test_no_edit_of_a_source_is_missed(ground: Ground, length: str) -> None:
    """Before, during and after builds of all kinds: of sources never seen, of an edit just made, of nothing at all."""
    chance = ground.chance
    rounds = ROUNDS[ground.size, length]
    ended: Counter[str] = Counter()
    for number in range(rounds):
        if chance.random() < 0.3:
            ground.forget()
        if chance.random() < 0.6:
            ground.edit()
        else:
            ground.build()
        moment = chance.choice(("before", "during", "during", "during", "after"))
        case = f"round {number}, an edit {moment} a build"
        former = ground.published()
        how = ground.edit() if moment == "before" else ""
        process = ground.start("build", "--json")
        if moment == "during":
            time.sleep(chance.uniform(0, 1.2 * ground.seconds))
            how = ground.edit()
        process.join(60)
        if process.exitcode == 0:
            allowed = ground.wanted if moment == "during" else [ground.wanted[ground.now]]
            assert ground.published() in allowed, f"{case}: bytes of both"
        else:
            ground.check_refusal(process.exitcode, former, case)
            assert moment == "during", case
        if moment == "after":
            how = ground.edit()
        ended[f"{how}, {moment}: {'built' if process.exitcode == 0 else 'refused'}"] += 1
        for _ in range(chance.choice((1, 2))):  # the second leaves a stamp
            ground.build()
    line = json.dumps({"test": f"sources-{ground.size}-{length}", "edits": rounds, **dict(sorted(ended.items()))})
    print(line)
    if place := os.environ.get("MERGEBUILD_FAULTS_REPORT"):
        with Path(place).open("a") as file:
            file.write(line + "\n")
