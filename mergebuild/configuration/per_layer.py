"""What a configuration says of single layers, for a model whose layers come from other places.

A layer keeps what its own model says of it: whether it attends to a window, how wide it is, whether it has experts.
Configurations say that in lists with an item for each layer, in lists of some layers' numbers, by a number from which
on layers are of another kind, or by a period, such as every sixth. A list follows from the layers' origins; a number
may; a period can't be changed, so layers must stay where they are in it, unless clients read a list in its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeGuard

from mergebuild.configuration.parts import Config
from mergebuild.configuration.text import Path

__all__ = ["BY_TURNS", "LayerOrigin", "Rebuilt", "lists_of", "numbers_of", "rebuilt", "says_layers_apart"]

BY_TURNS: Final = "attention_types"
"""A member with kinds of layers that alternate, and how often: `[[["global", "local"], 6]]`."""

_A_LAYER_EACH: Final = re.compile(r".*(?:layer|block|pattern|sliding_window).*")
"""Names of lists that have an item per layer, or that name layers by number."""

_ALSO_A_LAYER_EACH: Final = frozenset(
    "intermediate_size num_attention_heads num_key_value_heads num_query_heads num_kv_heads head_dim ffn_multipliers"
    " activation_sparsity_pattern hidden_size rope_theta num_experts".split()
)
"""Other members that, if they are lists, have an item per layer."""

_ALSO_NUMBERS: Final = frozenset({"full_attn_idxs"})
"""Other members that name layers by number."""

_FROM: Final = ("max_window_layers", "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""Members with the number from which on layers are of another kind."""

_PERIODS: Final = {
    "sliding_window_pattern": "",
    "full_attention_interval": "",
    "no_rope_layer_interval": "",
    "global_attn_every_n_layers": "",
    "interleave_moe_layer_step": "",
    "decoder_sparse_step": "",
    "moe_layer_freq": "",
    "moe_layer_interval": "",
    "cross_layer_interval": "",
    "attn_layer_period": "attn_layer_offset",
    "expert_layer_period": "expert_layer_offset",
}
"""Members with a period of kinds of layers, each with the member that says where it begins."""

_KINDS: Final = "layer_types"


class _Turns(NamedTuple):
    """How an architecture's layers alternate: the last one of a period has full attention."""

    usual: int
    """The period, unless the configuration says it."""
    others: str
    """The kind of the other layers."""
    key: str = ""
    """The member with the period."""


_BY_TURNS_ALONE: Final = {
    "gemma2": _Turns(2, "sliding_attention"),
    "gemma3_text": _Turns(6, "sliding_attention", "sliding_window_pattern"),
    "cohere2": _Turns(4, "sliding_attention", "sliding_window_pattern"),
    "exaone4": _Turns(4, "sliding_attention", "sliding_window_pattern"),
    "olmo3": _Turns(4, "sliding_attention"),
    "gpt_oss": _Turns(2, "sliding_attention"),
    "qwen3_next": _Turns(4, "linear_attention", "full_attention_interval"),
}
"""Architectures whose layers alternate although no list says it. Clients read `layer_types` where there are some."""

_IN_KINDS: Final = ("sliding_window_pattern", "full_attention_interval", "max_window_layers")
"""Members that are about the same as `layer_types`, which come before them."""

_BY_NUMBER: Final = ("scale_attn_by_inverse_layer_idx", "num_kv_shared_layers")
"""Members that make what a layer computes depend on its number."""

_FROM_THE_END: Final = ("num_kv_shared_layers",)
"""Those of them that count layers from the last one."""


class LayerOrigin(NamedTuple):
    """Where a layer comes from: the configuration of its part there, and its number."""

    config: Config
    number: int


class Rebuilt(NamedTuple):
    """What members about single layers must be, and what can't be made to agree, one sentence each."""

    changes: Mapping[Path, object]
    contradictions: tuple[str, ...] = ()


def lists_of(part: Config, count: int) -> dict[str, list[object] | str]:
    """Return the members of a configuration that are lists, or texts, with an item for each of `count` layers."""
    found = {key: value for key, value in part.items() if isinstance(value, list | str) and len(value) == count}
    return {key: value for key, value in found.items() if _A_LAYER_EACH.fullmatch(key) or key in _ALSO_A_LAYER_EACH}


def says_layers_apart(part: Config, count: int) -> bool:
    """Return whether a configuration says something of single layers, of which there are `count`."""
    return bool(lists_of(part, count) or numbers_of(part, count) or any(part.get(key) for key in (*_FROM, *_PERIODS)))


def numbers_of(part: Config, count: int) -> dict[str, list[int]]:
    """Return the lists of a configuration that name some of `count` layers by number."""
    found: dict[str, list[int]] = {}
    for key, value in part.items():
        if isinstance(value, list) and len(value) != count and (_A_LAYER_EACH.fullmatch(key) or key in _ALSO_NUMBERS):
            numbers = [each for each in value if isinstance(each, int) and 0 <= each < count]
            if len(numbers) == len(value):
                found[key] = numbers
    return found


def rebuilt(part: Config, inner: Path, said: int, origins: Sequence[LayerOrigin]) -> Rebuilt:
    """Return what is done about members on single layers.

    Args:
        part: The configuration that is written, of the part whose layers they are.
        inner: The keys that lead to it.
        said: The number of layers that it says.
        origins: Where each layer that is written comes from.
    """
    if all(each.config is part and each.number == place for place, each in enumerate(origins)) and said == len(origins):
        return Rebuilt({})
    work = _Rebuilding(part, said, origins)
    work.take_lists()
    work.take_kinds()
    work.take_numbers()
    work.take_limits()
    work.check_periods()
    changes = {(*inner, key): value for key, value in work.changes.items() if value != part.get(key)}
    return Rebuilt(changes, tuple(work.wrong))


class _Rebuilding:
    """The members of one configuration while they are rebuilt."""

    def __init__(self, part: Config, said: int, origins: Sequence[LayerOrigin]) -> None:
        self._part = part
        self._said = said
        self._origins = origins
        self.changes: dict[str, object] = {}
        self.wrong: list[str] = []

    def take_lists(self) -> None:
        """Take the item of each layer from the list that its own model has."""
        for key, value in lists_of(self._part, self._said).items():
            items = [_item(each, key) for each in self._origins]
            known = [each[0] for each in items if each is not None]
            if len(known) < len(items):
                self._unsaid(key, items.index(None))
            else:
                self.changes[key] = "".join(map(str, known)) if isinstance(value, str) else known

    def take_kinds(self) -> None:
        """Write the kinds of layers where an architecture has them by turns and layers are elsewhere in these."""
        if _KINDS not in self.changes and _usual_period(self._part) is not None:
            kinds = [_kind(each) for each in self._origins]
            if None in kinds:
                self._unsaid(_KINDS, kinds.index(None))
            elif kinds != [_kind(LayerOrigin(self._part, at)) for at in range(len(kinds))]:
                self.changes[_KINDS] = kinds
        if isinstance(self._part.get(BY_TURNS), list):
            words = next((each for each in self.changes.values() if _are_words(each)), None)
            if words is None:
                self.wrong.append(f"`{BY_TURNS}` says what each of {self._said} layers is")
            else:
                self.changes[BY_TURNS] = [[words, 1]]

    def take_numbers(self) -> None:
        """Take the numbers of layers from the lists that name some of them."""
        for key in numbers_of(self._part, self._said):
            lists = [each.config.get(key, []) for each in self._origins]
            if all(isinstance(each, list) for each in lists):
                pairs = zip(self._origins, lists, strict=True)
                self.changes[key] = [
                    at for at, (each, some) in enumerate(pairs) if isinstance(some, list) and each.number in some
                ]
            else:
                self._unsaid(key, next(at for at, each in enumerate(lists) if not isinstance(each, list)))

    def take_limits(self) -> None:
        """Take the numbers from which on layers are of another kind."""
        for key in _FROM:
            limit = self._part.get(key)
            if not _is_number(limit) or (key in _IN_KINDS and self._has_kinds()):
                continue
            beyond = [_is_beyond(each, key) for each in self._origins]
            if beyond == [at >= limit for at in range(len(beyond))]:
                continue
            if beyond == sorted(beyond):
                self.changes[key] = beyond.count(False)
            elif key != "max_window_layers" or self._part.get("use_sliding_window", True):
                self.wrong.append(f"`{key}` is {limit}, and layers of both kinds follow each other by turns")

    def check_periods(self) -> None:
        """Check that layers are where their own models have them in a period, and at their numbers if these matter."""
        for key, offset in _PERIODS.items():
            period = _length(self._part.get(key))
            if period is None or (key in _IN_KINDS and self._has_kinds()):
                continue
            if any(
                (each.number - at) % period or any(each.config.get(one) != self._part.get(one) for one in (key, offset))
                for at, each in enumerate(self._origins)
            ):
                self.wrong.append(f"`{key}` is {self._part[key]}, and layers are elsewhere in this period")
        for key in _BY_NUMBER:
            moved = any(each.number != at for at, each in enumerate(self._origins))
            fewer = key in _FROM_THE_END and len(self._origins) != self._said
            if self._part.get(key) and (moved or fewer):
                self.wrong.append(f"by `{key}` layers depend on their numbers, which are others")

    def _has_kinds(self) -> bool:
        """Whether `layer_types` are written, or the architecture has known ones."""
        return _KINDS in self.changes or _usual_period(self._part) is not None

    def _unsaid(self, key: str, layer: int) -> None:
        self.wrong.append(f"`{key}` says what each layer is, and the model that layer {layer} is of does not say it")


def _item(each: LayerOrigin, key: str) -> tuple[object] | None:
    """Return the item of a list that a layer's own model has for it; None if there is none."""
    found = each.config.get(key)
    return (found[each.number],) if isinstance(found, list | str) and each.number < len(found) else None


def _is_beyond(each: LayerOrigin, key: str) -> bool:
    limit = each.config.get(key)
    return _is_number(limit) and each.number >= limit


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _length(value: object) -> int | None:
    """Return the length of a period, a number or a text with a letter for each layer; None if it is no period."""
    if isinstance(value, str):
        return len(value) or None
    return value if _is_number(value) and value > 0 else None


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _usual_period(config: Config) -> int | None:
    """Return the period of an architecture whose layers alternate without a list of them; None if there is none."""
    known = _BY_TURNS_ALONE.get(str(config.get("model_type")))
    if known is None or isinstance(config.get(_KINDS), list):
        return None
    return _length(config.get(known.key, known.usual))


def _kind(each: LayerOrigin) -> object:
    """Return the kind of a layer of an architecture whose layers alternate; None if it is not known."""
    if (own := _item(each, _KINDS)) is not None:
        return own[0]
    period = _usual_period(each.config)
    if period is None:
        return None
    others = _BY_TURNS_ALONE[str(each.config["model_type"])].others
    return others if (each.number + 1) % period else "full_attention"
