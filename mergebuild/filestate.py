"""Whether a file is still what it was: its stat data, what these can miss, and the boot that they were taken in.

A build with nothing to do is little else, so this module imports next to nothing; `portable` offers it too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Identity", "boot_id", "epoch", "identity", "identity_of", "is_hidden", "is_racy"]

_FINE_GRAIN_NS = 20_000_000
_COARSE_GRAIN_NS = 2_000_000_000


def is_hidden() -> bool:
    """Return whether `MERGEBUILD_PORTABLE` hides what only some systems have."""
    return os.environ.get("MERGEBUILD_PORTABLE", "") not in ("", "0")


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


def is_racy(state: Identity, now_ns: int) -> bool:
    """Whether a file changed so shortly before `now_ns` that a later change may not show in its stat data.

    Clocks of file systems tick in milliseconds, on some in whole seconds: a time without a fraction is taken for such.
    """
    newest = max(state.mtime_ns, state.ctime_ns)
    grain = _COARSE_GRAIN_NS if newest % 1_000_000 == 0 else _FINE_GRAIN_NS
    return newest > now_ns - grain


def boot_id() -> str:
    """Return what changes when the machine starts anew, `""` where it is not known (then trust nothing across it).

    `MERGEBUILD_BOOT_ID` in the environment stands in for it.
    """
    given = os.environ.get("MERGEBUILD_BOOT_ID")
    if given is not None:
        return given
    if is_hidden():
        return ""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def epoch(device: int) -> str:
    """Return what changes when a file system may have lost what was written to it last.

    That is the boot, and the number of the file system's disk, which is another each time that a disk is plugged in.
    `device`: as a file's `stat` gives it.
    """
    return f"{boot_id()} {_disk(device)}".rstrip()


def _disk(device: int) -> str:
    """Return the number that the kernel gave a disk when it appeared; `""` where that is not known."""
    if is_hidden() or not hasattr(os, "major"):
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
