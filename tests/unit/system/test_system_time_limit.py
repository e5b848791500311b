"""Laws of `mergebuild.system.time_limit`: of this thread's own time, and heard in time."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from mergebuild.system.time_limit import time_limit


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide nothing, even when the whole suite runs with all hidden."""
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)


def test_a_limit_of_time_ends_what_would_take_for_ever() -> None:
    with pytest.raises(TimeoutError), time_limit(0.05):
        re.search(r"(a|a)*$x", "a" * 100)
    with time_limit(60):
        assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 50
        with time_limit(0.001):  # another's alarm is left as it is
            _spend(0.02)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL


def _spend(seconds: float) -> None:
    """Take so much processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        hashlib.sha256(bytes(1 << 20)).digest()


@pytest.mark.processes
def test_a_limit_of_time_does_not_count_while_the_process_is_suspended() -> None:
    """Ctrl-Z, a closed lid, a paused container: the processor time that is left is the same after it."""
    program = (
        "import os, signal\n"
        "from mergebuild.system.time_limit import time_limit\n"
        "with time_limit(0.1):\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    print('went on')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MERGEBUILD_PORTABLE"}
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(0.3)  # longer than the limit is, by the wall clock
    os.kill(child.pid, signal.SIGCONT)
    assert child.communicate(timeout=60)[0] == b"went on\n"
    assert child.returncode == 0


def test_a_limit_of_time_does_not_count_what_other_threads_do() -> None:
    """They take the time of the process, which the alarm goes by; the limit is of what happens inside."""
    rings: list[float] = []
    beside = threading.Thread(target=_spend, args=(0.3,))
    set_alarm = signal.setitimer

    def noted(which: int, seconds: float) -> tuple[float, float]:
        rings.append(seconds)
        return set_alarm(which, seconds)

    with pytest.MonkeyPatch.context() as patch, time_limit(0.1):
        patch.setattr(signal, "setitimer", noted)
        beside.start()
        beside.join()
    assert len(rings) > 1, "it never rang, so nothing was tried"


def test_a_limit_of_time_ends_what_takes_too_long_while_other_threads_work() -> None:
    """An alarm that rang early is set again."""
    beside = threading.Thread(target=_spend, args=(0.2,))

    def work() -> None:
        beside.start()
        beside.join()
        re.search(r"(a|a)*$x", "a" * 100)

    with pytest.raises(TimeoutError), time_limit(0.1):
        work()


def test_a_limit_of_time_that_rang_is_not_heard_behind_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python hears a signal some instructions after it came: what was done in time is not undone then."""
    handlers: list[Callable[[int, object], None]] = []
    real = signal.signal

    def noted(number: int, handler: Callable[[int, object], None]) -> object:
        handlers.append(handler)
        return real(number, handler)

    monkeypatch.setattr(signal, "signal", noted)
    with time_limit(0.000001):
        pass
    handlers[0](signal.SIGVTALRM, None)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_in_another_thread_there_is_no_limit_of_time() -> None:
    found: list[bool] = []

    def work() -> None:
        with time_limit(0.001):
            _spend(0.02)
        found.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]
