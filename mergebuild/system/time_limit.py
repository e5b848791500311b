"""A limit on the processor time of what happens inside a block.

Only the main thread of a system with alarms can be interrupted, and none whose program has set its own alarm;
elsewhere there is no limit.
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
"""Seconds; an alarm that is set to none never rings."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt what happens inside after so many seconds: a regular expression may take longer than the sun shines.

    Seconds of processor time, and of this thread's own. Nothing is used up while the process is suspended, or waits for
    a processor that others have, so what is in time does not depend on what else the machine does; nor on what the
    process does beside it, such as an import in the background. A system has alarms for the time of all threads
    together only. That one rings at the latest when this thread's own time is over; if it rings before, because others
    worked, it is set again for what is left. (It is `ITIMER_VIRTUAL`, which leaves out the system's work for the
    process: what is limited asks for none, and `ITIMER_PROF` is left to profilers.)

    Only the main thread of a system with alarms can be interrupted, and none whose program has set its own alarm;
    elsewhere there is no limit.

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
        is_inside = False  # it may have rung already, and only be heard now
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(alarm, before)
