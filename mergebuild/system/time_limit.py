"""A limit on the processor time of a block.

Only the main thread can be interrupted, on a system with alarms, and if the program has set no alarm of its own;
otherwise there is no limit.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mergebuild.system.filestate import is_hidden

__all__ = ["time_limit"]

_SHORTEST_ALARM: Final = 0.001
"""Seconds; an alarm set to 0 would never ring."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt a block after so many seconds: a regular expression may take practically forever.

    The seconds are this thread's processor time. The time doesn't run while the process is suspended, or waits for a
    busy processor, so whether a block is in time depends neither on the rest of the machine nor on other threads of the
    process, such as an import in the background. But systems have alarms only for the time of all threads together.
    Such an alarm rings at the latest when this thread's time is over; if it rings earlier, because other threads
    worked, it is set again for the rest. (It is `ITIMER_VIRTUAL`, which leaves out the system's work for the process:
    blocks with a limit need none, and `ITIMER_PROF` is left to profilers.)

    Only the main thread can be interrupted, on a system with alarms, and if the program has set no alarm of its own;
    otherwise there is no limit.

    Raises:
        TimeoutError: the time is over.
    """
    alarm = getattr(signal, "SIGVTALRM", None)
    if is_hidden() or alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if any(signal.getitimer(signal.ITIMER_VIRTUAL)):
        yield
        return
    end = time.thread_time() + seconds
    is_inside = True

    def ring(_number: int, _frame: object) -> None:
        left = end - time.thread_time()
        if is_inside and left <= 0:
            raise TimeoutError
        if is_inside:
            signal.setitimer(signal.ITIMER_VIRTUAL, max(left, _SHORTEST_ALARM))

    before = signal.signal(alarm, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, max(seconds, _SHORTEST_ALARM))
    try:
        yield
    finally:
        is_inside = False  # the alarm may have rung already, with its handler still to be called
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(alarm, before)
