"""A number per tensor as a setting of mergekit: a scalar, a list over the layers, or filters whose first match counts.

Ours are keys whose last match counts, so filters are written backwards, and each is a part of tensor names. What a
setting gives each tensor is then computed as the tool does it, and compared with ours: a setting that gives any tensor
another number is refused. Filters that win nowhere are left out, as they would be mistakes in a mergefile.

A list gives what is before *and behind* the layers its first value, ours the last one behind. So a gradient is a list
by itself only where that is the same; else it is for `layers.` alone, and the others have filters of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple, Union

from mergebuild.exchange.writers.asked import Asked
from mergebuild.layouts.gradients import at, positions
from mergebuild.recipe.model import Constant, Gradient, NumberPerTensor, Rule, SelectorText, Target

__all__ = ["Setting", "setting_of", "setting_of_slice"]

Setting = Union[str, "list[tuple[str | None, str]]"]
"""A value, or filters with values; a filter that is None is for all."""

_LAYER: Final = re.compile(r"L(\d+)")
_AROUND: Final = re.compile(r"\*([^*?\[\]]+)\*")
_WORDS: Final = ("self_attn", "mlp", "norm", "layers.", "embed_tokens", "lm_head")
"""Parts of names that groups and blocks are tried as."""
_OF_ANY_LAYER: Final = re.compile(r"[A-Za-z_.]+")
"""Parts of names without a layer's number, so that they select the same wherever a layer comes to stand."""
_MOST_NAMES: Final = 40
"""Names of single tensors that a key may come to."""
_Anchors = tuple[Fraction, ...]


class _Filter(NamedTuple):
    """A part of names, None for all, and a number or a curve over the layers."""

    part: str | None
    value: Fraction | _Anchors


def setting_of(asked: Asked, step: Target, name: str, number: NumberPerTensor) -> Setting:
    """Return the setting that a number is; "0", and refused, where there is none."""
    if number.constant is not None:
        return asked.decimal(number.constant, step.where, name)
    found = _Filters(asked, step, name, number).filters()
    texts = [(each.part, _value(asked, step, name, each.value)) for each in found]
    return texts[0][1] if len(texts) == 1 and texts[0][0] is None else texts


def setting_of_slice(asked: Asked, step: Target, name: str, number: NumberPerTensor) -> Setting:
    """Return the setting that a number of a slice is: one for all, or one by parts of names without numbers in them."""
    if number.constant is not None:
        return asked.decimal(number.constant, step.where, name)
    found: list[tuple[str | None, str]] = []
    for place, rule in enumerate(number.rules):
        around = _AROUND.fullmatch(rule.key)
        is_default = rule.key == "default" and not place
        if not isinstance(rule.value, Constant) or not (is_default or (around and _OF_ANY_LAYER.fullmatch(around[1]))):
            told = "in a slice must be numbers by parts of names, such as `*.o_proj.*`, after `default`"
            asked.refuse(f"keys of `{name}` of `{step.name}` {told}", rule.where, key=True)
            continue
        found.insert(0, (around[1] if around else None, asked.decimal(rule.value.number, step.where, name)))
    if number.rules[0].key != "default":
        asked.refuse(f"`{name}` of `{step.name}` has no `default`", step.where, name, key=True)
    return found


class _Filters:
    """One number of a target, and the tensors that it is for."""

    def __init__(self, asked: Asked, step: Target, name: str, number: NumberPerTensor) -> None:
        self._asked, self._step, self._name, self._number = asked, step, name, number
        self._names = asked.floats(step)
        self._ours = asked.reached(step, number)
        self._layout = asked.layout(step)
        self._places = positions(self._layout, self._names) if self._layout else {}

    def filters(self) -> list[_Filter]:
        """Return filters of which the first match counts; one for all, with a list, for a plain gradient."""
        wanted = self._wanted()
        whole = self._one_gradient()
        if whole is not None and self._given([whole]) == wanted and self._is_all_in_curve():
            return [whole]
        found: list[_Filter] = []
        for rule in reversed(self._number.rules):
            found += self._of(rule)
            if found and found[-1].part is None:
                break
        if any(self._first(found, name) is None for name in self._names):
            found.append(_Filter(None, self._unreached()))
        found = self._winning(found)
        self._check(found, wanted)
        return found

    def _wanted(self) -> Mapping[str, Fraction]:
        """Return what each tensor must get."""
        unreached = self._unreached() if len(self._ours) < len(self._names) else Fraction(0)
        return {name: self._ours.get(name, unreached) for name in self._names}

    def _unreached(self) -> Fraction:
        """Return the number of a tensor that ours does not reach: one that changes nothing."""
        step = self._step
        parameter = step.row.parameter(self._name) if step.row else None
        if parameter is not None and isinstance(parameter.default, Fraction):
            return parameter.default
        if step.method == "scale":
            return Fraction(1)
        if parameter is None or parameter.per != "model":
            self._refuse(f"leaves out tensors, and {self._asked.format} merges all")
        return Fraction(0)  # another model's weight reaches it, or the method is linear

    def _one_gradient(self) -> _Filter | None:
        """Return the gradient that is the number by default, if there is one."""
        value = self._number.rules[0].value
        is_default = self._number.rules[0].key == "default" and isinstance(value, Gradient)
        return _Filter(None, value.anchors) if is_default and isinstance(value, Gradient) else None

    def _is_all_in_curve(self) -> bool:
        """Whether all tensors are in the layers, before or behind them: our gradients reach only those."""
        return self._layout is not None and all(self._layout.block(name) in self._places for name in self._names)

    def _of(self, rule: Rule) -> Iterator[_Filter]:
        """Yield the filters that a rule is."""
        if isinstance(rule.value, Constant):
            for part in self._parts(rule):
                yield _Filter(part, rule.value.number)
        elif isinstance(rule.value, Gradient):
            yield from self._of_gradient(rule, rule.value)
        else:
            kind = type(rule.value).__name__.lower()
            self._refuse(f"has `{rule.key}`, a {kind}, for which {self._asked.format} has no word", rule)

    def _of_gradient(self, rule: Rule, gradient: Gradient) -> Iterator[_Filter]:
        selected = self._selected(rule)
        outside = [name for name in selected if not self._in_layers(name) and self._block(name) in self._places]
        for name in outside:
            yield _Filter(name, at(gradient.anchors, self._places[self._block(name)]))
        for part in ["layers."] if rule.key == "default" else self._parts(rule):
            yield _Filter(part, gradient.anchors)

    def _parts(self, rule: Rule) -> Sequence[str | None]:
        """Return the parts of names that a key comes to; none, and refused, if there are too many."""
        around = _AROUND.fullmatch(rule.key)
        if rule.key == "default" or around:
            return [around[1] if around else None]
        selected = set(self._selected(rule))
        word = next((word for word in _WORDS if {name for name in self._names if word in name} == selected), None)
        if word is not None:
            return [word]
        blocks = {self._block(name) for name in selected}
        parts: list[str] = []
        for block in sorted(blocks):
            inside = {name for name in self._names if self._block(name) == block}
            layer = _LAYER.fullmatch(block)
            parts += [f"layers.{int(layer[1])}."] if layer and inside <= selected else sorted(inside & selected)
        if len(parts) > _MOST_NAMES:
            self._refuse(f"has `{rule.key}`, which is no part of names, and selects {len(selected)} tensors", rule)
            return []
        return parts

    def _selected(self, rule: Rule) -> Sequence[str]:
        if rule.key == "default":
            return self._names
        return sorted(self._asked.selector(self._step).select([SelectorText(rule.key, rule.where)]) & {*self._names})

    def _block(self, name: str) -> str:
        return (self._layout.block(name) if self._layout else None) or ""

    def _in_layers(self, name: str) -> bool:
        return _LAYER.fullmatch(self._block(name)) is not None

    # -- what the tool makes of filters

    def _given(self, filters: Sequence[_Filter]) -> Mapping[str, Fraction]:
        """Return what the tool gives each tensor."""
        first = {name: self._first(filters, name) for name in self._names}
        return {name: self._at(filters[place], name) for name, place in first.items() if place is not None}

    def _first(self, filters: Sequence[_Filter], name: str) -> int | None:
        found = (place for place, each in enumerate(filters) if each.part is None or each.part in name)
        return next(found, None)

    def _at(self, each: _Filter, name: str) -> Fraction:
        if isinstance(each.value, Fraction):
            return each.value
        return at(
            each.value, self._places.get(self._block(name), Fraction(0)) if self._in_layers(name) else Fraction(0)
        )

    def _winning(self, filters: Sequence[_Filter]) -> list[_Filter]:
        """Return the filters that are first for a tensor."""
        won = {self._first(filters, name) for name in self._names}
        return [each for place, each in enumerate(filters) if place in won]

    def _check(self, filters: Sequence[_Filter], wanted: Mapping[str, Fraction]) -> None:
        given = self._given(filters)
        wrong = next((name for name in self._names if given.get(name) != wanted[name]), None)
        if wrong is not None and not self._asked.refused:
            self._refuse(f"can't be said with parts of names: `{wrong}` would have another number")

    def _refuse(self, what: str, rule: Rule | None = None) -> None:
        message = f"`{self._name}` of target `{self._step.name}` {what}"
        if rule is not None:
            self._asked.refuse(message, rule.where, key=True)
        else:
            self._asked.refuse(message, self._step.where, self._name, key=True)


def _value(asked: Asked, step: Target, name: str, value: Fraction | _Anchors) -> str:
    numbers: Iterable[Fraction] = (value,) if isinstance(value, Fraction) else value
    texts = [asked.decimal(each, step.where, name) for each in numbers]
    return texts[0] if isinstance(value, Fraction) else f"[{', '.join(texts)}]"
