"""Spans: what a process does, from when to when. Listeners are told of them.

    with span("hash", source="opk", bytes=4_000_000_000):
        ...

A span has a name from the table below, whose kind says what its time counts as, and facts for people. Spans of one
thread nest, so the time of a span includes that of the spans inside it. Listeners (`profile.py` and `trace.py`) are
told of each span when it ends, with its own time and theirs. Without a listener, `span` returns a context that does
nothing: this costs a build only a few hundred nanoseconds for each tensor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

__all__ = [
    "KINDS",
    "Kind",
    "Listener",
    "TimeSpan",
    "Track",
    "is_listened_to",
    "listening",
    "span",
    "tell_of_the_end",
    "tracks",
]


class Kind(StrEnum):
    """What the time of a span is counted as."""

    PHASE = "phase"
    """A part of a command, one after another in the main thread."""
    COMPUTING = "computing"
    """Arithmetic, and the reading of mapped files that goes with it."""
    READING = "reading"
    WRITING = "writing"
    WAITING = "waiting"
    """Waiting for another thread, another process, or torch, with work to do."""
    IDLE = "idle"
    """Waiting without work: the main thread while others work, a thread that has read far enough ahead."""


KINDS: Mapping[str, Kind] = {
    "command": Kind.PHASE,
    "stamp": Kind.PHASE,
    "import": Kind.PHASE,
    "recipe": Kind.PHASE,
    "open": Kind.PHASE,
    "fresh": Kind.PHASE,
    "plan": Kind.PHASE,
    "describe": Kind.PHASE,
    "judge": Kind.PHASE,
    "weigh": Kind.PHASE,
    "refuse": Kind.PHASE,
    "hash": Kind.PHASE,
    "pass": Kind.PHASE,
    "restore": Kind.PHASE,
    "publish": Kind.PHASE,
    "record": Kind.PHASE,
    "make": Kind.COMPUTING,
    "look": Kind.COMPUTING,
    "make at first sight": Kind.COMPUTING,
    "import torch": Kind.COMPUTING,
    "checksum": Kind.READING,
    "read": Kind.READING,
    "read ahead": Kind.READING,
    "copy": Kind.WRITING,
    "write": Kind.WRITING,
    "wait for a block": Kind.WAITING,
    "wait for torch": Kind.WAITING,
    "wait for the store": Kind.WAITING,
    "wait for workers": Kind.IDLE,
}
"""All names of spans, with their kinds."""


class Listener(Protocol):
    """Is told of spans by any thread; one call at a time for each thread."""

    def ended(self, track: Track, ended: TimeSpan) -> None:
        """Receive a span that ended in a thread."""

    def process_ends(self) -> None:
        """Do what must be done before the process ends at once. The calling thread must not wait."""


class Track:
    """The spans of one thread that have not ended, the outermost first."""

    def __init__(self, thread: threading.Thread, number: int) -> None:
        self.thread = thread
        self.name = thread.name
        self.number = number
        self.open: list[TimeSpan] = []


class _Tracks(threading.local):
    """The track of each thread; when a thread has ended, the next one of the same name uses its track."""

    track: Track | None = None


_listeners: tuple[Listener, ...] = ()
_lock = threading.Lock()
_every: list[Track] = []
_own = _Tracks()


def tracks() -> list[Track]:
    """Return the tracks of all threads that had a span while there was a listener."""
    with _lock:
        return list(_every)


def _track() -> Track:
    found = _own.track
    if found is None:
        thread = threading.current_thread()
        with _lock:
            found = next((each for each in _every if each.name == thread.name and not each.thread.is_alive()), None)
            if found is None:
                _every.append(found := Track(thread, len(_every)))
            found.thread, found.open = thread, []
        _own.track = found
    return found


class TimeSpan:
    """Something that a thread does, with its times in nanoseconds by `time.perf_counter_ns`."""

    __slots__ = ("began", "facts", "inside", "kind", "name", "phases", "took")

    def __init__(self, name: str, facts: dict[str, object]) -> None:
        self.name = name
        self.kind = KINDS[name]
        self.facts = facts
        self.began = 0
        self.took = 0
        self.inside = 0
        """The part of `took` that the spans directly inside it took."""
        self.phases = 0
        """The part of `took` that the phases inside it took."""

    def __enter__(self) -> Self:
        _track().open.append(self)
        self.began = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.took = time.perf_counter_ns() - self.began
        if kind is not None:
            self.facts["error"] = kind.__name__
        track = _track()
        while track.open and track.open.pop() is not self:
            pass  # drop a span inside it that never ended: an interrupt came just before its `with` block
        if track.open:
            track.open[-1].inside += self.took
        if self.kind is Kind.PHASE:
            self._count_in_phase_above(track)
        for listener in _listeners:
            listener.ended(track, self)

    def _count_in_phase_above(self, track: Track) -> None:
        """Add the time of a phase to that of the phases inside the one that it is in, if it is in one."""
        above = next((each for each in reversed(track.open) if each.kind is Kind.PHASE), None)
        if above is not None:
            above.phases += self.took


class _NoSpan:
    """The span that is used while there is no listener."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        return None


_NO_SPAN = _NoSpan()


def span(name: str, **facts: object) -> TimeSpan | _NoSpan:
    """Return a context: its block is a span with this name, one of `KINDS`.

    Facts are texts, numbers, or sequences of values with a `name`; they are only read if there is a listener.
    """
    return TimeSpan(name, facts) if _listeners else _NO_SPAN


def is_listened_to() -> bool:
    """Whether there is a listener."""
    return bool(_listeners)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of the spans of all threads that end during this block."""
    global _listeners  # noqa: PLW0603 -- spans are of the whole process
    with _lock:
        _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        with _lock:
            _listeners = tuple(each for each in _listeners if each is not listener)


def tell_of_the_end() -> None:
    """Tell all listeners that the process ends now, whatever its threads do."""
    for listener in _listeners:
        listener.process_ends()
