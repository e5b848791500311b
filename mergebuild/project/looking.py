"""The verbs that only read: what a build would do, the state of targets, why they differ, what they are made of."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.engine.bounds import memory_bounds
from mergebuild.errors import bounded, problems_of
from mergebuild.fold import lineage as lineages
from mergebuild.project.clearing import sweeper
from mergebuild.project.lock import holds_of
from mergebuild.results.build import PlanResult, TargetResult, Verdict
from mergebuild.results.looks import Lineage, OutputState, StatusResult, TargetState, TensorWhy, WhyResult
from mergebuild.store import Presence
from mergebuild.system.platform import free_space

if TYPE_CHECKING:
    from mergebuild.plan.actions import Action
    from mergebuild.plan.plan import Plan
    from mergebuild.project.lockfile import Locked
    from mergebuild.project.session import Session

__all__ = ["lineage", "plan", "status", "why"]


def plan(
    session: Session,
    names: tuple[str, ...],
    *,
    began: float,
    force: bool = False,
    lock: Locked | None = None,
    tensors: int | None = 0,
) -> PlanResult:
    """Return what a build of targets would do, and why. With a `lock`, all of their sources are read.

    `tensors`: for how many tensors of each target; None: for all.
    """
    is_held = lock is not None
    found = session.plan(names, hash_all=is_held, look_closely=is_held)
    found = session.gated(found, force=force, holds=holds_of(session, lock))
    refusals = found.refusals.values()
    return PlanResult(
        time.perf_counter() - began,
        _with_tensors(session, found, tensors) if tensors != 0 else found.results(),
        found.space_needed,
        free_space(session.recipe.root),
        found.bytes_to_hash,
        next((error.exit_code for error in refusals), 0),
        memory_bounds(found.largest_whole, device=session.device != "cpu"),
        bounded(problems_of(refusals)),
    )


def _with_tensors(session: Session, found: Plan, most: int | None) -> tuple[TargetResult, ...]:
    """Return the results of a plan, with what is done for single tensors."""
    from mergebuild.plan.tensor_work import tensor_work

    work = tensor_work(found, session.recipe.root, most)
    return tuple(each._replace(tensors=work.get(each.target, ())) for each in found.results())


def status(session: Session, names: Iterable[str]) -> StatusResult:
    """Return the state of each target, and the outputs that no target makes now."""
    found = session.plan(tuple(names))
    orphans = sweeper(session, session.claims.outputs(session.claims.known(session.store.ledger))).orphans()
    states = tuple(_states(session, found))
    return StatusResult(states, tuple(session.claims.shown(row.path) for row in orphans))


def _states(session: Session, found: Plan) -> Iterable[TargetState]:
    blocked = {each.target: each for each in found.blocked}
    for name in found.asked:
        if name in blocked:
            yield _blocked_state(session.recipe.root, blocked[name])
        else:
            fresh = name in found.fresh
            state = OutputState.UP_TO_DATE if fresh else _state(found.by_name[name])
            yield TargetState(name, state, session.recipe.target(name).output)


def _state(action: Action) -> OutputState:
    presence = action.judgement.presence
    if presence is Presence.FOREIGN:
        return OutputState.CHANGED_BY_HAND
    if action.verdict is Verdict.UP_TO_DATE:
        return OutputState.UP_TO_DATE
    return OutputState.MISSING if presence is Presence.ABSENT else OutputState.STALE


def _blocked_state(root: Path, blocked: TargetResult) -> TargetState:
    """Return the state of a target that can't be planned, by whether something is at its output's path."""
    there = blocked.output is not None and os.path.lexists(root / blocked.output)
    reason = blocked.error.message if blocked.error else ""
    return TargetState(blocked.target, OutputState.STALE if there else OutputState.MISSING, blocked.output, reason)


def why(session: Session, name: str, tensor: str | None) -> WhyResult:
    """Return the differences from a target's last build; for a `tensor`, also what it follows from.

    Raises:
        UsageError: neither the target nor its last build has such a tensor.
    """
    is_close = tensor is not None
    found = session.gated(session.plan((name,), hash_all=is_close, look_closely=is_close))
    if found.blocked:
        return WhyResult(name, Verdict.BLOCKED, (), found.blocked[0].reasons, found.errors[0].problems)
    if name in found.fresh:
        return WhyResult(name, Verdict.UP_TO_DATE, (), ())
    action = found.by_name[name]
    return _why_of(name, action, _told(session, found, action, tensor))


def _why_of(name: str, action: Action, told: TensorWhy | None) -> WhyResult:
    """Return the differences of a planned target from its last build; `told`: of a tensor, what it follows from."""
    changes = action.judgement.changes
    if action.refused is not None:
        blocked = action.result()
        return WhyResult(name, blocked.verdict, changes, blocked.reasons, action.refused.error.problems, told)
    reasons = () if action.verdict is Verdict.UP_TO_DATE else action.reasons
    return WhyResult(name, action.verdict, changes if reasons else (), reasons, (), told)


def _told(session: Session, found: Plan, action: Action, tensor: str | None) -> TensorWhy | None:
    if tensor is None:
        return None
    from mergebuild.project.tensor_why import tensor_why

    return tensor_why(action.judgement.description, found.origins, session.store.ledger, tensor)


def lineage(session: Session, name: str) -> Lineage:
    """Return the exact proportions of sources in a target."""
    session.planner.open_sources(name)  # reports all missing sources together
    return lineages.lineage(session.planner.folding, session.recipe, name)
