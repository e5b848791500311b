"""The jobs of a pass: what each reads, whether it needs torch, and which is next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence

from mergebuild.engine import capable, torch_import
from mergebuild.engine.requirements import PROCESSORS
from mergebuild.engine.schedule import Cluster, Job, Look
from mergebuild.engine.work import Copy, Leaf, UnseenGroup
from mergebuild.system import platform

__all__ = ["JobQueue", "bytes_copied", "is_compiled", "reads_of"]

_AHEAD_SHARE = 4
"""Until torch is imported, tensors are hashed up to this part of the machine's memory: they are read again for
computing, and should still be in the page cache then."""


def reads_of(job: Job) -> Sequence[Leaf]:
    """Return all leaves that a job reads."""
    match job:
        case Copy():
            return ()
        case Cluster():
            return job.reads
        case UnseenGroup():
            return job.unhashed
        case Look():
            return job.part.leaves


def is_compiled(job: Job, device: str) -> bool:
    """Whether a job is done without torch, if this device is to compute."""
    match job:
        case Copy():
            return True
        case Look():
            return False
        case Cluster():
            return device in PROCESSORS and capable.can(job)
        case UnseenGroup():
            return device in PROCESSORS and capable.can_group(job)


def bytes_copied(jobs: Iterable[Job]) -> int:
    """Return how many bytes jobs copy."""
    return sum(job.location.size for job in jobs if isinstance(job, Copy))


class JobQueue:
    """Jobs in order, for several threads; and clusters that are put off until torch is imported."""

    def __init__(self, jobs: Iterable[Job], stop: threading.Event) -> None:
        self._jobs = iter(jobs)
        self._stop = stop
        self._lock = threading.Lock()
        self._put_off: deque[Cluster] = deque()
        """Clusters that were hashed before torch was imported, with `_ahead` bytes in all."""
        self._ahead = 0
        self._most_ahead = platform.memory_bytes() // _AHEAD_SHARE

    def put_off(self, cluster: Cluster, size: int) -> None:
        """Put off a cluster with so many bytes, until torch is imported or too much waits for it."""
        with self._lock:
            self._put_off.append(cluster)
            self._ahead += size

    def take(self) -> tuple[Job | None, bool]:
        """Return the next job, or None; and whether it is new, so that its leaves were not read yet."""
        with self._lock:
            if self._stop.is_set():
                return None, False
            if self._put_off and (torch_import.TORCH.is_there.is_set() or self._ahead > self._most_ahead):
                return self._put_off.popleft(), False
            job = next(self._jobs, None)
            if job is None and self._put_off:
                return self._put_off.popleft(), False
        return job, job is not None
