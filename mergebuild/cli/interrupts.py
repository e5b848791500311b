"""Requests to end (Ctrl-C, SIGTERM, SIGHUP): an orderly end if it comes soon, a forced one after half a second.

A signal raises `KeyboardInterrupt` in the main thread, once; while it propagates, locks are released, files closed and
scratch files removed. But Python runs signal handlers only between two bytecodes of the main thread, and that may be
waiting for worker threads: decomposing a matrix takes up to a minute. So a second thread, the watcher, also learns of
signals, through the descriptor that C's own handler writes to (`signal.set_wakeup_fd`). If the process has not ended
within `PATIENCE` seconds, the watcher removes scratch files, shows the error, and ends the process whatever the other
threads do. That is like a kill, which a build survives at any instruction.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from mergebuild.system import scratch, spans

__all__ = ["PATIENCE", "Ending"]

PATIENCE = 0.5
"""Seconds from a request to the forced end. Users are promised an end within two seconds: on a busy machine
the watcher may have to wait for Python's global lock, and the operating system takes time to free some gigabytes."""

_LAST_WORDS = 0.3
"""Seconds that the watcher waits for the message to be written: a pipe that is not read would block it for ever."""

_INTERRUPTED = 130


class Ending:
    """Requests to end one process. Set `last_words` to the function that shows the user the error at a forced end."""

    def __init__(self) -> None:
        self.last_words: Callable[[], None] = lambda: None
        self._is_asked = False
        self._may_raise = False
        self._telling = threading.Lock()
        self._numbers = [number for number in map(_number, ("SIGINT", "SIGTERM", "SIGHUP")) if number is not None]

    def listen(self) -> None:
        """Handle requests to end from now on.

        Until `begin`, a request raises nothing; if the process still runs `PATIENCE` seconds later, it is ended.
        """
        receive = self._channel()
        sys.unraisablehook = self._unraisable
        # a signal that our parent process has set to be ignored (nohup) stays ignored
        self._numbers = [each for each in self._numbers if signal.getsignal(each) is not signal.SIG_IGN]
        for number in self._numbers:
            signal.signal(number, self._asked)
        with suppress(RuntimeError):  # no thread can be started: only the main thread handles requests
            threading.Thread(target=self._watch, args=(receive,), name="mergebuild-end", daemon=True).start()

    def begin(self) -> None:
        """Let a request to end raise `KeyboardInterrupt` in the main thread; raise it now if one came already."""
        self._may_raise = True
        if self._is_asked:
            raise KeyboardInterrupt

    def finish(self) -> None:
        """Let requests to end raise nothing from now on: the work is done."""
        self._may_raise = False

    def tell(self) -> None:
        """Return in the first thread that calls this, which then shows the error; block any later caller for ever."""
        self._telling.acquire()

    def _asked(self, _number: int, _frame: FrameType | None) -> None:
        is_first, self._is_asked = not self._is_asked, True
        if is_first and self._may_raise:
            raise KeyboardInterrupt

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Hide a `KeyboardInterrupt` raised where Python can't propagate it, such as in a callback.

        The watcher then ends the process.
        """
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)

    def _channel(self) -> Callable[[], bytes]:
        """Have C's handler write the number of each signal to a pipe or socket.

        Returns:
            A function that blocks until numbers are there, and returns them, a byte each.
        """
        if os.name == "nt":
            import socket

            reader, writer = socket.socketpair()
            writer.settimeout(0)
            signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
            return lambda: reader.recv(16)
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        return lambda: os.read(read, 16)

    def _watch(self, receive: Callable[[], bytes]) -> None:
        while not set(receive()).intersection(self._numbers):
            pass  # another signal, with a handler of its own
        time.sleep(PATIENCE)
        scratch.remove_all()
        spans.tell_of_the_end()
        with suppress(RuntimeError):
            words = threading.Thread(target=self._say, daemon=True)
            words.start()
            words.join(_LAST_WORDS)
        os._exit(_INTERRUPTED)

    def _say(self) -> None:
        self.tell()
        with suppress(Exception):  # such as a closed pipe: the error can't be shown anywhere
            self.last_words()


def _number(name: str) -> int | None:
    found: int | None = getattr(signal, name, None)
    return found
