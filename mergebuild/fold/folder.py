"""From targets to forms over source tensors, exactly, from headers alone.

A chain of linear targets is one combination again: virtual targets fold away, sources and file targets stay as slots.
What a virtual target makes by an operation stays a slot to whoever reads it, unrounded; so does what a LoRA adds to a
model, which is such a target that no recipe names.

`Folder.blueprint` says of a target which tensors it has, with dtypes, shapes and forms, and refuses inputs that do not
fit together before any tensor is read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import RecipeError, did_you_mean
from mergebuild.fold import compatible
from mergebuild.fold.counterparts import Accounting, Spec, together
from mergebuild.fold.forms import Blueprint, Form, Forms, Kin, Kinds, Operation, Slot, rounded
from mergebuild.fold.frames import ALL, Draft, Frame, Frames, Pattern, Scope
from mergebuild.fold.interning import Interner
from mergebuild.fold.likeness import Likeness
from mergebuild.fold.lora_added import AddedLoras
from mergebuild.fold.lora_kept import KeptLoras
from mergebuild.fold.lora_made import MadeLoras, no_rule
from mergebuild.fold.numbers import (
    check_digits,
    check_range,
    defaults_of,
    given_of,
    listed,
    shares_of,
    structures,
    words_of,
)
from mergebuild.fold.selection import TensorSelection
from mergebuild.fold.units import Units
from mergebuild.fold.views import View, Views, disagreements
from mergebuild.layouts import Layout
from mergebuild.methods.arguments import Argument
from mergebuild.methods.method import Method
from mergebuild.naming.latents import AUTOENCODER
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Component, Target, TensorRule
from mergebuild.sources.sources import Sources, source_of_part

__all__ = ["Folding"]

_ZERO = Fraction(0)
_DEEPEST = 100
"""Operations in memory above each other: each waits for what is below it."""

_RULE_LIKENESS = Likeness(TensorRule, left_out={"target": "its frame is in the key, by its kinds"})
"""What of a rule decides which tensors it makes."""


class _Alike(NamedTuple):
    """What targets have in common that differ in their names, outputs and the values of their numbers alone."""

    views: tuple[View, ...]
    frame: Frame
    specs: Mapping[str, Spec]
    accounts: tuple[Accounting, ...]
    ema_dropped: Mapping[str, int]
    warnings: tuple[str, ...]
    """As in a blueprint, these four."""
    defaults: Sequence[Fraction]
    """The method's, of each number, those of a list one by one; 0 where it has none."""
    inputs: tuple[tuple[Form, ...], ...]
    """By kind, what the method makes its tensors of; none where they are just an input's."""
    autoencoder: tuple[int, ...]
    """The kinds of the tensors of an autoencoder."""
    latents: tuple[frozenset[str], ...]
    """Whose latents each input's makes, where it is known."""
    kin: dict[tuple[tuple[Slot, ...], ...], Kin]
    """`Blueprint.kin`, by the slots of each kind: a coefficient that is 0 takes one out."""


class _Kindred(NamedTuple):
    """What is known of targets that differ in their names, outputs and the values of their numbers alone."""

    of: object
    """`Target.kin` of these, kept alive, as it is found by its identity; None where there is one target alone."""
    views: tuple[View, ...]
    draft: Draft
    alike: dict[Pattern, _Alike]
    """By which inputs they use where."""


class _Division(NamedTuple):
    """Which part of a target makes which of its tensors: itself, its rules, its components."""

    part_of: Mapping[str, int]
    """By tensor, the rule that makes it, from 1; others the target makes itself."""
    scopes: tuple[Scope, ...]
    """Of the target itself, and of each rule."""
    first: View
    """The first input."""
    baked: Mapping[str, View]
    """By component that comes from elsewhere, where from."""
    known: Mapping[str, re.Pattern[str]]
    """The names of the first input's components, by what they are called."""


class _Ruled(NamedTuple):
    """How the tensors of targets with the same rules are made."""

    specs: Mapping[str, Spec]
    """As `Blueprint.source_specs`."""
    kinds: Kinds
    of: tuple[tuple[int, int], ...]
    """By kind: the part (0: the target itself, else the rule's number) that makes it, and the kind there."""
    parts: tuple[Blueprint, ...]
    """Kept alive, as it is found by the identities of their kinds and tensors."""


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
        self._added = AddedLoras(sources, self._intern, self._blueprints, self.blueprint)
        self._made_loras = MadeLoras(recipe, sources, self._intern, self._views, self._added, self._selection)
        self._kept_loras = KeptLoras(recipe, self._intern, self._views, self._added, self._selection)
        self._units = Units(sources, self._intern)
        self._depths: dict[str, int] = {}
        """How many operations stand above each other in a virtual target that has any."""
        self._kindred: dict[tuple[object, ...], _Kindred] = {}
        self._ruled: dict[tuple[object, ...], _Ruled] = {}

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
                    made = self._made(target)
                    compatible.check_accounts(target, made.accounts)
                    self._check_depth(target, made)
                    self._blueprints[each] = made
        return self._blueprints[name]

    def is_virtual(self, ref: str) -> bool:
        """Whether an input is a target without an output: it folds away, but for what it makes by operations."""
        return self.is_delta(ref) or (ref not in self._sources and self._recipe.target(ref).is_virtual)

    def is_delta(self, owner: str) -> bool:
        """Whether an owner of slots is what LoRAs add to a model: a virtual target that no recipe names."""
        return owner in self._added

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

    def _made(self, target: Target) -> Blueprint:
        """Return what a target is, with what its rules and components make otherwise."""
        kept = self._kept_loras.blueprint(target)
        if kept is not None:
            return kept
        if not target.rules and not target.components:
            return self._make(target)
        if target.making.makes_lora:
            raise no_rule(target)
        self._kept_loras.refuse(target)
        for rule in target.rules:
            if rule.target.making.makes_lora:
                raise no_rule(rule.target)
            self._kept_loras.refuse(rule.target)
        division = self._division(target)
        made = self._make(target, division.scopes[0])
        made = self._with_rules(made, division) if target.rules else made
        return self._with_components(made, division) if target.components else made

    def _division(self, target: Target) -> _Division:
        """Return which part of a target makes which of its tensors."""
        views = self._views_of(target)
        first = views[0]
        specs = self._frames.specs(target, views)
        known = self._views.components(first)
        baked: dict[str, View] = {}
        elsewhere: dict[str, None] = {}
        for each in target.components:
            if each.name not in known:
                raise _unknown_component(target, each, first.layout, known)
            if each.input is not None:
                view = baked[each.name] = self._views.component(each, target, first)
                if any(name.startswith(AUTOENCODER) and known[each.name].search(name) for name in view.specs):
                    ours, theirs = (self._views.latents(one) for one in (first, view))
                    compatible.check_latents(target, ours, theirs, each.input.ref, "components", each.name)
                elsewhere |= dict.fromkeys(name for name in view.specs if known[each.name].search(name))
        floats = tuple(name for name, spec in specs.items() if spec.is_float)
        part_of = self._ruled_names(target, views, floats)
        names: list[set[str]] = [set() for _ in range(1 + len(target.rules))]
        for name in floats:
            if name not in elsewhere:
                names[part_of.get(name, 0)].add(name)
        patterns = tuple(known[name] for name in baked)
        selectors = [rule.tensors for rule in target.rules]
        scopes = [
            Scope(
                frozenset(some),
                selectors[part - 1] if part else (),
                tuple(each for later in selectors[part:] for each in later),
                patterns,
            )
            for part, some in enumerate(names)
        ]
        return _Division(part_of, tuple(scopes), first, baked, known)

    def _ruled_names(self, target: Target, views: tuple[View, ...], floats: tuple[str, ...]) -> Mapping[str, int]:
        """Return which rule makes a tensor, by number from 1; the others are the target's."""
        selector = self._selection.selector(self._selection.vocabulary(views), floats)
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
        return part_of

    def _make(self, target: Target, scope: Scope = ALL) -> Blueprint:
        if target.making.makes_lora:
            return self._made_loras.blueprint(target)
        alike = self._alike_of(target, scope)
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

    def _alike_of(self, target: Target, scope: Scope) -> _Alike:
        """Return what a target has in common with its kin that use the same inputs, found out once."""
        key = (id(target.kin), structures(target.numbers), scope)
        kindred = self._kindred.get(key) if target.kin is not None else None
        if kindred is None:
            views = self._units.together(self._views_of(target), whole=scope == ALL and _looks_at_whole(target))
            kindred = _Kindred(target.kin, views, self._frames.draft(target, views, scope), {})
            if target.kin is not None:
                self._kindred[key] = kindred
        pattern = kindred.draft.pattern(target)
        alike = kindred.alike.get(pattern)
        if alike is None:
            alike = kindred.alike[pattern] = self._alike_anew(target, kindred, pattern)
        return alike

    def _views_of(self, target: Target) -> tuple[View, ...]:
        """Return the inputs of a target as it sees them."""
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
                view = self._views.fitted(view, found[0], adds_up=not target.making.maker)
            found.append(view)
        return self._frames.untied(target, tuple(found))

    def _with_own_heads(self, target: Target, base: View) -> View:
        """Return a model with those of its ties as tensors of their own that LoRAs change by themselves: a head."""
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
            warnings=(*self._views.repaired(target), *self._added.lost(views), *disagreements(views)),
            defaults=[default or _ZERO for default in defaults_of(target)],
            inputs=tuple(
                ()
                if recipe.values is None
                else tuple(
                    views[at].palette[kind]
                    for at, kind in zip(recipe.read or range(len(views)), recipe.inputs, strict=True)
                )
                for recipe in frame.recipes
            ),
            autoencoder=tuple(sorted(autoencoder)),
            latents=self._latents(views) if autoencoder else (),
            kin={},
        )

    def _latents(self, views: Sequence[View]) -> tuple[frozenset[str], ...]:
        return (
            tuple(frozenset() if view.delta else self._views.latents(view) for view in views) if len(views) > 1 else ()
        )

    def _with_rules(self, whole: Blueprint, division: _Division) -> Blueprint:
        """Return a blueprint in which the tensors of each rule are made as the rule says."""
        rules = whole.target.rules
        others = [self._make(rule.target, scope) for rule, scope in zip(rules, division.scopes[1:], strict=True)]
        parts = (whole, *others)
        key = (*map(_RULE_LIKENESS, rules), *((id(part.forms.kinds), id(part.source_specs)) for part in parts))
        found = self._ruled.get(key)
        if found is None:
            found = self._ruled[key] = _ruled_by(division.part_of, parts)
        return whole._replace(
            kin=None,
            source_specs=found.specs,
            specs=self._frames.in_dtype(found.specs, whole.target.dtype),
            forms=Forms(found.kinds, tuple(parts[part].forms.palette[kind] for part, kind in found.of)),
            accounts=together(account for part in parts for account in part.accounts),
            ema_dropped={ref: count for part in reversed(parts) for ref, count in part.ema_dropped.items()},
        )

    def _with_components(self, whole: Blueprint, division: _Division) -> Blueprint:
        """Return a blueprint in which some components are another input's, or have a dtype of their own."""
        target, known = whole.target, division.known
        specs, source_specs = dict(whole.specs), dict(whole.source_specs)
        palette = list(whole.forms.palette)
        of = dict(whole.forms.kinds.of)
        for each in target.components:
            if each.input is not None:
                view = division.baked[each.name]
                taken = {name: spec for name, spec in view.specs.items() if known[each.name].search(name)}
                compatible.check_component(target, each, source_specs, taken)
                first = len(palette)
                palette += view.palette
                of |= {name: first + view.kind(name) for name in taken}
                for copy, other in whole.copies.items():
                    if other in taken:
                        of[copy] = len(palette)
                        palette.append(self._intern.under(view.palette[view.kind(other)], other))
                        taken[copy] = taken[other]
                source_specs |= taken
                specs |= rounded(taken, target.dtype)
            if each.dtype is not None:
                mine = {name: spec for name, spec in source_specs.items() if known[each.name].search(name)}
                specs |= rounded(mine, each.dtype)
                source_specs |= rounded(mine, each.dtype)
        used = {kind: number for number, kind in enumerate(dict.fromkeys(of[name] for name in specs))}
        kinds = Kinds({name: used[of[name]] for name in specs}, specs)
        forms = Forms(kinds, tuple(palette[kind] for kind in used))
        new = [name for name in specs if name not in whole.specs]
        prefixes = self._views.prefixes_of_new(division.first, new) if new else {}
        spelling = whole.spelling.with_prefixes(prefixes)
        return whole._replace(specs=specs, source_specs=source_specs, forms=forms, spelling=spelling, kin=None)

    def _palette(self, target: Target, alike: _Alike) -> tuple[Form, ...]:
        """Return the form of each kind; equal combinations of equal forms are computed once."""
        views, frame = alike.views, alike.frame
        numbers = [number for each in target.numbers.values() for number in listed(each)]
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
        self,
        target: Target,
        values: Sequence[Fraction],
        name: str,
        inputs: Sequence[Form],
        layout: Layout | None,
    ) -> Form:
        """Return the form of what a target's method makes of its inputs with one set of numbers."""
        given = given_of(target, values)
        shares = shares_of(target, given, name)
        if shares is not None:
            combined = self._intern.combined(shares, inputs)
            check_digits(target, combined)
            return combined
        method = target.row
        assert method is not None  # a formula has shares
        check_range(target, method, given, name)
        arguments: dict[str, Argument] = {**given, **target.flags, **words_of(target)}
        arguments |= {f"has_{role}": any(each.role == role for each in target.inputs) for role in method.optional}
        arguments |= method.makes.layout_arguments(layout.name if layout else "")
        return Form((), Operation(method, tuple(sorted(arguments.items())), tuple(inputs)))


def _check_latents(target: Target, alike: _Alike, forms: Forms) -> None:
    """Refuse a merge with an autoencoder of other models; one of which nothing is taken is not compared.

    Raises:
        MismatchError: so it is.
    """
    for view, theirs in zip(alike.views[1:], alike.latents[1:], strict=False):
        if not alike.latents[0].isdisjoint(theirs) or not theirs:
            continue
        own = {slot for form in view.palette for slot in form.slots}
        if any(not own.isdisjoint(forms.slots[kind]) for kind in alike.autoencoder):
            compatible.check_latents(target, alike.latents[0], theirs, view.input.ref)


def _looks_at_whole(target: Target) -> bool:
    """Whether a target's method finds out something of each tensor as a whole."""
    making = target.making
    return (making.takes_statistics or making.whole_tensors) and not making.surveys


def _tied(alike: _Alike) -> Mapping[str, str]:
    """Return the ties that a target keeps: the first input's, but where a name has become a parameter of its own."""
    first, specs = alike.views[0], alike.frame.specs
    if all(other in specs and name not in first.specs for name, other in first.tied.items()):
        return first.tied
    return {name: other for name, other in first.tied.items() if other in specs and name not in first.specs}


def _ruled_by(part_of: Mapping[str, int], parts: tuple[Blueprint, ...]) -> _Ruled:
    """Return how the tensors of a target are made, whose parts make them as `part_of` says."""
    specs, copies = dict(parts[0].source_specs), parts[0].copies
    of: dict[str, int] = {}
    numbers: dict[tuple[int, int], int] = {}
    for name in specs:
        part = part_of.get(copies.get(name, name), 0)
        kinds = parts[part].forms.kinds
        if name not in kinds.of:  # the rule's method has nothing to begin with: its first input lacks it
            part, kinds = 0, parts[0].forms.kinds
        specs[name] = parts[part].source_specs[name]
        of[name] = numbers.setdefault((part, kinds.of[name]), len(numbers))
    return _Ruled(specs, Kinds(of, specs), tuple(numbers), parts)


def _unknown_component(
    target: Target, each: Component, layout: Layout | None, components: Collection[str]
) -> RecipeError:
    known = [name for name in components if name != "ema"]
    whose = f"which `{layout.name}` does not have" if layout else "which its first input does not have"
    return RecipeError.one(
        "unknown-component",
        f"target `{target.name}` names the component `{each.name}`, "
        + (whose if known else "and the layout of its first input is not known"),
        where=target.where.place("components", each.name, key=True),
        help=did_you_mean(each.name, known, otherwise=f"it has: {', '.join(known)}") if known else
        "`[layouts.NAME]` declares a layout with its components",
    )  # fmt: skip
