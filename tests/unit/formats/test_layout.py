"""Laws of our own files: same tensors, same places; any stock reader loads them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from model_files import TORCH, as_bytes
from safetensors import safe_open
from safetensors.torch import load_file

from mergebuild.errors import TargetError
from mergebuild.formats import layout as layout_module
from mergebuild.formats.dtypes import DTYPES, DTYPES_BY_WORD
from mergebuild.formats.header import Header, read_header
from mergebuild.formats.layout import Arrangement, TensorSpec, encode_header, layout_of

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
NAMES = TEXTS.filter(lambda name: name != "__metadata__")
SHAPES = st.one_of(
    st.lists(st.integers(0, 5), max_size=4), st.sampled_from([[2048], [4096], [2, 512], [1024], [8192, 0]])
).map(tuple)
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES_BY_WORD)), SHAPES), max_size=8).map(
    lambda found: [(name, dtype, shape) for name, (dtype, shape) in found.items()]
)
METADATA = st.dictionaries(TEXTS, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=4)


def write(folder: Path, raw: bytes, header: Header) -> tuple[Path, bytes]:
    """Write a file with random data and return its path and all its bytes."""
    content = raw + random.Random(7).randbytes(header.file_size - header.data_start)
    path = folder / "f.safetensors"
    path.write_bytes(content)
    return path, content


def relative(header: Header) -> dict[str, tuple[int, int]]:
    """Return where tensors are within the data."""
    start = header.data_start
    return {name: (info.begin - start, info.end - start) for name, info in header.tensors.items()}


@given(tensors=TENSORS, metadata=METADATA)
@examples(120)
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[str, str, Sequence[int]]], metadata: dict[str, str]
) -> None:
    """By us and by the stock reader: names, dtypes, shapes, bytes and metadata."""
    raw, header = encode_header(tensors, metadata)
    path, content = write(tmp_path_factory.mktemp("round"), raw, header)
    found = read_header(path)
    assert found == header
    assert list(found.tensors) == list(header.tensors)
    assert {(info.name, info.dtype, info.shape) for info in found.tensors.values()} == set(tensors)
    assert found.metadata == metadata
    loaded = load_file(path)
    assert loaded.keys() == found.tensors.keys()
    for name, info in found.tensors.items():
        assert loaded[name].dtype == TORCH[info.dtype]
        assert tuple(loaded[name].shape) == info.shape
        assert as_bytes(loaded[name]) == content[info.begin : info.end]
    with safe_open(path, framework="pt") as stock:
        assert (stock.metadata() or {}) == metadata


@given(tensors=TENSORS, metadata=METADATA)
@examples(100)
def test_every_tensor_can_be_looked_at_in_place(
    tensors: list[tuple[str, str, Sequence[int]]], metadata: dict[str, str]
) -> None:
    """Readers of older releases view the mapped bytes as the dtype, which needs multiples of the element's size."""
    _, header = encode_header(tensors, metadata)
    content = torch.zeros(header.file_size, dtype=torch.uint8)
    for info in header.tensors.values():
        viewed = content[info.begin : info.end].view(TORCH[info.dtype])
        assert viewed.numel() == info.count
        assert info.begin % DTYPES_BY_WORD[info.dtype].size == 0


@given(tensors=TENSORS, metadata=METADATA, order=st.randoms(use_true_random=False))
@examples(60)
def test_the_order_given_does_not_matter(
    tensors: list[tuple[str, str, Sequence[int]]], metadata: dict[str, str], order: random.Random
) -> None:
    raw, header = encode_header(tensors, metadata)
    shuffled = order.sample(tensors, len(tensors))
    texts = dict(order.sample(sorted(metadata.items()), len(metadata)))
    assert encode_header(shuffled, texts) == (raw, header)


@given(tensors=TENSORS, first=METADATA, second=METADATA)
@examples(60)
def test_metadata_move_no_tensor(
    tensors: list[tuple[str, str, Sequence[int]]], first: dict[str, str], second: dict[str, str]
) -> None:
    """Two files that differ in metadata alone have the same data part."""
    a, b = encode_header(tensors, first)[1], encode_header(tensors, second)[1]
    assert relative(a) == relative(b)
    assert a.file_size - a.data_start == b.file_size - b.data_start


@given(tensors=TENSORS, metadata=METADATA)
@examples(60)
def test_data_start_on_a_page_and_whole_pages_come_first(
    tensors: list[tuple[str, str, Sequence[int]]], metadata: dict[str, str]
) -> None:
    raw, header = encode_header(tensors, metadata)
    assert len(raw) == header.data_start
    assert header.data_start % 4096 == 0
    infos = list(header.tensors.values())
    whole = [info.nbytes % 4096 == 0 for info in infos]
    assert whole == sorted(whole, reverse=True)
    assert [info.begin for info in infos] == [header.data_start, *(info.end for info in infos)][: len(infos)]
    pages = [info.name for info in infos if info.nbytes % 4096 == 0]
    assert pages == sorted(pages)


def test_the_rest_is_ordered_by_name_where_that_aligns() -> None:
    specs = layout_of([("c", "float32", (3,)), ("a", "float16", (6,)), ("b", "float32", ())])
    assert [spec.name for spec in specs] == ["a", "b", "c"]


def test_the_rest_is_ordered_by_element_size_where_names_would_misalign() -> None:
    """`b` would begin at byte 2, which no float32 may."""
    specs = layout_of(
        [("a", "float16", ()), ("b", "float32", ()), ("c", "bool", (3,)), ("d", "int64", ()), ("z", "int64", (1024,))]
    )
    assert [spec.name for spec in specs] == ["z", "d", "b", "a", "c"]


def test_specs_know_their_bytes() -> None:
    assert layout_of([("a", "bfloat16", [3, 5])]) == [TensorSpec("a", "bfloat16", (3, 5))]
    assert TensorSpec("a", "bfloat16", (3, 5)).nbytes == 30


def test_the_header_is_these_bytes() -> None:
    """The layout is a contract: a change of these bytes is a new `LAYOUT_VERSION`."""
    raw, header = encode_header(
        [("b", "float16", (1,)), ("ä", "float32", ()), ("whole", "float16", (32, 64))], {"z": "1", "format": "pt"}
    )
    text = (
        '{"__metadata__":{"format":"pt","z":"1"},'
        '"whole":{"dtype":"F16","shape":[32,64],"data_offsets":[0,4096]},'
        '"ä":{"dtype":"F32","shape":[],"data_offsets":[4096,4100]},'
        '"b":{"dtype":"F16","shape":[1],"data_offsets":[4100,4102]}}'
    ).encode()
    assert raw == (4088).to_bytes(8, "little") + text + b" " * (4088 - len(text))
    assert header.file_size == 4096 + 4102
    assert layout_module.LAYOUT_VERSION == 1


def test_a_file_without_tensors_and_metadata_is_a_page() -> None:
    raw, header = encode_header([], {})
    assert raw == (4088).to_bytes(8, "little") + b"{}".ljust(4088)
    assert header == Header({}, {}, 4096, 4096)


@pytest.mark.parametrize("length", range(3900, 4100, 9))
def test_padding_never_adds_a_needless_page(length: int) -> None:
    raw, _ = encode_header([], {"k": "x" * length})
    needed = 8 + len(json.dumps({"__metadata__": {"k": "x" * length}}, separators=(",", ":")))
    assert needed <= len(raw) < needed + 4096


@pytest.mark.parametrize(
    ("tensors", "metadata", "match"),
    [
        ([("a", "float16", ()), ("a", "float32", ())], {}, "two tensors"),
        ([("__metadata__", "float16", ())], {}, "no tensor can be named"),
        ([("a\n", "float16", ())], {}, "no tensor can be named"),
        ([("\ud800", "float16", ())], {}, "no tensor can be named"),
        ([("a", "F16", ())], {}, "no dtype"),
        ([("a", "float16", ())], {"k": "\udfff"}, "surrogates"),
    ],
)
def test_what_no_header_can_say_is_refused(
    tensors: list[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        encode_header(tensors, metadata)


def test_a_header_that_readers_refuse_is_not_written() -> None:
    with pytest.raises(TargetError) as caught:
        encode_header([], {"k": "x" * 100_000_000})
    assert [problem.code for problem in caught.value.problems] == ["header-too-large"]


def test_the_table_of_dtypes_is_torchs() -> None:
    """Words, sizes and what counts as floating point are what torch says."""
    for tag, dtype in DTYPES.items():
        assert dtype.tag == tag
        assert DTYPES_BY_WORD[dtype.word] is dtype
        assert TORCH[dtype.word].itemsize == dtype.size == dtype.bits // 8
        assert TORCH[dtype.word].is_floating_point == dtype.is_float


@given(tensors=TENSORS, first=METADATA, second=METADATA)
@examples(60)
def test_one_arrangement_serves_files_with_any_metadata(
    tensors: list[tuple[str, str, Sequence[int]]], first: dict[str, str], second: dict[str, str]
) -> None:
    arrangement = Arrangement(tensors)
    for metadata in (first, second, first):
        header = arrangement.header(metadata)
        assert (arrangement.encoded(header), header) == encode_header(tensors, metadata)
