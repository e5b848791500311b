"""`Model`: what is at a path, as named tensors in one file or several, of any format.

A model is headers and byte ranges; tensors are read when they are needed. Each tensor is one range of a file, or is
made of pieces (views with strides in a pickle, a tensor that is cut into three by its canonical names).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergebuild.formats.header import TensorInfo, read_header
from mergebuild.naming.spelling import AS_IS, FileSpelling

if TYPE_CHECKING:
    from mergebuild.formats.folders import Folder

__all__ = ["ADAPTERS", "ADAPTER_CONFIG", "Model", "SecondCopy", "read_safetensors"]

ADAPTERS: Final = ("adapter_model.safetensors", "adapter_model.bin")
"""PEFT's names for the weights of an adapter."""
ADAPTER_CONFIG: Final = "adapter_config.json"
"""PEFT's name for the configuration beside them, which defines their meaning."""


@dataclass(frozen=True, slots=True)
class SecondCopy:
    """A second tensor in a file for a parameter that another one already is; their bytes must be equal."""

    parameter: str
    info: TensorInfo
    """Where it is, and its stored name."""


@dataclass(frozen=True, slots=True)
class Model:
    """Named tensors, and where they are."""

    format: str
    """`safetensors`, `pickle`, `sharded` (a folder of transformers), `diffusers` or `peft`."""
    files: tuple[Path, ...]
    """The files that hold tensors; `TensorInfo.file` counts in them."""
    sizes: tuple[int, ...]
    """Their sizes in bytes."""
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    documents: tuple[Path, ...] = ()
    """Files without tensors that define what the tensors are: an index of shards, the configuration of an adapter."""
    beside: tuple[Path, ...] = ()
    """Small files that belong to the model and don't affect its tensors: a tokenizer, a licence."""
    folder: Path | None = None
    """The folder that was named, with small files beside the weights; None for a single file."""
    notices: tuple[str, ...] = ()
    """What was left out and users should know, one sentence each."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Other facts that readers need, such as an adapter's configuration: parsed JSON."""
    contents: Folder | None = None
    """The contents of the folder, under the names in its files. For an adapter that was named as a file: that file and
    its configuration, as if they were a folder."""
    spelling: FileSpelling = AS_IS
    """The stored names of the tensors, which have canonical names here."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Canonical names without a tensor of their own -> the tensor whose values they have: a head that is the
    embedding."""
    twins: tuple[SecondCopy, ...] = ()
    """Tensors that are in the file a second time."""
    copies: tuple[str, ...] = ()
    """The names in `tied` that the files hold nevertheless."""

    @property
    def home(self) -> Path | None:
        """The folder to which paths in it are relative, if it is several files named as one.

        None if it is a single file.
        """
        return self.files[0].parent if self.folder is None and self.contents is not None else self.folder

    @property
    def sidecars(self) -> Mapping[str, Path]:
        """The small files beside the weights of a folder, by their paths in it; none for a single file."""
        if self.folder is None or self.contents is None:
            return {}
        return {name: self.folder / name for name in self.contents.sidecars}

    @property
    def own_files(self) -> tuple[Path, ...]:
        """All files that define the model, tensors first. Other files in its folder are not part of it."""
        return tuple(dict.fromkeys((*self.files, *self.documents, *self.beside)))

    @property
    def watched(self) -> tuple[Path, ...]:
        """Everything that was looked at: the model changes only if one of these does."""
        found = self.own_files
        if self.folder is None:
            return found
        folders = (path.parent for path in found if path.parent.is_relative_to(self.folder))
        return (*dict.fromkeys((self.folder, *folders)), *found)

    @property
    def size(self) -> int:
        """The size of all files with tensors, in bytes."""
        return sum(self.sizes)


def read_safetensors(path: Path, shown: str) -> Model:
    """Return the model in one safetensors file.

    Raises:
        SourceError: it breaks a rule of the format.
    """
    header = read_header(path, shown=shown)
    return Model("safetensors", (path,), (header.file_size,), header.tensors, header.metadata)
