"""Frames: what targets have in common that are made alike, whatever the values of their numbers.

A frame says which tensors there are, which of them are merged and which are one input's, and which value of each number
reaches which tensor. Members of a family share one; the values are put in afterwards.

Where all inputs have the same tensors in the same shapes, that is all. Where one lacks a tensor, or has it in another
shape, it matters which inputs the tensor is made of: one whose number is 0 there need not have it. So a frame is made
in two steps. A `Draft` is everything that no value decides; a frame is that, for one pattern of which inputs are used
where. Members whose numbers are 0 in the same places share it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import Problem, RecipeError
from mergebuild.fold import compatible
from mergebuild.fold.counterparts import Accounting, Side, Spec, bytes_of
from mergebuild.fold.forms import Form, Kinds, rounded
from mergebuild.fold.likeness import Likeness
from mergebuild.fold.numbers import (
    Usage,
    defaults_of,
    items,
    listed,
    places_of,
    reached_by_amounts,
    structures,
    used_of,
    words_of,
)
from mergebuild.fold.selection import TensorSelection
from mergebuild.fold.views import VIEW_LIKENESS, View, Views
from mergebuild.layouts import Places, Selector
from mergebuild.naming.canonical import is_constant
from mergebuild.recipe.model import SelectorText, Target

__all__ = ["ALL", "LIKENESS", "Draft", "Frame", "Frames", "KindPlan", "Scope"]

_ZERO = Fraction(0)

Pattern = tuple[Usage, ...]
"""Which inputs are used in each situation of a draft."""


class Scope(NamedTuple):
    """Which tensors a target makes itself, where rules and components make others."""

    names: frozenset[str] | None = None
    """Of the tensors that there are; None: all of them."""
    within: tuple[SelectorText, ...] = ()
    """Of a rule: what it selects."""
    without: tuple[SelectorText, ...] = ()
    """What rules that come over it select."""
    components: tuple[re.Pattern[str], ...] = ()
    """What components that come from elsewhere are called."""


ALL = Scope()
"""The scope of a target without rules and components."""

_FIRST = frozenset({0})
"""The first input alone."""


class KindPlan(NamedTuple):
    """How the tensors of one kind are made."""

    inputs: tuple[int, ...]
    """The kind of each input's tensor; of one input's alone, where it is just that."""
    values: tuple[int | None, ...] | None
    """Which value of each number reaches it (None: none does); None where the tensor is just an input's."""
    name: str
    """The first tensor of the kind; the only one, where the method's numbers depend on the name."""
    owner: int = 0
    """Which input's it is, where it is just that."""
    read: tuple[int, ...] = ()
    """By input, whose tensor is read: another's stands in for one that does not matter. Empty: each its own."""


class Frame(NamedTuple):
    """What targets that are made alike have in common: everything but the values of their numbers."""

    specs: Mapping[str, Spec]
    kinds: Kinds
    recipes: tuple[KindPlan, ...]
    """By kind."""
    selector: Selector
    places: tuple[Places, ...]
    """By number, those of a list one by one."""
    accounts: tuple[tuple[int, Accounting], ...]
    """By place, the inputs of which something takes no part, as of the target that it was made for."""
    forms: dict[tuple[object, ...], Form]
    """What was combined so far, by the numbers, the name where it matters, and the inputs' forms by id."""


class _Reach(NamedTuple):
    """Some tensors, and which value of each number reaches them."""

    names: tuple[str, ...]
    selector: Selector
    places: tuple[Places, ...]

    def values(self, name: str) -> tuple[int | None, ...]:
        """Return which value of each number reaches a tensor."""
        return tuple(each.of.get(name) for each in self.places)


_Situation = tuple[int, tuple[int | None, ...], str]
"""A reach of a draft, the values that reach a tensor there, and its name where the method's numbers depend on it."""


@dataclass(frozen=True, eq=False)
class Draft:
    """What targets have in common that are made alike, before any value of a number is looked at."""

    views: tuple[View, ...]
    """Of the target that it was made for: they keep alive what it is found by."""
    specs: Mapping[str, Spec]
    floats: tuple[str, ...]
    selector: Selector
    places: tuple[Places, ...]
    reached: frozenset[str]
    """The tensors that are to be merged."""
    alike: frozenset[str]
    """Those of them that all inputs have in one shape."""
    outside: frozenset[str] = frozenset()
    """The tensors that it would merge like them and that others make, as rules say: a method of several tensors
    together is refused a part of them, and not silently without them."""
    reaches: tuple[_Reach, ...] = ()
    """Where something is not alike: what the first input is asked for, and what only each other input has."""
    situations: tuple[_Situation, ...] = ()
    """Each once. None where all inputs have the same tensors in the same shapes."""
    frames: dict[Pattern, Frame] = field(default_factory=dict)
    makings: dict[tuple[tuple[str, Usage], ...], Frame] = field(default_factory=dict)
    """Frames without accounts, by what becomes of tensors that are not alike: patterns may come to the same."""
    usages: dict[tuple[object, ...], Usage] = field(default_factory=dict)
    """What was found out by numbers that reach a tensor."""

    def pattern(self, target: Target) -> Pattern:
        """Return which inputs a target uses in each situation.

        Raises:
            RecipeError: the method has no value for the target's numbers.
        """
        if not self.situations:
            return ()
        defaults = [default or _ZERO for default in defaults_of(target)]
        numbers = [number for each in target.numbers.values() for number in listed(each)]
        values = [
            [reach.selector.values(*each) for each in zip(numbers, reach.places, strict=True)] for reach in self.reaches
        ]
        found: list[Usage] = []
        for which, places, name in self.situations:
            reaching = [
                default if index is None else each[index]
                for each, default, index in zip(values[which], defaults, places, strict=True)
            ]
            key = (bool(which), name, *[each.as_integer_ratio() for each in reaching])  # a fraction is slow to hash
            usage = self.usages.get(key)
            if usage is None:
                usage = self.usages[key] = self._usage(target, reaching, name, needed=not which)
            found.append(usage)
        return tuple(found)

    def _usage(self, target: Target, values: Sequence[Fraction], name: str, *, needed: bool) -> Usage:
        """Return which inputs a tensor is made of; `needed`: whether it is, or there is no such tensor."""
        try:
            return used_of(target, values, name)
        except RecipeError:
            if needed:
                raise
            return Usage(frozenset(range(len(target.inputs))))


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
        "architectures": "decides between an error and the same result",
        "on_channels": "decides which tensors an input's view has, and the view is in the key",
        "rules": "each rule is a target with a frame of its own",
        "row": "what `method` names, and a recipe has one of each name",
        "kin": "stands for the other fields",
    },
    seen_as={
        "inputs": lambda inputs: tuple(each.role for each in inputs),  # the rest of an input is its view
        "numbers": structures,  # the values are put into the frame
        "flags": items,
        "words": items,
        "formula": lambda formula: formula.text if formula else "",
    },
)
"""What of a target, beside its inputs and the values of its numbers, decides how tensors are made."""


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
        common = frozenset(name for name in every - refused if _has(views, name, specs[name].shape))
        alike = reached & common
        draft = Draft(views, specs, floats, selector, places, reached, alike, common - reached)
        left = (
            ()
            if target.making.union_of_tensors
            else [self._left(target, views, at, scope) for at in range(1, len(views))]
        )
        if alike == reached and not any(reach.names for reach in left):
            return draft
        reaches = (_Reach(tuple(name for name in floats if name in reached), selector, places), *left)
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

    def _left(self, target: Target, views: Sequence[View], at: int, scope: Scope) -> _Reach:
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
        return _Reach(tuple(kept), selector, places)

    def _framed(self, target: Target, views: tuple[View, ...], draft: Draft, pattern: Pattern) -> Frame:
        """Return what a target has in common with others; refuse inputs that do not fit."""
        meeting = _Meeting(target, views, draft, pattern)
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


class _Meeting:
    """What becomes of tensors that not all inputs have alike, once it is known which inputs are used where."""

    def __init__(self, target: Target, views: tuple[View, ...], draft: Draft, pattern: Pattern) -> None:
        self._views = views
        self._draft = draft
        self._counts = not target.making.union_of_tensors
        """Whether what takes no part is of interest: not where what the first lacks is another's."""
        self._used = dict(zip(draft.situations, pattern, strict=True))
        self._by_name = target.making.shares_by_name
        self.made: dict[str, Usage] = {}
        """What tensors are made of, where it is more than the first input's: these have them in one shape."""
        self.unequal: dict[str, frozenset[int]] = {}
        """By tensor, the inputs that it would be made of, and have it in several shapes."""
        self.refused: dict[str, Problem] = {}
        """By tensor, why an input that it would be made of can't take part."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of the tensors that are made, and of those that would be if the inputs agreed."""
        self._lacking: dict[int, list[str]] = {at: [] for at in range(len(self._views))}
        """By input, the tensors that it lacks, and that would be made of it."""
        for name in draft.reaches[0].names if draft.reaches else ():
            if name not in draft.alike:
                self._meet(name)

    def _meet(self, name: str) -> None:
        use = self.use(0, name)
        lacking = [at for at in sorted(use.inputs) if not _has(self._views[at : at + 1], name)]
        for at in lacking:
            self._lacking[at].append(name)
        if lacking or (use.is_itself and use.inputs == _FIRST):
            return
        barred = [at for at in sorted(use.inputs) if name in self._views[at].refused]
        if barred:
            whole = self._taken_whole(name, use, barred)
            if whole is None:
                self.refused[name] = self._views[barred[0]].refused[name]
                self.shapes[name] = self._draft.specs[name].shape
                return
            use = whole
        shapes = [self._views[at].specs[name].shape for at in sorted(use.inputs)] or [self._draft.specs[name].shape]
        if len(set(shapes)) == 1:
            self.made[name] = use
            self.shapes[name] = shapes[0]
        else:
            self.unequal[name] = use.inputs
            self.shapes[name] = self._draft.specs[name].shape

    def _taken_whole(self, name: str, use: Usage, barred: Sequence[int]) -> Usage | None:
        """Return that a tensor is a LoRA's, where one has it whole and is the only one there, with the factor 1."""
        loras = [at for at in sorted(use.inputs) if self._views[at].delta]
        if loras == list(barred) and len(loras) == 1 and loras[0] in use.ones and name in self._views[loras[0]].whole:
            return Usage(frozenset(loras), is_itself=True)
        return None

    def use(self, reach: int, name: str) -> Usage:
        """Return which inputs a tensor of a reach is made of."""
        values = self._draft.reaches[reach].values(name)
        return self._used[reach, values, name if self._by_name else ""]

    def accounts(self) -> tuple[tuple[int, Accounting], ...]:
        """Return what of each input takes part, by the place of those of which some does not."""
        if not self._draft.situations or not self._counts:
            return ()
        used = {name: self.use(0, name).inputs for name in self._draft.reaches[0].names}
        found = ((at, self._account(at, used)) for at, view in enumerate(self._views) if at and not view.delta)
        return tuple((at, each) for at, each in found if not each.is_even)

    def _account(self, at: int, used: Mapping[str, frozenset[int]]) -> Accounting:
        first, view = self._views[0], self._views[at]
        asked = [name for name, each in used.items() if at in each]
        there = [name for name in asked if _has((view,), name)]
        part = [name for name in there if name in self._draft.alike or name in self.made or name in self.unequal]
        left = tuple(name for name in self._draft.reaches[at].names if at in self.use(at, name).inputs)
        lacking = tuple(self._lacking[at])
        mine, theirs = self._draft.specs, view.specs
        return Accounting(
            Side(first.input.ref, first.layout, mine, bytes_of(mine, asked), bytes_of(mine, part), lacking),
            Side(
                view.input.ref,
                view.layout or first.layout,
                theirs,
                bytes_of(theirs, there) + bytes_of(theirs, left),
                bytes_of(theirs, part),
                left,
            ),
        )


def _has(views: Sequence[View], name: str, shape: tuple[int, ...] | None = None) -> bool:
    """Whether all of some inputs have a tensor, of floating-point numbers, and of a shape where one is given."""
    for view in views:
        spec = view.specs.get(name)
        if spec is None or not spec.is_float or (shape is not None and spec.shape != shape):
            return False
    return True


def _made(target: Target, draft: Draft, taken: Container[str], meeting: _Meeting) -> Frame:
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
    views, by_name = draft.views, target.making.shares_by_name
    of: dict[str, int] = {}
    recipes: dict[tuple[object, ...], KindPlan] = {}
    numbers: dict[tuple[object, ...], int] = {}
    for name in specs:
        use = made.get(name)
        owner: int | None = None
        if name not in taken or (use is None and name not in draft.alike):
            owner = next(at for at, view in enumerate(views) if name in view.specs)
        elif use is not None and use.is_itself:
            owner = min(use.inputs)
        if owner is not None:
            key: tuple[object, ...] = (owner, views[owner].kind(name))
            recipe = KindPlan((views[owner].kind(name),), None, name, owner)
        else:
            read = () if use is None else _read(use.inputs, len(views))
            inputs = tuple(views[at].kind(name) for at in read or range(len(views)))
            values = tuple(each.of.get(name) for each in draft.places)
            key = (inputs, values, name if by_name else "", read)
            recipe = KindPlan(inputs, values, name, read=read)
        recipes.setdefault(key, recipe)
        of[name] = numbers.setdefault(key, len(numbers))
    return Kinds(of, specs), tuple(recipes.values())


def _read(used: frozenset[int], count: int) -> tuple[int, ...]:
    """Return whose tensor is read for each of `count` inputs; that of one that is used stands in for the others."""
    return tuple(at if at in used else min(used, default=0) for at in range(count))
