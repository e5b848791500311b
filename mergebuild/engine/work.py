"""The work of one pass, as values that can be pickled. No torch.

A *leaf* is a tensor that lies at a *location*; a *step* makes a tensor from leaves and from earlier steps (a file
target read by another in the same pass) and writes it to each of its places; a *copy* moves bytes. A `PassDraft` puts
them together; `schedule.py` cuts a pass into jobs.
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
    """A place in an output: its index among the pass's outputs, and the offset in bytes.

    `turned`: rows and columns of a matrix that is written transposed. `views`: where the elements of a tensor lie that
    does not lie in one run, each so many bytes wide; the offset counts from its own first byte then.
    """

    output: int
    offset: int
    turned: tuple[int, int] | None = None
    views: tuple[Piece, ...] = ()
    width: int = 0


class OutputFile(NamedTuple):
    """A file to be written: its (temporary) path, what stands before the data, and its whole size in bytes.

    `fixed`: what stands between tensors, with its offsets.
    """

    path: Path
    header: bytes
    size: int
    fixed: Sequence[tuple[int, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Location:
    """Where bytes lie: `size` bytes of the file `path`, from byte `offset` on.

    A tensor that does not lie in one run is put together of `pieces`, one behind the other, which count in `files`;
    path and offset are the first's.
    """

    path: Path
    offset: int
    size: int
    pieces: tuple[Piece, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def width(self) -> int:
        """Bytes of an element, where it is put together of pieces."""
        return self.size // max(1, sum(prod(piece.shape) for piece in self.pieces))

    @property
    def ranges(self) -> Iterator[tuple[Path, int, int]]:
        """Yield files, offsets and sizes in bytes. Of a view with strides, all that it spans."""
        if not self.pieces:
            yield self.path, self.offset, self.size
        for piece in self.pieces:
            yield self.files[piece.file], piece.begin, span_of(piece.shape, piece.strides) * self.width

    def turned(self, rows: int, columns: int) -> Location:
        """Return the location of the matrix that lies here, read column by column."""
        lying = self.pieces or (Piece(0, self.offset, (rows, columns), (columns, 1)),)
        (piece,) = lying  # no naming both turns a matrix and puts it together
        other = piece._replace(shape=piece.shape[::-1], strides=piece.strides[::-1])
        return replace(self, pieces=(other,), files=self.files if self.pieces else (self.path,))


class LeafScale(NamedTuple):
    """What the elements of a leaf are multiplied by."""

    leaf: Leaf
    """One scale for each block, row by row."""
    scaling: Scaling


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor in a file: `count` elements of `dtype`; or, with a `scale`, the product of these with scales."""

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
        """What its bytes are, as `TensorInfo.stored`."""
        if self.scale is None:
            return self.dtype
        return scaled_as(self.dtype, self.scale.leaf.dtype, self.scale.scaling.shown)

    @property
    def value_dtype(self) -> str:
        """A dtype that has room for its values."""
        return "float32" if self.scale else self.dtype

    @property
    def ranges(self) -> Iterator[tuple[Path, int, int]]:
        """Yield all files, offsets and sizes in bytes where it lies."""
        yield from self.location.ranges
        if self.scale:
            yield from self.scale.leaf.ranges

    def copied_to(self, place: OutputRange) -> Copy:
        """Return the copy of all of it to a place."""
        if place.views and not self.location.pieces:  # to be read by elements, as it is written
            lying = (Piece(0, self.location.offset, (self.count,), (1,)),)
            return Copy(replace(self.location, pieces=lying, files=(self.location.path,)), place)
        if place.turned is None:
            return Copy(self.location, place)
        return Copy(self.location.turned(*place.turned), place._replace(turned=None))


class Copy(NamedTuple):
    """Bytes that go from where they lie to a place in an output as they are."""

    location: Location
    place: OutputRange


Combination = tuple[tuple[Leaf, Fraction], ...]
"""Leaves of one shape, and what each is multiplied by before they are added up."""


class KernelCall(NamedTuple):
    """A method, what its kernel is called with besides the values, and the digests of its inputs in order."""

    method: Method
    tensor: str
    shape: tuple[int, ...]
    arguments: Mapping[str, Argument]
    inputs: tuple[bytes, ...]
    survey: bytes = b""
    """The key of the survey that its kernel must have first."""
    parts: tuple[Combination, ...] = ()
    """Tensors of other shapes that it takes whole, behind the inputs."""
    together: bytes = b""
    """Operations with the same key are parts of one computation, best done once."""


class SurveyedLeaves(NamedTuple):
    """A tensor that a survey looks at: its name, shape, and for each of the method's inputs a linear combination."""

    name: str
    shape: tuple[int, ...]
    inputs: tuple[Combination, ...]


class SurveyJob(NamedTuple):
    """What a kernel must know of several tensors together before it makes any of them."""

    key: bytes
    method: Method
    arguments: Mapping[str, Argument]
    tensors: Sequence[SurveyedLeaves]

    @property
    def leaves(self) -> list[Leaf]:
        """All that it reads."""
        return [leaf for each in self.tensors for combination in each.inputs for leaf, _ in combination]


@dataclass(frozen=True, slots=True)
class Step:
    """A tensor to be made and rounded once to `dtype`: a linear combination, its terms in order, or an operation.

    `terms` name leaves or other steps by digest. A step without places is only read by others, before rounding: its
    dtype is float32.
    """

    digest: bytes
    dtype: str
    count: int
    terms: Sequence[tuple[bytes, Fraction]]
    places: Sequence[OutputRange] = ()
    operation: KernelCall | None = None
    name: str = field(default="", compare=False)
    """What people call the tensor."""

    @property
    def reads(self) -> Sequence[bytes]:
        """The digests of what it is made of, in order."""
        return self.operation.inputs if self.operation else [digest for digest, _ in self.terms]

    def with_parts(self, parts: tuple[Combination, ...]) -> Step:
        """Return the step with what its operation takes whole."""
        return self if self.operation is None else replace(self, operation=self.operation._replace(parts=parts))

    @property
    def lone(self) -> bytes | None:
        """The digest of the tensor that it is, but for rounding; None when more is done than that."""
        is_lone = self.operation is None and len(self.terms) == 1 and self.terms[0][1] == 1
        return self.terms[0][0] if is_lone else None


class StepResult(NamedTuple):
    """What came of a step: the checksum of its bytes, and values that are not finite (NaN, Inf, or overflowed).

    `bad_inputs`: by the digest of an input that was not finite itself, how many of its values.
    """

    checksum: bytes
    nonfinite: int
    overflowed: int
    bad_inputs: Mapping[bytes, int]
    problem: str = ""
    """Why it has no value at all."""
    failed_at: errors.Place | None = None
    """Where in a user's own program that is, if that is why."""

    def called(self, names: Mapping[bytes, bytes], order: Iterable[bytes]) -> StepResult:
        """Return it with other digests of inputs, these in the order of `order`."""
        if not self.bad_inputs:
            return self
        bad = {names[digest]: each for digest, each in self.bad_inputs.items()}
        return self._replace(bad_inputs={digest: bad[digest] for digest in order if digest in bad})


class UnseenInput(NamedTuple):
    """A source's tensor that tensors of a group are made of. While its bytes are not hashed, its digest is empty."""

    leaf: Leaf
    shape: tuple[int, ...]
    checksum: bytes
    """Of its bytes; empty while they are not hashed."""


class UnseenTensor(NamedTuple):
    """A linear combination to be made, rounded once to `dtype`, and written to a place.

    The index of a term counts the inputs of the group, and behind them its tensors; only earlier ones are read.
    """

    place: OutputRange
    dtype: str
    shape: tuple[int, ...]
    terms: tuple[tuple[int, Fraction], ...]
    name: str = ""
    """What people call it."""


class UnseenGroup(NamedTuple):
    """Tensors that hang together, and of which none is known by digest before the bytes of some inputs are hashed."""

    inputs: tuple[UnseenInput, ...]
    tensors: tuple[UnseenTensor, ...]

    @property
    def unhashed(self) -> list[Leaf]:
        """The inputs whose bytes are to be hashed."""
        return [each.leaf for each in self.inputs if not each.checksum]


class SeenTensor(NamedTuple):
    """What a tensor of a group came to: its digest, whether a step of its own made it, and the bytes read for it."""

    digest: bytes
    is_computed: bool
    bytes_read: int


class SeenGroup(NamedTuple):
    """What came of a group: the checksum and digest of each input, and its tensors, in their orders."""

    checksums: tuple[bytes, ...]
    inputs: tuple[bytes, ...]
    tensors: tuple[SeenTensor, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """All the work of one pass."""

    outputs: Sequence[OutputFile] = ()
    leaves: Mapping[bytes, Leaf] = field(default_factory=dict)
    steps: Mapping[bytes, Step] = field(default_factory=dict)
    """In an order in which every step stands after those that it reads."""
    copies: Sequence[Copy] = ()
    unseen: Sequence[UnseenGroup] = ()
    """What is known by digest only when the bytes of sources are hashed, in this pass."""
    surveys: Sequence[SurveyJob] = ()
    """What steps must know first. What they read lies in files that are there before the pass."""
    known: Mapping[bytes, str] = field(default_factory=dict)
    """What earlier passes found out about whole tensors (`PassResult.learnt`)."""

    @property
    def operates(self) -> bool:
        """Whether some steps are operations."""
        return any(step.operation for step in self.steps.values())


class Way(Enum):
    """How a tensor comes to a place in an output."""

    PLACE = "one more place of a step"
    COPY = "a copy of where it lies"
    STEP = "a step of its own"


class PassDraft:
    """Steps and copies of a pass while it is put together; steps gain places until it is."""

    def __init__(self) -> None:
        self.leaves: dict[bytes, Leaf] = {}
        self.steps: dict[bytes, Step] = {}
        self.copies: list[Copy] = []
        self._places: dict[bytes, list[OutputRange]] = {}

    def put(self, digest: bytes, place: OutputRange, lying: Leaf | None) -> Way:
        """Have a tensor at a place, and say how: copied from where it lies, or by a step; `make` must add a new one."""
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
        """Add a step, at the places that it was put at and will be. `name`: for people."""
        places = self._places.setdefault(digest, [])
        self.steps[digest] = Step(digest, dtype, count, terms, places, operation, name)
