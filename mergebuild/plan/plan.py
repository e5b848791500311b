"""A plan, as a value: what must be done for each target, and why.

`planner.py` makes it from judgements, in the order of work: a file target comes before those that read it. `build/`
does what it says without further decisions; `report/` shows it. Leaving out what is refused gives another plan.
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
    """Of each blocked target, in order."""
    origins: Origins
    """Which digest a tensor has, and where it can be read."""
    refused: Mapping[Judgement, Refused] = field(default_factory=dict)
    """What a build refuses to do, including targets that read something refused."""
    bytes_to_hash: int = 0
    fresh: Mapping[str, TargetResult] = field(default_factory=dict)
    """Targets that were found to be up to date without being planned."""

    @property
    def judged(self) -> Iterator[Judgement]:
        """The judgements that the actions were made from, in order."""
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
        """Files from sources that were never hashed, to be merged in the pass that hashes these.

        Then everything else is planned anew.

        Each has other forms than those before it, nothing is at its output, and all file targets that it reads are
        among those before it.
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
        """Bytes of the largest tensors that a method needs whole: all of its inputs and its result, as float32."""
        found = (file.content.tensors.largest_whole for file in self.files if file.computed and file.content.tensors)
        return max(found, default=0)

    @property
    def refusals(self) -> Mapping[str, MergeBuildError]:
        """Why targets can't be built, as far as this is known before any work, in the order of the results."""
        found = dict(zip((each.target for each in self.blocked), self.errors, strict=True))
        found |= {judgement.name: each.error for judgement, each in self.refused.items()}
        return {each.target: found[each.target] for each in self.results() if each.target in found} if found else {}

    def results(self) -> tuple[TargetResult, ...]:
        """Return the targets asked for, then file targets that are built for them."""
        return self.in_order({action.name: action.result() for action in self.actions})

    def in_order(self, found: Mapping[str, TargetResult]) -> tuple[TargetResult, ...]:
        """Return results in the contract's order: targets asked for, then others built for them.

        Blocked ones are added.
        """
        every = dict(found) | {each.target: each for each in self.blocked} | dict(self.fresh)
        asked = dict.fromkeys(self.asked)
        rest = [each for name, each in every.items() if name not in asked and each.verdict is not Verdict.UP_TO_DATE]
        return (*(every[name] for name in asked if name in every), *rest)
