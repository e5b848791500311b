"""Parameters of mergekit as numbers per tensor.

A setting is a scalar, a list over the layers (a *gradient*), or filters with such values, of which the first that is
part of a tensor's name counts. Settings stand on levels, model before slice before module before the whole recipe:
where no filter of a level fits, the next level is asked, and at last the method's default. Laid end to end these are
one list of filters whose first match counts; ours are keys whose *last* match counts, so the list is written backwards.

A gradient's value outside the layers is its first one, also behind them, where ours has the last: `head` says so.

In a stack, filters of a parameter that each model has are of the model's own names, and ours of the output's: layers in
them are numbered anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from mergebuild.configuration.layers import layered
from mergebuild.exchange.draft import Value
from mergebuild.exchange.mergekit.reading import KitReading, KitTable
from mergebuild.exchange.yaml_text import YamlValue

__all__ = ["LayerPlace", "Level", "Levels", "Setting", "flag_of", "number_of"]

Level = KitTable | None
"""The parameters of a model, a slice, a module, or the recipe."""
Levels = Sequence[Level]
"""From the one that counts most to the one that counts least."""

_BEHIND: Final = ("model.norm.weight", "lm_head.weight")
"""Tensors behind the layers, as most architectures name them."""
_GLOB_SIGNS: Final = frozenset("*?[]")
_CUT_NUMBER: Final = re.compile(r"([a-z]*)\.?\d+(?:\.|$)")
_BEFORE_NUMBERS: Final = ("layers", "layer", "blocks", "block", "h")


class LayerPlace(NamedTuple):
    """The layers of a model that a slice takes, and where they are in the output."""

    first: int
    length: int
    offset: int
    """The number of the first of them in the output."""

    def parts(self, part: str) -> list[str] | None:
        """Return a part of a model's names as parts of the output's names; None: which layers it fits can't be said."""
        if self.first == self.offset:
            return [part]
        at = layered(f"{part}.")
        if at is None:
            cut = _CUT_NUMBER.match(part)
            return None if cut and any(word.endswith(cut[1]) for word in _BEFORE_NUMBERS) else [part]
        head = f"{at.stack}.{at.number}"
        if not part.startswith(head):
            return []  # a number with zeros before it, which no layer has
        rest = part.removeprefix(head)
        fit = (n for n in range(self.first, self.first + self.length) if self._fits(n, at.number, is_whole=bool(rest)))
        return [f"{at.stack}.{n - self.first + self.offset}{rest or '.'}" for n in fit]

    @staticmethod
    def _fits(layer: int, said: int, *, is_whole: bool) -> bool:
        """Whether a number in a name fits one that a filter has, which may be only its beginning."""
        return layer == said if is_whole else str(layer).startswith(str(said))


class _Filtered(NamedTuple):
    """A value, and the part of a name by which it is chosen; None: it is for all."""

    part: str | None
    value: YamlValue
    where: str


class Setting(NamedTuple):
    """A parameter's number per tensor."""

    value: Value
    is_given: bool
    """Whether the recipe says it, rather than the method's default."""


def number_of(
    reading: KitReading,
    levels: Levels,
    key: str,
    *,
    default: Decimal | int | None = None,
    has_head: bool = True,
    place: LayerPlace | None = None,
) -> Setting | None:
    """Return a parameter's number per tensor; None if it is nowhere and has no default.

    Args:
        reading: The recipe.
        levels: Where it may stand.
        key: The parameter.
        default: What tensors get that no filter fits.
        has_head: Whether it is for tensors behind the layers too, as the last slice of a stack is.
        place: Where a model's layers are in the output, if it is a parameter of that model in a stack.
    """
    found = _first_matches(reading, levels, key)
    if place is not None:
        found = [moved for each in found for moved in _moved(reading, each, place)]
    if not found:
        return None if default is None else Setting(default, is_given=False)
    if found[-1].part is not None and default is not None:
        found.append(_Filtered(None, default, key))
    table: dict[str, Value] = {}
    for each in reversed(found):
        for name, value in _keys(reading, each, has_head=has_head).items():
            table.pop(name, None)  # a key counts where it was written last
            table[name] = value
    only = table.get("default")
    is_plain = len(table) == 1 and only is not None
    return Setting(only if is_plain and only is not None else dict(table), is_given=True)


def _moved(reading: KitReading, each: _Filtered, place: LayerPlace) -> Iterator[_Filtered]:
    """Yield a filter of a model's names as those of the output's: none where it fits no layer of the slice."""
    parts = [None] if each.part is None else place.parts(each.part)
    if parts is None:
        reading.leave_out(each.where, f"filter `{each.part}`: which layers of a slice it fits can't be said here")
    yield from (each._replace(part=part) for part in parts or ())


def flag_of(reading: KitReading, levels: Levels, key: str) -> bool | None:
    """Return a flag, which is one for all tensors; None if it is nowhere, or differs, which is told."""
    found = _first_matches(reading, levels, key)
    values = [each.value for each in found]
    flags = {reading.flag(item, key) for each in values for item in (each if isinstance(each, list) else [each])}
    if len(flags) > 1 or (found and found[-1].part is not None):
        reading.leave_out(key, f"`{key}` differs from tensor to tensor, and is one for all here")
        return None
    return flags.pop() if flags else None


def _first_matches(reading: KitReading, levels: Levels, key: str) -> list[_Filtered]:
    """Return filters of all levels, of which the first that fits counts, up to one that is for all."""
    found: list[_Filtered] = []
    seen: set[str | None] = set()
    for level in levels:
        for each in _filters(reading, level, key):
            if each.part not in seen:
                seen.add(each.part)
                found.append(each)
            if each.part is None:
                return found
    return found


def _filters(reading: KitReading, level: Level, key: str) -> list[_Filtered]:
    if level is None or key not in level.values:
        return []
    value, where = level.values[key], level.at(key)
    if value is None:
        raise reading.wrong(where, "is empty, expected a value")
    if isinstance(value, dict):
        return _filter(reading, value, where)
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return [found for index, each in enumerate(value) for found in _filter(reading, each, f"{where}[{index}]")]
    return [] if value == [] else [_Filtered(None, value, where)]


def _filter(reading: KitReading, value: YamlValue, where: str) -> list[_Filtered]:
    table = reading.table(value, where)
    table.only(("filter", "value"))
    inner = table.get("value")
    if inner is None:
        raise reading.wrong(where, "has no `value`")
    part = table.text("filter")
    return [] if inner == [] else [_Filtered(None if part in ("*", "") else part, inner, table.at("value"))]


def _keys(reading: KitReading, each: _Filtered, *, has_head: bool) -> Mapping[str, Value]:
    """Return the keys of a number per tensor for one filter, those for tensors behind the layers last."""
    key = "default" if each.part is None else _selector(each.part)
    if not isinstance(each.value, list):
        return {key: reading.number(each.value, each.where)}
    anchors = [reading.number(value, f"{each.where}[{index}]") for index, value in enumerate(each.value)]
    behind = [name for name in _BEHIND if each.part is None or each.part in name]
    if len({Decimal(anchor) for anchor in anchors}) == 1 or (behind and not _is_in_layers(each.part)):
        return {key: anchors[0]}
    curve: dict[str, Value] = {key: {"gradient": list(anchors)}}
    if has_head and Decimal(anchors[0]) != Decimal(anchors[-1]):
        names = ["head"] if len(behind) == len(_BEHIND) else behind
        curve |= dict.fromkeys(names, anchors[0])
    return curve


def _is_in_layers(part: str | None) -> bool:
    """Whether a filter may fit names of layers: all do but those that only what is behind the layers has."""
    return part is None or part not in ("lm_head", "lm_head.weight", "model.norm", "model.norm.weight")


def _selector(part: str) -> str:
    """Return a selector of names with this part: a glob, or a regular expression where it has the signs of one."""
    if not _GLOB_SIGNS.isdisjoint(part):
        return "re:" + "".join(f"\\{sign}" if not sign.isalnum() and sign != "_" else sign for sign in part)
    return f"*{part}*"
