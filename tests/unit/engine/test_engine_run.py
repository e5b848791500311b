"""Laws of running a pass: what can be shared is shared, errors end the others, and nothing half done is left."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import xxhash
from disks import Disk
from model_files import as_bytes

from mergebuild.digest import source_tensor_digest
from mergebuild.engine.first_sight import SeenWork, seen
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.run import run_pass
from mergebuild.engine.torch_import import TorchImport
from mergebuild.engine.work import (
    Copy,
    Leaf,
    Location,
    OutputFile,
    OutputRange,
    Pass,
    Step,
    UnseenGroup,
    UnseenInput,
    UnseenTensor,
)
from mergebuild.events import Event, PassEnded, Progress, silent
from mergebuild.system import platform
from mergebuild.system.platform import PAGE

HALF = Fraction(1, 2)


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide nothing, even when the whole suite runs with all hidden."""
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)


def pattern(size: int) -> bytes:
    """Return bytes in which no two pages are alike."""
    return b"".join(number.to_bytes(8, "little") for number in range(-(-size // 8)))[:size]


def progress(events: Sequence[Event]) -> int:
    return sum(event.bytes_written for event in events if isinstance(event, Progress))


# Sharing


@pytest.mark.parametrize("tail", [0, 1, PAGE - 1])
@pytest.mark.parametrize("rest", [0, 5, 2 * PAGE + 3])
def test_whole_pages_of_a_run_are_shared(disk: Disk, tail: int, rest: int) -> None:
    """Of two tensors in a row, whatever their length; allocating the file does not part what is shared.

    Twice the bytes do not fit into the mounted disk, so there the pass succeeds only when they are shared.
    """
    size = (7 << 20) + tail
    content = pattern(PAGE + size + rest)
    source, out = disk.folder / "source", disk.folder / "out"
    source.write_bytes(content)
    middle = PAGE + 3 * (size // 7)
    copies = [
        Copy(Location(source, middle, PAGE + size - middle), OutputRange(0, middle)),
        Copy(Location(source, PAGE, middle - PAGE), OutputRange(0, PAGE)),
    ]
    events: list[Event] = []
    work = Pass([OutputFile(out, b"H" * PAGE, PAGE + size)], copies=copies)
    run_pass(work, threads=2, emit=events.append, targets=("t",))
    assert out.read_bytes() == b"H" * PAGE + content[PAGE : PAGE + size]
    assert progress(events) == size


def test_what_is_not_on_pages_is_copied(disk: Disk) -> None:
    """On either side."""
    content = pattern(5 * PAGE)
    source, out = disk.folder / "source", disk.folder / "out"
    source.write_bytes(content)
    copies = [
        Copy(Location(source, 1, 2 * PAGE), OutputRange(0, PAGE)),
        Copy(Location(source, PAGE, PAGE + 7), OutputRange(0, 3 * PAGE + 1)),
    ]
    work = Pass([OutputFile(out, b"", 4 * PAGE + 8)], copies=copies)
    run_pass(work, threads=1, emit=silent, targets=("t",))
    data = out.read_bytes()
    assert data[PAGE : 3 * PAGE] == content[1 : 2 * PAGE + 1]
    assert data[3 * PAGE + 1 :] == content[PAGE : 2 * PAGE + 7]


def test_a_shared_page_is_written_beside_not_through(disk: Disk) -> None:
    """What is computed next to shared pages changes no byte of the file that they came from."""
    source, out = disk.folder / "source", disk.folder / "out"
    data = as_bytes(torch.arange(2 * PAGE // 4, dtype=torch.float32))
    source.write_bytes(data)
    leaf = Leaf(b"a", "float32", 4, Location(source, 0, 16))
    step = Step(b"s", "float32", 4, [(b"a", HALF)], [OutputRange(0, 2 * PAGE)])
    work = Pass(
        [OutputFile(out, b"", 2 * PAGE + 16)],
        {b"a": leaf},
        {b"s": step},
        [Copy(Location(source, 0, 2 * PAGE), OutputRange(0, 0))],
    )
    run_pass(work, threads=1, emit=silent, targets=("t",))
    with out.open("rb+") as file:
        file.write(b"changed")
    assert source.read_bytes() == data
    assert out.read_bytes()[2 * PAGE :] == as_bytes(torch.tensor([0.0, 0.5, 1.0, 1.5]))


# Work that is known only when bytes are


def group(path: Path, size: int, *tensors: UnseenTensor) -> UnseenGroup:
    """Return tensors to be made of the first bytes of a file, taken for a tensor of bytes."""
    return UnseenGroup((UnseenInput(Leaf(b"", "uint8", size, Location(path, 0, size)), (size,), b""),), tensors)


def noted(monkeypatch: pytest.MonkeyPatch, note: Callable[[UnseenGroup, Sequence[bytes]], None]) -> None:
    """Have a function called, by whichever thread hashed a group, before the group is resolved."""

    def resolved(group: UnseenGroup, checksums: Sequence[bytes]) -> SeenWork:
        note(group, checksums)
        return seen(group, checksums)

    monkeypatch.setattr("mergebuild.engine.unseen.seen", resolved)


class Late(TorchImport):
    """An import of torch that is under way: it ends when it was waited for so many times, or never."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self._begun.acquire()
        self._waits = waits
        self.waited: list[str] = []

    def came(self, within: float) -> bool:
        self.waited.append(threading.current_thread().name)
        if len(self.waited) >= self._waits:
            self.is_there.set()
        return super().came(within)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("piece", [1, 7, 1 << 26])
@pytest.mark.parametrize("is_there", [True, False])
def test_unseen_tensors_are_resolved_by_the_checksum_of_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, piece: int, is_there: bool
) -> None:
    """However these are read, mapped or not while torch is awaited; copies and steps of it are done."""
    for module in ("copying", "unseen"):
        monkeypatch.setattr(f"mergebuild.engine.{module}._PIECE", piece)
    monkeypatch.setattr("mergebuild.engine.torch_import.TORCH", late := Late(waits=3))
    if is_there:
        late.is_there.set()
    source, out = tmp_path / "in", tmp_path / "out"
    values = torch.tensor([1.0, 2.0, 3.0])
    source.write_bytes(as_bytes(values))
    leaf = Leaf(b"", "float32", 3, Location(source, 0, 12))
    tensors = (
        UnseenTensor(OutputRange(0, 0), "float32", (3,), ((0, Fraction(1)),)),
        UnseenTensor(OutputRange(0, 12), "float16", (3,), ((1, HALF),)),
    )
    unseen = [UnseenGroup((UnseenInput(leaf, (3,), b""),), tensors), group(source, 0)]
    done = run_pass(Pass([OutputFile(out, b"", 18)], unseen=unseen), threads=threads, emit=silent, targets=("t",))
    halves = as_bytes(torch.tensor([0.5, 1.0, 1.5]).half())
    assert out.read_bytes() == as_bytes(values) + halves
    both, nothing = done.unseen
    checksum = xxhash.xxh3_128_digest(source.read_bytes())
    copied, halved = both.tensors
    assert both.checksums == (checksum,)
    assert both.inputs == (copied.digest,) == (source_tensor_digest("float32", (3,), checksum),)
    assert copied[1:] == (False, 12)
    assert halved[1:] == (True, 12)
    assert done.steps[halved.digest].checksum == xxhash.xxh3_128_digest(halves)
    assert nothing.checksums == (xxhash.xxh3_128_digest(b""),)
    assert not nothing.tensors


def test_one_of_several_workers_leaves_its_processor_to_the_import(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until torch is there; or until the pass ends. One that is alone has nobody to leave the work to."""
    monkeypatch.setattr("mergebuild.engine.crew._LOOK", 0.001)
    monkeypatch.setattr("mergebuild.engine.torch_import.TORCH", late := Late(waits=5))
    hashed: list[str] = []

    def note(_group: UnseenGroup, _checksums: Sequence[bytes]) -> None:
        hashed.append(threading.current_thread().name)
        while not late.is_there.is_set() and late.waited:  # so that there is work until it ends
            time.sleep(0.001)

    noted(monkeypatch, note)

    def made(*sizes: int, threads: int) -> None:
        work = Pass([OutputFile(tmp_path / "out", b"", 0)], unseen=[group(source, size) for size in sizes])
        run_pass(work, threads=threads, emit=silent, targets=())
        (tmp_path / "out").unlink()

    made(1, 2, 3, threads=1)
    assert len(hashed) == 3
    assert not late.waited
    made(1, 2, 3, threads=3)
    assert len(late.waited) == 5
    assert len(set(late.waited)) == 1

    monkeypatch.setattr("mergebuild.engine.torch_import.TORCH", Late(waits=1 << 30))
    noted(monkeypatch, failing)
    with pytest.raises(LookupError):
        made(1, 2, threads=2)


# Errors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").write_bytes(bytes(range(64)))
    return tmp_path / "in"


def failing(_group: UnseenGroup, _checksums: Sequence[bytes]) -> None:
    raise LookupError("no such tensor")


def test_an_error_of_an_unseen_group_ends_the_pass(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands behind it is not done, and nothing is left."""
    asked: list[Sequence[bytes]] = []

    def note(group: UnseenGroup, checksums: Sequence[bytes]) -> None:
        if asked:
            failing(group, checksums)
        asked.append(checksums)

    noted(monkeypatch, note)
    events: list[Event] = []
    unseen = [group(source, size) for size in (1, 2, 3, 4)]
    work = Pass([OutputFile(tmp_path / "out", b"head", 64)], unseen=unseen)
    with pytest.raises(LookupError):
        run_pass(work, threads=1, emit=events.append, targets=("t",))
    assert asked == [[xxhash.xxh3_128_digest(bytes(1))]]
    assert isinstance(events[-1], PassEnded)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("kind", ["short copy", "step", "unseen copy", "unseen step", "unseen leaf"])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_error_ends_all_and_leaves_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, kind: str, threads: int
) -> None:
    """A file that is gone or too short, met by any kind of job, while others go on without end of their own."""
    gone, first = tmp_path / "gone", tmp_path / "first"
    first.write_bytes(bytes(4))
    failed = threading.Event()
    done: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, PassEnded):
            failed.set()

    def slow(group: UnseenGroup, _checksums: Sequence[bytes]) -> None:
        if group.inputs[0].leaf.location.path == first:
            first.unlink()  # between hashing and whatever is made of it
        done.append(1)
        time.sleep(0.001)

    noted(monkeypatch, slow)
    place = OutputRange(0, 0)
    many = [group(source, 4)] * 20_000
    work = Pass([OutputFile(tmp_path / "out", b"", 64), OutputFile(tmp_path / "out2", b"", 64)], unseen=many)
    known = UnseenInput(Leaf(b"a", "uint8", 8, Location(gone, 0, 8)), (8,), b"checksum")
    copied = UnseenTensor(place, "uint8", (8,), ((0, Fraction(1)),))
    halved = UnseenTensor(place, "float32", (2,), ((0, HALF),))
    match kind:
        case "short copy":
            work = replace(work, copies=[Copy(Location(source, 60, 8), place)])
        case "step":
            leaves = {b"a": Leaf(b"a", "float32", 1, Location(gone, 0, 4))}
            steps = {b"s": Step(b"s", "float32", 1, [(b"a", HALF)], [place])}
            work = replace(work, leaves=leaves, steps=steps, unseen=many[:10])
        case "unseen copy":
            work = replace(work, unseen=[UnseenGroup((known,), (copied,)), *many])
        case "unseen step":
            leaf = Leaf(b"", "float32", 1, Location(first, 0, 4))
            work = replace(work, unseen=[UnseenGroup((UnseenInput(leaf, (1,), b""),), (halved,)), *many])
        case _:
            work = replace(work, unseen=[group(gone, 1), *many])
    with pytest.raises(OSError, match=r"gone|first|early"):
        run_pass(work, threads=threads, emit=watch, targets=("t",))
    assert len(done) < len(many)
    assert failed.is_set()
    first.unlink(missing_ok=True)
    assert list(tmp_path.iterdir()) == [source]


def test_an_interrupt_ends_all_and_leaves_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent while the main thread waits for the others."""
    done: list[int] = []

    def slow(_group: UnseenGroup, _checksums: Sequence[bytes]) -> None:
        done.append(1)
        if len(done) == 5:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.001)

    noted(monkeypatch, slow)
    many = [group(source, 4)] * 20_000
    with pytest.raises(KeyboardInterrupt):
        run_pass(Pass([OutputFile(tmp_path / "out", b"", 64)], unseen=many), threads=2, emit=silent, targets=("t",))
    assert len(done) < len(many)
    assert list(tmp_path.iterdir()) == [source]


def test_an_output_that_exists_is_not_written_over(tmp_path: Path, source: Path) -> None:
    """Files of a pass are new ones."""
    work = Pass([OutputFile(tmp_path / "out", b"", 8)], copies=[Copy(Location(source, 0, 8), OutputRange(0, 0))])
    run_pass(work, threads=1, emit=silent, targets=("t",))
    with pytest.raises(FileExistsError):
        run_pass(work, threads=1, emit=silent, targets=("t",))


def test_pages_that_were_only_hashed_are_let_go(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that nothing is computed of does not stay in memory."""
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(platform, "advise", lambda _map, what, offset, size: told.append((what, offset, size)))
    monkeypatch.setattr("mergebuild.engine.mappings.RESIDENT", 1)
    work = Pass([OutputFile(tmp_path / "out", b"", 8)], unseen=[group(source, 9)])
    run_pass(work, threads=1, emit=silent, targets=("t",))
    assert told == [("dontneed", 0, 9)]


def test_what_was_read_is_let_go_in_large_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near ranges of a file in one call, once there are enough of them; far ones and other files by themselves."""
    told: list[tuple[str, int, int]] = []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(8))
    monkeypatch.setattr("mergebuild.engine.mappings.RESIDENT", 100)
    far = 1 << 30
    with Mappings() as mappings:
        names = {id(mappings.opened(tmp_path / name).mapping): name for name in ("a", "b")}
        monkeypatch.setattr(
            platform, "advise", lambda found, _what, offset, size: told.append((names[id(found)], offset, size))
        )

        mappings.release(tmp_path / "a", 40, 20)
        mappings.release(tmp_path / "b", 0, 30)
        mappings.release(tmp_path / "a", far, 10)
        assert told == []
        mappings.release(tmp_path / "a", 0, 40)

    assert told == [("a", 0, 60), ("a", far, 10), ("b", 0, 30)]
