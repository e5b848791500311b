"""Sources without files: their tensors are declared, with a dtype, a shape and a word for their content.

Planning needs the headers of sources and, about values, only which are equal. So a recipe with such sources is planned
as if they were on disk, in microseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from mergebuild.digest import checksum
from mergebuild.errors import SourceError
from mergebuild.formats.layout import encode_header
from mergebuild.formats.model import Model
from mergebuild.recipe.model import Source
from mergebuild.sources.source_file import SourceFile
from mergebuild.sources.sources import Sources
from mergebuild.store import SourceMemory
from mergebuild.system.filestate import Identity

__all__ = ["Declared", "DeclaredSources"]


class Declared(NamedTuple):
    """A tensor of a declared source. Two with equal dtype, shape and content have equal bytes."""

    content: str
    shape: tuple[int, ...] = (4,)
    dtype: str = "float32"


class DeclaredSources(Sources):
    """The sources of a recipe: some are declared here, the others are missing."""

    def __init__(
        self,
        recipe_sources: Mapping[str, Source],
        tensors: Mapping[str, Mapping[str, Declared]],
        memory: SourceMemory,
        *,
        folder: Path,
        never_read: Collection[str] = (),
    ) -> None:
        """Declare the tensors of sources, by source and name.

        `never_read`: names of sources that the store does not know yet, so that they must be hashed first.
        """
        super().__init__(recipe_sources, memory, folder=folder)
        self._tensors = tensors
        self._never_read = frozenset(never_read)
        self.read: list[str] = []
        """Names of the sources that were hashed, in that order."""

    def _open(self, source: Source) -> SourceFile:
        declared = self._tensors.get(source.name)
        path = source.folder / source.path
        if declared is None:
            raise SourceError.one("source-missing", f"source `{source.name}` is missing", where=source.where.place())
        raw, header = encode_header(((name, each.dtype, each.shape) for name, each in declared.items()), {})
        mark = int.from_bytes(checksum(raw + repr(declared).encode())[:7], "big")
        self._settled[path] = Identity(0, mark, header.file_size, 0, 0)
        model = Model("safetensors", (path,), (header.file_size,), header.tensors, {})
        found = SourceFile(source.name, path, source.path, model, self._settled[path])
        if source.name not in self._never_read:
            found.checksums = _checksums(declared)
        return found

    def _remembered(self, found: SourceFile) -> SourceFile:
        return found

    def _hash(self, source: SourceFile, wanted: Collection[str]) -> None:
        self.read.append(source.name)
        self.bytes_read += source.size
        source.checksums = _checksums(self._tensors[source.name])
        if wanted:
            source.sha256 = checksum(repr(source.checksums).encode()).hex() * 2


def _checksums(declared: Mapping[str, Declared]) -> dict[str, bytes]:
    return {name: checksum(each.content.encode()) for name, each in declared.items()}
