"""What is at a path, as named tensors: one file or several, of whatever format.

A model is headers and byte ranges until a tensor is needed. Each of its tensors lies in one run of a file, or is put
together of pieces (views with strides in a pickle; a tensor that another naming cuts into three).
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
"""What PEFT calls the weights of an adapter."""
ADAPTER_CONFIG: Final = "adapter_config.json"
"""What PEFT calls the file beside them that says what they mean."""


@dataclass(frozen=True, slots=True)
class SecondCopy:
    """A tensor that a file holds beside another of the same parameter; their bytes must be equal."""

    parameter: str
    info: TensorInfo
    """Where it lies, and its name in the file."""


@dataclass(frozen=True, slots=True)
class Model:
    """Named tensors, and where they lie."""

    format: str
    """`safetensors`, `pickle`, `sharded` (a folder of transformers), `diffusers` or `peft`."""
    files: tuple[Path, ...]
    """The files that hold tensors; `TensorInfo.file` counts in them."""
    sizes: tuple[int, ...]
    """Their sizes in bytes."""
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    documents: tuple[Path, ...] = ()
    """Files without tensors that say what these are: an index of shards, the configuration of an adapter."""
    beside: tuple[Path, ...] = ()
    """Small files that belong to it and say nothing of its tensors: a tokenizer, a licence."""
    folder: Path | None = None
    """The folder that was named, with files beside the weights; None for a single file."""
    notices: tuple[str, ...] = ()
    """What was left out and should be known, a sentence each."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What else a reader must know, such as the adapter's configuration: parsed JSON."""
    contents: Folder | None = None
    """What the folder holds, under the names that its files give. Of an adapter that was named as a file: that file and
    its configuration, as if they were a folder by themselves."""
    spelling: FileSpelling = AS_IS
    """What the files call the tensors, which have their canonical names here."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """By canonical name, the tensor whose values it has: the head of a model whose head is its embedding."""
    twins: tuple[SecondCopy, ...] = ()
    """Tensors that are there a second time."""
    copies: tuple[str, ...] = ()
    """Of `tied`, those that the files hold all the same."""

    @property
    def home(self) -> Path | None:
        """What it is called relative to where it is several files that were named as one; None where it is one file."""
        return self.files[0].parent if self.folder is None and self.contents is not None else self.folder

    @property
    def own_files(self) -> tuple[Path, ...]:
        """All files that make it what it is, tensors first; what else lies in a folder is no part of the model."""
        return tuple(dict.fromkeys((*self.files, *self.documents, *self.beside)))

    @property
    def watched(self) -> tuple[Path, ...]:
        """All that was looked at; what it offers changes only when one of these does."""
        found = self.own_files
        if self.folder is None:
            return found
        folders = (path.parent for path in found if path.parent.is_relative_to(self.folder))
        return (*dict.fromkeys((self.folder, *folders)), *found)

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(self.sizes)


def read_safetensors(path: Path, shown: str) -> Model:
    """Return the model that one safetensors file is.

    Raises:
        SourceError: it breaks a rule of the format.
    """
    header = read_header(path, shown=shown)
    return Model("safetensors", (path,), (header.file_size,), header.tensors, header.metadata)
