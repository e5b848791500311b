"""Tensors that are made alike, and what one form makes of all of them: a row of digests."""

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
"""Part of the digest of what follows from a statistic of a tensor that a target makes. Version 1 could take it, in the
pass that made that tensor, from memory that nothing had filled: what was built so is built again."""


@dataclass(slots=True)
class Batch:
    """Tensors of one kind and dtype, the digests of whose inputs stand in one order."""

    kind: int
    keys: tuple[int, ...]
    """By slot of the kind's form: the place of its tensor in the order of digests; equal tensors have one place."""
    dtypes: Mapping[int, str]
    """By place: the dtype in which the tensor lies."""
    are_made: tuple[bool, ...]
    """By place: whether a target makes the tensor; else it lies in a source."""
    dtype: str
    digests: LinearDigests
    device: str
    """The class of devices that makes what is not the same on all of them."""
    places: list[int] = field(default_factory=list)
    """Of the tensors, in the order of the file."""
    named: list[tuple[str, Spec]] = field(default_factory=list)
    """The tensors' names, and what they are."""
    origins: list[dict[bytes, int]] = field(default_factory=list)
    """By tensor: the digests of the inputs, in order, and their sizes."""
    reads: dict[tuple[int, ...], dict[bytes, int]] = field(default_factory=dict)
    """By places in the order: all inputs at these places, and their sizes."""

    made: tuple[Form, TensorRow] | None = None
    """The last form asked for: members of a family often differ in some of their forms alone."""

    def add(self, place: int, name: str, spec: Spec, digests: tuple[bytes, ...], sizes: dict[bytes, int]) -> None:
        """Add a tensor; `sizes`: of its inputs, by their digests in order."""
        self.places.append(place)
        self.named.append((name, spec))
        self.origins.append(sizes)
        self.digests.add(spec.dtype, spec.shape, digests)

    def row(self, form: Form) -> TensorRow:
        """Return the tensors made by a form; forms that are equal are one object."""
        if self.made is None or self.made[0] is not form:
            self.made = (form, self._row(form))
        return self.made[1]

    def _row(self, form: Form) -> TensorRow:
        if form.operation is not None:
            return self._operated(form.operation, form.slots)
        shares = [share for _, share in form.terms]
        found = resolve(zip(self.keys, shares, strict=True), self.dtypes, self.dtype)
        read = self._read(tuple([index for index, _ in found.terms]))
        if found.is_copy:
            ((lone, _),) = found.terms
            digests = [list(inputs)[lone] for inputs in self.origins]
        else:
            digests = self.digests.of(found.terms, narrowed=found.narrowed)
        return TensorRow(
            self.places,
            digests,
            self.origins,
            found.terms,
            is_copy=found.is_copy,
            read=read,
            narrowed=found.narrowed,
        )

    def _operated(self, operation: Operation, slots: Sequence[Slot]) -> TensorRow:
        """Return the tensors that an operation makes; there is less in common to them than to combinations."""
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
            made.of(spec.shape, [each.digest for each in some], tensor=name if method.name_in_key else None)
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
        """Return what decides of what an operation makes besides what it reads."""
        method = operation.method
        facts = [Line("method", f"{method.name}@{method.version}"), *lines_of(operation.arguments)]
        if not method.exact:
            facts.append(Line("device", self.device))
        if looks_at_made:
            facts.append(Line("statistics", STATISTICS_OF_MADE))
        return [*facts, *method.makes.key_lines]

    def inputs(self, slots: Sequence[Slot]) -> InputsOfRow:
        """Return what its rows are made of, and whose that is, for the store. `slots`: of the kind's form."""
        names = [name for name, _ in self.named]
        owners: list[list[Owner]] = [[] for _ in self.dtypes]
        for slot, key in zip(slots, self.keys, strict=True):
            tensors = [slot.tensor(name) for name in names]
            owners[key].append(Owner(slot.owner, None if tensors == names else tensors))
        shapes = [spec.shape for _, spec in self.named]
        return InputsOfRow(self.dtype, names, shapes, [tuple(each) for each in self.origins], owners)

    def _read(self, places: tuple[int, ...]) -> Mapping[bytes, int]:
        """Return the inputs at some places of the order with their sizes."""
        if places not in self.reads:
            found = [list(inputs.items()) for inputs in self.origins]
            self.reads[places] = {digest: size for each in found for digest, size in [each[at] for at in places]}
        return self.reads[places]


class Operated(NamedTuple):
    """How an operation makes the tensors of a row."""

    operation: Operation
    operands: Sequence[tuple[Operand, ...]]
    """What it reads for each."""
    facts: tuple[Line, ...]
    """What decides besides that, for all of them."""
    name_in_key: bool
    """Whether each one's name does, too."""

    def among(self, kept: Sequence[int]) -> Operated:
        """Return those of some tensors, given by their places in the row."""
        return self._replace(operands=[self.operands[index] for index in kept])

    def facts_of(self, name: str) -> tuple[Line, ...]:
        """Return what decides of one of them besides what it reads."""
        return (*self.facts, tensor_line(name)) if self.name_in_key else self.facts


class TensorRow(NamedTuple):
    """What became of one batch in one target: its tensors have the same terms, but for the digests."""

    places: Sequence[int]
    """Of the tensors, in the order of the file."""
    digests: Sequence[bytes]
    """Of the tensors, in the order of `places`."""
    origins: Sequence[Mapping[bytes, int]]
    """Of each tensor: the digests of the inputs, in order, and their sizes."""
    terms: Sequence[tuple[int, Fraction]]
    """Which of the origins are combined, by their places in the order, and their coefficients; those that an operation
    reads, with 1 for each."""
    is_copy: bool
    read: Mapping[bytes, int]
    """What is read for all tensors of the row together: sizes by digest."""
    operated: Operated | None = None
    """How an operation makes them instead."""
    surveys: Sequence[SurveyKey | None] = ()
    """What the operation must know first, for each; empty when it need not."""
    looks_at_made: bool = False
    """Whether statistics are taken of what a target makes: `STATISTICS_OF_MADE` is part of the digests then."""
    narrowed: bool = False
    """Whether they are lone float64 tensors, rounded at once; see `narrows`."""

    def among(self, places: Collection[int]) -> TensorRow:
        """Return those at some places."""
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
    """Return an input of an operation: equal tensors in it are added up, and just one, once, is the tensor itself."""
    if len(terms) == 1 and terms[0].coefficient == 1:
        return Operand(terms[0].digest, None)
    return Operand(combination_key(shape, terms).digest, tuple(terms))
