"""Whether a file is still what it was: its stat data, what these can miss, and the boot that they were taken in.

That a file did not change is only ever told by *equal* stat data; which time is later says nothing, for clocks are set
back and forward. A change sets the file's ctime to what the clock says then. So it can hide only where the time on
record is one that the clock shows once more: within the grain that times are kept in. Of a file whose times lie more
than a grain from what the clock shows now, before it or behind, every later change shows. A time a year ahead is as
good as one of last year.

A build with nothing to do is little else, so this module imports next to nothing.
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
"""What a system answers of a path at which nothing can be. `EINVAL` is Windows' word for an impossible name."""

_FINE_GRAIN_NS = 20_000_000
_COARSE_GRAIN_NS = 2_000_000_000

_REST_NS = 300_000_000_000
"""Kernels write back what is older than half a minute; where the disk is slow, that takes its time."""


def is_hidden() -> bool:
    """Return whether `MERGEBUILD_PORTABLE` hides what only some systems have."""
    return os.environ.get("MERGEBUILD_PORTABLE", "") not in ("", "0")


def leads_nowhere(error: OSError) -> bool:
    """Whether this is what a system says of a path at which there is nothing, and not of one that it can't look at."""
    return error.errno in _NOWHERE


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path leads to a file. Python's own answer is no, too, where a disk fails.

    Raises:
        OSError: it can't be known.
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
    """Return whether there surely is nothing at a path. What can't be looked at (a failing disk) may be there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:
        return False
    return False


class Identity(NamedTuple):
    """What a file's `stat` says of which file it is and whether it was touched. Times in nanoseconds."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identity_of(found: os.stat_result) -> Identity:
    """Return the identity in a `stat` result."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def identity(path: Path) -> Identity:
    """Return a file's identity, through links.

    Raises:
        OSError: there is no such file, or it can't be asked.
    """
    return identity_of(os.stat(path))


class Moment(NamedTuple):
    """A reading of the clock that files are dated by, and of one that nobody sets. In nanoseconds."""

    wall: int
    steady: int

    @classmethod
    def now(cls) -> Moment:
        """Read both clocks."""
        return cls(time.time_ns(), time.monotonic_ns())


def grain_of(state: Identity) -> int:
    """Return how far apart two changes of a file must be for their times to differ for sure, in nanoseconds.

    Clocks of file systems tick in milliseconds, on some in whole seconds: there no time has a fraction.
    """
    is_coarse = state.mtime_ns % 1_000_000 == 0 == state.ctime_ns % 1_000_000
    return _COARSE_GRAIN_NS if is_coarse else _FINE_GRAIN_NS


def has_fine_times(state: Identity) -> bool:
    """Whether a file's times are kept finer than clocks of file systems tick.

    Of one that was given a time of its own (`date`) every change shows then, in the same tick too.
    """
    return grain_of(state) == _FINE_GRAIN_NS


def date(path: str | os.PathLike[str]) -> None:
    """Give a file or folder a time of its own: now, and finer than the tick by which a file system dates changes.

    Raises:
        OSError: some file systems let nobody set times, and none lets everybody.
    """
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def is_racy(state: Identity, since: Moment, until: Moment) -> bool:
    """Whether stat data taken between two moments may be those of more than one content of the file.

    If not, the file did not change between `since` and the moment when they were taken, and every later change shows
    in them. When the clock was set in between, no time says anything, and the answer is yes.
    """
    set_by = (until.wall - since.wall) - (until.steady - since.steady)
    if abs(set_by) > _FINE_GRAIN_NS:
        return True
    grain = grain_of(state)
    return any(since.wall - grain < each < until.wall + grain for each in (state.mtime_ns, state.ctime_ns))


def is_rested(state: Identity, now: Moment) -> bool:
    """Whether a file has not changed for so long that its content is on the disk, and would outlive a power cut.

    Of a time in the future that is not known.
    """
    return max(state.mtime_ns, state.ctime_ns) <= now.wall - _REST_NS


def boot_id() -> str:
    """Return what changes when the machine starts anew, `""` where it is not known (then trust nothing across it).

    `MERGEBUILD_BOOT_ID` in the environment stands in for it.
    """
    given = os.environ.get("MERGEBUILD_BOOT_ID")
    if given is not None:
        return given
    return "" if is_hidden() else _boot()


def epoch(device: int) -> str:
    """Return what changes when a file system may have lost what was written to it last.

    That is the boot, and the number of the file system's disk, which is another each time that a disk is plugged in.
    `device`: as a file's `stat` gives it.
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
    """Return the number that the kernel gave a disk when it appeared; `""` where that is not known."""
    if not hasattr(os, "major"):
        return ""
    for number in (device, _backing(device)):
        folder = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
        for each in ("diskseq", "../diskseq"):  # of a partition, its disk's
            try:
                with open(f"{folder}/{each}", encoding="ascii") as file:
                    return file.read().strip()
            except OSError:
                continue
    return ""


def _backing(device: int) -> int:
    """Return the disk of a file system that has a device number of its own, as Btrfs does; 0 if there is none."""
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
