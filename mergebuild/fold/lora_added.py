"""What LoRAs add to models: virtual targets that no recipe names, one for each LoRA and model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from mergebuild.fold import compatible
from mergebuild.fold.compatible import Spec
from mergebuild.fold.forms import Blueprint, Form, Forms, Kinds, Operation, Slot
from mergebuild.fold.interning import Interner
from mergebuild.fold.naming import own
from mergebuild.fold.views import MODEL_LIKENESS, View
from mergebuild.lora import Delta, DeltaSum, Stored, adapter_config, is_lora, match, needs, shaped
from mergebuild.methods.arguments import Arguments
from mergebuild.methods.tables.lora import DELTA
from mergebuild.naming.spelling import AS_IS
from mergebuild.recipe.model import Input, Target
from mergebuild.sources.sources import Sources

__all__ = ["AddedLoras"]


class AddedLoras:
    """Makes views of LoRAs: what each adds to a model, with the model's own tensors."""

    def __init__(
        self,
        sources: Sources,
        intern: Interner,
        blueprints: dict[str, Blueprint],
        blueprint: Callable[[str], Blueprint],
    ) -> None:
        """`blueprints`: where those of what LoRAs add are put; `blueprint`: gives that of a target."""
        self._sources = sources
        self._intern = intern
        self._blueprints = blueprints
        self._blueprint = blueprint
        self._unmatched: dict[str, tuple[str, ...]] = {}
        """By the name of what a LoRA adds to a model: those of its tensors that found no place."""
        self._are_loras: dict[str, bool] = {}
        """By source."""
        self._views: dict[tuple[object, ...], tuple[View, View]] = {}
        """With the model's view, which is found by its identity and so must live."""

    def __contains__(self, owner: str) -> bool:
        """Whether an owner of slots is what a LoRA adds."""
        return owner in self._unmatched

    def view(self, each: Input, target: Target, base: View) -> View:
        """Return what a LoRA adds to a model, as an input with the model's own tensors: 0 where it adds nothing.

        Raises:
            SourceError: its shapes are not the model's, or its family is not known.
            MismatchError: some of its tensors find no place in the model.
        """
        key = (each.ref, *MODEL_LIKENESS(base))
        known = self._views.get(key)
        if known is None:
            known = self._views[key] = (self._anew(each, target, base), base)
        view, _ = known
        unmatched = self._unmatched[view.delta]
        if unmatched and not target.flags["allow_unmatched"]:
            raise compatible.unmatched(target, each, unmatched, found=len(self._blueprints[view.delta].specs))
        return replace(view, input=each)

    def lost(self, views: Iterable[View]) -> list[str]:
        """Return what of LoRAs the user lets go."""
        found = ((view.input.ref, self._unmatched.get(view.delta)) for view in views)
        return [
            f"{len(names)} tensors of LoRA `{ref}` have no place in the model and are left out, such as `{names[0]}`"
            for ref, names in found
            if names
        ]

    def _anew(self, each: Input, target: Target, base: View) -> View:
        tensors, config, shown = self.tensors(each.ref)
        floats = {name: spec.shape for name, spec in base.specs.items() if spec.is_float}
        spelling = base.spelling
        stored = None if spelling is AS_IS else Stored(spelling.made, spelling.shapes)
        matched = match(tensors, floats, config, shown=shown, stored=stored)
        name = f"{each.ref}@{len(self._unmatched)}"
        self._unmatched[name] = matched.unmatched
        specs = {tensor: base.specs[tensor] for tensor in base.specs if tensor in matched.deltas}
        palette = tuple(
            self._added(each.ref, matched.deltas[tensor], tensors, base.palette[base.kind(tensor)]) for tensor in specs
        )
        kinds = Kinds({tensor: kind for kind, tensor in enumerate(specs)}, specs)
        own = replace(target, name=name, inputs=(each,), output=None, output_path=None, dtype=None, rules=())
        self._blueprints[name] = Blueprint(own, base.layout, specs, specs, Forms(kinds, palette))
        nothing, something = self._intern({}), self._intern({Slot(name): Fraction(1)})
        of = {tensor: int(tensor in specs) for tensor in base.specs}
        return View(each, base.layout, base.specs, (nothing, something), Kinds(of, base.specs), delta=name)

    def tensors(self, ref: str) -> tuple[Mapping[str, Spec], Mapping[str, object] | None, str]:
        """Return a LoRA's tensors, its configuration, and what to call it."""
        if ref in self._sources:
            source = self._sources.file(ref)
            tensors = {name: Spec(each.offered, each.shape, each.is_float) for name, each in source.tensors.items()}
            return tensors, adapter_config(source.model), source.shown
        made = self._blueprint(ref)
        return made.specs, made.adapter, f"target `{ref}`"

    def form(self, ref: str, tensor: str) -> Form:
        """Return what a LoRA's tensor is made of, for whoever calls what is made of it otherwise."""
        if ref not in self._sources:
            made = self._blueprint(ref)
            if made.target.is_virtual and made.forms[tensor].operation is None:
                return self._intern.under(made.forms[tensor], tensor)
        return self._intern({Slot(ref, own(tensor)): Fraction(1)})

    def is_lora(self, ref: str) -> bool:
        """Whether an input is a LoRA: a source or a target, by what it has."""
        if ref not in self._sources:
            return self._blueprint(ref).is_lora
        found = self._are_loras.get(ref)
        if found is None:
            model = self._sources.file(ref).model
            found = self._are_loras[ref] = model.format == "peft" or is_lora(model.tensors)
        return found

    def _added(self, ref: str, deltas: Sequence[Delta], tensors: Mapping[str, Spec], weight: Form) -> Form:
        """Return the form of what a LoRA adds to one tensor."""
        weighed = any(needs(each.family, dict(each.facts)) != "nothing" for each in deltas)
        factors = [factor.tensor for each in deltas for factor in each.factors]
        inputs = [self.form(ref, name) for name in factors]
        arguments: Arguments = (("deltas", DeltaSum(tuple(shaped(each, tensors) for each in deltas))),)
        shapes = tuple(tensors[name].shape for name in factors)
        return Form((), Operation(DELTA, arguments, (*((weight,) if weighed else ()), *inputs), shapes))
