"""Open whatever a path leads to as a model: by what is in it, not by what it is called."""

from __future__ import annotations

from pathlib import Path

from mergebuild.formats.header import read_header
from mergebuild.formats.model import Model

__all__ = ["read_model"]


def read_model(path: Path, *, shown: str | None = None) -> Model:
    """Read what a model says of itself, and nothing of its tensors.

    Args:
        path: a file or a folder.
        shown: what to call it in errors; the path itself by default.

    Raises:
        SourceError: it is missing, can't be read, or breaks a rule of its format.
    """
    header = read_header(path, shown=shown)
    return Model("safetensors", (path,), (header.file_size,), header.tensors, header.metadata)
