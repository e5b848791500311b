"""Frames: what targets have in common that are made alike, whatever the values of their numbers.

A frame says which tensors there are, which of them are merged and which are one input's, and which value of each number
reaches which tensor. Members of a family share one; the values are put in afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mergebuild.fold import compatible
from mergebuild.fold.compatible import Spec
from mergebuild.fold.forms import Form, Kinds, rounded
from mergebuild.fold.likeness import Likeness
from mergebuild.fold.numbers import items, places_of, structures, words_of
from mergebuild.fold.selection import TensorSelection
from mergebuild.fold.views import VIEW_LIKENESS, View, Views
from mergebuild.layouts import Places, Selector
from mergebuild.recipe.model import Target

__all__ = ["LIKENESS", "Frame", "Frames", "KindPlan"]


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


class Frame(NamedTuple):
    """What targets that are made alike have in common: everything but the values of their numbers."""

    views: tuple[View, ...]
    """Of the target that it was made for: they keep alive what the frame is found by."""
    specs: Mapping[str, Spec]
    kinds: Kinds
    recipes: tuple[KindPlan, ...]
    """By kind."""
    selector: Selector
    places: tuple[Places, ...]
    """By number, those of a list one by one."""
    missing: tuple[int, ...]
    """By input but the first, as `Blueprint.missing`; so `left_out`."""
    left_out: tuple[int, ...]
    forms: dict[tuple[object, ...], Form]
    """What was combined so far, by the numbers, the name where it matters, and the inputs' forms by id."""


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
    """Makes frames, each once."""

    def __init__(self, views: Views, selection: TensorSelection) -> None:
        self._views = views
        self._selection = selection
        self._frames: dict[tuple[object, ...], Frame] = {}
        self._rounded: dict[tuple[int, str | None], Mapping[str, Spec]] = {}

    def frame(self, target: Target, views: tuple[View, ...]) -> Frame:
        """Return what a target has in common with all that are made like it; ties of its inputs are `untied` before.

        Raises:
            RecipeError: a selector selects nothing.
            MismatchError: the inputs do not fit together.
        """
        likeness = (LIKENESS(target), *map(VIEW_LIKENESS, views))
        found = self._frames.get(likeness)
        if found is None:
            found = self._frames[likeness] = self._made(target, views)
        return found

    def _made(self, target: Target, views: tuple[View, ...]) -> Frame:
        """Return what a target has in common with all that are made like it; refuse inputs that do not fit."""
        first, others = views[0], views[1:]
        union = target.making.union_of_tensors
        words = self._selection.vocabulary(views)
        specs = (
            first.specs if not union else {name: spec for view in reversed(views) for name, spec in view.specs.items()}
        )
        if target.drop:
            dropped = self._selection.select(target, "drop", words, list(specs))
            specs = {name: spec for name, spec in specs.items() if name not in dropped}
        floats = tuple(name for name, spec in specs.items() if spec.is_float)
        selector = self._selection.selector(words, floats)
        places = places_of(target, selector)
        reached = self._selection.reached(target, words, floats, places)
        shapes = {
            name: specs[name].shape
            for name in floats
            if name in reached and all(name in view.specs and view.specs[name].is_float for view in views)
        }
        common = target.making.taken_up(shapes, words_of(target))
        offers = [self._views.offer(view) for view in views]
        compatible.check(target, offers, common)
        missing = tuple(
            0 if union else sum(name in reached and name not in view.specs for name in floats) for view in others
        )
        left_out = tuple(0 if union else sum(name not in first.specs for name in view.specs) for view in others)
        compatible.check_missing(target, [view.input.ref for view in others], missing, left_out)
        kinds, recipes = _sorted_into_kinds(target, specs, views, set(common), places)
        copies = {name: first.tied[name] for name in first.copies if first.tied[name] in specs and name not in specs}
        if copies:
            specs = {**specs, **{name: specs[other] for name, other in copies.items()}}
            kinds = Kinds({**kinds.of, **{name: kinds.of[other] for name, other in copies.items()}}, specs)
        return Frame(views, specs, kinds, recipes, selector, places, missing, left_out, {})

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
        return views

    def _takes_part(self, target: Target, views: tuple[View, ...], name: str) -> bool:
        """Whether a tensor that the first input has as a tie is merged with one that another input has itself."""
        words = self._selection.vocabulary(views)
        spec = views[0].specs[views[0].tied[name]]
        floats = (
            *(each for each, other in views[0].specs.items() if other.is_float),
            *((name,) if spec.is_float else ()),
        )
        places = places_of(target, self._selection.selector(words, floats))
        return name in self._selection.reached(target, words, floats, places)

    def in_dtype(self, specs: Mapping[str, Spec], dtype: str | None) -> Mapping[str, Spec]:
        """Return `_rounded`, the same object for the same specs, which a frame keeps alive."""
        found = self._rounded.get((id(specs), dtype))
        if found is None:
            found = self._rounded[id(specs), dtype] = rounded(specs, dtype)
        return found


def _sorted_into_kinds(
    target: Target,
    specs: Mapping[str, Spec],
    views: Sequence[View],
    combined: set[str],
    places: Sequence[Places],
) -> tuple[Kinds, tuple[KindPlan, ...]]:
    """Return the kinds of a target's tensors, in the order of the first tensor of each, and how each is made."""
    by_name = target.making.shares_by_name
    of: dict[str, int] = {}
    recipes: dict[tuple[object, ...], KindPlan] = {}
    numbers: dict[tuple[object, ...], int] = {}
    for name in specs:
        if name in combined:
            inputs = tuple(view.kind(name) for view in views)
            values = tuple(each.of.get(name) for each in places)
            key: tuple[object, ...] = (inputs, values, name if by_name else "")
            recipe = KindPlan(inputs, values, name)
        else:
            owner = next(index for index, view in enumerate(views) if name in view.specs)
            key = (owner, views[owner].kind(name))
            recipe = KindPlan((views[owner].kind(name),), None, name, owner)
        recipes.setdefault(key, recipe)
        of[name] = numbers.setdefault(key, len(numbers))
    return Kinds(of, specs), tuple(recipes.values())
