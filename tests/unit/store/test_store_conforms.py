"""The store on disk, and the one in memory that other tests plan with, keep the laws of `mergebuild.testing`."""

from __future__ import annotations

from pathlib import Path

from mergebuild.store import DiskStore, Store
from mergebuild.testing.memory import MemoryStore
from mergebuild.testing.stores import LedgerTests, PublisherTests, ShelfTests


class _OnDisk:
    def open_store(self, root: Path, *, history_bytes: int | None = None) -> Store:
        store = DiskStore(root, project="../mergefile.toml", history_bytes=history_bytes)
        store.create()
        store.begin((), {})
        return store


class _InMemory:
    def open_store(self, root: Path, *, history_bytes: int | None = None) -> Store:
        return MemoryStore(root, history_bytes=history_bytes)


class TestDiskShelf(_OnDisk, ShelfTests): ...


class TestDiskLedger(_OnDisk, LedgerTests): ...


class TestDiskPublisher(_OnDisk, PublisherTests): ...


class TestMemoryShelf(_InMemory, ShelfTests): ...


class TestMemoryLedger(_InMemory, LedgerTests): ...


class TestMemoryPublisher(_InMemory, PublisherTests): ...
