"""Computes clusters with compiled kernels, directly from the files' bytes to those of the outputs. No torch.

The results are the same as those of torch (`worker.py`), bit for bit; `capable.py` tells which clusters can be computed
here. Inputs are not widened chunk by chunk: kernels do that tile by tile, in the processor's cache, where they also
round and hash the results. A tensor that is made by itself and written through the page cache is written by the
kernel's own loop, so that the interpreter's lock is held only between long spans, not between chunks.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from mergebuild import native
from mergebuild.engine.capable import WIDEST, adds_loras, call_of, form_of, is_lying
from mergebuild.engine.findings import Findings, statistic_key
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Block, Outputs
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import (
    Combination,
    KernelCall,
    Leaf,
    OutputRange,
    Step,
    StepResult,
)
from mergebuild.formats.gathering import gather
from mergebuild.formats.header import Piece
from mergebuild.key import narrows
from mergebuild.lora import DeltaSum
from mergebuild.methods.call import State, unit_of
from mergebuild.methods.compiled import lora
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledStatistic, Plain
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import shares_of

__all__ = ["CompiledWorker", "read_by"]

_LONG = 1 << 26
"""The most bytes of inputs that a kernel reads before the worker releases them, and looks whether to stop."""


@dataclass(slots=True)
class _StepMaker:
    """A step, ready to be computed."""

    step: Step
    inputs: Sequence[int]
    """The indices of the chunks that it reads, in order."""
    odd: bool
    """Whether its input is rounded to odd."""
    slot: int | None = None
    """The index under which later steps read its chunks; None if none does."""
    room: memoryview | None = None
    """The buffer for its chunks; None: they are made in the blocks that are written."""
    unit: int = 1
    """How many elements must be made together."""
    applied: Applied | None = None
    """The kernel that makes its chunks, once it is known, with the inputs that it takes."""
    unknowable: bool = False
    """Whether an input has a NaN or an infinity, so that there is no statistic and all of it becomes NaN."""
    problem: UndefinedError | None = None
    """Why it has no value."""
    running: native.Hash = field(default_factory=native.Hash)
    nonfinite: int = 0
    overflowed: int = 0

    @property
    def made_by(self) -> Applied | None:
        """The kernel that makes what is written; None until it is known."""
        return _UNKNOWN if self.unknowable else self.applied


class CompiledWorker:
    """Computes clusters, one after another, in one thread."""

    def __init__(
        self, outputs: Outputs, mappings: Mappings, stop: threading.Event, findings: Findings, *, chunk: int
    ) -> None:
        self._outputs = outputs
        self._mappings = mappings
        self._stop = stop
        self._findings = findings
        self._chunk = chunk
        self._kept: list[Block] = []
        """Buffers for chunks that steps keep for each other."""
        self._reads = False
        """Whether chunks are read, and not mapped: all chunks of a cluster are used at once, and mappings keep files
        open."""
        self._known_scales: dict[Leaf, bytes] = {}
        """The scales of the current cluster."""
        self._unhashed: dict[int, native.Hash] = {}
        """The current chunks, by index, whose bytes are not hashed yet; the first step that reads one hashes it."""

    def run(self, cluster: Cluster, hashes: Mapping[bytes, native.Hash] | None = None) -> dict[bytes, StepResult]:
        """Compute and write all steps of a cluster; return the result of each.

        `hashes`: for leaves that are hashed in passing, by digest.
        """
        wanted = hashes or {}
        hashed = {index: wanted[leaf.digest] for index, leaf in enumerate(cluster.leaves) if leaf.digest in wanted}
        files = {leaf.location.path for leaf in cluster.leaves}
        self._reads = 2 * len(files) > self._mappings.most
        self._known_scales.clear()
        makers = self._makers(cluster)
        size = _chunk_for(makers, self._chunk)
        for number, maker in enumerate(makers):
            if maker.slot is not None or size > self._chunk or _is_turned(maker.step):
                maker.room = self._room(number, WIDEST * size)
        for maker in makers:
            self._prepare(maker, makers, cluster, size)
        if len(makers) == 1 and self._writes_itself(makers[0]):
            width = sum(native.DTYPES[leaf.dtype][1] for leaf in cluster.leaves)
            size = max(size, _LONG // max(1, width))
        for span in _spans(cluster.count, size):
            if self._stop.is_set():
                return {}
            chunks = self._chunks(cluster, span)
            self._unhashed = dict(hashed)
            for maker in makers:
                self._make(maker, chunks, span)
            for index, running in self._unhashed.items():
                running.update(chunks[index][0])
            for leaf in cluster.leaves:
                self._release(leaf, *span)
        return {maker.step.digest: self._result(maker, cluster) for maker in makers}

    def _makers(self, cluster: Cluster) -> list[_StepMaker]:
        """Return the makers of the steps."""
        slots = {leaf.digest: index for index, leaf in enumerate(cluster.leaves)}
        stored = {leaf.digest: leaf.stored for leaf in cluster.leaves}
        read = {digest for step in cluster.steps for digest in step.reads}
        found: list[_StepMaker] = []
        for step in cluster.steps:
            odd = step.lone is not None and narrows(stored.get(step.lone, ""), step.dtype)
            maker = _StepMaker(step, [slots[digest] for digest in step.reads], odd)
            if step.operation is not None:
                maker.unit = _unit_of(step.operation)
            if _is_turned(step):
                maker.unit = max(1, cluster.count)  # it is written transposed once all of it is there
            if step.digest in read and step.digest not in slots:  # else it is read from a file
                maker.slot = slots[step.digest] = len(slots)
            if step.operation is None:
                maker.applied = _linear(step)
            found.append(maker)
        return found

    def _chunks(self, cluster: Cluster, span: tuple[int, int]) -> dict[int, Chunk]:
        """Return the chunks of all leaves, by index."""
        return {index: self._part(leaf, *span) for index, leaf in enumerate(cluster.leaves)}

    # Statistics, and operands that are taken whole

    def _prepare(self, maker: _StepMaker, makers: Sequence[_StepMaker], cluster: Cluster, size: int) -> None:
        """Find the kernel that makes the chunks of an operation, with its statistic."""
        reasons = (each.problem for each in makers if each.slot in maker.inputs)
        maker.problem = next(filter(None, reasons), None)
        operation = maker.step.operation
        if operation is None or maker.problem is not None or self._stop.is_set():
            return
        if adds_loras(operation):
            maker.applied = self._adding(operation, None if maker.step.places else maker.room)
            return
        method, call, state = form_of(operation), call_of(operation), None
        assert method is not None  # `can` has checked it
        try:
            if method.statistic is not None:
                state = self._state(maker, method.statistic, makers, cluster, size)
            if not maker.unknowable and not self._stop.is_set():
                maker.applied = method.apply(call, len(maker.inputs), state)
        except UndefinedError as error:
            maker.problem = error

    def _adding(self, operation: KernelCall, room: memoryview | None) -> Applied:
        """Return the kernel that adds LoRAs to a tensor; their factors are read whole."""
        added = operation.arguments["deltas"]
        assert isinstance(added, DeltaSum)
        found = lora.applied(added, operation.shape, list(map(self._whole, operation.parts)), room)
        for part in operation.parts:
            for leaf, _ in part:
                self._mappings.release_all(leaf)
        return found

    def _whole(self, part: Combination) -> Plain:
        """Return an operand that is taken whole; a single tensor as it is stored."""
        first = part[0][0]
        if is_lying(part):
            return self._bytes(first, 0, first.count), first.dtype
        chunks = [self._part(leaf, 0, leaf.count) for leaf, _ in part]
        count = first.count
        room = bytearray(4 * count)
        native.apply(_combined([share for _, share in part]), chunks, room, "float32", (0, count))
        return room, "float32"

    def _state(
        self, maker: _StepMaker, statistic: CompiledStatistic, makers: Sequence[_StepMaker], cluster: Cluster, size: int
    ) -> State:
        """Return the state of a statistic, from a finding or by going through all chunks."""
        operation = maker.step.operation
        assert operation is not None
        key = statistic_key(operation, statistic.name, statistic.arguments, statistic.version, device="cpu")
        state = self._findings.get(key)
        if state is None:
            state = self._looked_through(maker, statistic, makers, cluster, size)
            if state is not None:
                self._findings.put(key, state)
        return state

    def _looked_through(
        self, maker: _StepMaker, statistic: CompiledStatistic, makers: Sequence[_StepMaker], cluster: Cluster, size: int
    ) -> State:
        """Go through a maker's inputs as often as its statistic needs; return the state, or None if there is none."""
        operation = maker.step.operation
        assert operation is not None
        call = call_of(operation)
        below = [each for step in cluster.below(maker.step) for each in makers if each.step is step]
        account = statistic.begin(call, len(maker.inputs))
        first = more = account is not None  # None: no statistic is needed with these arguments
        is_finite = statistic.is_finite if statistic.tells(call, len(maker.inputs)) else None
        while more:
            for span in _spans(cluster.count, size):
                if self._stop.is_set():
                    return None
                chunks = self._chunks(cluster, span)
                for each in below:
                    self._make(each, chunks, span, looks=True)
                inputs = [chunks[slot] for slot in maker.inputs]
                if first and is_finite is None and any(native.count_nonfinite(chunk, span[1]) for chunk in inputs):
                    maker.unknowable = True
                    return None
                statistic.look(call, account, inputs, span)
            first = False
            more = statistic.turn(call, account)
        if account is None:
            return None
        state = statistic.end(call, account)
        maker.unknowable = is_finite is not None and not is_finite(state)
        return None if maker.unknowable else state

    # Making

    def _room(self, number: int, size: int) -> memoryview:
        """Return a buffer of so many bytes for the chunks of a step."""
        while number >= len(self._kept):
            self._kept.append(Block(0))
        if len(self._kept[number].memory) < size:
            self._kept[number] = Block(size)
        return self._kept[number].memory

    def _make(self, maker: _StepMaker, chunks: dict[int, Chunk], span: tuple[int, int], *, looks: bool = False) -> None:
        """Make a chunk of a step: keep it for others, and write it unless this is only for a statistic (`looks`)."""
        step, (start, count) = maker.step, span
        if maker.problem is not None or not (step.places or maker.slot is not None):
            return
        if maker.slot is not None and not step.places and maker.applied is not None and maker.applied.is_given:
            (chunks[maker.slot],) = maker.applied.given((), span)
            return
        width = native.DTYPES[step.dtype][1]
        if not looks and self._writes_itself(maker):
            (place,) = _moved(step.places, start * width)
            make = partial(self._apply, maker, chunks, span, maker.running)
            self._count(maker, self._outputs.make_in(place, count * width, make))
            return
        block = self._outputs.block() if maker.room is None else None
        room = block.memory if block is not None else maker.room
        assert room is not None
        seen = self._apply(maker, chunks, span, None if looks else maker.running, room)
        if maker.slot is not None:
            chunks[maker.slot] = (room[: count * width], step.dtype)
        if looks:
            return
        if block is not None:
            self._outputs.put(block, count * width, _moved(step.places, start * width))
        elif step.places:
            self._write(room[: count * width], step, start * width)
        if step.places or step.is_rounded:
            self._count(maker, seen)

    def _writes_itself(self, maker: _StepMaker) -> bool:
        """Whether the kernel writes what it makes: all of it is known to the kernel, and nothing else reads it."""
        return (
            maker.made_by is not None
            and maker.made_by.more is None
            and not maker.made_by.kernel.row
            and maker.room is None
            and self._outputs.can_be_made_in(maker.step.places)
        )

    def _count(self, maker: _StepMaker, seen: native.Seen) -> None:
        maker.nonfinite += seen.nonfinite + seen.overflowed
        maker.overflowed += seen.overflowed

    def _apply(
        self,
        maker: _StepMaker,
        chunks: Mapping[int, Chunk],
        span: tuple[int, int],
        running: native.Hash | None,
        out: memoryview | native.Destination,
    ) -> native.Seen:
        """Make a chunk with a kernel."""
        applied = maker.made_by
        assert applied is not None  # it was prepared
        slots = [maker.inputs[index] for index in applied.inputs]
        hashes = {index: self._unhashed.pop(slot) for index, slot in enumerate(slots) if slot in self._unhashed}
        inputs = applied.given([chunks[slot] for slot in slots], span)
        return native.apply(
            applied.kernel, inputs, out, maker.step.dtype, span, hash=running, hashes=hashes, odd=maker.odd
        )

    def _write(self, made: memoryview, step: Step, offset: int) -> None:
        """Write a chunk, block by block."""
        straight = [place for place in step.places if place.turned is None]
        for begin in range(0, len(made) if straight else 0, self._outputs.block_size):
            self._put(made[begin : begin + self._outputs.block_size], straight, offset + begin)
        width = native.DTYPES[step.dtype][1]
        most = self._outputs.block_size // width
        for place in step.places:
            if place.turned is not None:  # never a part of a tensor
                rows, columns = place.turned
                lying = (Piece(0, 0, (columns, rows), (1, columns)),)
                for begin in range(0, step.count, most):
                    part = gather(lying, lambda _file: made, width, begin, min(most, step.count - begin))
                    self._put(part, [place], begin * width)

    def _put(self, part: memoryview | bytearray, places: Sequence[OutputRange], offset: int) -> None:
        """Have at most a block written."""
        block = self._outputs.block()
        block.memory[: len(part)] = part
        self._outputs.put(block, len(part), _moved(places, offset))

    def _part(self, leaf: Leaf, start: int, count: int) -> Chunk:
        """Return a chunk of a leaf, with its scales."""
        data = self._bytes(leaf, start, count)
        if leaf.scale is None:
            return data, leaf.dtype
        scales, scaling = self._scales(leaf.scale.leaf), leaf.scale.scaling
        if leaf.scale.leaf.count == 1:  # one row, of one block
            size = max(1, leaf.count)
            return data, leaf.dtype, native.BlockScales(scales, leaf.scale.leaf.dtype, size, 1, size, start)
        return data, leaf.dtype, native.BlockScales(scales, leaf.scale.leaf.dtype, *scaling, start)

    def _scales(self, leaf: Leaf) -> bytes:
        """Return all of a leaf, kept while its cluster is computed."""
        found = self._known_scales.get(leaf)
        if found is None:
            found = self._known_scales[leaf] = bytes(self._bytes(leaf, 0, leaf.count))
        return found

    def _bytes(self, leaf: Leaf, start: int, count: int) -> memoryview | bytearray:
        """Return a chunk of a leaf as it is stored, or gathered from its pieces."""
        lying, width = leaf.location, native.DTYPES[leaf.dtype][1]
        if not count:
            return bytearray()
        if lying.pieces:
            return self._mappings.gathered(lying, start, count)
        if self._reads:
            room = bytearray(count * width)
            self._mappings.read_into(memoryview(room), lying.path, lying.offset + start * width)
            return room
        return self._mappings.view(lying.path, lying.offset + start * width, count * width)

    def _release(self, leaf: Leaf, start: int, count: int) -> None:
        """Release a chunk of a leaf; if it is scattered, all of the leaf with its last chunk."""
        lying, width = leaf.location, native.DTYPES[leaf.dtype][1]
        if not lying.pieces:
            self._mappings.release(lying.path, lying.offset + start * width, count * width)
        elif start + count == leaf.count:
            self._mappings.release_all(lying)

    def _result(self, maker: _StepMaker, cluster: Cluster) -> StepResult:
        leaves = _involved(maker.step, cluster) if maker.nonfinite else ()
        bad = {leaf.digest: count for leaf in leaves if (count := self._count_bad(leaf))}
        problem = str(maker.problem) if maker.problem else ""
        return StepResult(maker.running.digest(), maker.nonfinite, maker.overflowed, bad, problem)

    def _count_bad(self, leaf: Leaf) -> int:
        """Return how many values of a leaf are NaN or Inf."""
        spans = _spans(leaf.count, self._chunk)
        return sum(native.count_nonfinite(self._part(leaf, *span), span[1]) for span in spans)


_UNKNOWN = Applied(native.Prepared("constant", 0, native.packed([math.nan])), ())
"""The kernel for a tensor without a statistic: all NaN."""


def _involved(step: Step, cluster: Cluster) -> Sequence[Leaf]:
    """Return all leaves that a step is made of, directly or not, followed by those that are read whole."""
    leaves = {leaf.digest: leaf for leaf in cluster.leaves}
    operations = [each.operation for each in (*cluster.below(step), step) if each.operation]
    whole = [leaf for operation in operations for part in operation.parts for leaf, _ in part]
    return [*(leaves[digest] for digest in read_by(step, cluster) if digest in leaves), *whole]


def _linear(step: Step) -> Applied:
    """Return the kernel of a combination, with its inputs."""
    return Applied(_combined([coefficient for _, coefficient in step.terms]), range(len(step.terms)))


def _combined(coefficients: Sequence[Fraction]) -> native.Prepared:
    """Return the kernel of a combination."""
    shares = shares_of(tuple(coefficients))
    centre = -1 if shares.pivot is None else shares.pivot
    return native.Prepared("linear", centre, native.packed(shares.others))


def _is_turned(step: Step) -> bool:
    """Whether a tensor is written transposed somewhere."""
    return any(place.turned for place in step.places)


def _unit_of(operation: KernelCall) -> int:
    """Return how many elements must be made together."""
    if adds_loras(operation):
        return lora.unit_of(operation.shape)
    method, call = form_of(operation), call_of(operation)
    assert method is not None  # `can` has checked it
    return unit_of(method.grain, call)


def _chunk_for(makers: Sequence[_StepMaker], chunk: int) -> int:
    """Return how many elements to make at a time, so that every kernel gets whole units."""
    unit = math.lcm(*(maker.unit for maker in makers))
    return max(unit, chunk // unit * unit)


def _spans(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a tensor: the index of the first element, and how many elements."""
    return ((start, min(size, count - start)) for start in range(0, count, size))


def _moved(places: Sequence[OutputRange], offset: int) -> Sequence[OutputRange]:
    """Return places moved on by so many bytes."""
    return [place._replace(offset=place.offset + offset) for place in places]


def read_by(step: Step, cluster: Cluster) -> Mapping[bytes, None]:
    """Return the digests of everything that a step of a cluster is made of, directly or not, in order."""
    return dict.fromkeys(digest for each in (*cluster.below(step), step) for digest in each.reads)
