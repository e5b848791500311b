"""A store on disk: its folder, its database, and the three objects that others use: shelf, ledger and publisher.

Outputs are the artifacts: nothing is stored twice. The store itself has only *kept* artifacts (virtual targets that
were asked for, and second names of outputs if the project wants them) and the *history*: superseded outputs, newest
first, up to a budget.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from mergebuild.store.ledger import DiskLedger
from mergebuild.store.locking import REBUILDS, held_if_free
from mergebuild.store.names import scratch_folders
from mergebuild.store.publisher import DiskPublisher
from mergebuild.store.shelf import DiskShelf
from mergebuild.store.state import STATE, State

__all__ = ["DiskStore"]


class DiskStore:
    """A store in a folder of its own. Open for one verb after another (`look_again`); not shared between threads."""

    def __init__(
        self,
        root: Path,
        *,
        project: str,
        history_bytes: int | None = None,
        durable: bool = False,
        patience: float | None = None,
    ) -> None:
        """Open a store, whose folder need not exist yet. `patience`: see `Database`."""
        self.root = root
        self.project = project
        self.state = State(root / STATE, durable=durable, patience=patience)
        """Only used in the store; others use these three:"""
        self.shelf = DiskShelf(self.state, root, project)
        self.ledger = DiskLedger(self.state, project)
        self.publisher = DiskPublisher(
            self.state, self.shelf, root, project, history_bytes=history_bytes, durable=durable
        )

    @property
    def is_on_disk(self) -> bool:
        """Whether it was ever built into; if not, what is learnt is kept in memory until `begin`."""
        return self.state.is_on_disk

    def is_current(self) -> bool:
        """Whether the open database is the one that would be opened now."""
        return self.state.is_current()

    def version(self) -> tuple[int, int]:
        """Return a value that changes when this process or another one writes to the store."""
        return self.state.version()

    def look_again(self, *, patience: float | None) -> None:
        """Forget all checks of files, as another verb begins. `patience`: see `Database`."""
        self.state.wait_for(patience)
        self.shelf.forget()

    def close(self) -> None:
        """Close the database."""
        self.state.close()

    def create(self) -> None:
        """Make the store's folder, with a `.gitignore` that excludes it."""
        is_new = not self.root.exists()
        self.root.mkdir(parents=True, exist_ok=True)
        ignore = self.root / ".gitignore"
        try:
            if not ignore.exists():
                ignore.write_text("*\n")
        except OSError:
            if is_new:
                ignore.unlink(missing_ok=True)
                with suppress(OSError):  # another process uses it already
                    self.root.rmdir()
            raise

    def begin(self, outputs: Iterable[Path], folders: Mapping[Path, bool]) -> list[Path]:
        """Write what is known so far to disk, and remove what killed processes left at these outputs and in the store.

        `folders`: those outputs that are folders, each with whether its former files go into the history. Returns where
        files are now that were in one and aren't ours. The caller holds the lock.
        """
        self.state.write_to_disk()
        aside = self.publisher.go_on(outputs, folders)
        self.remove_scratch()
        return aside

    def remove_scratch(self) -> None:
        """Remove the scratch folders of killed processes, which are as large as all outputs.

        None while one is in use.
        """
        if left := scratch_folders(self.root):
            with suppress(OSError), held_if_free(self.root, REBUILDS) as is_free:
                for each in left if is_free else ():
                    shutil.rmtree(each, ignore_errors=True)
