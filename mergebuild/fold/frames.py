"""Frames: all that targets made alike have in common, whatever the values of their numbers.

A frame says which tensors a target has, which of them are merged and which are one input's, and which value of each
number reaches which tensor. Members of a family share a frame; their values are inserted afterwards.

If all inputs have the same tensors with the same shapes, that is all. If one input lacks a tensor, or has it in another
shape, it matters which inputs the tensor is made of: an input whose number is 0 there may lack it. So frames are made
in two steps. A `FrameDraft` is everything that does not depend on values; a frame is a draft for one pattern of which
inputs are used where. Members whose numbers are 0 in the same places share it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace

from mergebuild.fold import compatible
from mergebuild.fold.counterparts import Spec
from mergebuild.fold.draft import ALL, LIKENESS, Frame, FrameDraft, KindPlan, Pattern, Reach, Scope
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
        self._drafts: dict[tuple[object, ...], FrameDraft] = {}
        self._rounded: dict[tuple[int, str | None], Mapping[str, Spec]] = {}

    def draft(self, target: Target, views: tuple[View, ...], scope: Scope = ALL) -> FrameDraft:
        """Return the draft of a target, which it shares with all targets made alike, whatever their numbers.

        Raises:
            RecipeError: a selector selects nothing.
        """
        likeness = (LIKENESS(target), scope, *map(VIEW_LIKENESS, views))
        found = self._drafts.get(likeness)
        if found is None:
            found = self._drafts[likeness] = self._drafted(target, views, scope)
        return found

    def frame(self, target: Target, views: tuple[View, ...], draft: FrameDraft, pattern: Pattern) -> Frame:
        """Return the frame of a target, which it shares with all targets made alike that use the same inputs.

        Raises:
            MismatchError: the inputs don't fit together.
        """
        found = draft.frames.get(pattern)
        if found is None:
            found = draft.frames[pattern] = self._framed(target, views, draft, pattern)
        return found

    def _drafted(self, target: Target, views: tuple[View, ...], scope: Scope) -> FrameDraft:
        words = self._selection.vocabulary(views)
        specs = self.specs(target, views)
        floats = tuple(name for name, spec in specs.items() if spec.is_float)
        selector = self._selection.selector(words, floats, scope.among)
        places = places_of(target, selector)
        reached = self._selection.reached(target, selector, places)
        reached = frozenset(name for name in reached if not is_constant(name, specs[name].shape))
        every = reached
        if scope.names is not None:
            reached &= scope.names
        refused = frozenset().union(*(view.refused for view in views))
        common = frozenset(name for name in every - refused if have(views, name, specs[name].shape))
        draft = FrameDraft(views, specs, floats, selector, places, reached, reached & common, common - reached)
        return self._with_situations(target, draft, scope)

    def _with_situations(self, target: Target, draft: FrameDraft, scope: Scope) -> FrameDraft:
        """Return a draft with the situations in which an input may be used; the same draft if all tensors are alike."""
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
        """Return the tensors of a target, with dtypes and shapes of its first input."""
        first = views[0]
        specs = first.specs
        if target.making.union_of_tensors:
            specs = {name: spec for view in reversed(views) for name, spec in view.specs.items()}
        if target.drop:
            dropped = self._selection.dropped(target, views, specs)
            specs = {name: spec for name, spec in specs.items() if name not in dropped}
        return specs

    def _left(self, target: Target, views: Sequence[View], at: int, scope: Scope) -> Reach:
        """Return the tensors that only one other input has and that the target asks for."""
        view = views[at]
        words = self._selection.vocabulary(views)
        names = _only_in(view, views[0])
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

    def _framed(self, target: Target, views: tuple[View, ...], draft: FrameDraft, pattern: Pattern) -> Frame:
        """Return a new frame; raises if the inputs don't fit together."""
        meeting = Meeting(target, views, draft, pattern)
        taken = _taken_up(target, draft, meeting)
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

    def untied(self, target: Target, views: tuple[View, ...], among: tuple[str, ...] = ()) -> tuple[View, ...]:
        """Return the inputs of a target, with tied names as tensors of their own where another input has such a tensor.

        If a head of its own takes part, all inputs are treated as untied models; if it takes no part, the first input's
        tie stays. `among`: as in `Scope`.
        """
        tied = dict.fromkeys(name for view in views for name in view.tied if name not in view.specs)
        names = [name for name in tied if any(name in view.specs for view in views)]
        for name in names:
            if name in views[0].specs or self._takes_part(target, views, name, among):
                views = tuple(self._views.untied(view, name) for view in views)
        return self._without_dropped(target, views)

    def _without_dropped(self, target: Target, views: tuple[View, ...]) -> tuple[View, ...]:
        """Return the inputs of a target; the first one without the copies that its `drop` selects."""
        if target.drop and views[0].copies:
            dropped = self._selection.dropped(target, views, views[0].specs)
            copies = tuple(name for name in views[0].copies if name not in dropped)
            views = (replace(views[0], copies=copies), *views[1:])
        return views

    def with_ties(self, target: Target, view: View, names: Collection[str]) -> View:
        """Return the first input of a target, with some of its tied names as tensors of their own if they take part."""
        for name in names:
            if self._takes_part(target, (view,), name):
                view = self._views.untied(view, name)
        return view

    def _takes_part(self, target: Target, views: tuple[View, ...], name: str, among: tuple[str, ...] = ()) -> bool:
        """Whether a name that is tied in an input is merged with another input's own tensor."""
        words = self._selection.vocabulary(views)
        spec = next(view.specs[view.tied[name]] for view in views if name in view.tied)
        floats = (
            *(each for each, other in views[0].specs.items() if other.is_float),
            *((name,) if spec.is_float else ()),
        )
        selector = self._selection.selector(words, floats, tuple(other for other in among if other != name))
        return name in self._selection.reached(target, selector, places_of(target, selector))

    def in_dtype(self, specs: Mapping[str, Spec], dtype: str | None) -> Mapping[str, Spec]:
        """Return `rounded`, as the same object for the same `specs`, which a frame keeps alive."""
        found = self._rounded.get((id(specs), dtype))
        if found is None:
            found = self._rounded[id(specs), dtype] = rounded(specs, dtype)
        return found


def _only_in(view: View, first: View) -> tuple[str, ...]:
    """Return the floating-point tensors that an input has and the first one lacks, without constants."""
    return tuple(
        name
        for name, spec in view.specs.items()
        if name not in first.specs and spec.is_float and not is_constant(name, spec.shape)
    )


def _taken_up(target: Target, draft: FrameDraft, meeting: Meeting) -> frozenset[str]:
    """Return the tensors that the target's method changes."""
    shapes = {
        name: meeting.shapes.get(name, draft.specs[name].shape)
        for name in draft.floats
        if name in draft.alike or name in draft.outside or name in meeting.shapes
    }
    return frozenset(target.making.taken_up(shapes, words_of(target))) - draft.outside


def _specs_made(draft: FrameDraft, taken: Container[str], meeting: Meeting) -> Mapping[str, Spec]:
    """Return the tensors of a frame, in the shapes of the inputs of which they are made."""
    specs = draft.specs
    reshaped = {
        name: specs[name]._replace(shape=meeting.shapes[name])
        for name in meeting.made
        if name in taken and meeting.shapes[name] != specs[name].shape
    }
    return {**specs, **reshaped} if reshaped else specs


def _made(target: Target, draft: FrameDraft, taken: Container[str], meeting: Meeting) -> Frame:
    """Return a frame without accounts."""
    specs = _specs_made(draft, taken, meeting)
    kinds, recipes = _sorted_into_kinds(target, specs, draft, taken, meeting.made)
    first = draft.views[0]
    copies = {name: first.tied[name] for name in first.copies if first.tied[name] in specs and name not in specs}
    if copies:
        specs = {**specs, **{name: specs[other] for name, other in copies.items()}}
        kinds = Kinds({**kinds.of, **{name: kinds.of[other] for name, other in copies.items()}}, specs)
    return Frame(specs, kinds, recipes, draft.selector, draft.places, (), {})


def _sorted_into_kinds(
    target: Target, specs: Mapping[str, Spec], draft: FrameDraft, taken: Container[str], made: Mapping[str, Usage]
) -> tuple[Kinds, tuple[KindPlan, ...]]:
    """Return the kinds of a target's tensors, in the order of each kind's first tensor, and how each kind is made.

    Args:
        target: The target, or one that is made alike.
        specs: Its tensors.
        draft: Its draft.
        taken: The tensors that its method changes.
        made: For tensors that differ between inputs, which inputs each is made of.
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


def _planned(name: str, draft: FrameDraft, use: Usage | None, *, is_taken: bool) -> KindPlan:
    """Return how a tensor is made. `use`: the inputs that it is made of, unless all inputs have it alike."""
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
    """Return the index of the input that is read for each of `count` inputs; a used one for those that are not used."""
    return tuple(at if at in used else min(used, default=0) for at in range(count))
