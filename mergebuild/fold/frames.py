"""Frames: what targets have in common that are made alike, whatever the values of their numbers.

A frame says which tensors there are, which of them are merged and which are one input's, and which value of each number
reaches which tensor. Members of a family share one; the values are put in afterwards.

Where all inputs have the same tensors in the same shapes, that is all. Where one lacks a tensor, or has it in another
shape, it matters which inputs the tensor is made of: one whose number is 0 there need not have it. So a frame is made
in two steps. A `Draft` is everything that no value decides; a frame is that, for one pattern of which inputs are used
where. Members whose numbers are 0 in the same places share it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace

from mergebuild.fold import compatible
from mergebuild.fold.counterparts import Spec
from mergebuild.fold.draft import ALL, LIKENESS, Draft, Frame, KindPlan, Pattern, Reach, Scope
from mergebuild.fold.forms import Kinds, rounded
from mergebuild.fold.meeting import Meeting, have
from mergebuild.fold.numbers import (
    Usage,
    places_of,
    reached_by_amounts,
    words_of,
)
from mergebuild.fold.selection import TensorSelection
from mergebuild.fold.view import VIEW_LIKENESS, View
from mergebuild.fold.views import Views
from mergebuild.naming.canonical import is_constant
from mergebuild.recipe.model import Target

__all__ = ["Frames"]


class Frames:
    """Makes drafts and frames, each once."""

    def __init__(self, views: Views, selection: TensorSelection) -> None:
        self._views = views
        self._selection = selection
        self._drafts: dict[tuple[object, ...], Draft] = {}
        self._rounded: dict[tuple[int, str | None], Mapping[str, Spec]] = {}

    def draft(self, target: Target, views: tuple[View, ...], scope: Scope = ALL) -> Draft:
        """Return what a target has in common with all that are made like it, whatever its numbers are.

        Raises:
            RecipeError: a selector selects nothing.
        """
        likeness = (LIKENESS(target), scope, *map(VIEW_LIKENESS, views))
        found = self._drafts.get(likeness)
        if found is None:
            found = self._drafts[likeness] = self._drafted(target, views, scope)
        return found

    def frame(self, target: Target, views: tuple[View, ...], draft: Draft, pattern: Pattern) -> Frame:
        """Return what a target has in common with all that are made like it and use the same inputs.

        Raises:
            MismatchError: the inputs do not fit together.
        """
        found = draft.frames.get(pattern)
        if found is None:
            found = draft.frames[pattern] = self._framed(target, views, draft, pattern)
        return found

    def _drafted(self, target: Target, views: tuple[View, ...], scope: Scope) -> Draft:
        words = self._selection.vocabulary(views)
        specs = self.specs(target, views)
        floats = tuple(name for name, spec in specs.items() if spec.is_float)
        selector = self._selection.selector(words, floats)
        places = places_of(target, selector)
        reached = self._selection.reached(target, words, floats, places)
        reached = frozenset(name for name in reached if not is_constant(name, specs[name].shape))
        every = reached
        if scope.names is not None:
            reached &= scope.names
        refused = frozenset().union(*(view.refused for view in views))
        common = frozenset(name for name in every - refused if have(views, name, specs[name].shape))
        draft = Draft(views, specs, floats, selector, places, reached, reached & common, common - reached)
        return self._with_situations(target, draft, scope)

    def _with_situations(self, target: Target, draft: Draft, scope: Scope) -> Draft:
        """Return a draft with the situations in which an input may be used, where not all is alike."""
        views, reached = draft.views, draft.reached
        left: Sequence[Reach] = ()
        if not target.making.union_of_tensors:
            left = [self._left(target, views, at, scope) for at in range(1, len(views))]
        if draft.alike == reached and not any(reach.names for reach in left):
            return draft
        floats = tuple(name for name in draft.floats if name in reached)
        reaches = (Reach(floats, draft.selector, draft.places), *left)
        by_name = target.making.shares_by_name
        situations = (
            (at, reach.values(name), name if by_name else "")
            for at, reach in enumerate(reaches)
            for name in reach.names
        )
        return replace(draft, reaches=reaches, situations=tuple(dict.fromkeys(situations)))

    def specs(self, target: Target, views: Sequence[View]) -> Mapping[str, Spec]:
        """Return the tensors that a target has, as its first input has them."""
        first = views[0]
        specs = first.specs
        if target.making.union_of_tensors:
            specs = {name: spec for view in reversed(views) for name, spec in view.specs.items()}
        if target.drop:
            dropped = self._selection.dropped(target, views, specs)
            specs = {name: spec for name, spec in specs.items() if name not in dropped}
        return specs

    def _left(self, target: Target, views: Sequence[View], at: int, scope: Scope) -> Reach:
        """Return what of an input has no counterpart in the first, of what the target asks for."""
        first, view = views[0], views[at]
        words = self._selection.vocabulary(views)
        names = tuple(
            name
            for name, spec in view.specs.items()
            if name not in first.specs and spec.is_float and not is_constant(name, spec.shape)
        )
        selector = self._selection.forgiving(words._replace(layout=words.layout or view.layout), names)
        places = places_of(target, selector)
        asked = reached_by_amounts(target, names, places)
        if target.merge is not None:
            asked &= selector.select(target.merge)
        if scope.within:
            asked &= selector.select(scope.within)
        asked -= selector.select((*target.drop, *scope.without))
        kept = (name for name in names if name in asked and not any(each.search(name) for each in scope.components))
        return Reach(tuple(kept), selector, places)

    def _framed(self, target: Target, views: tuple[View, ...], draft: Draft, pattern: Pattern) -> Frame:
        """Return what a target has in common with others; refuse inputs that do not fit."""
        meeting = Meeting(target, views, draft, pattern)
        shapes = {
            name: meeting.shapes.get(name, draft.specs[name].shape)
            for name in draft.floats
            if name in draft.alike or name in draft.outside or name in meeting.shapes
        }
        taken = frozenset(target.making.taken_up(shapes, words_of(target))) - draft.outside
        refused = [problem for name, problem in meeting.refused.items() if name in taken]
        if refused:
            raise compatible.refusal(refused)
        unequal = {name: used for name, used in meeting.unequal.items() if name in taken}
        compatible.check_shapes(target, [self._views.offer(view) for view in views], unequal)
        makings = tuple((name, use) for name, use in meeting.made.items() if name in taken)
        found = draft.makings.get(makings)
        if found is None:
            found = draft.makings[makings] = _made(target, draft, taken, meeting)
        return found._replace(accounts=meeting.accounts())

    def untied(self, target: Target, views: tuple[View, ...]) -> tuple[View, ...]:
        """Return the inputs of a target, those that are tied with the tie's values under a name that others hold.

        A head of its own that takes part makes an untied model of all; where it takes none, the tie of the first input
        holds.
        """
        tied = dict.fromkeys(name for view in views for name in view.tied if name not in view.specs)
        names = [name for name in tied if any(name in view.specs for view in views)]
        for name in names:
            if name in views[0].specs or self._takes_part(target, views, name):
                views = tuple(self._views.untied(view, name) for view in views)
        if target.drop and views[0].copies:
            dropped = self._selection.dropped(target, views, views[0].specs)
            copies = tuple(name for name in views[0].copies if name not in dropped)
            views = (replace(views[0], copies=copies), *views[1:])
        return views

    def with_ties(self, target: Target, view: View, names: Collection[str]) -> View:
        """Return the first input of a target with some of its ties as tensors of their own, where these take part."""
        for name in names:
            if self._takes_part(target, (view,), name):
                view = self._views.untied(view, name)
        return view

    def _takes_part(self, target: Target, views: tuple[View, ...], name: str) -> bool:
        """Whether a tensor that an input has as a tie is merged with one that another input has itself."""
        words = self._selection.vocabulary(views)
        spec = next(view.specs[view.tied[name]] for view in views if name in view.tied)
        floats = (
            *(each for each, other in views[0].specs.items() if other.is_float),
            *((name,) if spec.is_float else ()),
        )
        places = places_of(target, self._selection.selector(words, floats))
        return name in self._selection.reached(target, words, floats, places)

    def in_dtype(self, specs: Mapping[str, Spec], dtype: str | None) -> Mapping[str, Spec]:
        """Return `rounded`, the same object for the same specs, which a frame keeps alive."""
        found = self._rounded.get((id(specs), dtype))
        if found is None:
            found = self._rounded[id(specs), dtype] = rounded(specs, dtype)
        return found


def _made(target: Target, draft: Draft, taken: Container[str], meeting: Meeting) -> Frame:
    """Return a frame without accounts."""
    specs = draft.specs
    reshaped = {
        name: specs[name]._replace(shape=meeting.shapes[name])
        for name in meeting.made
        if name in taken and meeting.shapes[name] != specs[name].shape
    }
    if reshaped:
        specs = {**specs, **reshaped}
    kinds, recipes = _sorted_into_kinds(target, specs, draft, taken, meeting.made)
    first = draft.views[0]
    copies = {name: first.tied[name] for name in first.copies if first.tied[name] in specs and name not in specs}
    if copies:
        specs = {**specs, **{name: specs[other] for name, other in copies.items()}}
        kinds = Kinds({**kinds.of, **{name: kinds.of[other] for name, other in copies.items()}}, specs)
    return Frame(specs, kinds, recipes, draft.selector, draft.places, (), {})


def _sorted_into_kinds(
    target: Target, specs: Mapping[str, Spec], draft: Draft, taken: Container[str], made: Mapping[str, Usage]
) -> tuple[Kinds, tuple[KindPlan, ...]]:
    """Return the kinds of a target's tensors, in the order of the first tensor of each, and how each is made.

    Args:
        target: the target, or one that is made like it.
        specs: its tensors.
        draft: what it has in common with those.
        taken: the tensors that its method changes.
        made: of those that not all inputs have alike, what each is made of.
    """
    by_name = target.making.shares_by_name
    of: dict[str, int] = {}
    recipes: dict[KindPlan, KindPlan] = {}
    numbers: dict[KindPlan, int] = {}
    for name in specs:
        recipe = _planned(name, draft, made.get(name), is_taken=name in taken)
        key = recipe if by_name and recipe.values is not None else recipe._replace(name="")
        recipes.setdefault(key, recipe)
        of[name] = numbers.setdefault(key, len(numbers))
    return Kinds(of, specs), tuple(recipes.values())


def _planned(name: str, draft: Draft, use: Usage | None, *, is_taken: bool) -> KindPlan:
    """Return how a tensor is made; `use`: what of, where not all inputs have it alike."""
    views = draft.views
    owner: int | None = None
    if not is_taken or (use is None and name not in draft.alike):
        owner = next(at for at, view in enumerate(views) if name in view.specs)
    elif use is not None and use.is_itself:
        owner = min(use.inputs)
    if owner is not None:
        return KindPlan((views[owner].kind(name),), None, name, owner)
    read = () if use is None else _read(use.inputs, len(views))
    inputs = tuple(views[at].kind(name) for at in read or range(len(views)))
    return KindPlan(inputs, tuple(each.of.get(name) for each in draft.places), name, read=read)


def _read(used: frozenset[int], count: int) -> tuple[int, ...]:
    """Return whose tensor is read for each of `count` inputs; that of one that is used stands in for the others."""
    return tuple(at if at in used else min(used, default=0) for at in range(count))
