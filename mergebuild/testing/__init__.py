"""Tests for implementations of a protocol, and stand-ins to test with. No other room imports this one.

A conformance class has the tests of one protocol, its laws; its docstring says what a subclass must provide. In any
pytest suite, a store of another kind, such as one on a network, is tested like this:

    from mergebuild.testing.stores import LedgerTests, PublisherTests, ShelfTests

    class TestFarShelf(ShelfTests):
        def open_store(self, root, *, history_bytes=None):
            return FarStore(root, history_bytes=history_bytes)

The subclass inherits the laws. Anything that an implementation does beyond them needs tests of its own.

| module | what is in it |
|---|---|
| `stores` | `ShelfTests`, `LedgerTests`, `PublisherTests`: the protocols of `store/protocols.py` |
| `formats` | `FormatTests`: a row of `formats/registry.py` |
| `methods` | `MethodTests`, `OperationTests`: a row of the catalog, and the answers of its `makes` |
| `sources` | `DeclaredSources`: sources with tensors and no files, to test planning with |
| `memory` | `MemoryStore`: a store whose records are not on disk, to test planning and building with |

May import every other room. The modules with test classes import pytest, which the program itself does not need; none
imports torch.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:  # so that failing assertions in these modules show the values compared
    _WITH_TESTS = ("formats", "methods", "ledgers", "publishers", "shelves", "stored")
    sys.modules["pytest"].register_assert_rewrite(*(f"{__name__}.{each}" for each in _WITH_TESTS))
