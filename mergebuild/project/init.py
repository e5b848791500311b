"""Writes a first mergefile for a folder of models: its sources, what they are, and an example target to uncomment.

Only headers are read. No file is ever overwritten.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mergebuild.errors import SourceError, UsageError
from mergebuild.formats.model import Model
from mergebuild.formats.registry import SUFFIXES
from mergebuild.layouts import detect
from mergebuild.sources.opening import read_model

__all__ = ["EXAMPLE_BEGINS", "Starter", "init"]

EXAMPLE_BEGINS = "# --- an example: remove `# ` from the lines below ---"
"""After this line, every line is valid TOML once its `# ` is removed."""

_FOLDER_OF_ONE = frozenset({"model_index.json", "config.json", "adapter_config.json", "model.safetensors.index.json"})
"""A folder with one of these files is a single model."""
_MOST_FILES = 1000
_DEEPEST = 6
_HEAD = """\
# What mergebuild builds here.
#
#   mergebuild plan     what a build would do, and why
#   mergebuild build    do it
#   mergebuild methods  the ways to merge
"""


@dataclass(frozen=True, slots=True)
class Starter:
    """What `init` wrote: the mergefile's path, and the sources' paths relative to it, by name."""

    path: Path
    sources: dict[str, str]


class _FoundModel(NamedTuple):
    """A file or folder of weights: its path from the mergefile, its layout, and what it is or why it is invalid."""

    path: str
    layout: str | None
    facts: str
    names: frozenset[str]
    """The names of its tensors; empty if it is invalid."""

    @property
    def is_sound(self) -> bool:
        """Whether it can be a source."""
        return bool(self.names)

    def fits(self, other: _FoundModel) -> bool:
        """Whether the two can be merged, as far as names and layouts tell."""
        return self is not other and (self.layout == other.layout if self.layout else self.names == other.names)


def init(folder: Path, *, mergefile: Path | None = None) -> Starter:
    """Write a commented mergefile for the models in a folder and below it: files, and folders that are one model.

    Args:
        folder: Where to look, at most six levels deep, without hidden folders.
        mergefile: The file to write; None: `mergefile.toml` in the folder.

    Raises:
        UsageError: the mergefile exists, or the folder does not.
    """
    if not folder.is_dir():
        raise UsageError.one("no-such-folder", f"there is no folder `{folder}`")
    path = mergefile if mergefile is not None else folder / "mergefile.toml"
    if os.path.lexists(path):
        raise _exists(path)
    models = [_model(file, path.parent) for file in _found(folder)]
    names = _names(model.path for model in models if model.is_sound)
    text = "\n".join([_HEAD, *_source_lines(models, names), "", *_example_lines(models, names)]) + "\n"
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError as error:
        raise _exists(path) from error
    return Starter(path, {name: source for source, name in names.items()})


def _exists(path: Path) -> UsageError:
    mend = "nothing was written; edit it, or name another with `-f`"
    return UsageError.one("mergefile-exists", f"`{path}` exists already", help=mend)


def _found(folder: Path) -> list[Path]:
    """Return the models to list, sorted by path; links to folders are not followed."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(each for each in folders if not each.startswith(".")) if depth < _DEEPEST else []
        if depth and not _FOLDER_OF_ONE.isdisjoint(files) and _is_sayable(Path(parent).name):
            found.append(Path(parent))  # its files are one model
            folders.clear()
            continue
        found += (Path(parent, file) for file in sorted(files) if _is_model(file))
        if len(found) >= _MOST_FILES:
            break
    return sorted(found[:_MOST_FILES])


def _is_model(file: str) -> bool:
    return file.endswith(SUFFIXES) and not file.startswith(".") and _is_sayable(file)


def _is_sayable(name: str) -> bool:
    """Whether a name is UTF-8; any other can't be written in TOML."""
    return name.encode("utf-8", "ignore") == os.fsencode(name)


def _model(file: Path, root: Path) -> _FoundModel:
    path = Path(os.path.relpath(file, root)).as_posix()
    # at the beginning of a path, `~` would mean a home folder
    path = f"./{path}" if path.startswith("~") else path
    path = f"{path}/" if file.is_dir() else path
    if "${" in path or any(ord(sign) < 32 for sign in path):
        return _FoundModel(path, None, f"a mergefile can't name `{path}`", frozenset())
    try:
        model = read_model(file, shown=path, within=(root,))
    except SourceError as error:
        return _FoundModel(path, None, error.problems[0].message, frozenset())
    if not model.tensors:
        return _FoundModel(path, None, f"`{path}` holds no tensors", frozenset())
    layout = detect({tensor.name: tensor.shape for tensor in model.tensors.values()}, {})
    return _FoundModel(path, layout.name if layout else None, _facts(model), frozenset(model.tensors))


def _facts(model: Model) -> str:
    sizes: dict[str, int] = {}
    for tensor in model.tensors.values():
        sizes[tensor.shown_dtype] = sizes.get(tensor.shown_dtype, 0) + tensor.nbytes
    dtype = max(sizes, key=lambda each: sizes[each], default="empty")
    return f"{dtype}, {len(model.tensors)} tensors, {_size(model.size)}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 10**9 else f"{size_bytes / 1e6:.1f} MB"


def _names(paths: Iterable[str]) -> dict[str, str]:
    """Return a name for each path, made from the file's name; repeated names get a number."""
    names: dict[str, str] = {}
    taken = {"mix"}  # the example's target
    for path in paths:
        stem = re.sub(r"\W+", "_", Path(path).stem).strip("_") or "model"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names[path] = name
    return names


def _source_lines(models: list[_FoundModel], names: dict[str, str]) -> Iterator[str]:
    """Yield the table of sources, with a comment before each layout."""
    yield "[sources]"
    if not models:
        yield '# no model was found; a source is a name and a path:\n# opk = "models/opk.safetensors"'
    for layout in dict.fromkeys(model.layout for model in models if model.is_sound):
        yield f"# layout: {layout or 'unknown'}"
        for model in models:
            if model.is_sound and model.layout == layout:
                yield f"{_key(names[model.path])} = {_text(model.path)}  # {model.facts}"
    for model in models:
        if not model.is_sound:
            yield f"# left out, {_comment(model.facts)}"


def _example_lines(models: list[_FoundModel], names: dict[str, str]) -> Iterator[str]:
    """Yield a target over two models that fit together, as comments; a copy if there are no two such models."""
    pairs = ((one, other) for one in models for other in models if one.is_sound and one.fits(other))
    first, second = next(pairs, (next((model for model in models if model.is_sound), None), None))
    if first is None:
        return
    yield "# A target is a model to make. Its numbers, such as the share `alpha` of `b`, may be one for the model,"
    yield "# or a table: `default`, then blocks, ranges and groups such as `IN00-IN05` or `attn`, the later winning."
    yield EXAMPLE_BEGINS
    yield "# [targets.mix]"
    yield f"# method = {_text('weighted_sum' if second else 'copy')}"
    yield f"# a = {_text(names[first.path])}"
    if second:
        yield f"# b = {_text(names[second.path])}"
        yield "# alpha = 0.3"
    yield '# output = "out/mix.safetensors"'
    yield '# dtype = "float16"'


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_]+", name) else _text(name)


def _text(text: str) -> str:
    """Return a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


def _comment(text: str) -> str:
    """Return a text that can be a comment: one line, without control characters."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", text)
