"""File systems of one's own: in memory, or in an image file behind a loop device. For root; all is unmounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["KINDS", "loop", "make_image", "tmpfs", "used"]

KINDS = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
"""How to make each file system."""
_SIZES = {"ext4": 64, "xfs": 320, "btrfs": 160}
"""MiB that each takes at least, and a little more. Images are sparse."""


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory."""
    folder.mkdir(parents=True)
    command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield folder
    finally:
        command("umount", str(folder))


def make_image(image: Path, kind: str, mebibytes: int = 0) -> Path:
    """Make an image of an empty file system."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(max(mebibytes, _SIZES[kind]) << 20)
    command(*KINDS[kind], str(image))
    return image


@contextmanager
def loop(image: Path, folder: Path, options: str = "") -> Iterator[Path]:
    """Mount an image."""
    folder.mkdir(parents=True, exist_ok=True)
    command("mount", "-o", ",".join(filter(None, ("loop", options))), str(image), str(folder))
    try:
        yield folder
    finally:
        command("umount", str(folder))


def used(folder: Path) -> int:
    """Return the bytes in use on a file system, once all is written."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.sync()
        found = os.fstatvfs(fd)
    finally:
        os.close(fd)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def command(*words: str) -> None:
    """Run a command of the system, which must go well."""
    assert os.geteuid() == 0, "these tests mount file systems: run them as root"
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`{' '.join(words)}`: {done.stderr.strip()}"
