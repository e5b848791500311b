"""What the tensors of a target are, as exact values: combinations of slots, and operations on combinations.

A tensor of a target is an expression over tensors of its inputs. For the linear family that is a combination with
exact rational coefficients of *slots*: sources, and file targets, which round. Every other method is an `Operation` on
such combinations. A `Form` does not name a tensor; most tensors of a target share a handful of forms, so the algebra is
done once a form and not once a tensor. Which tensors share one follows from how a target is made, not from its numbers:
a thousand members of a family have their `Kinds` in common, and a palette of forms each.

From slots to digests, once these are known, goes `key.resolve`: equal tensors are one term, and terms stand in the
order of their digests, so that neither the order of merging nor names matter.
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
    """Where a term's tensor comes from: an owner, and which of its tensors stands for a name of the target.

    The owner is a source, a file target, or what a virtual target makes by an operation.
    """

    owner: str
    naming: Naming = SAME

    def tensor(self, name: str) -> str:
        """Return the name in the owner of what the target calls `name`."""
        return self.naming(name)


@dataclass(frozen=True, slots=True)
class Operation:
    """A method that is not linear, with the numbers, flags and words that reach a tensor, on combinations of slots."""

    method: Method
    arguments: Arguments
    inputs: tuple[Form, ...]
    """In the method's order; none of them is an operation itself."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of the last inputs, which have shapes of their own and are read whole."""


@dataclass(frozen=True, slots=True)
class Form:
    """A linear combination of slots: exact coefficients, none of them 0, in the order of the slots' names.

    Or an operation; it has no terms then.
    """

    terms: tuple[tuple[Slot, Fraction], ...]
    operation: Operation | None = None

    @property
    def lone(self) -> Slot | None:
        """The slot, when the form is just its tensor."""
        return self.terms[0][0] if len(self.terms) == 1 and self.terms[0][1] == 1 else None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All that it is made of, each once."""
        if self.operation is None:
            return tuple([slot for slot, _ in self.terms])
        return tuple(dict.fromkeys(slot for each in self.operation.inputs for slot, _ in each.terms))


class Kinds:
    """Which tensors of a target are made alike: a number from 0 for each. Shared by targets that are made alike."""

    def __init__(self, of: Mapping[str, int], specs: Mapping[str, Spec]) -> None:
        self.of = of
        """The kind of each tensor, by name."""
        self.floats = tuple(name for name in of if specs[name].is_float)
        """The tensors of floating-point numbers."""
        self.float_counts = [0] * (max(of.values(), default=-1) + 1)
        """By kind: how many tensors of floating-point numbers are of it."""
        for name in self.floats:
            self.float_counts[of[name]] += 1


class Forms(Mapping[str, Form]):
    """The form of each tensor of a target: the kinds that it shares with others, and a form for each kind."""

    def __init__(self, kinds: Kinds, palette: tuple[Form, ...]) -> None:
        self.kinds = kinds
        self.palette = palette
        self.slots = tuple([form.slots for form in palette])
        """The slots of the form of each kind."""

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
        """The sources and file targets whose tensors they are made of."""
        return frozenset(slot.owner for slots in self.slots for slot in slots)

    @property
    def operates(self) -> bool:
        """Whether some of them are operations."""
        return any(form.operation for form in self.palette)

    @property
    def takes_parts(self) -> bool:
        """Whether some of them are made of whole tensors of other shapes."""
        return any(form.operation and form.operation.shapes for form in self.palette)

    @property
    def surveys(self) -> bool:
        """Whether some of them are made by methods that must know several tensors first."""
        return any(form.operation and form.operation.method.makes.surveys for form in self.palette)

    @property
    def combined(self) -> int:
        """The number of tensors that are more than the tensor of a slot, rounded or not."""
        counts = zip(self.kinds.float_counts, self.palette, strict=True)
        return sum(count for count, form in counts if form.lone is None)


@dataclass(frozen=True, eq=False, slots=True)
class Kin:
    """What blueprints are that differ in coefficients alone, and have the same slots: each is found by its identity."""

    owners: frozenset[str]
    """The sources and file targets whose tensors they are made of."""


class Behind(NamedTuple):
    """What of the difference between two models a LoRA does not hold, as no module is for it."""

    base: str
    tuned: str
    inside: tuple[str, ...]
    """The tensors that modules are for."""
    left: tuple[str, ...]
    """The tensors that both models have, and that were asked for, and none is for."""
    stacked: frozenset[str]
    """Those of them that lie in stacks, as no module of any client does."""
    specs: Mapping[str, Spec]
    """Of the base."""
    spelling: FileSpelling
    """What the base calls its tensors."""


class Blueprint(NamedTuple):
    """What a target will be: its tensors and how each is made; and what was noticed on the way."""

    target: Target
    layout: Layout | None
    source_specs: Mapping[str, Spec]
    """The tensors in the dtypes of the first input, which `dtype = "source"` means."""
    specs: Mapping[str, Spec]
    """The tensors as whoever reads the target sees them: floats in its dtype, if it has one of its own."""
    forms: Forms
    accounts: tuple[Accounting, ...] = ()
    """Of the inputs of which something takes no part, as it has no counterpart."""
    ema_dropped: Mapping[str, int] = MappingProxyType({})
    """By input: EMA copies left behind."""
    warnings: tuple[str, ...] = ()
    """What else the user should know, a sentence each."""
    spelling: FileSpelling = AS_IS
    """What the first input calls the tensors, and so the files of the target."""
    tied: Mapping[str, str] = MappingProxyType({})
    """By name, the tensor whose values it has: the head of a model whose head is its embedding."""
    behind: Behind | None = None
    """Of a LoRA that is extracted: what it leaves behind."""
    is_lora: bool = False
    """Whether it is a LoRA, and no model."""
    adapter: Mapping[str, object] | None = None
    """Of a LoRA whose tensors alone don't say what they mean: its configuration."""
    kin: Kin | None = None
    """The same object for blueprints that differ in their targets' names and outputs and in coefficients alone."""

    @property
    def copies(self) -> Mapping[str, str]:
        """Of `tied`, those that the target's files hold all the same: layout, and no parameters."""
        return {name: other for name, other in self.tied.items() if name in self.specs}

    def specs_in(self, dtype: str | None) -> Mapping[str, Spec]:
        """Return the tensors with floats rounded to `dtype`; None and `source` leave the first input's."""
        return self.specs if dtype == self.target.dtype else rounded(self.source_specs, dtype)

    @property
    def owners(self) -> frozenset[str]:
        """The sources and file targets whose tensors it is made of."""
        return self.kin.owners if self.kin is not None else self.forms.owners

    def notes(self) -> list[str]:
        """Return what the user should know, a sentence each."""
        found = [sentence for account in self.accounts for sentence in account.sentences]
        found += [
            f'{count} EMA tensors of `{name}` are left out (`ema = "keep"` or `"use"`)'
            for name, count in self.ema_dropped.items()
        ]
        return [*found, *self.warnings]


def rounded(specs: Mapping[str, Spec], dtype: str | None) -> Mapping[str, Spec]:
    """Return tensors with floats in a dtype; None and `source` leave them."""
    if dtype is None or dtype == "source":
        return specs
    return {name: spec._replace(dtype=dtype) if spec.is_float else spec for name, spec in specs.items()}
