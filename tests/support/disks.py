"""A file system that shares blocks, if the tests may mount one; otherwise an ordinary folder."""

from __future__ import annotations

import lzma
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Disk", "small_disk"]

# An empty Btrfs in 16 MiB (`truncate -s 16M F; mkfs.btrfs --mixed F; xz F`).
BTRFS = Path(__file__).parent / "data" / "btrfs-16mib.img.xz"


@dataclass(frozen=True)
class Disk:
    """A folder, and whether its file system is known to share blocks."""

    folder: Path
    shares: bool


@contextmanager
def small_disk(space: Path) -> Iterator[Disk]:
    """Mount an empty Btrfs within the context, with image and mount point in `space`; if not allowed, give a folder."""
    image, folder = space / "image", space / "mounted"
    folder.mkdir()
    image.write_bytes(lzma.decompress(BTRFS.read_bytes()))
    try:
        mounted = (
            subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        mounted = False
    try:
        yield Disk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
