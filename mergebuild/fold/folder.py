"""`Folding`: from targets to exact forms over source tensors, from headers alone.

A chain of linear targets becomes one combination: virtual targets fold away, while sources and file targets stay slots.
The result of an operation of a virtual target is a slot for the targets that read it, not rounded. So is a LoRA's
delta, which counts as the result of a virtual target that no recipe names.

`Folding.blueprint` returns a target's tensors with dtypes, shapes and forms, and refuses inputs that don't fit together
before any tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import RecipeError
from mergebuild.fold import compatible
from mergebuild.fold.channels import FittedChannels
from mergebuild.fold.counterparts import Accounting, Spec
from mergebuild.fold.division import Divisions
from mergebuild.fold.draft import ALL, Frame, FrameDraft, KindPlan, Pattern, Scope
from mergebuild.fold.experts import ExpertStacks, no_part
from mergebuild.fold.forms import Blueprint, Form, Forms, Kin, Operation, Slot
from mergebuild.fold.frames import Frames
from mergebuild.fold.interning import Interner
from mergebuild.fold.lora_added import AddedLoras
from mergebuild.fold.lora_kept import KeptLoras
from mergebuild.fold.lora_made import MadeLoras, no_rule
from mergebuild.fold.numbers import (
    check_digits,
    check_range,
    defaults_of,
    given_of,
    reaching,
    shares_of,
    structures,
    values_of,
    words_of,
)
from mergebuild.fold.selection import TensorSelection
from mergebuild.fold.stacks import CutSlice, Stacks, scopes_of
from mergebuild.fold.token_rows import OrderedRows, embedding_rows, tokens_of_loras
from mergebuild.fold.units import Units
from mergebuild.fold.view import View, disagreements
from mergebuild.fold.views import Views
from mergebuild.fold.vocabularies import TokenVocabulary, Vocabularies
from mergebuild.layouts import Layout, Selector
from mergebuild.methods.arguments import Argument, Arguments
from mergebuild.methods.method import Method
from mergebuild.naming.latents import AUTOENCODER
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Target
from mergebuild.sources.source_file import source_of_part
from mergebuild.sources.sources import Sources

__all__ = ["Folding"]

_ZERO = Fraction(0)
_DEEPEST = 100
"""The longest chain of operations, each of which needs the result of the one before, that one pass computes in
memory."""


class _Alike(NamedTuple):
    """All that targets have in common that differ only in names, outputs and the values of their numbers."""

    views: tuple[View, ...]
    frame: Frame
    specs: Mapping[str, Spec]
    accounts: tuple[Accounting, ...]
    ema_dropped: Mapping[str, int]
    warnings: tuple[str, ...]
    """These four are as in a blueprint."""
    defaults: Sequence[Fraction]
    """The method's default of each number, those of a list one by one; 0 if it has none."""
    inputs: tuple[tuple[Form, ...], ...]
    """By kind, the inputs' forms of which the method makes its tensors; empty if they are just an input's."""
    autoencoder: tuple[int, ...]
    """The kinds of an autoencoder's tensors."""
    latents: tuple[frozenset[str], ...]
    """By input, the models whose latents its autoencoder makes, if known."""
    kin: dict[tuple[tuple[Slot, ...], ...], Kin]
    """`Blueprint.kin` by the slots of each kind: a coefficient of 0 removes a slot."""


class _Kindred(NamedTuple):
    """A cache entry for targets that differ only in names, outputs and the values of their numbers."""

    of: object
    """Their `Target.kin`, kept alive because the cache finds this by its identity; None for a single target."""
    views: tuple[View, ...]
    draft: FrameDraft
    alike: dict[Pattern, _Alike]
    """By which inputs they use in which situation."""


class Folding:
    """Makes blueprints for the targets of a recipe, each once."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        self._recipe = recipe
        self._sources = sources
        self._intern = Interner()
        self._blueprints: dict[str, Blueprint] = {}
        self._views = Views(recipe, sources, self._intern, self.blueprint)
        self._selection = TensorSelection(self._views.parts)
        self._frames = Frames(self._views, self._selection)
        self._channels = FittedChannels(recipe, sources, self._intern)
        self._divisions = Divisions(self._intern, self._views, self._frames, self._selection)
        self._stacks = Stacks(self._intern, self._frames, self._selection)
        self._added = AddedLoras(sources, self._intern, self._blueprints, self.blueprint)
        self._made_loras = MadeLoras(recipe, sources, self._intern, self._views, self._added, self._selection)
        self._kept_loras = KeptLoras(recipe, self._intern, self._views, self._added, self._selection)
        self._units = Units(sources, self._intern)
        self.vocabularies = Vocabularies(recipe, sources, self._rows_of)
        self._expert_stacks = ExpertStacks(recipe, sources, self._intern, self._views, self.vocabularies)
        self._rows = OrderedRows(self._intern, self._views, self._blueprints, self.vocabularies)
        self._depths: dict[str, int] = {}
        """By virtual target with operations, or that is rounded: how many are on top of each other in it."""
        self._kindred: dict[tuple[object, ...], _Kindred] = {}

    def blueprint(self, name: str) -> Blueprint:
        """Return the blueprint of a target.

        Raises:
            SourceError: a source is missing or unreadable.
            RecipeError: a selector selects nothing, or the method has no value for the numbers given.
            MismatchError: the inputs don't fit together.
        """
        if name not in self._blueprints:
            for each in self._recipe.below(name):  # the deepest first, so that long chains don't overflow the stack
                if each not in self._blueprints:
                    self._blueprints[each] = self._checked(self._recipe.target(each))
        return self._blueprints[name]

    def _checked(self, target: Target) -> Blueprint:
        """Return the blueprint of a target, checked: most of each input takes part, and it is not too deep."""
        made = self._made(target)
        compatible.check_accounts(target, made.accounts)
        self._check_depth(target, made)
        return made

    def selector(self, name: str) -> Selector:
        """Return what says which of its numbers reaches which tensor of a target without rules and components."""
        return self._alike_of(self._recipe.target(name), ALL).frame.selector

    def is_virtual(self, ref: str) -> bool:
        """Whether an input is a target without an output, named in the recipe or not."""
        return self.is_unnamed(ref) or (ref not in self._sources and self._recipe.target(ref).is_virtual)

    def is_unnamed(self, owner: str) -> bool:
        """Whether an owner of slots is the result of a virtual target that no recipe names.

        It is a LoRA's delta, or an input's rows of tokens.
        """
        return owner in self._added or owner in self._rows

    def ordered_for(self, owner: str) -> str | None:
        """Return the target in whose order of tokens an owner of slots has rows; None if it is no such owner."""
        return self._rows.owners[owner][0] if owner in self._rows else None

    def tokens_of(self, ref: str) -> TokenVocabulary:
        """Return the tokens of a source or target, or those in whose order rows are.

        Raises:
            SourceError: there is no `tokenizer.json`, or one that can't be used.
        """
        if ref in self._rows:
            return self.vocabularies.said(self._rows.owners[ref][1])
        return self.vocabularies.of(ref)

    def is_delta(self, owner: str) -> bool:
        """Whether an owner of slots is a LoRA's delta."""
        return owner in self._added

    def is_leaf(self, owner: str) -> bool:
        """Return whether an owner of slots is a source, a part of a source, or not named in the recipe."""
        return owner in self._sources or self.is_unnamed(owner)

    def known_as(self, owner: str) -> str:
        """Return the name of an owner in the recipe; a LoRA's delta has the LoRA's name, and rows their input's."""
        if self.is_unnamed(owner):
            return owner.rpartition("@")[0]
        return source_of_part(owner) if owner in self._sources else owner

    def programs(self, name: str) -> tuple[Method, ...]:
        """Return the user's own methods that run when a target is made."""
        return self._recipe.programs(name)

    def _made(self, target: Target) -> Blueprint:
        """Return the blueprint of a target, including the parts that its rules and components make."""
        if target.slices:
            return self._stacked(target)
        kept = self._kept_loras.blueprint(target)
        if target.tokenizer is not None and (kept is not None or target.making.makes_lora):
            raise tokens_of_loras(target)
        if kept is not None:
            return kept
        if target.making.makes_experts:
            return self._expert_stacks.blueprint(target)
        if not target.rules and not target.components:
            return self._make(target)
        self._check_is_model(target)
        division = self._divisions.of(target, self._views_of(target))
        made = self._make(target, division.scopes[0])
        if target.rules:
            pairs = zip(target.rules, division.scopes[1:], strict=True)
            made = self._divisions.with_rules(made, division, [self._make(rule.target, scope) for rule, scope in pairs])
        return self._divisions.with_components(made, division) if target.components else made

    def _stacked(self, target: Target) -> Blueprint:
        """Return the blueprint of a stack."""
        self._check_is_model(target)
        inputs = [self._inputs_of(each.target) for each in target.slices]
        plan = self._stacks.plan(target, inputs)
        slices = [self._stacks.cut(plan, index, views) for index, views in enumerate(inputs)]
        parts = [self._of_slice(each, scope) for each, scope in zip(slices, scopes_of(slices), strict=True)]
        return self._stacks.joined(target, plan, inputs, slices, parts)

    def _of_slice(self, each: CutSlice, scope: Scope) -> Blueprint:
        """Return the blueprint of a slice of a stack."""
        target = each.slice.target
        self._stacks.check_selectors(each)
        views = self._rows.ordered(target, self._frames.untied(target, each.views, scope.among))
        return self._make(target, scope, views)

    def _check_is_model(self, target: Target) -> None:
        """Check that a target of several parts, and each of its rules and slices, neither makes nor reads a LoRA.

        Raises:
            RecipeError: one does.
        """
        for each in (target, *(other for _, other in target.others)):
            if each.making.makes_lora:
                raise no_rule(each)
            if each.making.makes_experts:
                raise no_part(each)
            self._kept_loras.refuse(each)

    def _make(self, target: Target, scope: Scope = ALL, inputs: tuple[View, ...] | None = None) -> Blueprint:
        """Return the blueprint of a target or of a part of one. `inputs`: views of its inputs, if these are cut."""
        if target.making.makes_lora:
            return self._made_loras.blueprint(target)
        alike = self._alike_of(target, scope, inputs)
        forms = Forms(alike.frame.kinds, self._palette(target, alike))
        _check_latents(target, alike, forms)
        return Blueprint(
            target=target,
            layout=alike.views[0].layout,
            source_specs=alike.frame.specs,
            specs=alike.specs,
            forms=forms,
            accounts=alike.accounts,
            ema_dropped=alike.ema_dropped,
            warnings=alike.warnings,
            spelling=alike.views[0].spelling,
            tied=_tied(alike),
            kin=self._kin_of(forms, alike) if target.kin is not None else None,
        )

    def _kin_of(self, forms: Forms, alike: _Alike) -> Kin:
        kin = alike.kin.get(forms.slots)
        if kin is None:
            kin = alike.kin[forms.slots] = Kin(forms.owners)
        return kin

    def _alike_of(self, target: Target, scope: Scope, inputs: tuple[View, ...] | None = None) -> _Alike:
        """Return what a target has in common with its kin that use the same inputs; computed once."""
        key = (id(target.kin), structures(target.numbers), scope)
        kindred = self._kindred.get(key) if target.kin is not None else None
        if kindred is None:
            views = self._views_of(target) if inputs is None else inputs
            views = self._units.together(views, whole=scope.names is None and _looks_at_whole(target))
            kindred = _Kindred(target.kin, views, self._frames.draft(target, views, scope), {})
            if target.kin is not None:
                self._kindred[key] = kindred
        pattern = kindred.draft.pattern(target)
        alike = kindred.alike.get(pattern)
        if alike is None:
            alike = kindred.alike[pattern] = self._alike_anew(target, kindred, pattern)
        return alike

    def _views_of(self, target: Target) -> tuple[View, ...]:
        """Return views of the inputs of a target."""
        return self._rows.ordered(target, self._frames.untied(target, self._inputs_of(target)))

    def _inputs_of(self, target: Target) -> tuple[View, ...]:
        """Return views of the inputs of a target, each tied or not by itself."""
        found: list[View] = []
        for each in target.inputs:
            if target.making.adds_lora(each.role):
                if len(found) == 1:
                    found[0] = self._with_own_heads(target, found[0])
                found.append(self._added.view(each, target, found[0]))
                continue
            view = self._views.view(each, target)
            view = self._views.beside(view, found[0]) if found else view
            if found and target.on_channels == "common":
                view = self._channels.fitted(view, found[0], adds_up=not target.making.maker)
            found.append(view)
        return tuple(found)

    def _rows_of(self, ref: str) -> int | None:
        """Return the rows of the embedding of a source or target; None if it has none."""
        specs = self._sources.file(ref).tensors if ref in self._sources else self.blueprint(ref).specs
        return embedding_rows({name: each.shape for name, each in specs.items()})

    def _with_own_heads(self, target: Target, base: View) -> View:
        """Return a model in which ties that LoRAs change separately are tensors of their own, such as a tied head."""
        loras = [each for each in target.inputs if target.making.adds_lora(each.role)]
        names = dict.fromkeys(name for each in loras for name in self._added.untied(each, target, base))
        return self._frames.with_ties(target, base, tuple(names)) if names else base

    def _alike_anew(self, target: Target, kindred: _Kindred, pattern: Pattern) -> _Alike:
        views = kindred.views
        frame = self._frames.frame(target, views, kindred.draft, pattern)
        compatible.check_layouts(target, [self._views.offer(view) for view in views])
        autoencoder = {kind for name, kind in frame.kinds.of.items() if name.startswith(AUTOENCODER)}
        return _Alike(
            views,
            frame,
            self._frames.in_dtype(frame.specs, target.dtype),
            accounts=tuple(account.of(views[0].input.ref, views[at].input.ref) for at, account in frame.accounts),
            ema_dropped={view.input.ref: view.ema_dropped for view in views if view.ema_dropped},
            warnings=(
                *self._views.repaired(target),
                *self._added.lost(views),
                *disagreements(views),
                *self._rows.notices(target),
            ),
            defaults=[default or _ZERO for default in defaults_of(target)],
            inputs=tuple(_inputs_of(recipe, views) for recipe in frame.recipes),
            autoencoder=tuple(sorted(autoencoder)),
            latents=self._latents(views) if autoencoder else (),
            kin={},
        )

    def _latents(self, views: Sequence[View]) -> tuple[frozenset[str], ...]:
        return (
            tuple(frozenset() if view.delta else self._views.latents(view) for view in views) if len(views) > 1 else ()
        )

    def _palette(self, target: Target, alike: _Alike) -> tuple[Form, ...]:
        """Return the form of each kind; equal combinations of equal forms are computed once."""
        views, frame = alike.views, alike.frame
        values = values_of(target, frame.selector, frame.places)
        palette: list[Form] = []
        for recipe, inputs in zip(frame.recipes, alike.inputs, strict=True):
            if recipe.values is None:
                palette.append(views[recipe.owner].palette[recipe.inputs[0]])
                continue
            there = reaching(values, alike.defaults, recipe.values)
            palette.append(self._form(target, alike, recipe, inputs, there))
        return tuple(palette)

    def _form(
        self, target: Target, alike: _Alike, plan: KindPlan, inputs: Sequence[Form], values: Sequence[Fraction]
    ) -> Form:
        """Return the form of a kind for the numbers of a target that reach it; it is made once."""
        exact = tuple([each.as_integer_ratio() for each in values])  # a fraction is slow to hash
        key = (exact, plan.name if target.making.shares_by_name else "", *map(id, inputs))
        forms = alike.frame.forms
        form = forms.get(key)
        if form is None:
            form = forms[key] = self._made_of(target, values, plan.name, inputs, alike.views[0].layout)
        return form

    def _check_depth(self, target: Target, made: Blueprint) -> None:
        """Remember how many operations and roundings of a target are on top of each other.

        Raises:
            RecipeError: too many to be computed in one pass.
        """
        is_rounded = target.is_virtual and not target.folds
        made_here = [form for form in made.forms.palette if form.operation is not None or is_rounded]
        if not made_here:
            return
        depth = 1 + max((self._depths.get(slot.owner, 0) for form in made_here for slot in form.slots), default=0)
        if depth > _DEEPEST:
            raise _too_deep(target)
        if target.is_virtual:
            self._depths[target.name] = depth

    def _made_of(
        self, target: Target, values: Sequence[Fraction], name: str, inputs: Sequence[Form], layout: Layout | None
    ) -> Form:
        """Return the form that a target's method makes of the inputs' forms, with one set of numbers."""
        given = given_of(target, values)
        shares = shares_of(target, given, name)
        if shares is not None:
            combined = self._intern.combined(shares, inputs)
            check_digits(target, combined)
            return combined
        method = target.row
        assert method is not None  # a formula has shares
        check_range(target, method, given, name)
        return Form((), Operation(method, _arguments_of(target, method, given, layout), tuple(inputs)))


def _arguments_of(target: Target, method: Method, given: Mapping[str, Argument], layout: Layout | None) -> Arguments:
    """Return the arguments with which a method makes a tensor, sorted by name. `given`: the numbers that reach it."""
    arguments: dict[str, Argument] = {**given, **target.flags, **words_of(target)}
    arguments |= {f"has_{role}": any(each.role == role for each in target.inputs) for role in method.optional}
    arguments |= method.makes.layout_arguments(layout.name if layout else "")
    return tuple(sorted(arguments.items()))


def _inputs_of(recipe: KindPlan, views: Sequence[View]) -> tuple[Form, ...]:
    """Return the inputs' forms of which the method makes tensors of a kind; none if they are just an input's."""
    if recipe.values is None:
        return ()
    places = zip(recipe.read or range(len(views)), recipe.inputs, strict=True)
    return tuple(views[at].palette[kind] for at, kind in places)


def _too_deep(target: Target) -> RecipeError:
    """Return the error for a target with too many operations on top of each other."""
    return RecipeError.one(
        "too-deep",
        f"target `{target.name}` is computed from more than {_DEEPEST} virtual targets above each other",
        where=target.where.place(),
        help="give one in the middle an `output`: then it is a file, and what reads it begins there",
    )


def _check_latents(target: Target, alike: _Alike, forms: Forms) -> None:
    """Check that all autoencoders of which something is taken make latents of the same models.

    Raises:
        MismatchError: they don't.
    """
    for view, theirs in zip(alike.views[1:], alike.latents[1:], strict=False):
        if not alike.latents[0].isdisjoint(theirs) or not theirs:
            continue
        own = {slot for form in view.palette for slot in form.slots}
        if any(not own.isdisjoint(forms.slots[kind]) for kind in alike.autoencoder):
            compatible.check_latents(target, alike.latents[0], theirs, view.input.ref)


def _looks_at_whole(target: Target) -> bool:
    """Whether a target's method needs each tensor whole, or statistics of it."""
    making = target.making
    return (making.takes_statistics or making.whole_tensors) and not making.surveys


def _tied(alike: _Alike) -> Mapping[str, str]:
    """Return the ties of a target: the first input's, except names that have become tensors of their own."""
    first, specs = alike.views[0], alike.frame.specs
    if all(other in specs and name not in first.specs for name, other in first.tied.items()):
        return first.tied
    return {name: other for name, other in first.tied.items() if other in specs and name not in first.specs}
