"""Threads that share the jobs of a pass. Which of them does a job, and when, has no effect on the results."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from mergebuild.engine import compiled, torch_import
from mergebuild.engine.bounds import DEVICE_MEMORY, PER_DEVICE
from mergebuild.engine.copying import Copier
from mergebuild.engine.findings import Findings
from mergebuild.engine.jobs import JobQueue, is_compiled, reads_of
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Outputs
from mergebuild.engine.prefetch import Prefetch
from mergebuild.engine.requirements import needs_memory
from mergebuild.engine.schedule import Cluster, Job, Look, looks
from mergebuild.engine.torch_import import compute_module
from mergebuild.engine.unseen import UnseenWorker
from mergebuild.engine.work import Copy, Pass, SeenGroup, StepResult, UnseenGroup
from mergebuild.events import Emit, Notice
from mergebuild.system.spans import span

if TYPE_CHECKING:
    from mergebuild.engine.compute import Choice, Hands

__all__ = ["Crew"]

_LOOK = 0.05
"""Seconds between two checks whether to stop, while waiting for torch."""


class Crew:
    """Does the work of one pass, and keeps the results."""

    def __init__(
        self,
        work: Pass,
        jobs: Sequence[Job],
        outputs: Outputs,
        emit: Emit,
        stop: threading.Event,
        *,
        threads: int,
        chunk: int,
        device: str,
    ) -> None:
        """`jobs`: those of the pass without surveys; `chunk`: elements computed at a time."""
        self._work = work
        self._jobs = jobs
        self._outputs = outputs
        self._emit = emit
        self._stop = stop
        self._threads = threads
        self._chunk = chunk
        self._device = device
        self.needs_torch = bool(looks(work)) or not all(is_compiled(job, device) for job in jobs)
        """Whether some of the work can't be done by compiled kernels."""
        self._findings = Findings(work.known)
        self._mappings = Mappings()
        self._copier = Copier(outputs, self._mappings, emit, stop)
        self._unseen = UnseenWorker(
            outputs, self._mappings, self._copier, emit, stop, device=device, awaits_torch=self.needs_torch
        )
        self._choice: Choice | None = None
        self._choosing = threading.Lock()
        self._told: set[str] = set()
        self._telling = threading.Lock()
        self._looks: dict[int, Any] = {}
        """The results of looks, by the identity of each."""
        self.results: dict[bytes, StepResult] = {}
        self.seen: dict[int, SeenGroup] = {}
        """The results of unseen groups, by the identity of each."""

    @property
    def learnt(self) -> Mapping[bytes, str]:
        """The new findings."""
        return self._findings.learnt

    def run(self) -> None:
        """Do all of the work. The first error of a job, or an interrupt, ends the others."""
        self._survey()
        self._run(self._jobs)

    def _survey(self) -> None:
        """Do all surveys that steps need and whose findings are unknown."""
        every = looks(self._work)
        if not every:
            return
        self._run(every)
        found: dict[bytes, list[Any]] = {}
        for look in () if self._stop.is_set() else every:
            found.setdefault(look.survey, []).append(self._looks[id(look)])
        worker = self._hands(0).here
        for survey in self._work.surveys:
            if survey.key in found:
                worker.settle(survey, found[survey.key])
        self._looks.clear()

    def _run(self, jobs: Sequence[Job]) -> None:
        queue = JobQueue(jobs, self._stop)
        count = max(1, min(self._threads, len(jobs)))
        leaves = (leaf for job in jobs for leaf in reads_of(job))
        with (
            self._mappings,
            Prefetch(leaves, self._mappings) as prefetch,
            ThreadPoolExecutor(count, thread_name_prefix="mergebuild") as pool,
        ):
            futures: list[Future[None]] = []
            try:
                futures += (pool.submit(self._labour, queue, prefetch, number, count) for number in range(count))
                with span("wait for workers"):
                    done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
                if waiting or any(future.exception() for future in done):
                    self._stop.set()
            except BaseException:  # an interrupt of the main thread
                self._stop.set()
                raise
        for future in futures:
            future.result()

    # One thread

    def _is_needed(self, number: int, count: int) -> bool:
        """Whether a thread has to do jobs, from the time when this returns.

        The last of several threads leaves its processor to the import of torch while that is going on. Threads that a
        device doesn't need wait, too, and aren't needed if there is a device.
        """
        is_last = 0 < number == count - 1
        is_extra = number >= PER_DEVICE and self._device != "cpu" and self.needs_torch
        if is_last or is_extra:
            self._wait_for_torch()
        return not (is_extra and not self._stop.is_set() and 0 < self._devices() * PER_DEVICE <= number)

    def _labour(self, queue: JobQueue, prefetch: Prefetch, number: int, count: int) -> None:
        """Do jobs until there are none. torch is imported when the first job needs it."""
        if not self._is_needed(number, count):
            return
        hands: Hands | None = None
        worker = compiled.CompiledWorker(self._outputs, self._mappings, self._stop, self._findings, chunk=self._chunk)
        while (job := _next(queue, prefetch)) is not None:
            if isinstance(job, UnseenGroup) or is_compiled(job, self._device):
                self._do(job, worker, queue)
            else:
                assert isinstance(job, Cluster | Look)
                if hands is None:
                    with span("wait for torch"):
                        hands = self._hands(number)
                self._do_with_torch(job, hands)

    def _wait_for_torch(self) -> None:
        """Wait while torch is being imported."""
        if not torch_import.TORCH.came(within=0):
            with span("wait for torch"):
                while not self._stop.is_set() and not torch_import.TORCH.came(within=_LOOK):
                    pass

    def _do(self, job: Job, worker: compiled.CompiledWorker, queue: JobQueue) -> None:
        """Do a job without torch; the rest of an unseen group is put off until torch is imported."""
        if isinstance(job, Copy):
            self._copier.copy(job)
        elif isinstance(job, UnseenGroup):
            with span("make at first sight", tensors=job.tensors):
                self.seen[id(job)], steps, left = self._unseen.run(job, worker)
            self.results.update(steps)
            if left is not None:
                queue.put_off(left, sum(leaf.size for leaf in job.unhashed))
        elif isinstance(job, Cluster):
            with span("make", tensors=job.steps, by="compiled"):
                self.results.update(worker.run(job))

    def _do_with_torch(self, job: Cluster | Look, hands: Hands) -> None:
        if isinstance(job, Look):
            with span("look", method=job.part.method, tensors=job.part.tensors):
                self._looks[id(job)] = hands.look(job.part)
        else:
            with span("make", tensors=job.steps, by="torch"):
                self.results.update(hands.run(job))

    # Processor and devices

    def _hands(self, number: int) -> Hands:
        """Return what the thread with this number computes with; it gets one of several devices."""
        choice = self._chosen()
        hands: Hands = compute_module().Hands(
            self._outputs,
            self._mappings,
            self._stop,
            self._findings,
            chunk=self._chunk,
            choice=choice,
            device=choice.devices[number % len(choice.devices)] if choice.devices else None,
            tell=self._tell,
        )
        return hands

    def _chosen(self) -> Choice:
        """Return which devices compute what; the first thread that asks decides it."""
        with self._choosing:
            if self._choice is None:
                self._choice = self._choose()
                if self._choice.devices:
                    whole = max((needed for _, needed in needs_memory(self._work)), default=0)
                    for device in self._choice.devices:
                        device.limit(DEVICE_MEMORY + whole)
            return self._choice

    def _choose(self) -> Choice:
        compute = compute_module()
        rates = compute.rates_in(self._findings)
        steps = list(self._work.steps.values())
        found: Choice
        try:
            found = compute.chosen(self._device, steps, self._threads, rates)
        except RuntimeError as error:  # an old driver, or a device whose memory is in use
            reason, _, _ = str(error).partition("\n")
            self._tell(f"the device does not work, the processor computes: {reason}")
            found = compute.chosen("cpu", steps, self._threads, rates)
        return found

    def _devices(self) -> int:
        """Return the number of devices of the pass."""
        return len(self._chosen().devices)

    def _tell(self, text: str) -> None:
        """Emit a notice, once per pass."""
        with self._telling:
            is_new = text not in self._told
            self._told.add(text)
        if is_new:
            self._emit(Notice(text, warning=True))


def _next(queue: JobQueue, prefetch: Prefetch) -> Job | None:
    """Return the next job, and tell the prefetcher how far the workers are."""
    job, is_new = queue.take()
    if is_new and job is not None and not isinstance(job, Copy):
        prefetch.began(sum(leaf.size for leaf in reads_of(job)))
    return job
