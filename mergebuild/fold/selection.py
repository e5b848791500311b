"""Which tensors a target's selectors select, and which numbers reach them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

from mergebuild.fold.numbers import check_range, defaults_of, given_of, listed, places_of, reached_by_amounts
from mergebuild.fold.view import View
from mergebuild.layouts import Layout, Parts, Patience, Places, Selector, no_parts
from mergebuild.naming.spelling import AS_IS
from mergebuild.recipe.model import Target

__all__ = ["TensorSelection", "Vocabulary"]

_ZERO = Fraction(0)
NO_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


class Vocabulary(NamedTuple):
    """What keys may name, beside the names of tensors."""

    layout: Layout | None
    spellings: Mapping[str, tuple[str, ...]] = NO_SPELLINGS
    """What inputs call tensors, where that is another name; the same object for the same inputs."""
    parts: Parts = no_parts
    """Gives the parts of the first input that the rules of names know."""
    shared: Mapping[str, frozenset[str]] = MappingProxyType({})
    """By tensor that is several in an input, what that calls these."""


class TensorSelection:
    """Resolves selectors over the tensors of targets; what was resolved once is kept."""

    def __init__(self, parts_of: Callable[[View], Mapping[str, re.Pattern[str]]]) -> None:
        """`parts_of`: gives the parts of an input that the rules of names know, by what they are called."""
        self._parts_of = parts_of
        self._selectors: dict[tuple[str | None, tuple[str, ...], int], tuple[Selector, Vocabulary]] = {}
        self._spellings: dict[object, tuple[Mapping[str, tuple[str, ...]], Sequence[View]]] = {}
        """By the spellings and ties of views, which are kept alive."""
        self._patience = Patience()

    def vocabulary(self, views: Sequence[View], *, with_ties: bool = True) -> Vocabulary:
        """Return what keys of a target with these inputs may name; where they differ, the first input's word counts.

        `with_ties`: whether the name of a tie is another one of the tensor whose values it has.
        """
        parts = partial(self._parts_of, views[0])
        spelled = [view for view in views if view.spelling is not AS_IS or view.tied]
        if not spelled:
            return Vocabulary(views[0].layout, parts=parts)
        own = {name for view in spelled for name in view.tied if name in views[0].specs}
        key = (with_ties, frozenset(own), *((id(view.spelling), id(view.tied)) for view in spelled))
        if key not in self._spellings:
            found: dict[str, tuple[str, ...]] = {}
            for view in reversed(spelled):
                found |= {name: (other,) for name, other in view.tied.items() if name not in own} if with_ties else {}
                found |= view.spelling.aliases
            self._spellings[key] = (found, spelled)
        shared: dict[str, frozenset[str]] = {}
        for view in reversed(spelled):
            shared |= view.spelling.shared
        return Vocabulary(views[0].layout, self._spellings[key][0], parts, shared)

    def selector(self, words: Vocabulary, names: tuple[str, ...]) -> Selector:
        """Return what resolves numbers per tensor over these names, made once."""
        layout = words.layout
        key = (layout.name if layout else None, names, id(words.spellings))
        found = self._selectors.get(key)
        if found is None:
            found = self._selectors[key] = (
                Selector(layout, names, self._patience, words.spellings, words.parts, words.shared),
                words,
            )
        return found[0]

    def forgiving(self, words: Vocabulary, names: tuple[str, ...]) -> Selector:
        """Return what resolves numbers over tensors that a recipe may well say nothing of."""
        return Selector(words.layout, names, self._patience, words.spellings, words.parts, words.shared, forgiving=True)

    def dropped(self, target: Target, views: Sequence[View], names: Iterable[str]) -> frozenset[str]:
        """Return which of some tensors, and of the names of ties, the target's `drop` selects.

        Who drops the head of a tied model drops the name, not the embedding that it is.
        """
        every = dict.fromkeys((*names, *(name for view in views for name in view.tied)))
        return self.selector(self.vocabulary(views, with_ties=False), tuple(every)).select(target.drop)

    def select(self, target: Target, which: str, words: Vocabulary, names: Sequence[str]) -> frozenset[str]:
        """Return which of some tensors the target's `merge` or `drop` (`which`) selects."""
        selectors = target.drop if which == "drop" else target.merge or ()
        return self.selector(words, tuple(names)).select(selectors)

    def reached(
        self, target: Target, words: Vocabulary, floats: tuple[str, ...], places: Sequence[Places]
    ) -> frozenset[str]:
        """Return the tensors that the target's amounts reach; all of them where it has none."""
        found = reached_by_amounts(target, floats, places)
        return found if target.merge is None else found & self.select(target, "merge", words, floats)

    def chosen(self, target: Target, words: Vocabulary, names: tuple[str, ...]) -> frozenset[str]:
        """Return which weights a LoRA is made for, of those that it could be."""
        chosen = frozenset(names) if target.merge is None else self.select(target, "merge", words, names)
        return chosen - self.select(target, "drop", words, names) if target.drop else chosen

    def numbers(
        self, target: Target, words: Vocabulary, names: tuple[str, ...]
    ) -> Callable[[str], Mapping[str, Fraction | tuple[Fraction, ...]]]:
        """Return what gives the numbers that reach a weight, by parameter; 0 where none does and there is no default.

        Raises:
            RecipeError: a selector selects nothing; and the function: a number is out of the method's range.
        """
        selector = self.selector(words, names)
        places = places_of(target, selector)
        numbers = (number for each in target.numbers.values() for number in listed(each))
        values = [selector.values(*each) for each in zip(numbers, places, strict=True)]
        defaults = [default or _ZERO for default in defaults_of(target)]
        method = target.row
        assert method is not None

        def found(name: str) -> Mapping[str, Fraction | tuple[Fraction, ...]]:
            reaching = [
                each[place.of[name]] if name in place.of else default
                for each, place, default in zip(values, places, defaults, strict=True)
            ]
            given = given_of(target, reaching)
            check_range(target, method, given, name)
            return given

        return found
