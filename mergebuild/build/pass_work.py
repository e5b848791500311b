"""Makes the work of one pass: for each tensor of its targets a step, another place of a step, or a copy.

A *wave* is a set of targets that are written in one pass over their inputs. Where a tensor is stored is looked up when
the wave is made, since an earlier wave may have published it, or moved it into the history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from mergebuild.engine.work import (
    KernelCall,
    Leaf,
    LeafScale,
    Location,
    OutputFile,
    OutputRange,
    Pass,
    PassDraft,
    SurveyedLeaves,
    SurveyJob,
    Way,
)
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.header import TensorInfo
from mergebuild.plan.actions import FileAction
from mergebuild.plan.description import FileContent
from mergebuild.plan.made import Made, Operand, SurveyKey
from mergebuild.plan.origins import Origins
from mergebuild.sources.sources import Sources
from mergebuild.store import Held, Shelf

__all__ = ["Lying", "Wave", "WaveFile", "Whereabouts", "place_of"]


@dataclass(frozen=True, slots=True)
class Lying:
    """A tensor as it is stored in a file, with its bytes' checksum and the number of values that are not finite."""

    leaf: Leaf
    checksum: bytes
    nonfinite: int


class Whereabouts:
    """Tells where tensors are stored: in a source, else in an artifact."""

    def __init__(self, sources: Sources, shelf: Shelf, origins: Origins) -> None:
        self._sources = sources
        self._shelf = shelf
        self._origins = origins

    def of(self, digests: Iterable[bytes], *, allow_nonfinite: bool) -> dict[bytes, Lying]:
        """Return where tensors are stored, for those that are.

        Values of a source that are not finite are not counted.
        """
        found: dict[bytes, Lying] = {}
        elsewhere = []
        for digest in digests:
            source = self._origins.source_of(digest)
            if source:
                found[digest] = self.in_source(digest, *source)
            else:
                elsewhere.append(digest)
        return found | self.in_artifacts(elsewhere, allow_nonfinite=allow_nonfinite)

    def in_artifacts(self, digests: Iterable[bytes], *, allow_nonfinite: bool) -> dict[bytes, Lying]:
        """Return where tensors are stored in artifacts, for those that are."""
        held = self._shelf.find(digests, allow_nonfinite=allow_nonfinite)
        return {digest: self._in_artifact(digest, each) for digest, each in held.items()}

    def in_source(self, digest: bytes, owner: str, tensor: str) -> Lying:
        """Return where a source's tensor is stored; without a checksum until the source is hashed."""
        source = self._sources.file(owner)
        info = source.tensors[tensor]
        checksum = source.checksums[tensor] if source.checksums is not None else b""
        return Lying(_leaf(digest, info, source.model.files), checksum, 0)

    def read(self, digests: Collection[bytes]) -> dict[bytes, Lying]:
        """Return where tensors that steps read are stored, for those that are.

        One that is rounded before it is used must be finite: else it is made again, and its values are counted.
        """
        rounded = {digest for digest in digests if self.is_rounded_between(digest)}
        rest = (digest for digest in digests if digest not in rounded)
        return self.of(rest, allow_nonfinite=True) | self.of(rounded, allow_nonfinite=False)

    def is_rounded_between(self, digest: bytes) -> bool:
        """Whether a tensor is an intermediate one that is rounded further than to float32."""
        return self._origins.is_rounded_between(digest)

    def intermediate(self, digest: bytes) -> Made | None:
        """Return how an intermediate tensor is made; if possible, from tensors that are stored by now."""
        ways = self._origins.ways(digest)
        return next(filter(self._can_be_made, ways), ways[0]) if len(ways) > 1 else next(iter(ways), None)

    def _can_be_made(self, made: Made) -> bool:
        lying = self.read(made.reads)
        return all(digest in lying or self._origins.ways(digest) for digest in made.reads)

    def source_paths(self) -> set[Path]:
        """Return the files of all opened sources."""
        return {path for name in self._sources.opened() for path in self._sources.file(name).model.files}

    def at_hand(self) -> set[Path]:
        """Return the sources' files that were just read completely for hashing."""
        return self._sources.at_hand

    def _in_artifact(self, digest: bytes, held: Held) -> Lying:
        dtype = self._origins.dtype(digest) or "uint8"  # no step reads it: it is only copied
        entry = held.entry
        size = entry.end - entry.begin
        location, known = Location(held.path, entry.begin, size), entry.checksum
        if entry.scattered is not None:
            pieces = tuple(piece._replace(begin=entry.begin + piece.begin) for piece in entry.scattered.pieces)
            location = Location(held.path, pieces[0].begin, size, pieces, (held.path,))
            known = entry.scattered.checksum
        leaf = Leaf(digest, dtype, size // DTYPES_BY_WORD[dtype].size, location)
        return Lying(leaf, known, entry.nonfinite)


@dataclass(eq=False, slots=True)
class WaveFile:
    """A file of a wave: its action, and the pass's figures for it."""

    action: FileAction
    output: OutputFile
    computed: int = 0
    """The number of tensors that are computed for it."""
    bytes_read: int = 0


@dataclass
class Wave:
    """Files that are written in one pass, and the work of that."""

    whereabouts: Whereabouts
    files: list[WaveFile] = field(default_factory=list)
    copied: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    """By digest: checksum and number of values that are not finite, for tensors that are copied."""
    counted: set[bytes] = field(default_factory=set)
    """Tensors that this wave or an earlier one computes: each counts once, for the first file that needs it."""
    draft: PassDraft = field(default_factory=PassDraft)
    operated: dict[bytes, Made] = field(default_factory=dict)
    """The tensors that operations make, by digest."""
    laid_out: tuple[OutputFile, ...] = ()
    """The file of intermediate tensors, if the wave writes only that."""

    @property
    def outputs(self) -> tuple[OutputFile, ...]:
        """The files that are written."""
        return tuple(each.output for each in self.files) or self.laid_out

    def output(self, action: FileAction, temporary: Path) -> WaveFile:
        """Add an action's file, to be written at a temporary path; return it."""
        content = action.content
        output = OutputFile(temporary, content.header_bytes, content.size, content.packing.fixed)
        self.files.append(WaveFile(action, output))
        return self.files[-1]

    def add(self, action: FileAction, temporary: Path) -> None:
        """Add a file whose tensors are known by digest."""
        content = action.content
        index, file = len(self.files), self.output(action, temporary)
        lying = self._lying(action)
        read: dict[bytes, int] = {}
        for each in content.made:
            place = place_of(content, each.name, index)
            there = lying.get(each.digest)
            match self.draft.put(each.digest, place, there.leaf if there else None):
                case Way.COPY if there is not None:
                    self.copied[each.digest] = (there.checksum, there.nonfinite)
                    read[each.digest] = each.nbytes
                case Way.STEP:
                    file.computed += each.digest not in self.counted
                    self._add_step(each)
                    leaves = self.draft.leaves
                    read |= {digest: leaf.size for digest in each.reads if (leaf := leaves.get(digest))}
        file.bytes_read = sum(read.values())

    def passes(self, known: Container[bytes], path_of: Callable[[int], Path]) -> list[Pass]:
        """Return the pass that writes the files, after passes that write intermediate tensors which it reads whole.

        An intermediate tensor is in no output. If a survey or an operation reads one whole, an earlier pass writes it
        to a file, at `path_of(depth)`. Surveys that are `known` are left out.
        """
        return self._passes(known, path_of, 0)

    def _passes(self, known: Container[bytes], path_of: Callable[[int], Path], depth: int) -> list[Pass]:
        every = {each.survey.key: each.survey for each in self.operated.values() if each.survey}
        surveys = {key: survey for key, survey in every.items() if key not in known}
        unlaid = self._unlaid(surveys.values())
        if not unlaid:
            return [self._pass(surveys.values(), {})]
        before = Wave(self.whereabouts)
        laid = before._lay_out(unlaid, path_of(depth))
        return [*before._passes(known, path_of, depth + 1), self._pass(surveys.values(), laid)]

    def _unlaid(self, surveys: Iterable[SurveyKey]) -> list[Made]:
        """Return the intermediate tensors that operations or surveys read whole, and that are not in a file yet."""
        wanted = {digest for survey in surveys for digest in _reads(survey)}
        lying = self.whereabouts.read(wanted)
        taken = {digest for made in self.operated.values() for part in made.parts for digest in part.reads}
        left = (wanted - lying.keys()) | (taken - self.draft.leaves.keys())
        found = [self.whereabouts.intermediate(digest) for digest in sorted(left)]
        assert all(found)  # a target is in a later wave than the files that it reads whole
        return [each for each in found if each is not None]

    def _lay_out(self, made: Sequence[Made], path: Path) -> Mapping[bytes, Leaf]:
        """Make this wave, which has no files, write tensors into one file; return where each will be."""
        offset, leaves = 0, {}
        for each in made:
            if self.draft.put(each.digest, OutputRange(0, offset), None) is Way.STEP:
                self._add_step(each)
            leaves[each.digest] = Leaf(each.digest, each.spec.dtype, each.count, Location(path, offset, each.nbytes))
            offset += each.nbytes
        self.laid_out = (OutputFile(path, b"", offset),)
        return leaves

    def _pass(self, surveys: Iterable[SurveyKey], laid: Mapping[bytes, Leaf]) -> Pass:
        """Return the pass. `laid`: where intermediate tensors are that it reads whole."""
        leaves = {**self.draft.leaves, **laid}
        steps = dict(self.draft.steps)
        for digest, made in self.operated.items():
            if made.parts:
                parts = tuple(_combination(part, leaves) for part in made.parts)
                steps[digest] = steps[digest].with_parts(parts)
        return Pass(
            outputs=self.outputs,
            leaves=self.draft.leaves,
            steps=steps,
            copies=tuple(self.draft.copies),
            surveys=tuple(self._survey(each, laid) for each in surveys),
        )

    def _survey(self, survey: SurveyKey, laid: Mapping[bytes, Leaf]) -> SurveyJob:
        lying = self.whereabouts.read([each for each in _reads(survey) if each not in laid])
        leaves = {**{digest: each.leaf for digest, each in lying.items()}, **laid}
        tensors = tuple(
            SurveyedLeaves(each.name, each.shape, tuple(_combination(operand, leaves) for operand in each.operands))
            for each in survey.tensors
        )
        return SurveyJob(survey.key, survey.method, dict(survey.arguments), tensors)

    def artifacts(self) -> set[Path]:
        """Return the files that the pass reads and that are not sources."""
        return {path for path, _ in self._regions()} - self.whereabouts.source_paths()

    def source_bytes(self) -> int:
        """Return how many bytes of sources the pass reads, each counted once, without those at hand."""
        paths = self.whereabouts.source_paths() - self.whereabouts.at_hand()
        return sum(size for (path, _), size in self._regions().items() if path in paths)

    def _regions(self) -> Mapping[tuple[Path, int], int]:
        read = [range_ for leaf in self.draft.leaves.values() for range_ in leaf.ranges]
        read += [range_ for copy in self.draft.copies for range_ in copy.location.ranges]
        return {(path, offset): size for path, offset, size in read if size}

    def _lying(self, action: FileAction) -> dict[bytes, Lying]:
        """Return where the file's tensors are already stored.

        An artifact is preferred to a source: blocks can be shared with the one that this file supersedes, and it has
        long runs of the wanted bytes.
        """
        rest = [each for each in action.content.made if each.digest not in self.draft.steps]
        copies = [each.digest for each in rest if each.is_copy]
        made = [each.digest for each in rest if not each.is_copy]
        found = self.whereabouts.in_artifacts(made, allow_nonfinite=action.description.allows_nonfinite)
        found |= self.whereabouts.in_artifacts(copies, allow_nonfinite=True)
        return self.whereabouts.of((each for each in copies if each not in found), allow_nonfinite=True) | found

    def _add_step(self, made: Made) -> None:
        """Add the step that makes a tensor, after steps for all that it reads and that is not stored."""
        digest = made.digest
        if made.is_copy:  # if of an intermediate tensor, that is made and written directly
            made = self.whereabouts.intermediate(digest) or made
        self._add_leaves(made)
        for operand in made.inputs:
            if operand.terms is not None and operand.digest not in self.draft.steps:
                self.draft.make(operand.digest, "float32", made.count, operand.terms, name=made.name)
                self.counted.add(operand.digest)
        self.draft.make(digest, made.spec.dtype, made.count, made.terms, _call(made), made.name)
        if made.operation is not None:
            self.operated[digest] = made
        self.counted.update((digest, *made.reads), _reads(made.survey) if made.survey else ())

    def _add_leaves(self, made: Made) -> None:
        """Add the leaves that a tensor is made of; for tensors that are neither stored nor steps, add steps."""
        leaves, steps = self.draft.leaves, self.draft.steps
        whole = [digest for part in made.parts for digest in part.reads if digest not in leaves]
        leaves |= {digest: each.leaf for digest, each in self.whereabouts.read(whole).items()}
        read = made.reads if made.operation is None else [digest for each in made.inputs for digest in each.reads]
        missing = [digest for digest in read if digest not in leaves and digest not in steps]
        found = self.whereabouts.read(missing)
        for digest in missing:
            if digest in found:
                leaves[digest] = found[digest].leaf
            else:
                between = self.whereabouts.intermediate(digest)
                assert between is not None  # else a target in an earlier wave makes it
                self._add_step(between)


def _leaf(digest: bytes, info: TensorInfo, files: tuple[Path, ...]) -> Leaf:
    """Return a source's tensor as a leaf; its scales have no digest. `files`: the source's."""
    first = info.pieces[0] if info.pieces else info
    size = info.end - info.begin
    location = Location(files[first.file], first.begin, size, info.pieces, files if info.pieces else ())
    scale = LeafScale(_leaf(b"", info.scale.info, files), info.scale.scaling) if info.scale else None
    return Leaf(digest, info.dtype, info.count, location, scale)


def place_of(content: FileContent, name: str, output: int) -> OutputRange:
    """Return where a tensor of a file is written; `output`: the index of the file."""
    tensors = content.header.tensors
    info = tensors[name]
    if name in content.packing.turned:
        rows, columns = info.shape
        return OutputRange(output, info.begin, (rows, columns))
    if name not in content.packing.scattered:
        return OutputRange(output, info.begin)
    pieces = tuple(piece._replace(begin=info.begin + piece.begin) for piece in content.pieces(name))
    return OutputRange(output, 0, views=pieces, width=DTYPES_BY_WORD[info.dtype].size)


def _call(made: Made) -> KernelCall | None:
    """Return the operation that makes a tensor, without the operands that it reads whole."""
    if made.operation is None:
        return None
    return KernelCall(
        made.operation.method,
        made.operation.known_as(made.parameter),
        made.spec.shape,
        dict(made.operation.arguments),
        tuple(operand.digest for operand in made.inputs),
        made.survey.key if made.survey else b"",
        together=made.together,
    )


def _reads(survey: SurveyKey) -> Iterator[bytes]:
    """Yield the digests of all tensors that a survey reads."""
    return (digest for each in survey.tensors for operand in each.operands for digest in operand.reads)


def _combination(operand: Operand, leaves: Mapping[bytes, Leaf]) -> tuple[tuple[Leaf, Fraction], ...]:
    if operand.terms is None:
        return ((leaves[operand.digest], Fraction(1)),)
    return tuple((leaves[term.digest], term.coefficient) for term in operand.terms)
