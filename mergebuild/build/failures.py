"""Why a target is not published, in words: what a build finds out only while it works."""

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
    """A problem, and the exit code that it comes to."""

    problem: Problem
    exit_code: int


def changed_by_hand(file: FileAction) -> Refusal:
    """What stands at the output's path is not what we wrote."""
    problem = Problem(
        "changed-by-hand",
        f"output `{file.content.shown}` of `{file.name}` was changed by hand, or is not ours",
        file.description.blueprint.target.where.place("output"),
        "move it away, or `build --force`: it is kept aside first",
    )
    return Refusal(problem, TargetError.exit_code)


def same_place(file: FileAction, other: FileAction) -> Refusal:
    """The output is another target's, by way of a link."""
    problem = Problem(
        "output-taken",
        f"output `{file.content.shown}` of `{file.name}` is `{other.content.shown}` of `{other.name}`: one is a link",
        file.description.blueprint.target.where.place("output"),
        "name another path",
    )
    return Refusal(problem, TargetError.exit_code)


def unwritable(file: FileAction) -> Refusal:
    """The output's folder cannot be written to."""
    problem = Problem(
        "output-unwritable",
        f"`{file.content.shown}` of `{file.name}` cannot be written: its folder is no folder, or not writable",
        file.description.blueprint.target.where.place("output"),
        "mend `output`, or the permissions of the folder",
    )
    return Refusal(problem, TargetError.exit_code)


def source_changed(file: FileAction, names: Sequence[str]) -> Refusal:
    """A source was written to while it was read."""
    listed = ", ".join(f"`{name}`" for name in names)
    problem = Problem(
        "source-changed",
        f"target `{file.name}` was not built: {listed} changed while it was read",
        file.description.blueprint.target.where.place(),
        "let whatever writes it finish, then build again",
    )
    return Refusal(problem, SourceError.exit_code)


def sources_changed(names: Sequence[str]) -> SourceError:
    """Return what a pass ends with that could not read its sources to the end, as they were written to."""
    listed = ", ".join(f"`{name}`" for name in names)
    return SourceError.one(
        "source-changed",
        f"{listed} changed while it was read" if len(names) == 1 else f"{listed} changed while they were read",
        help="let whatever writes it finish, then build again: what was published stays",
    )


def artifact_changed(file: FileAction, names: Sequence[str]) -> Refusal:
    """A file of ours that tensors were taken from was written to while it was read."""
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
    """Values came out as NaN or Inf, or too large for the dtype.

    `name_of` names an input by the digest of its tensor, given the name of the tensor that is made of it.
    """
    rows = []
    for made, result in bad[:_SHOWN]:
        inputs = ", ".join(f"{count} in {name_of(digest, made.name)}" for digest, count in result.bad_inputs.items())
        rows.append(f"{_called(file, made.name)}: {_bad_values(made, result)}{f' ({inputs})' if inputs else ''}")
    if len(bad) > _SHOWN:
        rows.append(f"and {len(bad) - _SHOWN} more tensors")
    problem = Problem(
        "nonfinite",
        f"{len(bad)} {'tensor' if len(bad) == 1 else 'tensors'} of `{file.name}` would hold values that are not finite",
        file.description.blueprint.target.where.place(),
        'mend the input or the numbers, take a wider `dtype`, or say `nonfinite = "allow"`',
        tuple(rows),
    )
    return Refusal(problem, TargetError.exit_code)


def undefined(file: FileAction, bad: Sequence[tuple[Made, StepResult]]) -> Refusal:
    """The method has no value for some tensors, or a user's own program failed for them."""
    rows = [f"{_called(file, made.name)}: {result.problem}" for made, result in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        rows.append(f"and {len(bad) - _SHOWN} more tensors")
    failed_at = next((result.failed_at for _, result in bad if result.failed_at), None)
    if failed_at is not None:
        return _failed(file, bad, failed_at)
    problem = Problem(
        "undefined",
        f"`{file.description.blueprint.target.method}` has no value for {len(bad)} "
        f"{'tensor' if len(bad) == 1 else 'tensors'} of `{file.name}`",
        file.description.blueprint.target.where.place(),
        "change the numbers that reach them, or leave them out with `merge`",
        tuple(rows),
    )
    return Refusal(problem, TargetError.exit_code)


def _called(file: FileAction, tensor: str) -> str:
    """Return what a target's files call a tensor, or the one that it is in."""
    return file.description.blueprint.spelling.stored(tensor)


def _failed(file: FileAction, bad: Sequence[tuple[Made, StepResult]], at: Place) -> Refusal:
    """A user's own program failed for some tensors, most often for all of them alike."""
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
    """A user's own program cannot even be loaded, or does not say what memory it needs."""
    message = f"`{error.where.file}` can't be used for `{file.name}`: {error}"
    mend = f"mend `{error.where.file}`, and trust it again; `[methods.NAME]` in docs/mergefile.md shows such a file"
    return Refusal(Problem("program-failed", message, error.where, mend), TargetError.exit_code)


def too_large(file: FileAction, method: str, tensor: str, needed: int, available: int) -> Refusal:
    """A method needs a tensor whole, and there is not so much memory."""
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
