"""Whether a file is still what it was: by its stat data, and by the boot in which they were read.

Only *equal* stat data show that a file did not change. Which of two times is later shows nothing, as clocks may be set
back or forward. A change sets the file's ctime to the current time of the clock. So a change can go unnoticed only if
the clock shows the recorded time again: within the resolution of times. If a file's times differ from the current time
by more than that, earlier or later, every later change shows. A time a year ahead is as good as one of last year.

A build with nothing to do is little else than this, so this module imports next to nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Identity",
    "Moment",
    "boot_id",
    "date",
    "epoch",
    "grain_of",
    "has_fine_times",
    "identity",
    "identity_of",
    "is_file",
    "is_folder",
    "is_gone",
    "is_hidden",
    "is_racy",
    "is_rested",
    "leads_nowhere",
]

_NOWHERE = frozenset(
    getattr(errno, name) for name in "ENOENT ENOTDIR ELOOP ENAMETOOLONG EINVAL".split() if hasattr(errno, name)
)
"""Errors for a path at which nothing can be. `EINVAL` is Windows' error for an impossible name."""

_FINE_GRAIN_NS = 20_000_000
_COARSE_GRAIN_NS = 2_000_000_000

_REST_NS = 300_000_000_000
"""Kernels write data to disk that is older than half a minute; on a slow disk, this takes longer."""


def is_hidden() -> bool:
    """Return whether `MERGEBUILD_PORTABLE` is set, which hides what only some systems can do."""
    return os.environ.get("MERGEBUILD_PORTABLE", "") not in ("", "0")


def leads_nowhere(error: OSError) -> bool:
    """Whether this error means that nothing is at a path, and not that the path can't be read."""
    return error.errno in _NOWHERE


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a file. Python's own function returns False for a failing disk, too.

    Raises:
        OSError: this can't be found out.
    """
    return stat.S_ISREG(_mode(path))


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a folder.

    Raises:
        OSError: as for `is_file`.
    """
    return stat.S_ISDIR(_mode(path))


def _mode(path: str | os.PathLike[str]) -> int:
    try:
        return os.stat(path).st_mode
    except ValueError:  # no possible path
        return 0
    except OSError as error:
        if leads_nowhere(error):
            return 0
        raise


def is_gone(path: str | os.PathLike[str]) -> bool:
    """Return whether there is certainly nothing at a path. If it can't be read (a failing disk), return False."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:
        return False
    return False


class Identity(NamedTuple):
    """The stat data that tell which file it is and whether it was changed. Times in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identity_of(found: os.stat_result) -> Identity:
    """Return the identity in a `stat` result."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def identity(path: Path) -> Identity:
    """Return a file's identity; links are followed.

    Raises:
        OSError: there is no such file, or its stat data can't be read.
    """
    return identity_of(os.stat(path))


class Moment(NamedTuple):
    """The time by the clock that files get their times from, and by one that is never set. In nanoseconds."""

    wall: int
    steady: int

    @classmethod
    def now(cls) -> Moment:
        """Read both clocks."""
        return cls(time.time_ns(), time.monotonic_ns())


def grain_of(state: Identity) -> int:
    """Return the resolution of a file's times, in nanoseconds: changes further apart certainly have different times.

    Clocks of file systems tick every few milliseconds, on some every second: there all times are whole seconds.
    """
    is_coarse = state.mtime_ns % 1_000_000 == 0 == state.ctime_ns % 1_000_000
    return _COARSE_GRAIN_NS if is_coarse else _FINE_GRAIN_NS


def has_fine_times(state: Identity) -> bool:
    """Whether a file's times are stored with a finer resolution than file systems' clocks tick.

    If it was given a time of its own (`date`), every change shows, even one in the same tick.
    """
    return grain_of(state) == _FINE_GRAIN_NS


def date(path: str | os.PathLike[str]) -> None:
    """Set the times of a file or folder to the current time, with a finer resolution than file systems' clocks tick.

    Raises:
        OSError: times can't be set on this file system, or not by this user.
    """
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def is_racy(state: Identity, since: Moment, until: Moment) -> bool:
    """Whether stat data that were read between two moments may belong to more than one content of the file.

    If not, the file did not change between `since` and the moment when they were read, and every later change shows in
    them. If the clock was set in between, times show nothing, and the answer is True.
    """
    set_by = (until.wall - since.wall) - (until.steady - since.steady)
    if abs(set_by) > _FINE_GRAIN_NS:
        return True
    grain = grain_of(state)
    return any(since.wall - grain < each < until.wall + grain for each in (state.mtime_ns, state.ctime_ns))


def is_rested(state: Identity, now: Moment) -> bool:
    """Whether a file has not changed for so long that its content is on the disk, and would survive a power cut.

    False if its time is in the future.
    """
    return max(state.mtime_ns, state.ctime_ns) <= now.wall - _REST_NS


def boot_id() -> str:
    """Return an id that changes when the machine is started; `""` if unknown (then nothing is believed across a start).

    `MERGEBUILD_BOOT_ID` in the environment replaces it.
    """
    given = os.environ.get("MERGEBUILD_BOOT_ID")
    if given is not None:
        return given
    return "" if is_hidden() else _boot()


def epoch(device: int) -> str:
    """Return an id that changes when a file system may have lost recent writes.

    It consists of the boot id and the number of the file system's disk, which changes each time that a disk is
    attached. `device`: as in a file's stat data.
    """
    return f"{boot_id()} {'' if is_hidden() else _disk(device)}".rstrip()


@cache
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


@cache
def _disk(device: int) -> str:
    """Return the number that the kernel gave to a disk when it appeared; `""` if unknown."""
    if not hasattr(os, "major"):
        return ""
    for number in (device, _backing(device)):
        folder = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
        for each in ("diskseq", "../diskseq"):  # a partition has its disk's
            try:
                with open(f"{folder}/{each}", encoding="ascii") as file:
                    return file.read().strip()
            except OSError:
                continue
    return ""


def _backing(device: int) -> int:
    """Return the disk of a file system that has a device number of its own, such as Btrfs; 0 if there is none."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields, _, rest = line.partition(" - ")
                if fields.split(" ", 3)[2] == wanted:
                    return os.stat(rest.split(" ")[1]).st_rdev
    except (OSError, IndexError):
        return 0
    return 0
