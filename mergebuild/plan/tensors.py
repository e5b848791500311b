"""What the tensors of a target are, all of them at once.

Most tensors of a target are combined alike, and so are those of all members of a family: the same inputs in the same
order, with other coefficients. A `Grid` holds what they have in common, down to the text that is hashed; a target is
then a few coefficients put into it. A thousand members over a thousand tensors are a million digests, and each costs
one hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from mergebuild.digest import ArtifactDigests, artifact_digest
from mergebuild.fold.forms import Form, Kinds, Operation, Slot, Spec
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.key import (
    Key,
    Line,
    LinearDigests,
    OperationDigests,
    Term,
    combination_key,
    copy_key,
    gather,
    linear_key,
    operation_key,
    resolve,
    tensor_line,
)
from mergebuild.methods.arguments import Arguments, lines_of
from mergebuild.methods.method import Method
from mergebuild.plan.built_keys import InputsOfRow, Owner, pack_inputs

__all__ = [
    "STATISTICS_OF_MADE",
    "Grid",
    "Made",
    "Operand",
    "Origin",
    "SurveyKey",
    "SurveyedTensor",
    "TensorRow",
    "Tensors",
]

STATISTICS_OF_MADE = "2"
"""Part of the digest of what follows from a statistic of a tensor that a target makes. Version 1 could take it, in the
pass that made that tensor, from memory that nothing had filled: what was built so is built again."""


class Origin(NamedTuple):
    """An input's tensor: its digest, the dtype in which it lies in its file, and its size there in bytes."""

    digest: bytes
    dtype: str
    size: int | None
    """None: as large as what is made of it."""
    is_made: bool = False
    """Whether a target makes it; else it lies in a source."""


class Operand(NamedTuple):
    """What an operation reads: a tensor, or a combination of tensors in float32, not rounded further."""

    digest: bytes
    terms: tuple[Term, ...] | None
    """None: the tensor that has this digest."""

    @property
    def reads(self) -> tuple[bytes, ...]:
        """The digests of the tensors that it is made of."""
        return (self.digest,) if self.terms is None else tuple(term.digest for term in self.terms)

    def value(self, shape: Sequence[int]) -> bytes | Key:
        """Return what stands for it in a key: the tensor that it is, or what the combination follows from."""
        return self.digest if self.terms is None else combination_key(shape, self.terms)


class SurveyedTensor(NamedTuple):
    """A tensor that a method looks at before it makes others: its name, shape, and the method's inputs."""

    name: str
    shape: tuple[int, ...]
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class SurveyKey:
    """What a method must know of several tensors together: those of one of its scopes."""

    key: bytes
    """What it follows from, hashed."""
    facts: tuple[Line, ...]
    """What it follows from besides the tensors' inputs: the method, its parameters that matter here, the tensors."""
    method: Method
    arguments: Arguments
    tensors: tuple[SurveyedTensor, ...]

    @property
    def lines(self) -> Key:
        """What it follows from."""
        inputs = [operand.value(each.shape) for each in self.tensors for operand in each.operands]
        return operation_key("", (), self.facts, inputs)


@dataclass(frozen=True, slots=True)
class Made:
    """One tensor of an artifact: what it is, and the combination (a copy when `is_copy`) or operation that makes it."""

    name: str
    spec: Spec
    digest: bytes
    terms: tuple[Term, ...]
    is_copy: bool
    operation: Operation | None = None
    operands: tuple[Operand, ...] = ()
    survey: SurveyKey | None = None
    """What the operation must know first."""
    facts: tuple[Line, ...] = ()
    """What decides of the operation besides what it reads."""
    narrowed: bool = False
    """Whether it is a lone float64 tensor, rounded at once; see `narrows`."""
    parameter: str = ""
    """What an operation knows it by: of a tensor that is written a second time, the name of the first."""

    @property
    def key(self) -> Key:
        """What it follows from: hashed, its digest."""
        dtype, shape, _ = self.spec
        if self.is_copy:
            return copy_key(self.digest)
        if self.operation is None:
            return linear_key(dtype, shape, self.terms, narrowed=self.narrowed)
        shapes = [shape] * self._split + list(self.operation.shapes)
        inputs = [each.value(shape) for shape, each in zip(shapes, self.operands, strict=True)]
        own = operation_key(dtype, shape, self.facts, inputs)
        return own if self.survey is None else operation_key(dtype, shape, (), [own, self.survey.lines])

    @property
    def inputs(self) -> tuple[Operand, ...]:
        """The operands that are read chunk by chunk, of the tensor's own shape."""
        return self.operands[: self._split]

    @property
    def parts(self) -> tuple[Operand, ...]:
        """The operands that have shapes of their own, and are read whole."""
        return self.operands[self._split :]

    @property
    def _split(self) -> int:
        operation = self.operation
        return len(self.operands) - len(operation.shapes) if operation is not None else 0

    @property
    def together(self) -> bytes:
        """The key of the computation that it is a part of; empty unless others may be parts of the same."""
        operation = self.operation
        arguments = operation.method.makes.module_arguments(operation.arguments) if operation else None
        if operation is None or arguments is None:
            return b""
        facts = [*lines_of(arguments), Line("method", operation.method.name)]
        return operation_key("", (), facts, [each.digest for each in self.operands]).digest

    @property
    def reads(self) -> tuple[bytes, ...]:
        """The digests of the tensors that it is made of, each once."""
        if self.operation is None:
            return tuple(term.digest for term in self.terms)
        return tuple(dict.fromkeys(digest for each in self.operands for digest in each.reads))

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
        facts = [Line("method", f"{method.name}@{method.version}")]
        facts += lines_of(operation.arguments)
        if not method.exact:
            facts.append(Line("device", self.device))
        looks_at_made = method.makes.takes_statistics and any(
            len(terms) != 1 or share != 1 or self.are_made[index] for terms in inputs for index, share in terms
        )
        if looks_at_made:
            facts.append(Line("statistics", STATISTICS_OF_MADE))
        facts += method.makes.key_lines
        name_in_key = method.name_in_key
        made = OperationDigests(self.dtype, facts)
        digests: list[bytes] = []
        operands: list[tuple[Operand, ...]] = []
        for (name, spec), origins in zip(self.named, self.origins, strict=True):
            own = list(origins)
            shapes = [spec.shape] * (len(inputs) - len(operation.shapes)) + list(operation.shapes)
            found = tuple(
                _operand(shape, [Term(own[index], share) for index, share in terms])
                for shape, terms in zip(shapes, inputs, strict=True)
            )
            known = [each.digest for each in found]
            digests.append(made.of(spec.shape, known, tensor=name if name_in_key else None))
            operands.append(found)
        everything = tuple(range(len(self.dtypes)))
        terms = [(index, Fraction(1)) for index in everything]
        read = self._read(everything)
        return TensorRow(
            self.places,
            digests,
            self.origins,
            terms,
            is_copy=False,
            read=read,
            operated=Operated(operation, operands, tuple(facts), name_in_key),
            looks_at_made=looks_at_made,
        )

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


def _operand(shape: tuple[int, ...], terms: Sequence[Term]) -> Operand:
    """Return an input of an operation: equal tensors in it are added up, and just one, once, is the tensor itself."""
    if len(terms) == 1 and terms[0].coefficient == 1:
        return Operand(terms[0].digest, None)
    return Operand(combination_key(shape, terms).digest, tuple(terms))


class Grid:
    """What is common to the tensors of targets that have kinds, specs and inputs in common."""

    def __init__(
        self,
        names: Sequence[str],
        specs: Mapping[str, Spec],
        kinds: Kinds,
        slots: Sequence[Sequence[Slot]],
        origin_of: Callable[[str, str], Origin],
        device: str = "cpu",
        copies: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Gather the tensors.

        `names` in the order of the file; `slots` by kind; `origin_of` says what an owner's tensor is; `device` is the
        class of devices (`cpu`, `cuda`) that makes what is not the same on all of them; `copies` are names of tensors
        that are written a second time, and whose: they are no part of the artifact.
        """
        self._copies = copies
        self._device = device
        self._slots = slots
        self.names = names
        self.specs = [specs[name] for name in names]
        self.sizes = [math.prod(spec.shape) * DTYPES_BY_WORD[spec.dtype].size for spec in self.specs]
        self._parameters = [place for place, name in enumerate(names) if name not in copies]
        self._artifacts = ArtifactDigests(
            [(names[place], self.specs[place].dtype, self.specs[place].shape) for place in self._parameters]
        )
        batches: dict[tuple[object, ...], _Batch] = {}
        for place, (name, spec) in enumerate(zip(names, self.specs, strict=True)):
            kind = kinds.of[name]
            own = copies.get(name, name)  # an input may know the parameter alone
            origins = [origin_of(slot.owner, slot.tensor(own)) for slot in slots[kind]]
            inputs = {origin.digest: origin for origin in sorted(origins, key=_digest)}
            digests = tuple(inputs)
            keys = tuple(digests.index(origin.digest) for origin in origins)
            dtypes = dict(enumerate(origin.dtype for origin in inputs.values()))
            are_made = tuple(origin.is_made for origin in inputs.values())
            alike = [origin._replace(digest=b"", size=None) for origin in inputs.values()]  # which each has of its own
            likeness = (kind, keys, spec._replace(shape=()), *alike)
            batch = batches.get(likeness)
            if batch is None:
                batch = _Batch(kind, keys, dtypes, are_made, spec.dtype, LinearDigests(len(digests)), device)
                batches[likeness] = batch
            batch.places.append(place)
            batch.named.append((own, spec))
            batch.origins.append(
                {each.digest: self.sizes[place] if each.size is None else each.size for each in inputs.values()}
            )
            batch.digests.add(spec.dtype, spec.shape, digests)
        self._batches = list(batches.values())

    @cached_property
    def packed_inputs(self) -> bytes:
        """What its rows are made of, for the store; equal for all targets of it."""
        return pack_inputs([batch.inputs(self._slots[batch.kind]) for batch in self._batches])

    def tensors(self, palette: Sequence[Form]) -> Tensors:
        """Return the tensors of a target with these forms, by kind."""
        rows = self._with_surveys([batch.row(palette[batch.kind]) for batch in self._batches])
        digests = [b""] * len(self.names)
        for row in rows:
            for place, digest in zip(row.places, row.digests, strict=True):
                digests[place] = digest
        return Tensors(self, rows, digests, self._artifacts.of([digests[place] for place in self._parameters]))

    def parameter(self, place: int) -> str:
        """Return what parameter the tensor at a place of the file is."""
        return self._copies.get(self.names[place], self.names[place])

    def _with_surveys(self, rows: list[TensorRow]) -> list[TensorRow]:
        """Return the rows; what a method must know of several tensors is part of what each of them is."""
        scoped: dict[tuple[object, ...], list[int]] = {}
        for index, row in enumerate(rows):
            if row.operated and row.operated.operation.method.makes.surveys:
                operation = row.operated.operation
                scoped.setdefault((operation.method, _survey_arguments(operation)), []).append(index)
        for indices in scoped.values():
            surveys = self._surveys([rows[index] for index in indices])
            for index in indices:
                rows[index] = self._surveyed(rows[index], surveys)
        return rows

    def _surveys(self, rows: Sequence[TensorRow]) -> dict[str, SurveyKey]:
        """Return the survey of each tensor of rows with one method, by name."""
        operation = next(row.operated.operation for row in rows if row.operated)
        method, arguments = operation.method, _survey_arguments(operation)
        tensors: dict[str, SurveyedTensor] = {}
        for row in rows:
            for place, operands in zip(row.places, row.operated.operands if row.operated else (), strict=True):
                name = self.parameter(place)
                tensors[name] = SurveyedTensor(name, self.specs[place].shape, operands)
        facts = [Line("survey", f"{method.name}@{method.version}"), *lines_of(arguments)]
        facts += [] if method.exact else [Line("device", self._device)]
        found: dict[str, SurveyKey] = {}
        for scope in method.makes.scopes({name: each.shape for name, each in tensors.items()}, dict(arguments)):
            members = tuple(tensors[name] for name in scope)
            lines = (*facts, *(tensor_line(f"{each.name} {each.shape}") for each in members))
            inputs = [operand.digest for each in members for operand in each.operands]
            key = operation_key("", (), lines, inputs).digest
            found |= dict.fromkeys(scope, SurveyKey(key, lines, method, arguments, members))
        return found

    def _surveyed(self, row: TensorRow, surveys: Mapping[str, SurveyKey]) -> TensorRow:
        of = [surveys.get(self.parameter(place)) for place in row.places]
        specs = [self.specs[place] for place in row.places]
        made = OperationDigests(specs[0].dtype, ())
        digests = [
            digest if survey is None else made.of(spec.shape, [digest, survey.key])
            for digest, survey, spec in zip(row.digests, of, specs, strict=True)
        ]
        return row._replace(digests=digests, surveys=of)


def _survey_arguments(operation: Operation) -> Arguments:
    """Return the arguments that what must be known first depends on."""
    return operation.method.makes.survey_arguments(operation.arguments)


def _digest(origin: Origin) -> bytes:
    return origin.digest


class Tensors:
    """The tensors of one target."""

    def __init__(self, grid: Grid, rows: Sequence[TensorRow], digests: Sequence[bytes], artifact: bytes) -> None:
        self._grid = grid
        self.rows = rows
        self.digests = digests
        """In the order of the file."""
        self.artifact = artifact
        """The digest of them all."""
        self.sizes = grid.sizes
        """Of the tensors, in bytes, in the order of the file."""

    def among(self, names: Collection[str]) -> Tensors:
        """Return those of these names: what one of several files holds."""
        grid, wanted = self._grid, set(names)
        places = [place for place, name in enumerate(grid.names) if name in wanted]
        facts = [(grid.names[place], *grid.specs[place][:2], self.digests[place]) for place in places]
        rows = [found for row in self.rows if (found := row.among(set(places))).places]
        return Tensors(grid, rows, self.digests, artifact_digest(facts))

    @property
    def packed_inputs(self) -> bytes:
        """What they are made of, for the store: equal for targets that are made alike. Of all tensors of a target."""
        return self._grid.packed_inputs

    def names_of(self, row: TensorRow) -> list[str]:
        """Return the names of the tensors of a row."""
        return [self._grid.names[place] for place in row.places]

    @property
    def operates(self) -> bool:
        """Whether some of them are made by operations."""
        return any(row.operated for row in self.rows)

    @property
    def has_float32_combinations(self) -> bool:
        """Whether some of them are combinations in float32: an operation may read the very same."""
        combined = (row for row in self.rows if row.operated is None and not row.is_copy)
        return any(self._grid.specs[row.places[0]].dtype == "float32" for row in combined)

    @property
    def looks_at_made(self) -> bool:
        """Whether statistics are taken for some of them of what a target makes."""
        return any(row.looks_at_made for row in self.rows)

    @property
    def largest_whole(self) -> int:
        """Bytes of the largest tensors that a method must have whole, all of its inputs and its result as float32."""
        found = 0
        for row in self.rows:
            if row.operated and row.operated.operation.method.makes.whole_tensors:
                for place, origins in zip(row.places, row.origins, strict=True):
                    found = max(found, 4 * math.prod(self._grid.specs[place].shape) * (len(origins) + 1))
        return found

    @cached_property
    def by_name(self) -> Mapping[str, bytes]:
        """The digest of each tensor."""
        return {self._grid.names[place]: self.digests[place] for row in self.rows for place in row.places}

    @cached_property
    def made(self) -> tuple[Made, ...]:
        """The tensors one by one, in the order of the file."""
        found: list[Made | None] = [None] * len(self._grid.names)
        for row in self.rows:
            operated = row.operated
            operands = operated.operands if operated else [()] * len(row.places)
            surveys = row.surveys or [None] * len(row.places)
            parts = zip(row.places, row.digests, row.origins, operands, surveys, strict=True)
            for place, digest, origins, some, survey in parts:
                inputs = list(origins)
                terms = () if operated else tuple(Term(inputs[index], share) for index, share in row.terms)
                name, spec = self._grid.names[place], self._grid.specs[place]
                parameter = self._grid.parameter(place)
                operation, facts = (operated.operation, operated.facts_of(parameter)) if operated else (None, ())
                found[place] = Made(
                    name, spec, digest, terms, row.is_copy, operation, some, survey, facts, row.narrowed, parameter
                )
        return tuple(each for each in found if each is not None)
