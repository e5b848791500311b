"""The laws of a file format, for any row of `formats/registry.py`.

A subclass provides the row. Files are written as a build writes them: the bytes before the first tensor, the tensors'
bytes at the offsets of the header, other bytes that are known beforehand (`fixed`), and last those that follow from all
these (`finish`). The planner, the builder and sources rely on each of the laws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import shake_128
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from mergebuild.errors import SourceError
from mergebuild.formats import registry
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.foreign import LOOKED_AT
from mergebuild.formats.header import Header
from mergebuild.formats.layout import PLAIN, Packing, StoredName, Written
from mergebuild.formats.model import Model
from mergebuild.formats.registry import FileFormat
from mergebuild.system.platform import PAGE

__all__ = ["FormatTests", "Tensors", "written"]

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""By name, a tensor's dtype and shape."""

ONE: Tensors = {"w": ("float32", (2, 3))}
SHAPES: Tensors = {
    "scalar": ("float32", ()), "empty": ("float16", (0, 4)), "odd": ("uint8", (3,)), "pages": ("float32", (2, 1024)),
    "more than a page": ("bfloat16", (5000,)), "b.weight": ("float64", (7,)), "a.weight": ("int64", (1, 77)),
    "\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{GREEK SMALL LETTER ALPHA}": ("bool", (5,)),
}  # fmt: skip
DTYPES: Tensors = {word: (word, (3, 5)) for word in DTYPES_BY_WORD}
NUMBERED: Tensors = {f"layers.{number}.weight": ("float16", (40,)) for number in range(300)}
CASES = pytest.mark.parametrize("tensors", [ONE, SHAPES, DTYPES, NUMBERED], ids=["one", "shapes", "dtypes", "numbered"])
FACTS = {"format": "pt", "title": "a\N{LATIN SMALL LETTER E WITH ACUTE}"}


def _given(tensors: Tensors) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, dtype, shape) for name, (dtype, shape) in tensors.items()]


def _values(tensors: Tensors) -> dict[str, bytes]:
    """Return bytes for tensors, valid in their dtypes, and the same in every call."""
    found: dict[str, bytes] = {}
    for name, (dtype, shape) in tensors.items():
        some = shake_128(name.encode()).digest(math.prod(shape) * DTYPES_BY_WORD[dtype].size)
        found[name] = bytes(byte & 1 for byte in some) if dtype == "bool" else some
    return found


def written(
    path: Path, packing: Packing, values: Mapping[str, bytes], metadata: Mapping[str, str]
) -> tuple[Header, Sequence[tuple[int, bytes]]]:
    """Write a file as a build does.

    Args:
        path: The file.
        packing: Its layout.
        values: The bytes of each tensor.
        metadata: The metadata of its header.

    Returns:
        The header; and the bytes between tensors and after the last one, with their offsets.
    """
    header = packing.header(metadata)
    with path.open("wb+", buffering=0) as file:
        file.truncate(header.file_size)
        places = [(header.tensors[name].begin, content) for name, content in values.items()]
        for offset, content in [(0, packing.encoded(header)), *places, *packing.fixed]:
            file.seek(offset)
            file.write(content)
        between = packing.finish(file.fileno()) if packing.fixed else ()
    return header, between


class FormatTests:
    """The laws of one row, `format`."""

    format: ClassVar[FileFormat]

    def pack(self, tensors: Tensors) -> Packing:
        """Return the layout of a file with these tensors."""
        return self.format.packing(_given(tensors), PLAIN)

    def file(self, folder: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
        """Write a file with these tensors into a folder, and return its path."""
        path = folder / f"model{self.format.suffixes[0]}"
        written(path, self.pack(tensors), _values(tensors), metadata or {})
        return path

    def read(self, path: Path) -> Model:
        """Return the model in a file, whose format must be recognized by its beginning."""
        found = registry.recognized(path.read_bytes()[:LOOKED_AT])
        assert found is self.format
        return found.read(path, path.name)

    def test_a_path_names_the_format(self) -> None:
        """By each suffix. The path of a folder, or one with nothing before the suffix, does not name the format."""
        assert self.format in registry.FILES
        for suffix in self.format.suffixes:
            assert registry.of_text(f"out/name{suffix}") is self.format
            assert registry.of_output(Path(f"/out/v1.5{suffix}")) is self.format
            assert registry.of_text(f"out/name{suffix}/") is None
            assert registry.of_text(f"out/{suffix}") is None
            assert not registry.is_folder(Path(f"name{suffix}"))

    def test_no_other_format_has_its_names(self) -> None:
        """Otherwise the order of the rows would decide what a path means."""
        others = [each for each in registry.FILES if each is not self.format]
        assert not set(self.format.read_suffixes) & {suffix for each in others for suffix in each.read_suffixes}
        assert self.format.name not in {each.name for each in others} | {registry.FOLDER.name}

    @CASES
    def test_what_is_written_is_read_back(self, tmp_path: Path, tensors: Tensors) -> None:
        """Names, dtypes, shapes and bytes are equal, and each tensor is one range of the file."""
        path = self.file(tmp_path, tensors)
        model = self.read(path)
        assert (model.format, model.files, model.sizes) == (self.format.name, (path,), (path.stat().st_size,))
        assert {name: (info.dtype, info.shape) for name, info in model.tensors.items()} == dict(tensors)
        content = path.read_bytes()
        found = {name: content[info.begin : info.end] for name, info in model.tensors.items() if not info.pieces}
        assert found == _values(tensors)
        assert model.notices == ()

    @CASES
    def test_the_header_says_where_the_tensors_lie(self, tmp_path: Path, tensors: Tensors) -> None:
        """A reader finds tensors where a build writes them, and where the store remembers them."""
        header = self.pack(tensors).header({})
        model = self.read(self.file(tmp_path, tensors))
        sized = {name: info for name, info in model.tensors.items() if info.nbytes}
        assert {name: (info.begin, info.end) for name, info in sized.items()} == {
            name: (header.tensors[name].begin, header.tensors[name].end) for name in sized
        }

    @CASES
    def test_every_byte_is_accounted_for(self, tmp_path: Path, tensors: Tensors) -> None:
        """Header, tensors and the bytes between them cover the file without overlap, so `verify` checks all of it."""
        path = tmp_path / "model"
        values = _values(tensors)
        header, between = written(path, self.pack(tensors), values, {})
        content = path.read_bytes()
        assert len(content) == header.file_size
        parts = [(0, content[: header.data_start])]
        parts += [(header.tensors[name].begin, value) for name, value in values.items() if value]
        parts = sorted([*parts, *((offset, each) for offset, each in between if each)])
        assert [begin + len(each) for begin, each in parts] == [*(begin for begin, _ in parts[1:]), header.file_size]
        assert all(content[begin : begin + len(each)] == each for begin, each in parts)
        assert list(between) == sorted(between)

    @CASES
    def test_tensors_are_aligned_to_their_elements(self, tensors: Tensors) -> None:
        """So readers can use the bytes in place, and tensors of whole pages can be shared with another file."""
        for info in self.pack(tensors).header({}).tensors.values():
            assert not info.nbytes or info.begin % DTYPES_BY_WORD[info.dtype].size == 0
            assert not info.nbytes or info.nbytes % PAGE or info.begin % PAGE == 0

    @CASES
    def test_names_dtypes_and_shapes_alone_decide_where_tensors_lie(self, tensors: Tensors) -> None:
        """The order in which they are given does not; metadata only shift all tensors by the header's length."""
        packing, other = self.pack(tensors), self.format.packing(_given(tensors)[::-1], PLAIN)
        header, again = packing.header(FACTS), other.header(FACTS)
        assert packing.encoded(header) == other.encoded(again)
        assert (packing.specs, packing.fixed, packing.layout) == (other.specs, other.fixed, other.layout)
        longer = packing.header({**FACTS, "description": "x" * 3 * PAGE} if self.format.has_metadata else {})
        moved = {name: info.begin - longer.data_start for name, info in longer.tensors.items()}
        assert moved == {name: info.begin - header.data_start for name, info in header.tensors.items()}

    @CASES
    def test_specs_stand_in_the_order_of_the_bytes(self, tensors: Tensors) -> None:
        """So a pass can write a file from its beginning to its end."""
        packing = self.pack(tensors)
        header = packing.header({})
        assert sorted(spec.name for spec in packing.specs) == sorted(tensors)
        places = [header.tensors[spec.name] for spec in packing.specs]
        assert all(one.end <= other.begin for one, other in pairwise(places))

    def test_names_in_the_file_may_be_others(self, tmp_path: Path) -> None:
        """A tensor may have another name and shape in the file, be two tensors there, or share one with another."""
        tensors = {
            "a": ("float32", (2, 2)),
            "b": ("float32", (4, 2)),
            "c": ("float32", (2, 2)),
            "d": ("float32", (1, 2)),
        }
        renamed = {"a": [StoredName("x.a", (2, 2, 1))], "b": [StoredName("b1", (1, 2)), StoredName("b2", (3, 2))]}
        packing = self.format.packing(_given(tensors), Written(renamed, {StoredName("cd", (3, 2)): ("d", "c")}))
        values, path = _values(tensors), tmp_path / f"model{self.format.suffixes[0]}"
        written(path, packing, values, {})
        model = self.read(path)
        raw = path.read_bytes()
        found = {name: (info.shape, raw[info.begin : info.end]) for name, info in model.tensors.items()}
        assert found == {
            "x.a": ((2, 2, 1), values["a"]),
            "b1": ((1, 2), values["b"][:8]),
            "b2": ((3, 2), values["b"][8:]),
            "cd": ((3, 2), values["d"] + values["c"]),
        }
        assert packing.layout != self.format.packing(_given(tensors), PLAIN).layout
        assert packing.layout != self.format.packing(_given(tensors), Written(renamed)).layout

    def test_metadata_are_read_back_where_there_is_room_for_them(self, tmp_path: Path) -> None:
        """In a format without room for metadata, a reader finds none."""
        model = self.read(self.file(tmp_path, ONE, FACTS))
        assert dict(model.metadata) == (FACTS if self.format.has_metadata else {})

    def test_what_is_foreseen_is_as_long_as_what_is_written(self) -> None:
        """Before sources are hashed, headers have other digests in their place: offsets must not depend on digests."""
        if not self.format.is_foreseen:
            return
        packing = self.pack(SHAPES)
        known, foreseen = (packing.header({**FACTS, "digest": digit * 32}) for digit in "0a")
        assert (known.data_start, known.file_size) == (foreseen.data_start, foreseen.file_size)
        assert not packing.fixed

    def test_a_file_that_begins_with_its_length_begins_with_its_header(self, tmp_path: Path) -> None:
        """So such a file is recognized by its header alone."""
        packing = self.pack(ONE)
        header = packing.header(FACTS)
        raw = packing.encoded(header)
        path = self.file(tmp_path, ONE, FACTS)
        assert path.read_bytes()[: len(raw)] == raw
        assert registry.begins_with_length(self.read(path)) is self.format.begins_with_length
        if self.format.begins_with_length:
            assert 8 + int.from_bytes(raw[:8], "little") == len(raw) == header.data_start

    def test_to_finish_twice_is_to_finish_once(self, tmp_path: Path) -> None:
        """`finish` depends on the tensors' bytes alone."""
        packing = self.pack(SHAPES)
        path = tmp_path / "model"
        _, between = written(path, packing, _values(SHAPES), {})
        before = path.read_bytes()
        if packing.fixed:
            with path.open("rb+", buffering=0) as file:
                assert list(packing.finish(file.fileno())) == list(between)
        assert path.read_bytes() == before

    def test_what_can_not_be_said_in_a_file_is_refused(self) -> None:
        """Two tensors with one name, or an unknown dtype, are mistakes of the caller."""
        for wrong in ([("w", "float32", (1,)), ("w", "float16", (1,))], [("w", "float31", (1,))]):
            with pytest.raises(ValueError, match=r"w|float31"):
                self.format.packing(wrong, PLAIN)

    def test_a_file_that_is_cut_short_is_refused(self, tmp_path: Path) -> None:
        """A download that broke off is an error, wherever it was cut."""
        path = self.file(tmp_path, SHAPES)
        whole = path.read_bytes()
        for length in (LOOKED_AT, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(SourceError):
                self.format.read(path, path.name)
