"""Laws of running a pass: what can be shared is shared, errors end the others, and nothing half done is left."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import xxhash
from disks import Disk
from lab import as_bytes

from mergebuild.engine.mappings import Mappings
from mergebuild.engine.run import _Torch, run_pass
from mergebuild.engine.work import Cluster, Copy, Leaf, Location, OutputFile, OutputRange, Pass, Pending, Step
from mergebuild.events import Event, PassEnded, Progress, silent
from mergebuild.system import portable
from mergebuild.system.portable import PAGE

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


def pending(path: Path, size: int, then: Callable[[bytes], tuple[Cluster | None, list[Copy]]]) -> Pending:
    """Return work over the first bytes of a file."""
    leaf = Leaf(b"", "uint8", size, Location(path, 0, size))

    def resolve(checksums: Sequence[bytes]) -> tuple[Cluster | None, list[Copy]]:
        (found,) = checksums
        return then(found)

    return Pending([leaf], resolve)


class Late(_Torch):
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
def test_pending_work_is_asked_with_the_checksum_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, piece: int, is_there: bool
) -> None:
    """However it is read, mapped or not while torch is awaited; what is answered, copies and steps, is done."""
    monkeypatch.setattr("mergebuild.engine.run._PIECE", piece)
    monkeypatch.setattr("mergebuild.engine.run._torch", late := Late(waits=3))
    if is_there:
        late.is_there.set()
    source, out = tmp_path / "in", tmp_path / "out"
    values = torch.tensor([1.0, 2.0, 3.0])
    source.write_bytes(as_bytes(values))
    seen = []

    def both(checksum: bytes) -> tuple[Cluster | None, list[Copy]]:
        seen.append(checksum)
        leaf = Leaf(b"a", "float32", 3, Location(source, 0, 12))
        step = Step(b"s", "float16", 3, [(b"a", HALF)], [OutputRange(0, 12)])
        return Cluster([leaf], [step]), [Copy(Location(source, 0, 12), OutputRange(0, 0))]

    def nothing(checksum: bytes) -> tuple[Cluster | None, list[Copy]]:
        seen.append(checksum)
        return None, []

    work = Pass([OutputFile(out, b"", 18)], pending=[pending(source, 12, both), pending(source, 0, nothing)])
    results = run_pass(work, threads=threads, emit=silent, targets=("t",)).steps
    assert sorted(seen) == sorted([xxhash.xxh3_128_digest(source.read_bytes()), xxhash.xxh3_128_digest(b"")])
    halves = as_bytes(torch.tensor([0.5, 1.0, 1.5]).half())
    assert out.read_bytes() == as_bytes(values) + halves
    assert results[b"s"].checksum == xxhash.xxh3_128_digest(halves)


def test_one_of_several_workers_leaves_its_processor_to_the_import(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until torch is there; or until the pass ends. One that is alone has nobody to leave the work to."""
    monkeypatch.setattr("mergebuild.engine.run._LOOK", 0.001)
    monkeypatch.setattr("mergebuild.engine.run._torch", late := Late(waits=5))
    hashed: list[str] = []

    def note(_checksum: bytes) -> tuple[Cluster | None, list[Copy]]:
        hashed.append(threading.current_thread().name)
        while not late.is_there.is_set() and late.waited:  # so that there is work until it ends
            time.sleep(0.001)
        return None, []

    def made(threads: int) -> None:
        jobs = [pending(source, size, note) for size in (1, 2, 3)]
        run_pass(Pass([OutputFile(tmp_path / "out", b"", 0)], pending=jobs), threads=threads, emit=silent, targets=())
        (tmp_path / "out").unlink()

    made(threads=1)
    assert len(hashed) == 3
    assert not late.waited
    made(threads=3)
    assert len(late.waited) == 5
    assert len(set(late.waited)) == 1

    monkeypatch.setattr("mergebuild.engine.run._torch", Late(waits=1 << 30))
    jobs = [pending(source, 1, failing), pending(source, 2, failing)]
    with pytest.raises(LookupError):
        run_pass(Pass([OutputFile(tmp_path / "out", b"", 0)], pending=jobs), threads=2, emit=silent, targets=())


# Errors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").write_bytes(bytes(range(64)))
    return tmp_path / "in"


def failing(_checksum: bytes) -> tuple[Cluster | None, list[Copy]]:
    raise LookupError("no such tensor")


def test_an_error_of_pending_work_ends_the_pass(tmp_path: Path, source: Path) -> None:
    """What stands behind it is not done, and nothing is left."""
    asked: list[bytes] = []

    def ask(checksum: bytes) -> tuple[Cluster | None, list[Copy]]:
        asked.append(checksum)
        return None, []

    events: list[Event] = []
    jobs = [pending(source, 1, ask), pending(source, 2, failing), pending(source, 3, ask), pending(source, 4, ask)]
    work = Pass([OutputFile(tmp_path / "out", b"head", 64)], pending=jobs)
    with pytest.raises(LookupError):
        run_pass(work, threads=1, emit=events.append, targets=("t",))
    assert asked == [xxhash.xxh3_128_digest(bytes(1))]
    assert isinstance(events[-1], PassEnded)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("kind", ["copy", "short copy", "cluster", "pending copy", "pending leaf"])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_error_ends_all_and_leaves_nothing(tmp_path: Path, source: Path, kind: str, threads: int) -> None:
    """A file that is gone or too short, met by any kind of job, while others go on without end of their own."""
    gone = tmp_path / "gone"
    work = Pass([OutputFile(tmp_path / "out", b"", 64), OutputFile(tmp_path / "out2", b"", 64)])
    failed = threading.Event()
    done: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, PassEnded):
            failed.set()

    def slow(_checksum: bytes) -> tuple[Cluster | None, list[Copy]]:
        done.append(1)
        time.sleep(0.001)
        return None, []

    match kind:
        case "copy":
            work.pending.append(pending(source, 1, lambda _: (None, [Copy(Location(gone, 0, 8), OutputRange(0, 0))])))
        case "short copy":
            work.copies.append(Copy(Location(source, 60, 8), OutputRange(0, 0)))
        case "cluster":
            step = Step(b"s", "float32", 1, [(b"a", HALF)], [OutputRange(0, 0)])
            cluster = Cluster([Leaf(b"a", "float32", 1, Location(gone, 0, 4))], [step])
            work.pending.append(pending(source, 1, lambda _: (cluster, [])))
        case "pending copy":
            work.pending.append(
                pending(source, 1, lambda _: (None, [Copy(Location(source, 0, 65), OutputRange(1, 0))]))
            )
        case _:
            work.pending.append(pending(gone, 1, lambda _: (None, [])))
    many = 20_000
    work.pending += [pending(source, 4, slow)] * many
    with pytest.raises(OSError, match=r"gone|early"):
        run_pass(work, threads=threads, emit=watch, targets=("t",))
    assert len(done) < many
    assert failed.is_set()
    assert list(tmp_path.iterdir()) == [source]


def test_an_interrupt_ends_all_and_leaves_nothing(tmp_path: Path, source: Path) -> None:
    """Sent while the main thread waits for the others."""
    done: list[int] = []

    def slow(_checksum: bytes) -> tuple[Cluster | None, list[Copy]]:
        done.append(1)
        if len(done) == 5:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.001)
        return None, []

    many = 20_000
    work = Pass([OutputFile(tmp_path / "out", b"", 64)], pending=[pending(source, 4, slow)] * many)
    with pytest.raises(KeyboardInterrupt):
        run_pass(work, threads=2, emit=silent, targets=("t",))
    assert len(done) < many
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
    monkeypatch.setattr(portable, "advise", lambda _map, what, offset, size: told.append((what, offset, size)))
    monkeypatch.setattr("mergebuild.engine.mappings.RESIDENT", 1)
    work = Pass([OutputFile(tmp_path / "out", b"", 8)], pending=[pending(source, 9, lambda _: (None, []))])
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
            portable, "advise", lambda found, _what, offset, size: told.append((names[id(found)], offset, size))
        )

        mappings.release(tmp_path / "a", 40, 20)
        mappings.release(tmp_path / "b", 0, 30)
        mappings.release(tmp_path / "a", far, 10)
        assert told == []
        mappings.release(tmp_path / "a", 0, 40)

    assert told == [("a", 0, 60), ("a", far, 10), ("b", 0, 30)]
