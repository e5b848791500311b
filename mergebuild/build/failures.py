"""The reasons why a target is not published that a build finds out only while it works, as texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mergebuild.errors import Place, Problem, SourceError, TargetError
from mergebuild.methods.method import ProgramError
from mergebuild.plan.actions import FileAction
from mergebuild.plan.made import Made

if TYPE_CHECKING:
    from mergebuild.engine.work import StepResult

__all__ = [
    "Refusal",
    "artifact_changed",
    "changed_by_hand",
    "nonfinite",
    "program_failed",
    "source_changed",
    "sources_changed",
    "too_large",
    "undefined",
    "unwritable",
]

_SHOWN = 20


class Refusal(NamedTuple):
    """A problem, and its exit code."""

    problem: Problem
    exit_code: int


def changed_by_hand(file: FileAction) -> Refusal:
    """Return the refusal of an output whose path has a file that is not what we wrote."""
    problem = Problem(
        "changed-by-hand",
        f"output `{file.content.shown}` of `{file.name}` was changed by hand, or is not ours",
        file.description.blueprint.target.where.place("output"),
        "move it away, or `build --force`: it is kept aside first",
    )
    return Refusal(problem, TargetError.exit_code)


def same_place(file: FileAction, other: FileAction) -> Refusal:
    """Return the refusal of an output that is another target's, through a link."""
    problem = Problem(
        "output-taken",
        f"output `{file.content.shown}` of `{file.name}` is `{other.content.shown}` of `{other.name}`: one is a link",
        file.description.blueprint.target.where.place("output"),
        "name another path",
    )
    return Refusal(problem, TargetError.exit_code)


def unwritable(file: FileAction) -> Refusal:
    """Return the refusal of an output whose folder cannot be written to."""
    problem = Problem(
        "output-unwritable",
        f"`{file.content.shown}` of `{file.name}` cannot be written: its folder is no folder, or not writable",
        file.description.blueprint.target.where.place("output"),
        "mend `output`, or the permissions of the folder",
    )
    return Refusal(problem, TargetError.exit_code)


def source_changed(file: FileAction, names: Sequence[str]) -> Refusal:
    """Return the refusal of a target whose source was written to while it was read."""
    listed = ", ".join(f"`{name}`" for name in names)
    problem = Problem(
        "source-changed",
        f"target `{file.name}` was not built: {listed} changed while it was read",
        file.description.blueprint.target.where.place(),
        "let whatever writes it finish, then build again",
    )
    return Refusal(problem, SourceError.exit_code)


def sources_changed(names: Sequence[str]) -> SourceError:
    """Return the error of a pass that could not read its sources to the end, because they were written to."""
    listed = ", ".join(f"`{name}`" for name in names)
    return SourceError.one(
        "source-changed",
        f"{listed} changed while it was read" if len(names) == 1 else f"{listed} changed while they were read",
        help="let whatever writes it finish, then build again: what was published stays",
    )


def artifact_changed(file: FileAction, names: Sequence[str]) -> Refusal:
    """Return the refusal of a target that was to share tensors with a file that was written to meanwhile."""
    listed = ", ".join(f"`{name}`" for name in names)
    problem = Problem(
        "artifact-changed",
        f"target `{file.name}` was not built: {listed}, which it was to share tensors with, changed while it was read",
        file.description.blueprint.target.where.place(),
        "let whatever writes it finish, then build again",
    )
    return Refusal(problem, TargetError.exit_code)


def nonfinite(
    file: FileAction, bad: Sequence[tuple[Made, StepResult]], name_of: Callable[[bytes, str], str]
) -> Refusal:
    """Return the refusal of a target with values that are NaN or Inf, or too large for the dtype.

    `name_of` returns the name of an input from the digest of its tensor and the name of the tensor that is made of it.
    """
    rows = [_nonfinite_row(file, made, result, name_of) for made, result in bad[:_SHOWN]]
    tensors = f"{len(bad)} {'tensor' if len(bad) == 1 else 'tensors'} of `{file.name}`"
    message = f"{tensors} would hold values that are not finite"
    mend = 'mend the input or the numbers, take a wider `dtype`, or say `nonfinite = "allow"`'
    where = file.description.blueprint.target.where.place()
    return Refusal(Problem("nonfinite", message, where, mend, _listed(rows, len(bad))), TargetError.exit_code)


def _nonfinite_row(file: FileAction, made: Made, result: StepResult, name_of: Callable[[bytes, str], str]) -> str:
    """Return what is wrong with a tensor's values, and which inputs have such values."""
    inputs = ", ".join(f"{count} in {name_of(digest, made.name)}" for digest, count in result.bad_inputs.items())
    is_own = any(each.digest == made.digest for each in file.content.made)
    first = "" if is_own else f", as an input that is rounded to {made.spec.dtype} first"
    return f"{_called(file, made.name)}{first}: {_bad_values(made, result)}{f' ({inputs})' if inputs else ''}"


def _listed(rows: Sequence[str], count: int) -> tuple[str, ...]:
    """Return the rows of the first of `count` tensors, and how many more there are."""
    return (*rows, f"and {count - _SHOWN} more tensors") if count > _SHOWN else tuple(rows)


def undefined(file: FileAction, bad: Sequence[tuple[Made, StepResult]]) -> Refusal:
    """Return the refusal of a target for some of whose tensors the method has no value, or a user's program failed."""
    rows = [f"{_called(file, made.name)}: {result.problem}" for made, result in bad[:_SHOWN]]
    failed_at = next((result.failed_at for _, result in bad if result.failed_at), None)
    if failed_at is not None:
        return _failed(file, bad, failed_at)
    problem = Problem(
        "undefined",
        f"`{file.description.blueprint.target.method}` has no value for {len(bad)} "
        f"{'tensor' if len(bad) == 1 else 'tensors'} of `{file.name}`",
        file.description.blueprint.target.where.place(),
        "change the numbers that reach them, or leave them out with `merge`",
        _listed(rows, len(bad)),
    )
    return Refusal(problem, TargetError.exit_code)


def _called(file: FileAction, tensor: str) -> str:
    """Return a tensor's name in the target's files."""
    return file.description.blueprint.spelling.stored(tensor)


def _failed(file: FileAction, bad: Sequence[tuple[Made, StepResult]], at: Place) -> Refusal:
    """Return the refusal of a target for which a user's own program failed, most often for all tensors alike."""
    names: dict[str, list[str]] = {}
    for made, result in bad:
        names.setdefault(result.problem, []).append(_called(file, made.name))
    rows = [f"{why}  ({some[0]}{f' and {len(some) - 1} more' if some[1:] else ''})" for why, some in names.items()]
    tensors = f"{len(bad)} {'tensor' if len(bad) == 1 else 'tensors'}"
    problem = Problem(
        "program-failed",
        f"`{at.file}` failed for {tensors} of `{file.name}`",
        at,
        f"mend `{at.file}`, and trust it again; nothing of this target was written",
        tuple(rows[:_SHOWN]),
    )
    return Refusal(problem, TargetError.exit_code)


def program_failed(file: FileAction, error: ProgramError) -> Refusal:
    """Return the refusal of a target whose user's own program can't be loaded, or doesn't tell what memory it needs."""
    message = f"`{error.where.file}` can't be used for `{file.name}`: {error}"
    mend = f"mend `{error.where.file}`, and trust it again; `[methods.NAME]` in docs/mergefile.md shows such a file"
    return Refusal(Problem("program-failed", message, error.where, mend), TargetError.exit_code)


def too_large(file: FileAction, method: str, tensor: str, needed: int, available: int) -> Refusal:
    """Return the refusal of a target whose method needs a tensor whole, for which there is not enough memory."""
    problem = Problem(
        "too-large",
        f"`{method}` needs {needed:,} bytes of memory for `{_called(file, tensor)}`, and the machine has {available:,}",
        file.description.blueprint.target.where.place(),
        "leave the tensor out with `merge`, or take a method that makes tensors in pieces",
    )
    return Refusal(problem, TargetError.exit_code)


def _bad_values(made: Made, result: StepResult) -> str:
    others = result.nonfinite - result.overflowed
    parts = [f"{result.overflowed} values overflow {made.spec.dtype}"] if result.overflowed else []
    parts += [f"{others} values are NaN or Inf"] if others else []
    return ", ".join(parts)
