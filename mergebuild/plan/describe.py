"""Say what a goal will be: fold the target, hash the sources that must be known, and lay out its files.

Sources of a target that was never built, and that nothing pins, need not be hashed first: nothing could be reused, so
the pass that merges them may hash them (`build/first_sight.py`). Its description then has a layout and no digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.digest import checksum, tagged
from mergebuild.errors import Problem, RecipeError, SourceError
from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Blueprint, Spec
from mergebuild.formats import Packing, registry
from mergebuild.formats.registry import FileFormat
from mergebuild.plan import manifest, metadata, output_files
from mergebuild.plan.actions import Description, FileContent, Goal
from mergebuild.plan.origins import Origins
from mergebuild.plan.tensors import STATISTICS_OF_MADE, Tensors
from mergebuild.recipe import Recipe
from mergebuild.sources.sources import SMALL, Sources, source_of_part
from mergebuild.store import Ledger

if TYPE_CHECKING:
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
        self._leaves: dict[str, frozenset[str]] = {}
        self._read: dict[tuple[object, ...], int] = {}

    def sources_of(self, target: str) -> tuple[str, ...]:
        """Return every source that a target, or a target below it, names: for tensors, or for small files."""
        refs = (each.ref for name in self._recipe.below(target) for each in self._recipe.target(name).reads)
        return tuple(dict.fromkeys(ref for ref in refs if ref in self._sources))

    def open_sources(self, target: str) -> None:
        """Open every source below a target, and report all that cannot be opened at once.

        Raises:
            SourceError: one is missing or unreadable.
        """
        problems: list[Problem] = []
        for owner in self.sources_of(target):
            try:
                self._sources.file(owner)
            except SourceError as error:
                problems += error.problems
        if problems:
            raise SourceError(problems)

    def unhashed(self, target: str) -> list[str]:
        """Return the sources at the bottom of a target, or parts of sources, that are not hashed yet."""
        return [owner for owner in self._bottom(target) if not self._sources.file(owner).is_hashed]

    def to_hash(self, goal: Goal, *, hash_all: bool) -> list[str]:
        """Return the sources that are to be hashed for a goal before it is described; they may be hashed already.

        Raises:
            MergeBuildError: the target can't be folded.
        """
        blueprint = self._folding.blueprint(goal.target)
        leaves = self._bottom(goal.target)
        unseen = self.unhashed(goal.target)
        size = sum(self._sources.file(owner).size for owner in unseen)
        was_built = self._ledger.record(goal.target) is not None
        hash_first = (
            hash_all
            or was_built
            or size <= SMALL
            or blueprint.target.metadata == "full"
            or not registry.of_output(goal.path).is_foreseen
            or any(self._operates(self._folding.blueprint(name)) for name in self._recipe.below(goal.target))
        )
        owners = [owner for owner in sorted(leaves) if hash_first or self._sources.is_pinned(owner)]
        others = [owner for owner in self.sources_of(goal.target) if owner not in leaves]
        owners += [owner for owner in others if self._sources.is_pinned(owner)]  # whose small files are read, perhaps
        return owners

    def describe(self, goal: Goal) -> Description:
        """Say what a goal will be, as far as the sources are known: those of `to_hash` are hashed.

        Raises:
            MergeBuildError: it cannot be made as it is written, or a source can't be read.
        """
        blueprint = self._folding.blueprint(goal.target)
        leaves = frozenset(own for each in self._bottom(goal.target) if (own := source_of_part(each)))
        notices = [f"`{owner}`: {notice}" for owner in sorted(leaves) for notice in self._notices(owner)]
        if not goal.is_extra:
            notices += self._recipe.notices(goal.target)
        made = Description(
            goal,
            blueprint,
            self.shown(goal.path),
            tuple(sorted(self._files_below(blueprint))),
            leaves,
            self._folding.programs(goal.target),
            (),
            registry.is_folder(goal.path),
            notices=tuple(notices),
            waits_for_files=self._waits_for_files(blueprint),
        )
        return self._foreseen(made) if self.unhashed(goal.target) else self._identified(made)

    def shown(self, path: Path | None) -> str | None:
        """Return an output's path for people."""
        if path is None:
            return None
        end = "/" if registry.is_folder(path) else ""
        try:
            return path.relative_to(self._recipe.root).as_posix() + end
        except ValueError:
            return path.as_posix() + end

    # What is below a target

    def _bottom(self, target: str) -> frozenset[str]:
        """Return the sources at the bottom of a target, also parts of sources and what no recipe names."""
        if target not in self._leaves:
            for name in self._recipe.below(target):
                self._leaves[name] = self._leaves_of(self._folding.blueprint(name).owners)
        return self._leaves[target]

    def _leaves_of(self, owners: frozenset[str]) -> frozenset[str]:
        below = (
            self._leaves_of(self._folding.blueprint(owner).owners)
            if self._folding.is_delta(owner)
            else self._leaves.get(owner, {owner})
            for owner in owners
        )
        return frozenset().union(*below)

    def _notices(self, owner: str) -> tuple[str, ...]:
        return tuple(self._sources.file(owner).model.notices)

    def _operates(self, blueprint: Blueprint) -> bool:
        """Whether some tensors of a target are not linear in those of sources, or are made of others' parts."""
        return blueprint.forms.operates or any(self._folding.is_delta(owner) for owner in blueprint.owners)

    def _files_below(self, blueprint: Blueprint) -> set[str]:
        """Return the file targets that a target reads, itself or by way of virtual ones that operate."""
        found: set[str] = set()
        for owner in blueprint.owners:
            if owner not in self._sources:
                virtual = self._folding.is_virtual(owner)
                found |= self._files_below(self._folding.blueprint(owner)) if virtual else {owner}
        return found

    def _waits_for_files(self, blueprint: Blueprint) -> bool:
        """Whether a target, itself or by way of virtual ones, must know several tensors first, or takes some whole."""
        waiting = [blueprint]
        while waiting:
            each = waiting.pop()
            if each.forms.surveys or self._takes_files_whole(each):
                return True
            virtual = (owner for owner in each.owners if self._folding.is_virtual(owner))
            waiting += [self._folding.blueprint(owner) for owner in virtual]
        return False

    def _takes_files_whole(self, blueprint: Blueprint) -> bool:
        """Whether it takes tensors of a file target whole, which must be written then."""
        return blueprint.forms.takes_parts and any(
            owner not in self._sources and not self._folding.is_virtual(owner) for owner in blueprint.owners
        )

    # What is in its files

    def _foreseen(self, made: Description) -> Description:
        """Return a description of unknown sources with a header as long as its own will be."""
        goal, target = made.goal, made.blueprint.target
        specs = made.blueprint.specs_in(goal.dtype or target.dtype)
        facts = metadata.none()
        if target.metadata != "none":
            stand_in = {owner: tagged(checksum(owner.encode())) for owner in made.blueprint.owners}
            facts = metadata.minimal(made.blueprint, bytes(16), stand_in)
        found = registry.of_output(goal.path)
        assert isinstance(found, FileFormat)  # the sources of a folder are hashed before
        content = _file(goal.path, made.shown, self._origins.packing(found, specs), facts)
        return replace(made, files=(content,), foreseen_bytes=self._bytes_of_sources(made.blueprint))

    def _bytes_of_sources(self, blueprint: Blueprint) -> int:
        """Return how many bytes of sources a target reads when all of it is computed, each once."""
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

    def _identified(self, made: Description) -> Description:
        """Return a description with all that follows from the digests of the sources, which are hashed."""
        goal, target = made.goal, made.blueprint.target
        dtype = goal.dtype or target.dtype
        specs = made.blueprint.specs_in(dtype)
        tensors = self._origins.tensors(made.blueprint, specs)
        below = tuple(self._origins.intermediates(made.blueprint))
        made = replace(made, tensors=tensors, digest=tensors.artifact, intermediates=below)
        contents = {owner: self._origins.content(owner) for owner in made.blueprint.owners}
        lines = manifest.manifest(self._folding, made.name, contents, dtype=dtype)
        if any(each.looks_at_made for each in (tensors, *below)):
            lines[manifest.STATISTICS] = STATISTICS_OF_MADE
        found = registry.of_output(goal.path)
        if not isinstance(found, FileFormat):
            return self._folder(replace(made, lines=lines), specs, self._metadata(made, contents))
        facts = self._metadata(made, contents) if found.has_metadata else {}
        content = _file(goal.path, made.shown, self._origins.packing(found, specs), facts, tensors)
        return replace(made, lines=lines, files=(content,))

    def _folder(self, made: Description, specs: Mapping[str, Spec], facts: Mapping[str, str]) -> Description:
        """Return the description of a folder with its files."""
        assert made.tensors is not None
        name, donor, home = self._donor(made)
        target = made.blueprint.target
        packed = output_files.files_of(specs, made.tensors.by_name, facts, donor, home, target.max_shard_size)
        left_out = donor.left_out if donor and not target.making.makes_lora else ()
        origins = [file.origin for file in packed.files if file.origin]
        return replace(
            made,
            lines={**made.lines, **{f"input {name}: {each.path}": tagged(each.checksum) for each in origins}},
            notices=(*made.notices, *left_out, *packed.notices),
            files=tuple(self._parts(made, packed.files, with_metadata=facts != metadata.none())),
        )

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
            if file.packing.turned:  # the same tensors, and not the same bytes
                digest = checksum(b"turned" + digest)
            facts = metadata.of_a_part(digest) if with_metadata else metadata.none()
            part = _file(folder / file.path, f"{made.shown}{file.path}", file.packing, facts, tensors)
            yield replace(part, digest=digest, origin=file.origin)

    def _donor(self, made: Description) -> tuple[str, Donor | None, Path | None]:
        """Return whose small files go beside the weights: of what `config` names, else of the first source with some.

        Its name, what its folder holds, and that folder. An adapter has a configuration for adapters alone.
        """
        config = made.blueprint.target.config
        top = config.ref if config else made.name
        below = () if top in self._sources else self._recipe.below(top)[::-1]
        for ref in (top, *(each.ref for name in below for each in self._recipe.target(name).inputs)):
            model = self._sources.file(ref).model if ref in self._sources else None
            is_donor = model is not None and (model.format != "peft" or made.blueprint.target.making.makes_lora)
            if is_donor and model is not None and model.contents is not None and model.facts:
                return ref, model.contents, model.folder
        if config:
            message = f"`config` of target `{made.name}` is `{config.ref}`, which has no configuration"
            hint = "name a source that is a folder of transformers or diffusers"
            raise RecipeError.one("no-config", message, where=config.where.place(), help=hint)
        return "", None, None

    def _metadata(self, made: Description, contents: Mapping[str, str]) -> dict[str, str]:
        assert made.digest is not None
        target = made.blueprint.target
        if target.metadata == "none":
            return metadata.none()
        if target.metadata == "minimal":
            return metadata.minimal(made.blueprint, made.digest, contents)
        sources = {owner: self._sources.hashed(owner, with_sha256=True) for owner in made.sources}
        return metadata.full(
            made.blueprint,
            made.digest,
            contents,
            self._recipe,
            {owner: source.sha256 for owner, source in sources.items()},
            metadata_of={owner: source.model.metadata for owner, source in sources.items()},
            dtype=made.goal.dtype or target.dtype,
        )


def _file(
    path: Path | None, shown: str | None, packing: Packing, facts: Mapping[str, str], tensors: Tensors | None = None
) -> FileContent:
    """Return what a file will be, with its header."""
    header = packing.header(facts)
    beginning = checksum(packing.encoded(header))
    return FileContent(path, shown, packing, header, beginning, tensors.artifact if tensors else None, tensors)
