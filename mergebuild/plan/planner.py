"""Decides what must be done for every target, and why.

A goal is described (`describe.py`), judged (`judge.py`), and weighed against the others (`weigh.py`). Here the order is
decided: targets below another come before it, and only those that a target to be built needs. Planning reads headers,
stat data and the store; it reads tensors only to hash sources, and writes nothing but these hashes. No torch.
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
    """A folder for outputs, in place of the project's own paths."""

    folder: Path
    root: Path
    """The project's folder."""

    def of(self, output: Path) -> Path:
        """Return where an output goes; even one outside of the project is inside the folder."""
        try:
            return self.folder / "inside" / output.relative_to(self.root)
        except ValueError:
            return self.folder / "outside" / output.relative_to(output.anchor)


class Planner:
    """Plans goals for one recipe, its sources, and one store."""

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

        `elsewhere`: where outputs go instead of their own paths. `device`: the class of devices (`cpu`, `cuda`), for
        results that differ between classes. `folding`: one of the same recipe and sources, which may have folded
        targets before.
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
        """By target, with its own output, as targets that read it need it; not with that of `-o`."""
        self._order: dict[Goal | str, Judgement] = {}
        """The judgements to be acted on, in the order of work: by target, or for `-o` by goal."""

    def goal_of(self, target: str) -> Goal:
        """Return the goal of a target asked for by name: its output; for a virtual one, the store, in float32."""
        made = self._recipe.target(target)
        if made.output_path is None:
            return Goal(target, None, "float32")
        return Goal(target, self._place(made.output_path))

    def plan(self, goals: Sequence[Goal | str], *, hash_all: bool = False) -> Plan:
        """Plan goals; a target's name means its own goal.

        With `hash_all` every needed source is hashed. Otherwise large sources are not, if the target was never built
        and nothing pins them; then the digest of what is made of them is None.

        Problems that keep a target from being planned are collected; the target is then blocked.
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
        """Return the size of the sources that are not hashed, for all targets to be worked on."""
        unknown = (each.name for each in self._order.values() if not each.description.is_known)
        unhashed = {owner for name in unknown for owner in self._describer.unhashed(name)}
        return sum(self._sources.file(owner).size for owner in unhashed)

    def without(self, plan: Plan, refused: Mapping[Judgement, Refused]) -> Plan:
        """Return the plan without what is refused, weighed anew, as nothing can be shared with that."""
        return replace(plan, actions=self._weighed(plan.judged, refused), refused=refused)

    def _weighed(self, judged: Iterable[Judgement], refused: Mapping[Judgement, Refused]) -> tuple[Action, ...]:
        with span("weigh"):
            return weigh(judged, refused, self._shelf, self._origins)

    def as_declared(self, target: str) -> Description:
        """Return what a build of a target by name would make; the target is not added to the work.

        Raises:
            MergeBuildError: it cannot be made as it is written.
        """
        return self._judgement(self.goal_of(target), hash_all=True).description

    def open_sources(self, target: str) -> None:
        """Open every source below a target; report all that can't be opened together.

        Raises:
            SourceError: one is missing or unreadable.
        """
        self._describer.open_sources(target)

    def sources_of(self, target: str) -> tuple[str, ...]:
        """Return every source that a target, or a target below it, names: for tensors, or for small files."""
        return self._describer.sources_of(target)

    # Order

    def _to_be_built_for(self, judgement: Judgement) -> set[str]:
        """Return a target and those that it reads, and so on, as far as the reading one must be built."""
        wanted = {judgement.description.goal.target}
        waiting = [judgement]
        while waiting:
            each = waiting.pop()
            needs = each.description.needs if each.verdict is Verdict.BUILD else ()
            waiting += [self._judged[need] for need in needs if need not in wanted]
            wanted.update(needs)
        return wanted

    def _claim(self, judgement: Judgement) -> None:
        """Add a target to the work, after the targets that it reads, as far as these must be built."""
        goal = judgement.description.goal
        key = goal if goal.is_extra else goal.target
        if not judgement.description.needs:
            self._order.setdefault(key, judgement)
            return
        wanted = self._to_be_built_for(judgement)
        for name in self._recipe.below(goal.target)[:-1] if len(wanted) > 1 else ():
            if name in wanted:
                self._order.setdefault(name, self._judged[name])
        self._order.setdefault(key, judgement)

    def _judgement(self, goal: Goal, *, hash_all: bool) -> Judgement:
        """Return the judgement of a goal, made once; a goal of `-o` is judged anew each time."""
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
        if not goal.is_extra:  # only now: targets that read it must not find one that can't be described
            self._judged[goal.target] = found
            self._origins.add(found.description)
        return found

    def _judged_now(self, goal: Goal) -> Judgement:
        """Return the judgement of a goal by what is known now."""
        with span("describe", target=goal.target):
            made = self._describer.describe(goal)
        with span("judge", target=goal.target):
            return self._judge.judge(made)

    def _caught_up(self, judgement: Judgement) -> Judgement:
        """Return a judgement.

        It is made anew if its sources were unknown and have become known through another target.
        """
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
        """The outputs that the recipe lists, by target, including those of members that can't be made."""
        return {name: self._place(path) for path, name in self._recipe.outputs().items()}
