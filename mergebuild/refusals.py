"""Why a target is not published, in words: what a build finds out only while it works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mergebuild.engine import StepResult
from mergebuild.errors import Problem, SourceError, TargetError
from mergebuild.plan import Item, Made

__all__ = ["Refusal", "artifact_changed", "changed_by_hand", "nonfinite", "source_changed", "unwritable"]

_SHOWN = 20


class Refusal(NamedTuple):
    """A problem, and the exit code that it comes to."""

    problem: Problem
    exit_code: int


def changed_by_hand(item: Item) -> Refusal:
    """What stands at the output's path is not what we wrote."""
    problem = Problem(
        "changed-by-hand",
        f"output `{item.shown}` of `{item.name}` was changed by hand, or is not ours",
        item.blueprint.target.where.place("output"),
        "move it away, or `build --force`: it is kept aside first",
    )
    return Refusal(problem, TargetError.exit_code)


def unwritable(item: Item) -> Refusal:
    """The output's folder cannot be written to."""
    problem = Problem(
        "output-unwritable",
        f"`{item.shown}` of `{item.name}` cannot be written: its folder is no folder, or not writable",
        item.blueprint.target.where.place("output"),
        "mend `output`, or the permissions of the folder",
    )
    return Refusal(problem, TargetError.exit_code)


def source_changed(item: Item, names: Sequence[str]) -> Refusal:
    """A source was written to while it was read."""
    listed = ", ".join(f"`{name}`" for name in names)
    problem = Problem(
        "source-changed",
        f"target `{item.name}` was not built: {listed} changed while it was read",
        item.blueprint.target.where.place(),
        "let whatever writes it finish, then build again",
    )
    return Refusal(problem, SourceError.exit_code)


def artifact_changed(item: Item, names: Sequence[str]) -> Refusal:
    """A file of ours that tensors were taken from was written to while it was read."""
    listed = ", ".join(f"`{name}`" for name in names)
    problem = Problem(
        "artifact-changed",
        f"target `{item.name}` was not built: {listed}, which it was to share tensors with, changed while it was read",
        item.blueprint.target.where.place(),
        "let whatever writes it finish, then build again",
    )
    return Refusal(problem, TargetError.exit_code)


def nonfinite(item: Item, bad: Sequence[tuple[Made, StepResult]], name_of: Callable[[bytes], str]) -> Refusal:
    """Values came out as NaN or Inf, or too large for the dtype. `name_of` names an input by a tensor's digest."""
    rows = []
    for made, result in bad[:_SHOWN]:
        inputs = ", ".join(f"{count} in {name_of(digest)}" for digest, count in result.bad_inputs.items())
        rows.append(f"{made.name}: {_bad_values(made, result)}{f' ({inputs})' if inputs else ''}")
    if len(bad) > _SHOWN:
        rows.append(f"and {len(bad) - _SHOWN} more tensors")
    problem = Problem(
        "nonfinite",
        f"{len(bad)} {'tensor' if len(bad) == 1 else 'tensors'} of `{item.name}` would hold values that are not finite",
        item.blueprint.target.where.place(),
        'mend the input or the numbers, take a wider `dtype`, or say `nonfinite = "allow"`',
        tuple(rows),
    )
    return Refusal(problem, TargetError.exit_code)


def _bad_values(made: Made, result: StepResult) -> str:
    others = result.nonfinite - result.overflowed
    parts = [f"{result.overflowed} values overflow {made.spec.dtype}"] if result.overflowed else []
    parts += [f"{others} values are NaN or Inf"] if others else []
    return ", ".join(parts)
