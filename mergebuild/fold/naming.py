"""Namings: which of an owner's tensors stands for a name of the target.

A slot is an owner and a naming. `SAME` reads the tensor of the same name, `EMA` its EMA copy, `own(name)` one tensor
whatever the target calls it, and `table(mapping)` the tensors that a mapping names: weights under another prefix, or
layers in another order. A naming is a function of names and not a part of each tensor's form, so tensors that are made
alike stay of one kind however they are renamed, and members of a family share their kinds.

Namings are interned: equal ones are one object, so slots are compared and hashed by identity. They have an order, as
slots are sorted: for one owner `SAME`, then `own` by name, `EMA`, and tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

__all__ = ["EMA", "EMA_PREFIX", "SAME", "Naming", "own", "table"]

EMA_PREFIX: Final = "model_ema."
"""What the names of EMA copies begin with."""

_Key = tuple[int, tuple[tuple[str, str], ...]]
"""The place of the kind of naming among the others, and the names that it holds."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Naming:
    """A function from what a target calls a tensor to what the owner calls it. Made by this module alone."""

    key: _Key

    def __call__(self, name: str, /) -> str:
        """Return the name in the owner of what the target calls `name`."""
        return name

    def __lt__(self, other: Naming) -> bool:
        return self.key < other.key

    def __reduce__(self) -> tuple[object, ...]:
        return _interned, (self.key,)  # what is unpickled or copied is the same object


class _Own(Naming):
    __slots__ = ()

    def __call__(self, _name: str, /) -> str:
        return self.key[1][0][1]


class _Averaged(Naming):
    """The name without its dots behind `model_ema.`. The way back is ambiguous and never taken."""

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
"""By the first number of a key."""

_namings: WeakValueDictionary[_Key, Naming] = WeakValueDictionary()


def _interned(key: _Key) -> Naming:
    found = _namings.get(key)
    return _namings.setdefault(key, _KINDS[key[0]](key)) if found is None else found


SAME: Final = _interned((0, ()))
"""The same name."""

EMA: Final = _interned((2, ()))
"""The name of the EMA copy of a tensor of a UNet."""


def own(name: str) -> Naming:
    """Return the naming that reads one tensor, whatever it is called in the target."""
    return _interned((1, (("", name),)))


def table(names: Mapping[str, str]) -> Naming:
    """Return the naming that reads tensors under other names.

    Args:
        names: by what the target calls a tensor, what the owner calls it. Several may be one: a layer used twice. A
            name that is not in it is the same in both.
    """
    renamed = tuple(sorted((mine, theirs) for mine, theirs in names.items() if mine != theirs))
    return _interned((3, renamed)) if renamed else SAME
