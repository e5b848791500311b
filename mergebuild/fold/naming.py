"""Namings: functions that say which of an owner's tensors is read for a tensor of the target.

A slot is an owner and a naming. `SAME` reads the tensor with the same name, `EMA` its EMA copy, `own(name)` always the
same tensor, and `table(mapping)` follows a mapping of names: for weights under another prefix, or layers in another
order. As a naming is a function of names and not part of each tensor's form, tensors that are made alike have one kind
however they are renamed, and members of a family share their kinds.

Equal namings are the same object, so slots are compared and hashed by identity. Slots are sorted, so namings have an
order: for one owner `SAME`, then `own` by name, `EMA`, and tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

__all__ = ["EMA", "EMA_PREFIX", "SAME", "Naming", "own", "table"]

EMA_PREFIX: Final = "model_ema."
"""The prefix of the names of EMA copies."""

_Key = tuple[int, tuple[tuple[str, str], ...]]
"""The index of the type of naming in `_KINDS`, and the names that it contains."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Naming:
    """A function from the target's name of a tensor to the owner's. Only this module makes them."""

    key: _Key

    def __call__(self, name: str, /) -> str:
        """Return the owner's name of the tensor that is read for the target's tensor `name`."""
        return name

    def __lt__(self, other: Naming) -> bool:
        return self.key < other.key

    def __reduce__(self) -> tuple[object, ...]:
        return _interned, (self.key,)  # copies and unpickled namings are the same object


class _Own(Naming):
    __slots__ = ()

    def __call__(self, _name: str, /) -> str:
        return self.key[1][0][1]


class _Averaged(Naming):
    """The name without its dots, after `model_ema.`. The reverse is ambiguous, and not needed."""

    __slots__ = ()

    def __call__(self, name: str, /) -> str:
        return EMA_PREFIX + name.removeprefix("model.").replace(".", "")


@dataclass(frozen=True, slots=True, eq=False)
class _NamingTable(Naming):
    names: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", dict(self.key[1]))

    def __call__(self, name: str, /) -> str:
        return self.names.get(name, name)


_KINDS: Final = (Naming, _Own, _Averaged, _NamingTable)
"""Types of namings, by the first number of a key."""

_namings: WeakValueDictionary[_Key, Naming] = WeakValueDictionary()


def _interned(key: _Key) -> Naming:
    found = _namings.get(key)
    return _namings.setdefault(key, _KINDS[key[0]](key)) if found is None else found


SAME: Final = _interned((0, ()))
"""Reads the tensor with the same name."""

EMA: Final = _interned((2, ()))
"""Reads the EMA copy of a UNet's tensor."""


def own(name: str) -> Naming:
    """Return the naming that always reads one tensor, whatever its name in the target."""
    return _interned((1, (("", name),)))


def table(names: Mapping[str, str]) -> Naming:
    """Return the naming that reads tensors with other names.

    Args:
        names: The target's name of a tensor -> the owner's. Several may read the same one, such as a layer used twice.
            Names that
            are not in it are the same in both.
    """
    renamed = tuple(sorted((mine, theirs) for mine, theirs in names.items() if mine != theirs))
    return _interned((3, renamed)) if renamed else SAME
