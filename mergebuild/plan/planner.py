"""Decide, for every target, what must be done to it, and say why.

It reads headers, stat data and the store; it reads tensors only to learn what a source is, and writes nothing but what
it learnt. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.digest import checksum, tagged
from mergebuild.errors import MergeBuildError, Problem, RecipeError, SourceError
from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Blueprint, Spec
from mergebuild.formats import Arrangement, Packing
from mergebuild.plan import manifest, metadata, output_files
from mergebuild.plan.plan import Goal, Item, Plan
from mergebuild.plan.tensors import STATISTICS_OF_MADE, Grid, Made, Origin, TensorRow, Tensors
from mergebuild.recipe import Recipe
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.sources.sources import SMALL, Sources, source_of_part
from mergebuild.store import FRAME, ArtifactRow, Ledger, Presence, Shelf

if TYPE_CHECKING:
    from mergebuild.formats.folders import Folder as Donor

__all__ = ["Planner"]


class Planner:
    """Plans goals over one recipe, one set of sources, what a store offers and what it remembers."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        shelf: Shelf,
        ledger: Ledger,
        *,
        output_of: Callable[[Path], Path] | None = None,
        expect_work: Callable[[], None] = lambda: None,
        device: str = "cpu",
    ) -> None:
        """Plan for a recipe.

        `output_of` says where outputs go instead; `expect_work` is called before much is read for what will be built;
        `device` is the class of devices (`cpu`, `cuda`) that makes what is not the same on all of them.
        """
        self._device = device
        self._recipe = recipe
        self._sources = sources
        self._shelf = shelf
        self._ledger = ledger
        self._output_of = output_of or (lambda path: path)
        self._expect_work = expect_work
        self.folder = Folding(recipe, sources)
        self._items: dict[str, Item] = {}
        self._order: list[Item] = []
        self._named: dict[str, list[Item]] = {}
        self._taken: set[int] = set()
        self._leaves: dict[str, frozenset[str]] = {}
        self._claimed: set[bytes] = set()
        self._building: dict[tuple[bytes, bool], Item] = {}
        self._leaving: set[int] = set()
        """Artifacts that items take out of the history."""
        self._kept: dict[Path, Item] = {}
        """What is made or restored for the store, by its place there: the first item of each."""
        self._computing: list[Item] = []
        """Items that compute, of which it was not asked yet what stands between their tensors and those of sources."""
        self._sources_by_digest: dict[bytes, tuple[str, str]] = {}
        self._arrangements: dict[int, tuple[Mapping[str, Spec], Arrangement]] = {}
        """By the id of the specs, which are kept alive; so the grids, over sources alone."""
        self._grids: dict[tuple[object, ...], Grid] = {}
        self._unrounded: dict[str, Tensors] = {}
        self._unrounded_made: dict[bytes, Made] = {}
        self._read: dict[tuple[object, ...], int] = {}
        self.leaf_dtype: dict[bytes, str] = {}
        """The dtype in which a tensor that some target reads lies in its file."""

    def goal_of(self, target: str) -> Goal:
        """Return the goal of a target asked for by name: its output, or the store in float32 when it is virtual."""
        made = self._recipe.target(target)
        if made.output_path is None:
            return Goal(target, None, "float32")
        return Goal(target, self._output_of(made.output_path))

    def plan(self, goals: Sequence[Goal | str], *, hash_all: bool = False) -> Plan:
        """Plan goals; a target's name is the goal of whoever asks for it by name.

        With `hash_all` every source needed is hashed. Else large ones are not, of targets that were never built and
        that nothing pins: nothing could be reused, so the pass that merges them may hash them
        (`build/first_sight.py`). Such an item's `made` is None.

        Every problem that keeps a target from being planned is collected; the target is then blocked.
        """
        blocked: list[TargetResult] = []
        errors: list[MergeBuildError] = []
        for each in goals:
            try:
                goal = self.goal_of(each) if isinstance(each, str) else each
                self._claim(self._judged(goal, hash_all=hash_all))
            except MergeBuildError as error:
                errors.append(error)
                blocked.append(self._blocked(each, error))
        for item in self._order:
            self._catch_up(item)
        self.weigh()
        unknown = {
            owner
            for item in self._order
            if not item.is_known
            for owner in self._bottom(item.name)
            if not self._sources.file(owner).is_hashed
        }
        return Plan(
            items=self._order,
            asked=tuple(each if isinstance(each, str) else each.target for each in goals),
            blocked=blocked,
            errors=errors,
            bytes_to_hash=sum(self._sources.file(owner).size for owner in unknown),
        )

    def as_declared(self, target: str) -> Item:
        """Return a target as a build of it by name would make it, known and judged; it is not taken into the work.

        Raises:
            MergeBuildError: it cannot be made as it is written.
        """
        return self._judged(self.goal_of(target), hash_all=True)

    def items_named(self, target: str) -> list[Item]:
        """Return the planned items of a target."""
        return self._named.get(target, [])

    def source_of(self, digest: bytes) -> tuple[str, str] | None:
        """Return a source and the name in it of a tensor with this digest, if a planned target reads one."""
        return self._sources_by_digest.get(digest)

    # Judging

    def _claim(self, item: Item) -> None:
        """Take an item into the order of work, behind what it reads, if it must be built."""
        wanted = {item.name}
        waiting = [item]
        while waiting:
            each = waiting.pop()
            needs = each.needs if each.verdict is Verdict.BUILD else ()
            waiting += [self._items[need] for need in needs if need not in wanted]
            wanted.update(needs)
        for name in self._recipe.below(item.name) if len(wanted) > 1 else wanted:
            if name in wanted:
                self._take(item if name == item.name else self._items[name])

    def _take(self, item: Item) -> None:
        """Take one item into the order of work, once."""
        if id(item) in self._taken:
            return
        self._taken.add(id(item))
        for part in item.parts:
            self._take(part)
        self._order.append(item)
        self._named.setdefault(item.name, []).append(item)

    def weigh(self) -> None:
        """Say of each item in the order of work what of it must be made, beside those before it.

        Of several that will be equal the first is made, and the others are restored from it; a tensor is computed for
        the first that needs it. What is refused makes nothing: so this is done again once it is known what is.
        """
        self._claimed.clear()
        self._building.clear()
        self._computing.clear()
        self._leaving.clear()
        self._kept.clear()
        for item in self._order:
            if item.twin is not None:
                item.verdict, item.twin = Verdict.BUILD, None
            item.is_kept_once = item.is_copied = False
            if item.is_known:
                item.compute, item.held, item.seen, item.bytes_read = frozenset(), {}, frozenset(), 0
            if item.parts:  # each stands before it
                item.verdict = _of_parts(item.parts)
            elif item.refusal is None:
                if item.verdict is Verdict.BUILD:
                    self._weigh(item)
                self._share(item)

    def _weigh(self, item: Item) -> None:
        """Say what of an item must be made; of several that will be equal the first is."""
        kind = output_files.is_checkpoint(item.goal.path)  # neither format's file is made of the other's as it is
        twin = self._building.setdefault((item.digest, kind), item) if item.digest else item
        if twin is item:
            self._locate(item)
        else:
            item.verdict, item.twin = Verdict.RESTORE, twin

    def _share(self, item: Item) -> None:
        """Say what an item need not write, or can't move, because of those before it."""
        if item.verdict is Verdict.RESTORE and item.restore is not None and item.restore.kind == "history":
            item.is_copied = item.restore.id in self._leaving
            self._leaving.add(item.restore.id)
        if item.goal.path is None and item.is_known and item.verdict is not Verdict.UP_TO_DATE:
            item.is_kept_once = self._kept.setdefault(item.place(self._shelf), item) is not item

    def _judged(self, goal: Goal, *, hash_all: bool) -> Item:
        """Return a goal described and judged, once; a goal of `-o` always anew."""
        known = self._items.get(goal.target)
        if known is not None and known.goal == goal:
            return known
        self.open_sources(goal.target)
        for name in self._recipe.below(goal.target)[:-1]:  # the deepest first; virtual targets fold away
            if name not in self._items and not self.folder.is_virtual(name):
                self._judge(self._describe(self.goal_of(name), hash_all=hash_all))
        item = self._describe(goal, hash_all=hash_all)
        self._judge(item)
        return item

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

    def _describe(self, goal: Goal, *, hash_all: bool) -> Item:
        """Say what a goal will be, as far as that is known."""
        blueprint = self.folder.blueprint(goal.target)
        needs = tuple(sorted(self._files_below(blueprint)))
        notices = [
            f"`{owner}`: {notice}"
            for owner in sorted(self.leaves(goal.target))
            for notice in self._sources.file(owner).model.notices
        ]
        if not goal.is_extra:
            notices += self._recipe.notices(goal.target)
        item = Item(goal, blueprint, self._shown(goal.path), needs, notices=tuple(notices))
        leaves = self._bottom(goal.target)
        unseen = [owner for owner in leaves if not self._sources.file(owner).is_hashed]
        size = sum(self._sources.file(owner).size for owner in unseen)
        was_built = self._ledger.record(goal.target) is not None
        hash_first = (
            hash_all
            or was_built
            or blueprint.target.metadata == "full"
            or not output_files.is_safetensors(goal.path)
            or size <= SMALL
            or any(self._operates(self.folder.blueprint(name)) for name in self._recipe.below(goal.target))
        )
        to_hash = [owner for owner in sorted(leaves) if hash_first or self._sources.is_pinned(owner)]
        others = [owner for owner in self.sources_of(goal.target) if owner not in leaves]
        to_hash += [owner for owner in others if self._sources.is_pinned(owner)]  # whose small files are read, perhaps
        if size > SMALL and not was_built and not set(to_hash).isdisjoint(unseen):
            self._expect_work()
        for owner in to_hash:
            self._sources.hashed(owner)
        if self._is_known(item):
            for name in self._recipe.below(goal.target)[:-1]:
                if name in self._items:
                    self._catch_up(self._items[name])
            self.identify(item)
        else:
            self._foresee(item)
        if not goal.is_extra:  # only now: of one that can't be described, nobody who reads it may find a half
            self._items[goal.target] = item
        return item

    def _operates(self, blueprint: Blueprint) -> bool:
        """Whether some tensors of a target are not linear in those of sources, or are made of others' parts."""
        return blueprint.forms.operates or any(self.folder.is_delta(owner) for owner in blueprint.owners)

    def _is_known(self, item: Item) -> bool:
        return all(self._sources.file(owner).is_hashed for owner in self._bottom(item.name))

    def _catch_up(self, item: Item) -> None:
        """Judge an item anew that was only foreseen, and whose sources another one has made known since."""
        if item.is_known or not self._is_known(item):
            return
        self.identify(item)
        item.causes = ()
        self._judge(item)

    def _foresee(self, item: Item) -> None:
        """Give an item of unknown sources a header as long as its own will be, and count what it will read."""
        target = item.blueprint.target
        specs = item.blueprint.specs_in(item.goal.dtype or target.dtype)
        facts = metadata.none()
        if target.metadata != "none":
            stand_in = {owner: tagged(checksum(owner.encode())) for owner in item.blueprint.owners}
            facts = metadata.minimal(item.blueprint, bytes(16), stand_in.__getitem__)
        self._head(item, self._arrangement(specs), facts)
        item.bytes_read = self._bytes_of_sources(item.blueprint)

    def _head(self, item: Item, packed: Packing, facts: Mapping[str, str]) -> None:
        """Give an item its header."""
        item.packing = packed
        item.header = packed.header(facts)
        item.header_checksum = checksum(item.header_bytes)

    def _arrangement(self, specs: Mapping[str, Spec]) -> Arrangement:
        known = self._arrangements.get(id(specs))
        if known is None:
            arrangement = Arrangement((name, spec.dtype, spec.shape) for name, spec in specs.items())
            known = self._arrangements[id(specs)] = (specs, arrangement)
        return known[1]

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

    def sources_of(self, target: str) -> tuple[str, ...]:
        """Return every source that a target, or a target below it, names: for tensors, or for small files."""
        refs = (each.ref for name in self._recipe.below(target) for each in self._recipe.target(name).reads)
        return tuple(dict.fromkeys(ref for ref in refs if ref in self._sources))

    def leaves(self, target: str) -> frozenset[str]:
        """Return the sources at the bottom of a target, through files as well."""
        return frozenset(own for each in self._bottom(target) if (own := source_of_part(each)))

    def _bottom(self, target: str) -> frozenset[str]:
        """Return the same, with those under which only a part of a source is known, and with what no recipe names."""
        if target not in self._leaves:
            for name in self._recipe.below(target):
                self._leaves[name] = self._leaves_of(self.folder.blueprint(name).owners)
        return self._leaves[target]

    def _leaves_of(self, owners: frozenset[str]) -> frozenset[str]:
        below = (
            self._leaves_of(self.folder.blueprint(owner).owners)
            if self.folder.is_delta(owner)
            else self._leaves.get(owner, {owner})
            for owner in owners
        )
        return frozenset().union(*below)

    def identify(self, item: Item) -> None:
        """Fill in what follows from the digests of the sources, which are hashed."""
        specs = item.blueprint.specs_in(item.goal.dtype or item.blueprint.target.dtype)
        item.tensors = self._grid(item.blueprint, specs).tensors(item.blueprint.forms.palette)
        item.between = tuple(self._between(item.blueprint))
        item.digest = item.tensors.artifact
        used = item.blueprint.owners
        item.lines = manifest.manifest(
            self.folder,
            item.name,
            lambda owner: self._content(owner) if owner in used else None,
            dtype=self._shown_dtype(item),
        )
        if any(each.looks_at_made for each in (item.tensors, *item.between)):
            item.lines[manifest.STATISTICS] = STATISTICS_OF_MADE
        if output_files.is_folder(item.goal.path):
            item.parts = list(self._parts(item, specs))
        elif output_files.is_checkpoint(item.goal.path):
            from mergebuild.formats.checkpoint import CheckpointLayout  # few outputs are one

            self._head(item, CheckpointLayout((name, *spec[:2]) for name, spec in specs.items()), {})
        else:
            self._head(item, self._arrangement(specs), self._metadata(item))

    def _parts(self, item: Item, specs: Mapping[str, Spec]) -> Iterator[Item]:
        """Yield the files of a directory."""
        goal, whole = item.goal, item.tensors
        assert goal.path is not None
        assert whole is not None
        facts = self._metadata(item)
        name, donor, home = self._donor(item)
        target = item.blueprint.target
        packed = output_files.files_of(specs, whole.by_name, facts, donor, home, target.max_shard_size)
        item.notices += (*(donor.left_out if donor and not target.makes_lora else ()), *packed.notices)
        origins = [file.origin for file in packed.files if file.origin]
        item.lines |= {f"input {name}: {each.path}": tagged(each.checksum) for each in origins}
        for file in packed.files:
            path = goal.path / file.path
            shown = f"{item.shown}{file.path}"
            part = Item(replace(goal, path=path), item.blueprint, shown, item.needs, whole=item, origin=file.origin)
            part.tensors = whole.among(file.tensors) if file.tensors else None
            part.digest = part.tensors.artifact if part.tensors else checksum(file.content)
            if file.packing.turned:  # the same tensors, and not the same bytes
                part.digest = checksum(b"turned" + part.digest)
            own = metadata.none() if facts == metadata.none() else metadata.of_a_part(part.digest)
            self._head(part, file.packing, own)
            yield part

    def _donor(self, item: Item) -> tuple[str, Donor | None, Path | None]:
        """Return whose small files go beside the weights: of what `config` names, else of the first source with some.

        Its name, what its folder holds, and that folder. An adapter has a configuration for adapters alone.
        """
        config = item.blueprint.target.config
        top = config.ref if config else item.name
        below = () if top in self._sources else self._recipe.below(top)[::-1]
        for ref in (top, *(each.ref for name in below for each in self._recipe.target(name).inputs)):
            model = self._sources.file(ref).model if ref in self._sources else None
            is_donor = model is not None and (model.format != "peft" or item.blueprint.target.makes_lora)
            if is_donor and model is not None and model.contents is not None and model.facts:
                return ref, model.contents, model.folder
        if config:
            message = f"`config` of target `{item.name}` is `{config.ref}`, which has no configuration"
            hint = "name a source that is a folder of transformers or diffusers"
            raise RecipeError.one("no-config", message, where=config.where.place(), help=hint)
        return "", None, None

    def _grid(self, blueprint: Blueprint, specs: Mapping[str, Spec]) -> Grid:
        """Return what the tensors of a target have in common with those of targets made alike."""
        forms = blueprint.forms
        slots = forms.slots
        key = (forms.kinds, id(specs), slots)
        grid = self._grids.get(key)
        if grid is None:
            names = [spec.name for spec in self._arrangement(specs).specs]
            grid = Grid(names, specs, forms.kinds, slots, self._origin, self._device)
            if all(owner in self._sources for owner in blueprint.owners):  # what a file is made of differs by target
                self._grids[key] = grid
        return grid

    def _origin(self, owner: str, tensor: str) -> Origin:
        """Return what an input's tensor is, remembering what lies where."""
        if owner in self._sources:
            source = self._sources.file(owner)
            digest = source.digests[tensor]
            if digest not in self._sources_by_digest:
                self._sources_by_digest[digest] = (owner, tensor)
                self.leaf_dtype[digest] = source.tensors[tensor].dtype
            return Origin(digest, self.leaf_dtype[digest], self._size_in_source(digest))
        if self.folder.is_virtual(owner):
            digest = self._unrounded_of(owner).by_name[tensor]
            return self._made_origin(digest, "float32")
        item = self._items[owner]
        assert item.tensors is not None
        digest = item.tensors.by_name[tensor]
        return self._made_origin(digest, item.blueprint.specs[tensor].dtype)

    def _made_origin(self, digest: bytes, dtype: str) -> Origin:
        """Return what a target's tensor is; it may be a source's, copied."""
        is_made = digest not in self._sources_by_digest
        return Origin(digest, self.leaf_dtype.setdefault(digest, dtype), self._size_in_source(digest), is_made)

    def _unrounded_of(self, name: str) -> Tensors:
        """Return what a virtual target is in float32; whoever reads what it makes by operations makes it anew."""
        if name not in self._unrounded:
            blueprint = self.folder.blueprint(name)
            specs = blueprint.specs_in("float32")
            found = self._unrounded[name] = self._grid(blueprint, specs).tensors(blueprint.forms.palette)
            self._unrounded_made |= {each.digest: each for each in found.made if not each.is_copy}
        return self._unrounded[name]

    def unrounded(self, digest: bytes) -> Made | None:
        """Return how a tensor is made that only stands between others."""
        return self._unrounded_made.get(digest)

    def surveys(self, item: Item) -> bool:
        """Whether what makes an item, itself or by way of virtual targets, must know several tensors first."""
        waiting = [item.blueprint]
        while waiting:
            blueprint = waiting.pop()
            if blueprint.forms.surveys or self._reads_parts(blueprint):
                return True
            virtual = (owner for owner in blueprint.owners if self.folder.is_virtual(owner))
            waiting += [self.folder.blueprint(owner) for owner in virtual]
        return False

    def _between(self, blueprint: Blueprint) -> Iterator[Tensors]:
        """Yield what the virtual targets below a target are in float32, where they make it by operations."""
        waiting, seen = sorted(blueprint.owners), set[str]()
        while waiting:
            owner = waiting.pop()
            if owner in self._unrounded and owner not in seen:
                seen.add(owner)
                yield self._unrounded[owner]
                waiting += sorted(self.folder.blueprint(owner).owners)

    def _reads_parts(self, blueprint: Blueprint) -> bool:
        """Whether it takes tensors of a file target whole, which must be written then."""
        return blueprint.forms.takes_parts and any(
            owner not in self._sources and not self.folder.is_virtual(owner) for owner in blueprint.owners
        )

    def _files_below(self, blueprint: Blueprint) -> set[str]:
        """Return the file targets that a target reads, itself or by way of virtual ones that operate."""
        found: set[str] = set()
        for owner in blueprint.owners:
            if owner not in self._sources:
                virtual = self.folder.is_virtual(owner)
                found |= self._files_below(self.folder.blueprint(owner)) if virtual else {owner}
        return found

    def _size_in_source(self, digest: bytes) -> int | None:
        found = self._sources_by_digest.get(digest)
        if found is None:
            return None
        owner, tensor = found
        return self._sources.file(owner).tensors[tensor].nbytes

    def _content(self, owner: str) -> str:
        if owner in self._sources:
            return tagged(self._sources.file(owner).content)
        if self.folder.is_virtual(owner):
            return tagged(self._unrounded_of(owner).artifact)
        return tagged(self._items[owner].digest or b"")

    def _metadata(self, item: Item) -> dict[str, str]:
        assert item.digest is not None
        target = item.blueprint.target
        if target.metadata == "none":
            return metadata.none()
        if target.metadata == "minimal":
            return metadata.minimal(item.blueprint, item.digest, self._content)
        sources = {owner: self._sources.hashed(owner, with_sha256=True) for owner in self.leaves(item.name)}
        return metadata.full(
            item.blueprint,
            item.digest,
            self._content,
            self._recipe,
            {owner: source.sha256 for owner, source in sources.items()},
            metadata_of={owner: source.model.metadata for owner, source in sources.items()},
            dtype=self._shown_dtype(item),
        )

    def _shown_dtype(self, item: Item) -> str | None:
        return item.goal.dtype or item.blueprint.target.dtype

    def _judge(self, item: Item) -> None:
        """Compare what is wanted with what is there, and with what was built last."""
        record = None if item.goal.is_extra else self._ledger.record(item.name)
        if record and record.manifest and item.is_known:
            item.changes = tuple(manifest.changes(manifest.decode(record.manifest), item.lines))
        compare = self._compare_parts if item.parts else self._compare
        compare(item, record is not None)

    def _compare(self, item: Item, built_before: bool) -> None:
        """Compare what a file is to be with what is there."""
        goal = item.goal
        path = goal.path
        if path is None and item.digest is not None:
            path = self._shelf.kept_path(item.digest, item.header_checksum)
        if path is not None:
            item.presence, there = self._shelf.at(path)
            item.row = there if item.presence is Presence.OURS else None
        if goal.path is None and item.presence is Presence.FOREIGN:
            item.presence = Presence.ABSENT  # a damaged file of the store's own is nobody's work
        if item.presence is Presence.FOREIGN:
            item.causes = (f"{item.shown} was changed by hand, or is not ours",)
        elif item.presence is Presence.DAMAGED:
            item.causes = (f"{item.shown or 'its artifact'} is damaged: nobody changed it, and its bytes are others",)
        if item.digest is None:
            item.causes = item.causes or ("never built", "its sources were never read")
            return
        row = item.row
        if row and row.digest == item.digest and self._is_acceptable(item, row):
            if row.header == item.header_checksum:
                item.verdict, item.restore = Verdict.UP_TO_DATE, row
                return
            item.verdict, item.restore, item.causes = Verdict.RESTORE, row, ("its metadata changed",)
            return
        item.restore = self.whole(item)
        if item.restore is not None:
            item.verdict = Verdict.RESTORE
        item.causes = item.causes or self._reasons(item, built_before)

    def _compare_parts(self, item: Item, built_before: bool) -> None:
        """Say of a directory what its files come to together."""
        for part in item.parts:
            part.changes = item.changes
            self._compare(part, built_before)
        item.verdict = _of_parts(item.parts)
        there = {part.presence for part in item.parts}
        order = (Presence.FOREIGN, Presence.DAMAGED, Presence.OURS, Presence.ABSENT)
        item.presence = next(each for each in order if each in there)
        reasons = (reason for part in item.parts if part.verdict is not Verdict.UP_TO_DATE for reason in part.causes)
        item.causes = tuple(dict.fromkeys(reasons)) or (() if built_before else ("never built",))

    def whole(self, item: Item) -> ArtifactRow | None:
        """Return a whole artifact that is what an item is to be, one with the same metadata before others."""
        assert item.digest is not None
        found = self._shelf.intact(item.digest, header=item.header_checksum)
        return next((each for each in found if self._is_acceptable(item, each)), None)

    def _is_acceptable(self, item: Item, row: ArtifactRow) -> bool:
        """Whether an artifact is of the item's format, and has no NaN or Inf but what is allowed, or copied."""
        if row.header != item.header_checksum:
            entries = self._shelf.entries(row)
            if output_files.is_checkpoint(item.goal.path) or (entries and entries[-1].name == FRAME):
                return False
        if item.allows_nonfinite or not row.nonfinite:
            return True
        rows = item.tensors.rows if item.tensors else ()
        copies = {digest for made in rows if made.is_copy for digest in made.digests}
        return all(not entry.nonfinite or entry.digest in copies for entry in self._shelf.entries(row))

    def _reasons(self, item: Item, built_before: bool) -> tuple[str, ...]:
        found = [change.text for change in item.changes]
        if not built_before:
            found.append("never built")
        elif item.presence is Presence.ABSENT:
            found.append(f"{item.shown or 'its artifact'} is missing")
        return tuple(found) or ("what its tensors are made of changed",)

    def _locate(self, item: Item) -> None:
        """Say of each tensor of an item that must be built whether it lies somewhere or must be computed."""
        if item.tensors is None:
            return
        copies: set[bytes] = set()
        made: set[bytes] = set()
        for row in item.tensors.rows:
            if row.is_copy:
                copies.update(digest for digest in row.digests if digest not in self._sources_by_digest)
            else:
                made.update(row.digests)
        if not self._unrounded_made.keys().isdisjoint(made):
            self._claim_between()
        item.seen = frozenset((made | copies) & self._claimed)
        made -= item.seen
        copies -= item.seen | made
        item.held = self._shelf.find(copies, allow_nonfinite=True) | self._shelf.find(
            made, allow_nonfinite=item.allows_nonfinite
        )
        item.compute = frozenset((made | copies) - item.held.keys())
        self._claimed |= item.compute
        self._computing.append(item)
        read: dict[bytes, int] = {}
        for row in item.tensors.rows:
            read |= self._bytes_read(item, row, item.tensors.sizes)
        item.bytes_read = sum(read.values())

    def _claim_between(self) -> None:
        """Count among what is computed what only stands between tensors of earlier items, and lies nowhere.

        Few plans need to know: those that make what a virtual target is, too.
        """
        wanted = {digest for item in self._computing for digest in _read_by(item)}
        self._computing.clear()
        between: set[bytes] = set()
        while wanted:
            wanted = {digest for digest in wanted - between if digest in self._unrounded_made}
            wanted -= self._shelf.find(wanted, allow_nonfinite=True).keys()
            between |= wanted
            wanted = {each for digest in wanted for each in _reads(self._unrounded_made[digest])}
        self._claimed |= between

    def _bytes_read(self, item: Item, row: TensorRow, sizes: Sequence[int]) -> Mapping[bytes, int]:
        """Return what must be read for a row of an item: the size of each tensor by its digest."""
        if not (item.seen or item.held) or item.compute.issuperset(row.digests):
            return row.read
        read: dict[bytes, int] = {}
        for place, digest, origins in zip(row.places, row.digests, row.origins, strict=True):
            if digest in item.compute:
                inputs = list(origins.items())
                read |= [inputs[index] for index, _ in row.terms]
            elif digest not in item.seen:
                read[digest] = sizes[place]
        return read

    def _blocked(self, goal: Goal | str, error: MergeBuildError) -> TargetResult:
        name, path = (goal, self._listed.get(goal)) if isinstance(goal, str) else (goal.target, goal.path)
        reasons = tuple(dict.fromkeys(problem.message for problem in error.problems))
        return TargetResult(name, Verdict.BLOCKED, output=self._shown(path), error=error.problems[0], reasons=reasons)

    @cached_property
    def _listed(self) -> Mapping[str, Path]:
        """The outputs that the recipe lists, by target: also of members that can't be made."""
        return {name: self._output_of(path) for path, name in self._recipe.outputs().items()}

    def _shown(self, path: Path | None) -> str | None:
        if path is None:
            return None
        end = "/" if output_files.is_folder(path) else ""
        try:
            return path.relative_to(self._recipe.root).as_posix() + end
        except ValueError:
            return path.as_posix() + end


def _of_parts(parts: Sequence[Item]) -> Verdict:
    """Return the verdict of a directory by those of its files."""
    verdicts = {part.verdict for part in parts}
    return next(each for each in (Verdict.BUILD, Verdict.RESTORE, Verdict.UP_TO_DATE) if each in verdicts)


def _read_by(item: Item) -> Iterator[bytes]:
    """Yield the digests of all that an item's tensors which are computed are made of."""
    return (digest for made in item.made or () if made.digest in item.compute for digest in _reads(made))


def _reads(made: Made) -> Iterator[bytes]:
    """Yield the digests of what a tensor is made of, and of what must be known of first."""
    yield from made.reads
    for each in made.survey.tensors if made.survey else ():
        yield from (digest for operand in each.operands for digest in operand.reads)
