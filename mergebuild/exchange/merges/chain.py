"""A chain of merges of which each wrote a file there, as lines of a recipe or rows of a history.

Here a merge whose result others take is virtual: exact, and never rounded between the steps. So is one whose file a
later merge overwrote. A build never overwrites a source: where a merge took an older file of its own name, the result
gets another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mergebuild.exchange.draft import Draft, Value
from mergebuild.exchange.file_names import stem_of, without_suffix

__all__ = ["MOST_MERGES", "Chain", "Merge"]

MOST_MERGES: Final = 2000
"""Merges of one file that are imported."""


@dataclass
class Merge:
    """One step."""

    where: str
    """The file, and the line."""
    name: str
    """Of the result, as the recipe has it."""
    inputs: list[int | str]
    """In the order of the roles: the number of an earlier step, or the name of a source."""
    keys: Mapping[str, Value]
    """`method`, and its numbers."""
    roles: tuple[str, ...] = ("a", "b", "c")
    """One for each input; or one for all, which are a list."""
    notes: dict[str, str] = field(default_factory=dict)
    suffix: str = ".safetensors"
    dtype: str | None = None
    comments: list[str] = field(default_factory=list)


@dataclass
class Chain:
    """The steps so far; None for one that was not imported."""

    draft: Draft
    merges: list[Merge | None] = field(default_factory=list)
    _latest: dict[str, int] = field(default_factory=dict)

    def add(self, merge: Merge | None) -> None:
        """Add a step."""
        if merge is not None:
            self._latest[stem_of(merge.name)] = len(self.merges)
        self.merges.append(merge)

    def latest(self, name: str) -> int | None:
        """Return the number of the last step whose result has this name, with or without the end of a file's name."""
        return self._latest.get(stem_of(name))

    def write(self, *, last_is_default: bool) -> None:
        """Add the targets to the draft."""
        used = {each for merge in self.merges if merge for each in merge.inputs if isinstance(each, int)}
        names: dict[int, str] = {}
        for number, merge in enumerate(self.merges):
            if merge is not None:
                names[number] = self._target(merge, names, self._why_virtual(number, merge, used))
        if last_is_default and len(self.merges) - 1 in names:
            self.draft.default.append(names[len(self.merges) - 1])

    def _why_virtual(self, number: int, merge: Merge, used: set[int]) -> str | None:
        """Return why a step has no output; None: it has one."""
        if number in used:
            return "the tool writes a rounded file here; this step is virtual, and exact"
        later = self._latest[stem_of(merge.name)]
        return None if later == number else "the tool overwrote this file in a later merge"

    def _target(self, merge: Merge, names: Mapping[int, str], why_virtual: str | None) -> str:
        keys: dict[str, Value] = {"method": merge.keys["method"]}
        inputs = [names[each] if isinstance(each, int) else each for each in merge.inputs]
        if len(merge.roles) == 1:
            keys[merge.roles[0]] = [*inputs]
        else:
            keys |= dict(zip(merge.roles, inputs, strict=False))
        keys |= {key: value for key, value in merge.keys.items() if key != "method"}
        comments = [*merge.comments]
        if why_virtual:
            comments.append(why_virtual if not merge.dtype else f"{why_virtual} (saved as {merge.dtype})")
        name = self.draft.target(without_suffix(merge.name), keys, comments=comments)
        target = self.draft.targets[name]
        target.notes.update(merge.notes)
        if why_virtual is None:
            target.keys["output"] = self._output(merge, name)
            if merge.dtype:
                target.keys["dtype"] = merge.dtype
        return name

    def _output(self, merge: Merge, name: str) -> str:
        stem = without_suffix(merge.name)
        if stem_of(stem) not in {stem_of(source.path) for source in self.draft.sources.values()}:
            return self.draft.free_output(stem + merge.suffix)
        path = self.draft.free_output(name + merge.suffix)
        text = f"`{stem}` is a source too, which a build never overwrites: the result is `{path}`"
        self.draft.say(merge.where, text, target=name)
        return path
