"""What a build refuses before any work, asked of each item of a plan.

A plan knows what a target will be and what stands where it goes; whether it may be made is asked here: whether it is
what a lock says, whether the user trusts the project with the place and with the code, whether a file of somebody else
is in the way, whether the folder can be written to, and whether all of it fits on the disk. `plan` shows the answers (a
target is `blocked`), and `build` refuses by the same ones, so neither can promise what the other does not keep. What
reads a target that is refused is refused with it, and what would have been restored from it, or shared its tensors, is
planned without it.

What only the work shows (values that are not finite, a source that changes meanwhile) is in `build/builder.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import ParamSpec

from mergebuild.build import failures
from mergebuild.build.failures import Refusal
from mergebuild.errors import MergeBuildError, NoSpaceError, TargetError, TrustError
from mergebuild.plan.plan import Item, Plan
from mergebuild.plan.planner import Planner
from mergebuild.project import trust
from mergebuild.recipe import Recipe
from mergebuild.results.build import Verdict
from mergebuild.store import Presence, Shelf
from mergebuild.system import portable

__all__ = ["Gate", "Hold"]

Words = ParamSpec("Words")
Hold = Callable[[Item], MergeBuildError | None]
"""What else a target is held to (a lock): returns why it is refused, if it is."""


class Gate:
    """Asks of a plan's items what a build of one recipe into one store would refuse them for.

    `written`: every path that the recipe would write to, for which the user's word was given; None where outputs go to
    a place of our own. `force`: whether what was changed by hand may be put aside.
    """

    def __init__(
        self,
        recipe: Recipe,
        shelf: Shelf,
        *,
        written: Iterable[Path] | None,
        force: bool = False,
        holds: Iterable[Hold] = (),
    ) -> None:
        self._recipe = recipe
        self._shelf = shelf
        self._written = None if written is None else tuple(written)
        self._force = force
        self._holds = tuple(holds)

    def ask(self, plan: Plan, planner: Planner) -> None:
        """Give each item of a plan that would be refused its `refusal`; have the others weighed without these."""
        for hold in self._holds:
            for item in plan.items:
                if item.whole is None and (error := hold(item)) is not None:
                    _refuse(item, error)
        items = [item for item in plan.items if item.verdict is not Verdict.UP_TO_DATE]  # nothing is done to the rest
        if self._written is not None:
            self._ask_for_places(items, self._written)
        self._ask_for_code(items)
        self._ask_for_one_place(plan.items)
        writable = cache(_is_writable)
        for item in items:
            if (refusal := self._in_the_way(item, writable)) is not None:
                _refuse(item, TargetError((refusal.problem,)))
        if _pass_on(plan.items):
            planner.weigh()
        if self._ask_for_space(items):
            _pass_on(plan.items)
            planner.weigh()

    def _ask_for_one_place(self, items: Iterable[Item]) -> None:
        """Refuse what goes to the very file that another target's output is: by way of a link between two folders."""
        real = cache(os.path.realpath)
        taken: dict[str, Item] = {}
        for item in items:
            if item.goal.path is None or item.parts:
                continue
            place = os.path.join(real(item.goal.path.parent), item.goal.path.name)  # noqa: PTH118 -- thousands of them
            other = taken.setdefault(place, item)
            if other.name != item.name:
                _refuse(item, TargetError((failures.same_place(item, other).problem,)))

    def _ask_for_places(self, items: Sequence[Item], written: Sequence[Path]) -> None:
        """Refuse what goes outside the project, unless the user trusts it with the folder."""
        root = self._recipe.root
        folders: dict[Path, list[Item]] = {}
        for item in items:
            if item.goal.path is None or item.parts:
                continue
            if not item.goal.is_extra:
                folders.setdefault(item.goal.path.parent, []).append(item)
            elif error := _caught(trust.require_plain, root, item.goal.path):
                _refuse(item, error)
        for some in folders.values():
            paths = {item.goal.path: item.blueprint.target.where for item in some[:1] if item.goal.path}
            if error := _caught(trust.require, root, paths, written):
                for item in some:
                    _refuse(item, error)

    def _ask_for_code(self, items: Iterable[Item]) -> None:
        """Refuse what is made by a method of the project's own, unless the user trusts it as it is."""
        for item in (item for item in items if item.whole is None):
            programs = self._recipe.programs(item.name)
            if programs and (error := _caught(trust.require_code, self._recipe.root, programs)):
                _refuse(item, error)

    def _in_the_way(self, item: Item, writable: Callable[[Path], bool]) -> Refusal | None:
        """Return what is wrong with the place that a file goes to, if anything is."""
        if item.goal.path is None or item.parts:
            return None
        if item.presence is Presence.FOREIGN and not self._force and not _may_be_the_result(item, self._shelf):
            return failures.changed_by_hand(item)
        return None if writable(item.goal.path.parent) else failures.unwritable(item)

    def _ask_for_space(self, items: Iterable[Item]) -> bool:
        """Refuse all that goes to a file system with less room than the build would write to it; say whether any."""
        needed: dict[int, list[Item]] = {}
        device_of = cache(_device)
        for item in items:
            if item.writes and not item.parts and item.refusal is None:
                needed.setdefault(device_of(item.place(self._shelf).parent), []).append(item)
        found = False
        for some in needed.values():
            size = sum(item.writes for item in some)
            free = portable.free_space(_existing(some[0].place(self._shelf).parent))
            if size > free:
                error = NoSpaceError.one(
                    "no-space",
                    f"the build needs {size:,} bytes and {free:,} are free",
                    help="free some space (`mergebuild gc`), or build fewer targets",
                )
                for item in some:
                    _refuse(item, error)
                found = True
        return found


def _caught(ask: Callable[Words, None], *words: Words.args, **more: Words.kwargs) -> TrustError | None:
    """Return what asking for the user's trust raises."""
    try:
        ask(*words, **more)
    except TrustError as error:
        return error
    return None


def _refuse(item: Item, error: MergeBuildError, name: str = "") -> None:
    """Refuse an item, and all files of its directory, which is published whole or not at all."""
    whole = item.whole or item
    for each in (whole, *whole.parts):
        if each.refusal is None:
            each.refusal, each.refused_for = error, name or whole.name


def _pass_on(items: Iterable[Item]) -> bool:
    """Refuse what reads a target that is refused; return whether any is."""
    refused: dict[str, Item] = {}
    for item in items:  # what an item reads stands before it
        if item.refusal is None and item.verdict is not Verdict.UP_TO_DATE:
            below = next((refused[need] for need in item.needs if need in refused), None)
            if below is not None and below.refusal is not None:
                _refuse(item, below.refusal, below.refused_for)
        if item.refusal is not None:
            refused.setdefault(item.name, item)
    return bool(refused)


def _may_be_the_result(item: Item, shelf: Shelf) -> bool:
    """Whether what stands at an output's path and is not on record may be what the target makes.

    Where the sources were never read, only its size tells.
    """
    assert item.goal.path is not None
    if item.is_known:
        return item.header is not None and shelf.may_be(item.goal.path, item.header_bytes, item.size)
    return item.goal.path.is_file() and item.goal.path.stat().st_size == item.size


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    try:
        there = _existing(folder)
    except OSError:
        return False
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder
