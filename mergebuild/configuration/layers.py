"""Layers of a model: how many its tensors and its configuration have, and lists with an item per layer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from mergebuild.configuration.parts import Config, config_of, part_of, path_of
from mergebuild.configuration.per_layer import BY_TURNS, LayerOrigin, lists_of, numbers_of, rebuilt
from mergebuild.configuration.text import Path

__all__ = ["IN_PLACE", "Counted", "Layered", "Origins", "Stack", "counted", "layered", "stacks"]

_NUMBERED: Final = re.compile(r"(?P<stack>(?:.*?\.)??(?P<last>[^.]*))\.(?P<number>[0-9]{1,6})\.(?P<rest>.*)")

_WORDS: Final = frozenset("layers layer h block blocks resblocks decoder_layers encoder_layers".split())
"""Words that come before the number of a layer in names."""

_KEYS: Final = {
    "encoder": "encoder_layers num_encoder_layers num_hidden_layers num_layers n_layer n_layers".split(),
    "decoder": "decoder_layers num_decoder_layers num_hidden_layers num_layers n_layer n_layers".split(),
    "": "num_hidden_layers n_layer num_layers n_layers depth num_blocks n_blocks layers".split(),
}
"""By half of a model (empty: its only stack), the members of a configuration that count layers."""

_MORE: Final = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
"""Members that count additional layers at the end, which predict further tokens."""


class Stack(NamedTuple):
    """The layers of one stack of a model, for example of `model.layers`."""

    name: str
    part: str
    numbers: frozenset[int]

    @property
    def half(self) -> str:
        """`encoder` or `decoder`; empty if the stack's name contains neither."""
        return next((word for word in self.name.split(".") if word in ("encoder", "decoder")), "")

    @property
    def gaps(self) -> list[int]:
        """The numbers below its last layer that it lacks."""
        return sorted(set(range(max(self.numbers) + 1)) - self.numbers)


class Layered(NamedTuple):
    """A tensor's name, taken apart: its stack, the number of its layer, and its name there."""

    stack: str
    number: int
    rest: str

    @property
    def name(self) -> str:
        """The whole name."""
        return f"{self.stack}.{self.number}.{self.rest}"


class Counted(NamedTuple):
    """What is done about the number of layers: changes to the configuration, and contradictions, one sentence each."""

    changes: Mapping[Path, object]
    contradictions: tuple[str, ...] = ()


def layered(name: str) -> Layered | None:
    """Return a tensor's name taken apart; None if it is in no layer. Of several numbers, the outermost counts."""
    match = _NUMBERED.fullmatch(name)
    return Layered(match["stack"], int(match["number"]), match["rest"]) if match and match["last"] in _WORDS else None


def stacks(names: Iterable[str]) -> dict[str, Stack]:
    """Return the stacks that some tensors are in, by name. If a name has several numbers, the outermost counts."""
    found: dict[str, set[int]] = {}
    for name in names:
        if (at := layered(name)) is not None:
            found.setdefault(at.stack, set()).add(at.number)
    return {name: Stack(name, part_of(f"{name}.weight"), frozenset(numbers)) for name, numbers in found.items()}


Origins = Mapping[str, Sequence[LayerOrigin]]
"""By stack that is made of slices: where its layers come from, in their order."""
IN_PLACE: Final[Origins] = MappingProxyType({})


def counted(config: Config, written: Collection[str], donor: Collection[str], origins: Origins = IN_PLACE) -> Counted:
    """Return what is done about the number of layers.

    Args:
        config: The configuration.
        written: Names of the tensors that are written.
        donor: Names of the tensors of the model whose configuration it is, in the same spelling.
        origins: Where layers come from that are not where their own models have them.
    """
    found, before = stacks(written), stacks(donor)
    wrong: list[str] = []
    wanted: dict[Path, list[tuple[Stack, int]]] = {}
    for name, stack in found.items():
        had = before.get(name)
        if stack.gaps:
            wrong += [_gap(stack)] if had is None or not had.gaps else []
        elif stack.part == "text" or path_of(config, stack.part):
            is_alone = sum(each.part == stack.part for each in found.values()) == 1
            counts = _counts(config, stack, had, is_alone=is_alone)
            for path, count in counts.items():
                wanted.setdefault(path, []).append((stack, count))
            if name in origins and not counts:
                wrong.append(f"nothing in it counts the layers of `{name}`, which are from elsewhere")
    changes: dict[Path, object] = {}
    for path, counted_there in wanted.items():
        wrong += _put(config, path, counted_there, changes, origins)
    return Counted(changes, tuple(wrong))


def _counts(config: Config, stack: Stack, had: Stack | None, *, is_alone: bool) -> Mapping[Path, int]:
    """Return the values that members counting a stack's layers must have; empty if no member counts them."""
    path, part = path_of(config, stack.part), config_of(config, stack.part)
    keys = [*_KEYS[stack.half], *(_KEYS[""] if is_alone else ())]
    key = next((each for each in keys if _is_count(part.get(each))), None)
    if key is None:
        return {}
    said, count = int(str(part[key])), len(stack.numbers)
    more = [each for each in _MORE if _is_count(part.get(each))]
    all_said = said + sum(int(str(part[each])) for each in more)
    before = len(had.numbers) if had is not None else None
    if count in (said, all_said):
        # the additional layers, which predict further tokens, are either all written or all left out
        return {(*path, key): said} | ({(*path, each): 0 for each in more} if count == said != before else {})
    if before not in (None, said, all_said) and not (is_alone and before == count):
        return {}  # the member counts something else
    if before is None and not is_alone and not stack.half:
        return {}
    found = {(*path, key): count - (all_said - said if before == all_said else 0)}
    if stack.half == "encoder" and part.get("num_hidden_layers") == said:
        found[(*path, "num_hidden_layers")] = count
    return found


def _put(
    config: Config, path: Path, counts: list[tuple[Stack, int]], changes: dict[Path, object], origins: Origins
) -> list[str]:
    """Add to `changes` what a member that counts layers and its lists must be; return the contradictions."""
    *inner, key = path
    (first, now), *others = counts
    part = _inside(config, inner)
    said = part.get(key)
    for stack, count in others:
        if count != now and stack.half == "decoder" and key == "num_layers":
            changes[(*inner, "num_decoder_layers")] = count
        elif count != now:
            return [f"`{first.name}` has {now} layers and `{stack.name}` {count}, and `{key}` is said of both"]
    if not isinstance(said, int):
        return []
    if first.name in origins:
        return _put_moved(part, path, said, (first, origins[first.name][:now]), changes)
    if now == said:
        return []
    return _put_one(part, path, (first, now), said, changes)


def _put_moved(
    part: Config, path: Path, said: int, moved: tuple[Stack, Sequence[LayerOrigin]], changes: dict[Path, object]
) -> list[str]:
    """Add to `changes` what a member that is `said`, and all about single layers, must be; return contradictions."""
    stack, origins = moved
    more = [each for each in _MORE if _is_count(part.get(each))]
    if more:
        return [f"`{more[0]}` counts layers behind those of `{stack.name}`, which come from elsewhere"]
    found = rebuilt(part, path[:-1], said, origins)
    changes |= {path: len(origins)} if len(origins) != said else {}
    changes |= found.changes
    return list(found.contradictions)


def _put_one(part: Config, path: Path, counted: tuple[Stack, int], said: int, changes: dict[Path, object]) -> list[str]:
    """Add to `changes` what a member that is `said`, and the lists beside it, must be; return the contradictions."""
    stack, now = counted
    if path[-1] in _MORE:
        changes[path] = now
        return []
    if now < 1:
        return [f"`{stack.name}` has fewer layers than those that the configuration counts besides"]
    lists = lists_of(part, said)
    if now > said and lists:
        names = ", ".join(f"`{each}`" for each in lists)
        return [f"`{stack.name}` has {now} layers, and {names} say what each of {said} is"]
    changes[path] = now
    left = _put_lists(part, path[:-1], said, now, changes)
    return [f"`{stack.name}` has {now} layers, and `{left}` says what each of {said} is"] if left else []


def _put_lists(part: Config, inner: Path, said: int, now: int, changes: dict[Path, object]) -> str:
    """Add to `changes` the lists about `said` layers, cut to `now`; return the name of one that can't be, or ""."""
    lists = lists_of(part, said)
    changes |= {(*inner, each): value[:now] for each, value in lists.items()}
    if isinstance(part.get(BY_TURNS), list):
        kinds = next((value for value in lists.values() if all(isinstance(each, str) for each in value)), None)
        if kinds is None:
            return BY_TURNS
        changes[*inner, BY_TURNS] = [[list(kinds[:now]), 1]]
    changes |= {(*inner, each): kept for each, kept in _numbers_below(part, said, now).items()}
    return ""


def _inside(config: Config, keys: Iterable[str]) -> Config:
    """Return the object at a path of keys."""
    for each in keys:
        below = config[each]
        assert isinstance(below, Mapping)
        config = below
    return config


def _numbers_below(part: Config, count: int, now: int) -> dict[str, list[int]]:
    """Return the lists of layers' numbers, for `count` layers, that have numbers from `now` on; without these."""
    kept = {key: [number for number in value if number < now] for key, value in numbers_of(part, count).items()}
    return {key: value for key, value in kept.items() if value != part[key]}


def _gap(stack: Stack) -> str:
    lacking = ", ".join(map(str, stack.gaps[:8]))
    last = max(stack.numbers)
    return f"`{stack.name}` lacks {lacking} of its layers 0 to {last}, and clients load them by number"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
