"""Ending when asked to: in order if that is soon, and in any case before anyone wonders.

Ctrl-C, SIGTERM and SIGHUP raise `KeyboardInterrupt` in the main thread, once; on its way up locks are given back, files
closed and scratch files removed. But Python runs handlers only between two steps of its own, and the main thread waits
for those that work for it: a call that decomposes a matrix may take a minute. So a thread listens too, by way of the
descriptor that the system's handler itself writes to. When there was no end within `PATIENCE` seconds it removes the
scratch files, says what there is to say, and ends the process whatever the others do: as a kill would, which a build
survives at any instruction.
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
"""Seconds from a request to end to the end that waits for nobody: on a busy machine what is left of the two that are
promised may pass before the listening thread has the interpreter, and the kernel has given back some gigabytes."""

_LAST_WORDS = 0.3
"""Seconds for the last words: nobody may be reading them."""

_INTERRUPTED = 130


class Ending:
    """Requests to end, as one process sees them. `last_words` tells the user, when nobody else has."""

    def __init__(self) -> None:
        self.last_words: Callable[[], None] = lambda: None
        self._is_asked = False
        self._may_raise = False
        self._telling = threading.Lock()
        self._numbers = [number for number in map(_number, ("SIGINT", "SIGTERM", "SIGHUP")) if number is not None]

    def listen(self) -> None:
        """Take requests to end from now on. They have no effect before `begin`, unless it is long in coming."""
        receive = self._channel()
        sys.unraisablehook = self._unraisable
        # who ignores one for us (nohup) means it
        self._numbers = [each for each in self._numbers if signal.getsignal(each) is not signal.SIG_IGN]
        for number in self._numbers:
            signal.signal(number, self._asked)
        with suppress(RuntimeError):  # no more threads: the main thread alone will have to do
            threading.Thread(target=self._watch, args=(receive,), name="mergebuild-end", daemon=True).start()

    def begin(self) -> None:
        """Let a request to end raise `KeyboardInterrupt` in the main thread: now, if there was one already."""
        self._may_raise = True
        if self._is_asked:
            raise KeyboardInterrupt

    def finish(self) -> None:
        """Let requests to end be: there is nothing left to be interrupted."""
        self._may_raise = False

    def tell(self) -> None:
        """Return to the one who is to say the last words; whoever else asks waits for the end of the process."""
        self._telling.acquire()

    def _asked(self, _number: int, _frame: FrameType | None) -> None:
        is_first, self._is_asked = not self._is_asked, True
        if is_first and self._may_raise:
            raise KeyboardInterrupt

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Say nothing of a request that came where Python can't raise, such as in a callback: the watcher ends it."""
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)

    def _channel(self) -> Callable[[], bytes]:
        """Have the system's handler write the number of each signal somewhere; return what waits for such numbers."""
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
            pass  # a signal of someone else's
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
        with suppress(Exception):  # such as a closed pipe: there is nowhere left to say it
            self.last_words()


def _number(name: str) -> int | None:
    found: int | None = getattr(signal, name, None)
    return found
