"""A trace of what a process did, as a file for Perfetto and chrome://tracing: threads are rows, spans are bars.

The file is valid JSON at any moment: new events overwrite its end, and are followed by a new end. So it can be read
after a failure, an interrupt or a kill, and lacks a fraction of a second at most. It never replaces a file that is no
trace of ours, so that a mistyped name can't destroy a model.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from mergebuild.system.spans import TimeSpan, Track, listening, tracks

__all__ = ["NoTraceFileError", "TraceFile"]

_HEAD = '{"otherData":{"program":"mergebuild"},"displayTimeUnit":"ms","traceEvents":[\n'
_TAIL = "\n]}\n"

_PAUSE = 100_000_000
"""Nanoseconds between two writes to the file."""

_MOST_PARTS = 64
"""The most items that are shown of a fact that is a sequence."""

_PATIENCE = 0.2
"""Seconds for which the end of the process waits for a thread that is writing."""


class NoTraceFileError(Exception):
    """A trace can't be written to the file that was asked for; the text says why."""


class TraceFile:
    """A trace being written. As a context: it has the spans that end in its block, and those begun but not ended."""

    def __init__(self, path: str, command: str) -> None:
        """Create the file. `command`: part of the process's name in it.

        Raises:
            NoTraceFileError: it can't be written, or something else is there.
        """
        self.lost = ""
        """Why the trace ends before its block did; empty if it does not."""
        self._lock = threading.Lock()
        self._listening = ExitStack()
        self._process = os.getpid()
        self._began = self._written = time.perf_counter_ns()
        self._end = 0
        self._waiting: list[str] = []
        """Events that are not in the file yet."""
        self._named: set[int] = set()
        """The threads whose names are in the file."""
        self._has_any = False
        self._is_closed = False
        try:
            self._file = _created(Path(path))
            self._put(_HEAD)
            self._add(ph="M", name="process_name", tid=0, args={"name": f"mergebuild {command}".rstrip()})
            self._flush()
        except OSError as error:
            raise NoTraceFileError(f"cannot be written: {_reason(error)}") from error

    def __enter__(self) -> Self:
        self._listening.enter_context(listening(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        self.close()

    def ended(self, track: Track, ended: TimeSpan) -> None:
        """Add a span that ended in a thread."""
        with self._lock:
            if self._is_closed:
                return
            self._event(track, ended, ph="X", dur=ended.took / 1000)
            if time.perf_counter_ns() - self._written > _PAUSE:
                self._try_to_flush()

    def process_ends(self) -> None:
        """Write what is known, as nothing will follow."""
        self.close()

    def close(self) -> None:
        """Write what is known, including the spans that have not ended."""
        if not self._lock.acquire(timeout=_PATIENCE):
            return  # the thread that holds it is writing, and leaves the file valid
        try:
            if not self._is_closed:
                for track in tracks():
                    for each in list(track.open):
                        self._event(track, each, ph="B")
                self._try_to_flush()
                self._end_it()
        finally:
            self._lock.release()

    def _event(self, track: Track, each: TimeSpan, **more: object) -> None:
        if track.number not in self._named:
            self._named.add(track.number)
            self._add(ph="M", name="thread_name", tid=track.number, args={"name": track.name})
        facts = {name: _shown(value) for name, value in dict(each.facts).items()}
        began = (each.began - self._began) / 1000
        self._add(name=each.name, cat=str(each.kind), tid=track.number, ts=began, args=facts, **more)

    def _add(self, **event: object) -> None:
        self._waiting.append(json.dumps({"pid": self._process, **event}, separators=(",", ":")))

    def _try_to_flush(self) -> None:
        """Write the waiting events; a full disk ends the trace, but not the build."""
        try:
            self._flush()
        except OSError as error:
            self.lost = _reason(error)
            with suppress(OSError):
                self._file.truncate(self._end)
                self._write(_TAIL.encode())  # into space that the file had before
            self._end_it()

    def _flush(self) -> None:
        """Write the waiting events over the end of the file, followed by a new end."""
        if self._waiting:
            self._put((",\n" if self._has_any else "") + ",\n".join(self._waiting))
            self._has_any = True
            self._waiting.clear()
        self._written = time.perf_counter_ns()

    def _put(self, text: str) -> None:
        data = text.encode()
        self._write(data + _TAIL.encode())
        self._end += len(data)

    def _write(self, data: bytes) -> None:
        self._file.seek(self._end)
        if (self._file.write(data) or 0) < len(data):
            raise OSError("it takes no more")

    def _end_it(self) -> None:
        self._is_closed = True
        with suppress(OSError):
            self._file.close()


def _created(path: Path) -> FileIO:
    """Return a new file, which replaces an earlier trace.

    Raises:
        NoTraceFileError: something else is there.
        OSError: it can't be created.
    """
    with suppress(FileNotFoundError):
        _check(path)
        path.unlink()
    return FileIO(path, "x")


def _check(path: Path) -> None:
    """Refuse an existing file, unless it is empty or a trace of ours."""
    if path.exists() and not path.is_file():
        raise NoTraceFileError("is there, and is no file")
    with path.open("rb") as file:
        if file.read(len(_HEAD)) not in (b"", _HEAD.encode()):
            raise NoTraceFileError("is there, and is no trace of mergebuild")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _shown(value: object) -> object:
    """Return a fact for JSON: the name of a value that has one, the items of a sequence."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return value.hex()
    if (name := getattr(value, "name", None)) is not None:
        return str(name)
    return _parts(value) if isinstance(value, list | tuple) else str(value)


def _parts(values: Sequence[object]) -> list[object]:
    shown = [_shown(each) for each in values[:_MOST_PARTS]]
    return [*shown, f"and {len(values) - _MOST_PARTS} more"] if len(values) > _MOST_PARTS else shown
