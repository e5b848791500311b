"""One tensor of a target: what it is made of, and its key."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mergebuild.fold.forms import Operation, Spec
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.key import (
    Key,
    Line,
    Term,
    combination_key,
    copy_key,
    linear_key,
    operation_key,
)
from mergebuild.methods.arguments import Arguments, lines_of
from mergebuild.methods.method import Method

__all__ = ["Made", "Operand", "Origin", "SurveyKey", "SurveyedTensor"]


class Origin(NamedTuple):
    """An input's tensor: its digest, the dtype in which it is stored, and its size in bytes."""

    digest: bytes
    dtype: str
    size: int | None
    """None: the same as that of the tensor that is made of it."""
    is_made: bool = False
    """Whether a target makes it; else it is a source's."""


class Operand(NamedTuple):
    """What an operation reads: a tensor, or a combination of tensors in float32, not rounded further."""

    digest: bytes
    terms: tuple[Term, ...] | None
    """None: the tensor with this digest."""

    @property
    def reads(self) -> tuple[bytes, ...]:
        """The digests of the tensors that it is made of."""
        return (self.digest,) if self.terms is None else tuple(term.digest for term in self.terms)

    def value(self, shape: Sequence[int]) -> bytes | Key:
        """Return its value in a key: a digest, or the key of a combination."""
        return self.digest if self.terms is None else combination_key(shape, self.terms)


class SurveyedTensor(NamedTuple):
    """A tensor that a survey looks at: its name, shape, and the method's inputs for it."""

    name: str
    shape: tuple[int, ...]
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class SurveyKey:
    """A survey of one scope of a method: which tensors it looks at, and the key of what it finds."""

    key: bytes
    """Its digest."""
    facts: tuple[Line, ...]
    """The lines of its key besides the inputs: the method, the parameters that matter for it, the tensors."""
    method: Method
    arguments: Arguments
    tensors: tuple[SurveyedTensor, ...]

    @property
    def lines(self) -> Key:
        """Its key."""
        inputs = [operand.value(each.shape) for each in self.tensors for operand in each.operands]
        return operation_key("", (), self.facts, inputs)


@dataclass(frozen=True, slots=True)
class Made:
    """One tensor of an artifact, and the combination (a copy if `is_copy`) or operation that makes it."""

    name: str
    spec: Spec
    digest: bytes
    terms: tuple[Term, ...]
    is_copy: bool
    operation: Operation | None = None
    operands: tuple[Operand, ...] = ()
    survey: SurveyKey | None = None
    """The survey that the operation needs first."""
    facts: tuple[Line, ...] = ()
    """The lines of the operation's key besides its inputs."""
    narrowed: bool = False
    """Whether it is a single float64 tensor that is only rounded; see `narrows`."""
    parameter: str = ""
    """The name by which an operation knows it: for a tensor that is written a second time, the first one's name."""

    @property
    def key(self) -> Key:
        """Its key: the lines that its digest is the hash of."""
        dtype, shape, _ = self.spec
        if self.is_copy:
            return copy_key(self.digest)
        if self.operation is None:
            return linear_key(dtype, shape, self.terms, narrowed=self.narrowed)
        shapes = [shape] * self._split + list(self.operation.shapes)
        inputs = [each.value(shape) for shape, each in zip(shapes, self.operands, strict=True)]
        own = operation_key(dtype, shape, self.facts, inputs)
        return own if self.survey is None else operation_key(dtype, shape, (), [own, self.survey.lines])

    @property
    def inputs(self) -> tuple[Operand, ...]:
        """The operands that are read chunk by chunk, of the tensor's own shape."""
        return self.operands[: self._split]

    @property
    def parts(self) -> tuple[Operand, ...]:
        """The operands that have shapes of their own, and are read whole."""
        return self.operands[self._split :]

    @property
    def _split(self) -> int:
        operation = self.operation
        return len(self.operands) - len(operation.shapes) if operation is not None else 0

    @property
    def together(self) -> bytes:
        """The key of a computation that makes several tensors, this among them; empty if it is made by itself."""
        operation = self.operation
        arguments = operation.method.makes.module_arguments(operation.arguments) if operation else None
        if operation is None or arguments is None:
            return b""
        facts = [*lines_of(arguments), Line("method", operation.method.name)]
        return operation_key("", (), facts, [each.digest for each in self.operands]).digest

    @property
    def reads(self) -> tuple[bytes, ...]:
        """The digests of the tensors that it is made of, each once."""
        if self.operation is None:
            return tuple(term.digest for term in self.terms)
        return tuple(dict.fromkeys(digest for each in self.operands for digest in each.reads))

    @property
    def needs(self) -> Iterator[bytes]:
        """Yield the digests of the tensors that it, or its survey, is made of."""
        yield from self.reads
        for each in self.survey.tensors if self.survey else ():
            yield from (digest for operand in each.operands for digest in operand.reads)

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return DTYPES_BY_WORD[self.spec.dtype].size * self.count

    @property
    def count(self) -> int:
        """Its number of elements."""
        return math.prod(self.spec.shape)
