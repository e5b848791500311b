"""Layers of a model: how many its tensors and its configuration have, and lists with an item per layer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from mergebuild.configuration.parts import Config, config_of, part_of, path_of
from mergebuild.configuration.text import Path

__all__ = ["Counted", "Layered", "Stack", "counted", "layered", "stacks"]

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

_A_LAYER_EACH: Final = re.compile(r".*(?:layer|block|pattern|sliding_window).*")
"""Names of lists that have an item per layer."""

_ALSO_A_LAYER_EACH: Final = frozenset(
    "intermediate_size num_attention_heads num_key_value_heads num_query_heads num_kv_heads head_dim ffn_multipliers"
    " activation_sparsity_pattern hidden_size rope_theta num_experts".split()
)
"""Other members that, if they are lists, have an item per layer."""


_BY_TURNS: Final = "attention_types"
"""A member with kinds of layers that alternate, and how often: `[[["global", "local"], 6]]`."""


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


def counted(config: Config, written: Collection[str], donor: Collection[str]) -> Counted:
    """Return what is done about the number of layers.

    Args:
        config: The configuration.
        written: Names of the tensors that are written.
        donor: Names of the tensors of the model whose configuration it is, in the same spelling.
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
            for path, count in _counts(config, stack, had, is_alone=is_alone).items():
                wanted.setdefault(path, []).append((stack, count))
    changes: dict[Path, object] = {}
    for path, counts in wanted.items():
        wrong += _put(config, path, counts, changes)
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


def _put(config: Config, path: Path, counts: list[tuple[Stack, int]], changes: dict[Path, object]) -> list[str]:
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
    if now == said or not isinstance(said, int):
        return []
    return _put_one(part, path, (first, now), said, changes)


def _put_one(part: Config, path: Path, counted: tuple[Stack, int], said: int, changes: dict[Path, object]) -> list[str]:
    """Add to `changes` what a member that is `said`, and the lists beside it, must be; return the contradictions."""
    stack, now = counted
    if path[-1] in _MORE:
        changes[path] = now
        return []
    if now < 1:
        return [f"`{stack.name}` has fewer layers than those that the configuration counts besides"]
    lists = _lists(part, said)
    if now > said and lists:
        names = ", ".join(f"`{each}`" for each in lists)
        return [f"`{stack.name}` has {now} layers, and {names} say what each of {said} is"]
    changes[path] = now
    left = _put_lists(part, path[:-1], said, now, changes)
    return [f"`{stack.name}` has {now} layers, and `{left}` says what each of {said} is"] if left else []


def _put_lists(part: Config, inner: Path, said: int, now: int, changes: dict[Path, object]) -> str:
    """Add to `changes` the lists about `said` layers, cut to `now`; return the name of one that can't be, or ""."""
    lists = _lists(part, said)
    changes |= {(*inner, each): value[:now] for each, value in lists.items()}
    if isinstance(part.get(_BY_TURNS), list):
        kinds = next((value for value in lists.values() if all(isinstance(each, str) for each in value)), None)
        if kinds is None:
            return _BY_TURNS
        changes[*inner, _BY_TURNS] = [[list(kinds[:now]), 1]]
    changes |= {(*inner, each): kept for each, kept in _numbers_below(part, said, now).items()}
    return ""


def _inside(config: Config, keys: Iterable[str]) -> Config:
    """Return the object at a path of keys."""
    for each in keys:
        below = config[each]
        assert isinstance(below, Mapping)
        config = below
    return config


def _lists(part: Config, count: int) -> dict[str, list[object] | str]:
    """Return the members of a configuration that are lists, or texts, with an item for each of `count` layers."""
    found = {key: value for key, value in part.items() if isinstance(value, list | str) and len(value) == count}
    return {key: value for key, value in found.items() if _A_LAYER_EACH.fullmatch(key) or key in _ALSO_A_LAYER_EACH}


def _numbers(part: Config, count: int) -> dict[str, list[object]]:
    """Return the lists of a configuration that name some layers by number."""
    found = {key: value for key, value in part.items() if isinstance(value, list) and len(value) != count}
    return {
        key: value
        for key, value in found.items()
        if _A_LAYER_EACH.fullmatch(key) and all(isinstance(each, int) and 0 <= each < count for each in value)
    }


def _numbers_below(part: Config, count: int, now: int) -> dict[str, list[int]]:
    """Return the lists of layers' numbers, for `count` layers, that have numbers from `now` on; without these."""
    kept = {
        key: [number for number in value if isinstance(number, int) and number < now]
        for key, value in _numbers(part, count).items()
    }
    return {key: value for key, value in kept.items() if value != part[key]}


def _gap(stack: Stack) -> str:
    lacking = ", ".join(map(str, stack.gaps[:8]))
    last = max(stack.numbers)
    return f"`{stack.name}` lacks {lacking} of its layers 0 to {last}, and clients load them by number"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
