"""What is beside the weights of a folder: the donor's small files, shards and their index.

Clients load a folder by names of files: `config.json` says what to build, the tokenizer's files how to feed it, an
index which shard holds a tensor. Small files are copied from one donor unchanged; only its configuration is changed, in
the text itself and only where it would contradict the tensors (room `configuration`). Shards follow from names and
sizes alone: the same tensors are always in the same files, with the tensors of a layer together, so a changed layer
touches few files.

A model's own code decides as much about it as its configuration: if `auto_map` names code, the Python files of the
folder are small files like all others. They are copied and hashed, and never run.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from mergebuild.formats.documents import is_own, is_plain
from mergebuild.formats.foreign import LOOKED_AT, recognize
from mergebuild.formats.reading import beginning, quoted
from mergebuild.system.filestate import is_folder, leads_nowhere

__all__ = [
    "INDEX",
    "MAX_SIDECAR",
    "Sidecars",
    "has_own_code",
    "index_json",
    "shard_names",
    "shards",
    "sidecars_of",
    "stale",
]

MAX_SIDECAR: Final = 64 << 20
"""The longest file that is copied (bytes); large tokenizers have half of it."""
_POINTERS: Final = 2048
"""Files with fewer bytes may be pointers to files that another program keeps elsewhere."""
_FOREIGN: Final = "is a link to a file outside of its folder"
INDEX: Final = ".safetensors.index.json"
"""The end of the name of an index of shards, after `model`."""

_KEPT: Final = re.compile(
    r"""(?ix) .* \. (?: json | txt | model (?: \.v\d+ (?: m\d+ )? )? | jinja2? | j2 | tiktoken | vocab | bpe | spm )
    | [^.]* (?: licen[cs]e | notice | use_policy ) [^.]* (?: \. (?: md | rst ) )?""",
)
_LEFT: Final = re.compile(
    r"""(?ix)
    .* \. index (?: \. \w+ )? \. json             # of shards, which are written anew
    | (?: trainer_state | (?: all | train | eval | test | predict ) _results ) \. json
    | adapter_config \. json                    # beside whole weights it would make clients look for an adapter
    | mergebuild \. json                          # how the donor itself was made
    | (?: (?: hf_ )? quant | quanti[sz] (?: e | ation ) ) _config \. json | quanto_qmap \. json  # nothing written is so
    | requirements.* \. txt | README .*""",
)
_WEIGHTS: Final = re.compile(
    r"(?i).*\.(?:safetensors|bin|pt|pth|ckpt|gguf|ggml|onnx|onnx_data|msgpack|h5|tflite|ot|pkl)"
)
_OURS: Final = re.compile(
    r"(?:model|diffusion_pytorch_model|adapter_model)(?:-\d{5,}-of-\d{5,})?\.safetensors"
    rf"|(?:model|diffusion_pytorch_model){re.escape(INDEX)}"
)
_TEMPLATES: Final = "additional_chat_templates"


class Sidecars(NamedTuple):
    """The small files of a folder, and notices about files left out that its owner may miss."""

    names: tuple[str, ...]
    """Relative paths with `/`, sorted."""
    left_out: tuple[str, ...]


def has_own_code(config: Mapping[str, object], names: Collection[str]) -> bool:
    """Return whether a configuration names classes in a folder's own Python files, given the names in the folder.

    They are in `auto_map`, as `modeling_odd.OddModel` or a list of such. `someone/model--modeling_odd.OddModel` is
    elsewhere.
    """
    auto_map = config.get("auto_map")
    values = list(auto_map.values()) if isinstance(auto_map, Mapping) else []
    classes = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return any(isinstance(each, str) and f"{each.rpartition('.')[0]}.py" in names for each in classes)


def sidecars_of(
    folder: Path,
    subfolders: Iterable[str] = (),
    modules: Iterable[str] = (),
    *,
    with_code: bool = False,
    within: Sequence[Path] = (),
) -> Sidecars:
    """Return the small files of a folder that a copy of it needs: tokenizer, templates, licence, ...

    READMEs, leftovers of training, and links out of the folder are left out.

    Args:
        folder: The folder.
        subfolders: Folders inside it that are searched too.
        modules: Folders inside it whose weights count as small files too, such as `2_Dense` of a sentence encoder.
        with_code: Whether the folder's own Python files are needed: all or none, as one may import another.
        within: Folders in which a link may also end.

    Raises:
        OSError: a folder can't be read.
    """
    modules = frozenset(modules)
    names: list[str] = []
    left_out: list[str] = []
    for inner in sorted({"", _TEMPLATES, *subfolders, *modules}):
        place = folder / inner
        if not is_folder(place):
            continue
        for name in sorted(entry.name for entry in place.iterdir()):
            shown = f"{inner}/{name}" if inner else name
            wanted, why = _judged(
                place / name, folder, within, with_weights=inner in modules, with_code=with_code and not inner
            )
            if wanted:
                names.append(shown)
            elif why:
                left_out.append(f"{quoted(shown)} {why}, and is not copied")
    return Sidecars(tuple(sorted(names)), tuple(left_out))


def _judged(path: Path, home: Path, within: Sequence[Path], *, with_weights: bool, with_code: bool) -> tuple[bool, str]:
    """Return whether a file is a small file of the folder; if not, also a reason that users should know, or ""."""
    name = path.name
    if name.startswith(".") or not is_plain(name) or _LEFT.fullmatch(name):
        return False, ""
    is_code = name.endswith(".py")
    is_kept = _KEPT.fullmatch(name) and not _WEIGHTS.fullmatch(name)
    if not (is_code or is_kept or (with_weights and name.endswith(".safetensors"))):
        return False, ""
    why = _unfit(path, home, within, is_code=is_code and not with_code)
    return why is None, why or ""


def _unfit(path: Path, home: Path, within: Sequence[Path], *, is_code: bool) -> str | None:
    """Return why a file is not copied (empty: for no reason that users need); None if it can be copied.

    Raises:
        OSError: it can't be determined. A failing disk must not make a model lose its configuration.
    """
    try:
        found = path.stat()
    except OSError as error:
        if leads_nowhere(error):
            return "leads nowhere"
        if is_own(path, home, within):
            raise
        return _FOREIGN
    return _unfit_as(found, path, home, within, is_code=is_code)


def _unfit_as(found: os.stat_result, path: Path, home: Path, within: Sequence[Path], *, is_code: bool) -> str | None:
    """Return why a file with such stat data is not copied, as `_unfit` does."""
    if not stat.S_ISREG(found.st_mode):
        return ""
    if is_code:
        return "is code"
    if not is_own(path, home, within):
        return _FOREIGN
    if found.st_size > MAX_SIDECAR:
        return f"is larger than {MAX_SIDECAR >> 20} MiB"
    known = recognize(beginning(path, LOOKED_AT)) if found.st_size <= _POINTERS else None
    return known.sentence if known is not None and known.is_pointer else None


# Shards


def shards(tensors: Iterable[tuple[str, int]], most: int) -> list[list[str]]:
    """Return the names of tensors by shard. The tensors are given with their sizes, in any order.

    The tensors of a layer (those with equal names up to their first number) are in one shard if they fit into one.
    Layers are in the order of their numbers. The result follows from names and sizes alone.

    Args:
        tensors: Names and sizes in bytes.
        most: The bytes of tensors that a shard may have; a larger tensor has a shard of its own.
    """
    ordered = sorted(tensors, key=lambda tensor: _natural(tensor[0]))
    found: list[list[str]] = []
    free = 0
    for _, group in groupby(ordered, key=lambda tensor: _layer(tensor[0])):
        layer = list(group)
        total = sum(size for _, size in layer)
        blocks = [([name for name, _ in layer], total)] if total <= most else [([name], size) for name, size in layer]
        for names, size in blocks:
            if size > free or not found:
                found.append([])
                free = most
            found[-1] += names
            free -= size
    return found or [[]]


def shard_names(count: int, base: str) -> list[str]:
    """Return the names of `count` shards: `model-00001-of-00003.safetensors`; a single one is `model.safetensors`.

    `base` is `model`, or `diffusion_pytorch_model` for the components that are diffusers' own.
    """
    if count == 1:
        return [f"{base}.safetensors"]
    return [f"{base}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def index_json(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """Return the text of an index of shards, given each tensor's file and the number of bytes of all tensors."""
    document = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    return f"{json.dumps(document, indent=2, sort_keys=True)}\n".encode()


def stale(present: Iterable[str], wanted: Collection[str]) -> tuple[str, ...]:
    """Return the names in a folder that are weights in another layout than the wanted one, which clients might load.

    Only names that our outputs can have: the single file, shards, and their index.
    """
    return tuple(sorted(name for name in present if name not in wanted and _OURS.fullmatch(name)))


def _layer(name: str) -> str:
    """Return what the names of a layer's tensors have in common: up to the first number, else up to the last dot."""
    found = re.match(r".*?(?:^|\.)[0-9]+(?=\.|$)", name)
    return found[0] if found else name.rpartition(".")[0]


def _natural(name: str) -> tuple[Sequence[tuple[int, str]], str]:
    """Return a sort key that orders numbers in names by value, however long they are."""
    parts = re.split(r"([0-9]+)", name)
    parts[1::2] = [number.lstrip("0") for number in parts[1::2]]
    return [(len(part) if number % 2 else 0, part) for number, part in enumerate(parts)], name
