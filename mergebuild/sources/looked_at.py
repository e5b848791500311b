"""What a source was opened by: the states of all files and folders that what it is follows from.

While every one of them is what it was, opening it again would come to the same, so what is open may be used on. Where
one may have changed unseen since before it was opened, that can't be said, and the source is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mergebuild.formats.model import ADAPTER_CONFIG, Model
from mergebuild.formats.ranks import may_be_one
from mergebuild.system.filestate import Identity, Moment, epoch, identity, is_racy

__all__ = ["LookedAt"]


@dataclass(frozen=True)
class LookedAt:
    """What was there when a source was opened."""

    states: Mapping[Path, Identity | None]
    """None: nothing was there."""
    epochs: Mapping[int, str]
    """Of their devices: what is remembered of a file is believed in one epoch."""
    is_sure: bool
    """Whether these were the states when the source was read, and every later change shows in them."""

    @classmethod
    def of(cls, path: Path, model: Model, settled: Mapping[Path, Identity], since: Moment) -> Self:
        """Look at what a model was read from. `settled`: the states of its files then; `since`: from before that."""
        states = {each: _state(each) for each in _looked_at(path, model)}
        until = Moment.now()
        is_sure = all(states.get(each) == state for each, state in settled.items()) and not any(
            is_racy(state, since, until) for each, state in states.items() if state and each not in settled
        )
        return cls(states, _epochs(states), is_sure)

    def holds(self) -> bool:
        """Whether nothing of it changed."""
        return (
            self.is_sure
            and all(_state(path) == state for path, state in self.states.items())
            and all(epoch(device) == known for device, known in self.epochs.items())
        )


def _looked_at(path: Path, model: Model) -> Iterator[Path]:
    """Yield what decides what a model at a path is."""
    yield path
    yield from model.watched
    if model.folder is None:
        yield path.with_name(ADAPTER_CONFIG)  # an adapter is another with one beside it
        if may_be_one(path.name):
            yield path.parent  # of several files that are called so, none is a model


def _state(path: Path) -> Identity | None:
    try:
        return identity(path)
    except OSError:
        return None


def _epochs(states: Mapping[Path, Identity | None]) -> dict[int, str]:
    return {device: epoch(device) for device in {state.device for state in states.values() if state}}
