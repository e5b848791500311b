"""The locks of a store: the kernel's if it has any, so that they end with their process, however that ends.

A process holds `lock` while it changes the store, `verify.lock` while it builds in a scratch folder of the store to
compare bytes, and `lockfile.lock` while it writes a project's lock file. Commands that only read take none, except to
confirm damage. The file `NAME.holder` beside a lock names the last command that took it. It is for the message to
people who wait, and nothing else relies on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.errors import LockTimeoutError
from mergebuild.events import Emit, Notice, silent
from mergebuild.system import locks
from mergebuild.system.spans import span

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["LOCK_FILES", "REBUILDS", "held_if_free", "locked"]

REBUILDS = "verify.lock"
"""The lock that is held while building in a scratch folder."""
LOCK_FILES = "lockfile.lock"
"""The lock that is held while writing the lock file of a project."""


@contextmanager
def locked(root: Path, *, timeout: float | None, what: str, emit: Emit = silent, name: str = "lock") -> Iterator[None]:
    """Hold a lock of the store in the folder `root`. `what` is the command, to name to other processes that wait.

    Raises:
        LockTimeoutError: another process held it for `timeout` seconds.
        OSError: the store cannot be written to.
    """
    import filelock  # here: commands that only read take no lock

    lock = locks.lock_at(root / name)
    holder = root / f"{name}.holder"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        _wait(lock, holder, timeout, emit)
    try:
        with suppress(OSError):  # `gc` must run on a full disk too
            holder.write_text(f"`{what}` (process {os.getpid()})\n", encoding="utf-8", errors="replace")
        yield
    finally:
        lock.release()


def _wait(lock: BaseFileLock, holder: Path, timeout: float | None, emit: Emit) -> None:
    """Wait for a lock that another process holds, after a notice that says which.

    Raises:
        LockTimeoutError: it was held too long.
    """
    import filelock

    who = _named_in(holder)
    emit(Notice(f"waiting for {who}, which uses the store"))
    try:
        with span("wait for the store", holder=who):
            lock.acquire(timeout=-1 if timeout is None else timeout)
    except filelock.Timeout:
        raise _in_use_by(who) from None


def _in_use_by(who: str) -> LockTimeoutError:
    message = f"the store is in use by {who}"
    hint = "wait for it, or give --lock-timeout more time"
    return LockTimeoutError.one("store-locked", message, help=hint)


def _named_in(holder: Path) -> str:
    """Return the process that a lock's file beside it names, in words."""
    who = "another process"
    with suppress(OSError):
        who = holder.read_text(encoding="utf-8", errors="replace").strip() or who
    return who


@contextmanager
def held_if_free(root: Path, name: str) -> Iterator[bool]:
    """Hold a lock of the store if no process does, without waiting; give whether it is held.

    Raises:
        OSError: the store cannot be written to.
    """
    import filelock

    lock = locks.lock_at(root / name)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
