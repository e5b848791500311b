"""The digests of all tensors of a target, computed together.

Most tensors of a target are combined alike, and so are those of all members of a family: the same inputs in the same
order, with other coefficients. A `Grid` holds what they have in common, even the text that is hashed; for a target,
only a few coefficients are put into it. A thousand members with a thousand tensors have a million digests, and each
takes one hash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

from mergebuild.digest import ArtifactDigests, artifact_digest
from mergebuild.fold.forms import Form, Kinds, Operation, Slot, Spec
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.key import (
    Line,
    LinearDigests,
    OperationDigests,
    Term,
    operation_key,
    tensor_line,
)
from mergebuild.methods.arguments import Arguments, lines_of
from mergebuild.plan.batch import Batch, TensorRow
from mergebuild.plan.built_keys import pack_inputs
from mergebuild.plan.made import Made, Origin, SurveyedTensor, SurveyKey

__all__ = ["Grid", "Tensors"]


class Grid:
    """What the tensors of targets with the same kinds, specs and inputs have in common."""

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

        Args:
            names: Of the tensors, in the order of the file.
            specs: By name.
            kinds: The kind of each tensor.
            slots: By kind.
            origin_of: Returns the origin of an owner's tensor.
            device: The class of devices (`cpu`, `cuda`), for results that differ between classes.
            copies: From the names of tensors that are written a second time to the first ones'; they don't count in the
                artifact's digest.
        """
        self._copies = copies
        self._device = device
        self._slots = slots
        self.names = names
        self._specs = specs
        self.specs = [specs[name] for name in names]
        self.sizes = [math.prod(spec.shape) * DTYPES_BY_WORD[spec.dtype].size for spec in self.specs]
        self._parameters = [place for place, name in enumerate(names) if name not in copies]
        self._artifacts = ArtifactDigests(
            [(names[place], self.specs[place].dtype, self.specs[place].shape) for place in self._parameters]
        )
        batches: dict[tuple[object, ...], Batch] = {}
        for place, name in enumerate(names):
            own = copies.get(name, name)  # an input may have only the first one's name
            origins = [origin_of(slot.owner, slot.tensor(own)) for slot in slots[kinds.of[name]]]
            self._add(batches, place, own, kinds.of[name], origins)
        self._batches = list(batches.values())

    def _add(
        self, batches: dict[tuple[object, ...], Batch], place: int, name: str, kind: int, origins: Sequence[Origin]
    ) -> None:
        """Add the tensor with index `place` in the file, the parameter `name`, to the batch of tensors made alike."""
        spec = self.specs[place]
        inputs = {origin.digest: origin for origin in sorted(origins, key=_digest)}
        digests = tuple(inputs)
        keys = tuple(digests.index(origin.digest) for origin in origins)
        alike = [origin._replace(digest=b"", size=None) for origin in inputs.values()]  # these may differ
        likeness = (kind, keys, spec._replace(shape=()), *alike)
        batch = batches.get(likeness)
        if batch is None:
            batch = batches[likeness] = self._batch(kind, keys, list(inputs.values()), spec.dtype)
        sizes = {each.digest: self.sizes[place] if each.size is None else each.size for each in inputs.values()}
        batch.add(place, name, spec, digests, sizes)

    def _batch(self, kind: int, keys: tuple[int, ...], inputs: Sequence[Origin], dtype: str) -> Batch:
        """Return a batch without tensors. `inputs`: of one of its tensors, sorted by digest."""
        dtypes = dict(enumerate(origin.dtype for origin in inputs))
        are_made = tuple(origin.is_made for origin in inputs)
        return Batch(kind, keys, dtypes, are_made, dtype, LinearDigests(len(inputs)), self._device)

    def spec(self, name: str) -> Spec:
        """Return the dtype and shape of a tensor."""
        return self._specs[name]

    @cached_property
    def packed_inputs(self) -> bytes:
        """The inputs of its rows, packed for the store; the same for all of its targets."""
        return pack_inputs([batch.inputs(self._slots[batch.kind]) for batch in self._batches])

    def tensors(self, palette: Sequence[Form]) -> Tensors:
        """Return the tensors of a target with these forms, which are by kind."""
        rows = self._with_surveys([batch.row(palette[batch.kind]) for batch in self._batches])
        digests = [b""] * len(self.names)
        for row in rows:
            for place, digest in zip(row.places, row.digests, strict=True):
                digests[place] = digest
        return Tensors(self, rows, digests, self._artifacts.of([digests[place] for place in self._parameters]))

    def parameter(self, place: int) -> str:
        """Return the parameter's name of the tensor with this index in the file."""
        return self._copies.get(self.names[place], self.names[place])

    def _with_surveys(self, rows: list[TensorRow]) -> list[TensorRow]:
        """Return the rows; a survey that a method needs becomes part of the digest of each of its tensors."""
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
        """Return the survey for each tensor of rows with one method, by name."""
        operation = next(row.operated.operation for row in rows if row.operated)
        method, arguments = operation.method, _survey_arguments(operation)
        tensors = self._surveyed_tensors(rows)
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

    def _surveyed_tensors(self, rows: Sequence[TensorRow]) -> dict[str, SurveyedTensor]:
        """Return the tensors of rows as a survey sees them, by name."""
        tensors: dict[str, SurveyedTensor] = {}
        for row in rows:
            for place, operands in zip(row.places, row.operated.operands if row.operated else (), strict=True):
                name = self.parameter(place)
                tensors[name] = SurveyedTensor(name, self.specs[place].shape, operands)
        return tensors

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
    """Return the arguments that the survey of a method depends on."""
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
        """In bytes, in the order of the file."""

    def among(self, names: Collection[str]) -> Tensors:
        """Return the tensors with these names, such as those of one of several files."""
        grid, wanted = self._grid, set(names)
        places = [place for place, name in enumerate(grid.names) if name in wanted]
        facts = [(grid.names[place], *grid.specs[place][:2], self.digests[place]) for place in places]
        rows = [found for row in self.rows if (found := row.among(set(places))).places]
        return Tensors(grid, rows, self.digests, artifact_digest(facts))

    def spec(self, name: str) -> Spec:
        """Return the dtype and shape of a tensor."""
        return self._grid.spec(name)

    @property
    def packed_inputs(self) -> bytes:
        """The inputs of all tensors of the target, packed for the store; the same for targets that are made alike."""
        return self._grid.packed_inputs

    def names_of(self, row: TensorRow) -> list[str]:
        """Return the names of the tensors of a row."""
        return [self._grid.names[place] for place in row.places]

    def parameters_of(self, row: TensorRow) -> list[str]:
        """Return the names of the parameters that the tensors of a row are."""
        return [self._grid.parameter(place) for place in row.places]

    @property
    def operates(self) -> bool:
        """Whether some of them are made by operations."""
        return any(row.operated for row in self.rows)

    @property
    def has_float32_combinations(self) -> bool:
        """Whether some of them are combinations in float32, which an operation may read, too."""
        combined = (row for row in self.rows if row.operated is None and not row.is_copy)
        return any(self._grid.specs[row.places[0]].dtype == "float32" for row in combined)

    @property
    def looks_at_made(self) -> bool:
        """Whether some of them need statistics of tensors made by a target."""
        return any(row.looks_at_made for row in self.rows)

    @property
    def largest_whole(self) -> int:
        """Bytes of the largest tensors that a method needs whole: all of its inputs and its result, as float32."""
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
            for place, made in zip(row.places, self._made_of(row), strict=True):
                found[place] = made
        return tuple(each for each in found if each is not None)

    def _made_of(self, row: TensorRow) -> Iterator[Made]:
        """Yield the tensors of a row one by one."""
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
            yield Made(name, spec, digest, terms, row.is_copy, operation, some, survey, facts, row.narrowed, parameter)
