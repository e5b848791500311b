"""How tensors are made that differ between inputs, once it is known which inputs are used where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergebuild.errors import Problem
from mergebuild.fold.counterparts import Accounting, Side, bytes_of
from mergebuild.fold.draft import FrameDraft, Pattern
from mergebuild.fold.numbers import Usage
from mergebuild.fold.view import View
from mergebuild.recipe.model import Target

__all__ = ["Meeting", "have"]

_FIRST = frozenset({0})
"""The first input alone."""


class Meeting:
    """How tensors are made that differ between inputs, once it is known which inputs are used where."""

    def __init__(self, target: Target, views: tuple[View, ...], draft: FrameDraft, pattern: Pattern) -> None:
        self._views = views
        self._draft = draft
        self._counts = not target.making.union_of_tensors
        """Whether tensors that take no part are reported: not for methods that take missing ones from other inputs."""
        self._used = dict(zip(draft.situations, pattern, strict=True))
        self._by_name = target.making.shares_by_name
        self.made: dict[str, Usage] = {}
        """Which inputs tensors are made of, unless that is the first alone; these inputs have the tensor in one
        shape."""
        self.unequal: dict[str, frozenset[int]] = {}
        """By tensor: inputs that it would be made of but that have it in several shapes."""
        self.refused: dict[str, Problem] = {}
        """By tensor: why an input that it would be made of can't take part."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shapes of tensors that are made, and of those that would be if the inputs agreed."""
        self._lacking: dict[int, list[str]] = {at: [] for at in range(len(self._views))}
        """By input: the tensors that would be made of it and that it lacks."""
        for name in draft.reaches[0].names if draft.reaches else ():
            if name not in draft.alike:
                self._meet(name)

    def _meet(self, name: str) -> None:
        use = self.use(0, name)
        lacking = [at for at in sorted(use.inputs) if not have(self._views[at : at + 1], name)]
        for at in lacking:
            self._lacking[at].append(name)
        if lacking or (use.is_itself and use.inputs == _FIRST):
            return
        barred = [at for at in sorted(use.inputs) if name in self._views[at].refused]
        if barred:
            whole = self._taken_whole(name, use, barred)
            if whole is None:
                self.refused[name] = self._views[barred[0]].refused[name]
                self.shapes[name] = self._draft.specs[name].shape
                return
            use = whole
        shapes = [self._views[at].specs[name].shape for at in sorted(use.inputs)] or [self._draft.specs[name].shape]
        if len(set(shapes)) == 1:
            self.made[name] = use
            self.shapes[name] = shapes[0]
        else:
            self.unequal[name] = use.inputs
            self.shapes[name] = self._draft.specs[name].shape

    def _taken_whole(self, name: str, use: Usage, barred: Sequence[int]) -> Usage | None:
        """Return the usage of a tensor that is just a LoRA's.

        None unless that has it whole, is the only LoRA there, and has factor 1.
        """
        loras = [at for at in sorted(use.inputs) if self._views[at].delta]
        if loras == list(barred) and len(loras) == 1 and loras[0] in use.ones and name in self._views[loras[0]].whole:
            return Usage(frozenset(loras), is_itself=True)
        return None

    def use(self, reach: int, name: str) -> Usage:
        """Return which inputs a tensor of a reach is made of."""
        values = self._draft.reaches[reach].values(name)
        return self._used[reach, values, name if self._by_name else ""]

    def accounts(self) -> tuple[tuple[int, Accounting], ...]:
        """Return comparisons with the inputs of which something takes no part, by index."""
        if not self._draft.situations or not self._counts:
            return ()
        used = {name: self.use(0, name).inputs for name in self._draft.reaches[0].names}
        found = ((at, self._account(at, used)) for at, view in enumerate(self._views) if at and not view.delta)
        return tuple((at, each) for at, each in found if not each.is_even)

    def _account(self, at: int, used: Mapping[str, frozenset[int]]) -> Accounting:
        first, view = self._views[0], self._views[at]
        asked = [name for name, each in used.items() if at in each]
        there = [name for name in asked if have((view,), name)]
        part = [name for name in there if name in self._draft.alike or name in self.made or name in self.unequal]
        left = tuple(name for name in self._draft.reaches[at].names if at in self.use(at, name).inputs)
        lacking = tuple(self._lacking[at])
        mine, theirs = self._draft.specs, view.specs
        size = bytes_of(theirs, there) + bytes_of(theirs, left)
        return Accounting(
            Side(first.input.ref, first.layout, mine, bytes_of(mine, asked), bytes_of(mine, part), lacking),
            Side(view.input.ref, view.layout or first.layout, theirs, size, bytes_of(theirs, part), left),
        )


def have(views: Sequence[View], name: str, shape: tuple[int, ...] | None = None) -> bool:
    """Whether all of some inputs have a floating-point tensor with this name, and this shape if it is given."""
    for view in views:
        spec = view.specs.get(name)
        if spec is None or not spec.is_float or (shape is not None and spec.shape != shape):
            return False
    return True
