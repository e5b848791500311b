"""Tensors that are made alike, and the row of digests that one form gives for all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from mergebuild.fold.forms import Form, Operation, Slot, Spec
from mergebuild.key import (
    Line,
    LinearDigests,
    OperationDigests,
    Resolved,
    Term,
    combination_key,
    gather,
    resolve,
    tensor_line,
)
from mergebuild.methods.arguments import lines_of
from mergebuild.plan.built_keys import InputsOfRow, Owner
from mergebuild.plan.made import Operand, SurveyKey

__all__ = ["STATISTICS_OF_MADE", "Batch", "Operated", "TensorRow"]

STATISTICS_OF_MADE = "2"
"""Part of the digest of a tensor that needs a statistic of a tensor made by a target. In version 1 the statistic could
be computed, in the pass that made that tensor, from memory that had not been filled: such tensors are built again."""


@dataclass(slots=True)
class Batch:
    """Tensors of one kind and dtype whose inputs' digests, sorted, have the same order."""

    kind: int
    keys: tuple[int, ...]
    """For each slot of the kind's form: the index of its tensor in the sorted digests; equal tensors have one index."""
    dtypes: Mapping[int, str]
    """By index: the dtype in which the tensor is stored."""
    are_made: tuple[bool, ...]
    """By index: whether a target makes the tensor; else it is a source's."""
    dtype: str
    digests: LinearDigests
    device: str
    """The class of devices, for results that differ between classes."""
    places: list[int] = field(default_factory=list)
    """The indices of the tensors in the order of the file."""
    named: list[tuple[str, Spec]] = field(default_factory=list)
    """The tensors' names and specs."""
    origins: list[dict[bytes, int]] = field(default_factory=list)
    """For each tensor: the sizes of its inputs by their digests, in sorted order."""
    reads: dict[tuple[int, ...], dict[bytes, int]] = field(default_factory=dict)
    """By indices of inputs: the sizes of all tensors' inputs with these indices, by digest."""

    made: tuple[Form, TensorRow] | None = None
    """The last form and its row: members of a family often differ in only some of their forms."""

    def add(self, place: int, name: str, spec: Spec, digests: tuple[bytes, ...], sizes: dict[bytes, int]) -> None:
        """Add a tensor; `sizes`: of its inputs, by their digests in sorted order."""
        self.places.append(place)
        self.named.append((name, spec))
        self.origins.append(sizes)
        self.digests.add(spec.dtype, spec.shape, digests)

    def row(self, form: Form) -> TensorRow:
        """Return the tensors made by a form; equal forms are one object."""
        if self.made is None or self.made[0] is not form:
            self.made = (form, self._row(form))
        return self.made[1]

    def _row(self, form: Form) -> TensorRow:
        if form.operation is not None:
            return self._operated(form.operation, form.slots)
        shares = [share for _, share in form.terms]
        found = resolve(zip(self.keys, shares, strict=True), self.dtypes, self.dtype)
        read = self._read(tuple([index for index, _ in found.terms]))
        return TensorRow(
            self.places,
            self._combined(found),
            self.origins,
            found.terms,
            is_copy=found.is_copy,
            read=read,
            narrowed=found.narrowed,
        )

    def _combined(self, found: Resolved[int]) -> list[bytes]:
        """Return the digests of the tensors that an exact combination of their inputs makes."""
        if found.is_copy:
            ((lone, _),) = found.terms
            return [list(inputs)[lone] for inputs in self.origins]
        return self.digests.of(found.terms, narrowed=found.narrowed)

    def _operated(self, operation: Operation, slots: Sequence[Slot]) -> TensorRow:
        """Return the tensors that an operation makes; they share less than combinations do."""
        key = dict(zip(slots, self.keys, strict=True))
        inputs = [gather((key[slot], share) for slot, share in each.terms) for each in operation.inputs]
        method = operation.method
        looks_at_made = method.makes.takes_statistics and any(
            len(terms) != 1 or share != 1 or self.are_made[index] for terms in inputs for index, share in terms
        )
        facts = self._facts(operation, looks_at_made=looks_at_made)
        made = OperationDigests(self.dtype, facts)
        operands = [
            _operands(operation, spec, list(origins), inputs)
            for (_, spec), origins in zip(self.named, self.origins, strict=True)
        ]
        digests = [
            made.of(
                spec.shape,
                [each.digest for each in some],
                tensor=operation.known_as(name) if method.name_in_key else None,
            )
            for (name, spec), some in zip(self.named, operands, strict=True)
        ]
        everything = tuple(range(len(self.dtypes)))
        return TensorRow(
            self.places,
            digests,
            self.origins,
            [(index, Fraction(1)) for index in everything],
            is_copy=False,
            read=self._read(everything),
            operated=Operated(operation, operands, tuple(facts), method.name_in_key),
            looks_at_made=looks_at_made,
        )

    def _facts(self, operation: Operation, *, looks_at_made: bool) -> list[Line]:
        """Return the lines of a key that an operation adds besides its inputs."""
        method = operation.method
        facts = [Line("method", f"{method.name}@{method.version}"), *lines_of(operation.arguments)]
        if not method.exact:
            facts.append(Line("device", self.device))
        if looks_at_made:
            facts.append(Line("statistics", STATISTICS_OF_MADE))
        return [*facts, *method.makes.key_lines]

    def inputs(self, slots: Sequence[Slot]) -> InputsOfRow:
        """Return the inputs of its tensors and their owners, for the store. `slots`: of the kind's form."""
        names = [name for name, _ in self.named]
        owners: list[list[Owner]] = [[] for _ in self.dtypes]
        for slot, key in zip(slots, self.keys, strict=True):
            tensors = [slot.tensor(name) for name in names]
            owners[key].append(Owner(slot.owner, None if tensors == names else tensors))
        shapes = [spec.shape for _, spec in self.named]
        return InputsOfRow(self.dtype, names, shapes, [tuple(each) for each in self.origins], owners)

    def _read(self, places: tuple[int, ...]) -> Mapping[bytes, int]:
        """Return the sizes of all tensors' inputs with these indices, by digest."""
        if places not in self.reads:
            found = [list(inputs.items()) for inputs in self.origins]
            self.reads[places] = {digest: size for each in found for digest, size in [each[at] for at in places]}
        return self.reads[places]


class Operated(NamedTuple):
    """How an operation makes the tensors of a row."""

    operation: Operation
    operands: Sequence[tuple[Operand, ...]]
    """For each tensor, what the operation reads."""
    facts: tuple[Line, ...]
    """The lines of the key besides the inputs, the same for all tensors."""
    name_in_key: bool
    """Whether the key also has the name by which the method knows each tensor."""

    def among(self, kept: Sequence[int]) -> Operated:
        """Return the same for some tensors, given by their indices in the row."""
        return self._replace(operands=[self.operands[index] for index in kept])

    def facts_of(self, name: str) -> tuple[Line, ...]:
        """Return the lines of one tensor's key besides its inputs."""
        return (*self.facts, tensor_line(self.operation.known_as(name))) if self.name_in_key else self.facts


class TensorRow(NamedTuple):
    """The tensors that one batch has in one target: their terms differ only in digests."""

    places: Sequence[int]
    """The indices of the tensors in the order of the file."""
    digests: Sequence[bytes]
    """The digests of the tensors, in the order of `places`."""
    origins: Sequence[Mapping[bytes, int]]
    """For each tensor: the sizes of its inputs by their digests, in sorted order."""
    terms: Sequence[tuple[int, Fraction]]
    """The inputs that are combined, by index in sorted order, with their coefficients; for an operation, all that it
    reads, with 1."""
    is_copy: bool
    read: Mapping[bytes, int]
    """The sizes, by digest, of all tensors that are read for the row."""
    operated: Operated | None = None
    """How an operation makes them, if one does."""
    surveys: Sequence[SurveyKey | None] = ()
    """For each tensor, the survey that the operation needs first; empty if it needs none."""
    looks_at_made: bool = False
    """Whether statistics of tensors made by a target are needed: then `STATISTICS_OF_MADE` is part of the digests."""
    narrowed: bool = False
    """Whether they are single float64 tensors that are only rounded; see `narrows`."""

    def among(self, places: Collection[int]) -> TensorRow:
        """Return the row of those tensors that have these indices in the file."""
        kept = [index for index, place in enumerate(self.places) if place in places]
        origins = [self.origins[index] for index in kept]
        lying = [list(inputs.items()) for inputs in origins]
        return self._replace(
            places=[self.places[index] for index in kept],
            digests=[self.digests[index] for index in kept],
            origins=origins,
            read=dict(each[at] for each in lying for at, _ in self.terms),
            operated=self.operated
            and self.operated._replace(operands=[self.operated.operands[index] for index in kept]),
            surveys=[self.surveys[index] for index in kept] if self.surveys else (),
        )


def _operands(
    operation: Operation, spec: Spec, digests: Sequence[bytes], inputs: Sequence[Sequence[tuple[int, Fraction]]]
) -> tuple[Operand, ...]:
    """Return what an operation reads for one tensor; `inputs`: terms over its `digests`."""
    shapes = [spec.shape] * (len(inputs) - len(operation.shapes)) + list(operation.shapes)
    return tuple(
        _operand(shape, [Term(digests[index], share) for index, share in terms])
        for shape, terms in zip(shapes, inputs, strict=True)
    )


def _operand(shape: tuple[int, ...], terms: Sequence[Term]) -> Operand:
    """Return an input of an operation: equal tensors are added up; a single tensor with share 1 is itself the input."""
    if len(terms) == 1 and terms[0].coefficient == 1:
        return Operand(terms[0].digest, None)
    return Operand(combination_key(shape, terms).digest, tuple(terms))
