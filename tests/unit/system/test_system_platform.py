"""Laws of `mergebuild.system.platform`: the same bytes with and without what only some systems have."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
import torch
from disks import Disk
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.system import _linux, platform
from mergebuild.system.platform import PAGE

INABILITIES = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
ON_LINUX = sys.platform == "linux"


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide nothing unless a test asks for it, even when the whole suite runs with all hidden."""
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)


@pytest.fixture(params=["native", "hidden"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with what this system has, and with all of it hidden."""
    monkeypatch.setenv("MERGEBUILD_PORTABLE", "1" if request.param == "hidden" else "")
    return str(request.param)


def pattern(size: int) -> bytes:
    """Return bytes in which no two pages are alike."""
    return b"".join(number.to_bytes(8, "little") for number in range(-(-size // 8)))[:size]


def two_files(folder: Path, content: bytes) -> tuple[BinaryIO, BinaryIO]:
    (folder / "source").write_bytes(content)
    return (folder / "source").open("rb"), (folder / "copy").open("w+b")


def written(file: BinaryIO) -> bytes:
    """Return what is in an open file, whatever its position."""
    return Path(file.name).read_bytes()


# Which implementation answers


@pytest.mark.parametrize(
    ("kind", "name", "hidden", "answers"),
    [
        ("posix", "linux", "", "Linux"),
        ("posix", "darwin", "", "Posix"),
        ("nt", "win32", "", "Portable"),
        ("posix", "linux", "1", "Portable"),
    ],
)
def test_a_system_is_asked_for_what_it_has(
    kind: str, name: str, hidden: str, answers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for nothing else when the rest is hidden."""
    monkeypatch.setattr(platform, "_native", platform._native.__wrapped__)
    monkeypatch.setattr(platform, "os", SimpleNamespace(name=kind))
    monkeypatch.setattr(sys, "platform", name)
    monkeypatch.setenv("MERGEBUILD_PORTABLE", hidden)
    assert type(platform._here()).__name__ == answers


# Clones


def test_clone_range_shares_blocks_where_the_file_system_can(disk: Disk) -> None:
    """A clone takes no space and has the source's bytes; where it can't be had, nothing is written."""
    content = pattern(8 << 20)  # twice that does not fit
    source, copy = two_files(disk.folder, content)
    with source, copy:
        os.ftruncate(copy.fileno(), len(content))
        shared = platform.clone_range(source.fileno(), PAGE, copy.fileno(), 0, len(content) - PAGE)
        expected = content[PAGE:] + bytes(PAGE) if shared else bytes(len(content))
        assert written(copy) == expected
        assert shared or not disk.shares
        assert os.fstat(copy.fileno()).st_size == len(content)


def test_clone_range_shares_an_odd_end_of_the_source(disk: Disk) -> None:
    """A length that is no multiple of a page is possible at the source's end, and only there."""
    content = pattern(3 * PAGE + 123)
    source, copy = two_files(disk.folder, content)
    with source, copy:
        assert not platform.clone_range(source.fileno(), 0, copy.fileno(), 0, PAGE + 123)
        shared = platform.clone_range(source.fileno(), PAGE, copy.fileno(), PAGE, 2 * PAGE + 123)
        assert written(copy) == (bytes(PAGE) + content[PAGE:] if shared else b"")
        assert shared or not disk.shares


@pytest.mark.parametrize(("src_offset", "dst_offset"), [(1, 0), (0, 1), (512, PAGE)])
def test_clone_range_wants_whole_pages(disk: Disk, src_offset: int, dst_offset: int) -> None:
    source, copy = two_files(disk.folder, pattern(4 * PAGE))
    with source, copy:
        assert platform.clone_range(source.fileno(), src_offset, copy.fileno(), dst_offset, PAGE) is False
        assert written(copy) == b""


def test_clone_range_of_nothing_writes_nothing(disk: Disk) -> None:
    """The kernel takes a length of 0 for the whole file; here it is nothing."""
    source, copy = two_files(disk.folder, pattern(4 * PAGE))
    with source, copy:
        assert platform.clone_range(source.fileno(), 0, copy.fileno(), 0, 0) is ON_LINUX
        assert written(copy) == b""


def test_clone_file_shares_all_or_leaves_no_file(disk: Disk) -> None:
    content = pattern(8 << 20)
    source, copy = disk.folder / "source", disk.folder / "copy"
    source.write_bytes(content)
    shared = platform.clone_file(source, copy)
    assert copy.exists() == shared
    assert shared or not disk.shares
    assert not shared or copy.read_bytes() == content


def test_nothing_is_cloned_when_hidden(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_PORTABLE", "1")
    source, copy = two_files(disk.folder, pattern(PAGE))
    with source, copy:
        assert not platform.clone_range(source.fileno(), 0, copy.fileno(), 0, PAGE)
        assert not platform.clone_file(disk.folder / "source", disk.folder / "third")
        assert not (disk.folder / "third").exists()
        assert written(copy) == b""


def test_clone_file_never_replaces_a_file(disk: Disk) -> None:
    (disk.folder / "source").write_bytes(b"new")
    (disk.folder / "copy").write_bytes(b"old")
    if ON_LINUX:
        with pytest.raises(FileExistsError):
            platform.clone_file(disk.folder / "source", disk.folder / "copy")
    else:
        assert not platform.clone_file(disk.folder / "source", disk.folder / "copy")
    assert (disk.folder / "copy").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "is_inability"), [(errno.EOPNOTSUPP, True), (errno.EXDEV, True), (errno.EIO, False)]
)
def test_only_inability_is_answered_with_false(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_inability: bool
) -> None:
    """A file system that fails is not taken for one that can't."""

    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "fcntl", SimpleNamespace(ioctl=refuse))
    source, copy = two_files(tmp_path, pattern(PAGE))
    with source, copy:
        if is_inability:
            assert not platform.clone_range(source.fileno(), 0, copy.fileno(), 0, PAGE)
        else:
            with pytest.raises(OSError, match="no"):
                platform.clone_range(source.fileno(), 0, copy.fileno(), 0, PAGE)


# Copies


@given(
    content=st.binary(max_size=3000), begin=st.integers(0, 3000), length=st.integers(0, 3000), at=st.integers(0, 5000)
)
@examples(50)
@pytest.mark.parametrize("hidden", ["", "1"])
def test_copy_range_copies_just_that_range(
    tmp_path_factory: pytest.TempPathFactory, hidden: str, content: bytes, begin: int, length: int, at: int
) -> None:
    begin = min(begin, len(content))
    length = min(length, len(content) - begin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERGEBUILD_PORTABLE", hidden)
        source, copy = two_files(tmp_path_factory.mktemp("copy"), content)
        with source, copy:
            platform.copy_range(source.fileno(), begin, copy.fileno(), at, length)
            assert written(copy) == (bytes(at) + content[begin : begin + length] if length else b"")


def test_copy_range_passes_the_buffer_many_times(system: str, tmp_path: Path) -> None:
    content = pattern((3 << 20) + 77)
    source, copy = two_files(tmp_path, content)
    with source, copy:
        platform.copy_range(source.fileno(), 0, copy.fileno(), 0, len(content))
        assert written(copy) == content


def test_copy_range_refuses_a_source_that_ends_early(system: str, tmp_path: Path) -> None:
    source, copy = two_files(tmp_path, pattern(1000))
    with source, copy, pytest.raises(OSError, match="501 bytes early"):
        platform.copy_range(source.fileno(), 500, copy.fileno(), 0, 1001)


@pytest.mark.parametrize("number", INABILITIES)
@pytest.mark.parametrize("after", [0, 1])
def test_copy_range_goes_on_by_hand_where_the_kernel_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: int
) -> None:
    """Whether the kernel refuses at once or after some bytes."""
    calls: list[int] = []

    def refuse(src: int, dst: int, count: int, offset_src: int, offset_dst: int) -> int:
        calls.append(count)
        if len(calls) > after:
            raise OSError(number, "can't")
        os.lseek(dst, offset_dst, os.SEEK_SET)
        return os.write(dst, os.pread(src, 10, offset_src))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    source, copy = two_files(tmp_path, pattern(1000))
    with source, copy:
        platform.copy_range(source.fileno(), 8, copy.fileno(), 0, 900)
        assert (tmp_path / "copy").read_bytes() == pattern(1000)[8:908]
    assert len(calls) == after + 1


def test_copy_range_takes_short_copies_and_false_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems copy less than asked, or say 0 where there is more."""
    answers = iter([7, 100, 0])

    def short(src: int, dst: int, count: int, offset_src: int, offset_dst: int) -> int:
        part = os.pread(src, min(count, next(answers)), offset_src)
        return os.pwrite(dst, part, offset_dst)

    monkeypatch.setattr(os, "copy_file_range", short, raising=False)
    source, copy = two_files(tmp_path, pattern(1000))
    with source, copy:
        platform.copy_range(source.fileno(), 0, copy.fileno(), 0, 1000)
        assert written(copy) == pattern(1000)


def test_copy_range_lets_failures_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", fail, raising=False)
    source, copy = two_files(tmp_path, pattern(10))
    with source, copy, pytest.raises(OSError, match="full") as caught:
        platform.copy_range(source.fileno(), 0, copy.fileno(), 0, 10)
    assert caught.value.errno == errno.ENOSPC


# Reading and writing at an offset


def test_pread_into_fills_the_view_or_ends_with_the_file(system: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(pattern(100))
    fd = platform.open_to_read(tmp_path / "f")
    try:
        whole, tail, beyond, nothing = bytearray(60), bytearray(60), bytearray(3), bytearray()
        assert platform.pread_into(fd, whole, 10) == 60
        assert platform.pread_into(fd, tail, 70) == 30
        assert platform.pread_into(fd, beyond, 1000) == 0
        assert platform.pread_into(fd, nothing, 0) == 0
    finally:
        os.close(fd)
    assert whole == pattern(100)[10:70]
    assert tail == pattern(100)[70:] + bytes(30)
    assert beyond == bytes(3)


def test_pread_into_goes_on_after_short_reads(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vector, plain = getattr(os, "preadv", None), os.read
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: vector(fd, [views[0][:7]], at), raising=False)
    monkeypatch.setattr(os, "read", lambda fd, count: plain(fd, min(count, 7)))
    (tmp_path / "f").write_bytes(pattern(100))
    fd = platform.open_to_read(tmp_path / "f")
    try:
        found = bytearray(99)
        assert platform.pread_into(fd, memoryview(found), 1) == 99
    finally:
        os.close(fd)
    assert found == pattern(100)[1:]


def test_pwrite_all_goes_on_after_short_writes(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_offset, plain = getattr(os, "pwrite", None), os.write
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: at_offset(fd, view[:7], at), raising=False)
    monkeypatch.setattr(os, "write", lambda fd, view: plain(fd, view[:7]))
    with (tmp_path / "f").open("w+b") as file:
        platform.pwrite_all(file.fileno(), pattern(100), 5)
        assert written(file) == bytes(5) + pattern(100)


def test_pwrite_all_takes_views_of_any_element(system: str, tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        platform.pwrite_all(file.fileno(), memoryview(pattern(64)).cast("d"), 0)
        assert written(file) == pattern(64)


def test_pwrite_all_refuses_a_system_that_writes_nothing(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than trying for ever."""
    monkeypatch.setattr(os, "pwrite", lambda *_: 0, raising=False)
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with (tmp_path / "f").open("w+b") as file, pytest.raises(OSError, match="nothing"):
        platform.pwrite_all(file.fileno(), b"x", 0)


def test_threads_read_and_write_one_descriptor(system: str, tmp_path: Path) -> None:
    """The position of a descriptor is shared; the bytes must not notice."""
    content = pattern(64 * 1000)
    with (tmp_path / "f").open("w+b", buffering=0) as file:

        def work(number: int) -> bool:
            part = content[number * 1000 : (number + 1) * 1000]
            back = bytearray(1000)
            platform.pwrite_all(file.fileno(), part, number * 1000)
            return platform.pread_into(file.fileno(), back, number * 1000) == 1000 and back == part

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(64)))
    assert (tmp_path / "f").read_bytes() == content


# Files that others must not change


WRITE = "import os, sys; os.close(os.open(sys.argv[1], os.O_WRONLY))"
CUT = "import os, sys; os.truncate(sys.argv[1], 0)"


@contextmanager
def process(code: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run code on a file in a process of its own, to its end."""
    with subprocess.Popen([sys.executable, "-c", code, path]) as found:
        yield found


def eventually(holds: Callable[[], bool]) -> bool:
    """Wait for what another process does, a while at most."""
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.mark.processes
@pytest.mark.parametrize("code", [WRITE, CUT])
def test_who_wants_to_write_to_a_file_that_is_held_waits(tmp_path: Path, code: str) -> None:
    """Until it is let go of, although it is mapped still; nobody dies of the signal that tells us."""
    path = tmp_path / "file"
    path.write_bytes(pattern(100))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        if not platform.hold_still(file.fileno()):
            assert not ON_LINUX
            return
        assert not platform.is_wanted(file.fileno())
        with process(code, path) as other:
            assert eventually(lambda: platform.is_wanted(file.fileno()))
            assert other.poll() is None
            assert mapping[:] == pattern(100)
            platform.let_go(file.fileno())
        assert other.returncode == 0


def test_many_may_hold_a_file_and_all_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(100))
    with path.open("rb") as one, path.open("rb") as two:
        assert platform.hold_still(one.fileno()) is platform.hold_still(two.fileno()) is ON_LINUX
        assert path.read_bytes() == pattern(100)
        if ON_LINUX:
            assert not platform.is_wanted(one.fileno())


def test_a_file_that_can_be_written_to_already_cannot_be_held(tmp_path: Path, system: str) -> None:
    """And is known to have a writer, be it by a mapping alone."""
    path = tmp_path / "file"
    path.write_bytes(pattern(100))
    known = system == "native" and ON_LINUX
    assert not platform.has_writer(path)
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
        assert platform.has_writer(path) is known
    assert platform.has_writer(path) is known
    with path.open("rb") as file:
        assert not platform.hold_still(file.fileno())
    mapping.close()
    assert not platform.has_writer(path)
    with path.open("rb") as file:
        assert platform.hold_still(file.fileno()) is known


def test_a_file_system_that_refuses_leases_for_other_reasons_tells_of_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a network gives none unless the server has promised that nobody else writes."""
    monkeypatch.setattr(_linux, "_file_system", lambda _: 0x6969)
    with (tmp_path / "file").open("wb"):
        assert not platform.has_writer(tmp_path / "file")


def test_what_is_no_file_has_no_writer(tmp_path: Path) -> None:
    assert not platform.has_writer(tmp_path)
    assert not platform.has_writer(tmp_path / "none")


@pytest.mark.processes
def test_looking_for_writers_disturbs_none(tmp_path: Path) -> None:
    """The file is let go of at once."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert not platform.has_writer(path)
    with process(WRITE, path) as other:
        pass
    assert other.returncode == 0


# Space and durability


@pytest.mark.parametrize("before", [0, 10, 9000])
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_preallocate_gives_the_final_size_and_keeps_bytes(system: str, tmp_path: Path, before: int, size: int) -> None:
    with (tmp_path / "f").open("w+b", buffering=0) as file:
        file.write(pattern(before))
        platform.preallocate(file.fileno(), size)
    assert (tmp_path / "f").read_bytes() == pattern(before)[:size].ljust(size, b"\0")


def test_preallocate_tells_want_of_space_at_once(disk: Disk) -> None:
    """Where blocks can be reserved, and everywhere for a size that no file can have."""
    with (disk.folder / "f").open("w+b") as file:
        with pytest.raises(OSError):  # noqa: PT011 -- EFBIG, EINVAL or ENOSPC, as the system likes
            platform.preallocate(file.fileno(), 2**63 - 1)
        if disk.shares:
            with pytest.raises(OSError, match="space") as caught:
                platform.preallocate(file.fileno(), 64 << 20)
            assert caught.value.errno == errno.ENOSPC


def test_preallocate_leaves_clones_shared(disk: Disk) -> None:
    """What is cloned takes no space when the whole file is preallocated afterwards."""
    content = pattern(7 << 20)  # twice that does not fit into the mounted disk
    source, copy = two_files(disk.folder, content)
    with source, copy:
        os.ftruncate(copy.fileno(), len(content) + PAGE)
        if not platform.clone_range(source.fileno(), 0, copy.fileno(), 0, len(content)):
            assert not disk.shares
            platform.copy_range(source.fileno(), 0, copy.fileno(), 0, len(content))
        platform.preallocate(copy.fileno(), len(content) + PAGE)
        assert written(copy) == content + bytes(PAGE)


def test_preallocate_lets_want_of_space_through_and_no_inability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with (tmp_path / "f").open("w+b") as file:
        answers = iter([errno.EINTR, errno.EOPNOTSUPP, errno.ENOSPC])
        monkeypatch.setattr(_linux, "_fallocate", lambda *_: next(answers))
        platform.preallocate(file.fileno(), 100)
        assert os.fstat(file.fileno()).st_size == 100
        with pytest.raises(OSError, match="space") as caught:
            platform.preallocate(file.fileno(), 100)
    assert caught.value.errno == errno.ENOSPC
    assert next(answers, None) is None


def test_start_writeback_asks_for_the_range(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(_linux, "_system_call", lambda *_: lambda *found: asked.append(found))
    platform.start_writeback(99, 4096, 8192)
    platform.start_writeback(99, 4096, 0)
    assert asked == ([(99, 4096, 8192, 2)] if ON_LINUX and system == "native" else [])


def test_start_writeback_never_fails(system: str, tmp_path: Path) -> None:
    """Also on a descriptor that is none: whoever syncs learns of it."""
    with (tmp_path / "f").open("w+b", buffering=0) as file:
        file.write(pattern(5000))
        platform.start_writeback(file.fileno(), 0, 5000)
        assert written(file) == pattern(5000)
        gone = file.fileno()
    assert platform.start_writeback(gone, 0, 5000) is None


def test_system_calls_are_found_by_either_name() -> None:
    """One of the two names exists in every C library; a name that does not is answered with None."""
    import ctypes

    kinds = (ctypes.c_int,)
    found = _linux._system_call("no_such_call64", "close", kinds)
    assert found is not None
    assert found(-1) == -1
    assert ctypes.get_errno() == errno.EBADF
    assert _linux._system_call("no_such_call64", "no_such_call", kinds) is None
    if ON_LINUX:
        assert _linux._system_call("fallocate64", "fallocate", kinds) is not None
        assert _linux._system_call("sync_file_range64", "sync_file_range", kinds) is not None


@pytest.mark.processes
@pytest.mark.skipif(not ON_LINUX, reason="elsewhere none is loaded ahead")
def test_a_library_is_loaded_while_others_have_the_interpreter(tmp_path: Path) -> None:
    """In a process of its own: whoever imports it later has it at once. One that is not there is nobody's error."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"
    code = (
        "import sys; from pathlib import Path; from mergebuild.system import platform\n"
        "maps, name = Path('/proc/self/maps'), sys.argv[1]\n"
        "platform.load_library(Path(name + '.none'))\n"
        "before = name in maps.read_text()\n"
        "platform.load_library(Path(name))\n"
        "print(before, name in maps.read_text())"
    )
    run = subprocess.run([sys.executable, "-c", code, library], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "True"]


def test_sync_waits_for_the_file(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cheapest call that is enough; hidden, with the one that every system has."""
    asked: list[str] = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "fsync", lambda _: asked.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda _: asked.append("fdatasync"), raising=False)
    platform.sync(0)
    assert asked == ["fdatasync" if system == "native" else "fsync"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file is waited for as a whole")
def test_sync_waits_for_a_large_file_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends a process that waits for the disk; between two pieces it can."""
    asked: list[tuple[int, int]] = []
    real = _linux._sync_range

    def noting(fd: int, offset: int, length: int, flags: int) -> int:
        if flags == _linux._SYNC_FILE_RANGE_WAIT:
            asked.append((offset, length))
        return real(fd, offset, length, flags)

    monkeypatch.setattr(_linux, "_PER_SYNC", PAGE)
    monkeypatch.setattr(_linux, "_sync_range", noting)
    with (tmp_path / "a").open("wb+") as file:
        file.write(bytes(2 * PAGE + 1))
        file.flush()
        platform.sync(file.fileno())
    assert asked == [(0, PAGE), (PAGE, PAGE), (2 * PAGE, PAGE)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file is waited for as a whole")
@pytest.mark.parametrize(("number", "is_failure"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False)])
def test_sync_lets_failures_of_a_piece_through_and_no_inability(
    number: int, is_failure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_linux, "_PER_SYNC", PAGE)
    monkeypatch.setattr(_linux, "_sync_range", lambda *_: number)
    with (tmp_path / "a").open("wb+") as file:
        file.write(bytes(2 * PAGE))
        file.flush()
        if is_failure:
            with pytest.raises(OSError, match=os.strerror(number)):
                platform.sync(file.fileno())
        else:
            platform.sync(file.fileno())


def test_sync_empties_the_cache_of_the_drive_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def control(fd: int, command: str) -> None:
        asked.append(command)
        if fd == 1:
            raise OSError(errno.ENOTSUP, "no")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "fsync", lambda _: asked.append("fsync"))
    monkeypatch.setitem(sys.modules, "fcntl", SimpleNamespace(fcntl=control, F_FULLFSYNC="full"))
    platform.sync(0)
    platform.sync(1)
    assert asked == ["full", "full", "fsync"]


def test_sync_folder_syncs_where_folders_can_be(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "fsync", asked.append)
    platform.sync_folder(tmp_path)
    assert len(asked) == (1 if hasattr(os, "O_DIRECTORY") and system == "native" else 0)


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_sync_folder_forgives_inability_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "O_DIRECTORY", getattr(os, "O_DIRECTORY", 0), raising=False)
    if passes:
        assert platform.sync_folder(tmp_path) is None
    else:
        with pytest.raises(OSError, match="no"):
            platform.sync_folder(tmp_path)


def test_free_space_asks_the_nearest_folder_that_exists(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def answer(path: Path) -> SimpleNamespace:
        asked.append(Path(path))
        if not Path(path).exists():
            raise FileNotFoundError(path)
        return SimpleNamespace(f_bavail=3, f_frsize=4096, f_blocks=9, f_bfree=4)

    monkeypatch.setattr(os, "statvfs", answer, raising=False)
    assert platform.free_space(tmp_path / "not" / "yet") == 3 * 4096
    assert asked == [tmp_path / "not" / "yet", tmp_path / "not", tmp_path]


def test_free_space_of_a_real_folder_is_less_than_its_disk(system: str, tmp_path: Path) -> None:
    import shutil

    assert 0 < platform.free_space(tmp_path / "new") <= shutil.disk_usage(tmp_path).total


# Links


def test_link_or_none_gives_a_second_name(system: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    linked = platform.link_or_none(tmp_path / "a", tmp_path / "b")
    assert linked == (tmp_path / "b").exists()
    assert linked == (system == "native")
    assert not linked or (tmp_path / "a").samefile(tmp_path / "b")


def test_link_or_none_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"y")
    with pytest.raises(FileExistsError):
        platform.link_or_none(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        platform.link_or_none(tmp_path / "none", tmp_path / "c")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP])
def test_link_or_none_takes_a_refusal_for_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Path) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "link", refuse)
    assert platform.link_or_none(tmp_path / "a", tmp_path / "b") is False


# Mappings


class Recorder(mmap.mmap):
    """A mapping that notes the advice it gets."""

    notes: list[tuple[int, int, int]]

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:  # type: ignore[override]
        self.notes.append((option, start, length))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder(-1, 4 * mmap.PAGESIZE + 100) as mapping:
        mapping.notes = []
        yield mapping


@pytest.mark.parametrize(
    ("what", "offset", "length", "pages"),
    [
        ("willneed", 10, 20, (0, 30 / mmap.PAGESIZE)),
        ("sequential", mmap.PAGESIZE + 1, mmap.PAGESIZE, (1, 1 + 1 / mmap.PAGESIZE)),
        ("dontneed", 10, mmap.PAGESIZE, None),
        ("dontneed", 10, 3 * mmap.PAGESIZE, (1, 2)),
        ("dontneed", 3 * mmap.PAGESIZE, mmap.PAGESIZE + 100, (3, 1 + 100 / mmap.PAGESIZE)),
        ("willneed", 5 * mmap.PAGESIZE, 10, None),
        ("willneed", 0, 0, None),
    ],
)
def test_advice_reaches_whole_pages(
    recorder: Recorder, what: str, offset: int, length: int, pages: tuple[float, float] | None
) -> None:
    """`dontneed` spares pages that neighbours use; the others reach all that the range touches; none goes beyond."""
    platform.advise(recorder, what, offset, length)  # type: ignore[arg-type]
    begin, count = pages or (0, 0)
    expected = (begin * mmap.PAGESIZE, round(count * mmap.PAGESIZE))
    given = [(start, length) for _, start, length in recorder.notes]
    supported = hasattr(mmap, "MADV_DONTNEED")
    assert given == ([expected] if pages and supported else [])


def test_hidden_advice_is_not_given(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEBUILD_PORTABLE", "1")
    platform.advise(recorder, "willneed", 0, 100)
    assert recorder.notes == []


def test_advice_changes_no_byte(system: str, tmp_path: Path) -> None:
    size = 5 * mmap.PAGESIZE + 17
    (tmp_path / "f").write_bytes(pattern(size))
    with (tmp_path / "f").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        for what in ("sequential", "willneed", "dontneed"):
            platform.advise(mapping, what, 3, size)  # type: ignore[arg-type]
            assert mapping[:] == pattern(size)


# The machine


def test_cpu_count_is_what_this_process_may_use(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert platform.cpu_count() == (3 if system == "native" else 1)


def test_memory_is_known_or_zero(system: str) -> None:
    """In bytes."""
    assert (platform.memory_bytes() > 1 << 28) is (system == "native" and hasattr(os, "sysconf"))


def test_memory_that_the_system_does_not_tell_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than an error."""
    monkeypatch.setattr(os, "sysconf", lambda _name: (_ for _ in ()).throw(ValueError("unrecognized name")))
    assert platform.memory_bytes() == 0


# Past the page cache


def test_pages_written_directly_are_in_the_file(disk: Disk) -> None:
    """Between others that were written through the page cache."""
    path = disk.folder / "file"
    path.write_bytes(b"a" * 3 * PAGE)
    direct = platform.open_direct(path)
    fd = os.open(path, os.O_WRONLY) if direct is None else direct
    with mmap.mmap(-1, PAGE) as page, memoryview(page) as view:
        page.write(b"b" * PAGE)
        platform.pwrite_all(fd, view, PAGE)
    os.close(fd)
    assert path.read_bytes() == b"a" * PAGE + b"b" * PAGE + b"a" * PAGE


def test_open_direct_is_none_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden, or refused by the file system; a file that is not there is an error."""
    path = tmp_path / "file"
    if ON_LINUX:
        with pytest.raises(FileNotFoundError):
            platform.open_direct(path)
    path.touch()
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "no direct access here")))
    assert platform.open_direct(path) is None
    monkeypatch.undo()
    monkeypatch.setenv("MERGEBUILD_PORTABLE", "1")
    assert platform.open_direct(path) is None


def test_what_was_just_read_is_cached(tmp_path: Path, system: str) -> None:
    """Where that can be known; what lies behind the end of a file is not."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with path.open("rb") as file:
        file.read()
        assert platform.is_cached(file.fileno(), PAGE - 1) is (system == "native" and ON_LINUX)
        assert not platform.is_cached(file.fileno(), PAGE)


def test_is_cached_is_false_where_the_system_cannot_say(tmp_path: Path) -> None:
    """As of a folder."""
    if ON_LINUX:
        fd = os.open(tmp_path, os.O_RDONLY)
        assert not platform.is_cached(fd, 0)
        os.close(fd)


@pytest.mark.parametrize("can", [True, False])
def test_freed_memory_is_kept_where_the_library_can(can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two settings of glibc, under their numbers; another library is left as it is."""
    asked: list[tuple[int, int]] = []

    def setting(key: int, value: int) -> int:
        asked.append((key, value))
        return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(_linux, "_system_call", lambda *_: setting if can else None)
    platform.keep_freed_memory()
    assert asked == ([(-3, 32 << 20), (-1, 128 << 20)] if can else [])


@pytest.mark.parametrize(("free", "numbers", "full"), [(1 << 30, 9, False), (1 << 30, 3, True), (1000, 9, True)])
def test_a_disk_is_full_without_bytes_or_without_numbers_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, numbers: int, full: bool
) -> None:
    real = os.statvfs(tmp_path)
    values = list(real)
    values[4], values[7] = free // real.f_frsize, numbers  # f_bavail, f_favail
    values[5] = 100  # f_files: some file systems count none
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    assert platform.is_full(tmp_path) is full
