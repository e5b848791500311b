"""Which files an output is: one, or a folder that clients load by name, and which tensors lie in which.

A folder of transformers has shards and an index, a pipeline of diffusers a folder for each component, with the names
that diffusers gives to tensors; beside them stand the small files of a donor, its configuration patched where it would
contradict the tensors. All of it follows from names, shapes, dtypes and the donor, never from values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Final, NamedTuple

from mergebuild.fit import Spec
from mergebuild.formats import DTYPES_BY_WORD, Arrangement, Packing, Stored, Text
from mergebuild.formats.folders import Folder
from mergebuild.formats.sidecars import INDEX, index_json, patched_config, shard_names, shards, tying
from mergebuild.lora import adapter_json, is_adapter
from mergebuild.naming import parts_of, to_diffusers

__all__ = ["MAX_SHARD_SIZE", "File", "files_of", "is_checkpoint", "is_folder", "is_safetensors"]

MAX_SHARD_SIZE: Final = 5_000_000_000
"""Bytes of tensors a shard, where a target does not say."""

_RECIPE: Final = "mergebuild.json"
"""What the metadata of a single file say, as a file of a folder: every shard has only its own."""
_MODEL_INDEX: Final = "model_index.json"
_ADAPTER: Final = "adapter_model.safetensors"


class File(NamedTuple):
    """One file of an output: its path in the folder, the tensors that it holds, and how it is laid out."""

    path: str
    tensors: Sequence[str]
    packing: Packing
    content: bytes = b""
    """All of it, where it holds no tensors."""


def is_safetensors(path: Path | None) -> bool:
    """Whether an output is one safetensors file; None: it is kept in the store."""
    return path is None or path.suffix == ".safetensors"


def is_checkpoint(path: Path | None) -> bool:
    """Whether an output is a pickle."""
    return path is not None and path.suffix == ".ckpt"


def is_folder(path: Path | None) -> bool:
    """Whether an output is a folder of files."""
    return not is_safetensors(path) and not is_checkpoint(path)


def files_of(
    specs: Mapping[str, Spec],
    digests: Mapping[str, bytes],
    facts: Mapping[str, str],
    donor: Folder | None,
    home: Path | None,
    most: int,
) -> Iterator[File]:
    """Yield the files of a folder: weights first, then what stands beside them, what clients look for first last.

    Args:
        specs: the tensors.
        digests: what they are; equal ones have equal values.
        facts: the metadata of the whole.
        donor: where configuration and tokenizer come from, if there is one.
        home: the donor's folder.
        most: how many bytes of tensors a shard holds, unless one tensor is larger.
    """
    if is_adapter(specs):
        yield from _adapter(specs, facts, donor)
        return
    is_pipeline = donor is not None and donor.kind == "diffusers"
    if is_pipeline:
        yield from _components(specs, most)
    else:
        yield from _shards(specs, "", "model", most)
    yield from _recipe(facts)
    if donor is None or home is None:
        return
    dtype = _common_dtype(specs)
    last = _MODEL_INDEX if is_pipeline else "config.json"
    for name in sorted(donor.sidecars, key=lambda name: (name == last, name)):
        content = (home / name).read_bytes()
        if name.endswith("config.json") and name.count("/") <= 1 and _is_of_weights(name, donor):
            content = patched_config(
                content, dtype=dtype, tied=None if is_pipeline else tying(donor.components[""].tensors, digests)
            )
        elif name == _MODEL_INDEX:
            content = _without(content, donor, specs)
        yield _text(name, content)


def _adapter(specs: Mapping[str, Spec], facts: Mapping[str, str], donor: Folder | None) -> Iterator[File]:
    """Yield the files of an adapter of PEFT; what stands beside the weights of its model is not part of it."""
    yield File(_ADAPTER, tuple(specs), Arrangement((name, *spec[:2]) for name, spec in specs.items()))
    yield from _recipe(facts)
    content = adapter_json({name: spec.shape for name, spec in specs.items()}, donor.config if donor else {})
    yield _text("adapter_config.json", content)


def _recipe(facts: Mapping[str, str]) -> Iterator[File]:
    """Yield what the metadata of a single file say, where they say anything."""
    if len(facts) > 1:
        yield _text(_RECIPE, (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _text(path: str, content: bytes) -> File:
    return File(path, (), Text(content), content)


def _is_of_weights(name: str, donor: Folder) -> bool:
    folder, _, base = name.rpartition("/")
    return base == "config.json" and folder in donor.components


def _common_dtype(specs: Mapping[str, Spec]) -> str | None:
    """Return the dtype of the most elements."""
    counts: dict[str, int] = {}
    for spec in specs.values():
        if spec.is_float:
            counts[spec.dtype] = counts.get(spec.dtype, 0) + prod(spec.shape)
    return max(counts, key=lambda dtype: counts[dtype]) if counts else None


def _without(content: bytes, donor: Folder, specs: Mapping[str, Spec]) -> bytes:
    """Return a pipeline's index without the components whose weights are not written."""
    written = set(to_diffusers({name: spec.shape for name, spec in specs.items()})[0])
    index = json.loads(content)
    for component in donor.components.keys() - written:
        if component in index:
            index[component] = [None, None]
    return (json.dumps(index, indent=2) + "\n").encode()


def _components(specs: Mapping[str, Spec], most: int) -> Iterator[File]:
    """Yield the weights of a pipeline, by component."""
    shapes = {name: spec.shape for name, spec in specs.items()}
    made, _ = to_diffusers(shapes)
    parts = parts_of(shapes)
    stored = {
        name: [Stored(part.tensor, made[part.component][part.tensor].shape) for part in some]
        for name, some in parts.items()
    }
    turned = frozenset(name for name, some in parts.items() if any(part.transposed for part in some))
    for component in made:
        names = [name for name, some in parts.items() if some[0].component == component]
        base = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        yield from _shards({name: specs[name] for name in names}, f"{component}/", base, most, stored, turned)


def _shards(
    specs: Mapping[str, Spec],
    folder: str,
    base: str,
    most: int,
    stored: Mapping[str, Sequence[Stored]] | None = None,
    turned: frozenset[str] = frozenset(),
) -> Iterator[File]:
    """Yield the weights of one model, and the index of the shards where there are several."""
    sizes = {name: prod(spec.shape) * DTYPES_BY_WORD[spec.dtype].size for name, spec in specs.items()}
    found = shards(sizes.items(), most)
    names = shard_names(len(found), base)
    where: dict[str, str] = {}
    for shard, tensors in zip(names, found, strict=True):
        some = [(name, *specs[name][:2]) for name in tensors]
        yield File(folder + shard, tensors, Arrangement(some, stored, turned.intersection(tensors)))
        where |= {each: shard for name in tensors for each in _names(name, stored)}
    if len(found) > 1:
        yield _text(f"{folder}{base}{INDEX}", index_json(where, sum(sizes.values())))


def _names(name: str, stored: Mapping[str, Iterable[Stored]] | None) -> list[str]:
    return [part.name for part in stored[name]] if stored and name in stored else [name]
