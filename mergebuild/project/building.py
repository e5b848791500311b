"""The verb that makes targets up to date: they are planned, what must be refused is found, the rest is built.

A first build plans before anything is written. Each build then takes the store's lock and plans again, since another
process may have changed something meanwhile.
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
"""Sources with more bytes take longer to hash than the engine takes to load."""


@dataclass
class Building:
    """One build of targets in a session."""

    session: Session
    names: tuple[str, ...]
    options: BuildOptions
    lock: Locked | None
    began: float
    keep: Callable[[Session, Plan, Sequence[TargetResult]], None]
    """Called if all targets are up to date, with what this follows from."""

    def run(self) -> BuildResult:
        """Make the targets up to date.

        Raises:
            MergeBuildError: a problem known before any work, unless `keep_going`; it has the result.
        """
        try:
            return self._run()
        except _RefusedError as refused:
            return refused.answer()

    def _run(self) -> BuildResult:
        with span("import"):
            from mergebuild.build.builder import Builder  # here: other verbs don't need the engine

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
        """Plan a first build, so that problems show before anything is written; None if there is a store already."""
        store = self.session.store
        if store.is_on_disk:
            return None
        plan = self._plan()
        store.create()
        return plan

    def _plan(self, *, hash_all: bool = False) -> Plan:
        """Plan, and find what must be refused.

        Raises:
            _RefusedError: something is refused, and the rest is not to be built.
        """
        session = self.session
        plan = self._planned(is_close=hash_all or self.lock is not None)
        plan = session.gated(plan, force=self.options.force, holds=holds_of(session, self.lock))
        if plan.refusals and not self.options.keep_going:
            raise _RefusedError(plan, time.perf_counter() - self.began, session.sources.bytes_read)
        return plan

    def _planned(self, *, is_close: bool) -> Plan:
        """Plan what was asked for: targets, or with `-o` one at another path."""
        session, out = self.session, self.options.out
        if out is not None:
            goal = session.claims.elsewhere(self.names, out, self.options.dtype)
            return session.planner.plan([goal], hash_all=is_close)
        return session.plan(self.names, hash_all=is_close, look_closely=is_close)

    def _places(self) -> dict[Path, str]:
        """Return the paths that may be written to, each with the target that makes it."""
        out = self.options.out
        return self.session.claims.outputs(self.names) | ({Path.cwd() / out: ""} if out is not None else {})

    def _looked_at(self, builder: Builder, plan: Plan) -> Plan:
        """Emit notices; merge files of sources that were never hashed, and return a plan made after that."""
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
    """Return an `emit` that also loads torch while a large source is hashed, if torch may be needed."""

    def watched(event: Event) -> None:
        if isinstance(event, Hashing) and event.size > _LARGE:  # in most cases work follows
            from mergebuild.engine.requirements import may_need_torch
            from mergebuild.engine.torch_import import warm_up

            if may_need_torch(_methods_below(recipe, names), device):
                warm_up()
        emit(event)

    return watched


def _methods_below(recipe: Recipe, names: Sequence[str]) -> Iterator[Method]:
    """Yield the methods of targets, of all targets that they need, and of their rules; a formula has none."""
    for each in dict.fromkeys(below for name in names for below in recipe.below(name)):
        target = recipe.target(each)
        yield from (row for row in (target.row, *(rule.target.row for rule in target.rules)) if row is not None)


class _RefusedError(Exception):
    """Something in a plan is refused, so nothing is done."""

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
        """Return the result of the build.

        Raises:
            MergeBuildError: some problem is not one of a single target; it has the result.
        """
        if all(isinstance(error, TargetError) for error in self._errors):
            return self._result
        error: MergeBuildError = together(self._errors)
        error.result = self._result
        raise error


def _not_built(plan: Plan) -> Iterator[TargetResult]:
    """Yield the result of each target of a plan that is refused: a target that is itself the reason has failed."""
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
    """Emit the notices about what will be made, each once even if many targets share it; return what was emitted.

    `besides`: pairs of a target and a notice that were emitted before.
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
