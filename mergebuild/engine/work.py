"""The work of one pass, as values. No torch.

A *leaf* is a tensor that lies at a *location*; a *step* makes a tensor from leaves and from earlier steps (a file
target read by another in the same pass) and writes it to each of its places; a *copy* moves bytes. A *cluster* is the
least set of steps and leaves that hang together: it is read once, chunk by chunk, by one worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import NamedTuple

from mergebuild import errors
from mergebuild.formats import Piece
from mergebuild.formats.gathering import span_of
from mergebuild.methods.method import Method

__all__ = [
    "Cluster",
    "Combination",
    "Copy",
    "KernelCall",
    "Leaf",
    "Location",
    "OutputFile",
    "OutputRange",
    "Pass",
    "Pending",
    "Step",
    "StepResult",
    "SurveyJob",
    "SurveyedLeaves",
    "clusters",
    "coalesced",
]


class OutputRange(NamedTuple):
    """A place in an output: its index among the pass's outputs, and the offset in bytes.

    `turned`: rows and columns of a matrix that is written transposed.
    """

    output: int
    offset: int
    turned: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class OutputFile:
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


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor in a file: `count` elements of `dtype`."""

    digest: bytes
    dtype: str
    count: int
    location: Location

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.location.size

    def copied_to(self, place: OutputRange) -> Copy:
        """Return the copy of all of it to a place."""
        if place.turned is None:
            return Copy(self.location, place)
        return Copy(self.location.turned(*place.turned), place._replace(turned=None))


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes that go from where they lie to a place in an output as they are."""

    location: Location
    place: OutputRange


Argument = Fraction | tuple[Fraction, ...] | bool | str

Combination = tuple[tuple[Leaf, Fraction], ...]
"""Leaves of one shape, and what each is multiplied by before they are added up."""


@dataclass(frozen=True, slots=True)
class KernelCall:
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


@dataclass(frozen=True, slots=True)
class SurveyJob:
    """What a kernel must know of several tensors together before it makes any of them."""

    key: bytes
    method: Method
    arguments: Mapping[str, Argument]
    tensors: Sequence[SurveyedLeaves]

    @property
    def leaves(self) -> list[Leaf]:
        """All that it reads."""
        return [leaf for each in self.tensors for combination in each.inputs for leaf, _ in combination]


@dataclass(slots=True)
class Step:
    """A tensor to be made and rounded once to `dtype`: a linear combination, its terms in order, or an operation.

    `terms` name leaves or other steps by digest. A step without places is only read by others, before rounding: its
    dtype is float32.
    """

    digest: bytes
    dtype: str
    count: int
    terms: Sequence[tuple[bytes, Fraction]]
    places: list[OutputRange] = field(default_factory=list)
    operation: KernelCall | None = None

    @property
    def reads(self) -> Sequence[bytes]:
        """The digests of what it is made of, in order."""
        return self.operation.inputs if self.operation else [digest for digest, _ in self.terms]

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


@dataclass(slots=True)
class Pending:
    """Work that is known only when the bytes of some tensors are: read them, hash them, then ask.

    `resolve` takes the checksums of `leaves` in their order, and may be called from any thread.
    """

    leaves: Sequence[Leaf]
    resolve: Callable[[Sequence[bytes]], tuple[Cluster | None, list[Copy]]]


@dataclass(slots=True)
class Pass:
    """All the work of one pass."""

    outputs: list[OutputFile] = field(default_factory=list)
    leaves: dict[bytes, Leaf] = field(default_factory=dict)
    steps: dict[bytes, Step] = field(default_factory=dict)
    """In an order in which every step stands after those that it reads."""
    copies: list[Copy] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    surveys: list[SurveyJob] = field(default_factory=list)
    """What steps must know first. What they read lies in files that are there before the pass."""
    recall: Callable[[bytes], str | None] = lambda _key: None
    """Gives back what an earlier pass found out about whole tensors (`PassResult.learnt`), from any thread."""

    @property
    def computes(self) -> bool:
        """Whether torch may be needed."""
        return bool(self.steps or self.pending)


@dataclass(slots=True)
class Cluster:
    """Steps that share leaves, with all the leaves that they read."""

    leaves: list[Leaf]
    steps: list[Step]
    siblings: list[Cluster] = field(default_factory=list)
    """Others with operations that are one computation with some of its own."""

    @property
    def count(self) -> int:
        """The number of elements; the same for all of its tensors."""
        return self.steps[0].count

    @property
    def reads(self) -> list[Leaf]:
        """All that it and its siblings read, each once: the leaves, and what operations take whole."""
        operations = [step.operation for each in (self, *self.siblings) for step in each.steps if step.operation]
        whole = (leaf for operation in operations for part in operation.parts for leaf, _ in part)
        leaves = (leaf for each in (self, *self.siblings) for leaf in each.leaves)
        return list({leaf.digest: leaf for some in (leaves, whole) for leaf in some}.values())

    @property
    def position(self) -> tuple[str, int]:
        """Where reading begins, so that clusters can be taken in the order of a file."""
        first = next(iter(self.leaves or self.reads), None)
        return _position(first)


def clusters(work: Pass) -> list[Cluster]:
    """Return the clusters of a pass in the order of the files that they read."""
    parent: dict[bytes, bytes] = {}

    def root(digest: bytes) -> bytes:
        while (above := parent.setdefault(digest, digest)) != digest:
            parent[digest] = digest = parent[above]
        return digest

    for digest, step in work.steps.items():
        for read in step.reads:
            parent[root(read)] = root(digest)
    found: dict[bytes, Cluster] = {}
    for digest, step in work.steps.items():
        found.setdefault(root(digest), Cluster([], [])).steps.append(step)
    for cluster in found.values():
        inputs = dict.fromkeys(read for step in cluster.steps for read in step.reads)
        cluster.leaves = [work.leaves[digest] for digest in inputs if digest in work.leaves]
    return sorted(_leading(found.values()), key=lambda cluster: cluster.position)


def _position(leaf: Leaf | None) -> tuple[str, int]:
    return (str(leaf.location.path), leaf.location.offset) if leaf else ("", 0)


def _leading(found: Iterable[Cluster]) -> Iterator[Cluster]:
    """Yield clusters, those that share a computation with one before as siblings of that one."""
    leaders: dict[bytes, Cluster] = {}
    for cluster in found:
        keys = [step.operation.together for step in cluster.steps if step.operation and step.operation.together]
        leader = next((leaders[key] for key in keys if key in leaders), cluster)
        leaders |= {key: leader for key in keys if key not in leaders}
        if leader is cluster:
            yield cluster
        else:
            leader.siblings.append(cluster)


def coalesced(copies: Iterable[Copy]) -> list[Copy]:
    """Return copies with neighbours on both sides joined, so that a run of tensors is one range."""
    found: list[Copy] = []
    for each in sorted(copies, key=lambda copy: (copy.place.output, copy.place.offset)):
        if found and _goes_on(found[-1], each):
            last = found[-1].location
            found[-1] = Copy(replace(last, size=last.size + each.location.size), found[-1].place)
        elif each.location.size:
            found.append(each)
    return found


def _goes_on(first: Copy, second: Copy) -> bool:
    """Whether a copy goes on where the one before it ends, on both sides."""
    one, other = first.location, second.location
    return (
        first.place.output == second.place.output
        and first.place.offset + one.size == second.place.offset
        and one.path == other.path
        and one.offset + one.size == other.offset
        and not one.pieces
        and not other.pieces
    )
