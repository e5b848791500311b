"""Deltas that LoRAs add to models: results of virtual targets that no recipe names, one for each LoRA and model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import Problem
from mergebuild.fold import compatible
from mergebuild.fold.compatible import Spec
from mergebuild.fold.forms import Blueprint, Form, Forms, Kinds, Operation, Slot
from mergebuild.fold.interning import Interner
from mergebuild.fold.naming import own
from mergebuild.fold.view import MODEL_LIKENESS, View
from mergebuild.lora import (
    Delta,
    DeltaSum,
    Match,
    StoredModule,
    adapter_config,
    is_embedding,
    is_lora,
    match,
    needs,
    shaped,
)
from mergebuild.methods.arguments import Arguments
from mergebuild.methods.tables.lora import DELTA
from mergebuild.naming.spelling import AS_IS
from mergebuild.recipe.model import Input, Target
from mergebuild.sources.sources import Sources

__all__ = ["AddedLoras"]


class _Added(NamedTuple):
    """A LoRA added to a model."""

    view: View
    base: View
    """The model's view, kept alive because it is found by its identity."""
    unmatched: tuple[str, ...]
    """The LoRA's tensors that belong to no tensor of the model."""
    changed: tuple[str, ...]
    """The model's tensors that the LoRA changes, including tied ones."""


class AddedLoras:
    """Makes views of LoRAs: their deltas, under the names of the model's tensors."""

    def __init__(
        self,
        sources: Sources,
        intern: Interner,
        blueprints: dict[str, Blueprint],
        blueprint: Callable[[str], Blueprint],
    ) -> None:
        """`blueprints`: the dict to which those of deltas are added. `blueprint`: returns that of a target."""
        self._sources = sources
        self._intern = intern
        self._blueprints = blueprints
        self._blueprint = blueprint
        self._lost: dict[str, tuple[str, ...]] = {}
        """By the name of a delta: the LoRA's tensors that are left out."""
        self._are_loras: dict[str, bool] = {}
        """By source."""
        self._added: dict[tuple[object, ...], _Added] = {}

    def __contains__(self, owner: str) -> bool:
        """Whether an owner of slots is a delta."""
        return owner in self._lost

    def view(self, each: Input, target: Target, base: View) -> View:
        """Return a LoRA's deltas to a model, as an input with the model's tensors; 0 for those that it does not change.

        A tensor that it replaces by one with other rows has the new shape. Tensors that don't fit are `refused`, unless
        the target allows unmatched tensors.

        Raises:
            SourceError: the LoRA's family is unknown.
            MismatchError: some of its tensors belong to no tensor of the model.
        """
        found = self._on(each, target, base)
        if found.unmatched and not target.flags["allow_unmatched"]:
            raise compatible.unmatched(target, each, found.unmatched, base.specs, found=len(found.changed))
        return replace(found.view, input=each)

    def untied(self, each: Input, target: Target, base: View) -> tuple[str, ...]:
        """Return the names that are tied in a model and that a LoRA makes tensors of their own, such as a head."""
        return tuple(name for name in self._on(each, target, base).changed if name not in base.specs)

    def lost(self, views: Iterable[View]) -> list[str]:
        """Return notices about LoRAs' tensors that are left out."""
        found = ((view.input.ref, self._lost.get(view.delta)) for view in views)
        return [
            f"{len(names)} tensors of LoRA `{ref}` have no place in the model and are left out, such as `{names[0]}`"
            for ref, names in found
            if names
        ]

    def _on(self, each: Input, target: Target, base: View) -> _Added:
        key = (each.ref, target.flags["allow_unmatched"], target.on_channels, *MODEL_LIKENESS(base))
        found = self._added.get(key)
        if found is None:
            found = self._added[key] = self._anew(each, target, base)
        return found

    def _anew(self, each: Input, target: Target, base: View) -> _Added:
        tensors, config, shown = self.tensors(each.ref)
        floats = {name: spec.shape for name, spec in {**_tied(base), **base.specs}.items() if spec.is_float}
        common = target.on_channels == "common"
        matched = match(tensors, floats, config, shown=shown, stored=_stored_module(base), on_channels=common)
        name = f"{each.ref}@{len(self._lost)}"
        specs = _reshaped(base.specs, matched.reshaped)
        made, palette, of = self._placed(each.ref, name, tensors, matched, base)
        self._declare(name, replace(target, name=name, inputs=(each,)), base, specs, made)
        lets_go = target.flags["allow_unmatched"]
        self._lost[name] = _left_out(matched) if lets_go else matched.unmatched
        view = View(
            each, base.layout, specs, palette, Kinds(of, specs), delta=name,
            refused=_refused(each.ref, matched, floats, lets_go=lets_go), whole=frozenset(matched.reshaped),
        )  # fmt: skip
        return _Added(view, base, matched.unmatched, (*matched.deltas, *_heads_left(base, matched, config)))

    def _placed(
        self, ref: str, name: str, tensors: Mapping[str, Spec], matched: Match, base: View
    ) -> tuple[dict[str, Form], tuple[Form, ...], dict[str, int]]:
        """Return the operations that compute what a LoRA adds, by tensor of the model.

        And a palette with the tensors' kinds.

        Kind 0 adds nothing, kind 1 adds the computed tensor. A tensor that replaces a weight has a kind of its own.
        """
        palette = [self._intern({}), self._intern({Slot(name): Fraction(1)})]
        of = dict.fromkeys(base.specs, 0)
        made: dict[str, Form] = {}
        for tensor in base.specs:
            deltas = matched.deltas.get(tensor, ())
            weight = base.palette[base.kind(tensor)]
            parts: list[tuple[int, Form]] = []
            if deltas and _takes_place(deltas[0]):
                new = self.form(ref, deltas[0].factors[0].tensor)
                parts = [(1, new)] if tensor in matched.reshaped else [(1, new), (-1, weight)]
                deltas, weight = deltas[1:], new
            if deltas:
                made[tensor] = self._made(ref, deltas, tensors, weight)
                parts.append((1, palette[1]))
                of[tensor] = 1
            if len(parts) > 1 or (parts and not deltas):
                of[tensor] = len(palette)
                palette.append(
                    self._intern.combined([Fraction(share) for share, _ in parts], [form for _, form in parts])
                )
        return made, tuple(palette), of

    def _declare(
        self, name: str, target: Target, base: View, specs: Mapping[str, Spec], made: Mapping[str, Form]
    ) -> None:
        """Add a blueprint, with a name of its own, for the tensors that a LoRA adds."""
        added = {tensor: specs[tensor] for tensor in made}
        kinds = Kinds({tensor: kind for kind, tensor in enumerate(added)}, added)
        own = replace(target, output=None, output_path=None, dtype=None, rules=())
        self._blueprints[name] = Blueprint(own, base.layout, added, added, Forms(kinds, tuple(made.values())))

    def tensors(self, ref: str) -> tuple[Mapping[str, Spec], Mapping[str, object] | None, str]:
        """Return a LoRA's tensors, its configuration, and its name in messages."""
        if ref in self._sources:
            source = self._sources.file(ref)
            tensors = {name: Spec(each.offered, each.shape, each.is_float) for name, each in source.tensors.items()}
            return tensors, adapter_config(source.model), source.shown
        made = self._blueprint(ref)
        return made.specs, made.adapter, f"target `{ref}`"

    def form(self, ref: str, tensor: str) -> Form:
        """Return the form of a LoRA's tensor, for readers that use another name for what they make of it."""
        if ref not in self._sources:
            made = self._blueprint(ref)
            if made.target.folds and made.forms[tensor].operation is None:
                return self._intern.under(made.forms[tensor], tensor)
        return self._intern({Slot(ref, own(tensor)): Fraction(1)})

    def is_lora(self, ref: str) -> bool:
        """Whether an input, a source or a target, is a LoRA, by its tensors."""
        if ref not in self._sources:
            return self._blueprint(ref).is_lora
        found = self._are_loras.get(ref)
        if found is None:
            model = self._sources.file(ref).model
            found = self._are_loras[ref] = model.format == "peft" or is_lora(model.tensors)
        return found

    def _made(self, ref: str, deltas: Sequence[Delta], tensors: Mapping[str, Spec], weight: Form) -> Form:
        """Return the form of a LoRA's delta for one tensor."""
        weighed = any(needs(each.family, dict(each.facts)) != "nothing" for each in deltas)
        factors = [factor.tensor for each in deltas for factor in each.factors]
        inputs = [self.form(ref, name) for name in factors]
        arguments: Arguments = (("deltas", DeltaSum(tuple(shaped(each, tensors) for each in deltas))),)
        shapes = tuple(tensors[name].shape for name in factors)
        return Form((), Operation(DELTA, arguments, (*((weight,) if weighed else ()), *inputs), shapes))


def _tied(base: View) -> Mapping[str, Spec]:
    """Return the tied names of a model, with the dtypes and shapes of the tensors whose values they have."""
    return {name: base.specs[other] for name, other in base.tied.items() if other in base.specs}


def _stored_module(base: View) -> StoredModule | None:
    """Return how the file of a model spells it; None if its names are the canonical ones."""
    spelling = base.spelling
    return None if spelling is AS_IS else StoredModule(spelling.made, spelling.shapes)


def _reshaped(specs: Mapping[str, Spec], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Spec]:
    """Return tensors, some of which have other shapes."""
    return {name: spec._replace(shape=shapes[name]) if name in shapes else spec for name, spec in specs.items()}


def _left_out(matched: Match) -> tuple[str, ...]:
    """Return the LoRA's tensors that are left out if unmatched ones are allowed: also those that don't fit."""
    return (*matched.unmatched, *(name for misfit in matched.misfits for name in misfit.names))


def _refused(ref: str, matched: Match, model: Mapping[str, tuple[int, ...]], *, lets_go: bool) -> Mapping[str, Problem]:
    """Return the model's tensors to which a LoRA can't be added, each with the problem.

    `lets_go`: tensors that don't fit are left out instead. `model`: shapes by name.
    """
    rows = {name: compatible.other_rows(ref, name, model[name], shape) for name, shape in matched.reshaped.items()}
    return {**({} if lets_go else compatible.misfits(matched)), **rows}


def _heads_left(base: View, matched: Match, config: Mapping[str, object] | None) -> tuple[str, ...]:
    """Return the heads that a LoRA does not change: PEFT trains a whole copy of the embedding, not of the tied head.

    If the embedding has other rows than before, the head stays tied, as no other head has these rows; it also stays
    tied if the delta has low rank.
    """
    if config is not None and config.get("ensure_weight_tying"):
        return ()
    return tuple(
        name
        for name in _tied(base)
        if name not in base.specs
        and name not in matched.deltas
        and not is_embedding(name.removesuffix(".weight"))
        and base.tied[name] not in matched.reshaped
        and [_is_trained_whole(each) for each in matched.deltas.get(base.tied[name], ())] == [True]
    )


def _is_trained_whole(delta: Delta) -> bool:
    return _takes_place(delta) and not delta.factors[0].tensor.endswith(".base_layer.weight")


def _takes_place(delta: Delta) -> bool:
    """Whether a delta replaces the model's tensor by one that was trained whole."""
    return delta.family == "replace" and delta.rows is None and not delta.facts
