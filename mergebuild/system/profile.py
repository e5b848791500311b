"""Where the time of a command went: spans, added up.

A phase counts its own time without that of the phases inside it, so that phases add up to the time of the command. The
time of all threads is added up, each second once: for the innermost span.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple, Self

from mergebuild.system.spans import KINDS, Kind, TimeSpan, Track, listening

__all__ = ["Profile", "Seconds"]

_OF_THREADS = (Kind.COMPUTING, Kind.READING, Kind.WRITING, Kind.WAITING)


class Seconds(NamedTuple):
    """The result of a profile, in seconds."""

    total: float
    """From the profile's beginning to its end."""
    phases: dict[str, float]
    """By name, in the order of `KINDS`; only phases that occurred. The rest of the total is `other`."""
    threads: dict[str, float]
    """What threads did, by kind, added up over all threads."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object `profile`."""
        return {
            "seconds": round(self.total, 3),
            "phases": {name: round(seconds, 3) for name, seconds in self.phases.items()},
            "threads": {name: round(seconds, 3) for name, seconds in self.threads.items()},
        }


class Profile:
    """Adds up the spans that end inside its block: phases of the thread that enters it, and what all threads do."""

    def __init__(self) -> None:
        self._phases: Counter[str] = Counter()
        self._threads: Counter[Kind] = Counter()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._own = threading.current_thread()
        self._began = 0
        self._took = 0

    def __enter__(self) -> Self:
        self._own, self._began = threading.current_thread(), time.perf_counter_ns()
        self._stack.enter_context(listening(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._took = time.perf_counter_ns() - self._began

    def ended(self, track: Track, ended: TimeSpan) -> None:
        """Add a span that ended in a thread."""
        with self._lock:
            if ended.kind is not Kind.PHASE:
                self._threads[ended.kind] += ended.took - ended.inside
            elif track.thread is self._own:
                self._phases[ended.name] += ended.took - ended.phases

    def process_ends(self) -> None:
        """Do nothing: the result is not needed any more."""

    def seconds(self) -> Seconds:
        """Return the result."""
        phases = {name: self._phases[name] / 1e9 for name in KINDS if name in self._phases}
        rest = self._took / 1e9 - sum(phases.values())
        return Seconds(
            self._took / 1e9,
            {**phases, "other": max(0.0, rest)},
            {str(kind): self._threads[kind] / 1e9 for kind in _OF_THREADS},
        )
