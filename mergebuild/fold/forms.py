"""The tensors of a target as exact values: combinations of slots, and operations on combinations.

A tensor of a target is an expression over tensors of its inputs. For linear methods it is a combination of *slots* with
exact rational coefficients; a slot is a tensor of a source or of a file target, which is rounded. Any other method is
an `Operation` on such combinations. A `Form` does not name a tensor: most tensors of a target share a handful of forms,
so the algebra is done once per form. Which tensors share one depends on how a target is made, not on its numbers, so a
thousand members of a family have their `Kinds` in common, and each has its own palette of forms.

When digests are known, `key.resolve` turns slots into digests: equal tensors become one term, and terms are in the
order of their digests, so neither the order of merging nor names matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from mergebuild.fold.counterparts import Accounting, Spec
from mergebuild.fold.naming import SAME, Naming
from mergebuild.layouts import Layout
from mergebuild.methods.arguments import Arguments
from mergebuild.methods.method import Method
from mergebuild.naming.spelling import AS_IS, FileSpelling
from mergebuild.recipe.model import Target

__all__ = [
    "Blueprint",
    "FirstLayer",
    "Form",
    "Forms",
    "Kin",
    "Kinds",
    "Operation",
    "Slot",
    "Spec",
    "rounded",
]


class Slot(NamedTuple):
    """Where the tensor of a term comes from: an owner, and which of its tensors is read for a tensor of the target.

    The owner is a source, a file target, or the result of an operation of a virtual target.
    """

    owner: str
    naming: Naming = SAME

    def tensor(self, name: str) -> str:
        """Return the owner's name of the tensor that is read for the target's tensor `name`."""
        return self.naming(name)


@dataclass(frozen=True, slots=True)
class Operation:
    """A method that is not linear, applied to combinations, with the arguments that reach a tensor."""

    method: Method
    arguments: Arguments
    inputs: tuple[Form, ...]
    """In the method's order; none of them is an operation itself."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of the last inputs, if these have other shapes than the result and are read whole."""
    known_as: Naming = SAME
    """By which name the method knows a tensor, for example to draw random numbers for it."""


@dataclass(frozen=True, slots=True)
class Form:
    """A linear combination of slots: exact coefficients, none of them 0, in the order of the slots.

    Or an operation; then it has no terms.
    """

    terms: tuple[tuple[Slot, Fraction], ...]
    operation: Operation | None = None

    @property
    def lone(self) -> Slot | None:
        """The slot, if the form is exactly its tensor."""
        return self.terms[0][0] if len(self.terms) == 1 and self.terms[0][1] == 1 else None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots in it, each once."""
        if self.operation is None:
            return tuple([slot for slot, _ in self.terms])
        return tuple(dict.fromkeys(slot for each in self.operation.inputs for slot, _ in each.terms))


class Kinds:
    """The kind of each tensor of a target, a number from 0: tensors made alike have one kind.

    Shared by targets made alike.
    """

    def __init__(self, of: Mapping[str, int], specs: Mapping[str, Spec]) -> None:
        self.of = of
        """The kind of each tensor, by name."""
        self.floats = tuple(name for name in of if specs[name].is_float)
        """The names of the floating-point tensors."""
        self.float_counts = [0] * (max(of.values(), default=-1) + 1)
        """By kind, how many floating-point tensors it has."""
        for name in self.floats:
            self.float_counts[of[name]] += 1


class Forms(Mapping[str, Form]):
    """The form of each tensor of a target: kinds that it shares with other targets, and its own form for each kind."""

    def __init__(self, kinds: Kinds, palette: tuple[Form, ...]) -> None:
        self.kinds = kinds
        self.palette = palette
        self.slots = tuple([form.slots for form in palette])
        """The slots in the form of each kind."""

    def __getitem__(self, name: str) -> Form:
        return self.palette[self.kinds.of[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds.of)

    def __len__(self) -> int:
        return len(self.kinds.of)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Forms) and self.kinds is other.kinds:
            return self.palette == other.palette
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def owners(self) -> frozenset[str]:
        """The owners of all slots."""
        return frozenset(slot.owner for slots in self.slots for slot in slots)

    @property
    def operates(self) -> bool:
        """Whether some forms are operations."""
        return any(form.operation for form in self.palette)

    @property
    def takes_parts(self) -> bool:
        """Whether some forms read whole tensors of other shapes."""
        return any(form.operation and form.operation.shapes for form in self.palette)

    @property
    def surveys(self) -> bool:
        """Whether some forms need a survey."""
        return any(form.operation and form.operation.method.makes.surveys for form in self.palette)

    @property
    def combined(self) -> int:
        """How many floating-point tensors are more than a slot's tensor, rounded or not."""
        counts = zip(self.kinds.float_counts, self.palette, strict=True)
        return sum(count for count, form in counts if form.lone is None)


@dataclass(frozen=True, eq=False, slots=True)
class Kin:
    """Shared by blueprints that have the same slots and differ in coefficients alone; compared by identity."""

    owners: frozenset[str]
    """The owners of all slots."""


class Behind(NamedTuple):
    """The part of the difference between two models that an extracted LoRA does not contain."""

    base: str
    tuned: str
    inside: tuple[str, ...]
    """The tensors that are in modules."""
    left: tuple[str, ...]
    """The tensors that both models have and that were asked for, but that are in no module."""
    stacked: frozenset[str]
    """Those of them that are in stacks, which no client treats as modules."""
    specs: Mapping[str, Spec]
    """The base's tensors."""
    spelling: FileSpelling
    """The base's spelling."""


class FirstLayer(NamedTuple):
    """The layer of the first input of a slice that a layer of a stack is made of."""

    ref: str
    stack: str
    number: int


class Blueprint(NamedTuple):
    """What a target will be: its tensors, how each is made, and notices."""

    target: Target
    layout: Layout | None
    source_specs: Mapping[str, Spec]
    """The tensors in the first input's dtypes, which `dtype = "source"` means."""
    specs: Mapping[str, Spec]
    """The tensors as targets that read this one see them: in the target's dtype, if it has one."""
    forms: Forms
    accounts: tuple[Accounting, ...] = ()
    """Comparisons with the inputs of which some tensors take no part, as they have no counterpart."""
    ema_dropped: Mapping[str, int] = MappingProxyType({})
    """By input, how many EMA copies are left out."""
    warnings: tuple[str, ...] = ()
    """Other notices, one sentence each."""
    spelling: FileSpelling = AS_IS
    """The first input's spelling, in which the target's files are written."""
    tied: Mapping[str, str] = MappingProxyType({})
    """Names without a tensor of their own -> the tensor whose values they have: a head that is the embedding."""
    behind: Behind | None = None
    """For an extracted LoRA: what it does not contain."""
    is_lora: bool = False
    """Whether it is a LoRA, not a model."""
    adapter: Mapping[str, object] | None = None
    """For a LoRA whose tensors alone don't define their meaning: its configuration."""
    layers: Mapping[str, tuple[FirstLayer, ...]] = MappingProxyType({})
    """For a stack: by the name of each stack of layers that is made of slices, where its layers come from."""
    kin: Kin | None = None
    """The same object for blueprints that differ only in names, outputs and coefficients."""

    @property
    def copies(self) -> Mapping[str, str]:
        """The names in `tied` that the target's files hold nevertheless, as second copies."""
        return {name: other for name, other in self.tied.items() if name in self.specs}

    def specs_in(self, dtype: str | None) -> Mapping[str, Spec]:
        """Return the tensors with floats rounded to `dtype`; for None and `source`, in the first input's dtypes."""
        return self.specs if dtype == self.target.dtype else rounded(self.source_specs, dtype)

    @property
    def owners(self) -> frozenset[str]:
        """The owners of all slots."""
        return self.kin.owners if self.kin is not None else self.forms.owners

    def notes(self) -> list[str]:
        """Return notices for the user, one sentence each."""
        found = [sentence for account in self.accounts for sentence in account.sentences]
        found += [
            f'{count} EMA tensors of `{name}` are left out (`ema = "keep"` or `"use"`)'
            for name, count in self.ema_dropped.items()
        ]
        return [*found, *self.warnings]


def rounded(specs: Mapping[str, Spec], dtype: str | None) -> Mapping[str, Spec]:
    """Return tensors with their floats in another dtype; unchanged for None and `source`."""
    if dtype is None or dtype == "source":
        return specs
    return {name: spec._replace(dtype=dtype) if spec.is_float else spec for name, spec in specs.items()}
