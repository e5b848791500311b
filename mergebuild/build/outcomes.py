"""The outcomes of a plan's actions, and what follows for others: which wait, which are skipped, whether to stop.

A build may do several plans, one after another (`Builder.look`, `finish`, `run`). Actions belong to one plan, so
outcomes of earlier plans are kept by target, and taken over if a later plan has the same target.
"""

from __future__ import annotations

from collections.abc import Sequence

from mergebuild.build.failures import Refusal
from mergebuild.events import Emit, TargetDone
from mergebuild.plan.actions import Action, FileAction, FolderAction, Outcome
from mergebuild.plan.plan import Plan
from mergebuild.results.build import TargetResult, Verdict

__all__ = ["WELL", "Outcomes"]

WELL = (Verdict.UP_TO_DATE, Verdict.RESTORED, Verdict.BUILT)
"""Outcomes of a file with which its folder may be published."""


class Outcomes:
    """The outcomes of one build, emitted as they come."""

    def __init__(self, emit: Emit, *, keep_going: bool) -> None:
        self.plan: Plan
        """The current plan."""
        self.counted: set[bytes] = set()
        """Tensors whose computing was counted for a target; it is not counted again for another that needs them."""
        self._emit = emit
        self._keep_going = keep_going
        self._found: dict[Action, Outcome] = {}
        self._earlier: dict[str, tuple[FileAction, Outcome]] = {}
        """By target: its outcome in earlier plans."""

    def begin(self, plan: Plan) -> None:
        """Begin with a plan, without outcomes."""
        self.plan = plan
        self._found = {}

    def remember(self) -> None:
        """Keep the outcomes of files for the next plan, which has actions of its own."""
        dealt_with = (file for file in self.plan.files if file in self._found)
        self._earlier |= {file.name: (file, self._found[file]) for file in dealt_with}

    def __contains__(self, action: object) -> bool:
        return action in self._found

    def __getitem__(self, action: Action) -> Outcome:
        return self._found[action]

    def done(self, action: Action, outcome: Outcome) -> None:
        """Record the outcome of an action, and emit it, unless it is one of a folder's files."""
        self._found[action] = outcome
        made = action.judgement.description
        if not (isinstance(action, FileAction) and action.is_part):
            self._emit(TargetDone(made.name, str(outcome.verdict), made.shown or ""))

    def fail(self, action: FileAction, refusal: Refusal) -> None:
        """Record that a file was not made, and why."""
        if self.counted:  # another target that needs them must compute them again
            self.counted.difference_update(made.digest for made in action.content.made)
        self.done(action, Outcome(Verdict.FAILED, problem=refusal.problem, exit_code=refusal.exit_code))

    def skip(self, action: FileAction) -> None:
        """Record that a file is not made, because what it reads was not made or the build stops."""
        self.done(action, Outcome(Verdict.SKIPPED))

    def taken_over(self, action: FileAction) -> bool:
        """Whether an earlier plan has settled a target, so that nothing is to be done; that was emitted then."""
        _, earlier = self._earlier.get(action.name, (None, None))
        if earlier is None or (earlier.verdict in WELL and action.verdict is not Verdict.UP_TO_DATE):
            return False
        self._found[action] = earlier
        return True

    def waiting(self) -> list[FileAction]:
        """Return the files without an outcome."""
        return [action for action in self.plan.files if action not in self._found]

    def must_stop(self) -> bool:
        """Whether nothing more must be begun."""
        failed = (outcome.verdict is Verdict.FAILED for outcome in self._found.values())
        return not self._keep_going and any(failed)

    def failed(self, need: str) -> bool:
        """Whether a target that another one reads was not made."""
        action = self.plan.by_name.get(need)
        if action is None:
            return False
        found = (self._found.get(each) for each in (action, *action.files))
        return any(each is not None and each.verdict in (Verdict.FAILED, Verdict.SKIPPED) for each in found)

    def lacks(self, action: FileAction) -> bool:
        """Whether something that a file reads was not made."""
        return any(self.failed(need) for need in action.needs)

    def is_whole(self, folder: FolderAction) -> bool:
        """Whether all files of a folder are made, or were there."""
        return all(part in self._found and self._found[part].verdict in WELL for part in folder.files)

    def concluded(self, folder: FolderAction) -> Outcome:
        """Return the outcome of a folder, all of whose files have one."""
        files = [self._found[part] for part in folder.files]
        failed = next((each for each in files if each.verdict is Verdict.FAILED), None)
        verdicts = {each.verdict for each in files}
        order = (Verdict.SKIPPED, Verdict.BUILT, Verdict.RESTORED, Verdict.UP_TO_DATE)
        return failed or Outcome(
            next(each for each in order if each in verdicts),
            sum(each.computed for each in files),
            sum(each.bytes_read for each in files),
            sum(each.bytes_written for each in files),
            sum(each.seconds for each in files),
        )

    def results(self) -> tuple[TargetResult, ...]:
        """Return the targets' results; all actions have an outcome."""
        found = {action.name: action.result(self._found[action]) for action in self.plan.actions}
        for name, (action, outcome) in self._earlier.items():
            now = self.plan.by_name.get(name)
            if now is not None and self._found[now] is outcome and outcome.verdict in WELL:
                found[name] = action.result(outcome)  # with the reasons in that plan
        return self.plan.in_order(found)

    def exit_code(self, results: Sequence[TargetResult]) -> int:
        """Return the exit code of the first target that failed."""
        plan = self.plan
        codes = {each.target: error.exit_code for each, error in zip(plan.blocked, plan.errors, strict=True)}
        codes |= {action.name: self._found[action].exit_code for action in plan.actions}
        return next((code for each in results if (code := codes.get(each.target))), 0)
