"""By what a cache finds what was made of a value that is like another: every field that is not left out for a reason.

A key that is written by hand forgets a field that is added later, and then gives one target what is another's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

__all__ = ["Likeness"]

Kind = TypeVar("Kind")


class Likeness(Generic[Kind]):
    """What of a dataclass decides, as a tuple by which a cache finds what was made of one that is like it.

    That is all of its fields but those that are left out, for a reason each. So a field that is added later decides:
    to forget one may cost sharing, and never gives the answer of another.
    """

    def __init__(
        self,
        kind: type[Kind],
        *,
        left_out: Mapping[str, str],
        seen_as: Mapping[str, Callable[[Any], Hashable]] = MappingProxyType({}),
    ) -> None:
        """`left_out`: fields that do not decide, and why; `seen_as`: what of a field decides, where not all of it."""
        self.left_out = left_out
        names = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]  # no bound says "dataclass"
        if unknown := {*left_out, *seen_as} - set(names):
            message = f"{kind.__name__} has no fields {sorted(unknown)}"
            raise TypeError(message)
        self.names = tuple(name for name in names if name not in left_out)
        """The fields that decide."""
        self._seen = [(index, seen_as[name]) for index, name in enumerate(self.names) if name in seen_as]

    def __call__(self, value: Kind) -> tuple[Hashable, ...]:
        """Return what decides of a value."""
        found = [getattr(value, name) for name in self.names]
        for index, seen in self._seen:
            found[index] = seen(found[index])
        return tuple(found)
