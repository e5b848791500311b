"""From the keys of a number per tensor to the number that reaches each tensor.

Keys apply in order, and the last one that selects a tensor decides; a tensor that none selects gets no number. What a
key selects depends on the layout and the tensors' names only, never on numbers, so a `Selector` remembers it: a
thousand members of a sweep with the same keys cost one selection. A key that selects nothing, or that later keys
override completely, is a mistake; all mistakes are reported at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

from mergebuild.errors import Place, Problem, RecipeError, clipped
from mergebuild.layouts.blocks import drawn_together
from mergebuild.layouts.gradients import at, positions
from mergebuild.layouts.keys import BadSelectorError, Keys, Names, Parts, near, no_parts
from mergebuild.layouts.layout import Layout
from mergebuild.layouts.patience import Patience
from mergebuild.layouts.presets import PRESETS, preset_blocks, preset_numbers
from mergebuild.recipe.model import (
    Constant,
    Elemental,
    Gradient,
    Mbw,
    NumberPerTensor,
    Preset,
    Rule,
    SelectorText,
)

__all__ = ["Places", "Selector", "resolve", "select", "selector_for", "structure"]

_EVERYTHING = frozenset({"default", "mbw", "preset", "elemental"})
_REMEMBERED = 64


_ONE_NUMBER = (Constant, Elemental)
"""Types of values that are one number for all blocks."""


class _Win(NamedTuple):
    """The tensors for which the rule with this index decides."""

    rule: int
    names: Names


class Places(NamedTuple):
    """Which value of a number each tensor gets.

    `of` has an index into `values` by tensor name; tensors that no value reaches are absent.
    """

    of: Mapping[str, int]
    values: tuple[tuple[int, str | None], ...]
    """For each value the index of its rule, and the block if the rule has one number per block."""


class Selector:
    """Gives numbers to one set of tensors. `names` are the tensors that numbers can reach. Remembers selections."""

    def __init__(
        self,
        layout: Layout | None,
        names: Sequence[str],
        patience: Patience | None = None,
        spellings: Mapping[str, Names] = MappingProxyType({}),
        parts: Parts = no_parts,
        shared: Mapping[str, Collection[str]] = MappingProxyType({}),
        *,
        forgiving: bool = False,
        among: Sequence[str] = (),
    ) -> None:
        """Take the tensors; the other arguments are those of `Keys`.

        `forgiving`: a key that selects nothing is no mistake, because it is meant for other tensors than these.
        `among`: other tensors that keys may select, too. They get no numbers, and no gradient runs over them.
        """
        self.layout = layout
        self._forgiving = forgiving
        self.names: Names = tuple(names)
        self._every: Names = (*self.names, *among)
        self._keys = Keys(layout, self._every, patience, spellings, parts, shared)
        self._positions: Mapping[str, Fraction] | None = None
        self._places: dict[tuple[object, ...], Places] = {}

    @property
    def blocks(self) -> Names:
        """The blocks that have a tensor, in the layout's order."""
        return self._keys.blocks

    def resolve(self, number: NumberPerTensor) -> dict[str, Fraction]:
        """Return the number that reaches each tensor, by name; tensors that none reaches are absent.

        Raises:
            RecipeError: with every key that selects nothing or is overridden completely, and every list or preset that
                is
                not for this layout.
        """
        places = self.places(number)
        values = self.values(number, places)
        return {name: values[index] for name, index in places.of.items()}

    def places(self, number: NumberPerTensor) -> Places:
        """Return which value of a number each tensor gets. It is the same for all numbers with one `structure`.

        Raises:
            RecipeError: as `resolve`.
        """
        shape = structure(number)
        known = self._places.get(shape)
        if known is None:
            known = self._placed(number.rules)
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            self._places[shape] = known
        return known

    def values(self, number: NumberPerTensor, places: Places) -> list[Fraction]:
        """Return the values of a number, in the order of the values of `places`, which belong to its structure."""
        numbers: dict[int, Mapping[str, Fraction]] = {}
        found: list[Fraction] = []
        for rule, block in places.values:
            value = number.rules[rule].value
            if isinstance(value, _ONE_NUMBER):
                found.append(value.number)
                continue
            if rule not in numbers:
                numbers[rule] = self._numbers(value)
            found.append(numbers[rule][block or ""])
        return found

    def select(self, selectors: Iterable[SelectorText]) -> frozenset[str]:
        """Return the tensors that at least one of the selectors selects.

        Raises:
            RecipeError: with every selector that selects nothing.
        """
        chosen: set[str] = set()
        problems: list[Problem] = []
        for selector in selectors:
            try:
                chosen.update(self._keys.select(selector.text))
            except BadSelectorError as bad:
                problems.append(_problem(bad, selector.where.place()))
        if problems and not self._forgiving:
            raise RecipeError(problems)
        return frozenset(chosen)

    def _placed(self, rules: Sequence[Rule]) -> Places:
        block_of = self._keys.block_of
        of: dict[str, int] = {}
        values: dict[tuple[int, str | None], int] = {}
        own = None if self._every == self.names else frozenset(self.names)
        for rule, names in self._decide(rules):
            by_block = not isinstance(rules[rule].value, _ONE_NUMBER)
            for name in names if own is None else filter(own.__contains__, names):
                of[name] = values.setdefault((rule, block_of[name] if by_block else None), len(values))
        return Places(of, tuple(values))

    def _decide(self, rules: Sequence[Rule]) -> tuple[_Win, ...]:
        problems: list[Problem] = []
        reached = self._reached(rules, problems)
        winner: dict[str, int] = {}
        for index, names in reached.items():
            winner.update(dict.fromkeys(names, index))
        won: dict[int, list[str]] = {}
        for name, index in winner.items():
            won.setdefault(index, []).append(name)
        for index, names in reached.items():
            if names and index not in won and rules[index].key != "default":
                problems.append(_overridden(rules, index, {winner[name] for name in names}))
        if problems and not self._forgiving:
            raise RecipeError(problems)
        return tuple(_Win(index, tuple(won[index])) for index in sorted(won))

    def _reached(self, rules: Sequence[Rule], problems: list[Problem]) -> dict[int, Names]:
        """Return the tensors that each rule reaches, by its index. Add a problem for each that reaches none."""
        reached: dict[int, Names] = {}
        for index, rule in enumerate(rules):
            try:
                reached[index] = self._reach(rule)
            except BadSelectorError as bad:
                problems.append(_problem(bad, rule.where.place(key=True)))
        return reached

    def _reach(self, rule: Rule) -> Names:
        """Return the tensors for which a rule has a number, at least one (for `default` perhaps none)."""
        value = rule.value
        if isinstance(value, Elemental):
            return self._keys.elemental(value)
        names = self._every if rule.key in _EVERYTHING else self._keys.select(rule.key)
        if isinstance(value, Constant):
            return names
        blocks, block_of = self._blocks_with_numbers(value), self._keys.block_of
        reached = tuple(name for name in names if block_of.get(name) in blocks)
        if not reached and self._every == self.names:
            raise self._reaches_nothing(rule.key, value, blocks)
        return reached

    def _reaches_nothing(self, key: str, value: Gradient | Preset | Mbw, blocks: frozenset[str]) -> BadSelectorError:
        """Return the error for a rule that selects tensors only outside the blocks for which it has numbers."""
        kind = {Gradient: "a gradient", Preset: "a preset", Mbw: "a list of block weights"}[type(value)]
        message = f"`{key}` matches nothing: {kind} reaches none of the tensors that it selects"
        reach = ", ".join(drawn_together([block for block in self.blocks if block in blocks]))
        return BadSelectorError("selector-matches-nothing", message, f"it reaches blocks: {reach or 'none here'}")

    def _blocks_with_numbers(self, value: Gradient | Preset | Mbw) -> frozenset[str]:
        """Return the blocks for which `value` has numbers.

        Raises:
            BadSelectorError: it does not apply to this layout.
        """
        if isinstance(value, Gradient):
            self._keys.layout_for("a gradient")
            return frozenset(self._layer_positions())
        if isinstance(value, Preset):
            return self._blocks_of_preset(value)
        return self._blocks_of_mbw(value)

    def _blocks_of_preset(self, preset: Preset) -> frozenset[str]:
        if preset.name not in PRESETS:
            advice = near(preset.name, PRESETS, f"presets: {', '.join(PRESETS)}")
            raise BadSelectorError("unknown-preset", f"`{preset.name}` is no preset", advice)
        layout = self._keys.layout_for(f"preset `{preset.name}`")
        blocks = preset_blocks(layout)
        if blocks is None:
            message = f"preset `{preset.name}` is for the blocks of a UNet, and these tensors are `{layout.name}`"
            advice = "a gradient runs over the layers of any model: `{ gradient = [0, 0.5, 1] }`"
            raise BadSelectorError("preset-not-for-layout", message, advice)
        return frozenset(blocks)

    def _blocks_of_mbw(self, mbw: Mbw) -> frozenset[str]:
        layout = self._keys.layout_for("`mbw`")
        blocks = layout.mbw_of(len(mbw.numbers))
        if blocks is None:
            lists = "; or ".join(f"{len(one)}: {', '.join(drawn_together(one))}" for one in layout.mbw)
            wanted = f"takes {' or '.join(str(len(one)) for one in layout.mbw)}" if lists else "has no such list"
            message = f"`mbw` has {len(mbw.numbers)} numbers, and layout `{layout.name}` {wanted}"
            raise BadSelectorError("mbw-length", message, lists or "give numbers to blocks by name, or a gradient")
        return frozenset(blocks)

    def _numbers(self, value: Gradient | Preset | Mbw) -> Mapping[str, Fraction]:
        """Return the numbers by block, of a value that `_blocks_with_numbers` has accepted."""
        layout = self._keys.layout_for("a number per block")
        if isinstance(value, Gradient):
            return {block: at(value.anchors, t) for block, t in self._layer_positions().items()}
        if isinstance(value, Preset):
            return preset_numbers(value, layout)
        return dict(zip(layout.mbw_of(len(value.numbers)) or (), value.numbers, strict=True))

    def _layer_positions(self) -> Mapping[str, Fraction]:
        if self._positions is None:
            self._positions = positions(self._keys.layout_for("a gradient"), self.names)
        return self._positions


def _problem(bad: BadSelectorError, where: Place) -> Problem:
    return Problem(bad.code, clipped(bad.message), where, clipped(bad.help))


def structure(number: NumberPerTensor) -> tuple[object, ...]:
    """Return whatever decides which of a number's values reaches which tensor: everything but the values."""
    return tuple(map(_structure, number.rules))


def _structure(rule: Rule) -> tuple[object, ...]:
    """Return whatever decides which tensors a rule reaches: everything but its numbers."""
    value = rule.value
    if isinstance(value, Constant):
        return (Constant, rule.key)
    if isinstance(value, Elemental):
        return (Elemental, value.blocks, value.not_blocks, value.elements, value.not_elements)
    if isinstance(value, Mbw):
        return (Mbw, rule.key, len(value.numbers))
    if isinstance(value, Preset):
        return (Preset, rule.key, value.name)
    return (type(value), rule.key)


def _overridden(rules: Sequence[Rule], index: int, by: set[int]) -> Problem:
    rule = rules[index]
    keys = list(dict.fromkeys(f"`{rules[other].key}`" for other in sorted(by)))
    listed = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    message = f"`{rule.key}` has no effect: all of it is overridden by {listed} behind it"
    advice = f"later keys win: put `{rule.key}` behind {'it' if len(keys) == 1 else 'them'}, or take it out"
    return Problem("selector-overridden", message, rule.where.place(key=True), advice)


_selectors: dict[tuple[int, int], Selector] = {}


def selector_for(layout: Layout | None, names: Sequence[str]) -> Selector:
    """Return the selector of these tensors.

    For the same tuple and layout the same object, with all that it remembers.
    """
    if not isinstance(names, tuple):
        return Selector(layout, names)
    identity = (id(layout), id(names))
    known = _selectors.get(identity)
    if known is not None:  # it keeps both alive, so no other objects have these ids
        return known
    if len(_selectors) >= _REMEMBERED:
        _selectors.clear()
    selector = _selectors[identity] = Selector(layout, names)
    return selector


def resolve(number: NumberPerTensor, names: Sequence[str], layout: Layout | None) -> dict[str, Fraction]:
    """Return the number that reaches each of `names`; see `Selector.resolve`."""
    return selector_for(layout, names).resolve(number)


def select(selectors: Iterable[SelectorText], names: Sequence[str], layout: Layout | None) -> frozenset[str]:
    """Return the names that at least one of the selectors selects; see `Selector.select`."""
    return selector_for(layout, names).select(selectors)
