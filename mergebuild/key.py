"""Keys: what a thing follows from, as lines of a name and a value. Hashed they are its digest, shown its explanation.

There is one writer of values, and one framing: each line is a name and a value with a length each, so that nothing can
slide from one line into the next. What people are shown is read from the very lines that are hashed. A line whose
value is a key itself is hashed by that key's digest, and shown by its lines. Dataclasses are written by their fields,
as these are found: a field that is added later is in every key, and in every cache (`Likeness`), until it is left out.

`resolve` says what a linear combination comes to for one tensor: terms gathered by what their tensors are, in the order
of the digests, a copy or a step. The tensors of a plan and those of sources seen for the first time ask it alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, Union

import xxhash

from mergebuild.digest import SCHEMA, is_scaled, tagged

__all__ = [
    "Key",
    "Line",
    "LinearDigests",
    "OperationDigests",
    "Resolved",
    "Term",
    "Value",
    "combination_key",
    "copy_key",
    "digest_of",
    "gather",
    "linear_key",
    "narrows",
    "operation_key",
    "resolve",
    "tensor_line",
    "written",
]

_COPY = "copy"
"""The name of the one line of a copy's key."""

_INPUT = "input"
_TENSOR = "tensor"

_NARROWED = ("rounded", "once, from float64")
"""The line of what `narrows`; products with scales are exact in float64."""


class Fields(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Value = Union[str, bool, int, Fraction, bytes, "Key", "Fields", "tuple[Value, ...]"]
"""Bytes are a digest. A number and a word may have the same text: a line's name says which of them its value is."""

Place = TypeVar("Place", bytes, int)
"""What a tensor is known by: its digest, or its place in the order of digests."""


class Line(NamedTuple):
    """One line of a key. A name that is a digest is that of a tensor, and the value its coefficient."""

    name: str | bytes
    value: Value


@dataclass(frozen=True, slots=True)
class Key:
    """What something follows from, in a fixed order."""

    lines: tuple[Line, ...]

    @property
    def text(self) -> bytes:
        """What is hashed."""
        return b"".join([_named(_text(name)) + _valued(_text(value)) for name, value in self.lines])

    @property
    def digest(self) -> bytes:
        """The 16 bytes by which whatever has this key is known: of a copy, those of what it is a copy of."""
        first = self.lines[0].value if self.is_copy else None
        return first if isinstance(first, bytes) else xxhash.xxh3_128_digest(self.text)

    @property
    def is_copy(self) -> bool:
        """Whether it is that of a tensor that is another's copy; see `copy_key`."""
        return bool(self.lines) and self.lines[0].name == _COPY

    @property
    def digest_of_values(self) -> bytes:
        """The hash of the values alone, digests as they are: by this a store knows the statistics that it keeps."""
        running = xxhash.xxh3_128()
        for _, value in self.lines:
            raw = value if isinstance(value, bytes) else _text(value).encode()
            running.update(b"%d:%s" % (len(raw), raw))
        return running.digest()


def _text(value: Value) -> str:
    """Return a value as it is hashed."""
    match value:
        case str():
            return value
        case bytes():
            return tagged(value)
        case Key():
            return tagged(value.digest)
        case tuple():
            return " ".join(map(_text, value))
        case bool() | int() | Fraction():
            return str(value)
        case _:
            return written(value)


def written(value: object) -> str:
    """Return a value of the recipe as text; equal values, and only these, have equal texts.

    A dataclass is the fields that take part in comparing it, names included.
    """
    kind = type(value)
    write = _WRITERS.get(kind)
    if write is None:
        write = _WRITERS[kind] = _writer(kind)
    return write(value)


def _writer(kind: type) -> Callable[[Any], str]:
    """Return what writes values of a kind."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_writer(kind.__name__, tuple(each.name for each in dataclasses.fields(kind) if each.compare))
    if issubclass(kind, Mapping):
        return lambda value: f"{{{','.join(f'{written(key)}={written(each)}' for key, each in value.items())}}}"
    return lambda value: f"{kind.__name__} {value}"  # a number, a path, None, what TOML may have in a layout's table


def _dataclass_writer(kind: str, names: Sequence[str]) -> Callable[[Any], str]:
    values = _getter(names)
    return lambda value: f"{kind}({','.join(map(written, values(value)))})"


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gives the values of some fields; of a single one `attrgetter` gives no tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _list(value: Sequence[object]) -> str:
    return f"[{','.join(map(written, value))}]"


_WRITERS: dict[type, Callable[[Any], str]] = {
    str: lambda value: f"{len(value)}:{value}",
    tuple: _list,
    list: _list,
}


def _named(name: str) -> bytes:
    return f"{len(name)}:{name}".encode()


def _valued(value: str) -> bytes:
    return f"{len(value)}:{value}\n".encode()


def _shape(shape: Sequence[int]) -> Line:
    return Line("shape", ",".join(map(str, shape)))


# Linear combinations


class Term(NamedTuple):
    """One term of a linear combination: the digest of its tensor (16 bytes) and its exact coefficient."""

    digest: bytes
    coefficient: Fraction


class Resolved(NamedTuple, Generic[Place]):
    """What a linear combination comes to for one tensor."""

    terms: tuple[tuple[Place, Fraction], ...]
    """Each tensor once, in the order of the digests; no coefficient is 0."""
    is_copy: bool
    """Whether it is the lone term's tensor as it is."""
    narrowed: bool
    """Whether it is a lone tensor that `narrows`."""


def gather(terms: Iterable[tuple[Place, Fraction]]) -> tuple[tuple[Place, Fraction], ...]:
    """Return terms with those of equal tensors added up, without zeros, in the order of the tensors.

    So neither names nor the order of merging can reach what is made.
    """
    sums: dict[Place, Fraction] = {}
    for place, coefficient in terms:
        known = sums.get(place)
        sums[place] = coefficient if known is None else known + coefficient
    return tuple([(place, sums[place]) for place in sorted(sums) if sums[place]])


def resolve(terms: Iterable[tuple[Place, Fraction]], dtypes: Mapping[Place, str], dtype: str) -> Resolved[Place]:
    """Say what a combination rounded to `dtype` comes to.

    `terms` by what each tensor is: its digest, or its place in the order of the digests; `dtypes`: the dtype in which
    each is stored, or what else its bytes are.
    """
    found = gather(terms)
    lone = dtypes[found[0][0]] if len(found) == 1 and found[0][1] == 1 else ""
    return Resolved(found, is_copy=lone == dtype, narrowed=narrows(lone, dtype))


def digest_of(found: Resolved[bytes], dtype: str, shape: Sequence[int]) -> bytes:
    """Return the digest of a tensor: that of the one that it is a copy of, or of what makes it."""
    if found.is_copy:
        return found.terms[0][0]
    return linear_key(dtype, shape, found.terms, narrowed=found.narrowed).digest


def narrows(source: str, dtype: str) -> bool:
    """Whether a lone tensor stored as `source` is rounded to another dtype past float32, which is between them."""
    return (source == "float64" or is_scaled(source)) and dtype not in ("float64", "float32")


def copy_key(digest: bytes) -> Key:
    """Return the key of a tensor that is a copy, and so has this digest as well."""
    return Key((Line(_COPY, digest),))


def linear_key(
    dtype: str, shape: Sequence[int], terms: Iterable[tuple[bytes, Fraction]], *, narrowed: bool = False
) -> Key:
    """Return the key of a linear combination rounded to `dtype`, its terms already gathered.

    `narrowed`: it is a lone tensor that `narrows`. (These were rounded by way of float32 once, under the other digest.)
    """
    lines = [Line("method", f"linear@{SCHEMA}"), Line("dtype", dtype), _shape(shape)]
    lines += [Line(digest, coefficient) for digest, coefficient in terms]
    return Key((*lines, Line(*_NARROWED)) if narrowed else tuple(lines))


def combination_key(shape: Sequence[int], terms: Iterable[tuple[bytes, Fraction]]) -> Key:
    """Return the key of a combination that an operation reads: in float32, not rounded further."""
    return linear_key("float32", shape, terms)


class LinearDigests:
    """The digests of combinations of one form: tensors that differ in what is combined, with coefficients in common.

    What is hashed of each is the text of its `linear_key`, kept but for the coefficients: a thousand members of a
    family put in theirs, and hash.
    """

    def __init__(self, terms: int) -> None:
        self._heads: list[bytes] = []
        self._names: tuple[list[bytes], ...] = tuple([] for _ in range(terms))

    def add(self, dtype: str, shape: Sequence[int], inputs: Sequence[bytes]) -> None:
        """Add a tensor with the digests of what it may be made of, in order."""
        self._heads.append(linear_key(dtype, shape, ()).text)
        for names, digest in zip(self._names, inputs, strict=True):
            names.append(_named(tagged(digest)))

    def of(self, terms: Iterable[tuple[int, Fraction]], *, narrowed: bool = False) -> list[bytes]:
        """Return the digest of each tensor added, given which inputs are combined, and how; see `linear_key`."""
        texts = self._heads
        for index, coefficient in terms:
            value = _valued(str(coefficient))
            texts = [text + name + value for text, name in zip(texts, self._names[index], strict=True)]
        if narrowed:
            end = Key((Line(*_NARROWED),)).text
            texts = [text + end for text in texts]
        return list(map(xxhash.xxh3_128_digest, texts))


# Operations


def operation_key(dtype: str, shape: Sequence[int], facts: Iterable[Line], inputs: Iterable[bytes | Key]) -> Key:
    """Return the key of what an operation makes, rounded to `dtype`.

    `facts`: all that decides besides the inputs (method, its version, arguments, the tensor's name where that
    matters), in a fixed order.
    """
    head = (Line("operation", str(SCHEMA)), Line("dtype", dtype), _shape(shape))
    return Key((*head, *facts, *(Line(_INPUT, each) for each in inputs)))


class OperationDigests:
    """The digests of what operations make that have a dtype and facts in common; see `operation_key`.

    What is hashed of each is the text of its key, of which all that they have in common is kept.
    """

    def __init__(self, dtype: str, facts: Iterable[Line]) -> None:
        self._dtype = dtype
        self._facts = Key(tuple(facts)).text
        self._input = _named(_INPUT)
        self._heads: dict[tuple[int, ...], bytes] = {}

    def of(self, shape: tuple[int, ...], inputs: Iterable[bytes], *, tensor: str | None = None) -> bytes:
        """Return the digest of one tensor. `tensor`: its name, where that is the last of the facts."""
        head = self._heads.get(shape)
        if head is None:
            head = self._heads[shape] = operation_key(self._dtype, shape, (), ()).text + self._facts
        name = Key((Line(_TENSOR, tensor),)).text if tensor is not None else b""
        lines = [self._input + _valued(tagged(digest)) for digest in inputs]
        return xxhash.xxh3_128_digest(b"".join((head, name, *lines)))


def tensor_line(name: str) -> Line:
    """Return the fact of an operation to which the tensor's name matters."""
    return Line(_TENSOR, name)
