"""How our own files are laid out: where each tensor goes, and the header that says so (`docs/artifact-format.md`).

A function of names, dtypes and shapes alone, so that the same tensors always lie at the same places, and whole runs
of unchanged ones can be shared with an older file: the data start on a page, tensors of whole pages come first, and
nothing lies between. The rest follows in an order that keeps every tensor at a multiple of its element's size, as
readers that look at the bytes in place need it.
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
"""Raised when the same tensors would lie elsewhere."""


class TensorSpec(NamedTuple):
    """A tensor to be written: `dtype` in the contract's word."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return math.prod(self.shape) * DTYPES_BY_WORD[self.dtype].size


class StoredName(NamedTuple):
    """What a tensor, or a run of its rows, is called in a file that has other names."""

    name: str
    shape: tuple[int, ...]


class Written(NamedTuple):
    """How a file writes tensors, where not each by its own name."""

    stored: Mapping[str, Sequence[StoredName]] = MappingProxyType({})
    """By tensor: what it is called; several names share out its rows in order."""
    fused: Mapping[StoredName, Sequence[str]] = MappingProxyType({})
    """What several tensors are called that are one in the file, in the order of its rows."""
    turned: frozenset[str] = frozenset()
    """The matrices that lie transposed."""
    copies: frozenset[str] = frozenset()
    """Tensors that are others a second time, and no part of what the file is."""
    views: Mapping[str, Sequence[TensorView]] = MappingProxyType({})
    """Of those that are fused and not one behind the other: where each lies in the tensor of the file."""

    @property
    def mark(self) -> str:
        """What of it decides where tensors lie; empty where they lie as under their own names."""
        found: list[object] = [sorted(map(tuple, self.fused.values())), sorted(self.turned), sorted(self.copies)]
        if self.views:
            found.append(sorted((name, tuple(views)) for name, views in self.views.items()))
        return repr(tuple(found)) if any(found) else ""

    def among(self, tensors: Collection[str]) -> Written:
        """Return what of it is of some tensors, among which all of those are that are one in the file."""
        return Written(
            {name: self.stored[name] for name in tensors if name in self.stored},
            {stored: members for stored, members in self.fused.items() if members[0] in tensors},
            self.turned.intersection(tensors),
            self.copies.intersection(tensors),
            {name: views for name, views in self.views.items() if name in tensors},
        )


PLAIN: Final = Written()
"""Every tensor under its own name."""


class StoredRun(NamedTuple):
    """Tensors that lie one behind the other and have names in common: one tensor mostly, under one name."""

    tensors: tuple[TensorSpec, ...]
    stored: tuple[StoredName, ...]
    """What the file calls them: one name for several tensors, or several that share out the rows of one."""

    @property
    def whole(self) -> TensorSpec:
        """All of it, under the name of its first tensor."""
        first, *others = self.tensors
        return TensorSpec(first.name, first.dtype, (self.elements,)) if others else first

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return sum(math.prod(each.shape) for each in self.tensors)


class Scattered(NamedTuple):
    """Where the elements of a tensor lie that is no run of the file."""

    beginning: str
    """The tensor whose bytes are the first of the run that it lies in."""
    views: tuple[TensorView, ...]
    """One behind the other; in elements, from there."""


class Packing(Protocol):
    """How one file is laid out: what stands where, but for the values."""

    @property
    def layout(self) -> str:
        """What decides where tensors lie: files of one layout with equal tensors differ in their headers alone."""

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """The tensors in the order of the file's bytes."""

    @property
    def turned(self) -> frozenset[str]:
        """The matrices that lie transposed."""

    @property
    def scattered(self) -> Mapping[str, Scattered]:
        """The tensors that do not lie in one run."""

    def header(self, metadata: Mapping[str, str]) -> Header:
        """Return where the tensors lie in the file."""

    def encoded(self, header: Header) -> bytes:
        """Return everything that comes before the first tensor."""

    @property
    def fixed(self) -> Sequence[tuple[int, bytes]]:
        """What stands between tensors and behind them and is known beforehand, with its offsets."""

    def finish(self, fd: int) -> Sequence[tuple[int, bytes]]:
        """Write what follows from the tensors' bytes into a file that has all else.

        Args:
            fd: the file, to be read and written.

        Returns:
            What stands between tensors and behind them, `fixed` or not, with its offsets, ascending. Nothing where
            `fixed` is empty: it is not asked then.
        """


class Text:
    """A file without tensors: a packing that is all header."""

    layout = "text"
    specs: Sequence[TensorSpec] = ()
    turned: frozenset[str] = frozenset()
    scattered: Mapping[str, Scattered] = MappingProxyType({})
    fixed: Sequence[tuple[int, bytes]] = ()

    def __init__(self, content: bytes) -> None:
        self._content = content

    def header(self, metadata: Mapping[str, str]) -> Header:  # noqa: ARG002 -- it has no room for any
        """Return a header without tensors."""
        return Header({}, {}, len(self._content), len(self._content))

    def encoded(self, header: Header) -> bytes:  # noqa: ARG002 -- there is one
        """Return the whole file."""
        return self._content

    def finish(self, fd: int) -> Sequence[tuple[int, bytes]]:  # noqa: ARG002
        """Return nothing: it is all header."""
        return ()


def scattered_in(runs: Iterable[StoredRun], written: Written) -> Mapping[str, Scattered]:
    """Return the tensors of some runs that do not lie in one."""
    if not written.views:
        return {}
    return {
        spec.name: Scattered(run.tensors[0].name, tuple(written.views[spec.name]))
        for run in runs
        for spec in run.tensors
        if spec.name in written.views
    }


def runs_of(tensors: Iterable[tuple[str, str, Sequence[int]]], written: Written) -> list[StoredRun]:
    """Return tensors as the runs that a file has of them, in the order of the file's bytes.

    Raises:
        ValueError: two have one name, a name can't stand in a header, or a dtype is unknown.
    """
    given = sorted((TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in tensors), key=_by_name)
    _check(given)
    specs = {spec.name: spec for spec in given}
    runs: dict[str, StoredRun] = {}
    for stored, members in written.fused.items():
        found = tuple(specs.pop(name) for name in members if name in specs)
        if found and (len(found) < len(members) or len({each.dtype for each in found}) > 1):
            message = f"{stored.name!r} is made of tensors that are not there, or of different dtypes"
            raise ValueError(message)
        if found:
            runs[found[0].name] = StoredRun(found, (stored,))
    for name, spec in specs.items():
        runs[name] = StoredRun((spec,), tuple(written.stored.get(name, (StoredName(name, spec.shape),))))
    if written.stored or written.fused:
        names = (TensorSpec(each.name, "uint8", ()) for run in runs.values() for each in run.stored)
        _check(sorted(names, key=_by_name))
    return [runs[spec.name] for spec in layout_of(run.whole for run in runs.values())]


def layout_of(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> list[TensorSpec]:
    """Return tensors, given as (name, dtype, shape) in any order, in the order of a file's bytes.

    Raises:
        ValueError: two have one name, a name can't stand in a header, or a dtype is unknown.
    """
    specs = sorted((TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in tensors), key=_by_name)
    _check(specs)
    pages = [spec for spec in specs if spec.nbytes % PAGE == 0]
    rest = [spec for spec in specs if spec.nbytes % PAGE]
    if not _is_aligned(rest):
        rest.sort(key=_element_size, reverse=True)  # stable: by name within a size
    return pages + rest


class Arrangement:
    """Where the tensors of a file lie, and the header's text about them: what metadata do not touch.

    Files that differ in their metadata alone share one.
    """

    fixed: Sequence[tuple[int, bytes]] = ()

    def __init__(
        self,
        tensors: Iterable[tuple[str, str, Sequence[int]]],
        written: Written = PLAIN,
    ) -> None:
        """Arrange tensors, given as (name, dtype, shape) in any order; `written`: what the file calls them.

        Raises:
            ValueError: two tensors have one name, a name can't stand in a header, or a dtype is unknown.
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
        """Of a header's metadata, its text: who makes a header mostly wants its bytes next."""

    def header(self, metadata: Mapping[str, str]) -> Header:
        """Return the header that a reader will find in the file.

        Raises:
            ValueError: a text can't stand in a header.
            TargetError: it would be longer than readers allow.
        """
        metadata = dict(sorted(metadata.items()))
        needed = 8 + len(self._text(metadata))
        start = needed + -needed % PAGE
        if start - 8 > MAX_HEADER:
            raise TargetError.one(
                "header-too-large",
                f"the header of the output would take {start - 8:,} bytes, and readers allow {MAX_HEADER:,}",
                help='write less into it: `metadata = "minimal"`',
            )
        infos = self._infos.get(start)
        if infos is None:
            infos = self._infos[start] = {
                spec.name: TensorInfo(*spec, start + begin, start + end)
                for spec, (begin, end) in zip(self.specs, self._spans, strict=True)
            }
        return Header(infos, metadata, start, start + (self._spans[-1][1] if self._spans else 0))

    def encoded(self, header: Header) -> bytes:
        """Return everything of a file that comes before its data, for a header of this arrangement."""
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
    """Return everything of a file that comes before its data, and the header that a reader will find in it.

    Raises:
        ValueError: two tensors have one name, a text can't stand in a header, or a dtype is unknown.
        TargetError: the header would be longer than readers allow.
    """
    arrangement = Arrangement(tensors)
    header = arrangement.header(metadata)
    return arrangement.encoded(header), header


def texts_as_json(texts: Mapping[str, str]) -> str:
    """Return an object of texts as JSON, in its order and without blanks: thousands of headers have one."""
    quoted = encode_basestring  # which an encoder comes to, after it has asked what it is given
    return f"{{{','.join([f'{quoted(key)}:{quoted(text)}' for key, text in texts.items()])}}}"


def _json(value: object) -> bytes:
    return _ENCODER.encode(value).encode()


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _parted(run: StoredRun, begin: int) -> Iterator[tuple[StoredName, tuple[int, int]]]:
    """Yield what a run is called in the file, and where that lies."""
    size = DTYPES_BY_WORD[run.whole.dtype].size
    for part in run.stored:
        end = begin + math.prod(part.shape) * size
        yield part, (begin, end)
        begin = end


def _by_name(spec: TensorSpec) -> str:
    return spec.name


def _element_size(spec: TensorSpec) -> int:
    return DTYPES_BY_WORD[spec.dtype].size


def _check(specs: Sequence[TensorSpec]) -> None:
    """Refuse what no header can say; `specs` are sorted by name."""
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
    """Return whether each begins at a multiple of its element's size when they follow a page's end in this order."""
    begins = accumulate((spec.nbytes for spec in rest), initial=0)
    return all(begin % _element_size(spec) == 0 for spec, begin in zip(rest, begins, strict=False))
