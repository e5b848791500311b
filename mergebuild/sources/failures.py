"""The errors of sources that exist but differ from their pins, changed while they were read, or can't be read."""

from __future__ import annotations

from mergebuild.errors import SourceError
from mergebuild.formats.model import ADAPTER_CONFIG
from mergebuild.recipe.model import Source
from mergebuild.sources import hashes
from mergebuild.sources.source_file import SourceFile

__all__ = ["LACKING", "changed", "mismatch", "unreadable"]

_CHECK = "check that it is there, and its permissions"

LACKING = {"autov2": "a folder has only `sha256`", "autov3": "only a safetensors file has one"}
"""Why a pinned source may lack such a hash."""


def mismatch(declared: Source, source: SourceFile, differs: hashes.Difference) -> SourceError:
    """Return the error of a source that differs from its pin."""
    rows = [f"pinned  {differs.pinned}", f"found   {differs.found}  {source.shown}"]
    way_out = "get what is pinned, or change the pin (`mergebuild inspect` prints all hashes)"
    weights = [source.listing.get(path, "") for path in source.weights]
    if source.model.folder is None and len(weights) == 1 and weights[0].startswith(differs.pinned):
        rows.append(f"what is pinned is the file alone, without the `{ADAPTER_CONFIG}` that says what it means")
        way_out = "look at that file, and pin what was found"
    elif source.sha256_of_weights == differs.pinned:
        rows.append("what is pinned are the weights alone, as it was before a pin was of all files of a folder")
        way_out = "look at its configuration, tokenizer and templates, and pin what was found"
    message = f"source `{source.name}` is not what its `{differs.name}` pins"
    where = declared.where.place(differs.name)
    return SourceError.one("pin-mismatch", message, where=where, rows=rows, help=way_out)


def changed(declared: Source, source: SourceFile) -> SourceError:
    """Return the error of a source whose file changed after it was opened."""
    return SourceError.one(
        "source-changed",
        f"source `{source.name}` changed while it was read",
        where=declared.where.place(),
        rows=(source.shown,),
        help="let whatever writes it finish, then build again",
    )


def unreadable(declared: Source, shown: str, error: OSError, command: str | None = None) -> SourceError:
    """Return the error of a source that can't be read; `command` would bring back the file that its link leads to."""
    return SourceError.one(
        "source-unreadable",
        f"source `{declared.name}` cannot be read: {(error.strerror or str(error)).lower()}",
        where=declared.where.place(),
        rows=(shown,),
        help=f"another program keeps it: {command} brings it back" if command else _CHECK,
    )
