"""LoRAs that are made: extracted from two models, merged, or resized. Their tensors have names that no input has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import RecipeError
from mergebuild.fold import compatible
from mergebuild.fold.counterparts import Accounting, Side, Spec, bytes_of
from mergebuild.fold.forms import Behind, Blueprint, Form, Forms, Kinds, Operation, rounded
from mergebuild.fold.interning import Interner
from mergebuild.fold.lora_added import AddedLoras
from mergebuild.fold.numbers import shown
from mergebuild.fold.selection import TensorSelection, Vocabulary
from mergebuild.fold.units import Unit, Units, stacked_in, units_in
from mergebuild.fold.view import View
from mergebuild.fold.views import Views
from mergebuild.formats import registry
from mergebuild.layouts import detect
from mergebuild.lora import Module, adapter_json, extractable, is_adapter, is_number, is_of_peft, plans, products_of
from mergebuild.methods.arguments import Argument, Arguments
from mergebuild.methods.making import ExtractedLora, Making, MergedLoras
from mergebuild.methods.tables.lora import FACTOR
from mergebuild.naming.canonical import is_constant
from mergebuild.naming.memory import in_memory, is_transposed
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Target
from mergebuild.sources.sources import Sources

__all__ = ["MadeLoras", "check_lora", "no_rule"]


class _LoraTensors(NamedTuple):
    """The tensors of a new LoRA."""

    made: Sequence[tuple[str, Spec, Form]]
    """For each its name, its dtype and shape, and its form."""
    accounts: tuple[Accounting, ...] = ()
    """Comparisons with the inputs of which something takes no part."""
    turned_by: Mapping[str, object] | None = None
    """The model's configuration, if some of its matrices are the transposes of the LoRA's modules."""
    behind: Behind | None = None
    """The part of the difference between the models that the LoRA does not contain."""


_TEXT, _OLD_TEXT, _TURNED = "model.", "language_model.model.", "transposed."


class _LoraParts(NamedTuple):
    """The tensors from which LoRAs are extracted."""

    shapes: Mapping[str, tuple[int, ...]]
    """By name: parameters, and stored tensors that are several parameters."""
    called: Mapping[str, str]
    """Their names in clients' memory, if these differ."""
    units: Mapping[str, Unit]
    """Those that are several parameters."""
    stacked: frozenset[str]
    """Parameters that the file stores stacked, several in one tensor. They are no modules, so no LoRA can change
    them."""
    forms: tuple[Mapping[str, Form], ...] = ()
    """For each model: the forms of the units."""

    def parameters(self, module: Module) -> tuple[str, ...]:
        """Return the parameters in a module."""
        return self.units[module.tensor].members if module.tensor in self.units else (module.tensor,)

    def first(self, module: Module) -> str:
        """Return the parameter that a module is, or the first of those."""
        return self.parameters(module)[0]


class MadeLoras:
    """Makes the blueprints of targets that make LoRAs."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        intern: Interner,
        views: Views,
        added: AddedLoras,
        selection: TensorSelection,
    ) -> None:
        self._sources = sources
        self._units = Units(sources, intern)
        self._recipe = recipe
        self._intern = intern
        self._views = views
        self._added = added
        self._selection = selection
        self._makers: Mapping[type[Making], Callable[[Target], _LoraTensors]] = {
            ExtractedLora: self._extracted,
            MergedLoras: self._merged,
        }
        """By how the LoRA is made: a function that returns its tensors."""

    def blueprint(self, target: Target) -> Blueprint:
        """Return the blueprint of a target that makes a LoRA; each of its tensors is a kind of its own."""
        if target.rules or target.components:
            raise no_rule(target)
        made, accounts, turned_by, behind = self._makers[type(target.making)](target)
        specs = {name: spec for name, spec, _ in made}
        assert len(specs) == len(made), "two modules have one name"
        check_lora(target, specs)
        kinds = Kinds({name: kind for kind, name in enumerate(specs)}, specs)
        forms = Forms(kinds, tuple(form for _, _, form in made))
        own = rounded(specs, target.dtype)
        adapter = None
        if turned_by is not None:
            adapter = json.loads(adapter_json({name: spec.shape for name, spec in specs.items()}, turned_by))
        return Blueprint(target, None, specs, own, forms, accounts, behind=behind, is_lora=True, adapter=adapter)

    def _extracted(self, target: Target) -> _LoraTensors:
        """Return the tensors of an extracted LoRA."""
        base, tuned = (self._views.view(each, target) for each in target.inputs)
        tuned = self._views.beside(tuned, base)
        views = [base, tuned]
        floats = tuple(name for name, spec in base.specs.items() if spec.is_float)
        words = self._selection.vocabulary(views)
        numbers_of = self._selection.numbers(target, words, floats)
        chosen = self._selection.chosen(target, words, floats)
        parts = self._parts(views, {name: base.specs[name].shape for name in floats if name in chosen})
        modules = extractable(parts.shapes, called=parts.called)
        cuts = {
            each.tensor: _cut(
                target, numbers_of(parts.first(each)), "conv_rank" if each.has_kernel else "rank", each.tensor
            )
            for each in modules
        }
        asked = [each for each in modules if cuts[each.tensor].rank]
        both = [each for each in asked if _has_float(tuned, parts.first(each))]
        self._check_both(target, views, [name for each in both for name in parts.parameters(each)])
        wanted, there = ([name for each in some for name in parts.parameters(each)] for some in (asked, both))
        account = _account(base, tuned, wanted, there, _only_tuned(base, tuned) if target.merge is None else ())
        found: list[tuple[str, Spec, Form]] = []
        for module in both:
            clamp = _one(numbers_of(parts.first(module))["clamp_quantile"])
            found += self._factors(target, views, parts, module, cuts[module.tensor], clamp)
        turned_by = self._facts(base.input.ref) if any(unit.turned for unit in parts.units.values()) else None
        modular = {name for each in modules for name in parts.parameters(each)}
        left = [name for name in floats if name in chosen and name in tuned.specs and name not in modular]
        behind = Behind(
            base.input.ref, tuned.input.ref, tuple(there), tuple(left), parts.stacked, base.specs, base.spelling
        )
        return _LoraTensors(found, () if account.is_even else (account,), turned_by, behind)

    def _check_both(self, target: Target, views: Sequence[View], names: Sequence[str]) -> None:
        """Refuse models of which these parameters have several shapes, and models of different layouts."""
        base, tuned = views
        unequal = {name: (0, 1) for name in names if base.specs[name].shape != tuned.specs[name].shape}
        offers = [self._views.offer(each) for each in views]
        compatible.check_shapes(target, offers, unequal)
        compatible.check_layouts(target, offers)

    def _factors(
        self,
        target: Target,
        views: Sequence[View],
        parts: _LoraParts,
        module: Module,
        cut: plans.RankCut,
        clamp: Fraction,
    ) -> Iterator[tuple[str, Spec, Form]]:
        """Yield the tensors that a LoRA has for a module, extracted from the difference of the models there."""
        base_form, tuned_form = self._sides(views, parts, module)
        difference = self._intern.combined([Fraction(1), Fraction(-1)], [tuned_form, base_form])
        dtype = views[0].specs[parts.first(module)].dtype
        given = target.words
        svd = (int(given["seed"]), int(given["iterations"])) if given["svd"] == "randomized" else None
        for each in plans.extracted(module, cut, clamp, svd):
            yield each.name, _spec_in_lora(each, dtype), _factor(each, [difference], [parts.shapes[module.tensor]])

    def _parts(self, views: Sequence[View], shapes: Mapping[str, tuple[int, ...]]) -> _LoraParts:
        """Return the tensors from which LoRAs are extracted.

        For a language model they are its modules in memory, not its parameters.
        """
        base = views[0]
        if any(each.style != "peft" for each in extractable(shapes)):
            return _LoraParts(shapes, {}, {}, frozenset())
        stacked = stacked_in(base.spelling).intersection(shapes)
        facts = self._facts(base.input.ref)
        found = [each for each in units_in(base.spelling, shapes) if stacked.isdisjoint(each.members)]
        units = {each.name: each for each in (*found, *_turned_units(shapes, facts))}
        forms = tuple(self._units.forms(view, list(units.values())) for view in views)
        # A unit whose pieces have several dtypes, or are incomplete, is no module: it is left out, and reported.
        inside = stacked.union(*(unit.members for unit in units.values()))
        units = {name: unit for name, unit in units.items() if all(name in some for some in forms)}
        left = {name: shape for name, shape in shapes.items() if name not in inside}
        called = {name: in_memory(name, base.spelling.stored(name), facts) for name in left}
        called |= _called_in_memory(units.values(), base, facts)
        whole = {name: unit.shape for name, unit in units.items()}
        return _LoraParts({**left, **whole}, called, units, stacked, forms)

    def _sides(self, views: Sequence[View], parts: _LoraParts, module: Module) -> list[Form]:
        """Return the form of a module in each of the models."""
        if module.tensor in parts.units:
            return [forms[module.tensor] for forms in parts.forms]
        return [self._intern.under(view.palette[view.kind(module.tensor)], module.tensor) for view in views]

    def _facts(self, ref: str) -> Mapping[str, object] | None:
        """Return the configuration of a model, or of the source that a target is based on."""
        contents = self._sources.file(self._recipe.beginning(ref)).model.contents
        return contents.config if contents is not None else None

    def _merged(self, target: Target) -> _LoraTensors:
        """Return the tensors of merged LoRAs, or of a resized one."""
        loras = self._loras(target)
        weights = plans.weights_of(loras)
        words = Vocabulary(detect(dict(weights.values()), self._recipe.layouts))
        names = tuple(name for name, _ in weights.values())
        numbers_of = self._selection.numbers(target, words, names)
        chosen = self._selection.chosen(target, words, names)
        first, *others = loras
        lacking = [[one for one in first.products.modules if one not in each.products.modules] for each in others]
        compatible.check_modules(target, [each.name for each in others], lacking)

        def amounts_of(module: str) -> plans.Amounts:
            name, _ = weights[module]
            numbers = numbers_of(name)
            strengths = numbers.get("strength", (Fraction(1),))
            assert isinstance(strengths, tuple)
            return plans.Amounts(strengths, _cut(target, numbers, "rank", name))

        modules = [module for module, (name, _) in weights.items() if name in chosen]
        return _LoraTensors([self._merged_tensor(loras, each) for each in plans.merged(loras, amounts_of, modules)])

    def _loras(self, target: Target) -> list[plans.Lora]:
        """Return the inputs of a target as LoRAs; refuse those that are not for one kind of model."""
        found: list[plans.Lora] = []
        for each in target.inputs:
            tensors, config, shown = self._added.tensors(each.ref)
            found.append(plans.Lora(each.ref, tensors, products_of(tensors, config, shown=shown)))
        if len(found) > 1:
            plans.check(found, target.where.place())
        return found

    def _merged_tensor(self, loras: Sequence[plans.Lora], made: plans.MadeFactor) -> tuple[str, Spec, Form]:
        """Return a tensor of LoRAs put together, with how it is made."""
        inputs = [self._added.form(loras[index].name, name) for index, name in made.reads]
        index, first = next(((index, name) for index, name in made.reads if name == made.name), made.reads[0])
        spec = _spec_in_lora(made, loras[index].tensors[first].dtype)
        shapes = [tuple(loras[index].tensors[name].shape) for index, name in made.reads]
        form = self._intern.combined(made.shares, inputs) if made.role is None else _factor(made, inputs, shapes)
        return made.name, spec, form


def _turned_units(shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, object] | None) -> Iterator[Unit]:
    """Yield matrices that programs have in memory as the transposes of the stored ones, as units."""
    for name, shape in shapes.items():
        if len(shape) == 2 and is_transposed(name, facts):
            yield Unit(f"{_TURNED}{name}", shape[::-1], ((name, 0, shape[0]),), shape[1:], turned=True)


def _called_in_memory(units: Iterable[Unit], base: View, facts: Mapping[str, object] | None) -> dict[str, str]:
    """Return the names that programs have for units in memory, if these are other names."""
    called: dict[str, str] = {}
    for unit in units:
        name = unit.members[0] if unit.turned else f"{_TEXT}{unit.name.removeprefix(_OLD_TEXT)}"
        if unit.turned or unit.name.startswith(_OLD_TEXT):
            stored = base.spelling.stored(name) if unit.turned else unit.name
            called[unit.name] = in_memory(name, stored, facts)
    return called


def _has_float(view: View, name: str) -> bool:
    """Whether an input has a tensor, of floating-point numbers."""
    return name in view.specs and view.specs[name].is_float


def _only_tuned(base: View, tuned: View) -> tuple[str, ...]:
    """Return the matrices that only the tuned model has: a LoRA for the other model can't contain them."""
    return tuple(
        name
        for name, spec in tuned.specs.items()
        if spec.is_float and len(spec.shape) > 1 and name not in base.specs and not is_constant(name, spec.shape)
    )


def _account(base: View, tuned: View, asked: Sequence[str], both: Sequence[str], left: tuple[str, ...]) -> Accounting:
    """Return how much takes part in an extraction.

    Args:
        base: The model that the LoRA is for.
        tuned: The other model.
        asked: The weights asked for.
        both: Those that both models have.
        left: Weights that only the tuned model has.
    """
    there = set(both)
    apart = tuple(name for name in asked if name not in there)
    taken = bytes_of(base.specs, both)
    return Accounting(
        Side(base.input.ref, base.layout, base.specs, bytes_of(base.specs, asked), taken, apart),
        Side(
            tuned.input.ref,
            tuned.layout,
            tuned.specs,
            bytes_of(tuned.specs, [*both, *left]),
            bytes_of(tuned.specs, both),
            left,
        ),
        is_copied=False,
    )


def no_rule(target: Target) -> RecipeError:
    """Return the error for rules and components of a target that makes a LoRA, and for rules that would make one."""
    return RecipeError.one(
        "bad-rule",
        f"`{target.name}` makes a LoRA, and rules and components are for the tensors of a model",
        where=target.where.place(),
        help="its numbers may have selectors as keys: `rank = { default = 32, text_encoder = 0 }`",
    )


def check_lora(target: Target, specs: Mapping[str, Spec], config: Mapping[str, object] | None = None) -> None:
    """Check that a LoRA has modules, and that one written as a folder is an adapter of PEFT.

    `config`: its own configuration, if it has one.

    Raises:
        RecipeError: it has none, or is not.
    """
    if not specs:
        raise _nothing_left(target)
    is_peft = is_of_peft(specs) if config is not None else is_adapter(specs) and not any(map(is_number, specs))
    if target.output is not None and registry.is_folder_text(target.output) and not is_peft:
        raise _no_folder(target)


def _nothing_left(target: Target) -> RecipeError:
    """Return the error for a LoRA without modules."""
    return RecipeError.one(
        "nothing-left",
        f"the LoRA that target `{target.name}` makes has no modules",
        where=target.where.place(),
        help="let its rank reach matrices of what they have in common, and drop fewer",
    )


def _no_folder(target: Target) -> RecipeError:
    """Return the error for a folder as the output of a LoRA that is no adapter of PEFT."""
    return RecipeError.one(
        "bad-output",
        f"`output` of target `{target.name}` is a folder, and a LoRA with such names is one file",
        where=target.where.place("output"),
        help="let it end in `.safetensors`; the adapters of PEFT alone are folders",
    )


def _cut(target: Target, numbers: Mapping[str, Argument], rank: str, name: str) -> plans.RankCut:
    """Return how much of a module is kept.

    Raises:
        RecipeError: the rank is not a whole number.
    """
    found = _one(numbers[rank])
    if found.denominator != 1:
        raise RecipeError.one(
            "not-whole",
            f"`{rank}` of target `{target.name}` is {shown(found)} for `{name}`, expected a whole number",
            where=target.where.place(),
            help="ranks are counts; write one for each part, where it is to change over the layers",
        )
    return plans.RankCut(int(found), _one(numbers["energy"]))


def _one(number: Argument) -> Fraction:
    assert isinstance(number, Fraction)  # numbers of a list are one a model
    return number


def _spec_in_lora(made: plans.MadeFactor, dtype: str) -> Spec:
    """Return the dtype and shape of a LoRA's tensor.

    The number that scales a module is not a weight, and is never rounded.
    """
    return (
        Spec("float32", made.shape, is_float=False) if made.role == "alpha" else Spec(dtype, made.shape, is_float=True)
    )


def _factor(made: plans.MadeFactor, inputs: Sequence[Form], shapes: Sequence[tuple[int, ...]]) -> Form:
    """Return the form of a tensor that is made together with the other tensors of its module."""
    assert made.making is not None
    assert made.role is not None
    arguments: Arguments = (("making", made.making), ("role", made.role))
    return Form((), Operation(FACTOR, arguments, tuple(inputs), tuple(shapes)))
