"""Put together the work of one pass: for each tensor of its targets a step, one more place of a step, or a copy.

A *wave* is a set of targets that are written in one pass over their inputs. Where a tensor lies is asked when the
wave is made, for an earlier wave may have published it, or moved it into the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from mergebuild.engine.work import (
    KernelCall,
    Leaf,
    Location,
    OutputFile,
    OutputRange,
    Pass,
    Step,
    SurveyedLeaves,
    SurveyJob,
)
from mergebuild.formats import DTYPES_BY_WORD
from mergebuild.plan.plan import Item, Made
from mergebuild.plan.planner import Planner
from mergebuild.plan.tensors import Operand, SurveyKey
from mergebuild.sources.sources import Sources
from mergebuild.store import Held, Shelf

__all__ = ["Lying", "Wave", "Whereabouts"]


@dataclass(frozen=True, slots=True)
class Lying:
    """A tensor that lies in a file as it is, with the checksum of its bytes and its count of values not finite."""

    leaf: Leaf
    checksum: bytes
    nonfinite: int


class Whereabouts:
    """Says where tensors lie: in a source, else in an artifact."""

    def __init__(self, sources: Sources, shelf: Shelf, planner: Planner) -> None:
        self._sources = sources
        self._shelf = shelf
        self._planner = planner

    def of(self, digests: Iterable[bytes], *, allow_nonfinite: bool) -> dict[bytes, Lying]:
        """Return where tensors lie, for those that lie somewhere. Of a source's values nothing is known."""
        found: dict[bytes, Lying] = {}
        elsewhere = []
        for digest in digests:
            source = self._planner.source_of(digest)
            if source:
                found[digest] = self.in_source(digest, *source)
            else:
                elsewhere.append(digest)
        return found | self.in_artifacts(elsewhere, allow_nonfinite=allow_nonfinite)

    def in_artifacts(self, digests: Iterable[bytes], *, allow_nonfinite: bool) -> dict[bytes, Lying]:
        """Return where tensors lie in artifacts, for those that lie in one."""
        held = self._shelf.find(digests, allow_nonfinite=allow_nonfinite)
        return {digest: self._in_artifact(digest, each) for digest, each in held.items()}

    def in_source(self, digest: bytes, owner: str, tensor: str) -> Lying:
        """Return where a source's tensor lies; without a checksum while the source is not hashed."""
        source = self._sources.file(owner)
        info = source.tensors[tensor]
        checksum = source.checksums[tensor] if source.checksums is not None else b""
        first = info.pieces[0] if info.pieces else info
        files = source.model.files
        location = Location(files[first.file], first.begin, info.nbytes, info.pieces, files if info.pieces else ())
        return Lying(Leaf(digest, info.dtype, info.count, location), checksum, 0)

    def unrounded(self, digest: bytes) -> Made | None:
        """Return how a tensor is made that only stands between others."""
        return self._planner.unrounded(digest)

    def source_paths(self) -> set[Path]:
        """Return the files of all sources opened."""
        return {path for name in self._sources.opened() for path in self._sources.file(name).model.files}

    def at_hand(self) -> set[Path]:
        """Return the sources' files that were just read whole, for hashing."""
        return self._sources.at_hand

    def _in_artifact(self, digest: bytes, held: Held) -> Lying:
        dtype = self._planner.leaf_dtype.get(digest, "uint8")  # what no step reads is only copied
        size = held.entry.end - held.entry.begin
        location = Location(held.path, held.entry.begin, size)
        leaf = Leaf(digest, dtype, size // DTYPES_BY_WORD[dtype].size, location)
        return Lying(leaf, held.entry.checksum, held.entry.nonfinite)


@dataclass
class Wave:
    """A pass, and what each of its items takes from it; lists stand in the order of `items`."""

    whereabouts: Whereabouts
    items: list[Item] = field(default_factory=list)
    work: Pass = field(default_factory=Pass)
    known: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    """By digest: checksum and count of values not finite, for what is copied."""
    computed: list[int] = field(default_factory=list)
    bytes_read: list[int] = field(default_factory=list)
    counted: set[bytes] = field(default_factory=set)
    """Tensors that arithmetic makes in this wave or did in one before: each counts once, where it is needed first."""
    surveys: dict[bytes, SurveyKey] = field(default_factory=dict)
    """What methods must know first, by key."""
    parted: dict[bytes, Sequence[Operand]] = field(default_factory=dict)
    """By the digest of a step: the tensors of other shapes that it takes whole."""

    def output(self, item: Item, temporary: Path) -> int:
        """Add an item's output, to be written at a temporary path; return its index."""
        self.items.append(item)
        self.work.outputs.append(
            OutputFile(temporary, item.header_bytes, item.size, item.packing.fixed if item.packing else ())
        )
        self.computed.append(0)
        self.bytes_read.append(0)
        return len(self.items) - 1

    def add(self, item: Item, temporary: Path) -> None:
        """Add an item whose tensors are known by digest."""
        assert item.header is not None
        index = self.output(item, temporary)
        lying = self._lying(item)
        read: dict[bytes, int] = {}
        for each in item.made or ():
            place = OutputRange(index, item.header.tensors[each.name].begin, _turned(item, each))
            step = self.work.steps.get(each.digest)
            there = lying.get(each.digest)
            if step is not None:
                step.places.append(place)
            elif there is not None:
                self.work.copies.append(there.leaf.copied_to(place))
                self.known[each.digest] = (there.checksum, there.nonfinite)
                read[each.digest] = each.nbytes
            else:
                self.computed[index] += each.digest not in self.counted
                self._add_step(each, [place])
                read |= {digest: leaf.size for digest in each.reads if (leaf := self.work.leaves.get(digest))}
        self.bytes_read[index] = sum(read.values())

    def unlaid(self) -> list[Made]:
        """Return what is read whole, by surveys too, and lies nowhere: it only stands between other tensors."""
        wanted = {digest for survey in self.surveys.values() for digest in _reads(survey)}
        lying = self.whereabouts.of(wanted, allow_nonfinite=True)
        taken = {digest for parts in self.parted.values() for part in parts for digest in part.reads}
        left = (wanted - lying.keys()) | (taken - self.work.leaves.keys())
        found = [self.whereabouts.unrounded(digest) for digest in sorted(left)]
        assert all(found)  # a target stands in a later wave than the files that it reads whole
        return [each for each in found if each is not None]

    def tie(self, laid: Mapping[bytes, Leaf]) -> None:
        """Give the pass its surveys, and steps what they take whole. `laid`: where what `unlaid` returned lies."""
        leaves = {**self.work.leaves, **laid}
        for digest, parts in self.parted.items():
            step = self.work.steps[digest]
            assert step.operation is not None
            step.operation = replace(step.operation, parts=tuple(_combination(part, leaves) for part in parts))
        for survey in self.surveys.values():
            lying = self.whereabouts.of((each for each in _reads(survey) if each not in laid), allow_nonfinite=True)
            leaves = {**{digest: each.leaf for digest, each in lying.items()}, **laid}
            tensors = [
                SurveyedLeaves(each.name, each.shape, tuple(_combination(operand, leaves) for operand in each.operands))
                for each in survey.tensors
            ]
            self.work.surveys.append(SurveyJob(survey.key, survey.method, dict(survey.arguments), tensors))

    def lay_out(self, made: Sequence[Made], path: Path) -> Mapping[bytes, Leaf]:
        """Have the pass write tensors into a file that holds nothing else; return where each will lie."""
        offset, leaves = 0, {}
        index = len(self.work.outputs)
        for each in made:
            if each.digest in self.work.steps:
                self.work.steps[each.digest].places.append(OutputRange(index, offset))
            else:
                self._add_step(each, [OutputRange(index, offset)])
            leaves[each.digest] = Leaf(each.digest, each.spec.dtype, each.count, Location(path, offset, each.nbytes))
            offset += each.nbytes
        self.work.outputs.append(OutputFile(path, b"", offset))
        return leaves

    def artifacts(self) -> set[Path]:
        """Return the files that the pass reads and that are no sources."""
        return {path for path, _ in self._regions()} - self.whereabouts.source_paths()

    def source_bytes(self) -> int:
        """Return how many bytes of sources the pass reads, each once, and none that were at hand."""
        paths = self.whereabouts.source_paths() - self.whereabouts.at_hand()
        return sum(size for (path, _), size in self._regions().items() if path in paths)

    def _regions(self) -> Mapping[tuple[Path, int], int]:
        read = [leaf.location for leaf in self.work.leaves.values()] + [copy.location for copy in self.work.copies]
        return {(path, offset): size for each in read for path, offset, size in each.ranges if size}

    def _lying(self, item: Item) -> dict[bytes, Lying]:
        """Return where the item's tensors lie as they are.

        In an artifact before a source: the one that this item supersedes lies where blocks can be shared, and holds
        long runs of what is wanted.
        """
        rest = [each for each in item.made or () if each.digest not in self.work.steps]
        copies = [each.digest for each in rest if each.is_copy]
        made = [each.digest for each in rest if not each.is_copy]
        found = self.whereabouts.in_artifacts(made, allow_nonfinite=item.allows_nonfinite)
        found |= self.whereabouts.in_artifacts(copies, allow_nonfinite=True)
        return self.whereabouts.of((each for each in copies if each not in found), allow_nonfinite=True) | found

    def _add_step(self, made: Made, places: list[OutputRange]) -> None:
        """Add what makes a tensor, behind all that it reads and that lies nowhere."""
        if made.is_copy:  # perhaps of what only stands between others: that is written as it comes
            made = self.whereabouts.unrounded(made.digest) or made
        self._add_leaves(made)
        for operand in made.inputs:
            if operand.terms is not None and operand.digest not in self.work.steps:
                terms = [(term.digest, term.coefficient) for term in operand.terms]
                self.work.steps[operand.digest] = Step(operand.digest, "float32", made.count, terms)
        terms = [(term.digest, term.coefficient) for term in made.terms]
        operation = None
        if made.operation is not None:
            operation = KernelCall(
                made.operation.method,
                made.name,
                made.spec.shape,
                dict(made.operation.arguments),
                tuple(operand.digest for operand in made.inputs),
                made.survey.key if made.survey else b"",
                together=made.together,
            )
            if made.parts:
                self.parted[made.digest] = made.parts
            if made.survey:
                self.surveys[made.survey.key] = made.survey
        self.work.steps[made.digest] = Step(made.digest, made.spec.dtype, made.count, terms, places, operation)
        self.counted.update((made.digest, *made.reads), _reads(made.survey) if made.survey else ())

    def _add_leaves(self, made: Made) -> None:
        """Add the leaves that a tensor is made of, unless they are steps themselves, or must become some."""
        leaves, steps = self.work.leaves, self.work.steps
        whole = [digest for part in made.parts for digest in part.reads if digest not in leaves]
        leaves |= {digest: each.leaf for digest, each in self.whereabouts.of(whole, allow_nonfinite=True).items()}
        read = made.reads if made.operation is None else [digest for each in made.inputs for digest in each.reads]
        missing = [digest for digest in read if digest not in leaves and digest not in steps]
        found = self.whereabouts.of(missing, allow_nonfinite=True)
        for digest in missing:
            if digest in found:
                leaves[digest] = found[digest].leaf
            else:
                between = self.whereabouts.unrounded(digest)
                assert between is not None  # else whoever needs it stands behind whoever makes it
                self._add_step(between, [])


def _turned(item: Item, made: Made) -> tuple[int, int] | None:
    """Return the rows and columns of a matrix that lies transposed in an item's file."""
    if item.packing is None or made.name not in item.packing.turned:
        return None
    rows, columns = made.spec.shape
    return rows, columns


def _reads(survey: SurveyKey) -> Iterator[bytes]:
    """Yield the digests of all that a survey reads."""
    return (digest for each in survey.tensors for operand in each.operands for digest in operand.reads)


def _combination(operand: Operand, leaves: Mapping[bytes, Leaf]) -> tuple[tuple[Leaf, Fraction], ...]:
    if operand.terms is None:
        return ((leaves[operand.digest], Fraction(1)),)
    return tuple((leaves[term.digest], term.coefficient) for term in operand.terms)
