"""Decide, for every target, what must be done to it, and say why.

A goal is described (`describe.py`), judged (`judge.py`), and weighed beside the others (`weigh.py`). Here is the order:
what is below a target before it, and only what is needed for those that must be built. Planning reads headers, stat
data and the store; it reads tensors only to learn what a source is, and writes nothing but what it learnt. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mergebuild.errors import MergeBuildError
from mergebuild.fold.folder import Folding
from mergebuild.plan.actions import Action
from mergebuild.plan.describe import Describer
from mergebuild.plan.description import Description, Goal
from mergebuild.plan.judge import Judge
from mergebuild.plan.judgement import Judgement, Refused
from mergebuild.plan.origins import Origins
from mergebuild.plan.plan import Plan
from mergebuild.plan.weigh import weigh
from mergebuild.recipe import Recipe
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.sources.sources import Sources
from mergebuild.store import Ledger, Shelf
from mergebuild.system.spans import span

__all__ = ["Elsewhere", "Planner"]


@dataclass(frozen=True)
class Elsewhere:
    """A folder that outputs go to in place of the project's own."""

    folder: Path
    root: Path
    """The project's folder."""

    def of(self, output: Path) -> Path:
        """Return where an output goes; one outside the project too is inside the folder."""
        try:
            return self.folder / "inside" / output.relative_to(self.root)
        except ValueError:
            return self.folder / "outside" / output.relative_to(output.anchor)


class Planner:
    """Plans goals over one recipe, one set of sources, what a store offers and what it remembers."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        shelf: Shelf,
        ledger: Ledger,
        *,
        elsewhere: Elsewhere | None = None,
        device: str = "cpu",
        folding: Folding | None = None,
    ) -> None:
        """Plan for a recipe.

        `elsewhere` says where outputs go instead; `device` is the class of devices (`cpu`, `cuda`) that makes what is
        not the same on all of them; `folding` is one of the same recipe and sources, which may have folded before.
        """
        self._recipe = recipe
        self._sources = sources
        self._shelf = shelf
        self._elsewhere = elsewhere
        self.folding = folding or Folding(recipe, sources)
        self._origins = Origins(sources, self.folding, device)
        self._describer = Describer(recipe, sources, ledger, self.folding, self._origins)
        self._judge = Judge(shelf, ledger)
        self._judged: dict[str, Judgement] = {}
        """By target, as whoever reads it finds it: its own output, not that of `-o`."""
        self._order: dict[Goal | str, Judgement] = {}
        """What is in the work, in the order of work: by target, and what `-o` makes by its goal."""

    def goal_of(self, target: str) -> Goal:
        """Return the goal of a target asked for by name: its output, or the store in float32 when it is virtual."""
        made = self._recipe.target(target)
        if made.output_path is None:
            return Goal(target, None, "float32")
        return Goal(target, self._place(made.output_path))

    def plan(self, goals: Sequence[Goal | str], *, hash_all: bool = False) -> Plan:
        """Plan goals; a target's name is the goal of whoever asks for it by name.

        With `hash_all` every source needed is hashed. Else large ones are not, of targets that were never built and
        that nothing pins; the digest of what is made of them is None.

        Every problem that keeps a target from being planned is collected; the target is then blocked.
        """
        with span("plan", targets=len(goals)):
            return self._planned(goals, hash_all=hash_all)

    def _planned(self, goals: Sequence[Goal | str], *, hash_all: bool) -> Plan:
        blocked: list[TargetResult] = []
        errors: list[MergeBuildError] = []
        for each in goals:
            try:
                goal = self.goal_of(each) if isinstance(each, str) else each
                self._claim(self._judgement(goal, hash_all=hash_all))
            except MergeBuildError as error:
                errors.append(error)
                blocked.append(self._blocked(each, error))
        for key, judgement in self._order.items():
            self._order[key] = self._caught_up(judgement)
        return Plan(
            self._weighed(self._order.values(), {}),
            tuple(each if isinstance(each, str) else each.target for each in goals),
            tuple(blocked),
            tuple(errors),
            self._origins,
            bytes_to_hash=self._bytes_to_hash(),
        )

    def _bytes_to_hash(self) -> int:
        """Return the size of the sources of what is in the work that are not hashed."""
        unknown = (each.name for each in self._order.values() if not each.description.is_known)
        unhashed = {owner for name in unknown for owner in self._describer.unhashed(name)}
        return sum(self._sources.file(owner).size for owner in unhashed)

    def without(self, plan: Plan, refused: Mapping[Judgement, Refused]) -> Plan:
        """Return a plan that leaves out what is refused, and what would have been shared with that."""
        return replace(plan, actions=self._weighed(plan.judged, refused), refused=refused)

    def _weighed(self, judged: Iterable[Judgement], refused: Mapping[Judgement, Refused]) -> tuple[Action, ...]:
        with span("weigh"):
            return weigh(judged, refused, self._shelf, self._origins)

    def as_declared(self, target: str) -> Description:
        """Return what a build of a target by name would make; it is not taken into the work.

        Raises:
            MergeBuildError: it cannot be made as it is written.
        """
        return self._judgement(self.goal_of(target), hash_all=True).description

    def open_sources(self, target: str) -> None:
        """Open every source below a target, and report all that cannot be opened at once.

        Raises:
            SourceError: one is missing or unreadable.
        """
        self._describer.open_sources(target)

    def sources_of(self, target: str) -> tuple[str, ...]:
        """Return every source that a target, or a target below it, names: for tensors, or for small files."""
        return self._describer.sources_of(target)

    # Order

    def _claim(self, judgement: Judgement) -> None:
        """Take a target into the order of work, behind what it reads, if it must be built."""
        goal = judgement.description.goal
        key = goal if goal.is_extra else goal.target
        if not judgement.description.needs:
            self._order.setdefault(key, judgement)
            return
        wanted = {goal.target}
        waiting = [judgement]
        while waiting:
            each = waiting.pop()
            needs = each.description.needs if each.verdict is Verdict.BUILD else ()
            waiting += [self._judged[need] for need in needs if need not in wanted]
            wanted.update(needs)
        for name in self._recipe.below(goal.target)[:-1] if len(wanted) > 1 else ():
            if name in wanted:
                self._order.setdefault(name, self._judged[name])
        self._order.setdefault(key, judgement)

    def _judgement(self, goal: Goal, *, hash_all: bool) -> Judgement:
        """Return a goal described and judged, once; a goal of `-o` always anew."""
        known = self._judged.get(goal.target)
        if known is not None and known.description.goal == goal:
            return known
        self.open_sources(goal.target)
        for name in self._recipe.below(goal.target)[:-1]:  # the deepest first; virtual targets fold away
            if name not in self._judged and not self.folding.is_virtual(name):
                self._judge_anew(self.goal_of(name), hash_all=hash_all)
        return self._judge_anew(goal, hash_all=hash_all)

    def _judge_anew(self, goal: Goal, *, hash_all: bool) -> Judgement:
        self._describer.hash_sources(goal, hash_all=hash_all)
        if not self._describer.unhashed(goal.target):
            for name in self._recipe.below(goal.target)[:-1]:
                if name in self._judged:
                    self._caught_up(self._judged[name])
        found = self._judged_now(goal)
        if not goal.is_extra:  # only now: of one that can't be described, nobody who reads it may find a half
            self._judged[goal.target] = found
            self._origins.add(found.description)
        return found

    def _judged_now(self, goal: Goal) -> Judgement:
        """Return a goal described and judged, by what is known now."""
        with span("describe", target=goal.target):
            made = self._describer.describe(goal)
        with span("judge", target=goal.target):
            return self._judge.judge(made)

    def _caught_up(self, judgement: Judgement) -> Judgement:
        """Return a judgement, made anew if its sources were not known then and another target has made them known."""
        if judgement.description.is_known or self._describer.unhashed(judgement.name):
            return judgement
        known = self._judged.get(judgement.name)
        if known is not None and known.description.is_known and known.description.goal == judgement.description.goal:
            return known
        found = self._judged_now(judgement.description.goal)
        if not found.description.goal.is_extra:
            self._judged[judgement.name] = found
            self._origins.add(found.description)
        return found

    def _place(self, output: Path) -> Path:
        return self._elsewhere.of(output) if self._elsewhere else output

    def _blocked(self, goal: Goal | str, error: MergeBuildError) -> TargetResult:
        name, path = (goal, self._listed.get(goal)) if isinstance(goal, str) else (goal.target, goal.path)
        shown = self._describer.shown(path)
        reasons = tuple(dict.fromkeys(problem.message for problem in error.problems))
        return TargetResult(name, Verdict.BLOCKED, output=shown, error=error.problems[0], reasons=reasons)

    @cached_property
    def _listed(self) -> Mapping[str, Path]:
        """The outputs that the recipe lists, by target: also of members that can't be made."""
        return {name: self._place(path) for path, name in self._recipe.outputs().items()}
