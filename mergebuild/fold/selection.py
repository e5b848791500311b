"""Which tensors a target's selectors select, and which numbers reach them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

from mergebuild.fold.numbers import (
    check_range,
    defaults_of,
    given_of,
    places_of,
    reached_by_amounts,
    reaching,
    values_of,
)
from mergebuild.fold.view import View
from mergebuild.layouts import Layout, Parts, Patience, Places, Selector, no_parts
from mergebuild.naming.spelling import AS_IS
from mergebuild.recipe.model import Target

__all__ = ["TensorSelection", "Vocabulary"]

_ZERO = Fraction(0)
NO_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


class Vocabulary(NamedTuple):
    """The names that keys may use, besides the names of tensors."""

    layout: Layout | None
    spellings: Mapping[str, tuple[str, ...]] = NO_SPELLINGS
    """Other names of tensors in the inputs' files; the same object for the same inputs."""
    parts: Parts = no_parts
    """Returns the parts of the first input by the rules of names."""
    shared: Mapping[str, frozenset[str]] = MappingProxyType({})
    """By tensor that is several stored tensors in an input, their names."""


class TensorSelection:
    """Resolves selectors over the tensors of targets, and caches the results."""

    def __init__(self, parts_of: Callable[[View], Mapping[str, re.Pattern[str]]]) -> None:
        """`parts_of`: returns the parts of an input by the rules of names, by what people call them."""
        self._parts_of = parts_of
        self._selectors: dict[tuple[object, ...], tuple[Selector, Vocabulary]] = {}
        self._spellings: dict[object, tuple[Mapping[str, tuple[str, ...]], Sequence[View]]] = {}
        """By the spellings and ties of views, which are kept alive."""
        self._patience = Patience()

    def vocabulary(self, views: Sequence[View], *, with_ties: bool = True) -> Vocabulary:
        """Return the names that keys of a target with these inputs may use; the first input's take precedence.

        `with_ties`: whether a tied name may be used for the tensor whose values it has.
        """
        parts = partial(self._parts_of, views[0])
        spelled = [view for view in views if view.spelling is not AS_IS or view.tied]
        if not spelled:
            return Vocabulary(views[0].layout, parts=parts)
        own = {name for view in spelled for name in view.tied if name in views[0].specs}
        key = (with_ties, frozenset(own), *((id(view.spelling), id(view.tied)) for view in spelled))
        if key not in self._spellings:
            self._spellings[key] = (_other_names(spelled, own, with_ties=with_ties), spelled)
        return Vocabulary(views[0].layout, self._spellings[key][0], parts, _shared(spelled))

    def selector(self, words: Vocabulary, names: tuple[str, ...], among: tuple[str, ...] = ()) -> Selector:
        """Return the selector of numbers over these tensors, of which keys may select others, too; made once."""
        layout = words.layout
        key = (layout.name if layout else None, names, id(words.spellings), among)
        found = self._selectors.get(key)
        if found is None:
            found = self._selectors[key] = (
                Selector(layout, names, self._patience, words.spellings, words.parts, words.shared, among=among),
                words,
            )
        return found[0]

    def forgiving(self, words: Vocabulary, names: tuple[str, ...]) -> Selector:
        """Return a selector over tensors that the recipe's keys need not be meant for."""
        return Selector(words.layout, names, self._patience, words.spellings, words.parts, words.shared, forgiving=True)

    def dropped(self, target: Target, views: Sequence[View], names: Iterable[str]) -> frozenset[str]:
        """Return which of some tensors, and of tied names, the target's `drop` selects.

        Dropping the head of a tied model drops the name, not the embedding.
        """
        every = dict.fromkeys((*names, *(name for view in views for name in view.tied)))
        return self.selector(self.vocabulary(views, with_ties=False), tuple(every)).select(target.drop)

    def select(self, target: Target, which: str, words: Vocabulary, names: Sequence[str]) -> frozenset[str]:
        """Return which of some tensors the target's `merge` or `drop` (`which`) selects."""
        selectors = target.drop if which == "drop" else target.merge or ()
        return self.selector(words, tuple(names)).select(selectors)

    def reached(self, target: Target, selector: Selector, places: Sequence[Places]) -> frozenset[str]:
        """Return the tensors that the target's amounts reach and its `merge` selects; all tensors if it has neither."""
        found = reached_by_amounts(target, selector.names, places)
        return found if target.merge is None else found & selector.select(target.merge)

    def chosen(self, target: Target, words: Vocabulary, names: tuple[str, ...]) -> frozenset[str]:
        """Return the weights for which a LoRA is made, of those that it could be made for."""
        chosen = frozenset(names) if target.merge is None else self.select(target, "merge", words, names)
        return chosen - self.select(target, "drop", words, names) if target.drop else chosen

    def numbers(
        self, target: Target, words: Vocabulary, names: tuple[str, ...]
    ) -> Callable[[str], Mapping[str, Fraction | tuple[Fraction, ...]]]:
        """Return a function from a weight to the numbers that reach it, by parameter.

        Without a default they are 0 elsewhere.

        Raises:
            RecipeError: a selector selects nothing. The function raises it too, if a number is out of the method's
                range.
        """
        selector = self.selector(words, names)
        places = places_of(target, selector)
        values = values_of(target, selector, places)
        defaults = [default or _ZERO for default in defaults_of(target)]
        method = target.row
        assert method is not None

        def found(name: str) -> Mapping[str, Fraction | tuple[Fraction, ...]]:
            given = given_of(target, reaching(values, defaults, [place.of.get(name) for place in places]))
            check_range(target, method, given, name)
            return given

        return found


def _other_names(views: Sequence[View], own: Collection[str], *, with_ties: bool) -> Mapping[str, tuple[str, ...]]:
    """Return other names of tensors: those in the inputs' files, and tied names, except those in `own`."""
    found: dict[str, tuple[str, ...]] = {}
    for view in reversed(views):
        found |= {name: (other,) for name, other in view.tied.items() if name not in own} if with_ties else {}
        found |= view.spelling.aliases
    return found


def _shared(views: Sequence[View]) -> Mapping[str, frozenset[str]]:
    """Return the tensors that are several stored tensors in an input, with the names of these."""
    shared: dict[str, frozenset[str]] = {}
    for view in reversed(views):
        shared |= view.spelling.shared
    return shared
