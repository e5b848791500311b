"""Runs the pass of a wave, and publishes the files that are correct.

A target with values that are not finite, or with a source that changed meanwhile, is not published; targets that read
it are skipped. Files whose sources were never hashed stay at their temporary paths, without a header, until a plan says
what they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from mergebuild.build import failures
from mergebuild.build.context import BuildContext
from mergebuild.build.failures import Refusal
from mergebuild.build.first_sight import FirstSight
from mergebuild.build.folders import Folders
from mergebuild.build.pass_work import Wave, Whereabouts
from mergebuild.build.places import OutputPlaces
from mergebuild.build.temporaries import NO_SPACE, room
from mergebuild.build.written import WrittenFile, entries, made_before, nonfinite, undefined, written_files
from mergebuild.engine.requirements import check_program, needs_memory
from mergebuild.engine.run import PassResult, run_pass
from mergebuild.engine.work import Pass, StepResult
from mergebuild.errors import SourceError
from mergebuild.methods.method import ProgramError
from mergebuild.plan.actions import FileAction, Outcome
from mergebuild.plan.description import Goal
from mergebuild.results.build import Verdict
from mergebuild.sources.source_file import source_of_part
from mergebuild.store import Fresh, Presence
from mergebuild.system import platform
from mergebuild.system.publishing import temporary_path
from mergebuild.system.spans import span

__all__ = ["Passes"]


class Passes:
    """The passes of one build."""

    def __init__(self, context: BuildContext, places: OutputPlaces, folders: Folders) -> None:
        self._context = context
        self._places = places
        self._folders = folders
        self.source_bytes_read = 0
        """Bytes of sources read so far."""

    # Sources that were never hashed

    def look(self, actions: Sequence[FileAction]) -> dict[Goal, WrittenFile]:
        """Run one wave whose sources are hashed in it; remember the hashes, and return what was written.

        Its files are removed at the end of the build, unless they are published by then.
        """
        began = time.perf_counter()
        context = self._context
        wave = Wave(self._whereabouts())
        first = FirstSight(wave, context.sources)
        for action in actions:
            first.add(action, temporary_path(context.path(action)))
        with ExitStack() as until_finished:
            until_finished.enter_context(room(*(output.path for output in wave.outputs)))
            done = self._pass(first.work(), _names(actions))
            learnt = first.settle(done.unseen)
            self.source_bytes_read += first.source_bytes
            changed = frozenset(context.sources.changed(context.sources.opened()))
            for source in learnt:
                if source.name not in changed:
                    context.sources.learn(source)
            context.temporaries.stack.push(until_finished.pop_all())
        seconds = time.perf_counter() - began - done.waited
        written = written_files(wave, done, changed, seconds)
        return {action.goal: each for action, each in zip(actions, written, strict=True)}

    # Sources that are known

    def build(self, actions: Sequence[FileAction]) -> None:
        """Run one wave and publish the files that are correct."""
        began = time.perf_counter()
        context = self._context
        wave = Wave(self._whereabouts(), counted=context.outcomes.counted)
        for action in actions:
            wave.add(action, context.temporaries.of(action))
        with room(*context.temporaries.by_themselves(actions)):
            known = context.ledger.findings() if wave.operated else {}
            *before, work = wave.passes(known, lambda depth: context.publisher.scratch_path(str(depth)))
            if not self._fits(work, actions):
                return
            with self._laid_out(before, _names(actions)) as laid:
                done = self._pass(work, _names(actions))
            self.source_bytes_read += wave.source_bytes()
            changed = frozenset(context.sources.changed(sorted(context.sources.opened())))
            lost = {path for path in wave.artifacts() if context.shelf.look_again(path) is not Presence.OURS}
            seconds = time.perf_counter() - began - done.waited
            written = dict(zip(actions, written_files(wave, done, changed, seconds, laid), strict=True))
            self._publish(written, lost)

    def _publish(self, written: Mapping[FileAction, WrittenFile], lost: set[Path]) -> None:
        """Publish what a wave wrote, unless artifacts that it read were `lost` meanwhile."""
        again = made_before(written)
        for action, each in written.items():
            if lost:
                each.path.unlink(missing_ok=True)
                is_own = self._context.path(action) in lost
                others = sorted(path.name for path in lost)
                why = failures.changed_by_hand(action) if is_own else failures.artifact_changed(action, others)
                self._context.outcomes.fail(action, why)
            else:
                self.finish(action, each, is_again=action in again)

    def finish(self, action: FileAction, written: WrittenFile, *, is_again: bool) -> None:
        """Publish a file that a pass wrote, or record why not. `is_again`: the pass wrote an equal one before it."""
        outcomes = self._context.outcomes
        with span("publish", target=action.name, file=action.content.shown):
            if outcomes.lacks(action):
                outcomes.skip(action)
            elif (why := self._fault(action, written)) is not None:
                outcomes.fail(action, why)
            elif self._is_put(action, written, is_again=is_again):
                return
            written.path.unlink(missing_ok=True)

    def _fault(self, action: FileAction, written: WrittenFile) -> Refusal | None:
        """Return why a written file must not be published; None if it may."""
        stale = sorted({own for each in written.changed if (own := source_of_part(each))} & action.description.sources)
        origins = self._context.outcomes.plan.origins
        if stale:
            return failures.source_changed(action, stale)
        if lacking := undefined(action, written.steps):
            return failures.undefined(action, lacking)
        if bad := nonfinite(action, written, origins):
            return failures.nonfinite(action, bad, self._name_of)
        return None

    def _is_put(self, action: FileAction, written: WrittenFile, *, is_again: bool) -> bool:
        """Publish a file, or put it into its folder's stage; return whether that was possible."""
        content, outcomes = action.content, self._context.outcomes
        assert content.digest is not None
        fresh = Fresh(content.digest, content.header_checksum, entries(content, written, outcomes.plan.origins))
        verdict = Verdict.RESTORED if is_again and not written.computed else Verdict.BUILT
        outcome = Outcome(verdict, written.computed, written.bytes_read, content.size, written.seconds)
        if action.is_part:
            self._folders.put(action, fresh, outcome)
        elif self._places.publish(action, written.path, fresh):
            outcomes.done(action, outcome)
        else:
            outcomes.fail(action, failures.changed_by_hand(action))
            return False
        return True

    def _name_of(self, digest: bytes, made: str) -> str:
        """Return the owner of a tensor with this digest, for people; with its name there, if that is not `made`."""
        source = self._context.outcomes.plan.origins.source_of(digest)
        if source is None:
            return "an input"
        owner, tensor = source
        return f"`{owner}`" if tensor == made else f"`{tensor}` of `{owner}`"

    # One pass

    def _whereabouts(self) -> Whereabouts:
        context = self._context
        return Whereabouts(context.sources, context.shelf, context.outcomes.plan.origins)

    def _pass(self, work: Pass, names: Sequence[str]) -> PassResult:
        """Run a pass with the findings of earlier ones, and keep its own.

        Raises:
            SourceError: sources changed meanwhile, so that it could not be finished.
        """
        context, options = self._context, self._context.options
        if work.operates:
            work = replace(work, known=context.ledger.findings())
        try:
            done = run_pass(
                work,
                threads=options.threads,
                emit=context.emit,
                targets=tuple(names),
                chunk=options.chunk,
                durable=options.durable,
                device=options.device,
            )
        except Exception as error:
            changed = {source_of_part(name) for name in context.sources.changed(context.sources.opened())}
            if not changed or (isinstance(error, OSError) and error.errno in NO_SPACE):
                raise
            raise failures.sources_changed(sorted(changed)) from error  # reading a truncated file fails in many ways
        if done.learnt:
            context.ledger.keep_findings(done.learnt)
        return done

    @contextmanager
    def _laid_out(self, passes: Sequence[Pass], names: Sequence[str]) -> Iterator[Mapping[bytes, StepResult]]:
        """Run passes that write intermediate tensors into files, which are removed after the block.

        Return the results of all steps.
        """
        paths = [output.path for work in passes for output in work.outputs]
        try:
            with room(*paths):
                done = [self._pass(work, names).steps for work in passes]
                yield {digest: result for steps in done for digest, result in steps.items()}
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    # Reasons for not making files

    @contextmanager
    def failing(self, actions: Sequence[FileAction]) -> Iterator[None]:
        """With `keep_going`, let only these files fail if their sources keep a pass from being finished."""
        outcomes = self._context.outcomes
        try:
            yield
        except SourceError as error:
            if not self._context.options.keep_going:
                raise
            for action in actions:
                if action not in outcomes:
                    outcomes.fail(action, Refusal(error.problems[0], error.exit_code))

    def has_programs(self, action: FileAction) -> bool:
        """Whether the programs of the user's own methods that a file needs can be loaded.

        If not, that becomes its outcome.
        """
        try:
            for method in action.description.programs:
                check_program(method)
        except ProgramError as error:
            self._context.outcomes.fail(action, failures.program_failed(action, error))
            return False
        return True

    def _fits(self, work: Pass, actions: Sequence[FileAction]) -> bool:
        """Whether there is memory for what a pass needs whole; if not, or a program fails to tell, all files fail."""
        outcomes = self._context.outcomes
        try:
            short = _short_of_memory(work)
        except ProgramError as error:
            for action in actions:
                outcomes.fail(action, failures.program_failed(action, error))
            return False
        if short is None:
            return True
        for action in actions:
            outcomes.fail(action, failures.too_large(action, *short))
        return False


def _short_of_memory(work: Pass) -> tuple[str, str, int, int] | None:
    """Return a method, a tensor that it needs whole, the bytes for that, and those available, if these are too few."""
    available = platform.memory_bytes()
    for digest, needed in needs_memory(work) if available else ():
        operation = work.steps[digest].operation
        if needed > available and operation is not None:
            return operation.method.name, operation.tensor, needed, available
    return None


def _names(actions: Iterable[FileAction]) -> list[str]:
    """Return the targets of files, each once."""
    return list(dict.fromkeys(action.name for action in actions))
