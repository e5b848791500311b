"""The laws of a store's three parts, for any implementation of `store/protocols.py`.

A subclass provides `open_store`. The laws work on small real files in a temporary folder. Each law states something
that the planner or the builder relies on, and nothing about how a store does it.
"""

from __future__ import annotations

from mergebuild.testing.ledgers import LedgerTests
from mergebuild.testing.publishers import PublisherTests
from mergebuild.testing.shelves import ShelfTests
from mergebuild.testing.stored import Written, written

__all__ = ["LedgerTests", "PublisherTests", "ShelfTests", "Written", "written"]
