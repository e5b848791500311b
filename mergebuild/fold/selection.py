"""Which tensors a target's selectors select, and which numbers reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from mergebuild.fold.numbers import check_range, defaults_of, given_of, listed, places_of
from mergebuild.layouts import Layout, Patience, Places, Selector
from mergebuild.recipe.model import Target

__all__ = ["TensorSelection"]

_ZERO = Fraction(0)


class TensorSelection:
    """Resolves selectors over the tensors of targets; what was resolved once is kept."""

    def __init__(self) -> None:
        self._selectors: dict[tuple[str | None, tuple[str, ...]], Selector] = {}
        self._patience = Patience()

    def selector(self, layout: Layout | None, names: tuple[str, ...]) -> Selector:
        """Return what resolves numbers per tensor over these names, made once."""
        key = (layout.name if layout else None, names)
        found = self._selectors.get(key)
        if found is None:
            found = self._selectors[key] = Selector(layout, names, self._patience)
        return found

    def select(self, target: Target, which: str, names: Sequence[str], layout: Layout | None) -> frozenset[str]:
        """Return which of some tensors the target's `merge` or `drop` (`which`) selects."""
        selectors = target.drop if which == "drop" else target.merge or ()
        return self.selector(layout, tuple(names)).select(selectors)

    def reached(
        self, target: Target, floats: tuple[str, ...], places: Sequence[Places], layout: Layout | None
    ) -> frozenset[str]:
        """Return the tensors that the target's amounts reach; all of them where it has none."""
        amounts = [each for each, default in zip(places, defaults_of(target), strict=True) if default is None]
        reached = frozenset().union(*(each.of for each in amounts)) if amounts else frozenset(floats)
        return reached if target.merge is None else reached & self.select(target, "merge", floats, layout)

    def chosen(self, target: Target, layout: Layout | None, names: tuple[str, ...]) -> frozenset[str]:
        """Return which weights a LoRA is made for, of those that it could be."""
        chosen = frozenset(names) if target.merge is None else self.select(target, "merge", names, layout)
        return chosen - self.select(target, "drop", names, layout) if target.drop else chosen

    def numbers(
        self, target: Target, layout: Layout | None, names: tuple[str, ...]
    ) -> Callable[[str], Mapping[str, Fraction | tuple[Fraction, ...]]]:
        """Return what gives the numbers that reach a weight, by parameter; 0 where none does and there is no default.

        Raises:
            RecipeError: a selector selects nothing; and the function: a number is out of the method's range.
        """
        selector = self.selector(layout, names)
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
