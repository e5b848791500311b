"""Folders of weights: transformers (and any folder with one file of weights), diffusers, PEFT.

Which files of a folder hold the weights is decided as its client would: transformers prefers `model.safetensors` to an
index, diffusers the index. Only small JSON files and headers are read. Names in those files are untrusted: each must be
the name of an entry in the folder, or it is refused. Files of weights may be links, as in the cache of Hugging Face,
since a link to anything that is not a model shows nothing of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mergebuild.errors import SourceError
from mergebuild.formats.documents import is_plain
from mergebuild.formats.folder_place import FileReader, FolderPlace
from mergebuild.formats.model import ADAPTER_CONFIG, ADAPTERS, Model, read_safetensors
from mergebuild.formats.quantized import listed, quantization_claimed, with_scales
from mergebuild.formats.ranks import Ranks, ranks
from mergebuild.formats.reading import UNQUANTIZED, quoted
from mergebuild.formats.registry import FILES
from mergebuild.formats.shards import AGAIN, sharded, single
from mergebuild.formats.sidecars import has_own_code

__all__ = ["Folder", "read_folder", "with_configuration"]

_WEIGHTS: Final = {
    # as clients prefer them, the best first; each with the name that it may be mistaken for
    "model.safetensors": "model.safetensors.index.json",
    "model.safetensors.index.json": "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json": "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin": "pytorch_model.bin.index.json",
    "pytorch_model.bin.index.json": "pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json": "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin": "diffusion_pytorch_model.bin.index.json",
}
_VARIANT: Final = re.compile(
    r"(?P<base>(?:diffusion_pytorch_|pytorch_)?model)"
    r"(?:\.(?P<one>\w+)\.(?P<kind>safetensors|bin)|\.(?:safetensors|bin)\.index\.(?P<many>\w+)\.json)"
)
_SHARD: Final = re.compile(r".*-\d{5,}-of-\d{5,}.*")
_LEFTOVERS: Final = re.compile(r"(?:optimizer|scheduler|scaler|training_args|rng_state\w*|random_states\w*)\.\w+")
_OTHERS: Final = (".onnx", ".msgpack", ".h5", ".tflite", ".ot", ".mlmodel", ".mlpackage")
_WEIGHTLESS: Final = re.compile(r".*(?:Scheduler|Tokenizer|TokenizerFast|Processor|ProcessorFast|Extractor)")
_OPTIONAL: Final = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Components that pipelines can do without, and that people delete."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The contents of a folder of weights."""

    kind: str
    """`sharded` (transformers, or any folder with one file of weights), `diffusers` or `peft`."""
    components: Mapping[str, Model]
    """By name of the component's subfolder, for diffusers; else one with an empty name.

    Tensors have the names in the files. `Model.facts` is the component's own configuration.
    """
    config: Mapping[str, object]
    """The content of `config.json`, `model_index.json` or `adapter_config.json`; empty if there is no `config.json`."""
    sidecars: tuple[str, ...]
    """The small files that a copy of the folder needs: relative paths with `/`, sorted."""
    left_out: tuple[str, ...]
    """Small files that a copy does not need, and why, one sentence each; relevant only if a copy is made."""
    notices: tuple[str, ...]
    """Decisions that users should know, one sentence each."""


def read_folder(
    folder: Path, *, shown: str, read_file: FileReader = read_safetensors, within: Sequence[Path] = ()
) -> Folder:
    """Return the contents of a folder of weights, from its small files and headers alone.

    Args:
        folder: The folder.
        shown: What to call it in errors.
        read_file: Reads a file of weights by its suffix: safetensors or a pickle.
        within: Folders in which links of small files may also end.

    Raises:
        SourceError: it can't be read, is incomplete, its files contradict each other or refer to files elsewhere, or
            its weights are quantized.
    """
    place = FolderPlace(folder, shown.rstrip("/\\") or shown, folder, read_file, tuple(within))
    names = place.names()
    if "model_index.json" in names:
        return _pipeline(place)
    whole = [name for name in _WEIGHTS if name in names]
    adapters = [name for name in ADAPTERS if name in names]
    if whole and adapters:
        raise _two_things(place, whole[0], adapters[0])
    if not whole and (adapters or ADAPTER_CONFIG in names):
        return _adapter(place, adapters)
    return _transformers(place, names)


def with_configuration(model: Model, path: Path, *, shown: str, within: Sequence[Path] = ()) -> Model | None:
    """Return an adapter of PEFT, named as a file, together with the configuration beside it; None if there is none.

    Args:
        model: The file.
        path: Its path.
        shown: What to call it in errors.
        within: As for `read_folder`.

    Raises:
        SourceError: the configuration can't be read.
    """
    name = shown.replace("\\", "/").rpartition("/")[0] or "."
    place = FolderPlace(path.parent, name, path.parent, read_safetensors, tuple(within))
    if not place.has(ADAPTER_CONFIG):
        return None
    config = place.document(ADAPTER_CONFIG)
    read = replace(model, format="peft", documents=(path.parent / ADAPTER_CONFIG,), facts=config)
    return replace(read, contents=Folder("peft", {"": read}, config, (), (), read.notices))


# The three kinds


def _transformers(place: FolderPlace, names: frozenset[str]) -> Folder:
    config = place.document("config.json") if "config.json" in names else {}
    model = _component(place, names, config, "sharded")
    beside = place.beside(modules=_modules(place, names), with_code=has_own_code(config, names))
    return Folder("sharded", {"": model}, config, *beside, model.notices)


def _adapter(place: FolderPlace, adapters: Sequence[str]) -> Folder:
    """Return an adapter. `adapters`: the files with its weights, the preferred one first."""
    config = place.document(ADAPTER_CONFIG)
    if not adapters:
        expected = " nor ".join(f"`{each}`" for each in ADAPTERS)
        raise place.error(
            "weights-missing", f"has an `{ADAPTER_CONFIG}`, and neither {expected}", "download the whole folder"
        )
    name = adapters[0]
    model = with_scales(place.read_file(place.path / name, f"{place.shown}/{name}"), place.shown)
    documents = (place.path / ADAPTER_CONFIG,)
    model = replace(model, format="peft", documents=documents, folder=place.path, facts=config)
    return Folder("peft", {"": model}, config, *place.beside(), model.notices)


def _two_things(place: FolderPlace, whole: str, adapter: str) -> SourceError:
    """Return the error for a folder with both a model and an adapter: some clients load the one, some the other."""
    names = [f"the adapter as `{place.shown}/{adapter}`"]
    if not whole.endswith(".json"):
        names.append(f"the model as `{place.shown}/{whole}`")
    mend = f"name {', '.join(names)}, or move the files of one of them into a folder of their own"
    return place.error("ambiguous-folder", "holds a model and an adapter", mend, (whole, adapter))


def _pipeline(place: FolderPlace) -> Folder:
    index = place.document("model_index.json")
    classes = _classes(place, index)
    components, notices = _components(place, classes)
    if not components:
        sentence = "has a `model_index.json`, and no component with weights"
        raise place.error("weights-missing", sentence, "download the whole folder")
    return Folder("diffusers", components, index, *place.beside(classes), tuple(notices))


def _components(place: FolderPlace, classes: Mapping[str, str]) -> tuple[dict[str, Model], list[str]]:
    """Return the weights of a pipeline's components by name, and notices about them. `classes`: of the components."""
    components: dict[str, Model] = {}
    notices: list[str] = []
    for name, class_name in classes.items():
        inner = place.below(name)
        if not inner.is_there():
            notices.append(_missing_component(place, inner, name))
        elif (model := _weights_of(inner, class_name)) is not None:
            components[name] = model
            notices += model.notices
    return components, notices


def _missing_component(place: FolderPlace, inner: FolderPlace, name: str) -> str:
    """Return the notice about a component that has no folder; raise an error if the pipeline needs it."""
    if name not in _OPTIONAL:
        sentence = f"names the component `{name}` in its `model_index.json`, and has no such folder"
        raise place.error("component-missing", sentence, "download the whole folder")
    return f"{quoted(inner.shown)} is not there, though `model_index.json` names it"


def _weights_of(inner: FolderPlace, class_name: str) -> Model | None:
    """Return the weights of a component by its folder and class; None if such components have no weights."""
    names = inner.names()
    if _WEIGHTLESS.fullmatch(class_name) or _is_settings(names):
        return None
    config = inner.document("config.json") if "config.json" in names else {}
    return _component(inner, names, config, "diffusers")


def _is_settings(names: frozenset[str]) -> bool:
    """Return whether a component's folder holds settings and no model: models have a `config.json`, or weights."""
    settings = any(name.endswith(".json") for name in names)
    return settings and "config.json" not in names and not names & _WEIGHTS.keys()


def _classes(place: FolderPlace, index: Mapping[str, object]) -> dict[str, str]:
    """Return the class of each component of a pipeline by name: `"unet": ["diffusers", "UNet2DConditionModel"]`.

    Components that are left out have nulls for library and class; options of the pipeline are no lists.
    """
    found: dict[str, str] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2 or None in value:
            continue
        if not is_plain(name) or not all(isinstance(each, str) for each in value):
            raise _bad_entry(place, name)
        found[name] = value[1]
    return found


def _bad_entry(place: FolderPlace, name: str) -> SourceError:
    sentence = f"has {quoted(name)} in its `model_index.json`, and a folder's name, library and class are expected"
    return place.error("bad-model-index", sentence, AGAIN)


def _modules(place: FolderPlace, names: frozenset[str]) -> list[str]:
    """Return the folders of a sentence encoder's additional modules, such as `1_Pooling`."""
    if "modules.json" not in names or not place.has("modules.json"):
        return []
    return sorted(name for name in names if re.fullmatch(r"\d+_\w+", name) and not os.path.islink(place.path / name))  # noqa: PTH114


# The weights of one component


def _component(place: FolderPlace, names: frozenset[str], config: Mapping[str, object], kind: str) -> Model:
    """Return the weights of a folder of transformers, or of one component of diffusers."""
    name, notices = _chosen(place, names, config)
    if name.endswith(".json"):
        model, notices = _sharded_or_single(place, name, notices)
    else:
        model = _single_claimed(place, name, config)
    model = with_scales(model, place.shown, config)
    return replace(model, format=kind, folder=place.path, notices=(*notices, *model.notices), facts=config)


def _sharded_or_single(place: FolderPlace, index: str, notices: tuple[str, ...]) -> tuple[Model, tuple[str, ...]]:
    """Return the weights in the shards of an index, with `notices` about that choice.

    If shards are missing, return those in the single file beside the index, with another notice.
    """
    try:
        return sharded(place, index), notices
    except SourceError as error:
        other = _WEIGHTS.get(index, "")
        if error.problems[0].code != "shard-missing" or not place.has(other):
            raise
        notice = f"{quoted(f'{place.shown}/{index}')} names missing shards; `{other}` was taken"
        return single(place, other), (notice,)


def _single_claimed(place: FolderPlace, name: str, config: Mapping[str, object]) -> Model:
    """Read one file. If its dtype can't be read and the configuration says that it is quantized, the error says so."""
    try:
        return single(place, name)
    except SourceError as error:
        claim = quantization_claimed(config)
        if claim is not None and error.problems[0].code == "unsupported-dtype":
            raise _quantized(place, claim) from error
        raise


def _chosen(place: FolderPlace, names: frozenset[str], config: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    """Return the file or index with the weights, and notices about the choice."""
    named = config.get("transformers_weights")
    if isinstance(named, str) and is_plain(named) and named in names:
        return named, ()
    for name, other in _WEIGHTS.items():
        if name in names:
            both = f"{quoted(place.shown)} has both `{name}` and `{other}`; the first was taken, as its client does"
            return name, ((both,) if other in names else ())
    variants = _variants(names)
    if variants:
        name = _preferred_variant(place, variants)
        return name, (f"{quoted(place.shown)} has no plain weights; its variant `{name}` was taken",)
    return _only_one(place, names), ()


def _variants(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of weights in variants such as `fp16`, by variant, the preferred format first."""
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda each: (".safetensors" not in each, each.endswith(".json"), each)):
        match = _VARIANT.fullmatch(name)
        if match and (match["one"] or match["many"]) != "index":
            found.setdefault(match["one"] or match["many"], []).append(name)
    return found


def _preferred_variant(place: FolderPlace, variants: Mapping[str, Sequence[str]]) -> str:
    """Return the file or index of the variant that is taken: `fp16`, else `bf16`, else the only one."""
    variant = next((each for each in ("fp16", "bf16", *variants) if each in variants), "")
    if len(variants) > 1 and variant not in {"fp16", "bf16"}:
        raise _ambiguous(place, [found[0] for found in variants.values()])
    return variants[variant][0]


def _only_one(place: FolderPlace, names: frozenset[str]) -> str:
    """Return the file of weights in a folder that has none with a usual name: the only file of some format.

    Raises:
        SourceError: there are several, or none.
    """
    for each in FILES:
        named = (name for name in names if name.lower().endswith(each.read_suffixes))
        found = sorted(name for name in named if not _LEFTOVERS.fullmatch(name))
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(place, found)
    raise _no_weights(place, names)


def _ambiguous(place: FolderPlace, found: Sequence[str]) -> SourceError:
    parts = ranks(found)
    if parts is not None:
        return _parts_of_tensors(place, parts)
    if all(_SHARD.fullmatch(name) for name in found):
        sentence = f"has {len(found)} shards of weights, and no index that says what is in them"
        return place.error("index-missing", sentence, "download `model.safetensors.index.json` too", listed(found))
    sentence = f"has {len(found)} files of weights, and nothing says which of them is meant"
    return place.error("ambiguous-folder", sentence, "name one of the files", listed(found))


def _no_weights(place: FolderPlace, names: frozenset[str]) -> SourceError:
    if any(name.lower().endswith(".gguf") for name in names):
        sentence = "has its weights in GGUF only, which this version does not read"
        way_out = "take the unquantized safetensors release of the model: merging quantized weights loses quality"
        return place.error("not-in-this-version", sentence, way_out)
    if others := sorted(name for name in names if name.lower().endswith(_OTHERS)):
        mend = "download the `.safetensors` files of the model"
        return place.error("weights-missing", "has no weights in safetensors", mend, listed(others))
    parts = ranks(names)
    if parts is not None:
        return _parts_of_tensors(place, parts)
    if {"blobs", "snapshots"} <= names:
        return _cache_of_downloads(place)
    sentence = "has no file of weights"
    return place.error("weights-missing", sentence, "name a folder with `model.safetensors`, or its shards and index")


def _parts_of_tensors(place: FolderPlace, parts: Ranks) -> SourceError:
    return place.error("parts-of-tensors", f"has {len(parts.names)} files {parts.sentence}", parts.help, parts.rows)


def _cache_of_downloads(place: FolderPlace) -> SourceError:
    snapshots = place.below("snapshots")
    rows = listed([f"{snapshots.shown}/{name}" for name in sorted(snapshots.names())])
    return place.error("weights-missing", "is a cache of downloads", "name one of the folders in `snapshots`", rows)


def _quantized(place: FolderPlace, claim: str) -> SourceError:
    inner = place._replace(shown=f"{place.shown}/config.json")
    sentence = f"has a {claim}: its weights are quantized, and can't be merged"
    return inner.error("quantized-weights", sentence, UNQUANTIZED)
