"""The work of one pass, as values that can be pickled. No torch.

A *leaf* is a tensor at a *location* in a file; a *step* makes a tensor from leaves and from earlier steps (for a file
target that is read in the same pass) and writes it to each of its places; a *copy* copies bytes. A `PassDraft` collects
them; `schedule.py` cuts a pass into jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import NamedTuple

from mergebuild import errors
from mergebuild.digest import scaled_as
from mergebuild.formats.gathering import span_of
from mergebuild.formats.header import Piece, Scaling
from mergebuild.methods.arguments import Argument
from mergebuild.methods.method import Method

__all__ = [
    "Combination",
    "Copy",
    "KernelCall",
    "Leaf",
    "LeafScale",
    "Location",
    "OutputFile",
    "OutputRange",
    "Pass",
    "PassDraft",
    "SeenGroup",
    "SeenTensor",
    "Step",
    "StepResult",
    "SurveyJob",
    "SurveyedLeaves",
    "UnseenGroup",
    "UnseenInput",
    "UnseenTensor",
    "Way",
]


class OutputRange(NamedTuple):
    """A place in an output: the output's index in the pass, and an offset in bytes.

    `turned`: rows and columns of a matrix that is written transposed. `views`: where the elements of a scattered tensor
    are written, each with `width` bytes; the offset then counts from the tensor's own first byte.
    """

    output: int
    offset: int
    turned: tuple[int, int] | None = None
    views: tuple[Piece, ...] = ()
    width: int = 0


class OutputFile(NamedTuple):
    """A file to be written: its (temporary) path, the bytes before the data, and its size in bytes.

    `fixed`: bytes between tensors, with their offsets.
    """

    path: Path
    header: bytes
    size: int
    fixed: Sequence[tuple[int, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Location:
    """Where bytes are stored: `size` bytes of the file `path`, from byte `offset` on.

    A scattered tensor consists of `pieces`, in order, each in one of `files`; path and offset are those of the first.
    """

    path: Path
    offset: int
    size: int
    pieces: tuple[Piece, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def width(self) -> int:
        """Bytes of an element, if it has pieces."""
        return self.size // max(1, sum(prod(piece.shape) for piece in self.pieces))

    @property
    def ranges(self) -> Iterator[tuple[Path, int, int]]:
        """Yield files, offsets and sizes in bytes. For a view with strides, everything that it spans."""
        if not self.pieces:
            yield self.path, self.offset, self.size
        for piece in self.pieces:
            yield self.files[piece.file], piece.begin, span_of(piece.shape, piece.strides) * self.width

    def turned(self, rows: int, columns: int) -> Location:
        """Return the location of the same matrix, read column by column."""
        lying = self.pieces or (Piece(0, self.offset, (rows, columns), (columns, 1)),)
        (piece,) = lying  # no naming transposes a matrix that is made of several pieces
        other = piece._replace(shape=piece.shape[::-1], strides=piece.strides[::-1])
        return replace(self, pieces=(other,), files=self.files if self.pieces else (self.path,))


class LeafScale(NamedTuple):
    """The scales by which the elements of a leaf are multiplied."""

    leaf: Leaf
    """One scale for each block, row by row."""
    scaling: Scaling


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor in a file: `count` elements of `dtype`; with a `scale`, their products with scales."""

    digest: bytes
    dtype: str
    count: int
    location: Location
    scale: LeafScale | None = None

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.location.size + (self.scale.leaf.size if self.scale else 0)

    @property
    def stored(self) -> str:
        """The dtype of its bytes, as `TensorInfo.stored`."""
        if self.scale is None:
            return self.dtype
        return scaled_as(self.dtype, self.scale.leaf.dtype, self.scale.scaling.shown)

    @property
    def value_dtype(self) -> str:
        """A dtype that can hold its values."""
        return "float32" if self.scale else self.dtype

    @property
    def ranges(self) -> Iterator[tuple[Path, int, int]]:
        """Yield the files, offsets and sizes in bytes of all its bytes."""
        yield from self.location.ranges
        if self.scale:
            yield from self.scale.leaf.ranges

    def copied_to(self, place: OutputRange) -> Copy:
        """Return the copy of all of it to a place."""
        if place.views and not self.location.pieces:  # read element by element, as it is written
            lying = (Piece(0, self.location.offset, (self.count,), (1,)),)
            return Copy(replace(self.location, pieces=lying, files=(self.location.path,)), place)
        if place.turned is None:
            return Copy(self.location, place)
        return Copy(self.location.turned(*place.turned), place._replace(turned=None))


class Copy(NamedTuple):
    """Bytes of a location that are copied unchanged to a place in an output."""

    location: Location
    place: OutputRange


Combination = tuple[tuple[Leaf, Fraction], ...]
"""Leaves of one shape, each with the number by which it is multiplied before all are added."""


class KernelCall(NamedTuple):
    """A method, the arguments of its kernel, and the digests of its inputs in order."""

    method: Method
    tensor: str
    shape: tuple[int, ...]
    arguments: Mapping[str, Argument]
    inputs: tuple[bytes, ...]
    survey: bytes = b""
    """The key of the survey that its kernel needs first."""
    parts: tuple[Combination, ...] = ()
    """Tensors of other shapes that it takes whole, after the inputs."""
    together: bytes = b""
    """Operations with the same key are parts of one computation, which is best done once."""


class SurveyedLeaves(NamedTuple):
    """A tensor that a survey looks at: its name, its shape, and a combination for each of the method's inputs."""

    name: str
    shape: tuple[int, ...]
    inputs: tuple[Combination, ...]


class SurveyJob(NamedTuple):
    """A survey: what a kernel must know of several tensors together before it makes any of them."""

    key: bytes
    method: Method
    arguments: Mapping[str, Argument]
    tensors: Sequence[SurveyedLeaves]

    @property
    def leaves(self) -> list[Leaf]:
        """All leaves that it reads."""
        return [leaf for each in self.tensors for combination in each.inputs for leaf, _ in combination]


@dataclass(frozen=True, slots=True)
class Step:
    """A tensor to be made and rounded once to `dtype`: a linear combination, with its terms in order, or an operation.

    `terms` name leaves or other steps by digest. A step without places is only read by others: its dtype is float32,
    unless it is an input that is rounded first.
    """

    digest: bytes
    dtype: str
    count: int
    terms: Sequence[tuple[bytes, Fraction]]
    places: Sequence[OutputRange] = ()
    operation: KernelCall | None = None
    name: str = field(default="", compare=False)
    """The tensor's name, for people."""

    @property
    def is_rounded(self) -> bool:
        """Whether its values are rounded further than to float32."""
        return self.dtype != "float32"

    @property
    def reads(self) -> Sequence[bytes]:
        """The digests of its inputs, in order."""
        return self.operation.inputs if self.operation else [digest for digest, _ in self.terms]

    def with_parts(self, parts: tuple[Combination, ...]) -> Step:
        """Return the step with the operands that its operation takes whole."""
        return self if self.operation is None else replace(self, operation=self.operation._replace(parts=parts))

    @property
    def lone(self) -> bytes | None:
        """The digest of its only input, if it only rounds that; else None."""
        is_lone = self.operation is None and len(self.terms) == 1 and self.terms[0][1] == 1
        return self.terms[0][0] if is_lone else None


class StepResult(NamedTuple):
    """The result of a step: the checksum of its bytes, and how many values are not finite (NaN, Inf, or overflowed).

    `bad_inputs`: by the digest of an input, how many of its values are not finite.
    """

    checksum: bytes
    nonfinite: int
    overflowed: int
    bad_inputs: Mapping[bytes, int]
    problem: str = ""
    """Why it has no value at all."""
    failed_at: errors.Place | None = None
    """The place in a user's own program, if that is the reason."""

    def called(self, names: Mapping[bytes, bytes], order: Iterable[bytes]) -> StepResult:
        """Return it with other digests of inputs, in the order of `order`."""
        if not self.bad_inputs:
            return self
        bad = {names[digest]: each for digest, each in self.bad_inputs.items()}
        return self._replace(bad_inputs={digest: bad[digest] for digest in order if digest in bad})


class UnseenInput(NamedTuple):
    """A source's tensor of which tensors of a group are made. Its digest is empty until its bytes are hashed."""

    leaf: Leaf
    shape: tuple[int, ...]
    checksum: bytes
    """Of its bytes; empty until they are hashed."""


class UnseenTensor(NamedTuple):
    """A linear combination to be made, rounded once to `dtype`, and written to a place.

    The index of a term counts the group's inputs, then its tensors; only earlier ones are read.
    """

    place: OutputRange
    dtype: str
    shape: tuple[int, ...]
    terms: tuple[tuple[int, Fraction], ...]
    name: str = ""
    """Its name, for people."""


class UnseenGroup(NamedTuple):
    """Connected tensors whose digests are unknown until the bytes of some inputs are hashed."""

    inputs: tuple[UnseenInput, ...]
    tensors: tuple[UnseenTensor, ...]

    @property
    def unhashed(self) -> list[Leaf]:
        """The inputs whose bytes must be hashed."""
        return [each.leaf for each in self.inputs if not each.checksum]


class SeenTensor(NamedTuple):
    """The result for a tensor of a group: its digest, whether a step was made for it, and the bytes read for it."""

    digest: bytes
    is_computed: bool
    bytes_read: int


class SeenGroup(NamedTuple):
    """The results for a group: the checksum and digest of each input, and its tensors, in order."""

    checksums: tuple[bytes, ...]
    inputs: tuple[bytes, ...]
    tensors: tuple[SeenTensor, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """All the work of one pass."""

    outputs: Sequence[OutputFile] = ()
    leaves: Mapping[bytes, Leaf] = field(default_factory=dict)
    steps: Mapping[bytes, Step] = field(default_factory=dict)
    """Every step comes after those that it reads."""
    copies: Sequence[Copy] = ()
    unseen: Sequence[UnseenGroup] = ()
    """Tensors whose digests are known only after sources are hashed, in this pass."""
    surveys: Sequence[SurveyJob] = ()
    """What steps need first. They read only files that exist before the pass."""
    known: Mapping[bytes, str] = field(default_factory=dict)
    """The findings of earlier passes (`PassResult.learnt`)."""

    @property
    def operates(self) -> bool:
        """Whether some steps are operations."""
        return any(step.operation for step in self.steps.values())


class Way(Enum):
    """How a tensor gets to a place in an output."""

    PLACE = "one more place of a step"
    COPY = "a copy of where it lies"
    STEP = "a step of its own"


class PassDraft:
    """Steps and copies of a pass that is being made; steps gain places until it is complete."""

    def __init__(self) -> None:
        self.leaves: dict[bytes, Leaf] = {}
        self.steps: dict[bytes, Step] = {}
        self.copies: list[Copy] = []
        self._places: dict[bytes, list[OutputRange]] = {}

    def put(self, digest: bytes, place: OutputRange, lying: Leaf | None) -> Way:
        """Put a tensor at a place.

        Return how: as a copy of where it is stored, or by a step, for a new one of which `make` must be called.
        """
        if lying is not None and digest not in self.steps:
            self.copies.append(lying.copied_to(place))
            return Way.COPY
        self._places.setdefault(digest, []).append(place)
        return Way.PLACE if digest in self.steps else Way.STEP

    def make(
        self,
        digest: bytes,
        dtype: str,
        count: int,
        terms: Sequence[tuple[bytes, Fraction]],
        operation: KernelCall | None = None,
        name: str = "",
    ) -> None:
        """Add a step, with all places that it is put at, before or later. `name`: for people."""
        places = self._places.setdefault(digest, [])
        self.steps[digest] = Step(digest, dtype, count, terms, places, operation, name)
