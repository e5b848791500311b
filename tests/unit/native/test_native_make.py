"""A kernel that writes what it makes writes what `apply` makes, whatever the block, and reports errors of writing."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild import native

DTYPES = sorted(native.DTYPES)
RANDOM = native.Prepared("plus_random", 0, struct.pack("=Qf4x", 9, 0.5))
SCALES = struct.pack("=64f", *(1 + each / 8 for each in range(64)))
OFFSET = 37
"""Where in the file the elements are written."""


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    fd = os.open(tmp_path_factory.mktemp("made") / "out", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def _inputs(dtypes: list[str], count: int, seed: int) -> list[native.Chunk]:
    """Return inputs of bytes that are numbers of any kind, NaN and infinite ones too."""
    chunks: list[native.Chunk] = []
    for index, dtype in enumerate(dtypes):
        width = native.DTYPES[dtype][1]
        data = bytes((seed + 131 * index + place * place * 7 + place // 256) % 256 for place in range(count * width))
        if dtype.startswith("float8"):
            chunks.append((data, dtype, native.BlockScales(SCALES, "float32", 8, 2, 4, 3)))
        else:
            chunks.append((data, dtype))
    return chunks


@given(
    drawn=st.tuples(st.sampled_from(DTYPES), st.integers(0, 100), st.integers(0, 9)),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3),
    block=st.integers(8, 300),
    is_random=st.booleans(),
    odd=st.booleans(),
    seed=st.integers(0, 255),
)
def test_made_in_place_is_made_and_written(
    descriptor: int, drawn: tuple[str, int, int], dtypes: list[str], block: int, is_random: bool, odd: bool, seed: int
) -> None:
    dtype, count, start = drawn
    shares = [0.25 * (1 + each) for each in range(len(dtypes))]
    work = native.Prepared("linear", -1, native.packed(shares))
    if is_random:  # it depends on where in the tensor an element is
        work, dtypes = RANDOM, dtypes[:1]
    inputs = _inputs(dtypes, count, seed)
    span, width = (start, count), native.DTYPES[dtype][1]
    applied, hashed = native.Hash(), [native.Hash() for _ in inputs]
    made, room = native.Hash(), bytearray(count * width)
    seen = native.apply(work, inputs, room, dtype, span, hash=applied, hashes=dict(enumerate(hashed)), odd=odd)
    os.ftruncate(descriptor, 0)
    again = [native.Hash() for _ in inputs]
    to = native.Destination(descriptor, OFFSET, native.new_lock(), bytearray(block))
    assert native.apply(work, inputs, to, dtype, span, hash=made, hashes=dict(enumerate(again)), odd=odd) == seen
    assert os.pread(descriptor, 1 << 16, OFFSET) == bytes(room)
    assert made.digest() == applied.digest()
    assert [each.digest() for each in again] == [each.digest() for each in hashed]


def _ones(count: int) -> list[native.Chunk]:
    return [(memoryview(b"\x00\x3c" * count), "float16")]


HALVED = native.Prepared("linear", -1, native.packed([0.5]))


def test_threads_write_beside_each_other(tmp_path: Path) -> None:
    count, parts = 10_000, 8
    with (tmp_path / "out").open("wb") as file:
        lock = native.new_lock()

        def write(part: int) -> None:
            to = native.Destination(file.fileno(), 2 * count * part, lock, bytearray(64))
            native.apply(HALVED, _ones(count), to, "float16", (0, count))

        threads = [threading.Thread(target=write, args=(part,)) for part in range(parts)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert (tmp_path / "out").read_bytes() == b"\x00\x38" * count * parts


def _full() -> int:
    """Return the descriptor of a device that is always full."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(("opened", "number"), [(_full, errno.ENOSPC), (lambda: -1, errno.EBADF)])
def test_an_error_of_writing_is_raised(opened: Callable[[], int], number: int) -> None:
    fd = opened()
    to = native.Destination(fd, 0, native.new_lock(), bytearray(64))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        native.apply(HALVED, _ones(3), to, "float16", (0, 3))
    if fd >= 0:
        os.close(fd)
    assert caught.value.errno == number


def test_what_does_not_fit_is_refused(descriptor: int) -> None:
    lock = native.new_lock()
    for to, why in (
        (native.Destination(descriptor, 0, lock, bytearray(1)), "too small"),
        (native.Destination(descriptor, -1, lock, bytearray(64)), "offset"),
        (native.Destination(descriptor, 0, object(), bytearray(64)), "Capsule"),
    ):
        with pytest.raises(ValueError, match=why):
            native.apply(HALVED, _ones(3), to, "float16", (0, 3))
