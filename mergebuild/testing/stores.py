"""The laws of a store's three parts, for any implementation of `store/protocols.py`.

A subclass gives `open_store`. The laws work on real files in a folder of their own: small ones, of a few tensors whose
bytes are given. Each states what planner and builder rely on, and nothing of how it comes about.
"""

from __future__ import annotations

from mergebuild.testing.ledgers import LedgerTests
from mergebuild.testing.publishers import PublisherTests
from mergebuild.testing.shelves import ShelfTests
from mergebuild.testing.stored import Written, written

__all__ = ["LedgerTests", "PublisherTests", "ShelfTests", "Written", "written"]
