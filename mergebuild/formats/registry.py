"""The formats of models, one row each: how its files are named, recognized by content, read, laid out and written.

To add a format, write a module in this room with its `Packing` and its reader, and add a row to `FILES`. All other code
asks here: which paths an output may have, what a source is, how an output is laid out, what of it can be made again
from an artifact. `mergebuild.testing.formats` has the laws for rows.

The functions in a row import what they need, as most runs use only one format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mergebuild.formats.layout import Packing, Written
    from mergebuild.formats.model import Model

__all__ = [
    "CHECKPOINT",
    "FILES",
    "FOLDER",
    "READ_SUFFIXES",
    "SAFETENSORS",
    "SUFFIXES",
    "FileFormat",
    "FolderFormat",
    "Tensors",
    "begins_with_length",
    "is_folder",
    "is_folder_text",
    "of_output",
    "of_text",
    "recognized",
    "shown_suffixes",
]

Tensors = Iterable[tuple[str, str, Sequence[int]]]
"""Names, dtypes in the contract's words, and shapes."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A format of single files."""

    name: str
    """`Model.format` of a model that is read from such a file."""
    suffixes: tuple[str, ...]
    """The ends of paths of outputs in this format, each with its only dot."""
    packing: Callable[[Tensors, Written], Packing]
    """Returns the layout of a file with tensors, given in any order. `Written` says how the file writes them."""
    recognizes: Callable[[bytes], bool]
    """Whether a file with these first bytes (`foreign.LOOKED_AT` of them) has this format."""
    read: Callable[[Path, str], Model]
    """Reads what a file says of its tensors. The text is its name in errors.

    Raises `SourceError` if the file breaks a rule of the format.
    """
    has_metadata: bool
    """Whether its files can have metadata."""
    is_foreseen: bool
    """Whether all of a file but the tensors follows from names, dtypes, shapes and metadata. Then its header can be
    laid out before sources are hashed, and they are hashed in the pass that writes it."""
    begins_with_length: bool
    """Whether a file begins with the length of its header (8 bytes, little-endian), followed by header and data. Such a
    file is recognized by its header, and has an `autov3`."""
    foreign_suffixes: tuple[str, ...] = ()
    """Other ends of names of such files by other programs."""

    @property
    def read_suffixes(self) -> tuple[str, ...]:
        """All ends of names of such files."""
        return self.suffixes + self.foreign_suffixes


@dataclass(frozen=True, slots=True)
class FolderFormat:
    """An output of several files, each in a format of its own (`plan/output_files.py`)."""

    name: str
    has_metadata: bool = True
    is_foreseen: bool = False


def _arranged(tensors: Tensors, written: Written) -> Packing:
    from mergebuild.formats.layout import Arrangement

    return Arrangement(tensors, written)


def _begins_with_json(head: bytes) -> bool:
    return head[8:9] == b"{"


def _safetensors(path: Path, shown: str) -> Model:
    from mergebuild.formats.model import read_safetensors

    return read_safetensors(path, shown)


def _archived(tensors: Tensors, written: Written) -> Packing:
    from mergebuild.formats.checkpoint import CheckpointLayout

    return CheckpointLayout(tensors, written)


def _begins_as_pickle(head: bytes) -> bool:
    from mergebuild.formats.pickles import is_pickle

    return is_pickle(head)


def _pickle(path: Path, shown: str) -> Model:
    from mergebuild.formats.pickles import read_pickle

    return read_pickle(path, shown=shown)


SAFETENSORS: Final = FileFormat(
    name="safetensors",
    suffixes=(".safetensors",),
    packing=_arranged,
    recognizes=_begins_with_json,
    read=_safetensors,
    has_metadata=True,
    is_foreseen=True,
    begins_with_length=True,
)
"""The format of files that the store keeps. Its reader also reports what is wrong with a file of no known format."""

CHECKPOINT: Final = FileFormat(
    name="pickle",
    suffixes=(".ckpt",),
    packing=_archived,
    recognizes=_begins_as_pickle,
    read=_pickle,
    has_metadata=False,
    is_foreseen=False,
    begins_with_length=False,
    foreign_suffixes=(".pt", ".pth", ".bin"),
)

FILES: Final = (SAFETENSORS, CHECKPOINT)
"""In the order in which files are recognized, and in which a folder's weights are looked for."""

FOLDER: Final = FolderFormat("folder")

_BY_SUFFIX: Final = {suffix: each for each in FILES for suffix in each.suffixes}

SUFFIXES: Final = tuple(_BY_SUFFIX)
"""The ends of paths of outputs that are one file."""

READ_SUFFIXES: Final = tuple(suffix for each in FILES for suffix in each.read_suffixes)
"""The usual ends of names of files that are read; any other name is allowed too."""


def is_folder_text(text: str) -> bool:
    """Whether the text of an output's path means a folder: it ends in a slash of any system."""
    return text.endswith(("/", "\\"))


def of_text(text: str) -> FileFormat | FolderFormat | None:
    """Return the format of an output, by the text of its path; None if no output can have it."""
    name = text.replace("\\", "/").rstrip("/").rpartition("/")[2]
    found = next((each for each in FILES if name.endswith(each.suffixes)), None)
    if is_folder_text(text):
        return None if found or not name else FOLDER
    return None if name in SUFFIXES else found


def of_output(path: Path | None) -> FileFormat | FolderFormat:
    """Return the format of an output whose path is known to be valid. `path` None: the store keeps it."""
    if path is None:
        return SAFETENSORS
    return _BY_SUFFIX.get(path.suffix, FOLDER)


def is_folder(path: Path | None) -> bool:
    """Whether an output is a folder of files."""
    return of_output(path) is FOLDER


def begins_with_length(model: Model) -> bool:
    """Whether a model is one file that begins with the length of its header."""
    return model.folder is None and any(each.begins_with_length for each in FILES if each.name == model.format)


def recognized(head: bytes) -> FileFormat:
    """Return the format of a file by its beginning.

    If none fits it is `SAFETENSORS`, whose reader will refuse the file.
    """
    return next((each for each in FILES if each.recognizes(head)), SAFETENSORS)


def shown_suffixes(last: str) -> str:
    """Return the suffixes of outputs for a sentence. `last`: the text before the last one, ` or ` or `, `."""
    *others, final = (f"`{suffix}`" for suffix in SUFFIXES)
    return last.join((", ".join(others), final)) if others else final
