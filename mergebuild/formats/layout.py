"""The layout of our own files: where each tensor goes, and the header that says so (`docs/artifact-format.md`).

It is a function of names, dtypes and shapes alone, so the same tensors are always at the same offsets, and unchanged
ones can share their pages with an older file: the data begin on a page boundary, tensors of whole pages come first, and
there are no gaps. The others follow in an order in which every tensor begins at a multiple of its element's size, as
readers that use the bytes in place require.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from json.encoder import encode_basestring
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from mergebuild.errors import TargetError
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.header import MAX_HEADER, METADATA, Header, TensorInfo
from mergebuild.formats.reading import UNFIT
from mergebuild.naming.renamed import TensorView
from mergebuild.system.platform import PAGE

__all__ = [
    "LAYOUT_VERSION",
    "PLAIN",
    "Arrangement",
    "Packing",
    "Scattered",
    "StoredName",
    "StoredRun",
    "TensorSpec",
    "Text",
    "Written",
    "encode_header",
    "layout_of",
    "runs_of",
    "scattered_in",
    "texts_as_json",
]

LAYOUT_VERSION: Final = 1
"""Raised when the same tensors would get other offsets."""


class TensorSpec(NamedTuple):
    """A tensor to be written; `dtype` is the contract's word."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return math.prod(self.shape) * DTYPES_BY_WORD[self.dtype].size


class StoredName(NamedTuple):
    """The name of a tensor, or of a range of its rows, in a file with other names, and its shape there."""

    name: str
    shape: tuple[int, ...]


class Written(NamedTuple):
    """How a file writes tensors that it does not write under their own names."""

    stored: Mapping[str, Sequence[StoredName]] = MappingProxyType({})
    """By tensor, its stored names; several of them share its rows, in order."""
    fused: Mapping[StoredName, Sequence[str]] = MappingProxyType({})
    """Stored tensors that hold several tensors, with these in the order of their rows."""
    turned: frozenset[str] = frozenset()
    """Matrices that are stored transposed."""
    copies: frozenset[str] = frozenset()
    """Tensors that are second copies of others, and not part of the artifact."""
    views: Mapping[str, Sequence[TensorView]] = MappingProxyType({})
    """For fused tensors that are not one after another: where each is in the stored tensor."""

    @property
    def mark(self) -> str:
        """A text of everything that decides where tensors are; empty if they are as under their own names."""
        found: list[object] = [sorted(map(tuple, self.fused.values())), sorted(self.turned), sorted(self.copies)]
        if self.views:
            found.append(sorted((name, tuple(views)) for name, views in self.views.items()))
        return repr(tuple(found)) if any(found) else ""

    def among(self, tensors: Collection[str]) -> Written:
        """Return the part of it that concerns some tensors; these include all or none of those in one stored tensor."""
        return Written(
            {name: self.stored[name] for name in tensors if name in self.stored},
            {stored: members for stored, members in self.fused.items() if members[0] in tensors},
            self.turned.intersection(tensors),
            self.copies.intersection(tensors),
            {name: views for name, views in self.views.items() if name in tensors},
        )


PLAIN: Final = Written()
"""Every tensor is written under its own name."""


class StoredRun(NamedTuple):
    """Consecutive tensors that share stored names: mostly one tensor with one name."""

    tensors: tuple[TensorSpec, ...]
    stored: tuple[StoredName, ...]
    """The names in the file: one name for several tensors, or several names that share the rows of one."""

    @property
    def whole(self) -> TensorSpec:
        """The whole run as one tensor, under the name of its first."""
        first, *others = self.tensors
        return TensorSpec(first.name, first.dtype, (self.elements,)) if others else first

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return sum(math.prod(each.shape) for each in self.tensors)


class Scattered(NamedTuple):
    """Where the elements of a tensor are that is not contiguous in its file."""

    beginning: str
    """The tensor whose bytes are the first of the run that contains it."""
    views: tuple[TensorView, ...]
    """The views, one after another; in elements from the beginning of that run."""


class Packing(Protocol):
    """The layout of one file: where everything is, except the tensors' values."""

    @property
    def layout(self) -> str:
        """What decides where tensors are: files with equal layout and equal tensors differ only in their headers."""

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """The tensors in the order of the file's bytes."""

    @property
    def turned(self) -> frozenset[str]:
        """Matrices that are stored transposed."""

    @property
    def scattered(self) -> Mapping[str, Scattered]:
        """Tensors that are not contiguous."""

    def header(self, metadata: Mapping[str, str]) -> Header:
        """Return where the tensors are in the file."""

    def encoded(self, header: Header) -> bytes:
        """Return all bytes before the first tensor."""

    @property
    def fixed(self) -> Sequence[tuple[int, bytes]]:
        """Bytes between and after tensors that are known beforehand, with their offsets."""

    def finish(self, fd: int) -> Sequence[tuple[int, bytes]]:
        """Write the bytes that depend on the tensors' bytes, when all else is in the file.

        Args:
            fd: The file, open for reading and writing.

        Returns:
            All bytes between and after tensors, those of `fixed` included, with their offsets, ascending. A file whose
                `fixed` is empty has no such bytes, and this is not called for it.
        """


class Text:
    """The packing of a file without tensors: all of it is header."""

    layout = "text"
    specs: Sequence[TensorSpec] = ()
    turned: frozenset[str] = frozenset()
    scattered: Mapping[str, Scattered] = MappingProxyType({})
    fixed: Sequence[tuple[int, bytes]] = ()

    def __init__(self, content: bytes) -> None:
        self._content = content

    def header(self, metadata: Mapping[str, str]) -> Header:  # noqa: ARG002 -- it has no metadata
        """Return a header without tensors."""
        return Header({}, {}, len(self._content), len(self._content))

    def encoded(self, header: Header) -> bytes:  # noqa: ARG002 -- there is one
        """Return the whole file."""
        return self._content

    def finish(self, fd: int) -> Sequence[tuple[int, bytes]]:  # noqa: ARG002
        """Return nothing: all of it is header."""
        return ()


def scattered_in(runs: Iterable[StoredRun], written: Written) -> Mapping[str, Scattered]:
    """Return the tensors of some runs that are not contiguous."""
    if not written.views:
        return {}
    return {
        spec.name: Scattered(run.tensors[0].name, tuple(written.views[spec.name]))
        for run in runs
        for spec in run.tensors
        if spec.name in written.views
    }


def runs_of(tensors: Iterable[tuple[str, str, Sequence[int]]], written: Written) -> list[StoredRun]:
    """Return tensors as the runs of a file, in the order of its bytes.

    Raises:
        ValueError: two have one name, a name is not allowed in a header, or a dtype is unknown.
    """
    given = sorted((TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in tensors), key=_by_name)
    _check(given)
    specs = {spec.name: spec for spec in given}
    runs = _fused_runs(specs, written)
    for name, spec in specs.items():
        runs[name] = StoredRun((spec,), tuple(written.stored.get(name, (StoredName(name, spec.shape),))))
    if written.stored or written.fused:
        _check_stored_names(runs.values())
    return [runs[spec.name] for spec in layout_of(run.whole for run in runs.values())]


def _fused_runs(specs: dict[str, TensorSpec], written: Written) -> dict[str, StoredRun]:
    """Remove the tensors that are stored fused from `specs`; return their runs, by the first tensor of each."""
    runs: dict[str, StoredRun] = {}
    for stored, members in written.fused.items():
        found = tuple(specs.pop(name) for name in members if name in specs)
        if found and (len(found) < len(members) or len({each.dtype for each in found}) > 1):
            message = f"{stored.name!r} is made of tensors that are not there, or of different dtypes"
            raise ValueError(message)
        if found:
            runs[found[0].name] = StoredRun(found, (stored,))
    return runs


def _check_stored_names(runs: Iterable[StoredRun]) -> None:
    """Refuse names in the file that are given twice or aren't allowed in a header."""
    names = (TensorSpec(each.name, "uint8", ()) for run in runs for each in run.stored)
    _check(sorted(names, key=_by_name))


def layout_of(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> list[TensorSpec]:
    """Return tensors, given as (name, dtype, shape) in any order, in the order of a file's bytes.

    Raises:
        ValueError: two have one name, a name is not allowed in a header, or a dtype is unknown.
    """
    specs = sorted((TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in tensors), key=_by_name)
    _check(specs)
    pages = [spec for spec in specs if spec.nbytes % PAGE == 0]
    rest = [spec for spec in specs if spec.nbytes % PAGE]
    if not _is_aligned(rest):
        rest.sort(key=_element_size, reverse=True)  # stable: by name within a size
    return pages + rest


class Arrangement:
    """The layout of a safetensors file, and the text of its header without metadata.

    Files that differ only in their metadata share one.
    """

    fixed: Sequence[tuple[int, bytes]] = ()

    def __init__(
        self,
        tensors: Iterable[tuple[str, str, Sequence[int]]],
        written: Written = PLAIN,
    ) -> None:
        """Arrange tensors, given as (name, dtype, shape) in any order. `written`: how the file writes them.

        Raises:
            ValueError: two tensors have one name, a name is not allowed in a header, or a dtype is unknown.
        """
        runs = runs_of(tensors, written)
        self.specs = [spec for run in runs for spec in run.tensors]
        """The tensors in the order of the file's bytes."""
        self.layout = " ".join(filter(None, ("safetensors", written.mark)))
        self._spans = list(pairwise(accumulate((spec.nbytes for spec in self.specs), initial=0)))
        self.turned = written.turned
        self.scattered = scattered_in(runs, written)
        begins = accumulate((run.whole.nbytes for run in runs), initial=0)
        about = {
            part.name: {"dtype": DTYPES_BY_WORD[run.whole.dtype].tag, "shape": part.shape, "data_offsets": place}
            for run, begin in zip(runs, begins, strict=False)
            for part, place in _parted(run, begin)
        }
        self._entries = _json(about)[1:-1]
        self._infos: dict[int, dict[str, TensorInfo]] = {}
        self._latest: tuple[Mapping[str, str] | None, bytes] = (None, b"")
        """The latest metadata and the text of their header, as its bytes are mostly needed next."""

    def header(self, metadata: Mapping[str, str]) -> Header:
        """Return the header that a reader will find in the file.

        Raises:
            ValueError: a text is not allowed in a header.
            TargetError: it would be longer than readers allow.
        """
        metadata = dict(sorted(metadata.items()))
        needed = 8 + len(self._text(metadata))
        start = needed + -needed % PAGE
        if start - 8 > MAX_HEADER:
            raise _header_too_large(start - 8)
        return Header(self._infos_from(start), metadata, start, start + (self._spans[-1][1] if self._spans else 0))

    def _infos_from(self, start: int) -> dict[str, TensorInfo]:
        """Return where the tensors are if the data begin at `start`."""
        found = self._infos.get(start)
        if found is None:
            found = self._infos[start] = {
                spec.name: TensorInfo(*spec, start + begin, start + end)
                for spec, (begin, end) in zip(self.specs, self._spans, strict=True)
            }
        return found

    def encoded(self, header: Header) -> bytes:
        """Return all bytes of a file before its data, for a header of this arrangement."""
        length = header.data_start - 8
        return length.to_bytes(8, "little") + self._text(header.metadata).ljust(length)

    def finish(self, fd: int) -> Sequence[tuple[int, bytes]]:  # noqa: ARG002
        """Return nothing: a safetensors file has no checksums."""
        return ()

    def _text(self, metadata: Mapping[str, str]) -> bytes:
        """Return the JSON of a header, its entries in the order of the file's bytes."""
        of, text = self._latest
        if of is not metadata:
            first = f'"{METADATA}":{texts_as_json(metadata)}'.encode() if metadata else b""
            comma = b"," if first and self._entries else b""
            text = b"{%s%s%s}" % (first, comma, self._entries)
            self._latest = (metadata, text)
        return text


def encode_header(
    tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]
) -> tuple[bytes, Header]:
    """Return all bytes of a file before its data, and the header that a reader will find in it.

    Raises:
        ValueError: two tensors have one name, a text is not allowed in a header, or a dtype is unknown.
        TargetError: the header would be longer than readers allow.
    """
    arrangement = Arrangement(tensors)
    header = arrangement.header(metadata)
    return arrangement.encoded(header), header


def texts_as_json(texts: Mapping[str, str]) -> str:
    """Return an object of strings as JSON, in its order and without spaces.

    A fast path: thousands of headers have one.
    """
    quoted = encode_basestring  # the function by which `json` itself quotes a string
    return f"{{{','.join([f'{quoted(key)}:{quoted(text)}' for key, text in texts.items()])}}}"


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode()


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _parted(run: StoredRun, begin: int) -> Iterator[tuple[StoredName, tuple[int, int]]]:
    """Yield the stored names of a run, each with its begin and end."""
    size = DTYPES_BY_WORD[run.whole.dtype].size
    for part in run.stored:
        end = begin + math.prod(part.shape) * size
        yield part, (begin, end)
        begin = end


def _header_too_large(size: int) -> TargetError:
    return TargetError.one(
        "header-too-large",
        f"the header of the output would take {size:,} bytes, and readers allow {MAX_HEADER:,}",
        help='write less into it: `metadata = "minimal"`',
    )


def _by_name(spec: TensorSpec) -> str:
    return spec.name


def _element_size(spec: TensorSpec) -> int:
    return DTYPES_BY_WORD[spec.dtype].size


def _check(specs: Sequence[TensorSpec]) -> None:
    """Raise if a header can't describe the tensors, which are sorted by name."""
    for spec, after in pairwise(specs):
        if spec.name == after.name:
            message = f"two tensors are named {spec.name!r}"
            raise ValueError(message)
    for spec in specs:
        if spec.name == METADATA or UNFIT.search(spec.name):
            message = f"no tensor can be named {spec.name!r}"
            raise ValueError(message)
        if spec.dtype not in DTYPES_BY_WORD:
            message = f"no dtype is named {spec.dtype!r}"
            raise ValueError(message)


def _is_aligned(rest: Sequence[TensorSpec]) -> bool:
    """Return whether, after a page's end and in this order, each tensor begins at a multiple of its element's size."""
    begins = accumulate((spec.nbytes for spec in rest), initial=0)
    return all(begin % _element_size(spec) == 0 for spec, begin in zip(rest, begins, strict=False))
