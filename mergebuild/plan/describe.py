"""Makes the description of a goal: folds the target, hashes the sources that must be known, and lays out its files.

If a target was never built, and nothing pins its sources, they need not be hashed first: no tensor could be reused, so
the pass that merges them may hash them (`build/first_sight.py`). The description then has a layout and no digests.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.digest import checksum, tagged
from mergebuild.errors import MismatchError, Problem, RecipeError, SourceError
from mergebuild.fold.counterparts import bytes_of, percent
from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Behind, Blueprint, Kin, Spec
from mergebuild.formats import registry
from mergebuild.formats.layout import Packing
from mergebuild.formats.registry import FileFormat, FolderFormat
from mergebuild.plan import manifest, metadata, output_files
from mergebuild.plan.agreeing import agree
from mergebuild.plan.architectures import Architectures
from mergebuild.plan.batch import STATISTICS_OF_MADE
from mergebuild.plan.description import Description, FileContent, Goal, Ground
from mergebuild.plan.donors import donor
from mergebuild.plan.layer_origins import layer_origins
from mergebuild.plan.origins import Origins
from mergebuild.plan.step_notices import step_notices
from mergebuild.plan.tensors import Tensors
from mergebuild.plan.token_files import lines_of_tokens, token_files
from mergebuild.recipe import Recipe
from mergebuild.sources.source_file import source_of_part
from mergebuild.sources.sources import SMALL, Sources
from mergebuild.store import Ledger

if TYPE_CHECKING:
    from mergebuild.configuration.text import Path as Keys
    from mergebuild.formats.folders import Folder as Donor

__all__ = ["Describer"]


class Describer:
    """Describes goals over one recipe and its sources."""

    def __init__(self, recipe: Recipe, sources: Sources, ledger: Ledger, folding: Folding, origins: Origins) -> None:
        self._recipe = recipe
        self._sources = sources
        self._ledger = ledger
        self._folding = folding
        self._origins = origins
        self._inside = f"{recipe.root}{os.sep}"
        """The prefix of paths in the project's folder."""
        self._leaves: dict[str, frozenset[str]] = {}
        self._architectures = Architectures(recipe, sources, folding)
        self._grounds: dict[object, Ground] = {}
        """By the kin of a blueprint, or by the name of a target without kin."""
        self._hashed: set[Ground] = set()
        """Those whose sources are all hashed, and meet their pins."""
        self._contents: dict[Kin | None, Mapping[str, str]] = {}
        self._opened: set[object] = set()
        """The `kin` of targets whose sources are open."""
        self._read: dict[tuple[object, ...], int] = {}

    def sources_of(self, target: str) -> tuple[str, ...]:
        """Return every source that a target, or a target below it, names: for tensors, or for small files."""
        refs = (each.ref for name in self._recipe.below(target) for each in self._recipe.target(name).reads)
        return tuple(dict.fromkeys(ref for ref in refs if ref in self._sources))

    def open_sources(self, target: str) -> None:
        """Open every source below a target; report all that can't be opened together.

        Raises:
            SourceError: one is missing or unreadable.
        """
        kin = self._recipe.target(target).kin
        if kin is not None and kin in self._opened:
            return
        problems = list(self._problems_below(target))
        if problems:
            raise SourceError(problems)
        self._opened.add(kin)

    def _problems_below(self, target: str) -> Iterator[Problem]:
        """Open every source below a target; yield why one can't be opened."""
        for owner in self.sources_of(target):
            try:
                self._sources.file(owner)
            except SourceError as error:
                yield from error.problems

    def unhashed(self, target: str) -> list[str]:
        """Return the sources at the bottom of a target, or parts of sources, that are not hashed yet."""
        ground = self._ground(target)
        return [] if ground in self._hashed else self._unhashed(ground)

    def hash_sources(self, goal: Goal, *, hash_all: bool) -> None:
        """Hash the sources that must be known before a goal is described.

        Raises:
            MergeBuildError: the target can't be folded, or a source differs from its pin.
        """
        ground = self._ground(goal.target)
        if ground in self._hashed:
            return
        owners = self.to_hash(goal, hash_all=hash_all)
        for owner in owners:
            self._sources.hashed(owner)
        if ground.bottom.issubset(owners):
            self._hashed.add(ground)

    def to_hash(self, goal: Goal, *, hash_all: bool) -> list[str]:
        """Return the sources that must be hashed before a goal is described; they may be hashed already.

        Raises:
            MergeBuildError: the target can't be folded.
        """
        ground = self._ground(goal.target)
        hash_first = hash_all or self._is_hashed_first(goal, ground)
        owners = [owner for owner in sorted(ground.bottom) if hash_first or self._sources.is_pinned(owner)]
        others = [owner for owner in ground.sources if owner not in ground.bottom]
        owners += [owner for owner in others if self._sources.is_pinned(owner)]  # their small files may be read
        return owners

    def _is_hashed_first(self, goal: Goal, ground: Ground) -> bool:
        """Whether the sources of a goal must be known before it is planned, or take only a moment to hash."""
        return (
            self._ledger.record(goal.target) is not None
            or sum(self._sources.file(owner).size for owner in self._unhashed(ground)) <= SMALL
            or self._recipe.target(goal.target).metadata == "full"
            or not registry.of_output(goal.path).is_foreseen
            or ground.operates
            or any(self._sources.file(owner).model.twins for owner in ground.bottom)
        )

    def describe(self, goal: Goal) -> Description:
        """Return the description of a goal; the sources of `to_hash` are hashed.

        Raises:
            MergeBuildError: it cannot be made as it is written, or a source can't be read.
        """
        blueprint = self._folding.blueprint(goal.target)
        ground = self._ground(goal.target)
        own = () if goal.is_extra else self._recipe.notices(goal.target)
        notices = (*ground.notices, *own, *step_notices(self._folding, blueprint))
        specs = blueprint.specs_in(goal.dtype or blueprint.target.dtype)
        if ground not in self._hashed and self._unhashed(ground):
            return self._foreseen(goal, blueprint, ground, specs, notices)
        return self._identified(goal, blueprint, ground, specs, notices)

    def shown(self, path: Path | None) -> str | None:
        """Return an output's path for people."""
        return self._shown(path, registry.of_output(path))

    def _shown(self, path: Path | None, found: FileFormat | FolderFormat) -> str | None:
        """Return the path of an output in some format for people."""
        if path is None:
            return None
        end = "/" if found is registry.FOLDER else ""
        written = str(path)
        if os.sep == "/" and written.startswith(self._inside):  # faster than `relative_to`, for thousands of outputs
            return written[len(self._inside) :] + end
        try:
            return path.relative_to(self._recipe.root).as_posix() + end
        except ValueError:
            return path.as_posix() + end

    # Sources and targets below a target

    def _ground(self, target: str) -> Ground:
        """Return what follows from a target's inputs alone."""
        try:
            blueprint = self._folding.blueprint(target)
        except MismatchError as error:
            raise self._architectures.explained(target, error) from None
        key = blueprint.kin or target
        found = self._grounds.get(key)
        if found is None:
            found = self._grounds[key] = self._ground_anew(target, blueprint)
        return found

    def _ground_anew(self, target: str, blueprint: Blueprint) -> Ground:
        bottom = self._bottom(target)
        leaves = frozenset(own for each in bottom if (own := source_of_part(each)))
        notices = [f"`{owner}`: {notice}" for owner in sorted(leaves) for notice in self._notices(owner)]
        return Ground(
            self.sources_of(target),
            bottom,
            leaves,
            needs=tuple(sorted(self._files_below(blueprint))),
            notices=(*notices, *self._architectures.compare(target)),
            programs=self._folding.programs(target),
            waits_for_files=self._waits_for_files(blueprint),
            operates=any(self._operates(self._folding.blueprint(name)) for name in self._recipe.below(target)),
        )

    def _unhashed(self, ground: Ground) -> list[str]:
        return [owner for owner in ground.bottom if not self._sources.file(owner).is_hashed]

    def _bottom(self, target: str) -> frozenset[str]:
        """Return the sources at the bottom of a target, including parts of sources and sources that no recipe names."""
        if target not in self._leaves:
            for name in self._recipe.below(target):
                self._leaves[name] = self._leaves_of(self._folding.blueprint(name).owners)
        return self._leaves[target]

    def _leaves_of(self, owners: frozenset[str]) -> frozenset[str]:
        below = (
            self._leaves_of(self._folding.blueprint(owner).owners)
            if self._folding.is_unnamed(owner)
            else self._leaves.get(owner, {owner})
            for owner in owners
        )
        return frozenset().union(*below)

    def _notices(self, owner: str) -> tuple[str, ...]:
        return tuple(self._sources.file(owner).model.notices)

    def _operates(self, blueprint: Blueprint) -> bool:
        """Whether some tensors are not linear in those of sources, or are made of parts of other tensors."""
        is_between = blueprint.target.is_virtual and not blueprint.target.folds
        return (
            is_between or blueprint.forms.operates or any(self._folding.is_unnamed(owner) for owner in blueprint.owners)
        )

    def _files_below(self, blueprint: Blueprint) -> set[str]:
        """Return the file targets that a target reads, directly or through virtual ones with operations."""
        found: set[str] = set()
        for owner in blueprint.owners:
            if owner not in self._sources:
                virtual = self._folding.is_virtual(owner)
                found |= self._files_below(self._folding.blueprint(owner)) if virtual else {owner}
        return found

    def _waits_for_files(self, blueprint: Blueprint) -> bool:
        """Whether a target, or a virtual one below it, needs surveys, or takes tensors of file targets whole."""
        waiting = [blueprint]
        while waiting:
            each = waiting.pop()
            if each.forms.surveys or self._takes_files_whole(each):
                return True
            virtual = (owner for owner in each.owners if self._folding.is_virtual(owner))
            waiting += [self._folding.blueprint(owner) for owner in virtual]
        return False

    def _takes_files_whole(self, blueprint: Blueprint) -> bool:
        """Whether it takes tensors of a file target whole, so that this must be written first."""
        return blueprint.forms.takes_parts and any(
            owner not in self._sources and not self._folding.is_virtual(owner) for owner in blueprint.owners
        )

    # The contents of its files

    def _foreseen(
        self, goal: Goal, blueprint: Blueprint, ground: Ground, specs: Mapping[str, Spec], notices: tuple[str, ...]
    ) -> Description:
        """Return a description for sources that are not hashed; its header is as long as the real one will be."""
        facts = metadata.none()
        if blueprint.target.metadata != "none":
            stand_in = {owner: tagged(checksum(owner.encode())) for owner in blueprint.owners}
            facts = metadata.minimal(blueprint, bytes(16), stand_in)
        found = registry.of_output(goal.path)
        assert isinstance(found, FileFormat)  # the sources of a folder are hashed first
        facts = {**facts, **self._meaning(goal, blueprint, found)}
        shown = self._shown(goal.path, found)
        content = _file(goal.path, shown, self._origins.packing(found, blueprint, specs), facts)
        foreseen = self._bytes_of_sources(blueprint)
        return Description(goal, blueprint, ground, shown, (content,), notices=notices, foreseen_bytes=foreseen)

    def _bytes_of_sources(self, blueprint: Blueprint) -> int:
        """Return how many bytes of sources are read if all tensors of a target are computed, each counted once."""
        forms = blueprint.forms
        slots = forms.slots
        key = (forms.kinds, slots)
        if key not in self._read:
            read = {
                (slot.owner, slot.tensor(name))
                for name, kind in forms.kinds.of.items()
                for slot in slots[kind]
                if slot.owner in self._sources
            }
            self._read[key] = sum(self._sources.file(owner).tensors[name].nbytes for owner, name in read)
        return self._read[key]

    def _identified(
        self, goal: Goal, blueprint: Blueprint, ground: Ground, specs: Mapping[str, Spec], notices: tuple[str, ...]
    ) -> Description:
        """Return a description with everything that follows from the digests of the sources, which are hashed."""
        tensors = self._origins.tensors(blueprint, specs)
        below = tuple(self._origins.intermediates(blueprint))
        contents = self._contents_of(blueprint)
        lines = partial(self._lines, goal, blueprint, contents, (tensors, *below))
        found = registry.of_output(goal.path)
        facts = self._metadata(goal, blueprint, tensors.artifact, contents) if found.has_metadata else {}
        shown = self._shown(goal.path, found)
        files: tuple[FileContent, ...] = ()
        if isinstance(found, FileFormat):
            facts = {**facts, **self._meaning(goal, blueprint, found)}
            files = (_file(goal.path, shown, self._origins.packing(found, blueprint, specs), facts, tensors),)
        made = Description(
            goal,
            blueprint,
            ground,
            shown,
            files,
            is_folder=found is registry.FOLDER,
            digest=tensors.artifact,
            tensors=tensors,
            intermediates=below,
            manifest=lines,
            notices=(*notices, *self._left_behind(blueprint)),
        )
        return self._folder(made, specs, facts) if made.is_folder else made

    def _left_behind(self, blueprint: Blueprint) -> Iterator[str]:
        """Yield a sentence about the part of the models' difference that an extracted LoRA leaves out."""
        behind = blueprint.behind
        if behind is None:
            return
        left, inside = (
            self._origins.differ(behind.base, behind.tuned, names) for names in (behind.left, behind.inside)
        )
        called = behind.spelling.stored
        stacks = f"{len(behind.stacked)} parameters lie in stacks, which are no modules" if behind.stacked else ""
        if left is None or inside is None:
            if stacks:
                yield f"{stacks}, and are left out of the LoRA, such as `{called(min(behind.stacked))}`"
        elif left:
            yield f"{_lost_to(behind, left, inside)}{f'; {stacks}' if stacks else ''}"

    def _contents_of(self, blueprint: Blueprint) -> Mapping[str, str]:
        """Return the content digest of each input, as text; the inputs are hashed or described by now."""
        found = self._contents.get(blueprint.kin)
        if found is None:
            found = {owner: self._origins.content(owner) for owner in blueprint.owners}
            if blueprint.kin is not None:
                self._contents[blueprint.kin] = found
        return found

    def _lines(
        self, goal: Goal, blueprint: Blueprint, contents: Mapping[str, str], made: Sequence[Tensors]
    ) -> dict[str, str]:
        """Return the manifest of a target, without the small files of its folder."""
        lines = manifest.manifest(self._folding, goal.target, contents, dtype=goal.dtype or blueprint.target.dtype)
        lines |= lines_of_tokens(self._recipe, self._folding, goal.target)
        looks_at_made = any(each.looks_at_made for each in made)
        return {**lines, manifest.STATISTICS: STATISTICS_OF_MADE} if looks_at_made else lines

    def _folder(self, whole: Description, specs: Mapping[str, Spec], facts: Mapping[str, str]) -> Description:
        """Return the description of a folder with its files."""
        assert whole.tensors is not None
        target, adapter = whole.blueprint.target, whole.blueprint.adapter
        name, beside, home = self._donor(whole.blueprint)
        most = target.max_shard_size
        written = output_files.written(whole.blueprint, specs)
        changes, told = self._agreement(whole, name, specs)
        tokens = token_files(self._recipe, self._sources, self._folding.vocabularies, target, name)
        made_from = output_files.BesideWeights(beside, home, changes, tokens)
        packed = output_files.files_of(specs, facts, made_from, most, written, adapter)
        left_out = beside.left_out if beside and not whole.blueprint.is_lora else ()
        origins = [file.origin for file in packed.files if file.origin]
        small = {f"input {each.source or name}: {each.path}": tagged(each.checksum) for each in origins}
        read = tokens.read if tokens else ()
        small |= {f"input {each.source}: {each.path}": tagged(each.checksum) for each in read}
        return replace(
            whole,
            manifest=lambda: {**whole.lines, **small},
            notices=(*whole.notices, *left_out, *packed.notices, *told, *(tokens.notices if tokens else ())),
            files=tuple(self._parts(whole, packed.files, with_metadata=facts != metadata.none())),
        )

    def _agreement(
        self, whole: Description, owner: str, specs: Mapping[str, Spec]
    ) -> tuple[Mapping[Keys, object], tuple[str, ...]]:
        """Return changes to the configuration of a folder so that it agrees with the tensors, and notices about them.

        Nothing, if the folder has no configuration that describes its tensors.

        Raises:
            MismatchError: it can't be made to agree with the tensors.
        """
        made, tensors = whole.blueprint, whole.tensors
        if not owner or made.is_lora or self._sources.file(owner).model.format != "sharded":
            return {}, ()
        assert tensors is not None
        origins = layer_origins(self._recipe, self._sources, self._folding, made.target.name, owner)
        found = agree(self._recipe, self._sources, made.target, owner, specs, tensors.by_name, made, origins)
        return found.changes, found.notices

    def _parts(
        self, made: Description, files: list[output_files.PlannedFile], *, with_metadata: bool
    ) -> Iterator[FileContent]:
        """Yield the files of a folder."""
        folder, whole = made.goal.path, made.tensors
        assert folder is not None
        assert whole is not None
        for file in files:
            tensors = whole.among(file.tensors) if file.tensors else None
            digest = tensors.artifact if tensors else checksum(file.content)
            digest = _with_places(digest, file.packing)
            facts = metadata.of_a_part(digest) if with_metadata else metadata.none()
            part = _file(folder / file.path, f"{made.shown}{file.path}", file.packing, facts, tensors)
            yield part._replace(digest=digest, origin=file.origin)

    def _donor(self, made: Blueprint) -> tuple[str, Donor | None, Path | None]:
        """Return the donor of the small files: its name, the content of its folder, and the folder.

        An adapter's configuration counts only for a LoRA.
        """
        target = made.target
        found = donor(self._recipe, self._sources, target.name, of_adapters=made.is_lora)
        if found is not None:
            model = self._sources.file(found).model
            return found, model.contents, model.folder
        if (config := target.config) is not None:
            message = f"`config` of target `{target.name}` is `{config.ref}`, which has no configuration"
            hint = "name a source that is a folder of transformers or diffusers"
            raise RecipeError.one("no-config", message, where=config.where.place(), help=hint)
        return "", None, None

    def _meaning(self, goal: Goal, blueprint: Blueprint, found: FileFormat) -> Mapping[str, str]:
        """Return the metadata that a LoRA needs if its tensors alone don't show their meaning.

        Raises:
            RecipeError: the format has no room for them.
        """
        if not blueprint.is_lora:
            return {}
        from mergebuild.lora import adapter_metadata

        _, beside, _ = self._donor(blueprint)
        shapes = {name: spec.shape for name, spec in blueprint.specs.items()}
        facts = adapter_metadata(shapes, beside.config if beside else {}, blueprint.adapter)
        if facts and not found.has_metadata:
            suffix = goal.path.suffix if goal.path else ""
            raise RecipeError.one(
                "bad-output",
                f"`output` of target `{goal.target}` is a `{suffix}`, which has no room for what a LoRA's tensors mean",
                where=blueprint.target.where.place("output"),
                help="let it end in `.safetensors`, or in `/` for a folder of PEFT",
            )
        return facts

    def _metadata(self, goal: Goal, blueprint: Blueprint, digest: bytes, contents: Mapping[str, str]) -> dict[str, str]:
        target = blueprint.target
        if target.metadata == "none":
            return metadata.none()
        if target.metadata == "minimal":
            return metadata.minimal(blueprint, digest, contents)
        return self._full_metadata(goal, blueprint, digest, contents)

    def _full_metadata(
        self, goal: Goal, blueprint: Blueprint, digest: bytes, contents: Mapping[str, str]
    ) -> dict[str, str]:
        leaves = self._ground(goal.target).leaves
        sources = {owner: self._sources.hashed(owner, with_sha256=True) for owner in leaves}
        return metadata.full(
            blueprint,
            digest,
            contents,
            self._recipe,
            {owner: source.sha256 for owner, source in sources.items()},
            metadata_of={owner: source.model.metadata for owner, source in sources.items()},
            dtype=goal.dtype or blueprint.target.dtype,
        )


def _lost_to(behind: Behind, left: Collection[str], inside: Collection[str]) -> str:
    """Return the sentence about parameters that differ, and that no module of an extracted LoRA has."""
    lost, held = bytes_of(behind.specs, left), bytes_of(behind.specs, inside)
    largest = sorted(left, key=lambda name: -bytes_of(behind.specs, [name]))
    named = ", ".join(f"`{each}`" for each in list(dict.fromkeys(map(behind.spelling.stored, largest)))[:3])
    return (
        f"{percent(lost, lost + held)} of the bytes in which `{behind.tuned}` differs from `{behind.base}` are"
        f" in no module of the LoRA and are left out: {len(left)} parameters, the largest {named}"
    )


def _with_places(digest: bytes, packing: Packing) -> bytes:
    """Return the digest of a file by that of its tensors: another one if they are turned or scattered in it."""
    if packing.turned or packing.scattered:  # the same tensors, but other bytes
        mark = repr(sorted(packing.scattered.items())) if packing.scattered else "turned"
        return checksum(mark.encode() + digest)
    return digest


def _file(
    path: Path | None, shown: str | None, packing: Packing, facts: Mapping[str, str], tensors: Tensors | None = None
) -> FileContent:
    """Return the content of a file, with its header."""
    header = packing.header(facts)
    beginning = checksum(packing.encoded(header))
    return FileContent(path, shown, packing, header, beginning, tensors.artifact if tensors else None, tensors)
