"""Damage to what lies on the disk: the state cut off at every byte, and bits that flip in it and in artifacts.

What a real process adds (a traceback turned into exit code 70) a sample shows; the bulk calls the library in this
process, where a case takes a hundredth of a second. There the stat identity of a file is its size and mtime alone,
both of which can be put back: so a flipped bit is as invisible as rot on a disk, and one project serves all cases.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from bench import Bench, Trouble
from forty_targets import outputs, published, remove
from model_files import write_model

from mergebuild.project.project import Project, load
from mergebuild.results.build import BuildResult
from mergebuild.sources.opening import read_model
from mergebuild.store import FRAME
from mergebuild.system import filestate
from mergebuild.system.filestate import Identity

MERGEFILE = """
[project]
link = "copy"
[vars]
m = {m}
[sources]
one = "../one.safetensors"
two = "../two.safetensors"
[targets.x]
formula = "a*one + b*two"
a = {{ default = 0.5, u = "${{m}}" }}
b = 0.5
output = "x.safetensors"
[targets.y]
formula = "0.25*one + c*x"
c = 1.5
output = "y.safetensors"
[targets.z]
formula = "0.5*x + m*y"
m = "${{m}}"
output = "z.ckpt"
"""
OUTPUTS = ("x.safetensors", "y.safetensors", "z.ckpt")
BEFORE, NOW = "0.25", "0.75"


class Small:
    """A project of three targets in its second build, which can be put back to just that."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / ".mergebuild"
        self.wanted: dict[str, dict[str, bytes]] = {}
        for number, name in enumerate(("one", "two"), 1):
            tensors = {key: torch.arange(8.0) * number + place for place, key in enumerate("uvw")}
            write_model(root.parent / f"{name}.safetensors", tensors)
        time.sleep(0.05)
        self.store.mkdir(parents=True)
        with closing(sqlite3.connect(self.store / "state.sqlite3")) as db:
            db.execute("PRAGMA page_size = 512")  # the smallest that there is
            db.execute("VACUUM")
        self.write(BEFORE)
        self.project.build()
        self.wanted[BEFORE] = self.outputs()
        with closing(sqlite3.connect(self.store / "state.sqlite3")) as db:
            db.execute("SELECT * FROM artifact").fetchall()  # while it is open nobody empties the WAL
            self.write(NOW)
            self.project.build(["x", "y"])
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log begins here: a small one, too
            self.project.build()
            self._files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in self._all()}
        self.wanted[NOW] = self.outputs()

    @property
    def project(self) -> Project:
        """The project, read anew."""
        return load(self.root / "mergefile.toml")

    @property
    def database(self) -> Path:
        """The state's database."""
        return self.store / "state.sqlite3"

    @property
    def wal(self) -> Path:
        """The log that was written and not yet carried over into the database."""
        return self.store / "state.sqlite3-wal"

    def write(self, m: str) -> None:
        """Write the mergefile."""
        (self.root / "mergefile.toml").write_text(MERGEFILE.format(m=m))

    def outputs(self) -> dict[str, bytes]:
        """Return the outputs that there are."""
        return {name: (self.root / name).read_bytes() for name in OUTPUTS if (self.root / name).exists()}

    def put_back(self) -> None:
        """Put everything back to how it was after the second build, mtimes included."""
        for path in self._all():
            if path not in self._files or path.name.endswith("-shm"):
                path.unlink()
        for path, (data, mtime) in self._files.items():
            if path.name.endswith("-shm"):
                continue
            if not path.exists() or path.stat().st_mtime_ns != mtime or path.read_bytes() != data:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
                os.utime(path, ns=(mtime, mtime))

    def rot(self, path: Path, chance: random.Random) -> int:
        """Flip a random bit of a file, and put its mtime back; return the offset of its byte."""
        data, mtime = bytearray(path.read_bytes()), path.stat().st_mtime_ns
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        os.utime(path, ns=(mtime, mtime))
        return place

    def _all(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file() and path.parent.name != "stamps"]


def _plain_identity(path: Path) -> Identity:
    found = path.stat()
    return Identity(found.st_dev, 0, found.st_size, found.st_mtime_ns, found.st_mtime_ns)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    """In memory, where there is a file system for it: each case ends with the state written out, and disks are slow."""
    for name in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS", "MERGEBUILD_BOOT_ID", "MERGEBUILD_PORTABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(filestate, "identity", _plain_identity)
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Small(Path(folder) / "project")


def built(small: Small, m: str, *, may_refuse: bool = False, targets: Sequence[str] = ()) -> BuildResult:
    """Build with this `m`; all must go well, and every output be right.

    With `may_refuse` an output may be taken for a stranger's, and stays what it was.
    """
    small.write(m)
    result = small.project.build(targets)
    errors = [each.error for each in result.targets if each.error]
    if may_refuse and errors:
        assert {each.code for each in errors} == {"changed-by-hand"}
    else:
        assert result.exit_code == 0, f"exit code {result.exit_code}: {'; '.join(each.message for each in errors)}"
    found = small.outputs()
    assert found.keys() == small.wanted[m].keys()
    for name, data in found.items():
        is_right = data in [each[name] for each in small.wanted.values()] if errors else data == small.wanted[m][name]
        assert is_right, f"`{name}` is wrong"
    return result


def test_the_project_can_be_put_back(small: Small) -> None:
    """Else nothing here would mean anything."""
    for _ in range(3):
        small.put_back()
        result = built(small, NOW)
        assert {str(each.verdict) for each in result.targets} == {"up-to-date"}


@pytest.mark.parametrize("part", ["database", "wal"])
def test_a_state_cut_off_at_any_byte_costs_work_and_nothing_else(bench: Bench, small: Small, part: str) -> None:
    path: Path = getattr(small, part)
    small.put_back()
    whole = path.read_bytes()
    places = range(len(whole)) if bench.rounds(1, 0) else sorted(bench.chance.sample(range(len(whole)), 25))
    trouble, verdicts = Trouble(), Counter[str]()
    for place in places:
        small.put_back()
        path.write_bytes(whole[:place])
        with trouble.noted(f"byte {place} of {len(whole)}"):
            result = built(small, NOW, targets=("x",) if place % 8 else ())
            verdicts.update(str(each.verdict) for each in result.targets)
    bench.report(places=len(places), verdicts=verdicts)
    trouble.check()


@pytest.mark.parametrize("part", ["database", "wal"])
def test_a_flipped_bit_in_the_state_makes_no_wrong_output(bench: Bench, small: Small, part: str) -> None:
    """The build as it was, one of the recipe before (out of the history, if that is known still), and `verify`.

    What a broken row or page said is unknown once it is met: where the recipe changed just then, an output may be
    anybody's.
    """
    path: Path = getattr(small, part)
    count = bench.rounds(1000, 20)
    trouble, verdicts = Trouble(), Counter[str]()
    for number in range(count):
        small.put_back()
        place = small.rot(path, bench.chance)
        with trouble.noted(f"flip {number} at byte {place}"):
            verdicts.update(str(each.verdict) for each in built(small, NOW).targets)
            for m in (BEFORE, NOW):
                verdicts.update(str(each.verdict) for each in built(small, m, may_refuse=True).targets)
            found = small.project.verify()
            assert found.exit_code == 0, f"verify: {[each.message for each in found.problems]}"
    bench.report(flips=count, verdicts=verdicts)
    trouble.check()


def owners(clean: bytes, space: Path) -> Callable[[int], set[str]]:
    """Return what says to which part of an artifact the byte at an offset belongs, as `verify` may name the parts."""
    path = space / "clean"
    path.write_bytes(clean)
    tensors = read_model(path).tensors.items()
    start = min(info.begin for _, info in tensors)

    def owner(place: int) -> set[str]:
        found = {name for name, info in tensors if info.begin <= place < info.end}
        return found or ({"header", FRAME} if place < start else {FRAME})

    return owner


@pytest.mark.parametrize("where", ["output", "kept", "history"])
def test_verify_finds_every_flipped_bit_and_names_the_tensor(
    bench: Bench, small: Small, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: it takes what is hurt away. A build after a new start is right, whether or not `verify` was asked."""
    count = bench.rounds(500, 8)
    small.put_back()
    paths = [small.root / name for name in OUTPUTS] if where == "output" else sorted((small.store / where).iterdir())
    owner = {path: owners(path.read_bytes(), small.root.parent) for path in paths}
    targets = {small.root / name: name[0] for name in OUTPUTS}
    trouble, verified = Trouble(), 0
    for number in range(count):
        small.put_back()
        monkeypatch.delenv("MERGEBUILD_BOOT_ID", raising=False)
        small.write(NOW)
        path = bench.chance.choice(paths)
        place = small.rot(path, bench.chance)
        with trouble.noted(f"flip {number} at byte {place} of {path.name}"):
            if number % 4:
                verified += 1
                found = small.project.verify()
                assert found.exit_code == 5, "verify found nothing"
                (problem,) = found.problems
                assert path.relative_to(small.root).as_posix() in problem.message
                assert targets.get(path, "") in problem.message
                assert owner[path](place) & {*problem.rows}, f"{owner[path](place)} is not named but {problem.rows}"
            monkeypatch.setenv("MERGEBUILD_BOOT_ID", "another")
            built(small, NOW)
            built(small, BEFORE)
            built(small, NOW)
            if not number % 4:
                small.project.verify()  # what no build had a use for is still to be found
            assert small.project.verify().exit_code == 0, "what was found is found again"
    bench.report(flips=count, verified=verified)
    trouble.check()


PLACES = ("state.sqlite3", "kept", "state.sqlite3-wal", "history")


def test_the_program_itself_meets_damage_without_a_traceback(bench: Bench) -> None:
    """A sample with real processes: bits flipped in the state or in all blobs of the store, the state cut off."""
    count = bench.rounds(40, 2)
    root = bench.space / "project"
    store = root / ".mergebuild"
    trouble = Trouble()
    for number in range(count):
        place, is_first = PLACES[number % 4], bool(number // 4 % 2)
        wanted, former = (bench.first, bench.other) if is_first else (bench.other, bench.first)
        bench.program.run("build", here=bench.project(root, m=former.m, link="copy")).checked()
        state = rebuild(bench, root, wanted.m)
        if place.endswith("wal"):
            for path, data in state.items():
                path.write_bytes(data)
        paths = sorted((store / place).iterdir()) if (store / place).is_dir() else [store / place]
        for path in paths:
            hurt(path, bench.chance, may_cut=path.parent == store)
        with trouble.noted(f"round {number}, {place}"):
            if path.parent != store:
                found = bench.program.run("verify", "--json", here=root).checked(5)
                assert len(found.document["errors"]) == len(paths)
            bench.check_promise(root, wanted, nothing_twice=False)
            ended = bench.program.run("build", "-q", "--json", here=bench.project(root, m=former.m, link="copy"))
            if ended.code and path.parent == store:  # damage that only now was met: see above
                ended.checked(1)
                assert {each["code"] for each in ended.document["errors"]} == {"changed-by-hand"}
                assert all(
                    data in (wanted.outputs[name], former.outputs[name]) for name, data in published(root).items()
                )
            else:
                assert outputs(root) == former.outputs, ended.problems
                bench.check_promise(root, former)
        if number < count - 1:
            remove(root)
    bench.report(rounds=count)
    trouble.check()


def rebuild(bench: Bench, root: Path, m: str) -> dict[Path, bytes]:
    """Build with another `m`; return the state as it was before its log was carried over into the database."""
    store = root / ".mergebuild"
    with closing(sqlite3.connect(store / "state.sqlite3")) as db:
        db.execute("SELECT * FROM artifact").fetchall()  # while it is open nobody empties the log
        bench.program.run("build", here=bench.project(root, m=m, link="copy")).checked()
        return {path: path.read_bytes() for path in store.glob("state.sqlite3*") if not path.name.endswith("shm")}


def hurt(path: Path, chance: random.Random, *, may_cut: bool) -> None:
    """Flip a bit of a file, or cut it off."""
    data = bytearray(path.read_bytes())
    if may_cut and chance.random() < 0.3:
        data = data[: chance.randrange(len(data) + 1)]
    elif data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
