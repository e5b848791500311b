"""What a target will be: a goal, and everything that follows for it from the recipe and the sources alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mergebuild.fold.forms import Blueprint
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.header import Header, Piece
from mergebuild.formats.layout import Packing
from mergebuild.methods.method import Method
from mergebuild.plan.made import Made
from mergebuild.plan.output_files import SmallFile
from mergebuild.plan.tensors import Tensors

__all__ = ["Description", "FileContent", "Goal", "Ground"]


class Goal(NamedTuple):
    """What is to be made: a target, its output (None: in the store), and the dtype to which it is rounded there."""

    target: str
    path: Path | None
    dtype: str | None = None
    """Overrides the target's own; None keeps it."""
    is_extra: bool = False
    """Made by `-o`: the target's record and everything else stay unchanged."""


@dataclass(frozen=True, eq=False, slots=True)
class Ground:
    """What follows from a target's inputs, whatever its coefficients are; shared by kin."""

    sources: tuple[str, ...]
    """Every source that it, or a target below it, names: for tensors, or for small files."""
    bottom: frozenset[str]
    """The sources at its bottom, including parts of sources and sources that no recipe names."""
    leaves: frozenset[str]
    """The sources that these are, or are parts of."""
    needs: tuple[str, ...]
    """The file targets whose tensors it reads."""
    notices: tuple[str, ...]
    """Notices about its sources, a sentence each."""
    programs: tuple[Method, ...]
    """The user's own methods that run when it is made."""
    waits_for_files: bool
    """Whether it can only be made after the files that it reads are published: some of their tensors are read whole."""
    operates: bool
    """Whether something below it is not linear in tensors of sources, or is made of parts of other tensors."""


class FileContent(NamedTuple):
    """What one file will be. Until its sources are hashed, only its size and layout are known."""

    path: Path | None
    """None: it will be in the store."""
    shown: str | None
    """Its path for people."""
    packing: Packing
    """How it is laid out; together with the header, everything but the tensors' bytes."""
    header: Header
    header_checksum: bytes
    """The checksum of everything before the data."""
    digest: bytes | None = None
    """None: unknown until its sources are hashed."""
    tensors: Tensors | None = None
    """None: unknown, or a small file of a folder."""
    origin: SmallFile | None = None
    """The donor's small file that it is, or is made of."""

    @property
    def data(self) -> tuple[bytes | None, str]:
        """Its digest and its layout. If two files have the same, either can be made from the other."""
        return self.digest, self.packing.layout

    def pieces(self, name: str) -> tuple[Piece, ...]:
        """Return the pieces of a tensor that isn't contiguous in the file, in bytes from its offset; else ()."""
        tensors = self.header.tensors
        info = tensors[name]
        if name in self.packing.turned:
            rows, columns = info.shape
            return (Piece(0, 0, (rows, columns), (1, rows)),)
        if name not in self.packing.scattered:
            return ()
        beginning, views = self.packing.scattered[name]
        begin, width = tensors[beginning].begin - info.begin, DTYPES_BY_WORD[info.dtype].size
        return tuple(Piece(0, begin + view.begin * width, view.shape, view.strides) for view in views)

    @property
    def made(self) -> tuple[Made, ...]:
        """Its tensors one by one, in the order of the file; empty while they are unknown."""
        return self.tensors.made if self.tensors else ()

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.header.file_size

    @property
    def header_bytes(self) -> bytes:
        """Everything before the data. Not kept, as it is long and only needed when it is written."""
        return self.packing.encoded(self.header)


@dataclass(frozen=True, eq=False)
class Description:
    """What a goal will be."""

    goal: Goal
    blueprint: Blueprint
    ground: Ground
    shown: str | None
    """The path of its output, for people."""
    files: tuple[FileContent, ...]
    """The files of a folder, or the one file that it is."""
    is_folder: bool = False
    digest: bytes | None = None
    """The digest of all its tensors; None: unknown until its sources are hashed."""
    tensors: Tensors | None = None
    intermediates: tuple[Tensors, ...] = ()
    """The float32 tensors of virtual targets below it that are made by operations."""
    manifest: Callable[[], Mapping[str, str]] = dict
    """Returns the lines of its manifest, which are made only if they are asked for."""
    notices: tuple[str, ...] = ()
    """Notices about its sources and its output, a sentence each."""
    foreseen_bytes: int = 0
    """While its digest is unknown: the bytes of sources that are read if all of it is computed."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The file targets whose tensors it reads."""
        return self.ground.needs

    @property
    def sources(self) -> frozenset[str]:
        """The sources from which its tensors come, also through file targets."""
        return self.ground.leaves

    @property
    def programs(self) -> tuple[Method, ...]:
        """The user's own methods that run when it is made."""
        return self.ground.programs

    @property
    def waits_for_files(self) -> bool:
        """Whether it can only be made after the files that it reads are published."""
        return self.ground.waits_for_files

    @cached_property
    def lines(self) -> Mapping[str, str]:
        """Its manifest."""
        return self.manifest()

    @property
    def name(self) -> str:
        """The target's name."""
        return self.goal.target

    @property
    def is_known(self) -> bool:
        """Whether the digests of its sources are known, and so its own."""
        return self.digest is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """All notices for the user, a sentence each."""
        return (*self.notices, *self.blueprint.notes())

    @property
    def has_only_its_output(self) -> bool:
        """Whether the store never has another copy of it, even when it is replaced; False for `-o`."""
        return self.blueprint.target.has_only_its_output and not self.goal.is_extra

    @property
    def allows_nonfinite(self) -> bool:
        """Whether NaN and Inf may be written."""
        return self.blueprint.target.nonfinite == "allow"
