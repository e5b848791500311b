"""Files mapped for reading, each once, for all workers of a pass."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

__all__ = ["Mappings"]


class Mappings:
    """Maps a file when it is first asked for."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._lock = threading.Lock()

    def __getitem__(self, path: Path) -> mmap.mmap:
        with self._lock:
            found = self._maps.get(path)
            if found is None:
                with path.open("rb") as file:
                    found = self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return found

    def close(self) -> None:
        """Drop the mappings; one that a tensor still views goes with that tensor."""
        self._maps.clear()
