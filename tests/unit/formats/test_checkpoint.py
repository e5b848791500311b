"""Laws of our own checkpoints: same tensors, same places; torch loads them, and so does our own reader."""

from __future__ import annotations

import os
import random
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_files import as_bytes

from mergebuild.formats.checkpoint import CheckpointLayout
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.layout import TensorSpec
from mergebuild.formats.pickles import read_pickle
from mergebuild.formats.zips import read_archive
from mergebuild.system.platform import PAGE

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.one_of(
    st.lists(st.integers(0, 5), max_size=5), st.sampled_from([[2048], [4096], [2, 512], [300], [70_000], [8192, 0]])
).map(tuple)
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES_BY_WORD)), SHAPES), max_size=8).map(
    lambda found: [(name, dtype, shape) for name, (dtype, shape) in found.items()]
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints") / "model.ckpt"


def data_of(specs: Sequence[TensorSpec]) -> dict[str, bytes]:
    """Return bytes for tensors that every dtype can be made of."""
    source = random.Random(7)
    return {
        spec.name: bytes(byte & 1 for byte in source.randbytes(spec.nbytes))
        if spec.dtype == "bool"
        else source.randbytes(spec.nbytes)
        for spec in specs
    }


def parts_of(layout: CheckpointLayout, data: dict[str, bytes]) -> list[tuple[int, bytes]]:
    """Return everything of the file, in order."""
    header = layout.header({})
    contents = {header.tensors[name].begin: content for name, content in data.items() if content}
    late = layout.late(lambda begin, _: zlib.crc32(contents[begin]))
    tensors = list(contents.items())
    return sorted([*layout.fixed, *late, *tensors])


def written(path: Path, layout: CheckpointLayout) -> dict[str, bytes]:
    """Write a file with random data, which it returns."""
    data = data_of(layout.specs)
    path.write_bytes(b"".join(content for _, content in parts_of(layout, data)))
    return data


@given(TENSORS)
def test_all_parts_together_are_the_file_without_holes(tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
    layout = CheckpointLayout(tensors)
    at = 0
    for begin, content in parts_of(layout, data_of(layout.specs)):
        assert begin == at
        at += len(content)
    assert at == layout.size


@given(TENSORS)
def test_readers_find_the_tensors(file: Path, tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
    """Torch, with and without a mapping; the archive itself; our own."""
    layout = CheckpointLayout(tensors)
    data = written(file, layout)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("archive/version") == b"3\n"
    for is_mapped in (False, True):
        (key, found), *more = torch.load(file, weights_only=True, mmap=is_mapped).items()
        assert (key, more) == ("state_dict", [])
        assert list(found) == [spec.name for spec in layout.specs]
        for spec in layout.specs:
            tensor = found[spec.name]
            assert (tuple(tensor.shape), tensor.dtype) == (spec.shape, getattr(torch, spec.dtype))
            assert tensor.is_contiguous()
            if spec.nbytes:
                assert as_bytes(tensor) == data[spec.name]
    if tensors:
        model = read_pickle(file)
        content = file.read_bytes()
        assert model.notices == ()
        assert [(info.name, info.dtype, info.shape) for info in model.tensors.values()] == layout.specs
        assert all(content[info.begin : info.end] == data[info.name] for info in model.tensors.values())


@given(TENSORS, st.randoms())
def test_the_order_of_tensors_given_changes_nothing(
    tensors: list[tuple[str, str, tuple[int, ...]]], source: random.Random
) -> None:
    layout = CheckpointLayout(tensors)
    source.shuffle(tensors)
    again = CheckpointLayout([(name, dtype, list(shape)) for name, dtype, shape in tensors])
    data = data_of(layout.specs)
    assert parts_of(again, data) == parts_of(layout, data)


def test_large_tensors_begin_on_a_page_and_small_ones_in_a_cache_line() -> None:
    layout = CheckpointLayout([(f"t{size}", "uint8", (size,)) for size in (1, 3, 63, 640, 4095, 4096, 5000, 12288)])
    for spec in layout.specs:
        assert layout.begin(spec.name) % (PAGE if spec.nbytes >= PAGE else 64) == 0


def test_gaps_stay_small_among_small_tensors() -> None:
    layout = CheckpointLayout([(f"t{number}", "float16", (640,)) for number in range(1000)])
    assert layout.size < 1000 * (1280 + 64 + 64 + 300)


def test_nothing_else_is_in_the_archive(file: Path) -> None:
    """A1111 looks through these names before it loads a checkpoint, and refuses any other."""
    written(file, CheckpointLayout([("a", "float16", (3,)), ("b", "float8_e5m2", ())]))
    with zipfile.ZipFile(file) as archive:
        assert all(re.fullmatch(r"archive/(data\.pkl|version|data/[0-9]+)", name) for name in archive.namelist())
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_plain_dtypes_need_none_but_the_oldest_names(file: Path) -> None:
    """Readers with lists of their own know these."""
    written(file, CheckpointLayout([("a", "float16", (3,)), ("b", "float32", ()), ("c", "int64", (1,))]))
    with zipfile.ZipFile(file) as archive:
        names = re.findall(rb"c([a-z._]+)\n(\w+)\n", archive.read("archive/data.pkl"))
    assert {(module.decode(), name.decode()) for module, name in names} == {
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "HalfStorage"),
        ("torch", "FloatStorage"),
        ("torch", "LongStorage"),
        ("collections", "OrderedDict"),
    }


def test_checksums_are_asked_for_once_and_only_of_what_has_bytes() -> None:
    layout = CheckpointLayout([("a", "float16", (3,)), ("b", "float16", (0,)), ("c", "float16", ())])
    asked: list[tuple[int, int]] = []
    layout.late(lambda begin, size: asked.append((begin, size)) or 0)  # type: ignore[func-returns-value]
    assert asked == [(layout.header({}).tensors[name].begin, size) for name, size in (("a", 6), ("c", 2))]


def test_late_parts_come_in_their_order() -> None:
    layout = CheckpointLayout([(f"t{number}", "float16", (number,)) for number in range(50)])
    begins = [begin for begin, _ in layout.late(lambda *_: 0)]
    assert begins == sorted(begins)
    assert [begin for begin, _ in layout.fixed] == sorted(begin for begin, _ in layout.fixed)


def test_files_of_more_than_four_gibibytes_are_read(tmp_path: Path) -> None:
    """Sparse here: a tensor too large for 32 bits, and others behind what 32 bits reach."""
    layout = CheckpointLayout([("a", "uint8", (2**32 + 10,)), ("b", "float16", (4096, 3)), ("z", "float32", (3,))])
    begins = {name: info.begin for name, info in layout.header({}).tensors.items()}
    path = tmp_path / "large.ckpt"
    with path.open("wb") as file:
        for begin, content in (*layout.fixed, *layout.late(lambda *_: 0), (begins["a"] + 2**32 + 9, b"\7")):
            os.pwrite(file.fileno(), content, begin)
        os.pwrite(file.fileno(), b"\0\0\x80\x3f", begins["z"] + 8)
    assert path.stat().st_size == layout.size
    found = torch.load(path, weights_only=True, mmap=True)["state_dict"]
    assert (found["a"][-1].item(), found["z"].tolist()) == (7, [0, 0, 1])
    with zipfile.ZipFile(path) as archive:
        assert [entry.file_size for entry in archive.infolist()][2:] == [2**32 + 10, 24576, 12]
        archive.open("archive/data/2").close()
    tensors = read_pickle(path).tensors
    assert {name: info.begin for name, info in tensors.items()} == begins
    path.unlink()


@pytest.mark.slow
def test_archives_of_more_than_65535_entries_are_read(tmp_path: Path) -> None:
    layout = CheckpointLayout([(str(number), "uint8", (0,)) for number in range(65_600)])
    path = tmp_path / "many.ckpt"
    path.write_bytes(b"".join(content for _, content in sorted((*layout.fixed, *layout.late(lambda *_: 0)))))
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 65_602
    with path.open("rb") as file:
        assert len(read_archive(file.fileno(), layout.size).entries) == 65_602


@pytest.mark.parametrize(
    "tensors",
    [
        [("a", "float16", (1,)), ("a", "float32", (1,))],
        [("a\n", "float16", (1,))],
        [("a", "float15", (1,))],
    ],
)
def test_what_no_file_can_hold_is_refused(tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
    with pytest.raises(ValueError, match="named"):
        CheckpointLayout(tensors)
