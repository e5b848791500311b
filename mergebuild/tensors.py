"""What the tensors of a target are, all of them at once.

Most tensors of a target are combined alike, and so are those of all members of a family: the same inputs in the same
order, with other coefficients. A `Grid` holds what they have in common, down to the text that is hashed; a target is
then a few coefficients put into it. A thousand members over a thousand tensors are a million digests, and each costs
one hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from mergebuild.digest import ArtifactDigests, LinearDigests, Term
from mergebuild.fold import Form, Kinds, Slot, Spec, gathered
from mergebuild.formats import DTYPES_BY_WORD

__all__ = ["Grid", "Made", "Origin", "Row", "Tensors"]


class Origin(NamedTuple):
    """An input's tensor: its digest, the dtype in which it lies in its file, and its size there in bytes."""

    digest: bytes
    dtype: str
    size: int | None
    """None: as large as what is made of it."""


@dataclass(frozen=True, slots=True)
class Made:
    """One tensor of an artifact: what it is, and the combination that makes it (a copy when `is_copy`)."""

    name: str
    spec: Spec
    digest: bytes
    terms: tuple[Term, ...]
    is_copy: bool

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return DTYPES_BY_WORD[self.spec.dtype].size * self.count

    @property
    def count(self) -> int:
        """Its number of elements."""
        return math.prod(self.spec.shape)


@dataclass(slots=True)
class _Batch:
    """Tensors of one kind and dtype, the digests of whose inputs stand in one order."""

    kind: int
    keys: tuple[int, ...]
    """By slot of the kind's form: the place of its tensor in the order of digests; equal tensors have one place."""
    dtypes: tuple[str, ...]
    """By place: the dtype in which the tensor lies."""
    dtype: str
    digests: LinearDigests
    places: list[int] = field(default_factory=list)
    """Of the tensors, in the order of the file."""
    origins: list[dict[bytes, int]] = field(default_factory=list)
    """By tensor: the digests of the inputs, in order, and their sizes."""
    reads: dict[tuple[int, ...], dict[bytes, int]] = field(default_factory=dict)
    """By places in the order: all inputs at these places, and their sizes."""

    made: tuple[Form, Row] | None = None
    """The last form asked for: members of a family often differ in some of their forms alone."""

    def row(self, form: Form) -> Row:
        """Return the tensors made by a form; forms that are equal are one object."""
        if self.made is None or self.made[0] is not form:
            self.made = (form, self._row(form))
        return self.made[1]

    def _row(self, form: Form) -> Row:
        terms = gathered(form, self.keys)
        read = self._read(tuple(index for index, _ in terms))
        if len(terms) == 1 and terms[0][1] == 1 and self.dtypes[terms[0][0]] == self.dtype:
            lone = terms[0][0]
            digests = [list(inputs)[lone] for inputs in self.origins]
            return Row(self.places, digests, self.origins, terms, is_copy=True, read=read)
        return Row(self.places, self.digests.of(terms), self.origins, terms, is_copy=False, read=read)

    def _read(self, places: tuple[int, ...]) -> Mapping[bytes, int]:
        """Return the inputs at some places of the order with their sizes."""
        if places not in self.reads:
            found = [list(inputs.items()) for inputs in self.origins]
            self.reads[places] = {digest: size for each in found for digest, size in [each[at] for at in places]}
        return self.reads[places]


class Row(NamedTuple):
    """What became of one batch in one target: its tensors have the same terms, but for the digests."""

    places: Sequence[int]
    """Of the tensors, in the order of the file."""
    digests: Sequence[bytes]
    """Of the tensors, in the order of `places`."""
    origins: Sequence[Mapping[bytes, int]]
    """Of each tensor: the digests of the inputs, in order, and their sizes."""
    terms: Sequence[tuple[int, Fraction]]
    """Which of the origins are combined, by their places in the order, and their coefficients."""
    is_copy: bool
    read: Mapping[bytes, int]
    """What is combined for all tensors of the row together: sizes by digest."""


class Grid:
    """What is common to the tensors of targets that have kinds, specs and inputs in common."""

    def __init__(
        self,
        names: Sequence[str],
        specs: Mapping[str, Spec],
        kinds: Kinds,
        slots: Sequence[Sequence[Slot]],
        origin_of: Callable[[str, str], Origin],
    ) -> None:
        """Gather the tensors.

        `names` in the order of the file; `slots` by kind; `origin_of` says what an owner's tensor is.
        """
        self.names = names
        self.specs = [specs[name] for name in names]
        self.sizes = [math.prod(spec.shape) * DTYPES_BY_WORD[spec.dtype].size for spec in self.specs]
        self._artifacts = ArtifactDigests(
            [(name, spec.dtype, spec.shape) for name, spec in zip(names, self.specs, strict=True)]
        )
        batches: dict[tuple[object, ...], _Batch] = {}
        for place, (name, spec) in enumerate(zip(names, self.specs, strict=True)):
            kind = kinds.of[name]
            origins = [origin_of(slot.owner, slot.tensor(name)) for slot in slots[kind]]
            inputs = {origin.digest: origin for origin in sorted(origins, key=_digest)}
            digests = tuple(inputs)
            keys = tuple(digests.index(origin.digest) for origin in origins)
            dtypes = tuple(origin.dtype for origin in inputs.values())
            likeness = (kind, keys, spec.dtype, dtypes)
            batch = batches.get(likeness)
            if batch is None:
                batch = _Batch(kind, keys, dtypes, spec.dtype, LinearDigests(len(digests)))
                batches[likeness] = batch
            batch.places.append(place)
            batch.origins.append(
                {each.digest: self.sizes[place] if each.size is None else each.size for each in inputs.values()}
            )
            batch.digests.add(spec.dtype, spec.shape, digests)
        self._batches = list(batches.values())

    def tensors(self, palette: Sequence[Form]) -> Tensors:
        """Return the tensors of a target with these forms, by kind."""
        rows = [batch.row(palette[batch.kind]) for batch in self._batches]
        digests = [b""] * len(self.names)
        for row in rows:
            for place, digest in zip(row.places, row.digests, strict=True):
                digests[place] = digest
        return Tensors(self, rows, digests, self._artifacts.of(digests))


def _digest(origin: Origin) -> bytes:
    return origin.digest


class Tensors:
    """The tensors of one target."""

    def __init__(self, grid: Grid, rows: Sequence[Row], digests: Sequence[bytes], artifact: bytes) -> None:
        self._grid = grid
        self.rows = rows
        self.digests = digests
        """In the order of the file."""
        self.artifact = artifact
        """The digest of them all."""
        self.sizes = grid.sizes
        """Of the tensors, in bytes, in the order of the file."""

    @cached_property
    def by_name(self) -> Mapping[str, bytes]:
        """The digest of each tensor."""
        return dict(zip(self._grid.names, self.digests, strict=True))

    @cached_property
    def made(self) -> tuple[Made, ...]:
        """The tensors one by one, in the order of the file."""
        found: list[Made | None] = [None] * len(self._grid.names)
        for row in self.rows:
            for place, digest, origins in zip(row.places, row.digests, row.origins, strict=True):
                inputs = list(origins)
                terms = tuple(Term(inputs[index], coefficient) for index, coefficient in row.terms)
                found[place] = Made(self._grid.names[place], self._grid.specs[place], digest, terms, row.is_copy)
        return tuple(each for each in found if each is not None)
