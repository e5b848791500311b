"""Keys: the lines, each a name and a value, that a digest is the hash of. Shown to people, they explain the digest.

All values are written by one function. Each name and each value is hashed with its length, so that two different lists
of lines never hash the same text. People are shown the very lines that are hashed. A line whose value is itself a key
is hashed by that key's digest, and shown with its lines below it. Dataclasses are written field by field, by
reflection: a field added later is part of every key, and of every cache (`Likeness`), until it is left out explicitly.

`resolve` says what a linear combination is for one tensor: its terms, those of equal tensors added up, in the order of
their digests, and whether it is a copy or a step. Plans and sources seen for the first time both use it.
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
"""The name of the only line in the key of a copy."""

_INPUT = "input"
_TENSOR = "tensor"

_NARROWED = ("rounded", "once, from float64")
"""The line of a tensor that `narrows`. A product with scales is exact in float64, so it counts as one."""


class Fields(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


Value = Union[str, bool, int, Fraction, bytes, "Key", "Fields", "tuple[Value, ...]"]
"""Bytes are a digest. A number and a word may be the same text; the line's name says which of them its value is."""

Place = TypeVar("Place", bytes, int)
"""How a tensor is identified: by its digest, or by its index among the digests in order."""


class Line(NamedTuple):
    """One line of a key. If the name is a tensor's digest, the value is that tensor's coefficient."""

    name: str | bytes
    value: Value


@dataclass(frozen=True, slots=True)
class Key:
    """The lines that something follows from, in a fixed order."""

    lines: tuple[Line, ...]

    @property
    def text(self) -> bytes:
        """The bytes that are hashed."""
        return b"".join([_named(_text(name)) + _valued(_text(value)) for name, value in self.lines])

    @property
    def digest(self) -> bytes:
        """The digest of what has this key (16 bytes); of a copy, the digest of the tensor that it copies."""
        first = self.lines[0].value if self.is_copy else None
        return first if isinstance(first, bytes) else xxhash.xxh3_128_digest(self.text)

    @property
    def is_copy(self) -> bool:
        """Whether this is the key of a copy; see `copy_key`."""
        return bool(self.lines) and self.lines[0].name == _COPY

    @property
    def digest_of_values(self) -> bytes:
        """The hash of the values without their names, digests as raw bytes. The store finds statistics by it."""
        running = xxhash.xxh3_128()
        for _, value in self.lines:
            raw = value if isinstance(value, bytes) else _text(value).encode()
            running.update(b"%d:%s" % (len(raw), raw))
        return running.digest()


def _text(value: Value) -> str:
    """Return a value as the text that is hashed."""
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
    """Return a value of the recipe as text; two values have the same text if and only if they are equal.

    A dataclass is written as the fields that take part in comparing it, with their names.
    """
    kind = type(value)
    write = _WRITERS.get(kind)
    if write is None:
        write = _WRITERS[kind] = _writer(kind)
    return write(value)


def _writer(kind: type) -> Callable[[Any], str]:
    """Return the function that writes values of a type."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_writer(kind.__name__, tuple(each.name for each in dataclasses.fields(kind) if each.compare))
    if issubclass(kind, Mapping):
        return lambda value: f"{{{','.join(f'{written(key)}={written(each)}' for key, each in value.items())}}}"
    return lambda value: f"{kind.__name__} {value}"  # a number, a path, None, or another TOML value of a layout's table


def _dataclass_writer(kind: str, names: Sequence[str]) -> Callable[[Any], str]:
    values = _getter(names)
    return lambda value: f"{kind}({','.join(map(written, values(value)))})"


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that gives the values of some fields as a tuple (`attrgetter` gives none for one field)."""
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
    """What a linear combination is for one tensor."""

    terms: tuple[tuple[Place, Fraction], ...]
    """Each tensor once, in the order of the digests, with a coefficient that is not 0."""
    is_copy: bool
    """Whether the result is the tensor of its only term, unchanged."""
    narrowed: bool
    """Whether it is a single tensor that `narrows`."""


def gather(terms: Iterable[tuple[Place, Fraction]]) -> tuple[tuple[Place, Fraction], ...]:
    """Return terms in the order of their tensors, the coefficients of equal tensors added up, and zeros left out.

    So the result depends neither on names nor on the order of merging.
    """
    sums: dict[Place, Fraction] = {}
    for place, coefficient in terms:
        known = sums.get(place)
        sums[place] = coefficient if known is None else known + coefficient
    return tuple([(place, sums[place]) for place in sorted(sums) if sums[place]])


def resolve(terms: Iterable[tuple[Place, Fraction]], dtypes: Mapping[Place, str], dtype: str) -> Resolved[Place]:
    """Return what a combination rounded to `dtype` is.

    Args:
        terms: Pairs of a tensor (its digest, or its index among the digests in order) and its coefficient.
        dtypes: The dtype in which each tensor is stored, or its stored form if that is no dtype.
        dtype: The dtype of the result.
    """
    found = gather(terms)
    lone = dtypes[found[0][0]] if len(found) == 1 and found[0][1] == 1 else ""
    return Resolved(found, is_copy=lone == dtype, narrowed=narrows(lone, dtype))


def digest_of(found: Resolved[bytes], dtype: str, shape: Sequence[int]) -> bytes:
    """Return the digest of a resolved combination: of a copy the copied tensor's, else the hash of its linear key."""
    if found.is_copy:
        return found.terms[0][0]
    return linear_key(dtype, shape, found.terms, narrowed=found.narrowed).digest


def narrows(source: str, dtype: str) -> bool:
    """Whether a single tensor stored as `source` (float64, or scaled) is rounded to a dtype narrower than float32.

    It is then rounded once, from float64; rounding by way of float32 could give other bits.
    """
    return (source == "float64" or is_scaled(source)) and dtype not in ("float64", "float32")


def copy_key(digest: bytes) -> Key:
    """Return the key of a tensor that is a copy of the tensor with this digest, and so has the same digest."""
    return Key((Line(_COPY, digest),))


def linear_key(
    dtype: str, shape: Sequence[int], terms: Iterable[tuple[bytes, Fraction]], *, narrowed: bool = False
) -> Key:
    """Return the key of a linear combination rounded to `dtype`, its terms already gathered.

    `narrowed`: it is a single tensor that `narrows`. Earlier versions rounded these by way of float32, under the digest
    without that line.
    """
    lines = [Line("method", f"linear@{SCHEMA}"), Line("dtype", dtype), _shape(shape)]
    lines += [Line(digest, coefficient) for digest, coefficient in terms]
    return Key((*lines, Line(*_NARROWED)) if narrowed else tuple(lines))


def combination_key(shape: Sequence[int], terms: Iterable[tuple[bytes, Fraction]]) -> Key:
    """Return the key of a combination that an operation reads: in float32, not rounded any further."""
    return linear_key("float32", shape, terms)


class LinearDigests:
    """Digests of the tensors that share a form: the same coefficients, applied to different input tensors.

    The part of each `linear_key` that does not depend on the coefficients is made once. A thousand members of a family
    then only add their coefficients, and hash.
    """

    def __init__(self, terms: int) -> None:
        self._heads: list[bytes] = []
        self._names: tuple[list[bytes], ...] = tuple([] for _ in range(terms))

    def add(self, dtype: str, shape: Sequence[int], inputs: Sequence[bytes]) -> None:
        """Add a tensor with the digests of its possible inputs, in order."""
        self._heads.append(linear_key(dtype, shape, ()).text)
        for names, digest in zip(self._names, inputs, strict=True):
            names.append(_named(tagged(digest)))

    def of(self, terms: Iterable[tuple[int, Fraction]], *, narrowed: bool = False) -> list[bytes]:
        """Return the digest of each tensor added, in order.

        `terms`: the index of each input that is combined, and its coefficient; `narrowed`: see `linear_key`.
        """
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
    """Return the key of the result of an operation, rounded to `dtype`.

    `facts`: everything that decides besides the inputs (method, version, arguments, and the tensor's name if the result
    depends on it), in a fixed order.
    """
    head = (Line("operation", str(SCHEMA)), Line("dtype", dtype), _shape(shape))
    return Key((*head, *facts, *(Line(_INPUT, each) for each in inputs)))


class OperationDigests:
    """Digests of the results of operations that share a dtype and facts; see `operation_key`.

    The part of the key's text that they share is made once.
    """

    def __init__(self, dtype: str, facts: Iterable[Line]) -> None:
        self._dtype = dtype
        self._facts = Key(tuple(facts)).text
        self._input = _named(_INPUT)
        self._heads: dict[tuple[int, ...], bytes] = {}

    def of(self, shape: tuple[int, ...], inputs: Iterable[bytes], *, tensor: str | None = None) -> bytes:
        """Return the digest of one tensor. `tensor`: its name, if that is the last of the facts."""
        head = self._heads.get(shape)
        if head is None:
            head = self._heads[shape] = operation_key(self._dtype, shape, (), ()).text + self._facts
        name = Key((Line(_TENSOR, tensor),)).text if tensor is not None else b""
        lines = [self._input + _valued(tagged(digest)) for digest in inputs]
        return xxhash.xxh3_128_digest(b"".join((head, name, *lines)))


def tensor_line(name: str) -> Line:
    """Return the line with a tensor's name, for an operation whose result depends on it."""
    return Line(_TENSOR, name)
