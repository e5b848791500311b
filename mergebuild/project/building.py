"""The verb that makes targets up to date: planned, asked what is refused, built.

A first build looks before anything is written. Each then holds the store's lock, and plans once more: another process
may have been quicker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mergebuild.errors import MergeBuildError, TargetError, problems_of, together
from mergebuild.events import Emit, Event, Hashing, Notice
from mergebuild.project.lock import holds_of
from mergebuild.results.build import BuildResult, TargetResult, Verdict
from mergebuild.system.spans import span

if TYPE_CHECKING:
    from mergebuild.build.builder import Builder
    from mergebuild.methods.method import Method
    from mergebuild.plan.plan import Plan
    from mergebuild.project.lockfile import Locked
    from mergebuild.project.options import BuildOptions
    from mergebuild.project.session import Session
    from mergebuild.recipe import Recipe

__all__ = ["Building", "with_torch_ahead"]

_LARGE = 1 << 27
"""Bytes of a source that take longer to hash than the engine to load."""


@dataclass
class Building:
    """One build of targets in a session."""

    session: Session
    names: tuple[str, ...]
    options: BuildOptions
    lock: Locked | None
    began: float
    keep: Callable[[Session, Plan, Sequence[TargetResult]], None]
    """Called when all is up to date, with what that follows from."""

    def run(self) -> BuildResult:
        """Make the targets up to date.

        Raises:
            MergeBuildError: what is known before any work, unless all that is to keep going; with the result.
        """
        try:
            return self._run()
        except _RefusedError as refused:
            return refused.answer()

    def _run(self) -> BuildResult:
        with span("import"):
            from mergebuild.build.builder import Builder  # what only looks has no use for the engine

        session, options = self.session, self.options
        with ExitStack() as stack:
            plan = self._first_plan()
            stack.enter_context(session.changing(self._places()))
            if plan is None or not session.store.shelf.is_empty():
                session.plan_anew()
                plan = self._plan()
            builder = stack.enter_context(
                Builder(
                    session.sources,
                    session.store,
                    options.of_builder(session.recipe.project.link),
                    session.emit,
                    session.freshness.fingerprint,
                )
            )
            plan = self._looked_at(builder, plan)
            results, exit_code = builder.run(plan)
            if options.out is None and exit_code == 0:
                self.keep(session, plan, results)
            return self._result(plan, results, exit_code, builder.source_bytes_read)

    def _first_plan(self) -> Plan | None:
        """Plan a first build, so that what is wrong shows before anything is written; None: there is a store."""
        store = self.session.store
        if store.is_on_disk:
            return None
        plan = self._plan()
        store.create()
        return plan

    def _plan(self, *, hash_all: bool = False) -> Plan:
        """Plan, and ask what is refused before any work: then there is none, unless the rest is wanted."""
        session, out = self.session, self.options.out
        is_close = hash_all or self.lock is not None
        if out is not None:
            goal = session.claims.elsewhere(self.names, out, self.options.dtype)
            plan = session.planner.plan([goal], hash_all=is_close)
        else:
            plan = session.plan(self.names, hash_all=is_close, look_closely=is_close)
        plan = session.gated(plan, force=self.options.force, holds=holds_of(session, self.lock))
        if plan.refusals and not self.options.keep_going:
            raise _RefusedError(plan, time.perf_counter() - self.began, session.sources.bytes_read)
        return plan

    def _places(self) -> dict[Path, str]:
        """Return where something may be written, by path, and which target makes it."""
        out = self.options.out
        return self.session.claims.outputs(self.names) | ({Path.cwd() / out: ""} if out is not None else {})

    def _looked_at(self, builder: Builder, plan: Plan) -> Plan:
        """Tell what is about to be made; merge what was never seen, and return a plan that knows of it."""
        session = self.session
        told = _tell(plan, session.emit)
        if not builder.look(plan):
            return plan
        builder.finish(session.plan_anew().plan(builder.looked_at, hash_all=True))
        session.plan_anew()
        plan = self._plan(hash_all=True)
        _tell(plan, session.emit, besides=told)
        return plan

    def _result(self, plan: Plan, results: Sequence[TargetResult], exit_code: int, bytes_read: int) -> BuildResult:
        failed = [each.error for each in results if each.error]
        return BuildResult(
            ok=exit_code == 0,
            seconds=time.perf_counter() - self.began,
            bytes_read=self.session.sources.bytes_read + bytes_read,
            bytes_written=sum(result.bytes_written for result in results),
            targets=tuple(
                each._replace(verdict=Verdict.FAILED) if each.verdict is Verdict.BLOCKED else each for each in results
            ),
            exit_code=exit_code,
            problems=tuple(dict.fromkeys((*problems_of(plan.refusals.values()), *failed))),
        )


def with_torch_ahead(emit: Emit, recipe: Recipe, names: Sequence[str], device: str) -> Emit:
    """Return `emit`, which also has torch loaded while a large source is hashed, if it may be needed.

    Most often work follows.
    """

    def watched(event: Event) -> None:
        if isinstance(event, Hashing) and event.size > _LARGE:
            from mergebuild.engine.requirements import may_need_torch
            from mergebuild.engine.torch_import import warm_up

            if may_need_torch(_methods_below(recipe, names), device):
                warm_up()
        emit(event)

    return watched


def _methods_below(recipe: Recipe, names: Sequence[str]) -> Iterator[Method]:
    """Yield the methods of targets and of all that they need, their rules' too; a formula has none."""
    for each in dict.fromkeys(below for name in names for below in recipe.below(name)):
        target = recipe.target(each)
        yield from (row for row in (target.row, *(rule.target.row for rule in target.rules)) if row is not None)


class _RefusedError(Exception):
    """Something of a plan is refused, and so nothing is done."""

    def __init__(self, plan: Plan, seconds: float, bytes_read: int) -> None:
        super().__init__(plan)
        self._errors = list(plan.refusals.values())
        self._result = BuildResult(
            ok=False,
            seconds=seconds,
            bytes_read=bytes_read,
            bytes_written=0,
            targets=tuple(_not_built(plan)),
            exit_code=self._errors[0].exit_code,
            problems=problems_of(self._errors),
        )

    def answer(self) -> BuildResult:
        """Return what the build comes to.

        Raises:
            MergeBuildError: something else is wrong than a target of its own; with the result.
        """
        if all(isinstance(error, TargetError) for error in self._errors):
            return self._result
        error: MergeBuildError = together(self._errors)
        error.result = self._result
        raise error


def _not_built(plan: Plan) -> Iterator[TargetResult]:
    """Yield what a build says of each target of a plan when it is refused: what it is not done for, fails."""
    above = {judgement.name for judgement, each in plan.refused.items() if each.target != judgement.name}
    for each in plan.results():
        if each.verdict is Verdict.BLOCKED and each.target not in above:
            yield each._replace(verdict=Verdict.FAILED)
        elif each.verdict is Verdict.UP_TO_DATE:
            yield each
        else:
            total = each.tensors_computed + each.tensors_reused
            yield TargetResult(
                each.target, Verdict.SKIPPED, each.output, each.artifact, tensors_reused=total, reasons=each.reasons
            )


def _tell(plan: Plan, emit: Emit, *, besides: Collection[tuple[str, str]] = ()) -> set[tuple[str, str]]:
    """Emit the notices of what is about to be made, one that many targets share once; return which they are.

    `besides`: pairs of a target and a sentence that were told before.
    """
    found: dict[str, list[str]] = {}
    for each in plan.results():
        if each.verdict in (Verdict.BUILD, Verdict.RESTORE):
            for text in dict.fromkeys(each.notices):
                if (each.target, text) not in besides:
                    found.setdefault(text, []).append(each.target)
    for text, names in found.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        emit(Notice(f"`{names[0]}`{more}: {text}"))
    return {(name, text) for text, names in found.items() for name in names}
