"""Runs a pass: creates the files, shares the work among threads, and leaves nothing behind if it fails.

The stages are threads that pass blocks of memory on: one reads ahead (`prefetch.py`), workers compute in the order of
the files (`crew.py`), others write (`outputs.py`). The result of a job (`schedule.py`) does not depend on which thread
does it or when. Copying ranges needs no torch; it is imported in the background if there is a step to compute
(`torch_import.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergebuild.engine import torch_import
from mergebuild.engine.copying import shared
from mergebuild.engine.crew import Crew
from mergebuild.engine.jobs import bytes_copied
from mergebuild.engine.outputs import Outputs
from mergebuild.engine.schedule import Job, schedule
from mergebuild.engine.work import Copy, Pass, SeenGroup, StepResult
from mergebuild.events import Emit, PassBegun, PassEnded
from mergebuild.system import platform
from mergebuild.system.spans import span

__all__ = ["DEFAULT_CHUNK", "PassResult", "run_pass"]

DEFAULT_CHUNK = 1 << 19
"""Elements computed at a time: 2 MiB of float32 for each input, which stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """The results of a pass."""

    steps: Mapping[bytes, StepResult]
    """By digest, including steps of unseen groups."""
    unseen: Sequence[SeenGroup]
    """The results of unseen groups, in order."""
    waited: float
    """Seconds spent waiting for torch."""
    learnt: Mapping[bytes, str]
    """New findings, for later passes."""


def run_pass(
    work: Pass,
    *,
    threads: int | None,
    emit: Emit,
    targets: tuple[str, ...],
    chunk: int = DEFAULT_CHUNK,
    durable: bool = False,
    device: str = "auto",
) -> PassResult:
    """Write all outputs of a pass. If it raises, the files that it created are removed.

    `durable`: the build will wait until everything is on the disk, so writing there should begin early. `device`:
    `auto`, `cpu`, `cuda` or `cuda:N`, an existing one (`check_device`).

    Raises:
        OSError: a file cannot be read or written; `ENOSPC` if the disk is full.
    """
    began = time.perf_counter()
    emit(PassBegun(targets, sum(output.size for output in work.outputs)))
    stop = threading.Event()
    count = threads or platform.cpu_count()
    try:
        with (
            span("pass", targets=targets, outputs=len(work.outputs), steps=len(work.steps)),
            Outputs(work.outputs, emit, stop=stop, threads=count, durable=durable) as outputs,
        ):
            jobs = _unshared(work, outputs, emit)
            outputs.allocate(bytes_copied(work.copies) - bytes_copied(jobs))
            outputs.start(8 * chunk)  # room for float64
            crew = Crew(work, jobs, outputs, emit, stop, threads=count, chunk=chunk, device=device)
            if crew.needs_torch:
                torch_import.warm_up()
            crew.run()
    finally:
        emit(PassEnded())
    waited = max(0.0, torch_import.TORCH.since - began) if crew.needs_torch else 0.0
    return PassResult(crew.results, [crew.seen[id(group)] for group in work.unseen], waited, crew.learnt)


def _unshared(work: Pass, outputs: Outputs, emit: Emit) -> list[Job]:
    """Return the jobs of a pass, without bytes that outputs share with other files already.

    Pages are shared before space is allocated, as shared ones need none.
    """
    left = [shared(job, outputs, emit) if isinstance(job, Copy) else job for job in schedule(work)]
    return [job for job in left if job is not None]
