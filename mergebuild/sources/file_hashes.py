"""The SHA-256 of single files of a folder, each remembered as long as its stat data are the same.

A folder's own hash is of the list of these, so if a tokenizer was edited only the tokenizer is read, and not the
shards. A file that changed so recently that its stat data may be those of two contents is read each time.
"""

from __future__ import annotations

from pathlib import Path

from mergebuild.sources import hashes
from mergebuild.store import SourceMemory, SourceRow
from mergebuild.system import platform
from mergebuild.system.filestate import Identity, Moment, epoch, identity, is_racy, is_rested

__all__ = ["FileHashes"]


class FileHashes:
    """The SHA-256 of files, remembered by a store."""

    def __init__(self, memory: SourceMemory) -> None:
        self._memory = memory

    def known(self, path: Path) -> str | None:
        """Return the remembered SHA-256 of a file as it is now; None if there is none.

        Raises:
            OSError: there is no such file, or its stat data can't be read.
        """
        found = self._row(identity(path))
        return found.sha256 if found else None

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file, reading it unless it is remembered.

        Raises:
            OSError: it can't be read.
        """
        since, state = Moment.now(), identity(path)
        known = self._row(state)
        if known and known.sha256:
            return known.sha256
        is_settled = not is_racy(state, since, Moment.now()) and not platform.has_writer(path)
        found = hashes.sha256(path)
        if is_settled and identity(path) == state:
            self._remember(state, known, found)
        return found

    def _remember(self, state: Identity, known: SourceRow | None, sha256: str) -> None:
        """Remember the SHA-256 of a file; `known`: what is remembered of it, if anything is."""
        own_epoch = "" if is_rested(state, Moment.now()) else epoch(state.device)
        row = known or SourceRow(state, None, None, None, epoch=own_epoch)
        self._memory.remember_source(row._replace(sha256=sha256))

    def _row(self, state: Identity) -> SourceRow | None:
        return self._memory.source(state, epoch(state.device))
