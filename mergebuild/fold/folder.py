"""From targets to forms over source tensors, exactly, from headers alone.

A chain of linear targets is one combination again: virtual targets fold away, sources and file targets stay as slots.
What a virtual target makes by an operation stays a slot to whoever reads it, unrounded; so does what a LoRA adds to a
model, which is such a target that no recipe names.

`Folder.blueprint` says of a target which tensors it has, with dtypes, shapes and forms, and refuses inputs that do not
fit together before any tensor is read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import Problem, RecipeError, did_you_mean
from mergebuild.fold import compatible
from mergebuild.fold.compatible import Spec
from mergebuild.fold.forms import Blueprint, Form, Forms, Kin, Kinds, Operation, Slot, rounded
from mergebuild.fold.likeness import Likeness
from mergebuild.fold.naming import EMA, EMA_PREFIX, own
from mergebuild.formats import registry
from mergebuild.formats.header import TensorInfo
from mergebuild.layouts import Layout, Patience, Places, Selector, detect, structure
from mergebuild.lora import (
    Delta,
    DeltaSum,
    adapter_config,
    extractable,
    is_adapter,
    match,
    needs,
    plans,
    products_of,
    shaped,
)
from mergebuild.methods.arguments import Argument, Arguments, Numbers
from mergebuild.methods.making import ExtractedLora, Making, MergedLoras
from mergebuild.methods.method import Method, UndefinedError
from mergebuild.methods.tables.lora import DELTA, FACTOR
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Component, Input, NumberPerTensor, Target, TensorRule
from mergebuild.sources.opening import standalone, widened
from mergebuild.sources.sources import Sources, source_of_part
from mergebuild.sources.traits import marks, position_ids

__all__ = ["LIKENESS", "Folding"]

_EMA_OF = "model.diffusion_model."
_ZERO = Fraction(0)
_DEEPEST = 100
"""Operations in memory above each other: each waits for what is below it."""
_MOST_BITS = 10_000
"""Of a coefficient's numerator and denominator: a chain of 1000 targets that weigh with two digits comes to 7000."""
_CLIP_LENGTH = 77
"""Tokens that CLIP's text encoder takes."""
_CONV_IN = "input_blocks.0.0.weight"
"""The first convolution of a UNet, whose channels say what it is for."""


@dataclass(frozen=True)
class _View:
    """An input as a target sees it."""

    input: Input
    layout: Layout | None
    specs: Mapping[str, Spec]
    palette: tuple[Form, ...]
    kinds: Kinds | None = None
    """None: all tensors are of kind 0."""
    ema_dropped: int = 0
    delta: str = ""
    """Of a LoRA: the virtual target that is what it adds."""

    def kind(self, name: str) -> int:
        """Return the kind of a tensor."""
        return self.kinds.of[name] if self.kinds else 0


_VIEW_LIKENESS = Likeness(
    _View,
    left_out={
        "input": "its role is in the target's likeness, and its name in messages alone",
        "palette": "a frame has the forms that were made of it, by the forms of the inputs",
        "delta": "a LoRA's view has its own kinds",
    },
    seen_as={"layout": id, "specs": id, "kinds": id},  # what a view names lives as long as the frame that it finds
)
"""What of an input decides how a target's tensors are made."""
_MODEL_LIKENESS = Likeness(
    _View,
    left_out={"input": "a model's name and role are in nothing that a LoRA adds to it"},
    seen_as={"layout": id, "specs": id, "kinds": id, "palette": lambda palette: tuple(map(id, palette))},
)
"""What of a model decides what a LoRA adds to it."""
_RULE_LIKENESS = Likeness(TensorRule, left_out={"target": "its frame is in the key, by its kinds"})
"""What of a rule decides which tensors it makes."""


class _KindPlan(NamedTuple):
    """How the tensors of one kind are made."""

    inputs: tuple[int, ...]
    """The kind of each input's tensor; of one input's alone, where it is just that."""
    values: tuple[int | None, ...] | None
    """Which value of each number reaches it (None: none does); None where the tensor is just an input's."""
    name: str
    """The first tensor of the kind; the only one, where the method's numbers depend on the name."""
    owner: int = 0
    """Which input's it is, where it is just that."""


class _Frame(NamedTuple):
    """What targets that are made alike have in common: everything but the values of their numbers."""

    views: tuple[_View, ...]
    """Of the target that it was made for: they keep alive what the frame is found by."""
    specs: Mapping[str, Spec]
    kinds: Kinds
    recipes: tuple[_KindPlan, ...]
    """By kind."""
    selector: Selector
    places: tuple[Places, ...]
    """By number, those of a list one by one."""
    missing: tuple[int, ...]
    """By input but the first, as `Blueprint.missing`; so `left_out`."""
    left_out: tuple[int, ...]
    forms: dict[tuple[object, ...], Form]
    """What was combined so far, by the numbers, the name where it matters, and the inputs' forms by id."""


class _Alike(NamedTuple):
    """What targets have in common that differ in their names, outputs and the values of their numbers alone."""

    of: object
    """`Target.kin` of these, kept alive, as it is found by its identity; None where there is one target alone."""
    views: tuple[_View, ...]
    frame: _Frame
    specs: Mapping[str, Spec]
    missing: Mapping[str, int]
    left_out: Mapping[str, int]
    ema_dropped: Mapping[str, int]
    warnings: tuple[str, ...]
    """As in a blueprint, these five."""
    defaults: Sequence[Fraction]
    """The method's, of each number, those of a list one by one; 0 where it has none."""
    inputs: tuple[tuple[Form, ...], ...]
    """By kind, what the method makes its tensors of; none where they are just an input's."""
    kin: dict[tuple[tuple[Slot, ...], ...], Kin]
    """`Blueprint.kin`, by the slots of each kind: a coefficient that is 0 takes one out."""


class _Ruled(NamedTuple):
    """How the tensors of targets with the same rules are made."""

    kinds: Kinds
    of: tuple[tuple[int, int], ...]
    """By kind: the part (0: the target itself, else the rule's number) that makes it, and the kind there."""
    parts: tuple[Kinds, ...]
    """Kept alive, as it is found by their identities."""


_LoraTensors = tuple[Sequence[tuple[str, Spec, Form]], tuple[str, ...]]
"""The tensors of a LoRA that is made, how each is made, and what the user should know, a sentence each."""


@dataclass
class _Interner:
    """Gives equal forms one object, so that they can be compared and remembered by identity."""

    forms: dict[tuple[tuple[Slot, int, int], ...], Form] = field(default_factory=dict)
    """By slots, and numerators and denominators of their coefficients, as a fraction is slow to hash."""

    def __call__(self, terms: Mapping[Slot, Fraction]) -> Form:
        kept = sorted([(slot, coefficient) for slot, coefficient in terms.items() if coefficient])
        key = tuple([(slot, coefficient.numerator, coefficient.denominator) for slot, coefficient in kept])
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = Form(tuple(kept))
        return form


class Folding:
    """Makes blueprints for the targets of a recipe, each once."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        self._recipe = recipe
        self._sources = sources
        self._intern = _Interner()
        self._blueprints: dict[str, Blueprint] = {}
        self._depths: dict[str, int] = {}
        """How many operations stand above each other in a virtual target that has any."""
        self._layouts: dict[str, Layout | None] = {}
        self._selectors: dict[tuple[str | None, tuple[str, ...]], Selector] = {}
        self._patience = Patience()
        self._offered: dict[tuple[str | int, str], tuple[Mapping[str, Spec], int]] = {}
        self._rounded: dict[tuple[int, str | None], Mapping[str, Spec]] = {}
        self._kinds_of_sources: dict[tuple[str, str], Kinds] = {}
        self._ids: dict[str, tuple[str, ...]] = {}
        self._frames: dict[tuple[object, ...], _Frame] = {}
        self._alike: dict[tuple[object, ...], _Alike] = {}
        self._ruled: dict[tuple[object, ...], _Ruled] = {}
        self._loras: dict[str, tuple[str, ...]] = {}
        """By the name of what a LoRA adds to a model: those of its tensors that found no place."""
        self._lora_views: dict[tuple[object, ...], tuple[_View, _View]] = {}
        """With the model's view, which is found by its identity and so must live."""
        self._lora_makers: Mapping[type[Making], Callable[[Target], _LoraTensors]] = {
            ExtractedLora: self._extracted,
            MergedLoras: self._merged,
        }
        """By how a LoRA is made: what says which tensors it has."""

    def blueprint(self, name: str) -> Blueprint:
        """Return what a target is made of.

        Raises:
            SourceError: a source is missing or unreadable.
            RecipeError: a selector selects nothing, or the method has no value for the numbers given.
            MismatchError: the inputs do not fit together.
        """
        if name not in self._blueprints:
            for each in self._recipe.below(name):  # the deepest first, so that no chain is too long for the stack
                if each not in self._blueprints:
                    target = self._recipe.target(each)
                    made = self._make(target)
                    made = self._with_rules(made) if target.rules else made
                    made = self._with_components(made) if target.components else made
                    self._check_depth(target, made)
                    self._blueprints[each] = made
        return self._blueprints[name]

    def is_virtual(self, ref: str) -> bool:
        """Whether an input is a target without an output: it folds away, but for what it makes by operations."""
        return self.is_delta(ref) or (ref not in self._sources and self._recipe.target(ref).is_virtual)

    def is_delta(self, owner: str) -> bool:
        """Whether an owner of slots is what LoRAs add to a model: a virtual target that no recipe names."""
        return owner in self._loras

    def is_leaf(self, owner: str) -> bool:
        """Return whether an owner of slots is a source, a part of one, or what a LoRA adds."""
        return owner in self._sources or self.is_delta(owner)

    def known_as(self, owner: str) -> str:
        """Return what the recipe calls an owner: what a LoRA adds goes by the LoRA's name."""
        if self.is_delta(owner):
            return owner.rpartition("@")[0]
        return source_of_part(owner) if owner in self._sources else owner

    def programs(self, name: str) -> tuple[Method, ...]:
        """Return the user's own methods that making a target runs."""
        return self._recipe.programs(name)

    def _make(self, target: Target) -> Blueprint:
        if target.making.makes_lora:
            return self._make_lora(target)
        alike = self._alike_of(target)
        forms = Forms(alike.frame.kinds, self._palette(target, alike))
        return Blueprint(
            target=target,
            layout=alike.views[0].layout,
            source_specs=alike.frame.specs,
            specs=alike.specs,
            forms=forms,
            missing=alike.missing,
            left_out=alike.left_out,
            ema_dropped=alike.ema_dropped,
            warnings=alike.warnings,
            kin=self._kin_of(forms, alike) if target.kin is not None else None,
        )

    def _kin_of(self, forms: Forms, alike: _Alike) -> Kin:
        kin = alike.kin.get(forms.slots)
        if kin is None:
            kin = alike.kin[forms.slots] = Kin(forms.owners)
        return kin

    def _alike_of(self, target: Target) -> _Alike:
        """Return what a target has in common with its kin, found out once."""
        key = (id(target.kin), _structures(target.numbers))
        known = self._alike.get(key) if target.kin is not None else None
        if known is not None:
            return known
        found: list[_View] = []
        for each in target.inputs:
            if target.making.adds_lora(each.role):
                found.append(self._lora(each, target, found[0]))
                continue
            view = self._view(each, target)
            found.append(self._widened(view, found[0], target) if found and target.on_channels == "common" else view)
        views = tuple(found)
        likeness = (LIKENESS(target), *map(_VIEW_LIKENESS, views))
        frame = self._frames.get(likeness)
        if frame is None:
            frame = self._frames[likeness] = self._frame(target, views)
        others = [view.input.ref for view in views[1:]]
        alike = _Alike(
            target.kin,
            views,
            frame,
            self._in_dtype(frame.specs, target.dtype),
            missing={ref: count for ref, count in zip(others, frame.missing, strict=True) if count},
            left_out={ref: count for ref, count in zip(others, frame.left_out, strict=True) if count},
            ema_dropped={view.input.ref: view.ema_dropped for view in views if view.ema_dropped},
            warnings=(*self._repaired(target), *self._lost(views), *_disagreements(views)),
            defaults=[default or _ZERO for default in _defaults(target)],
            inputs=tuple(
                ()
                if recipe.values is None
                else tuple(view.palette[kind] for view, kind in zip(views, recipe.inputs, strict=True))
                for recipe in frame.recipes
            ),
            kin={},
        )
        if target.kin is not None:
            self._alike[key] = alike
        return alike

    def _with_rules(self, whole: Blueprint) -> Blueprint:
        """Return a blueprint in which the tensors of each rule are made as the rule says."""
        target = whole.target
        for rule in target.rules:
            if rule.target.making.makes_lora:
                raise _no_rule(rule.target)
        parts = [whole, *(self._make(rule.target) for rule in target.rules)]
        key = (*map(_RULE_LIKENESS, target.rules), *(id(part.forms.kinds) for part in parts))
        found = self._ruled.get(key)
        if found is None:
            found = self._ruled[key] = self._ruled_by(target, whole, [part.forms.kinds for part in parts])
        return whole._replace(
            kin=None,
            forms=Forms(found.kinds, tuple(parts[part].forms.palette[kind] for part, kind in found.of)),
            missing={ref: count for part in reversed(parts) for ref, count in part.missing.items()},
            left_out={ref: count for part in reversed(parts) for ref, count in part.left_out.items()},
            ema_dropped={ref: count for part in reversed(parts) for ref, count in part.ema_dropped.items()},
        )

    def _with_components(self, whole: Blueprint) -> Blueprint:
        """Return a blueprint in which some components are another input's, or have a dtype of their own."""
        target, layout = whole.target, whole.layout
        known = dict(layout.components) if layout else {}
        specs, source_specs = dict(whole.specs), dict(whole.source_specs)
        palette = list(whole.forms.palette)
        of = dict(whole.forms.kinds.of)
        for each in target.components:
            if each.name not in known:
                raise _unknown_component(target, each, layout)
            if each.input is not None:
                view = self._component(each, target, whole)
                taken = {name: spec for name, spec in view.specs.items() if known[each.name].search(name)}
                compatible.check_component(target, each, source_specs, taken)
                first = len(palette)
                palette += view.palette
                of |= {name: first + view.kind(name) for name in taken}
                source_specs |= taken
                specs |= rounded(taken, target.dtype)
            if each.dtype is not None:
                mine = {name: spec for name, spec in source_specs.items() if known[each.name].search(name)}
                specs |= rounded(mine, each.dtype)
                source_specs |= rounded(mine, each.dtype)
        used = {kind: number for number, kind in enumerate(dict.fromkeys(of[name] for name in specs))}
        kinds = Kinds({name: used[of[name]] for name in specs}, specs)
        forms = Forms(kinds, tuple(palette[kind] for kind in used))
        return whole._replace(specs=specs, source_specs=source_specs, forms=forms, kin=None)

    def _component(self, each: Component, target: Target, whole: Blueprint) -> _View:
        """Return an input as a checkpoint with the names of the target's: a standalone component gets them."""
        assert each.input is not None
        ref = each.input.ref
        if ref in self._sources:
            model = self._sources.file(ref).model
            renamed = standalone(model, each.name, {name: spec.shape for name, spec in whole.specs.items()})
            if renamed is not None:
                part, left = renamed
                if left:
                    raise compatible.unknown_in_component(target, each, left)
                name = self._sources.renamed(ref, each.name, part)
                specs = {tensor: _spec(info) for tensor, info in part.tensors.items()}
                return _View(each.input, whole.layout, specs, (self._intern({Slot(name): Fraction(1)}),))
        return self._view(each.input, target)

    def _ruled_by(self, target: Target, whole: Blueprint, parts: Sequence[Kinds]) -> _Ruled:
        specs = whole.source_specs
        floats = tuple(name for name, spec in specs.items() if spec.is_float)
        selector = self.selector(whole.layout, floats)
        part_of: dict[str, int] = {}
        for number, rule in enumerate(target.rules, 1):
            part_of |= dict.fromkeys(selector.select(rule.tensors), number)
        for number, rule in enumerate(target.rules, 1):
            if number not in part_of.values():
                raise RecipeError.one(
                    "selector-overridden",
                    f"`{rule.target.name}` decides nothing: later rules select all of its tensors",
                    where=rule.target.where.place(),
                    help="take it out, or move it behind them: the later rule wins",
                )
        of: dict[str, int] = {}
        numbers: dict[tuple[int, int], int] = {}
        for name in specs:
            part = part_of.get(name, 0)
            if name not in parts[part].of:  # the rule's method has nothing to begin with: its first input lacks it
                part = 0
            of[name] = numbers.setdefault((part, parts[part].of[name]), len(numbers))
        return _Ruled(Kinds(of, specs), tuple(numbers), tuple(parts))

    def _frame(self, target: Target, views: tuple[_View, ...]) -> _Frame:
        """Return what a target has in common with all that are made like it; refuse inputs that do not fit."""
        first, others = views[0], views[1:]
        union = target.making.union_of_tensors
        specs = (
            first.specs if not union else {name: spec for view in reversed(views) for name, spec in view.specs.items()}
        )
        if target.drop:
            dropped = self._select(target, "drop", list(specs), first.layout)
            specs = {name: spec for name, spec in specs.items() if name not in dropped}
        floats = tuple(name for name, spec in specs.items() if spec.is_float)
        selector = self.selector(first.layout, floats)
        places = _places(target, selector)
        reached = self._reached(target, floats, places, first.layout)
        shapes = {
            name: specs[name].shape
            for name in floats
            if name in reached and all(name in view.specs and view.specs[name].is_float for view in views)
        }
        common = target.making.taken_up(shapes, _words(target))
        offers = [self._offer(view) for view in views]
        compatible.check(target, offers, common)
        missing = tuple(
            0 if union else sum(name in reached and name not in view.specs for name in floats) for view in others
        )
        left_out = tuple(0 if union else sum(name not in first.specs for name in view.specs) for view in others)
        compatible.check_missing(target, [view.input.ref for view in others], missing, left_out)
        kinds, recipes = _sorted_into_kinds(target, specs, views, set(common), places)
        return _Frame(views, specs, kinds, recipes, selector, places, missing, left_out, {})

    def _in_dtype(self, specs: Mapping[str, Spec], dtype: str | None) -> Mapping[str, Spec]:
        """Return `_rounded`, the same object for the same specs, which a frame keeps alive."""
        found = self._rounded.get((id(specs), dtype))
        if found is None:
            found = self._rounded[id(specs), dtype] = rounded(specs, dtype)
        return found

    # Inputs

    def _view(self, each: Input, target: Target) -> _View:
        specs, ema_dropped = self._input_specs(each.ref, target.ema)
        layout = self._layout(each.ref)
        if each.ref not in self._sources:
            made = self.blueprint(each.ref)
            if made.target.is_virtual:
                itself = self._intern({Slot(each.ref): Fraction(1)})
                palette = tuple(itself if form.operation else form for form in made.forms.palette)
                return _View(each, layout, specs, palette, made.forms.kinds, ema_dropped)
        plain = self._intern({Slot(each.ref): Fraction(1)})
        uses_averages = target.ema == "use" and each.ref in self._sources
        if not uses_averages and not self._broken_ids(each.ref):
            return _View(each, layout, specs, (plain,), None, ema_dropped)
        averaged = self._intern({Slot(each.ref, EMA): Fraction(1)})
        counting = self._intern({Slot(self._sources.position_ids(), own("position_ids")): Fraction(1)})
        kinds = self._source_kinds(each.ref, target.ema, specs)
        return _View(each, layout, specs, (plain, averaged, counting), kinds, ema_dropped)

    def _lora(self, each: Input, target: Target, base: _View) -> _View:
        """Return what a LoRA adds to a model, as an input with the model's own tensors: 0 where it adds nothing.

        Raises:
            SourceError: its shapes are not the model's, or its family is not known.
            MismatchError: some of its tensors find no place in the model.
        """
        key = (each.ref, *_MODEL_LIKENESS(base))
        known = self._lora_views.get(key)
        if known is None:
            known = self._lora_views[key] = (self._lora_anew(each, target, base), base)
        view, _ = known
        unmatched = self._loras[view.delta]
        if unmatched and not target.flags["allow_unmatched"]:
            raise compatible.unmatched(target, each, unmatched, found=len(self._blueprints[view.delta].specs))
        return replace(view, input=each)

    def _lost(self, views: Iterable[_View]) -> list[str]:
        """Return what of LoRAs the user lets go."""
        found = ((view.input.ref, self._loras.get(view.delta)) for view in views)
        return [
            f"{len(names)} tensors of LoRA `{ref}` have no place in the model and are left out, such as `{names[0]}`"
            for ref, names in found
            if names
        ]

    def _lora_anew(self, each: Input, target: Target, base: _View) -> _View:
        tensors, config, shown = self._lora_tensors(each.ref)
        floats = {name: spec.shape for name, spec in base.specs.items() if spec.is_float}
        matched = match(tensors, floats, config, shown=shown)
        name = f"{each.ref}@{len(self._loras)}"
        self._loras[name] = matched.unmatched
        specs = {tensor: base.specs[tensor] for tensor in base.specs if tensor in matched.deltas}
        palette = tuple(
            self._added(each.ref, matched.deltas[tensor], tensors, base.palette[base.kind(tensor)]) for tensor in specs
        )
        kinds = Kinds({tensor: kind for kind, tensor in enumerate(specs)}, specs)
        own = replace(target, name=name, inputs=(each,), output=None, output_path=None, dtype=None, rules=())
        self._blueprints[name] = Blueprint(
            own, base.layout, specs, specs, Forms(kinds, palette), missing={}, left_out={}, ema_dropped={}
        )
        nothing, something = self._intern({}), self._intern({Slot(name): Fraction(1)})
        of = {tensor: int(tensor in specs) for tensor in base.specs}
        return _View(each, base.layout, base.specs, (nothing, something), Kinds(of, base.specs), delta=name)

    def _lora_tensors(self, ref: str) -> tuple[Mapping[str, TensorInfo | Spec], Mapping[str, object] | None, str]:
        """Return a LoRA's tensors, its configuration, and what to call it."""
        if ref in self._sources:
            source = self._sources.file(ref)
            return source.tensors, adapter_config(source.model), source.shown
        return self.blueprint(ref).specs, None, f"target `{ref}`"

    def _added(self, ref: str, deltas: Sequence[Delta], tensors: Mapping[str, TensorInfo | Spec], weight: Form) -> Form:
        """Return the form of what a LoRA adds to one tensor."""
        weighed = any(needs(each.family, dict(each.facts)) != "nothing" for each in deltas)
        factors = [factor.tensor for each in deltas for factor in each.factors]
        inputs = [self._intern({Slot(ref, own(name)): Fraction(1)}) for name in factors]
        arguments: Arguments = (("deltas", DeltaSum(tuple(shaped(each, tensors) for each in deltas))),)
        shapes = tuple(tensors[name].shape for name in factors)
        return Form((), Operation(DELTA, arguments, (*((weight,) if weighed else ()), *inputs), shapes))

    # LoRAs that are made

    def _make_lora(self, target: Target) -> Blueprint:
        """Return what a target is that makes a LoRA: tensors with names and shapes of their own, each of a kind."""
        if target.rules or target.components:
            raise _no_rule(target)
        made, warnings = self._lora_makers[type(target.making)](target)
        specs = {name: spec for name, spec, _ in made}
        _check_lora(target, specs)
        kinds = Kinds({name: kind for kind, name in enumerate(specs)}, specs)
        forms = Forms(kinds, tuple(form for _, _, form in made))
        own = self._in_dtype(specs, target.dtype)
        return Blueprint(target, None, specs, own, forms, missing={}, left_out={}, ema_dropped={}, warnings=warnings)

    def _extracted(self, target: Target) -> _LoraTensors:
        """Return the tensors of a LoRA that is extracted."""
        base, tuned = views = [self._view(each, target) for each in target.inputs]
        floats = tuple(name for name, spec in base.specs.items() if spec.is_float)
        numbers_of = self._numbers(target, base.layout, floats)
        chosen = self._chosen(target, base.layout, floats)
        modules = extractable({name: base.specs[name].shape for name in floats if name in chosen})
        both = [each for each in modules if each.tensor in tuned.specs and tuned.specs[each.tensor].is_float]
        lacking = len(modules) - len(both)
        compatible.check(target, [self._offer(each) for each in views], [each.tensor for each in both])
        compatible.check_missing(target, [tuned.input.ref], [lacking], [0])
        words = target.words
        svd = (int(words["seed"]), int(words["iterations"])) if words["svd"] == "randomized" else None
        found: list[tuple[str, Spec, Form]] = []
        for module in both:
            numbers = numbers_of(module.tensor)
            cut = _cut(target, numbers, "conv_rank" if module.has_kernel else "rank", module.tensor)
            if not cut.rank:
                continue
            tuned_form, base_form = (
                self._under(view.palette[view.kind(module.tensor)], module.tensor) for view in (tuned, base)
            )
            difference = self._combined([Fraction(1), Fraction(-1)], [tuned_form, base_form])
            dtype, shape, _ = base.specs[module.tensor]
            found += (
                (each.name, _spec_in_lora(each, dtype), _factor(each, [difference], [shape]))
                for each in plans.extracted(module, cut, _one(numbers["clamp_quantile"]), svd)
            )
        return found, (f"{lacking} layers that `{tuned.input.ref}` lacks are left out",) if lacking else ()

    def _under(self, form: Form, tensor: str) -> Form:
        """Return a form with its slots naming what it reads for a tensor; whoever reads it has another name."""
        return self._intern({Slot(slot.owner, own(slot.tensor(tensor))): share for slot, share in form.terms})

    def _merged(self, target: Target) -> _LoraTensors:
        """Return the tensors of LoRAs put together, or of one that is resized."""
        loras: list[plans.Lora] = []
        for each in target.inputs:
            tensors, config, shown = self._lora_tensors(each.ref)
            loras.append(plans.Lora(each.ref, tensors, products_of(tensors, config, shown=shown)))
        if len(loras) > 1:
            plans.check(loras, target.where.place())
        weights = plans.weights_of(loras)
        layout = detect(dict(weights.values()), self._recipe.layouts)
        names = tuple(name for name, _ in weights.values())
        numbers_of, chosen = self._numbers(target, layout, names), self._chosen(target, layout, names)
        lacking = [
            sum(module not in each.products.modules for module in loras[0].products.modules) for each in loras[1:]
        ]
        compatible.check_missing(target, [each.name for each in loras[1:]], lacking, [0] * len(lacking))

        def amounts_of(module: str) -> plans.Amounts:
            name, _ = weights[module]
            numbers = numbers_of(name)
            strengths = numbers.get("strength", (Fraction(1),))
            assert isinstance(strengths, tuple)
            return plans.Amounts(strengths, _cut(target, numbers, "rank", name))

        found: list[tuple[str, Spec, Form]] = []
        modules = [module for module, (name, _) in weights.items() if name in chosen]
        for made in plans.merged(loras, amounts_of, modules):
            inputs = [self._intern({Slot(loras[index].name, own(name)): Fraction(1)}) for index, name in made.reads]
            index, first = next(((index, name) for index, name in made.reads if name == made.name), made.reads[0])
            spec = _spec_in_lora(made, loras[index].tensors[first].dtype)
            shapes = [tuple(loras[index].tensors[name].shape) for index, name in made.reads]
            form = self._combined(made.shares, inputs) if made.role is None else _factor(made, inputs, shapes)
            found.append((made.name, spec, form))
        return found, ()

    def _chosen(self, target: Target, layout: Layout | None, names: tuple[str, ...]) -> frozenset[str]:
        """Return which weights a LoRA is made for, of those that it could be."""
        chosen = frozenset(names) if target.merge is None else self._select(target, "merge", names, layout)
        return chosen - self._select(target, "drop", names, layout) if target.drop else chosen

    def _numbers(
        self, target: Target, layout: Layout | None, names: tuple[str, ...]
    ) -> Callable[[str], Mapping[str, Fraction | tuple[Fraction, ...]]]:
        """Return what gives the numbers that reach a weight, by parameter; 0 where none does and there is no default.

        Raises:
            RecipeError: a selector selects nothing; and the function: a number is out of the method's range.
        """
        selector = self.selector(layout, names)
        places = _places(target, selector)
        numbers = (number for each in target.numbers.values() for number in _listed(each))
        values = [selector.values(*each) for each in zip(numbers, places, strict=True)]
        defaults = [default or _ZERO for default in _defaults(target)]
        method = target.row
        assert method is not None

        def found(name: str) -> Mapping[str, Fraction | tuple[Fraction, ...]]:
            reaching = [
                each[place.of[name]] if name in place.of else default
                for each, place, default in zip(values, places, defaults, strict=True)
            ]
            given = _given(target, reaching)
            _check_range(target, method, given, name)
            return given

        return found

    def _source_kinds(self, ref: str, ema: str, specs: Mapping[str, Spec]) -> Kinds:
        """Return the kinds of a source's tensors: 1 where an EMA copy is used, 2 for position ids to be repaired.

        `specs`: what the source offers with this setting of `ema`.
        """
        found = self._kinds_of_sources.get((ref, ema))
        if found is None:
            own = self._sources.file(ref).tensors
            of = {name: int(ema == "use" and name.startswith(_EMA_OF) and EMA(name) in own) for name in specs}
            of |= dict.fromkeys((name for name in self._broken_ids(ref) if name in specs), 2)
            found = self._kinds_of_sources[ref, ema] = Kinds(of, specs)
        return found

    def _broken_ids(self, ref: str) -> tuple[str, ...]:
        """Return a source's position ids of CLIP that are not 0 to 76 as integers: tokens would be dropped."""
        if ref not in self._sources:
            return ()
        found = self._ids.get(ref)
        if found is None:
            ids = (each for each in position_ids(self._sources.file(ref).model) if each.length == _CLIP_LENGTH)
            found = self._ids[ref] = tuple(each.name for each in ids if each.wrong or each.dtype != "int64")
        return found

    def _repaired(self, target: Target) -> list[str]:
        ref = target.inputs[0].ref
        return [f"`{name}` of `{ref}` is not 0 to 76 and is written as that" for name in self._broken_ids(ref)]

    def _widened(self, view: _View, first: _View, target: Target) -> _View:
        """Return an input whose first convolution has as many channels as the first input's: its own, then those.

        So every method finds nothing to merge in channels that the input lacks.
        """
        name = next((name for name in view.specs if name.endswith(_CONV_IN) and name in first.specs), None)
        if name is None:
            return view
        mine, wide = view.specs[name], first.specs[name]
        if len(mine.shape) != 4 or mine.shape[1] >= wide.shape[1] or mine.shape[::2] != wide.shape[::2]:
            return view
        base = target.inputs[0].ref
        while base not in self._sources:
            base = self._recipe.target(base).inputs[0].ref
        ref = view.input.ref
        if ref not in self._sources or mine.dtype != self._sources.file(base).tensors[name].dtype:
            return view  # whose shape is refused then
        models = self._sources.file(ref).model, self._sources.file(base).model
        owner = self._sources.renamed(ref, f"on {base}", widened(*models, name))
        extra = self._intern({Slot(owner): Fraction(1)})
        of = {each: view.kind(each) for each in view.specs} | {name: len(view.palette)}
        specs = {**view.specs, name: mine._replace(shape=wide.shape)}
        return replace(view, specs=specs, palette=(*view.palette, extra), kinds=Kinds(of, specs))

    def _input_specs(self, ref: str, ema: str) -> tuple[Mapping[str, Spec], int]:
        """Return the tensors that an input offers, and how many EMA copies are left behind."""
        made = None if ref in self._sources else self.blueprint(ref).specs
        key = (ref if made is None else id(made), ema)
        found = self._offered.get(key)
        if found is None:
            specs = self._source_specs(ref, ema) if made is None else made
            found = self._offered[key] = _without_averages(specs, ema)
        return found

    def _source_specs(self, ref: str, ema: str) -> Mapping[str, Spec]:
        tensors = self._sources.file(ref).tensors
        specs = {name: _spec(info) for name, info in tensors.items()}
        if ema == "use":
            for name in specs:
                if name.startswith(_EMA_OF) and (copy := tensors.get(EMA(name))) and copy.is_float:
                    specs[name] = _spec(copy)
        for name in self._broken_ids(ref):
            specs[name] = Spec("int64", (1, _CLIP_LENGTH), is_float=False)
        return specs

    def _layout(self, ref: str) -> Layout | None:
        if ref not in self._sources:
            return self.blueprint(ref).layout
        if ref not in self._layouts:
            tensors = self._sources.file(ref).tensors
            shapes = {name: info.shape for name, info in tensors.items()}
            self._layouts[ref] = detect(shapes, self._recipe.layouts)
        return self._layouts[ref]

    def _offer(self, view: _View) -> compatible.Offer:
        ref = view.input.ref
        shown = self._sources.file(ref).shown if ref in self._sources else "(a target)"
        return compatible.Offer(ref, shown, view.layout, view.specs)

    # Numbers

    def selector(self, layout: Layout | None, names: tuple[str, ...]) -> Selector:
        """Return what resolves numbers per tensor over these names, made once."""
        key = (layout.name if layout else None, names)
        found = self._selectors.get(key)
        if found is None:
            found = self._selectors[key] = Selector(layout, names, self._patience)
        return found

    def _select(self, target: Target, which: str, names: Sequence[str], layout: Layout | None) -> frozenset[str]:
        selectors = target.drop if which == "drop" else target.merge or ()
        return self.selector(layout, tuple(names)).select(selectors)

    def _reached(
        self, target: Target, floats: tuple[str, ...], places: Sequence[Places], layout: Layout | None
    ) -> frozenset[str]:
        """Return the tensors that the target's amounts reach; all of them where it has none."""
        amounts = [each for each, default in zip(places, _defaults(target), strict=True) if default is None]
        reached = frozenset().union(*(each.of for each in amounts)) if amounts else frozenset(floats)
        return reached if target.merge is None else reached & self._select(target, "merge", floats, layout)

    def _palette(self, target: Target, alike: _Alike) -> tuple[Form, ...]:
        """Return the form of each kind; equal combinations of equal forms are computed once."""
        views, frame = alike.views, alike.frame
        numbers = [number for each in target.numbers.values() for number in _listed(each)]
        values = [frame.selector.values(*each) for each in zip(numbers, frame.places, strict=True)]
        by_name = target.making.shares_by_name
        palette: list[Form] = []
        for recipe, inputs in zip(frame.recipes, alike.inputs, strict=True):
            if recipe.values is None:
                palette.append(views[recipe.owner].palette[recipe.inputs[0]])
                continue
            reaching = [
                default if index is None else each[index]
                for each, default, index in zip(values, alike.defaults, recipe.values, strict=True)
            ]
            # a fraction is slow to hash
            exact = tuple([each.as_integer_ratio() for each in reaching])
            key = (exact, recipe.name if by_name else "", *map(id, inputs))
            form = frame.forms.get(key)
            if form is None:
                form = frame.forms[key] = self._made_of(target, reaching, recipe.name, inputs, views[0].layout)
            palette.append(form)
        return tuple(palette)

    def _check_depth(self, target: Target, made: Blueprint) -> None:
        """Note how deep the operations of a target go.

        Raises:
            RecipeError: too deep to be computed in one pass.
        """
        operations = [form for form in made.forms.palette if form.operation is not None]
        if not operations:
            return
        depth = 1 + max((self._depths.get(slot.owner, 0) for form in operations for slot in form.slots), default=0)
        if depth > _DEEPEST:
            raise RecipeError.one(
                "too-deep",
                f"target `{target.name}` is computed from more than {_DEEPEST} virtual targets above each other",
                where=target.where.place(),
                help="give one in the middle an `output`: then it is a file, and what reads it begins there",
            )
        if target.is_virtual:
            self._depths[target.name] = depth

    def _made_of(
        self, target: Target, values: Sequence[Fraction], name: str, inputs: Sequence[Form], layout: Layout | None
    ) -> Form:
        """Return the form of what a target's method makes of its inputs with one set of numbers."""
        given = _given(target, values)
        shares = _shares(target, given, name)
        if shares is not None:
            combined = self._combined(shares, inputs)
            _check_digits(target, combined)
            return combined
        method = target.row
        assert method is not None  # a formula has shares
        _check_range(target, method, given, name)
        arguments: dict[str, Argument] = {**given, **target.flags, **_words(target)}
        arguments |= {f"has_{role}": any(each.role == role for each in target.inputs) for role in method.optional}
        arguments |= method.makes.layout_arguments(layout.name if layout else "")
        return Form((), Operation(method, tuple(sorted(arguments.items())), tuple(inputs)))

    def _combined(self, factors: Sequence[Fraction], inputs: Sequence[Form]) -> Form:
        terms: dict[Slot, Fraction] = {}
        for factor, each in zip(factors, inputs, strict=True):
            for slot, coefficient in each.terms:
                share = factor if coefficient == 1 else factor * coefficient
                known = terms.get(slot)
                terms[slot] = share if known is None else known + share
        return self._intern(terms)


def _no_rule(target: Target) -> RecipeError:
    """Return the error of rules of what makes a LoRA, and of rules that would make one."""
    return RecipeError.one(
        "bad-rule",
        f"`{target.name}` makes a LoRA, and rules and components are for the tensors of a model",
        where=target.where.place(),
        help="its numbers may have selectors as keys: `rank = { default = 32, text_encoder = 0 }`",
    )


def _check_lora(target: Target, specs: Mapping[str, Spec]) -> None:
    """Refuse a LoRA without modules, and one that would be a folder and is no adapter of PEFT.

    Raises:
        RecipeError: it is one of these.
    """
    if not specs:
        raise RecipeError.one(
            "nothing-left",
            f"the LoRA that target `{target.name}` makes has no modules",
            where=target.where.place(),
            help="let its rank reach matrices of what they have in common, and drop fewer",
        )
    if target.output is not None and registry.is_folder_text(target.output) and not is_adapter(specs):
        raise RecipeError.one(
            "bad-output",
            f"`output` of target `{target.name}` is a folder, and a LoRA with such names is one file",
            where=target.where.place("output"),
            help="let it end in `.safetensors`; the adapters of PEFT alone are folders",
        )


def _cut(target: Target, numbers: Mapping[str, Argument], rank: str, name: str) -> plans.RankCut:
    """Return how much of a module is kept.

    Raises:
        RecipeError: the rank is no whole number.
    """
    found = _one(numbers[rank])
    if found.denominator != 1:
        raise RecipeError.one(
            "not-whole",
            f"`{rank}` of target `{target.name}` is {_shown(found)} for `{name}`, expected a whole number",
            where=target.where.place(),
            help="ranks are counts; write one for each part, where it is to change over the layers",
        )
    return plans.RankCut(int(found), _one(numbers["energy"]))


def _one(number: Argument) -> Fraction:
    assert isinstance(number, Fraction)  # numbers of a list are one a model
    return number


def _spec_in_lora(made: plans.MadeFactor, dtype: str) -> Spec:
    """Return what a tensor of a LoRA is. The number that scales a module is no weight, and never rounded."""
    return (
        Spec("float32", made.shape, is_float=False) if made.role == "alpha" else Spec(dtype, made.shape, is_float=True)
    )


def _factor(made: plans.MadeFactor, inputs: Sequence[Form], shapes: Sequence[tuple[int, ...]]) -> Form:
    """Return the form of a tensor that is made together with the others of its module."""
    assert made.making is not None
    assert made.role is not None
    arguments: Arguments = (("making", made.making), ("role", made.role))
    return Form((), Operation(FACTOR, arguments, tuple(inputs), tuple(shapes)))


def _unknown_component(target: Target, each: Component, layout: Layout | None) -> RecipeError:
    known = [name for name, _ in layout.components if name != "ema"] if layout else []
    return RecipeError.one(
        "unknown-component",
        f"target `{target.name}` names the component `{each.name}`, "
        + (f"which `{layout.name}` does not have" if layout else "and the layout of its first input is not known"),
        where=target.where.place("components", each.name, key=True),
        help=did_you_mean(each.name, known, otherwise=f"it has: {', '.join(known)}") if known else
        "`[layouts.NAME]` declares a layout with its components",
    )  # fmt: skip


def _disagreements(views: Sequence[_View]) -> list[str]:
    """Return what marks say of some inputs and not of others: a model that predicts v and one that predicts noise."""
    found = [(view.input.ref, marks(view.specs)) for view in views if not view.delta]
    if len({each for _, each in found}) < 2:
        return []
    told = ", ".join(f"`{ref}` {' and '.join(f'`{mark}`' for mark in each) or 'none'}" for ref, each in found)
    return [f"inputs are marked as made for different predictions, and a mix of them is noise: {told}"]


def _spec(info: TensorInfo) -> Spec:
    return Spec(info.dtype, info.shape, info.is_float)


def _without_averages(specs: Mapping[str, Spec], ema: str) -> tuple[Mapping[str, Spec], int]:
    """Return what of some tensors a target sees, and how many EMA copies it leaves behind without using them."""
    if ema == "keep":
        return specs, 0
    kept = {name: spec for name, spec in specs.items() if not name.startswith(EMA_PREFIX)}
    return kept, (len(specs) - len(kept) if ema == "drop" else 0)


# Numbers


def _listed(number: NumberPerTensor | tuple[NumberPerTensor, ...]) -> tuple[NumberPerTensor, ...]:
    return number if isinstance(number, tuple) else (number,)


def _structures(numbers: Mapping[str, NumberPerTensor | tuple[NumberPerTensor, ...]]) -> Hashable:
    return tuple(
        (name, isinstance(number, tuple), *map(structure, _listed(number))) for name, number in numbers.items()
    )


def _items(found: Mapping[str, object]) -> Hashable:
    return tuple(sorted(found.items()))


LIKENESS = Likeness(
    Target,
    left_out={
        "name": "in messages alone",
        "output": "a path",
        "output_path": "a path",
        "dtype": "a frame's tensors are in the first input's dtypes, and rounded for each target",
        "nonfinite": "what is done with values, not how they are made",
        "metadata": "in the header alone",
        "cache": "whether something is kept, not what it is",
        "where": "a place in a file is for messages",
        "config": "what stands beside the tensors",
        "max_shard_size": "which tensors share a file",
        "components": "come over what the frame gives, for each target",
        "on_channels": "decides which tensors an input's view has, and the view is in the key",
        "rules": "each rule is a target with a frame of its own",
        "row": "what `method` names, and a recipe has one of each name",
        "kin": "stands for the other fields",
    },
    seen_as={
        "inputs": lambda inputs: tuple(each.role for each in inputs),  # the rest of an input is its view
        "numbers": _structures,  # the values are put into the frame
        "flags": _items,
        "words": _items,
        "formula": lambda formula: formula.text if formula else "",
    },
)
"""What of a target, beside its inputs and the values of its numbers, decides how tensors are made."""


def _places(target: Target, selector: Selector) -> tuple[Places, ...]:
    """Return which value of each number reaches each tensor.

    Raises:
        RecipeError: with what is wrong with any of the numbers.
    """
    found: list[Places] = []
    problems: list[Problem] = []
    for number in target.numbers.values():
        for each in _listed(number):
            try:
                found.append(selector.places(each))
            except RecipeError as error:
                problems.extend(error.problems)
    if problems:
        raise RecipeError(problems)
    return tuple(found)


def _sorted_into_kinds(
    target: Target,
    specs: Mapping[str, Spec],
    views: Sequence[_View],
    combined: set[str],
    places: Sequence[Places],
) -> tuple[Kinds, tuple[_KindPlan, ...]]:
    """Return the kinds of a target's tensors, in the order of the first tensor of each, and how each is made."""
    by_name = target.making.shares_by_name
    of: dict[str, int] = {}
    recipes: dict[tuple[object, ...], _KindPlan] = {}
    numbers: dict[tuple[object, ...], int] = {}
    for name in specs:
        if name in combined:
            inputs = tuple(view.kind(name) for view in views)
            values = tuple(each.of.get(name) for each in places)
            key: tuple[object, ...] = (inputs, values, name if by_name else "")
            recipe = _KindPlan(inputs, values, name)
        else:
            owner = next(index for index, view in enumerate(views) if name in view.specs)
            key = (owner, views[owner].kind(name))
            recipe = _KindPlan((views[owner].kind(name),), None, name, owner)
        recipes.setdefault(key, recipe)
        of[name] = numbers.setdefault(key, len(numbers))
    return Kinds(of, specs), tuple(recipes.values())


def _words(target: Target) -> Mapping[str, Fraction | str]:
    """Return a target's words and whole numbers, these as fractions."""
    return {key: Fraction(word) if isinstance(word, int) else word for key, word in target.words.items()}


def _defaults(target: Target) -> list[Fraction | None]:
    """Return the method's default of each number, those of a list one by one; None where it has none."""
    method = target.row
    found: list[Fraction | None] = []
    for name, number in target.numbers.items():
        parameter = method.parameter(name) if method else None
        default = parameter.default if parameter else None
        found += [default if isinstance(default, Fraction) else None] * len(_listed(number))
    return found


def _given(target: Target, values: Sequence[Fraction]) -> dict[str, Fraction | tuple[Fraction, ...]]:
    """Return one set of a target's numbers by parameter; they stand in the order of the target's."""
    given: dict[str, Fraction | tuple[Fraction, ...]] = {}
    at = 0
    for parameter, number in target.numbers.items():
        some = tuple(values[at : at + len(_listed(number))])
        at += len(some)
        given[parameter] = some if isinstance(number, tuple) else some[0]
    return given


def _check_range(target: Target, method: Method, given: Mapping[str, Argument], name: str) -> None:
    """Refuse numbers that the method is not defined for.

    Raises:
        RecipeError: one is below or above what the catalog allows.
    """
    for parameter in method.parameters:
        value = given.get(parameter.name)
        for each in value if isinstance(value, tuple) else (value,):
            low, high = parameter.low, parameter.high
            if not isinstance(each, Fraction) or ((low is None or each >= low) and (high is None or each <= high)):
                continue
            bounds = (
                f"from {_shown(low)} to {_shown(high)}"
                if low is not None and high is not None
                else (f"at least {_shown(low)}" if low is not None else f"at most {_shown(high or _ZERO)}")
            )
            raise RecipeError.one(
                "out-of-range",
                f"`{parameter.name}` of target `{target.name}` is {_shown(each)} for `{name}`, expected {bounds}",
                where=target.where.place(),
                help=f"`mergebuild methods {method.name}` says what it means",
            )


def _shares(target: Target, given: Numbers, name: str) -> tuple[Fraction, ...] | None:
    """Return the coefficients of the inputs whose sum a tensor is; None where it is no combination of them.

    Raises:
        RecipeError: there are none for these numbers.
    """
    try:
        return target.making.shares(len(target.inputs), given, target.flags, name)
    except (UndefinedError, ZeroDivisionError, OverflowError) as error:
        why = "it divides by 0" if isinstance(error, ZeroDivisionError) else str(error)
        raise RecipeError.one(
            "undefined",
            f"target `{target.name}` has no value for `{name}`: {why}",
            where=target.where.place(),
            rows=tuple(f"{parameter} = {_shown(value)}" for parameter, value in given.items()),
            help="change the numbers that reach it",
        ) from error


def _check_digits(target: Target, form: Form) -> None:
    """Refuse proportions that a long chain has made unwieldy: each target of it adds digits to all that follow.

    Raises:
        RecipeError: one has more than 3000 digits.
    """
    for _, coefficient in form.terms:
        if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > _MOST_BITS:
            raise RecipeError.one(
                "too-many-digits",
                f"the proportions of sources in target `{target.name}` have more than 3000 digits",
                where=target.where.place(),
                help="give a target in the middle of the chain an `output`, or use numbers with fewer digits",
            )


def _shown(value: Fraction | tuple[Fraction, ...]) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
