"""Which digest a tensor has, which tensors have a digest, and how an intermediate tensor is made.

A target's tensors are made of tensors of sources, of file targets, and of tensors that virtual targets make by
operations. `Origins` answers for all three. The planner fills it while it describes targets, the deepest first; the
judge, the build and the texts of errors read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mergebuild.digest import tagged
from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Blueprint, Spec
from mergebuild.formats.layout import Packing
from mergebuild.formats.registry import SAFETENSORS, FileFormat
from mergebuild.naming.spelling import FileSpelling
from mergebuild.plan import output_files
from mergebuild.plan.description import Description
from mergebuild.plan.made import Made, Origin
from mergebuild.plan.tensors import Grid, Tensors
from mergebuild.sources.sources import Sources

__all__ = ["Origins"]


class Origins:
    """The tensors of sources and targets, by name and by digest.

    `device` is the class of devices (`cpu`, `cuda`), for results that differ between classes.
    """

    def __init__(self, sources: Sources, folding: Folding, device: str = "cpu") -> None:
        self._sources = sources
        self._folding = folding
        self._device = device
        self._targets: dict[str, Description] = {}
        self._sources_by_digest: dict[bytes, tuple[str, str]] = {}
        self._dtypes: dict[bytes, str] = {}
        self._intermediate: dict[str, Tensors] = {}
        self._ways: dict[bytes, tuple[Made, ...]] = {}
        """All ways to make each: what one target combines from tensors, another may read from a file that has just
        that."""
        self._packings: dict[tuple[str, int, int], tuple[Mapping[str, Spec], FileSpelling, Packing]] = {}
        """By format and the ids of specs and spelling, which are kept alive."""
        self._grids: dict[tuple[object, ...], Grid] = {}

    def add(self, description: Description) -> None:
        """Add a described target, so that targets that read it find its tensors. Its digests are known."""
        self._targets[description.name] = description

    def source_of(self, digest: bytes) -> tuple[str, str] | None:
        """Return a source and its name for a tensor with this digest, if a described target reads one; else None."""
        return self._sources_by_digest.get(digest)

    def digest(self, owner: str, tensor: str) -> bytes:
        """Return the digest of a source's or target's tensor. A source must be hashed, a file target added."""
        return self._origin(owner, tensor).digest

    def dtype(self, digest: bytes) -> str | None:
        """Return the dtype in which a tensor that some target reads is stored; None if no target reads it."""
        return self._dtypes.get(digest)

    def intermediate(self, digest: bytes) -> Made | None:
        """Return how an intermediate tensor (a virtual target's) is made; if it can be, from sources."""
        ways = self._ways.get(digest, ())
        return min(ways, key=self._not_of_sources) if len(ways) > 1 else next(iter(ways), None)

    def ways(self, digest: bytes) -> tuple[Made, ...]:
        """Return all ways to make an intermediate tensor, those from sources first."""
        return tuple(sorted(self._ways.get(digest, ()), key=self._not_of_sources))

    def is_rounded_between(self, digest: bytes) -> bool:
        """Whether a tensor is an intermediate one that is rounded further than to float32."""
        return any(made.spec.dtype != "float32" for made in self._ways.get(digest, ()))

    def _not_of_sources(self, made: Made) -> int:
        return sum(digest not in self._sources_by_digest for digest in made.reads)

    def label(self, owner: str, tensor: str) -> str:
        """Return the name, for people, of an owner's tensor; the owner may be one of an earlier recipe."""
        name = self._folding.known_as(owner)
        if self._folding.is_delta(owner):
            return f"what {name} adds: {tensor}"
        if self._folding.is_unnamed(owner):
            return f"rows of {name}: {tensor}"
        return f"{'source' if name in self._sources else 'target'} {name}: {tensor}"

    def intermediate_among(self, digests: set[bytes]) -> bool:
        """Whether one of these is an intermediate tensor."""
        return not self._ways.keys().isdisjoint(digests)

    def content(self, owner: str) -> str:
        """Return the digest of all tensors of a source or target, as text."""
        if owner in self._sources:
            return tagged(self._sources.file(owner).content)
        if self._folding.is_virtual(owner):
            return tagged(self._intermediates_of(owner).artifact)
        return tagged(self._targets[owner].digest or b"")

    def differ(self, one: str, other: str, names: Iterable[str]) -> list[str] | None:
        """Return which tensors differ between two owners that both have them; None if their digests don't show it.

        Tensors that a virtual target makes have other digests than tensors of files, whatever their values are; and a
        source of which only parts are read, under other names, may not be hashed itself.
        """
        for owner in (one, other):
            if not self._sources.file(owner).is_hashed if owner in self._sources else self._folding.is_virtual(owner):
                return None
        return [name for name in names if self._origin(one, name).digest != self._origin(other, name).digest]

    def intermediates(self, blueprint: Blueprint) -> Iterator[Tensors]:
        """Yield the tensors of each virtual target below a target that makes them by operations or rounds them."""
        waiting, seen = sorted(blueprint.owners) if self._intermediate else [], set[str]()
        while waiting:
            owner = waiting.pop()
            if owner in self._intermediate and owner not in seen:
                seen.add(owner)
                yield self._intermediate[owner]
                waiting += sorted(self._folding.blueprint(owner).owners)

    def tensors(self, blueprint: Blueprint, specs: Mapping[str, Spec]) -> Tensors:
        """Return the tensors of a target whose sources are hashed; what targets made alike have in common is kept."""
        forms = blueprint.forms
        slots = forms.slots
        key = (blueprint.kin, id(specs)) if blueprint.kin is not None else (forms.kinds, id(specs), slots)
        grid = self._grids.get(key)
        if grid is None:
            names = [spec.name for spec in self.packing(SAFETENSORS, blueprint, specs).specs]
            grid = Grid(names, specs, forms.kinds, slots, self._origin, self._device, blueprint.copies)
            if all(owner in self._sources for owner in blueprint.owners):  # the tensors of file targets may change
                self._grids[key] = grid
        return grid.tensors(forms.palette)

    def packing(self, into: FileFormat, blueprint: Blueprint, specs: Mapping[str, Spec]) -> Packing:
        """Return how a file of a format with the tensors of a target, in these dtypes, is laid out."""
        key = (into.name, id(specs), id(blueprint.spelling))
        known = self._packings.get(key)
        if known is None:
            tensors = ((name, spec.dtype, spec.shape) for name, spec in specs.items())
            packing = into.packing(tensors, output_files.written(blueprint, specs))
            known = self._packings[key] = (specs, blueprint.spelling, packing)
        return known[2]

    def _origin(self, owner: str, tensor: str) -> Origin:
        """Return the origin of an input's tensor."""
        if owner in self._sources:
            source = self._sources.file(owner)
            digest = source.digests[tensor]
            if digest not in self._sources_by_digest:
                self._sources_by_digest[digest] = (owner, tensor)
                self._dtypes[digest] = source.tensors[tensor].stored
            return Origin(digest, self._dtypes[digest], self._size_in_source(digest))
        if self._folding.is_virtual(owner):
            made = self._intermediates_of(owner)
            return self._made(made.by_name[tensor], made.spec(tensor).dtype)
        target = self._targets[owner]
        assert target.tensors is not None
        return self._made(target.tensors.by_name[tensor], target.blueprint.specs[tensor].dtype)

    def _made(self, digest: bytes, dtype: str) -> Origin:
        """Return the origin of a target's tensor, which may be a source's that is copied."""
        is_made = digest not in self._sources_by_digest
        return Origin(digest, self._dtypes.setdefault(digest, dtype), self._size_in_source(digest), is_made)

    def _intermediates_of(self, name: str) -> Tensors:
        """Return the tensors of a virtual target, and record how those are made that are no copies.

        They are float32, unless it is the target of an input that is rounded first.
        """
        if name not in self._intermediate:
            blueprint = self._folding.blueprint(name)
            dtype = blueprint.target.dtype or "float32"
            found = self._intermediate[name] = self.tensors(blueprint, blueprint.specs_in(dtype))
            for each in found.made:
                if not each.is_copy:
                    known = self._ways.get(each.digest, ())
                    if all(each.reads != other.reads for other in known):
                        self._ways[each.digest] = (*known, each)
        return self._intermediate[name]

    def _size_in_source(self, digest: bytes) -> int | None:
        found = self._sources_by_digest.get(digest)
        if found is None:
            return None
        owner, tensor = found
        return self._sources.file(owner).tensors[tensor].nbytes
