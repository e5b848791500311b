"""Compute clusters: map, widen to float32, make, round once, hash, hand to the outputs; chunk by chunk.

A worker belongs to one thread and computes with one thread, so no reduction depends on how many there are. Fresh
memory costs more than the arithmetic, so all of it is used again. Memory is one chunk an input of the largest
cluster, whatever the size of the model; only a method that needs a tensor whole gets it whole, one at a time.

What a method must know of whole tensors first is found out by looking at all chunks before any is made. It is kept by
what it follows from, for the other members of a family, and for the next build.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import Any, TypeVar

from mergebuild.engine.findings import Findings
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Outputs
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Combination, Leaf, LeafScale, OutputRange, Step, StepResult, SurveyJob
from mergebuild.methods.method import ProgramError, UndefinedError
from mergebuild.system import platform

warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # in whichever thread it is noticed
with warnings.catch_warnings():
    # NumPy is not needed, and its absence not worth a warning; that mapped files cannot be written is what we want.
    warnings.simplefilter("ignore")
    import torch

    from mergebuild.engine.choice import Choice, Rates, chosen
    from mergebuild.engine.devices import Device, device_named
    from mergebuild.engine.makers import (
        DTYPES,
        Found,
        Maker,
        Operating,
        kernel_of,
        makers_of,
        memory_for,
    )
    from mergebuild.engine.scaling import Factors, factors_of, multiply
    from mergebuild.engine.transfers import Direct, Sending, Staged, Transfers
    from mergebuild.methods.kernels.kernel import all_finite

    # What torch looks up when it first converts values it looks up here, where a failure is known to be torch's own.
    torch.empty(1).copy_(torch.frombuffer(bytes(2), dtype=torch.float16))
torch.set_num_threads(1)
platform.keep_freed_memory()

DEVICE_CHUNK = 1 << 21
"""Elements that a device computes at a time: enough to keep it and the bus busy while the next ones are asked for."""

LEAST_DEVICE_CHUNK = 1 << 16

_Result = TypeVar("_Result")


def rates_in(findings: Findings) -> Callable[[bytes, Callable[[], Rates]], Rates]:
    """Return what gives back how fast this machine is; measured, and kept, when that is not known."""

    def rates(key: bytes, measure: Callable[[], Rates]) -> Rates:
        known = findings.get(key)
        if known is None:
            findings.put(key, known := tuple(measure()))
        return Rates(*known)

    return rates


_HOST = torch.device("cpu")
"""Where what is found out is kept, for whoever needs it where."""

_MOST_SCALES = 16
"""Leaves whose scales are kept for their next chunks."""

_SMALL = 1 << 24
"""Elements that are looked at together without waiting for another worker that does."""

__all__ = [
    "Choice",
    "Findings",
    "Hands",
    "Rates",
    "Worker",
    "chosen",
    "device_named",
    "kernel_of",
    "memory_for",
    "rates_in",
]


class _Room:
    """The buffers that a cluster is computed in, each of one chunk."""

    def __init__(self, chunk: int, transfers: Transfers) -> None:
        self._transfers = transfers
        self.chunk = chunk
        self.out = transfers.floats(chunk)
        self.spare = transfers.floats(chunk)
        self.slots: list[torch.Tensor] = []

    def grow(self, slots: int) -> None:
        """Have as many buffers for inputs."""
        while len(self.slots) < slots:
            self.slots.append(self._transfers.floats(self.chunk))


class Hands:
    """What one thread of a pass computes with: the processor, and perhaps a device beside it.

    Whatever a device can't do is done by the processor, which gives the same: a build does not fail for a device.
    """

    def __init__(
        self,
        outputs: Outputs,
        mappings: Mappings,
        stop: threading.Event,
        findings: Findings,
        *,
        chunk: int,
        choice: Choice,
        device: Device | None,
        tell: Callable[[str], None],
    ) -> None:
        """Begin with nothing in hand: buffers are made when they are first needed. `tell` tells people, once."""
        self._outputs = outputs
        self._worker = partial(Worker, mappings=mappings, stop=stop, findings=findings)
        self._usual = chunk
        self._choice = choice
        self._tell = tell
        self._device = device
        self._chunk = DEVICE_CHUNK
        self._there: Worker | None = None

    @cached_property
    def here(self) -> Worker:
        """The processor."""
        return self._worker(Direct(self._outputs), chunk=self._usual)

    def run(self, cluster: Cluster) -> dict[bytes, StepResult]:
        """Compute and write a cluster with its siblings; return what came of each step."""
        return self._done(cluster, lambda worker: worker.run(cluster))

    def look(self, survey: SurveyJob) -> Any:
        """Return what a look at a part of a survey came to."""
        return self._done(survey, lambda worker: worker.look(survey))

    def _done(self, job: Cluster | SurveyJob, work: Callable[[Worker], _Result]) -> _Result:
        usual = self._chunk
        while self._device is not None and self._choice.is_for_device(job):
            try:
                if self._there is None:
                    self._there = self._worker(Staged(self._outputs, self._device), chunk=self._chunk)
                return work(self._there)
            except torch.OutOfMemoryError:
                self._let_go()
                self._device.free_unused()
                if self._chunk == LEAST_DEVICE_CHUNK:
                    self._tell(f"{self._device.name} has too little free memory; the processor computes what it can't")
                    self._chunk = usual  # it was not the chunks
                    break
                self._tell(f"{self._device.name} is short of memory: smaller chunks")
                self._chunk //= 2
            except RuntimeError as error:
                reason, _, _ = str(error).partition("\n")
                self._tell(f"{self._device.name} failed, the processor goes on: {reason}")
                self._let_go()
                self._device = None
        return work(self.here)

    def _let_go(self) -> None:
        if self._there is not None:
            with suppress(RuntimeError):  # a device that fails has nothing under way
                self._there.close()
        self._there = None


@dataclass(frozen=True, slots=True)
class _ClusterBench:
    """A worker at a cluster, as its makers see it."""

    worker: Worker
    cluster: Cluster
    makers: Sequence[Maker]
    room: _Room
    size: int
    """Elements of a chunk."""
    known: dict[bytes, Any]
    """What was computed for the makers of this cluster and of its siblings together, by key."""

    @property
    def place(self) -> torch.device:
        """Where tensors are computed."""
        return self.worker.place

    def part(self, part: Combination, span: tuple[int, int] | None = None) -> torch.Tensor:
        """Return what an operation takes whole, or the elements of it in a span, flat: a lone tensor as it lies."""
        return self.worker.part(part, span)

    def release(self, parts: Iterable[Combination]) -> None:
        """Say that what was taken whole is done with."""
        self.worker.release(leaf for part in parts for leaf, _ in part)

    def once(self, key: bytes, compute: Callable[[], Found], *, alone: bool) -> Found:
        """Return what all makers of a computation get of it, which the first of them has done."""
        if key not in self.known:
            with self.worker.alone() if alone else nullcontext():
                self.known[key] = compute()
        found: Found = self.known[key]
        return found

    def reader_to_odd(self, index: int) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """Return what writes the values of an input (float64) from an element on, rounded to odd, into a buffer."""
        return partial(self.worker.load_to_odd, self.cluster.leaves[index])

    def find_out(self, maker: Operating) -> None:
        """Give a maker the state of its statistic or of its survey, or say why there is none."""
        self.worker.find_out(maker, self.makers, self.cluster, self.room, self.size)


class Worker:
    """Computes clusters, one after another, in its own buffers."""

    def __init__(
        self, transfers: Transfers, mappings: Mappings, chunk: int, stop: threading.Event, findings: Findings
    ) -> None:
        self._transfers = transfers
        self._mappings = mappings
        self._chunk = chunk
        self._stop = stop
        self._findings = findings
        self._scales_of: dict[bytes, Factors] = {}
        """The scales of leaves last read, by digest."""
        with transfers.entered():
            self._room = _Room(chunk, transfers)

    @property
    def place(self) -> torch.device:
        """Where it computes."""
        return self._transfers.place

    def alone(self) -> AbstractContextManager[object]:
        """Return what is held by whoever has a large tensor whole in memory."""
        return self._findings.whole

    def release(self, leaves: Iterable[Leaf]) -> None:
        """Say that whole leaves are done with."""
        for leaf in leaves:
            self._mappings.release_all(leaf)

    def close(self) -> None:
        """Wait until its buffers are not in use any more."""
        self._transfers.close()

    def run(self, cluster: Cluster) -> dict[bytes, StepResult]:
        """Compute and write all steps of a cluster and of its siblings; return what came of each."""
        modules: dict[bytes, Any] = {}
        found: dict[bytes, StepResult] = {}
        with self._transfers.entered():
            for each in (cluster, *cluster.siblings):
                found |= self._run_alone(each, modules)
        return found

    def _run_alone(self, cluster: Cluster, modules: dict[bytes, Any]) -> dict[bytes, StepResult]:
        """Compute a cluster. `modules`: what is computed together with its siblings' steps, by its key."""
        makers, slots = makers_of(cluster)
        size = _chunk_for(makers, cluster.count, self._chunk)
        if size <= self._chunk:
            self._room.grow(slots)
            return self._run(cluster, makers, self._room, size, modules)
        with self._findings.whole:
            room = _Room(size, self._transfers)
            room.grow(slots)
            return self._run(cluster, makers, room, size, modules)

    def _run(
        self, cluster: Cluster, makers: Sequence[Maker], room: _Room, size: int, modules: dict[bytes, Any]
    ) -> dict[bytes, StepResult]:
        bench = _ClusterBench(self, cluster, makers, room, size, modules)
        with self._transfers.cluster(makers):
            for maker in makers:
                if self._stop.is_set():
                    return {}
                maker.prepare(bench)
            for start in range(0, cluster.count, size):
                if self._stop.is_set():
                    return {}
                count = min(size, cluster.count - start)
                chunks = self._chunks(cluster, makers, room, start, count)
                for maker in makers:
                    value = self._made(maker, makers, chunks, room, (start, count))
                    if value is not None and maker.step.places:
                        self._write(maker, value, chunks, start)
                for leaf in cluster.leaves:
                    self._release_chunk(leaf, start, count)
        return {maker.step.digest: self._result(maker, makers, cluster) for maker in makers}

    def _release_chunk(self, leaf: Leaf, start: int, count: int) -> None:
        """Say that a chunk of a leaf is done with; of one in pieces, with its last chunk all of it."""
        lying = leaf.location
        if not lying.pieces:
            width = DTYPES[leaf.dtype].itemsize
            self._mappings.release(lying.path, lying.offset + start * width, count * width)
        elif start + count == leaf.count:
            self._mappings.release_all(lying)

    def _chunks(
        self, cluster: Cluster, makers: Sequence[Maker], room: _Room, start: int, count: int
    ) -> list[torch.Tensor]:
        """Return the chunks of all leaves, and behind them the places of what the makers keep for each other."""
        chunks = [self._load(leaf, start, count, room.slots[slot]) for slot, leaf in enumerate(cluster.leaves)]
        kept = sum(maker.kept is not None for maker in makers)
        return chunks + [room.slots[len(chunks) + number][:count] for number in range(kept)]

    def part(self, part: Combination, span: tuple[int, int] | None = None) -> torch.Tensor:
        """Return what an operation takes whole, or the elements of it in a span, flat: a lone tensor as it lies."""
        if len(part) == 1 and part[0][1] == 1 and part[0][0].scale is None:
            whole = self._whole(part[0][0])
            return self._transfers.whole(whole if span is None else whole[span[0] : span[1]])
        return self._combined(part, span)

    def _whole(self, leaf: Leaf) -> torch.Tensor:
        """Return a leaf as it lies, not scaled, flat: a view of the file where that is possible."""
        dtype = getattr(torch, leaf.dtype)
        lying = leaf.location
        if lying.pieces:
            return torch.frombuffer(self._mappings.gathered(lying, 0, leaf.count), dtype=dtype)
        if not leaf.count:
            return torch.empty(0, dtype=dtype)
        data: memoryview | bytearray = self._mappings.view(lying.path, lying.offset, lying.size)
        if lying.offset % dtype.itemsize:
            data = bytearray(data)
        found: torch.Tensor = torch.frombuffer(data, dtype=dtype)
        return found

    def _load(self, leaf: Leaf, start: int, count: int, room: torch.Tensor, *, to_odd: bool = False) -> torch.Tensor:
        """Return a chunk of a leaf as float32: a view of the file where that is possible."""
        if not count:
            return room[:0]
        dtype, lying = DTYPES[leaf.dtype], leaf.location
        data: memoryview | bytearray
        if lying.pieces:
            data = self._mappings.gathered(lying, start, count)
        else:
            data = self._mappings.view(lying.path, lying.offset + start * dtype.itemsize, count * dtype.itemsize)
        if leaf.scale is None:
            return self._transfers.bring(data, dtype, room[:count], to_odd=to_odd)
        values = self._transfers.bring(data, dtype, room[:count])
        return multiply(values, start, self._scales(leaf.digest, leaf.scale), leaf.scale.scaling, odd=to_odd)

    def _scales(self, digest: bytes, scale: LeafScale) -> Factors:
        """Return the scales of the leaf of a digest."""
        found = self._scales_of.get(digest)
        if found is None:
            if len(self._scales_of) == _MOST_SCALES:
                self._scales_of.clear()
            across = math.ceil(scale.scaling.columns / scale.scaling.block_columns)
            scales = self._whole(scale.leaf).view(-1, across)
            found = self._scales_of[digest] = factors_of(scales, self._transfers.whole)
        return found

    def load_to_odd(self, leaf: Leaf, start: int, out: torch.Tensor) -> torch.Tensor:
        """Write values of a leaf, float64 or scaled, rounded to odd, into a buffer; return it."""
        return self._load(leaf, start, len(out), out, to_odd=True)

    # What must be known of several tensors

    def look(self, survey: SurveyJob) -> Any:
        """Return what a look at a part of a survey came to; the message of an error is kept for its end."""
        kernel = kernel_of(survey.method).survey
        assert kernel is not None  # else there would be no survey
        elements = sum(prod(each.shape) * len(each.inputs) for each in survey.tensors)
        try:
            with self._findings.whole if elements > _SMALL else nullcontext(), self._transfers.entered():
                tensors = {
                    each.name: [self._combined(terms, (0, prod(each.shape))).view(each.shape) for terms in each.inputs]
                    for each in survey.tensors
                }
                bad = next((name for name, inputs in tensors.items() if not all_finite(inputs)), None)
                if bad is not None:
                    message = f"`{bad}`, which it depends on, has values that are NaN or Inf"
                    raise UndefinedError(message)
                return _on(_HOST, kernel.look(survey.arguments, tensors))
        except UndefinedError as error:
            return error
        finally:
            self.release(survey.leaves)

    def settle(self, survey: SurveyJob, looks: Sequence[Any]) -> None:
        """Keep what all looks of a survey came to together."""
        kernel = kernel_of(survey.method).survey
        assert kernel is not None  # else there would be no survey
        try:
            for look in looks:
                if isinstance(look, UndefinedError):
                    raise look
            self._findings.put(survey.key, kernel.end(looks))
        except UndefinedError as error:
            self._findings.problems[survey.key] = error

    def _combined(self, terms: Combination, span: tuple[int, int] | None = None) -> torch.Tensor:
        """Return a linear combination of whole leaves, or the elements of it in a span (float32, flat).

        One without terms, of which only a span tells how long it is, is 0.
        """
        first, past = span or (0, terms[0][0].count)
        found = torch.empty(past - first, device=self._transfers.place)
        if not terms or first == past:
            return found.zero_()
        if len(terms) == 1 and terms[0][1] == 1:
            return self._load(terms[0][0], first, past - first, found)
        parts = [(leaf.digest, share) for leaf, share in terms]
        (maker,), slots = makers_of(Cluster([leaf for leaf, _ in terms], [Step(b"", "float32", len(found), parts)]))
        room = self._room
        room.grow(slots)
        for start in range(0, len(found), self._chunk):
            count = min(self._chunk, len(found) - start)
            chunks = [self._load(leaf, first + start, count, room.slots[slot]) for slot, (leaf, _) in enumerate(terms)]
            found[start : start + count] = maker.make(chunks, start, room.out[:count], room.spare[:count])
        return found

    # What must be known of whole tensors

    def find_out(self, maker: Operating, makers: Sequence[Maker], cluster: Cluster, room: _Room, size: int) -> None:
        """Give a maker the state of its statistic, or of its survey."""
        if maker.kernel.survey is not None:
            maker.state = self._found(maker.survey) if maker.survey else None
            if maker.state is None:
                maker.problem = self._findings.problems.get(
                    maker.survey, UndefinedError("what it must be merged together with is not merged the same way")
                )
            return
        key = maker.state_key(self._transfers.place)
        if key is None:
            return
        maker.state = self._found(key)
        if maker.state is not None:
            return
        try:
            maker.state = self._looked_through(maker, makers, cluster, room, size)
        except UndefinedError as error:
            maker.problem = error
        if maker.state is not None:
            self._findings.put(key, _on(_HOST, maker.state))

    def _found(self, key: bytes) -> Any:
        return _on(self._transfers.place, self._findings.get(key))

    def _looked_through(
        self, maker: Operating, makers: Sequence[Maker], cluster: Cluster, room: _Room, size: int
    ) -> Any:
        """Look at a maker's inputs as often as its statistic wants; return the state, None when there is none."""
        statistic, below = maker.kernel.statistic, _below(maker, makers, cluster)
        assert statistic is not None  # else there would be no key
        account = statistic.begin(maker.call, len(maker.inputs))
        first = more = account is not None  # None: nothing needs to be known with these arguments
        while more:
            for start in range(0, cluster.count, size):
                if self._stop.is_set():
                    return None
                count = min(size, cluster.count - start)
                chunks = self._chunks(cluster, makers, room, start, count)
                for each in below:
                    value = self._made(each, makers, chunks, room, (start, count))
                    if value is not None and each.step.places and each.kept is not None:
                        chunks[each.kept].copy_(value.to(each.dtype))  # as whoever reads the file sees it
                if any(each.problem for each in below):
                    return None  # and `_made` says why
                inputs = [chunks[slot] for slot in maker.inputs]
                if first and not all_finite(inputs):
                    maker.unknowable = True
                    return None
                statistic.look(maker.call, account, inputs, start)
            first = False
            more = statistic.turn(maker.call, account)
        return statistic.end(maker.call, account)

    # Making

    def _made(
        self, maker: Maker, makers: Sequence[Maker], chunks: list[torch.Tensor], room: _Room, span: tuple[int, int]
    ) -> torch.Tensor | None:
        """Return a maker's chunk, kept for others where it has no place to be rounded for; None if it has no value."""
        maker.problem = maker.problem or next(
            (each.problem for each in makers if each.problem and each.kept in maker.inputs), None
        )
        if maker.problem:
            return None
        start, count = span
        try:
            value = maker.make(chunks, start, room.out[:count], room.spare[:count])
        except UndefinedError as error:
            maker.problem = error
            return None
        if maker.kept is not None and not maker.step.places:
            chunks[maker.kept].copy_(value)
        return value

    def _write(self, maker: Maker, value: torch.Tensor, chunks: list[torch.Tensor], start: int) -> None:
        """Round a chunk, have it hashed, and written to all its places."""
        may_have_nan = self._transfers.check(maker, value)
        straight = [place for place in maker.step.places if place.turned is None]
        for begin, part in self._parts(value, maker.dtype):
            places = _moved(straight, start + begin, maker.dtype)
            kept = None if maker.kept is None else chunks[maker.kept][begin : begin + len(part)]
            self._transfers.send(part, Sending(maker.dtype, places, maker.running, kept, may_have_nan))
        for place in maker.step.places:
            if place.turned is not None:  # never a part of a tensor
                for begin, part in self._parts(value.view(place.turned).t().reshape(-1), maker.dtype):
                    places = _moved([place], begin, maker.dtype)
                    self._transfers.send(part, Sending(maker.dtype, places, may_have_nan=may_have_nan))

    def _parts(self, value: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield parts that can be sent at once, each with its first element: a tensor that is whole is larger."""
        size = self._transfers.most // dtype.itemsize
        return ((begin, value[begin : begin + size]) for begin in range(0, len(value), size))

    def _result(self, maker: Maker, makers: Sequence[Maker], cluster: Cluster) -> StepResult:
        bad = maker.nonfinite + maker.overflowed
        involved = [*_below(maker, makers, cluster), maker] if bad else []  # what a LoRA adds is a step of its own
        slots = [slot for each in involved for slot in each.inputs if slot < len(cluster.leaves)]
        leaves = [cluster.leaves[slot] for slot in slots]
        leaves += [leaf for each in involved for part in each.parts for leaf, _ in part]
        blamed = {leaf.digest: count for leaf in leaves if (count := self._count_bad(leaf))}
        failed_at = maker.problem.where if isinstance(maker.problem, ProgramError) else None
        problem = str(maker.problem) if maker.problem else ""
        return StepResult(maker.running.digest(), bad, maker.overflowed, blamed, problem, failed_at)

    def _count_bad(self, leaf: Leaf) -> int:
        """Return how many values of a leaf are NaN or Inf; of a LoRA, some may be integers."""
        if leaf.dtype not in DTYPES:
            return 0
        return sum(
            int((~torch.isfinite(self._load(leaf, start, min(self._chunk, leaf.count - start), self._room.out))).sum())
            for start in range(0, leaf.count, self._chunk)
        )


def _on(place: torch.device, value: Any) -> Any:
    """Return a state with its tensors at a place; the very same where they are there, or it has none."""
    match value:
        case torch.Tensor():
            return value.to(place)
        case tuple() | list():
            parts = [_on(place, each) for each in value]
            if all(part is each for part, each in zip(parts, value, strict=True)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        case dict():
            held = [*value.values()]
            moved = _on(place, held)
            return value if moved is held else dict(zip(value, moved, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        known = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        moved = _on(place, known)
        return value if moved is known else replace(value, **moved)
    return value


def _moved(places: Sequence[OutputRange], elements: int, dtype: torch.dtype) -> Sequence[OutputRange]:
    """Return places so many elements further on."""
    return [place._replace(offset=place.offset + elements * dtype.itemsize) for place in places] if elements else places


def _below(maker: Maker, makers: Sequence[Maker], cluster: Cluster) -> list[Maker]:
    """Return the makers that one depends on, each behind those that it depends on itself."""
    return [each for step in cluster.below(maker.step) for each in makers if each.step is step]


def _chunk_for(makers: Sequence[Maker], count: int, chunk: int) -> int:
    """Return how many elements to make at a time, so that every kernel gets what must not be cut."""
    whole = any(place.turned for maker in makers for place in maker.step.places)
    unit = math.lcm(*(maker.unit for maker in makers), max(1, count) if whole else 1)
    if unit >= count:
        return max(1, count) if unit > 1 else chunk
    return max(unit, chunk // unit * unit)
