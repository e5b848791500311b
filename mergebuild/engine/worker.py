"""Computes clusters with torch: map, widen to float32, make, round once, hash, write; chunk by chunk.

A worker belongs to one thread and computes with one thread, so no reduction depends on the number of threads. Fresh
memory costs more than the arithmetic, so all buffers are reused. A worker needs one chunk for each input of the largest
cluster, however large the model is; only a method that needs a tensor whole gets it whole, one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mergebuild.engine.cluster_work import ClusterWork, chunk_for
from mergebuild.engine.findings import Findings
from mergebuild.engine.gathering import Runs
from mergebuild.engine.leaves import LeafReader, Room
from mergebuild.engine.looking import Looking
from mergebuild.engine.makers import Found, Maker, Operating, makers_of
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.transfers import Sending, Transfers
from mergebuild.engine.work import Combination, OutputRange, StepResult, SurveyJob
from mergebuild.methods.method import ProgramError

__all__ = ["Worker"]


@dataclass(frozen=True, slots=True)
class _ClusterBench:
    """A worker computing a cluster, as its makers see it."""

    worker: Worker
    work: ClusterWork
    known: dict[bytes, Any]
    """Results that makers of this cluster and of its siblings share, by key."""

    @property
    def place(self) -> torch.device:
        """Where tensors are computed."""
        return self.worker.place

    def part(self, part: Combination, span: tuple[int, int] | None = None) -> torch.Tensor:
        """Return an operand that is taken whole, or a range of it, flat; a single tensor as it is stored."""
        return self.work.reader.part(part, span)

    def run(self, part: Combination, first: int, count: int) -> torch.Tensor:
        """Return elements of such an operand as float32, flat; it may be called between chunks."""
        return self.work.reader.run(part, first, count)

    def rows(self, part: Combination, runs: Runs, width: int) -> torch.Tensor:
        """Return runs of rows (the first, and how many) of such an operand as float32, flat, also between chunks."""
        return self.work.reader.rows(part, runs, width)

    def release(self, parts: Iterable[Combination]) -> None:
        """Release operands that were taken whole."""
        self.work.reader.release(leaf for part in parts for leaf, _ in part)

    def once(self, key: bytes, compute: Callable[[], Found], *, alone: bool) -> Found:
        """Return a result that several makers share; the first that asks has it computed."""
        if key not in self.known:
            with self.worker.alone() if alone else nullcontext():
                self.known[key] = compute()
        found: Found = self.known[key]
        return found

    def reader_to_odd(self, index: int) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """Return a function that writes an input's values from an element on, rounded to odd, into a buffer."""
        return partial(self.work.reader.load_to_odd, self.work.cluster.leaves[index])

    def find_out(self, maker: Operating) -> None:
        """Give a maker the state of its statistic or of its survey, or the reason why there is none."""
        self.worker.looking.find_out(maker, self.work)


class Worker:
    """Computes clusters, one after another, in its own buffers."""

    def __init__(
        self, transfers: Transfers, mappings: Mappings, chunk: int, stop: threading.Event, findings: Findings
    ) -> None:
        self._transfers = transfers
        self._chunk = chunk
        self._stop = stop
        self._findings = findings
        with transfers.entered():
            self._room = Room(chunk, transfers)
        self._reader = LeafReader(transfers, mappings, self._room)
        self.looking = Looking(self._reader, transfers, findings, stop)
        """Computes statistics and surveys."""

    @property
    def place(self) -> torch.device:
        """Where it computes."""
        return self._transfers.place

    def alone(self) -> AbstractContextManager[object]:
        """Return the lock that a worker holds while it has a large tensor whole in memory."""
        return self._findings.whole

    def close(self) -> None:
        """Wait until its buffers are no longer in use."""
        self._transfers.close()

    def look(self, survey: SurveyJob) -> Any:
        """Return the result of a look at a part of a survey."""
        return self.looking.look(survey)

    def settle(self, survey: SurveyJob, looks: Sequence[Any]) -> None:
        """Keep the common result of all looks of a survey."""
        self.looking.settle(survey, looks)

    def run(self, cluster: Cluster) -> dict[bytes, StepResult]:
        """Compute and write all steps of a cluster and of its siblings; return the result of each."""
        modules: dict[bytes, Any] = {}
        found: dict[bytes, StepResult] = {}
        with self._transfers.entered():
            for each in (cluster, *cluster.siblings):
                found |= self._run_alone(each, modules)
        return found

    def _run_alone(self, cluster: Cluster, modules: dict[bytes, Any]) -> dict[bytes, StepResult]:
        """Compute one cluster. `modules`: results that it shares with its siblings, by key."""
        makers, slots = makers_of(cluster)
        size = chunk_for(makers, cluster.count, self._chunk)
        is_whole = size > self._chunk
        with self.alone() if is_whole else nullcontext():
            room = Room(size, self._transfers) if is_whole else self._room
            room.grow(slots)
            return self._run(ClusterWork(cluster, makers, self._reader, room, size), modules)

    def _run(self, work: ClusterWork, modules: dict[bytes, Any]) -> dict[bytes, StepResult]:
        bench = _ClusterBench(self, work, modules)
        with self._transfers.cluster(work.makers):
            for maker in work.makers:
                if self._stop.is_set():
                    return {}
                maker.prepare(bench)
            for extent in work.extents():
                if self._stop.is_set():
                    return {}
                chunks = work.chunks(extent)
                for maker in work.makers:
                    value = work.made(maker, chunks, extent)
                    if value is None:
                        continue
                    if maker.step.places:
                        self._write(maker, value, chunks, extent[0])
                    elif maker.step.is_rounded:
                        self._transfers.check(maker, value)
                for leaf in work.cluster.leaves:
                    self._reader.release_chunk(leaf, *extent)
        return {maker.step.digest: self._result(maker, work) for maker in work.makers}

    def _write(self, maker: Maker, value: torch.Tensor, chunks: list[torch.Tensor], start: int) -> None:
        """Round a chunk, hash it, and write it to all its places."""
        may_have_nan = self._transfers.check(maker, value)
        straight = [place for place in maker.step.places if place.turned is None]
        for begin, part in self._parts(value, maker.dtype):
            places = _moved(straight, start + begin, maker.dtype)
            kept = None if maker.kept is None else chunks[maker.kept][begin : begin + len(part)]
            self._transfers.send(part, Sending(maker.dtype, places, maker.running, kept, may_have_nan))
        for place in maker.step.places:
            if place.turned is not None:  # then the chunk is the whole tensor
                for begin, part in self._parts(value.view(place.turned).t().reshape(-1), maker.dtype):
                    places = _moved([place], begin, maker.dtype)
                    self._transfers.send(part, Sending(maker.dtype, places, may_have_nan=may_have_nan))

    def _parts(self, value: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield parts of a result that can be sent at once, each with its first element.

        A whole tensor may be too large.
        """
        size = self._transfers.most // dtype.itemsize
        return ((begin, value[begin : begin + size]) for begin in range(0, len(value), size))

    def _result(self, maker: Maker, work: ClusterWork) -> StepResult:
        bad = maker.nonfinite + maker.overflowed
        involved = [*work.below(maker), maker] if bad else []  # a LoRA's delta is a step of its own
        slots = [slot for each in involved for slot in each.inputs if slot < len(work.cluster.leaves)]
        leaves = [work.cluster.leaves[slot] for slot in slots]
        leaves += [leaf for each in involved for part in each.parts for leaf, _ in part]
        blamed = {leaf.digest: count for leaf in leaves if (count := self._reader.count_bad(leaf))}
        failed_at = maker.problem.where if isinstance(maker.problem, ProgramError) else None
        problem = str(maker.problem) if maker.problem else ""
        return StepResult(maker.running.digest(), bad, maker.overflowed, blamed, problem, failed_at)


def _moved(places: Sequence[OutputRange], elements: int, dtype: torch.dtype) -> Sequence[OutputRange]:
    """Return places moved on by so many elements."""
    return [place._replace(offset=place.offset + elements * dtype.itemsize) for place in places] if elements else places
