"""Measures one process from start to end: its time, its peak memory, and the bytes that it read and wrote.

Time ends when the kernel reports the end of the process (a pidfd becomes readable). The kernel keeps a high-water mark
of the resident size, but not of anonymous memory (`RssAnon`), which is sampled every few milliseconds. Bytes are the
kernel's counts at the block layer, read after the end of the process and before it is reaped; they include children
that it waited for.
"""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ProcessFailedError", "Sample", "even_out", "measure", "parse_counters"]

_TOUCHED = 1 << 32
_TOUCH = "import mmap, sys; m = mmap.mmap(-1, int(sys.argv[1])); [m.write(b'1' * 65536) for _ in range(len(m) >> 16)]"

_INTERVAL_MS = 10
_KIB = 1024


class ProcessFailedError(Exception):
    """A measured process ended with an error, so there are no measurements."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurements of one run of one process, in seconds and bytes.

    `anonymous` is the peak of memory that no file backs, `resident` that of all pages in memory, with mapped files.
    `read` counts bytes fetched from storage (not from the page cache), `written` bytes sent to storage. `extra` has
    further numbers of the arm, such as the program's own timing.
    """

    seconds: float
    cpu_seconds: float
    anonymous: int
    resident: int
    read: int
    written: int
    extra: Mapping[str, float] = field(default_factory=dict)


def parse_counters(text: str) -> dict[str, int]:
    """Return the numbers of `NAME: NUMBER [kB]` lines, as in /proc, in bytes; other lines are ignored."""
    counters = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        match rest.split():
            case [number] if number.isdigit():
                counters[name] = int(number)
            case [number, "kB"] if number.isdigit():
                counters[name] = int(number) * _KIB
            case _:
                pass
    return counters


def even_out() -> None:
    """Touch free memory, 4 GB or half of it if that is less, and release it.

    On a virtual machine, the first touch of pages that the host has taken back takes several times longer. Without
    this, the arm that runs after a process of many gigabytes would pay for that, and the next one would not.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    subprocess.run([sys.executable, "-c", _TOUCH, str(max(1 << 16, min(_TOUCHED, free // 2)))], check=True)


def measure(command: Sequence[str], *, folder: Path, log: Path) -> tuple[Sample, str]:
    """Run a command in a folder to its end; return its measurements and its output on stdout.

    Its output on stderr is written to `log`.

    Raises:
        ProcessFailedError: Its exit code is not 0.
    """
    with log.open("wb") as errors, log.with_suffix(".out").open("w+b") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        anonymous, resident = _watch(process.pid)
        seconds = time.perf_counter() - began
        counters = parse_counters(Path(f"/proc/{process.pid}/io").read_text(encoding="ascii"))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if process.returncode:
        tail = log.read_text(errors="replace")[-2000:]
        raise ProcessFailedError(f"{' '.join(command)}\nended with {process.returncode}\n{tail}{said[-2000:]}")
    sample = Sample(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        anonymous=anonymous,
        resident=max(resident, _own_peak(usage)),
        read=counters["read_bytes"],
        written=counters["write_bytes"],
    )
    return sample, said


def _own_peak(usage: resource.struct_rusage) -> int:
    """Return the peak resident size that the kernel kept for a child, in bytes.

    0 if it is not larger than this process's: a child starts with its parent's memory, so the peak may be the parent's.
    """
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage.ru_maxrss * _KIB if usage.ru_maxrss > inherited else 0


def _watch(pid: int) -> tuple[int, int]:
    """Wait for the end of a process without reaping it; return its peaks of anonymous and resident memory in bytes."""
    anonymous = resident = 0
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while True:
            counters = parse_counters(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
            anonymous = max(anonymous, counters.get("RssAnon", 0))
            resident = max(resident, counters.get("VmHWM", 0))
            if poll.poll(_INTERVAL_MS):
                return anonymous, resident
    finally:
        os.close(handle)
