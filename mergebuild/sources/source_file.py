"""An opened source, as a value: its header, the state of its files, and what is known of their bytes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mergebuild.digest import artifact_digest, checksum, source_tensor_digest
from mergebuild.formats import registry
from mergebuild.formats.header import TensorInfo
from mergebuild.formats.model import Model
from mergebuild.lora import ADAPTER_METADATA
from mergebuild.sources import hashes
from mergebuild.system import filestate
from mergebuild.system.filestate import Identity

__all__ = ["SourceFile", "as_one", "decisive", "epoch_of", "is_still", "source_of_part"]


@dataclass
class SourceFile:
    """An opened source: its path, its header, and its state. `checksums` is None until it is hashed."""

    name: str
    path: Path
    shown: str
    model: Model
    identity: Identity
    checksums: Mapping[str, bytes] | None = None
    sha256: str | None = None
    autov3: str | None = None
    listing: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each file by its path in the folder, if the source is a folder whose `sha256` is known."""
    part: str = ""
    """The part of the source that it is, under other names (see `Sources.renamed`); empty: all of it."""

    @property
    def remembered_by(self) -> Identity:
        """The stat data that the ledger finds it by: those of its files; for a part, changed so as to differ."""
        if not self.part:
            return self.identity
        mark = checksum(f"{self.identity.device} {self.identity.inode} {self.part}".encode())
        return self.identity._replace(device=-1, inode=int.from_bytes(mark[:7], "big"))

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Its tensors by name."""
        return self.model.tensors

    @property
    def size(self) -> int:
        """The size of its files in bytes."""
        return self.model.size

    @cached_property
    def digests(self) -> Mapping[str, bytes]:
        """The digest of each tensor; the source must be hashed."""
        assert self.checksums is not None
        return {
            name: source_tensor_digest(info.stored, info.shape, self.checksums[name])
            for name, info in self.tensors.items()
        }

    @cached_property
    def content(self) -> bytes:
        """The digest of all its tensors, and of an adapter's configuration; the source must be hashed."""
        found = artifact_digest(
            (name, info.stored, info.shape, self.digests[name]) for name, info in self.tensors.items()
        )
        if self.model.format == "peft":
            said = json.dumps(self.model.facts, sort_keys=True)
        else:
            said = self.model.metadata.get(ADAPTER_METADATA, "")
        return checksum(found + said.encode()) if said else found

    @cached_property
    def said(self) -> bytes:
        """The digest of what its files say besides values: names of tensors, ties, and the configuration."""
        model, spelling = self.model, self.model.spelling
        made = {name: (each.shape, each.cuts) for name, each in spelling.made.items()}
        names = made, dict(spelling.shapes), dict(spelling.prefixes), dict(model.tied), model.copies
        return checksum(json.dumps((names, dict(model.facts)), sort_keys=True, default=str).encode())

    @property
    def has_hashes(self) -> Collection[str]:
        """The names of the hashes that it has, of those that can be pinned."""
        if self.model.home is not None:
            return ("sha256",)
        return ("sha256", "autov2", "autov3") if registry.begins_with_length(self.model) else ("sha256", "autov2")

    @property
    def hashes(self) -> Mapping[str, str | None]:
        """These hashes by name; None if one is not known."""
        found = {"sha256": self.sha256, "autov2": self.sha256 and self.sha256[:10], "autov3": self.autov3}
        return {name: found[name] for name in self.has_hashes}

    @property
    def small_files(self) -> Mapping[str, str]:
        """The SHA-256 of each file without tensors, by path, if it is a folder whose `sha256` is known; else empty."""
        return {path: self.listing[path] for path in sorted(self.listing.keys() - self.weights)}

    @property
    def sha256_of_weights(self) -> str:
        """The hash of a folder's weights only, which was its `sha256` once.

        Empty if its files' hashes are not known.
        """
        return hashes.of_listing({path: self.listing[path] for path in self.weights}) if self.listing else ""

    @property
    def weights(self) -> set[str]:
        """The paths of the files with tensors, if it is a folder; else empty."""
        folder = self.model.home
        return {hashes.path_in(folder, path) for path in self.model.files} if folder else set()

    @property
    def is_hashed(self) -> bool:
        """Whether its digests are known."""
        return self.checksums is not None


def source_of_part(name: str) -> str:
    """Return the recipe's source of which `name` may be a part; empty for a source that is not the recipe's."""
    return name.partition("@")[0]


def decisive(model: Model) -> tuple[Path, ...]:
    """Return the files that decide what a model is."""
    return (*model.files, *model.documents)


def as_one(model: Model, states: Sequence[Identity]) -> Identity:
    """Return the stat data of a model's files as one value; for a folder it differs whenever those of one file do.

    Its inode then stands for which files they are, its size for the stat data of all. The times are the newest.
    """
    if len(states) == 1 and model.home is None:
        return states[0]
    return Identity(
        -1,
        _number(repr([(each.device, each.inode) for each in states])),
        _number(repr(states)),
        max(each.mtime_ns for each in states),
        max(each.ctime_ns for each in states),
    )


def _number(text: str) -> int:
    """Return a number made from a text, at most 7 bytes, which SQLite can hold."""
    return int.from_bytes(checksum(text.encode())[:7], "big")


def epoch_of(source: SourceFile) -> str:
    """Return the current epoch of the disk that a source is on (see `filestate.epoch`)."""
    return filestate.epoch(source.path.stat().st_dev)


def is_still(source: SourceFile) -> bool:
    """Whether a source is still the file that was opened, by its stat data."""
    try:
        model = source.model
        return as_one(model, [filestate.identity(path) for path in decisive(model)]) == source.identity
    except OSError:
        return False
