"""The files and folders that decided what a source is when it was opened, with their stat data.

As long as all of these are the same, opening the source again would have the same result, so the open one can still be
used. If one may have changed unnoticed since before it was opened, this is unknown, and the source is opened again.
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
    """What a source was opened from."""

    states: Mapping[Path, Identity | None]
    """None: nothing was at that path."""
    epochs: Mapping[int, str]
    """Of their devices, since what is remembered of a file may be believed in one epoch only."""
    is_sure: bool
    """Whether the stat data were the same when the source was read, and every later change shows in them."""

    @classmethod
    def of(cls, path: Path, model: Model, settled: Mapping[Path, Identity], since: Moment) -> Self:
        """Return the stat data of everything that a model was read from.

        `settled`: those of its files when it was read; `since`: a moment before that.
        """
        states = {each: _state(each) for each in _looked_at(path, model)}
        until = Moment.now()
        is_sure = all(states.get(each) == state for each, state in settled.items()) and not any(
            is_racy(state, since, until) for each, state in states.items() if state and each not in settled
        )
        return cls(states, _epochs(states), is_sure)

    def holds(self) -> bool:
        """Whether nothing of it has changed."""
        return (
            self.is_sure
            and all(_state(path) == state for path, state in self.states.items())
            and all(epoch(device) == known for device, known in self.epochs.items())
        )


def _looked_at(path: Path, model: Model) -> Iterator[Path]:
    """Yield the paths that decide what the model at a path is."""
    yield path
    yield from model.watched
    if model.folder is None:
        yield path.with_name(ADAPTER_CONFIG)  # if it exists, it is a part of an adapter
        if may_be_one(path.name):
            yield path.parent  # if it has several such files, none of them is a model by itself


def _state(path: Path) -> Identity | None:
    try:
        return identity(path)
    except OSError:
        return None


def _epochs(states: Mapping[Path, Identity | None]) -> dict[int, str]:
    return {device: epoch(device) for device in {state.device for state in states.values() if state}}
