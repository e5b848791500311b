"""Tests that whoever adds a part runs against it, and stand-ins to test with. Never imported by the rest.

A conformance class holds the laws of one protocol, and says in its docstring what a subclass must give. A store of
another kind, say one behind a network, is tested so, in any suite that pytest runs:

    from mergebuild.testing.stores import LedgerTests, PublisherTests, ShelfTests

    class TestFarShelf(ShelfTests):
        def open_store(self, root, *, history_bytes=None):
            return FarStore(root, history_bytes=history_bytes)

The laws come with the class. What an implementation does beyond them has tests of its own.

| module | what is in it |
|---|---|
| `stores` | `ShelfTests`, `LedgerTests`, `PublisherTests`: the protocols of `store/protocols.py` |
| `formats` | `FormatTests`: a row of `formats/registry.py` |
| `methods` | `MethodTests`, `OperationTests`: a row of the catalog, and what its `makes` answers |
| `sources` | `DeclaredSources`: sources with tensors and no files, to test planning with |
| `memory` | `MemoryStore`: a store whose memory is not on disk, to test planning and building with |

The modules with classes of tests import pytest, which the program itself does not need; none imports torch.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:  # or its messages would not say what was compared
    _WITH_TESTS = ("formats", "methods", "ledgers", "publishers", "shelves", "stored")
    sys.modules["pytest"].register_assert_rewrite(*(f"{__name__}.{each}" for each in _WITH_TESTS))
