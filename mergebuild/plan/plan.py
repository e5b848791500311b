"""What must be done to each target, and why: a plan, as a value.

`planner.py` makes it of judgements, in the order of work: a file target is before those that read it. `build/` does
what it says and asks nobody again; `report/` shows it. A plan that leaves out what is refused is another plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from mergebuild.errors import MergeBuildError
from mergebuild.plan.actions import Action, FileAction
from mergebuild.plan.judgement import Judgement, Refused
from mergebuild.plan.origins import Origins
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.store import Presence

__all__ = ["Plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """The actions in the order of work, and the targets that were asked for."""

    actions: tuple[Action, ...]
    asked: tuple[str, ...]
    blocked: tuple[TargetResult, ...]
    """Targets that cannot be planned, with the problem that blocks each."""
    errors: tuple[MergeBuildError, ...]
    """Of each blocked target, in their order."""
    origins: Origins
    """Which digest a tensor has, and where it can be read."""
    refused: Mapping[Judgement, Refused] = field(default_factory=dict)
    """What a build would not do, with those that read it."""
    bytes_to_hash: int = 0
    fresh: Mapping[str, TargetResult] = field(default_factory=dict)
    """Targets that were seen to be up to date without being planned."""

    @property
    def judged(self) -> Iterator[Judgement]:
        """What the actions follow from, in their order."""
        return (action.judgement for action in self.actions)

    @property
    def files(self) -> Iterator[FileAction]:
        """The files of all actions."""
        return (file for action in self.actions for file in action.files)

    @cached_property
    def by_name(self) -> Mapping[str, Action]:
        """The action of each target."""
        return {action.name: action for action in self.actions}

    @property
    def first_sight(self) -> Iterator[FileAction]:
        """Files of sources never hashed that are merged while these are: one action, then all is planned anew.

        Each is made of other forms than those before it, nothing stands at its place, and all that it reads is among
        those before it.
        """
        found: list[FileAction] = []
        names: set[str] = set()
        for file in self.files:
            made = file.description
            is_free = file.standing.presence is Presence.ABSENT and file.refused is None
            if made.is_known or not is_free or not names.issuperset(made.needs):
                continue
            same = (each.description.blueprint for each in found if each.goal.dtype == made.goal.dtype)
            if not any(each.forms == made.blueprint.forms and each.specs == made.blueprint.specs for each in same):
                found.append(file)
                names.add(file.name)
                yield file

    @property
    def space_needed(self) -> int:
        """Bytes that the build needs on disk while it runs."""
        return sum(file.writes for file in self.files)

    @property
    def largest_whole(self) -> int:
        """Bytes of the largest tensors that a method must have whole, all of its inputs and its result as float32."""
        found = (file.content.tensors.largest_whole for file in self.files if file.computed and file.content.tensors)
        return max(found, default=0)

    @property
    def refusals(self) -> Mapping[str, MergeBuildError]:
        """Why targets can't be built, as far as it shows before any work, in the order of the results."""
        found = dict(zip((each.target for each in self.blocked), self.errors, strict=True))
        found |= {judgement.name: each.error for judgement, each in self.refused.items()}
        return {each.target: found[each.target] for each in self.results() if each.target in found} if found else {}

    def results(self) -> tuple[TargetResult, ...]:
        """Return the targets asked for, then the file targets built for them."""
        return self.in_order({action.name: action.result() for action in self.actions})

    def in_order(self, found: Mapping[str, TargetResult]) -> tuple[TargetResult, ...]:
        """Put results in the contract's order: asked for, then what was built for them; blocked ones added."""
        every = dict(found) | {each.target: each for each in self.blocked} | dict(self.fresh)
        asked = dict.fromkeys(self.asked)
        rest = [each for name, each in every.items() if name not in asked and each.verdict is not Verdict.UP_TO_DATE]
        return (*(every[name] for name in asked if name in every), *rest)
