"""What became of the actions of a plan, and what follows for the others: who waits, who is skipped, whether to stop.

A build may do several plans after each other (`Builder.look`, `finish`, `run`). Actions belong to one plan, so what
became of earlier ones is kept by target, and taken over where a later plan has the same target.
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
"""What becomes of a file of which nothing keeps its directory from being published."""


class Outcomes:
    """The outcomes of one build, told to whoever listens as they come."""

    def __init__(self, emit: Emit, *, keep_going: bool) -> None:
        self.plan: Plan
        """The plan that is done now."""
        self.counted: set[bytes] = set()
        """Tensors whose arithmetic is some target's, and no other's that needs it too."""
        self._emit = emit
        self._keep_going = keep_going
        self._found: dict[Action, Outcome] = {}
        self._earlier: dict[str, tuple[FileAction, Outcome]] = {}
        """By target: what became of it in plans before."""

    def begin(self, plan: Plan) -> None:
        """Begin with a plan, of which nothing is done."""
        self.plan = plan
        self._found = {}

    def remember(self) -> None:
        """Keep what became of files for the plan that follows, which has actions of its own."""
        dealt_with = (file for file in self.plan.files if file in self._found)
        self._earlier |= {file.name: (file, self._found[file]) for file in dealt_with}

    def __contains__(self, action: object) -> bool:
        return action in self._found

    def __getitem__(self, action: Action) -> Outcome:
        return self._found[action]

    def done(self, action: Action, outcome: Outcome) -> None:
        """Take what became of an action, and tell it, unless it is of one file of a folder."""
        self._found[action] = outcome
        made = action.judgement.description
        if not (isinstance(action, FileAction) and action.is_part):
            self._emit(TargetDone(made.name, str(outcome.verdict), made.shown or ""))

    def fail(self, action: FileAction, refusal: Refusal) -> None:
        """Take why a file was not made."""
        if self.counted:  # whoever needs them now has them made anew
            self.counted.difference_update(made.digest for made in action.content.made)
        self.done(action, Outcome(Verdict.FAILED, problem=refusal.problem, exit_code=refusal.exit_code))

    def skip(self, action: FileAction) -> None:
        """Leave a file undone: what it reads was not made, or nothing more is to be done."""
        self.done(action, Outcome(Verdict.SKIPPED))

    def taken_over(self, action: FileAction) -> bool:
        """Whether an earlier plan has dealt with a target, so that there is nothing to do; that was told then."""
        _, earlier = self._earlier.get(action.name, (None, None))
        if earlier is None or (earlier.verdict in WELL and action.verdict is not Verdict.UP_TO_DATE):
            return False
        self._found[action] = earlier
        return True

    def waiting(self) -> list[FileAction]:
        """Return the files whose outcome is open."""
        return [action for action in self.plan.files if action not in self._found]

    def must_stop(self) -> bool:
        """Whether nothing more is to be begun."""
        failed = (outcome.verdict is Verdict.FAILED for outcome in self._found.values())
        return not self._keep_going and any(failed)

    def failed(self, need: str) -> bool:
        """Whether a target that another reads was not made."""
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
        """Return what became of a folder, all of whose files were dealt with."""
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
        """Return the targets' results, all actions dealt with."""
        found = {action.name: action.result(self._found[action]) for action in self.plan.actions}
        for name, (action, outcome) in self._earlier.items():
            now = self.plan.by_name.get(name)
            if now is not None and self._found[now] is outcome and outcome.verdict in WELL:
                found[name] = action.result(outcome)  # with the reasons that there were then
        return self.plan.in_order(found)

    def exit_code(self, results: Sequence[TargetResult]) -> int:
        """Return that of the first target that failed."""
        plan = self.plan
        codes = {each.target: error.exit_code for each, error in zip(plan.blocked, plan.errors, strict=True)}
        codes |= {action.name: self._found[action].exit_code for action in plan.actions}
        return next((code for each in results if (code := codes.get(each.target))), 0)
