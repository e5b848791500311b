"""Cache keys of dataclasses: all fields except those that are left out, for a stated reason each.

If a key were written by hand, a field that is added later could be forgotten, and one target would get another's
result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

__all__ = ["Likeness"]

Kind = TypeVar("Kind")


class Likeness(Generic[Kind]):
    """Returns the cache key of a dataclass: a tuple of its fields, except those that are left out.

    So a field that is added later is in the key. Forgetting about it may reduce sharing, but never gives a wrong
    result.
    """

    def __init__(
        self,
        kind: type[Kind],
        *,
        left_out: Mapping[str, str],
        seen_as: Mapping[str, Callable[[Any], Hashable]] = MappingProxyType({}),
    ) -> None:
        """`left_out`: fields that don't matter, and why.

        `seen_as`: functions for fields of which only a part matters.
        """
        self.left_out = left_out
        names = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]  # no bound says "dataclass"
        if unknown := {*left_out, *seen_as} - set(names):
            message = f"{kind.__name__} has no fields {sorted(unknown)}"
            raise TypeError(message)
        self.names = tuple(name for name in names if name not in left_out)
        """The fields in the key."""
        self._seen = [(index, seen_as[name]) for index, name in enumerate(self.names) if name in seen_as]

    def __call__(self, value: Kind) -> tuple[Hashable, ...]:
        """Return the key of a value."""
        found = [getattr(value, name) for name in self.names]
        for index, seen in self._seen:
            found[index] = seen(found[index])
        return tuple(found)
