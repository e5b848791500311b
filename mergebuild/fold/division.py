"""Targets whose tensors are made in several ways, because they have rules or components.

Each part is made like a target of its own, of the tensors in its scope; here the blueprints of the parts are put
together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mergebuild.errors import RecipeError, did_you_mean
from mergebuild.fold import compatible
from mergebuild.fold.counterparts import Spec, together
from mergebuild.fold.draft import Scope
from mergebuild.fold.forms import Blueprint, Forms, Kinds, rounded
from mergebuild.fold.frames import Frames
from mergebuild.fold.interning import Interner
from mergebuild.fold.likeness import Likeness
from mergebuild.fold.selection import TensorSelection
from mergebuild.fold.view import View
from mergebuild.fold.views import Views
from mergebuild.layouts import Layout
from mergebuild.naming.latents import AUTOENCODER
from mergebuild.recipe.model import Component, Target, TensorRule

__all__ = ["RULE_LIKENESS", "Division", "Divisions"]

RULE_LIKENESS = Likeness(TensorRule, left_out={"target": "its frame is in the key, by its kinds"})
"""What decides which tensors a rule makes."""


class Division(NamedTuple):
    """Which part of a target makes which of its tensors: the target itself, its rules, its components."""

    part_of: Mapping[str, int]
    """By tensor, the number of the rule that makes it, from 1; tensors that the target itself makes are absent."""
    scopes: tuple[Scope, ...]
    """The scope of the target itself, then of each rule."""
    first: View
    """The first input."""
    baked: Mapping[str, View]
    """By component that is taken from another input, the view of that input."""
    known: Mapping[str, re.Pattern[str]]
    """The components of the first input by their names, each as the pattern of its tensors' names."""


class _Ruled(NamedTuple):
    """How the tensors of targets with the same rules are made."""

    specs: Mapping[str, Spec]
    """As `Blueprint.source_specs`."""
    kinds: Kinds
    of: tuple[tuple[int, int], ...]
    """For each kind: (part, kind inside that part); part 0 is the target itself, part n its n-th rule."""
    parts: tuple[Blueprint, ...]
    """Kept alive, because the cache finds this by the identities of their kinds and specs."""


class Divisions:
    """Divides targets among their rules and components, and puts the parts' blueprints together."""

    def __init__(self, intern: Interner, views: Views, frames: Frames, selection: TensorSelection) -> None:
        self._intern = intern
        self._views = views
        self._frames = frames
        self._selection = selection
        self._ruled: dict[tuple[object, ...], _Ruled] = {}

    def of(self, target: Target, views: tuple[View, ...]) -> Division:
        """Return which part of a target makes which of its tensors. `views`: its inputs.

        Raises:
            RecipeError: the first input has no such component, or a rule selects nothing that later rules don't.
            MismatchError: a component is of another kind of model.
        """
        floats = tuple(name for name, spec in self._frames.specs(target, views).items() if spec.is_float)
        first, known = views[0], self._views.components(views[0])
        baked = self._baked(target, first, known)
        elsewhere = {name for part, view in baked.items() for name in view.specs if known[part].search(name)}
        part_of = self._ruled_names(target, views, floats)
        own = [name for name in floats if name not in elsewhere]
        scopes = _scopes(target, own, part_of, tuple(known[name] for name in baked))
        return Division(part_of, scopes, first, baked, known)

    def _baked(self, target: Target, first: View, known: Mapping[str, re.Pattern[str]]) -> Mapping[str, View]:
        """Return the inputs from which components are taken, by component; checks all of the target's components."""
        baked: dict[str, View] = {}
        for each in target.components:
            if each.name not in known:
                raise _unknown_component(target, each, first.layout, known)
            if each.input is not None:
                view = baked[each.name] = self._views.component(each, target, first)
                self._check_autoencoder(target, each, first, view, known[each.name])
        return baked

    def _check_autoencoder(
        self, target: Target, each: Component, first: View, view: View, pattern: re.Pattern[str]
    ) -> None:
        """Check that a component is not an autoencoder for other models."""
        if each.input is not None and any(name.startswith(AUTOENCODER) and pattern.search(name) for name in view.specs):
            ours, theirs = (self._views.latents(one) for one in (first, view))
            compatible.check_latents(target, ours, theirs, each.input.ref, "components", each.name)

    def _ruled_names(self, target: Target, views: tuple[View, ...], floats: tuple[str, ...]) -> Mapping[str, int]:
        """Return the number of the rule that makes a tensor, from 1.

        Tensors that the target itself makes are absent.
        """
        selector = self._selection.selector(self._selection.vocabulary(views), floats)
        part_of: dict[str, int] = {}
        for number, rule in enumerate(target.rules, 1):
            part_of |= dict.fromkeys(selector.select(rule.tensors), number)
        for number, rule in enumerate(target.rules, 1):
            if number not in part_of.values():
                raise _overridden(rule)
        return part_of

    def with_rules(self, whole: Blueprint, division: Division, others: Sequence[Blueprint]) -> Blueprint:
        """Return a blueprint in which each rule's tensors are made as the rule says.

        `others`: the blueprints of the rules.
        """
        parts = (whole, *others)
        found = self._ruled_of(parts, division)
        return whole._replace(
            kin=None,
            source_specs=found.specs,
            specs=self._frames.in_dtype(found.specs, whole.target.dtype),
            forms=Forms(found.kinds, tuple(parts[part].forms.palette[kind] for part, kind in found.of)),
            accounts=together(account for part in parts for account in part.accounts),
            ema_dropped={ref: count for part in reversed(parts) for ref, count in part.ema_dropped.items()},
        )

    def _ruled_of(self, parts: tuple[Blueprint, ...], division: Division) -> _Ruled:
        """Return how the tensors of a target and its rules (`parts`) are made; computed once for equal rules."""
        likenesses = map(RULE_LIKENESS, parts[0].target.rules)
        key = (*likenesses, *((id(part.forms.kinds), id(part.source_specs)) for part in parts))
        found = self._ruled.get(key)
        if found is None:
            found = self._ruled[key] = _ruled_by(division.part_of, parts)
        return found

    def with_components(self, whole: Blueprint, division: Division) -> Blueprint:
        """Return a blueprint in which components are taken from other inputs, or have their own dtypes.

        Raises:
            MismatchError: a component of another input does not fit.
        """
        made = _Replaced(whole, self._intern)
        for each in whole.target.components:
            if each.input is not None:
                made.take(each, division.baked[each.name], division.known[each.name])
            if each.dtype is not None:
                made.round(division.known[each.name], each.dtype)
        new = [name for name in made.specs if name not in whole.specs]
        prefixes = self._views.prefixes_of_new(division.first, new) if new else {}
        return made.blueprint()._replace(spelling=whole.spelling.with_prefixes(prefixes))


class _Replaced:
    """A blueprint whose components are replaced one after another."""

    def __init__(self, whole: Blueprint, intern: Interner) -> None:
        self._whole = whole
        self._intern = intern
        self.specs, self._source_specs = dict(whole.specs), dict(whole.source_specs)
        self._palette = list(whole.forms.palette)
        self._of = dict(whole.forms.kinds.of)

    def take(self, each: Component, view: View, pattern: re.Pattern[str]) -> None:
        """Take a component from another input."""
        target = self._whole.target
        taken = {name: spec for name, spec in view.specs.items() if pattern.search(name)}
        compatible.check_component(target, each, self._source_specs, taken)
        first = len(self._palette)
        self._palette += view.palette
        self._of |= {name: first + view.kind(name) for name in taken}
        for copy, other in self._whole.copies.items():
            if other in taken:
                self._of[copy] = len(self._palette)
                self._palette.append(self._intern.under(view.palette[view.kind(other)], other))
                taken[copy] = taken[other]
        self._source_specs |= taken
        self.specs |= rounded(taken, target.dtype)

    def round(self, pattern: re.Pattern[str], dtype: str) -> None:
        """Give a component its own dtype."""
        mine = {name: spec for name, spec in self._source_specs.items() if pattern.search(name)}
        self.specs |= rounded(mine, dtype)
        self._source_specs |= rounded(mine, dtype)

    def blueprint(self) -> Blueprint:
        """Return the new blueprint, without kinds that are no longer used."""
        used = {kind: number for number, kind in enumerate(dict.fromkeys(self._of[name] for name in self.specs))}
        kinds = Kinds({name: used[self._of[name]] for name in self.specs}, self.specs)
        forms = Forms(kinds, tuple(self._palette[kind] for kind in used))
        return self._whole._replace(specs=self.specs, source_specs=self._source_specs, forms=forms, kin=None)


def _scopes(
    target: Target, own: Sequence[str], part_of: Mapping[str, int], patterns: tuple[re.Pattern[str], ...]
) -> tuple[Scope, ...]:
    """Return the scope of the target itself and of each rule. `patterns`: names of components that others make."""
    names: list[set[str]] = [set() for _ in range(1 + len(target.rules))]
    for name in own:
        names[part_of.get(name, 0)].add(name)
    selectors = [rule.tensors for rule in target.rules]
    return tuple(
        Scope(
            frozenset(some),
            selectors[part - 1] if part else (),
            tuple(each for later in selectors[part:] for each in later),
            patterns,
        )
        for part, some in enumerate(names)
    )


def _overridden(rule: TensorRule) -> RecipeError:
    return RecipeError.one(
        "selector-overridden",
        f"`{rule.target.name}` decides nothing: later rules select all of its tensors",
        where=rule.target.where.place(),
        help="take it out, or move it behind them: the later rule wins",
    )


def _ruled_by(part_of: Mapping[str, int], parts: tuple[Blueprint, ...]) -> _Ruled:
    """Return how the tensors of a target are made whose parts make them as `part_of` says."""
    specs, copies = dict(parts[0].source_specs), parts[0].copies
    of: dict[str, int] = {}
    numbers: dict[tuple[int, int], int] = {}
    for name in specs:
        part = part_of.get(copies.get(name, name), 0)
        kinds = parts[part].forms.kinds
        if name not in kinds.of:  # the rule's first input lacks it, so its method can't make it
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
