"""LoRAs as inputs of methods for models: `copy` and `scale` keep them LoRAs, all other methods refuse them.

The tensors of a LoRA are factors of products, and the scale may be in a configuration beside them. A sum of two LoRAs'
tensors does not do what both LoRAs do, so methods for models refuse LoRAs; `copy` and `scale` handle them correctly.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from mergebuild.errors import MismatchError, RecipeError
from mergebuild.fold.compatible import Spec
from mergebuild.fold.forms import Blueprint, Form, Forms, Kinds, rounded
from mergebuild.fold.interning import Interner
from mergebuild.fold.lora_added import AddedLoras
from mergebuild.fold.lora_made import check_lora, no_rule
from mergebuild.fold.numbers import given_of, places_of, shares_of, shown, values_of
from mergebuild.fold.selection import TensorSelection, Vocabulary
from mergebuild.fold.view import View
from mergebuild.fold.views import Views
from mergebuild.layouts import detect
from mergebuild.lora import KeptModule, UnscalableError, is_number, kept_modules, scaled
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Input, Target

__all__ = ["KeptLoras"]

_ONE: Final = Fraction(1)
_INSTEAD: Final = (
    "`add_lora` bakes LoRAs into a model, `merge_loras` puts them together, `resize_lora` changes their rank;"
    " `copy` and `scale` keep what they mean"
)


class KeptLoras:
    """Makes the blueprints of LoRAs that are copied or scaled."""

    def __init__(
        self, recipe: Recipe, intern: Interner, views: Views, added: AddedLoras, selection: TensorSelection
    ) -> None:
        self._recipe = recipe
        self._intern = intern
        self._views = views
        self._added = added
        self._selection = selection

    def blueprint(self, target: Target) -> Blueprint | None:
        """Return the blueprint of a target that copies or scales a LoRA; None if its inputs are models.

        Raises:
            RecipeError: its method is for models, and an input is a LoRA (`lora-as-model`).
            MismatchError: scaling the LoRA's tensors can't scale its delta (`lora-not-scalable`).
        """
        loras = [each for each in target.inputs if self._is_misplaced(each, target)]
        if not loras:
            return None
        if not target.making.keeps_loras:
            raise _as_model(target, loras[0])
        if target.rules or target.components:
            raise no_rule(target)
        return self._kept(target, loras[0])

    def refuse(self, target: Target) -> None:
        """Check that a rule's inputs and components are no LoRAs.

        Raises:
            RecipeError: one is.
        """
        components = (each.input for each in target.components if each.input is not None)
        for each in (*(each for each in target.inputs if self._is_misplaced(each, target)), *components):
            if self._added.is_lora(each.ref):
                raise _as_model(target, each)

    def _is_misplaced(self, each: Input, target: Target) -> bool:
        """Whether an input is a LoRA that the method would treat as a model."""
        making = target.making
        return not making.adds_lora(each.role) and not making.reads_loras and self._added.is_lora(each.ref)

    def _kept(self, target: Target, lora: Input) -> Blueprint:
        tensors, config, _ = self._added.tensors(lora.ref)
        modules = kept_modules(tensors)
        weights = {each.weight: tuple(tensors[each.tensors[0]].shape) for each in modules}
        names = tuple(weights)
        words = Vocabulary(detect(weights, self._recipe.layouts))
        dropped = self._selection.select(target, "drop", words, names) if target.drop else frozenset()
        shares = self._shares(target, words, names)
        view = self._views.view(lora, target)
        made: dict[str, tuple[Spec, Form]] = {}
        for module in modules:
            if module.weight not in dropped:
                made |= self._module(target, view, module, shares.get(module.weight, _ONE))
        specs = {name: made[name][0] for name in view.specs if name in made}
        check_lora(target, specs, config)
        numbers: dict[Form, int] = {}
        kinds = Kinds({name: numbers.setdefault(made[name][1], len(numbers)) for name in specs}, specs)
        own = rounded(specs, target.dtype)
        return Blueprint(target, None, specs, own, Forms(kinds, tuple(numbers)), is_lora=True, adapter=config)

    def _module(self, target: Target, view: View, module: KeptModule, factor: Fraction) -> dict[str, tuple[Spec, Form]]:
        """Return the tensors of a module, scaled so that it adds `factor` times as much as before."""
        made: dict[str, tuple[Spec, Form]] = {}
        for name, share in _scaled(target, module, factor).items():
            spec = view.specs[name]
            spec = spec._replace(is_float=spec.is_float and not is_number(name))
            made[name] = spec, self._intern.combined([share], [view.palette[view.kind(name)]])
        return made

    def _shares(self, target: Target, words: Vocabulary, names: tuple[str, ...]) -> Mapping[str, Fraction]:
        """Return the factors of modules, by the names of their weights; absent ones have the factor 1."""
        selector = self._selection.selector(words, names)
        places = places_of(target, selector)
        values = values_of(target, selector, places)
        found: dict[str, Fraction] = {}
        for name in self._selection.reached(target, selector, places):
            reaching = [each[place.of[name]] for each, place in zip(values, places, strict=True)]
            shares = shares_of(target, given_of(target, reaching), name)
            assert shares is not None
            (found[name],) = shares
        return found


def _scaled(target: Target, module: KeptModule, share: Fraction) -> Mapping[str, Fraction]:
    """Return the factors of the tensors of a module.

    Raises:
        MismatchError: it can't be scaled.
    """
    try:
        return scaled(module, share)
    except UnscalableError as error:
        raise MismatchError.one(
            "lora-not-scalable",
            f"target `{target.name}` scales `{error.tensor}` of a LoRA by {shown(share)}, and {error.why}",
            where=target.where.place(),
            help="copy it, and give `strength` to the `add_lora` that adds it",
        ) from None


def _as_model(target: Target, lora: Input) -> RecipeError:
    """Return the error for a LoRA in place of a model."""
    method = "the formula" if target.formula else f"`{target.method}`"
    return RecipeError.one(
        "lora-as-model",
        f"`{lora.ref}` is a LoRA, and {method} of target `{target.name}` is for models",
        where=lora.where.place(),
        help=_INSTEAD,
    )
