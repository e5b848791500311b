"""Laws of writing behind the work: every block goes to all its places once, whichever way, and failures are told."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mergebuild.engine.outputs import DIRECT_SHARE, Outputs
from mergebuild.engine.work import OutputFile, OutputRange
from mergebuild.events import Event, Progress, silent
from mergebuild.formats.gathering import gather
from mergebuild.formats.header import Piece
from mergebuild.system import platform
from mergebuild.system.platform import PAGE

SIZE = 6 * PAGE + 100
BLOCK = 2 * PAGE


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide nothing, even when the whole suite runs with all hidden."""
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)


@pytest.fixture(params=["cached", "direct", "refused", "partial"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A way for bytes to go: through the page cache, past it, or past it on a file system that then will not."""
    found: str = request.param
    if found != "cached":
        monkeypatch.setattr(platform, "memory_bytes", lambda: DIRECT_SHARE)
    if found in ("refused", "partial"):
        real, opened = os.pwrite, direct_descriptors(monkeypatch)

        def write(fd: int, data: memoryview, offset: int) -> int:
            if fd not in opened:
                return real(fd, data, offset)
            if found == "refused":
                raise OSError(errno.EINVAL, "the file system will not")
            return real(fd, data[:PAGE], offset)

        monkeypatch.setattr(os, "pwrite", write)
    return found


def direct_descriptors(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return the descriptors that write past the page cache, as they are opened."""
    opened: set[int] = set()
    real = platform.open_direct

    def note(path: Path) -> int | None:
        fd = real(path)
        if fd is not None:
            opened.add(fd)
        return fd

    monkeypatch.setattr(platform, "open_direct", note)
    return opened


def opened(
    folder: Path, count: int, threads: int, emit: Callable[[Event], None] = silent, *, durable: bool = False
) -> Outputs:
    files = [OutputFile(folder / f"out{index}", b"H" * PAGE, PAGE + SIZE) for index in range(count)]
    return Outputs(files, emit, stop=threading.Event(), threads=threads, durable=durable)


def run(outputs: Outputs, body: Callable[[Outputs], object]) -> None:
    """Open outputs, do something with them, and leave them."""
    with outputs:
        outputs.allocate(0)
        outputs.start(BLOCK)
        body(outputs)


def pieces(content: bytes) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(content), BLOCK):
        yield start, content[start : start + BLOCK]


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 3])
def test_every_block_is_written_to_all_its_places(tmp_path: Path, way: str, threads: int, count: int) -> None:
    """In any order, whole pages and less, by way of the page cache or not; progress counts each place."""
    content = random.Random(7).randbytes(SIZE)
    events: list[Event] = []
    with opened(tmp_path, count, threads, events.append) as outputs:
        outputs.allocate(0)
        outputs.start(BLOCK)
        for start, data in reversed(list(pieces(content))):
            block = outputs.block()
            block.memory[: len(data)] = data
            outputs.put(block, len(data), [OutputRange(index, PAGE + start) for index in range(count)])
    assert outputs.is_direct is (way != "cached")
    for index in range(count):
        assert (tmp_path / f"out{index}").read_bytes() == b"H" * PAGE + content
    assert sum(each.bytes_written for each in events if isinstance(each, Progress)) == count * SIZE


def test_what_lies_askew_is_written_all_the_same(tmp_path: Path, way: str) -> None:
    """A place in the middle of a page, as a tensor of a few values has it."""
    with opened(tmp_path, 1, 1) as outputs:
        outputs.allocate(0)
        outputs.start(BLOCK)
        for start in (0, 2 * PAGE):
            block = outputs.block()
            block.memory[:PAGE] = b"x" * PAGE
            outputs.put(block, PAGE, [OutputRange(0, PAGE + 7 + start)])
    data = (tmp_path / "out0").read_bytes()
    assert data[PAGE : 4 * PAGE + 7] == bytes(7) + b"x" * PAGE + bytes(PAGE) + b"x" * PAGE
    assert way


def test_pages_go_past_the_cache_only_when_outputs_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with the machine's memory; what is shared with other files is not written, and does not count."""
    for memory, shared, expected in [(0, 0, False), (DIRECT_SHARE, 0, True), (10**12, 0, False)]:
        monkeypatch.setattr(platform, "memory_bytes", lambda memory=memory: memory)
        with opened(tmp_path / f"{memory} {shared}", 1, 1) as outputs:
            outputs.allocate(shared)
            assert outputs.is_direct is expected
    monkeypatch.setattr(platform, "memory_bytes", lambda: DIRECT_SHARE * (SIZE + PAGE))
    for shared, expected in [(PAGE, False), (-1, True)]:
        with opened(tmp_path / str(shared), 1, 1) as outputs:
            outputs.allocate(shared)
            assert outputs.is_direct is expected


def test_who_writes_anew_waits_for_what_was_put_before(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the thread that has the first block is slow, and others are not."""
    slow = threading.Event()
    real = platform.pwrite_all

    def write(fd: int, data: memoryview, offset: int) -> None:
        if bytes(data[:1]) == b"a":
            slow.wait(0.2)
        real(fd, data, offset)

    with opened(tmp_path, 1, 4) as outputs:
        outputs.allocate(0)
        outputs.start(BLOCK)
        monkeypatch.setattr(platform, "pwrite_all", write)
        for letter in (b"a", b"b"):
            block = outputs.block()
            block.memory[:100] = letter * 100
            outputs.put(block, 100, [OutputRange(0, PAGE)])
            outputs.settle()
    assert (tmp_path / "out0").read_bytes()[PAGE : PAGE + 100] == b"b" * 100
    assert way


@pytest.mark.parametrize("threads", [1, 4])
def test_bytes_of_a_file_are_moved_by_way_of_blocks(tmp_path: Path, way: str, threads: int) -> None:
    """As many at a time as a block holds."""
    content = random.Random(8).randbytes(SIZE + 11)
    source = tmp_path / "source"
    source.write_bytes(content)
    with opened(tmp_path, 1, threads) as outputs, source.open("rb") as file:
        outputs.allocate(0)
        outputs.start(BLOCK)
        done = 0
        while done < SIZE:
            done += outputs.fill(file.fileno(), 11 + done, SIZE - done, OutputRange(0, PAGE + done))
    assert (tmp_path / "out0").read_bytes() == b"H" * PAGE + content[11:]
    assert way


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    """And the output, which would have a hole, is gone."""
    source = tmp_path / "source"
    source.write_bytes(bytes(100))
    with source.open("rb") as file, pytest.raises(OSError, match="ends 10 bytes early"):
        run(opened(tmp_path, 1, 1), lambda outputs: outputs.fill(file.fileno(), 10, 100, OutputRange(0, PAGE)))
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_failure_of_writing_is_raised_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Whoever fills more blocks than there are gets them back; the files are gone."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    def body(outputs: Outputs) -> None:
        monkeypatch.setattr(platform, "pwrite_all", fail)
        for _ in range(100):
            outputs.put(outputs.block(), PAGE, [OutputRange(index, PAGE) for index in range(3)])

    with pytest.raises(OSError, match="disk"):
        run(opened(tmp_path, 3, threads), body)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_work_goes_before_those_of_writing(tmp_path: Path) -> None:
    """Blocks on their way are dropped."""

    def body(outputs: Outputs) -> None:
        outputs.put(outputs.block(), PAGE, [OutputRange(0, PAGE)])
        raise LookupError

    with pytest.raises(LookupError):
        run(opened(tmp_path, 1, 1), body)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_stay(tmp_path: Path) -> None:
    """An output that exists already is not ours to remove; those created before it are."""
    (tmp_path / "out1").write_text("theirs")
    with pytest.raises(FileExistsError), opened(tmp_path, 3, 1):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out1"]
    assert (tmp_path / "out1").read_text() == "theirs"


def test_the_disk_is_asked_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ranges of a certain size, each once, if somebody will wait for it."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(platform, "start_writeback", lambda _fd, offset, size: asked.append((offset, size)))
    monkeypatch.setattr("mergebuild.engine.outputs._EARLY", 2 * PAGE)
    for durable in (False, True):
        with opened(tmp_path / str(durable), 1, 1, durable=durable) as outputs:
            outputs.allocate(0)
            outputs.start(BLOCK)
            for start in range(0, 5 * PAGE, PAGE):
                outputs.put(outputs.block(), PAGE, [OutputRange(0, PAGE + start)])
    assert asked == [(PAGE, 2 * PAGE), (3 * PAGE, 2 * PAGE)]


def test_whole_pages_go_past_the_cache_where_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the descriptor that was opened for it."""
    monkeypatch.setattr(platform, "memory_bytes", lambda: DIRECT_SHARE)
    opened_directly = direct_descriptors(monkeypatch)
    written: list[int] = []
    real = os.pwrite

    def write(fd: int, data: memoryview, offset: int) -> int:
        written.append(fd)
        return real(fd, data, offset)

    with opened(tmp_path, 1, 1) as outputs:
        outputs.allocate(0)
        outputs.start(BLOCK)
        monkeypatch.setattr(os, "pwrite", write)
        outputs.put(outputs.block(), PAGE, [OutputRange(0, PAGE)])
    assert bool(opened_directly) is (not opened_directly.isdisjoint(written))


def test_a_file_that_is_not_closed_well_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems say only then that what they took did not come to the disk. All files are closed even so."""
    paths = [tmp_path / name for name in ("one", "two")]
    real, failing = os.close, set[int]()

    def fail(fd: int) -> None:
        real(fd)
        if fd in failing:
            failing.remove(fd)
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "close", fail)
    outputs = outputs_of(paths).__enter__()
    descriptors = [outputs.descriptor(index) for index in range(len(paths))]
    failing.add(descriptors[0])
    with pytest.raises(OSError, match="Input/output"):
        outputs.__exit__(None, None, None)
    assert not any(path.exists() for path in paths)
    for each in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)


def test_a_file_that_cannot_be_removed_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what went wrong first is what is told."""
    paths = [tmp_path / name for name in ("one", "two")]
    real = Path.unlink

    def fail(path: Path, *, missing_ok: bool = False) -> None:
        if path == paths[0]:
            raise OSError(errno.EACCES, "Permission denied")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(KeyError), outputs_of(paths):
        raise KeyError
    assert not paths[1].exists()


def outputs_of(paths: Sequence[Path]) -> Outputs:
    """Return outputs without content, not begun."""
    return Outputs(
        [OutputFile(path, b"", 0) for path in paths], silent, stop=threading.Event(), threads=1, durable=False
    )


def test_a_tensor_that_lies_in_no_run_is_written_where_its_elements_lie(tmp_path: Path, way: str) -> None:
    """Two matrices by turns of columns, in blocks of odd sizes, beside a run."""
    path, rows, columns = tmp_path / "file", 50, 60
    begin = 2 * PAGE + 8
    size = begin + 2 * rows * columns * 2
    views = [(Piece(0, begin + 2 * turn, (columns, rows), (2, 2 * columns)),) for turn in (0, 1)]
    values = [bytes(random.Random(turn).randbytes(rows * columns * 2)) for turn in (0, 1)]
    with Outputs([OutputFile(path, b"", size)], silent, stop=threading.Event(), threads=2, durable=False) as outputs:
        outputs.allocate(0)
        outputs.start(PAGE)
        for turn in (0, 1):
            for start in range(0, len(values[turn]), 1238):
                part = values[turn][start : start + 1238]
                block = outputs.block()
                block.memory[: len(part)] = part
                outputs.put(block, len(part), [OutputRange(0, start, views=views[turn], width=2)])
        block = outputs.block()
        block.memory[:] = b"x" * PAGE
        outputs.put(block, PAGE, [OutputRange(0, PAGE)])
    content = memoryview(path.read_bytes())
    assert bytes(content[PAGE : 2 * PAGE]) == b"x" * PAGE
    for turn in (0, 1):
        assert bytes(gather(views[turn], lambda _: content, 2, 0, rows * columns)) == values[turn]
