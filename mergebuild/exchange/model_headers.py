"""The tensors of the models that a draft names, as far as these are there: of sources, and of targets made of them.

A target has the tensors of its first input. A stack has those of its slices, its layers numbered from 0 over all of
them; a slice has, of these, the ones that it makes: keys of a slice select among no others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from mergebuild.configuration.layers import Layered, layered, stacks
from mergebuild.errors import MergeBuildError
from mergebuild.exchange.draft import Draft, Value
from mergebuild.fold.stack_plan import is_following
from mergebuild.layouts import Layout, detect
from mergebuild.layouts.keys import Keys
from mergebuild.sources.locating import folders_of_models
from mergebuild.sources.opening import read_model

__all__ = ["KnownTensors", "ModelHeaders"]

_ROLES: Final = ("base", "a", "models", "model")
_LAYERS: Final = re.compile(r"L(?P<first>\d+)(?:-L(?P<last>\d+))?")
_DEEPEST: Final = 10_000
"""Targets that are made of each other in a row."""
_MOST_STACKS: Final = 50
"""Stacks of these."""


class KnownTensors(NamedTuple):
    """The floating-point tensors of a model, their other names, and the stored tensors that several of them are."""

    layout: Layout | None
    names: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    shared: Mapping[str, Collection[str]]

    @property
    def layers(self) -> int | None:
        """How many layers it has; None if it has no stack of layers, or several."""
        found = [*stacks(self.names).values()]
        return len(found[0].numbers) if len(found) == 1 else None

    @property
    def keys(self) -> Keys:
        """What keys of a mergefile select among these tensors."""
        return Keys(self.layout, self.names, None, self.aliases, shared=self.shared)


@dataclass
class ModelHeaders:
    """The headers that were read, each once."""

    draft: Draft
    root: Path
    """The folder that paths of sources are relative to."""
    _known: dict[str, KnownTensors | None] = field(default_factory=dict)

    def of(self, name: str, depth: int = 0) -> KnownTensors | None:
        """Return the tensors of a source or target; None: they can't be known."""
        for _ in range(_DEEPEST):
            if name in self.draft.sources:
                return self._of_source(name)
            keys = self.draft.targets[name].keys if name in self.draft.targets else {}
            slices = keys.get("slices")
            if isinstance(slices, list):
                return _joined(self.of_slices(slices, depth + 1)) if depth < _MOST_STACKS else None
            name = _first_input(keys)
        return None

    def of_slices(self, slices: Sequence[Value], depth: int = 0) -> list[KnownTensors | None]:
        """Return, for each slice of a stack, the tensors that it makes, as the output has them."""
        found: list[KnownTensors | None] = []
        offset: int | None = 0
        for place, each in enumerate(slices):
            first, count = _layers(each)
            header = self.of(_first_input(each), depth)
            if header is None or count is None or offset is None or len(stacks(header.names)) != 1:
                found.append(None)
            else:
                cut = _Cut(first, count, offset, is_first=place == 0, is_last=place == len(slices) - 1)
                found.append(cut.header(header))
            offset = offset + count if offset is not None and count is not None else None
        return found

    def _of_source(self, name: str) -> KnownTensors | None:
        if name not in self._known:
            self._known[name] = self._read(self.draft.sources[name].path)
        return self._known[name]

    def _read(self, path: str) -> KnownTensors | None:
        places = (folder / path for folder in (self.root, *folders_of_models()))
        try:
            found = next((place for place in places if os.path.lexists(place)), None)
            if found is None:
                return None
            model = read_model(found, shown=path)
            layout = detect({info.name: info.shape for info in model.tensors.values()}, {})
        except (MergeBuildError, OSError):
            return None
        floats = (name for name, info in model.tensors.items() if info.is_float)
        names = tuple(name for name in floats if not name.startswith("model_ema."))
        return KnownTensors(layout, names, model.spelling.aliases, model.spelling.shared)


@dataclass(frozen=True)
class _Cut:
    """Which tensors of a model a slice takes, and what they are called in the output."""

    first: int
    count: int
    offset: int
    """The number of its first layer in the output."""
    is_first: bool
    is_last: bool

    def header(self, whole: KnownTensors) -> KnownTensors:
        """Return the tensors that the slice makes of a model."""
        names = {name: new for name in whole.names if (new := self._renamed(name)) is not None}
        aliases = {
            new: tuple(names[each] for each in some)
            for other, some in whole.aliases.items()
            if names.keys() >= {*some} and (new := self._renamed(other)) is not None
        }
        shared = {
            names[name]: [new for each in some if (new := self._renamed(each)) is not None]
            for name, some in whole.shared.items()
            if name in names
        }
        return KnownTensors(whole.layout, tuple(names.values()), aliases, shared)

    def _renamed(self, name: str) -> str | None:
        at = layered(name)
        if at is None:
            return name if (self.is_last if is_following(name) else self.is_first) else None
        number = at.number - self.first
        return Layered(at.stack, self.offset + number, at.rest).name if 0 <= number < self.count else None


def _joined(slices: Sequence[KnownTensors | None]) -> KnownTensors | None:
    """Return the tensors of a stack; None where those of a slice are not known."""
    known = [each for each in slices if each is not None]
    if not known or len(known) < len(slices):
        return None
    names = tuple(dict.fromkeys(name for each in known for name in each.names))
    aliases = {other: some for each in known for other, some in each.aliases.items()}
    return KnownTensors(
        known[0].layout, names, aliases, {name: some for each in known for name, some in each.shared.items()}
    )


def _layers(each: Value) -> tuple[int, int | None]:
    """Return the first layer of a slice's first input and how many it takes; None: it is not said."""
    text = next(_said_layers(each), "")
    if text == "none":
        return 0, 0
    found = _LAYERS.fullmatch(text)
    if found is None:
        return 0, None
    first = int(found["first"])
    return first, int(found["last"] or first) - first + 1


def _said_layers(value: Value) -> Iterator[str]:
    """Yield the layers that a slice says: its own word, or that of its first input."""
    while isinstance(value, (dict, list)) and value:
        if isinstance(value, list):
            value = value[0]
            continue
        layers = value.get("layers")
        if isinstance(layers, str):
            yield layers
        value = next((value[role] for role in _ROLES if role in value), "")


def _first_input(value: Value) -> str:
    """Return the name of the first input, also where it is in a table."""
    while not isinstance(value, str):
        if isinstance(value, list) and value:
            value = value[0]
        elif isinstance(value, dict) and (role := next((each for each in _ROLES if each in value), None)):
            value = value[role]
        else:
            return ""
    return value
