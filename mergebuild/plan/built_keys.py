"""The keys of a target's tensors, packed for the store, to be compared with later ones.

`why --tensor` compares them with the keys that follow from the mergefile now. There may be thousands of targets with a
thousand tensors each, so nothing is packed twice: the lines of tensors that are made alike are packed once, and the
digests in them are packed separately, once for all members of a family (the store keeps them once, too). Tensors that a
virtual target makes by operations are intermediate; their keys are packed with the digests.

The packed form is the version of the format, then parts, each after its length (8 bytes, little-endian).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from mergebuild.digest import artifact_digest
from mergebuild.key import Key, Line, Value, combination_key, copy_key, linear_key, operation_key, tensor_line
from mergebuild.store import PackedKeys

if TYPE_CHECKING:
    from mergebuild.plan.batch import Operated, TensorRow
    from mergebuild.plan.made import Operand, SurveyKey
    from mergebuild.plan.tensors import Tensors

__all__ = ["BuiltKeys", "InputsOfRow", "Owner", "pack_inputs", "packed_keys"]

_VERSION = b"\1"
_DIGEST = 16
_MOST = 1 << 28
"""The most bytes of text: the keys of a hundred thousand tensors have a tenth of that."""
_LONGEST = 10_000
"""The most characters of a number: the longest possible coefficients have two numbers of 3,000 digits."""
_OF_FRACTIONS = frozenset("-/0123456789")

_FAILURES = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error, zlib.error
)  # fmt: skip
"""The errors of reading a text that is not what we packed."""


class InputsOfRow(NamedTuple):
    """The tensors of a row, and for each the digests of what it may be made of, in sorted order."""

    dtype: str
    names: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    inputs: Sequence[Sequence[bytes]]
    owners: Sequence[Sequence[Owner]]
    """For each input: the owners of such tensors."""


class Owner(NamedTuple):
    """A source or target that an input's tensors belong to, with its names for them; None: the names are the same."""

    name: str
    tensors: Sequence[str] | None


def packed_keys(tensors: Tensors, intermediates: Iterable[Tensors] = ()) -> PackedKeys:
    """Return the keys of a target's tensors, packed for the store.

    `intermediates`: for each virtual target that it reads, directly or through others, and that makes tensors by
    operations, these tensors.
    """
    below = [part for each in intermediates for part in (each.packed_inputs, _lines(each))]
    return PackedKeys(_framed([_lines(tensors)]), _framed([tensors.packed_inputs, *below]))


def pack_inputs(rows: Sequence[InputsOfRow]) -> bytes:
    """Return the packed inputs of rows of tensors: names and shapes as text, then all digests."""
    facts = [(row.dtype, row.names, row.shapes, row.owners) for row in rows]
    digests = b"".join(digest for row in rows for inputs in row.inputs for digest in inputs)
    return _framed([_text(facts), digests])


def _lines(tensors: Tensors) -> bytes:
    """Return the packed lines of all keys without the digests in them, row by row."""
    surveys = {survey.key: survey for row in tensors.rows for survey in row.surveys if survey is not None}
    numbers = {key: number for number, key in enumerate(surveys)}
    places = _places(tensors) if surveys else {}
    rows = [_row(row, numbers, tensors.parameters_of(row)) for row in tensors.rows]
    return _text({"rows": rows, "surveys": [_survey(each, places) for each in surveys.values()]})


def _places(tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Return, for each tensor's name, its row and its index in that."""
    rows = enumerate(map(tensors.names_of, tensors.rows))
    return {name: (number, index) for number, names in rows for index, name in enumerate(names)}


def _survey(survey: SurveyKey, places: Mapping[str, tuple[int, int]]) -> dict[str, object]:
    own = survey.facts[: len(survey.facts) - len(survey.tensors)]  # then comes one line for each tensor
    return {"facts": [_fact(line) for line in own], "tensors": [places[each.name] for each in survey.tensors]}


def _row(row: TensorRow, surveys: Mapping[bytes, int], names: Sequence[str]) -> dict[str, object]:
    """Return what the tensors of a row, with these names, have in common, and the survey of each."""
    if row.operated is None:
        terms = [(index, str(share)) for index, share in row.terms]
        return {"copy": terms[0][0]} if row.is_copy else {"terms": terms, "narrowed": row.narrowed}
    operated = row.operated
    places = {digest: index for index, digest in enumerate(row.origins[0])}
    return {
        "facts": [_fact(line) for line in operated.facts],
        "by_name": _by_name(operated, names),
        "inputs": [_operand(each, places) for each in operated.operands[0]],
        "shapes": operated.operation.shapes,
        "surveys": [None if each is None else surveys[each.key] for each in row.surveys],
    }


def _by_name(operated: Operated, names: Sequence[str]) -> bool | list[str]:
    """Return whether keys have the names of their tensors; if a method knows these by other names, the names."""
    known = [operated.operation.known_as(name) for name in names]
    return known if operated.name_in_key and known != [*names] else operated.name_in_key


def _operand(operand: Operand, places: Mapping[bytes, int]) -> object:
    """Return an input of an operation: the index of a tensor, or indices with shares."""
    if operand.terms is None:
        return places[operand.digest]
    return [(places[digest], str(share)) for digest, share in operand.terms]


def _fact(line: Line) -> tuple[object, object]:
    return (line.name, _plain(line.value))


def _plain(value: Value) -> object:
    """Return a value of a line for JSON: a number as a list with its text, a tuple as a list of values."""
    if isinstance(value, Fraction):
        return [str(value)]
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int) else str(value)


def _value(plain: Any) -> Value:
    if not isinstance(plain, list):
        found: str | bool | int = plain
        return found
    return _fraction(plain[0]) if len(plain) == 1 and isinstance(plain[0], str) else tuple(map(_value, plain))


def _text(value: object) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)


def _framed(parts: Iterable[bytes]) -> bytes:
    return b"".join((_VERSION, *(struct.pack("<Q", len(part)) + part for part in parts)))


def _parts(framed: bytes) -> Iterator[bytes]:
    at = len(_VERSION)
    while at < len(framed):
        (length,) = struct.unpack_from("<Q", framed, at)
        yield framed[at + 8 : at + 8 + length]
        at += 8 + length


class BuiltKeys:
    """The keys that `packed_keys` packed."""

    def __init__(self, tensors: _KeyTable, intermediates: Sequence[_KeyTable]) -> None:
        self._tensors = tensors
        self._intermediates = intermediates

    @staticmethod
    def of(packed: PackedKeys, artifact: bytes) -> BuiltKeys | None:
        """Return the keys of an artifact's tensors; None if the format is unknown, or if they are not this artifact's.

        All of it is read: the artifact's digest follows from the lines, so they can't have been changed.
        """
        if not packed.lines.startswith(_VERSION) or not packed.inputs.startswith(_VERSION):
            return None
        try:
            (lines,) = _parts(packed.lines)
            inputs, *below = _parts(packed.inputs)
            every = [_KeyTable(inputs, lines), *(_KeyTable(*below[at : at + 2]) for at in range(0, len(below), 2))]
            for each in every:
                deque((key.digest for key in each.all()), maxlen=0)
                deque(each.owners(None), maxlen=0)
            if every[0].artifact() != artifact:
                return None
        except _FAILURES:
            return None
        return BuiltKeys(every[0], every[1:])

    def key(self, name: str) -> Key | None:
        """Return the key of a tensor; None if there is none of this name."""
        return self._tensors.key(name)

    def intermediate(self, digest: bytes) -> Key | None:
        """Return the key that an intermediate tensor had at that time; None if there was none."""
        return self._by_digest.get(digest)

    def owners(self, name: str | None = None) -> Iterator[tuple[bytes, str, str]]:
        """Yield the digest of each input with an owner and that one's name for it.

        `name`: only for the inputs of this tensor, and of the intermediate tensors of this name.
        """
        return (owned for each in (self._tensors, *self._intermediates) for owned in each.owners(name))

    @cached_property
    def _by_digest(self) -> Mapping[bytes, Key]:
        return {key.digest: key for each in self._intermediates for key in each.all() if not key.is_copy}


class _KeyTable:
    """The keys of one target's tensors."""

    def __init__(self, inputs: bytes, lines: bytes) -> None:
        facts, digests = _parts(inputs)
        made = json.loads(_unpacked(lines))
        self._rows: list[Mapping[str, Any]] = made["rows"]
        self._surveys: list[Mapping[str, Any]] = made["surveys"]
        self._inputs: list[InputsOfRow] = []
        self._places: dict[str, tuple[int, int]] = {}
        cut = [digests[at : at + _DIGEST] for at in range(0, len(digests), _DIGEST)]
        done = 0
        for number, (dtype, names, shapes, owners) in enumerate(json.loads(_unpacked(facts))):
            count = len(owners)
            inputs_of = [cut[done + count * index : done + count * (index + 1)] for index in range(len(names))]
            done += count * len(names)
            named = [[Owner(*each) for each in some] for some in owners]
            self._inputs.append(InputsOfRow(dtype, names, [tuple(shape) for shape in shapes], inputs_of, named))
            self._places |= {name: (number, index) for index, name in enumerate(names)}

    def owners(self, name: str | None) -> Iterator[tuple[bytes, str, str]]:
        """Yield the digest of each input, of one tensor or of all, with an owner and that one's name for it."""
        places = self._places.items() if name is None else [(name, self._places[name])] if name in self._places else ()
        for tensor, (number, index) in places:
            row = self._inputs[number]
            for digest, owners in zip(row.inputs[index], row.owners, strict=True):
                yield from ((digest, each.name, each.tensors[index] if each.tensors else tensor) for each in owners)

    def artifact(self) -> bytes:
        """Return the artifact's digest."""
        return artifact_digest(
            (row.names[index], row.dtype, row.shapes[index], self._key(number, index).digest)
            for number, row in enumerate(self._inputs)
            for index in range(len(row.names))
        )

    def all(self) -> Iterator[Key]:
        """Yield the key of each tensor."""
        return (self._key(*place) for place in self._places.values())

    def key(self, name: str) -> Key | None:
        """Return the key of a tensor; None if there is none of this name."""
        return self._key(*self._places[name]) if name in self._places else None

    def _key(self, number: int, index: int) -> Key:
        row, facts = self._rows[number], self._inputs[number]
        inputs, shape = facts.inputs[index], facts.shapes[index]
        if "copy" in row:
            return copy_key(inputs[row["copy"]])
        if "terms" in row:
            return linear_key(facts.dtype, shape, _terms(row["terms"], inputs), narrowed=row["narrowed"])
        lines = _lines_of(row["facts"])
        known = row["by_name"]
        lines += [tensor_line(known[index] if isinstance(known, list) else facts.names[index])] if known else []
        own = operation_key(facts.dtype, shape, lines, self._operands(number, index))
        survey = row["surveys"][index] if row["surveys"] else None
        return own if survey is None else operation_key(facts.dtype, shape, (), [own, self._survey(survey)])

    def _operands(self, number: int, index: int) -> Iterator[bytes | Key]:
        """Yield what the operation reads for a tensor."""
        row, facts = self._rows[number], self._inputs[number]
        inputs, own = facts.inputs[index], row["shapes"]
        shapes = [facts.shapes[index]] * (len(row["inputs"]) - len(own)) + own
        for each, shape in zip(row["inputs"], shapes, strict=True):
            yield inputs[each] if isinstance(each, int) else combination_key(shape, _terms(each, inputs))

    def _survey(self, number: int) -> Key:
        survey = self._surveys[number]
        found = [(self._inputs[row], index) for row, index in survey["tensors"]]
        named = [tensor_line(f"{facts.names[index]} {facts.shapes[index]}") for facts, index in found]
        inputs = [operand for place in survey["tensors"] for operand in self._operands(*place)]
        return operation_key("", (), [*_lines_of(survey["facts"]), *named], inputs)


def _terms(terms: Sequence[tuple[int, str]], inputs: Sequence[bytes]) -> list[tuple[bytes, Fraction]]:
    return [(inputs[index], _fraction(share)) for index, share in terms]


def _fraction(text: str) -> Fraction:
    """Return the number that `str` gave as text.

    An exponent of ten digits would take all memory, so none is allowed.
    """
    if len(text) > _LONGEST or not set(text) <= _OF_FRACTIONS:
        message = f"not a fraction: {text[:40]!r}"
        raise ValueError(message)
    return Fraction(text)


def _unpacked(packed: bytes) -> bytes:
    """Return a text that `_text` packed.

    Raises:
        ValueError: it is longer than that of any target.
        zlib.error: it is something else.
    """
    machine = zlib.decompressobj()
    found = machine.decompress(packed, _MOST)
    if machine.unconsumed_tail:
        message = "longer than the keys of any target"
        raise ValueError(message)
    return found


def _lines_of(facts: Sequence[tuple[str, Any]]) -> list[Line]:
    return [Line(name, _value(value)) for name, value in facts]
