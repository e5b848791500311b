"""Which files an output has: one, or those of a folder that programs load by name; and which tensors are in which file.

A folder of transformers has shards and an index. A pipeline of diffusers has a folder for each component, with the
names that diffusers gives to tensors, or with the donor's names if their architecture is unknown. Both have the small
files of a donor, with its configuration changed where it would contradict the tensors. All of it depends on names,
shapes, dtypes and the donor, never on values. Code that only folders need is imported when there is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from mergebuild.configuration.tokenizer_files import TOKENIZER_CONFIG, is_of_tokenizer
from mergebuild.digest import checksum
from mergebuild.errors import MismatchError
from mergebuild.fold.compatible import Spec
from mergebuild.fold.forms import Blueprint
from mergebuild.formats.layout import PLAIN, Arrangement, Packing, StoredName, Text, Written, runs_of
from mergebuild.naming.spelling import AS_IS, FileSpelling
from mergebuild.plan.token_files import TokenFiles

if TYPE_CHECKING:
    from mergebuild.configuration.text import Path as Keys
    from mergebuild.formats.folders import Folder

__all__ = ["BesideWeights", "PlannedFile", "PlannedFiles", "SmallFile", "files_of", "written"]

_MOST: Final = 5_000_000_000
"""Bytes of tensors in a shard, if the target does not say."""
_MOST_OF_A_COMPONENT: Final = 10_000_000_000
"""The same in a pipeline, so that SDXL's UNet is one file, as programs expect."""

_RECIPE: Final = "mergebuild.json"
"""The name of a folder's file with the metadata that a single file would have. Every shard has only its own."""
_CONFIG: Final = "config.json"
_CONFIGS: Final = {"sharded": _CONFIG, "diffusers": "model_index.json", "peft": "adapter_config.json"}
"""The file that programs look for first in a folder, by its kind."""
_UNET: Final = "unet"
_ADAPTER: Final = "adapter_model.safetensors"


class PlannedFile(NamedTuple):
    """One file of an output: its path in the folder, its tensors, and how it is laid out."""

    path: str
    tensors: Sequence[str]
    packing: Packing
    content: bytes = b""
    """All of it, if it has no tensors."""
    origin: SmallFile | None = None
    """The donor's small file that it was made from, if there is one."""


class SmallFile(NamedTuple):
    """A small file of a donor: its path in the donor's folder, and the checksum of its bytes."""

    path: str
    checksum: bytes
    source: str = ""
    """The source whose folder it is, if not the donor of the configuration."""


class PlannedFiles(NamedTuple):
    """All files of a folder: weights first, then small files; the file that programs look for first comes last."""

    files: list[PlannedFile]
    notices: tuple[str, ...] = ()
    """A sentence about tensors that have no place in it."""


def written(blueprint: Blueprint, specs: Mapping[str, Spec]) -> Written:
    """Return how a target's files write its tensors: with the names that its first input's files have."""
    spelling, copies = blueprint.spelling, blueprint.copies
    if spelling is AS_IS and not copies:
        return PLAIN
    return _as_spelled(spelling, specs)._replace(copies=frozenset(copies))


def _as_spelled(spelling: FileSpelling, specs: Mapping[str, Spec]) -> Written:
    """Return how files with this spelling write tensors."""
    shapes = {name: spec.shape for name, spec in specs.items()}
    one_dtype = (
        (stored, members)
        for stored, members in spelling.fused(shapes).items()
        if len({specs[name].dtype for name in members}) == 1
    )
    fused = {StoredName(*stored): members for stored, members in one_dtype}
    left = {name: shape for name, shape in shapes.items() if not any(name in members for members in fused.values())}
    split = {name: [StoredName(*each) for each in some] for name, some in spelling.split(left).items()}
    turned = frozenset(name for name in spelling.turned if shapes.get(name) == spelling.made[name].shape)
    views = {name: spelling.views[name] for some in fused.values() for name in some if name in spelling.views}
    return Written(split, fused, turned, views=views)


class BesideWeights(NamedTuple):
    """What the small files of a folder are made from."""

    donor: Folder | None = None
    """The donor's folder as it was read, if there is a donor."""
    home: Path | None = None
    """The path of that folder."""
    changes: Mapping[Keys, object] = MappingProxyType({})
    """New values of members of the donor's configuration, by the path of keys to each."""
    tokens: TokenFiles | None = None
    """The files of the tokenizer, if they are not the donor's as they are."""


def files_of(
    specs: Mapping[str, Spec],
    facts: Mapping[str, str],
    beside: BesideWeights,
    most: int | None,
    written: Written = PLAIN,
    adapter: Mapping[str, object] | None = None,
) -> PlannedFiles:
    """Return the files of a folder.

    Args:
        specs: The tensors, in the dtypes in which they are written.
        facts: The metadata of the whole.
        beside: What its small files are made from.
        most: The most bytes of tensors in a shard, unless one tensor is larger; None: the default.
        written: How a folder of transformers writes the tensors.
        adapter: For an adapter whose factors we did not make, the configuration that gives their meaning.

    Raises:
        MismatchError: the donor is a pipeline, and none of the tensors has a place in it.
    """
    from mergebuild.lora import is_adapter

    donor, home = beside.donor, beside.home
    if adapter is not None or is_adapter(specs):
        return PlannedFiles(list(_adapter(specs, facts, donor, home, adapter)), ())
    pipeline = _Pipeline(specs, donor) if donor is not None and donor.kind == "diffusers" else None
    if pipeline:
        files = list(pipeline.weights(most or _MOST_OF_A_COMPONENT))
    else:
        files = list(_shards(specs, "", "model", most or _MOST, written))
    files += _recipe(facts)
    if beside.tokens is not None:
        files += _of_tokens(beside.tokens)
    if donor is not None and home is not None:
        files += _beside(specs, donor, home, pipeline, beside)
    return PlannedFiles(files, pipeline.notices() if pipeline else ())


def _beside(
    specs: Mapping[str, Spec],
    donor: Folder,
    home: Path,
    pipeline: _Pipeline | None,
    beside: BesideWeights,
) -> Iterator[PlannedFile]:
    """Yield the small files of the donor, but those of a tokenizer if others take their place."""
    from mergebuild.configuration.text import patched_config

    last = _CONFIGS[donor.kind]
    kept = (name for name in donor.sidecars if beside.tokens is None or not is_of_tokenizer(name))
    for name in sorted(kept, key=lambda name: (name == last, name)):
        content = (home / name).read_bytes()
        origin = SmallFile(name, checksum(content))
        if name.endswith(_CONFIG) and name.count("/") <= 1 and _is_of_weights(name, donor):
            held = pipeline.specs(name.rpartition("/")[0]) if pipeline else specs
            content = patched_config(content, dtype=_common_dtype(held), changes=None if pipeline else beside.changes)
        elif name == last and pipeline:
            content = pipeline.index(content)
        yield _text(name, content)._replace(origin=origin)


def _of_tokens(tokens: TokenFiles) -> Iterator[PlannedFile]:
    """Yield the files of a tokenizer."""
    first = min(tokens.own.items(), default=(TOKENIZER_CONFIG, b""))
    for name, content in sorted(tokens.files.items()):
        path, known = (name, tokens.own[name]) if name in tokens.own else first
        yield _text(name, content)._replace(origin=SmallFile(path, known, tokens.owner))


def _adapter(
    specs: Mapping[str, Spec],
    facts: Mapping[str, str],
    donor: Folder | None,
    home: Path | None,
    adapter: Mapping[str, object] | None,
) -> Iterator[PlannedFile]:
    """Yield the files of a PEFT adapter; small files of its model are not part of it.

    An adapter that is copied keeps its own small files, such as a tokenizer with the words that it was trained for.
    """
    from mergebuild.lora import adapter_json

    yield PlannedFile(_ADAPTER, tuple(specs), Arrangement((name, *spec[:2]) for name, spec in specs.items()))
    yield from _recipe(facts)
    if adapter is not None and donor is not None and donor.kind == "peft" and home is not None:
        for name in donor.sidecars:
            content = (home / name).read_bytes()
            yield _text(name, content)._replace(origin=SmallFile(name, checksum(content)))
    shapes = {name: spec.shape for name, spec in specs.items()}
    content = adapter_json(shapes, donor.config if donor else {}, adapter)
    origin = SmallFile(_CONFIGS[donor.kind], checksum(json.dumps(donor.config).encode())) if donor else None
    yield _text(_CONFIGS["peft"], content)._replace(origin=origin)


def _recipe(facts: Mapping[str, str]) -> Iterator[PlannedFile]:
    """Yield the file with the metadata that a single file would have, if there are any."""
    if len(facts) > 1:
        yield _text(_RECIPE, (json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _text(path: str, content: bytes) -> PlannedFile:
    return PlannedFile(path, (), Text(content), content)


def _is_of_weights(name: str, donor: Folder) -> bool:
    folder, _, base = name.rpartition("/")
    return base == _CONFIG and folder in donor.components


def _common_dtype(specs: Mapping[str, Spec]) -> str | None:
    """Return the dtype of the largest number of elements."""
    counts: dict[str, int] = {}
    for spec in specs.values():
        if spec.is_float:
            counts[spec.dtype] = counts.get(spec.dtype, 0) + prod(spec.shape)
    return max(counts, key=lambda dtype: counts[dtype]) if counts else None


class _Pipeline:
    """Where tensors are written in a pipeline of diffusers."""

    def __init__(self, specs: Mapping[str, Spec], donor: Folder) -> None:
        self._specs = specs
        self._donor = donor
        self._places: dict[str, dict[str, Sequence[StoredName]]] = {}
        """By component: the stored names of each of its tensors. Tensors that are fused have one stored name."""
        self._fused: dict[str, dict[StoredName, Sequence[str]]] = {}
        """By component: its stored tensors that fuse several of ours."""
        self._written = self._of_stable_diffusion() if _UNET in donor.components else self._of_others()
        if not self._places:
            raise MismatchError.one(
                "no-pipeline",
                "the folder is to be a pipeline of diffusers, and the tensors are of no component of it",
                help="name a folder of transformers as `config`, or write one file",
            )

    def weights(self, most: int) -> Iterator[PlannedFile]:
        """Yield the weights by component."""
        for component, stored in self._places.items():
            yield from _shards(
                self.specs(component),
                f"{component}/",
                self._base(component),
                most,
                self._written._replace(stored=stored, fused=self._fused.get(component, {})),
            )

    def _of_stable_diffusion(self) -> Written:
        """Find the places of tensors with the names of a checkpoint, and return how they are written."""
        from mergebuild.naming import parts_of, to_diffusers

        shapes = {name: spec.shape for name, spec in self._specs.items()}
        made, _ = to_diffusers(shapes)
        parts = parts_of(shapes)
        self._places |= {component: {} for component in made}
        for name, some in parts.items():
            stored = [StoredName(part.tensor, made[part.component][part.tensor].shape) for part in some]
            self._places[some[0].component][name] = stored
        return Written(turned=frozenset(name for name, some in parts.items() if any(part.transposed for part in some)))

    def _of_others(self) -> Written:
        """Find the places of other tensors by the donor's names, with the component as a prefix, as `opening` does."""
        from mergebuild.naming.canonical import canonical
        from mergebuild.naming.spelling import spelling_of

        shapes = self._shapes_in_donor()
        written = _as_spelled(spelling_of(canonical(shapes).made, shapes), self._specs)
        inside = {member: stored for stored, members in written.fused.items() for member in members}
        for name, spec in self._specs.items():
            whole = [inside[name]] if name in inside else written.stored.get(name, (StoredName(name, spec.shape),))
            self._put(name, whole, written.fused[whole[0]] if name in inside else ())
        return written

    def _shapes_in_donor(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the donor's tensors by name, with the component as a prefix."""
        return {
            f"{component}.{name}": info.shape
            for component, model in self._donor.components.items()
            for name, info in model.tensors.items()
        }

    def _put(self, name: str, whole: Sequence[StoredName], members: Sequence[str]) -> None:
        """Put a tensor into the component that its stored names begin with, if the donor has that.

        `members`: the tensors that are fused with it, itself included; empty if it is stored alone.
        """
        component = whole[0].name.partition(".")[0]
        if component in self._donor.components:
            stored = [each._replace(name=each.name.partition(".")[2]) for each in whole]
            self._places.setdefault(component, {})[name] = stored
            if members:
                self._fused.setdefault(component, {})[stored[0]] = members

    def specs(self, component: str) -> Mapping[str, Spec]:
        """Return the tensors of a component."""
        return {name: self._specs[name] for name in self._places.get(component, ())}

    def index(self, content: bytes) -> bytes:
        """Return the donor's index without the components whose weights are not written."""
        index = json.loads(content)
        for component in self._donor.components.keys() - self._places.keys():
            if component in index:
                index[component] = [None, None]
        return (json.dumps(index, indent=2) + "\n").encode()

    def notices(self) -> tuple[str, ...]:
        """Return a notice about tensors without a place in a pipeline, except position ids (programs make these)."""
        placed = {name for stored in self._places.values() for name in stored}
        left = [name for name in self._specs if name not in placed and not name.endswith("position_ids")]
        if not left:
            return ()
        return (f"{len(left)} tensors have no place in a pipeline of diffusers, such as `{left[0]}`",)

    def _base(self, component: str) -> str:
        """Return the base name of a component's files: the donor's, as the component's class looks for these."""
        known = self._donor.components.get(component)
        if known is None:
            return "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        return "model" if known.files[0].name.startswith(("model", "pytorch_model")) else "diffusion_pytorch_model"


def _shards(specs: Mapping[str, Spec], folder: str, base: str, most: int, written: Written) -> Iterator[PlannedFile]:
    """Yield the weights of one model, and the index if there are several shards."""
    from mergebuild.formats.sidecars import INDEX, index_json, shard_names, shards

    runs = {run.whole.name: run for run in runs_of(((name, *spec[:2]) for name, spec in specs.items()), written)}
    sizes = {name: runs[name].whole.nbytes for name in specs if name in runs}
    found = shards(sizes.items(), most)
    names = shard_names(len(found), base)
    where: dict[str, str] = {}
    for shard, firsts in zip(names, found, strict=True):
        tensors = [each.name for name in firsts for each in runs[name].tensors]
        some = [(name, *specs[name][:2]) for name in tensors]
        yield PlannedFile(folder + shard, tensors, Arrangement(some, written.among(tensors)))
        where |= {part.name: shard for name in firsts for part in runs[name].stored}
    if len(found) > 1:
        yield _text(f"{folder}{base}{INDEX}", index_json(where, sum(sizes.values())))
