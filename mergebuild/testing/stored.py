"""Helpers for the laws of a store's three parts: small files, and a method that publishes them in a store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from mergebuild.digest import checksum
from mergebuild.formats.layout import encode_header
from mergebuild.store import Entry, Fresh, Store
from mergebuild.store.values import ArtifactRow
from mergebuild.system import publishing

__all__ = ["FOREIGN", "NOT_FINITE", "ONE", "OTHER", "StoreTests", "Written", "digest_in", "offered", "written"]


class Written(NamedTuple):
    """The bytes of a file as a build would have written it, and what the build would record about it."""

    data: bytes
    fresh: Fresh


def written(
    tensors: Mapping[str, bytes], *, metadata: Mapping[str, str] | None = None, nonfinite: Collection[str] = ()
) -> Written:
    """Return a safetensors file of `uint8` tensors; a tensor's digest is the checksum of its bytes.

    Args:
        tensors: The tensors' bytes, by name.
        metadata: The header's metadata, which the artifact's digest does not depend on.
        nonfinite: Names of the tensors that count as having a NaN or Inf.
    """
    raw, header = encode_header(((name, "uint8", (len(data),)) for name, data in tensors.items()), metadata or {})
    contents = [
        Entry(name, info.begin, info.end, checksum(tensors[name]), checksum(tensors[name]), int(name in nonfinite))
        for name, info in header.tensors.items()
    ]
    data = raw + b"".join(tensors[name] for name in header.tensors)
    digest = checksum(b"".join(name.encode() + tensors[name] for name in sorted(tensors)))
    return Written(data, Fresh(digest, checksum(raw), contents))


ONE = written({"v": b"1" * 8, "w": b"2" * 16})
OTHER = written({"v": b"3" * 8, "w": b"4" * 16})
NOT_FINITE = written({"bad": b"5" * 8, "good": b"6" * 8}, nonfinite=["bad"])
FOREIGN = b"what somebody else wrote"


class StoreTests:
    """Shared by the three classes of laws: a store, and a helper that publishes files in it."""

    def open_store(self, root: Path, *, history_bytes: int | None = None) -> Store:
        """Return an empty store, ready for a build, that may use the folder `root`.

        `history_bytes`: how many bytes its history may have; None: more than a test makes.
        """
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """The store under test."""
        return self.open_store(tmp_path / "store")

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """The path of an output."""
        return tmp_path / "out" / "mix.safetensors"

    def put(
        self,
        store: Store,
        path: Path,
        what: Written = ONE,
        *,
        kind: str = "output",
        project: str | None = None,
        keeps_former: bool = True,
    ) -> ArtifactRow:
        """Publish a file. `project`: the project that it belongs to; None: the store's own."""
        temporary = publishing.temporary_path(path)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(what.data)
        whose = store.publisher.project if project is None else project
        return store.publisher.publish(temporary, path, what.fresh, kind=kind, project=whose, keeps_former=keeps_former)


def offered(store: Store, what: Written) -> list[ArtifactRow]:
    """Return the whole artifacts that a store offers of a file."""
    return list(store.shelf.intact(what.fresh.digest, header=what.fresh.header))


def digest_in(what: Written, name: str) -> bytes:
    """Return the digest of a tensor of a file."""
    return next(entry.digest for entry in what.fresh.contents if entry.name == name)
