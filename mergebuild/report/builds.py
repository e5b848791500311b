"""Answers of `build` and `plan` as lines of text for people. Their JSON form is in `results/build.py`.

Pure functions from values to lines. `shown` turns an output's path, relative to the project, into one relative to the
current folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from mergebuild.report.columns import table
from mergebuild.results.build import BuildResult, PlanResult, TargetResult, Verdict
from mergebuild.results.quantities import count_text, size_text, time_text

__all__ = ["Shown", "as_it_is", "build_lines", "plan_lines"]

Shown = Callable[[str], str]

_MOST_ORIGINS = 4
"""How many models are named at most in a tensor's row."""


def as_it_is(path: str) -> str:
    """Return a path unchanged."""
    return path


def build_lines(result: BuildResult, *, verbose: bool = False, shown: Shown = as_it_is) -> list[str]:
    """Return a line for each target that was not up to date, and a summary; one line if all were up to date.

    With `verbose`, every target has a line, and its artifact's digest a line below that.
    """
    if all(target.verdict is Verdict.UP_TO_DATE for target in result.targets) and not verbose:
        return [_nothing_to_do(len(result.targets), result.seconds)]
    told = [target for target in result.targets if verbose or target.verdict is not Verdict.UP_TO_DATE]
    rows = table(_built_row(target, shown) for target in told)
    lines: list[str] = []
    for target, row in zip(told, rows, strict=True):
        lines.append(row)
        if verbose and target.artifact:
            lines.append(f"  {target.artifact}")
    if len(result.targets) > 1:
        lines.append(_summary(result))
    return lines


def _nothing_to_do(count: int, seconds: float) -> str:
    if not count:
        return "nothing to do: the mergefile has no target with an output"
    verb = "is" if count == 1 else "are"
    return f"nothing to do: {count_text(count, 'target')} {verb} up to date ({time_text(seconds)})"


def _place_of(target: TargetResult, shown: Shown) -> str:
    return shown(target.output) if target.output else f"{target.target} (in the store)"


def _built_row(target: TargetResult, shown: Shown) -> tuple[str, ...]:
    row = (str(target.verdict), _place_of(target, shown))
    if target.verdict not in (Verdict.BUILT, Verdict.RESTORED):
        return (*row, "; ".join(target.reasons))
    counts = f"{target.tensors_computed} computed, {target.tensors_reused} reused"
    return (*row, counts, size_text(target.bytes_written), time_text(target.seconds))


def _summary(result: BuildResult) -> str:
    counts = Counter(target.verdict for target in result.targets)
    verdicts = ", ".join(f"{count} {str(verdict).replace('-', ' ')}" for verdict, count in counts.items())
    work = f"read {size_text(result.bytes_read)}, wrote {size_text(result.bytes_written)}"
    return f"{verdicts}; {work} in {time_text(result.seconds)}"


def plan_lines(plan: PlanResult, *, verbose: bool = False, shown: Shown = as_it_is) -> list[str]:
    """Return what a build would do: a row per target with its reasons below it, then disk space and memory."""
    if all(target.verdict is Verdict.UP_TO_DATE for target in plan.targets) and not verbose:
        return [_nothing_to_do(len(plan.targets), plan.seconds)]
    lines: list[str] = []
    for target, row in zip(plan.targets, table(_planned_row(each, shown) for each in plan.targets), strict=True):
        lines += [row, *_planned_lines(target)]
    if plan.bytes_to_hash:
        lines.append(f"{size_text(plan.bytes_to_hash)} of sources are not hashed yet, and would be read to know more")
    lines.append(f"space: {size_text(plan.space_needed)} needed, {size_text(plan.space_free)} free")
    device = f", {size_text(plan.memory.device)} of each device's" if plan.memory.device else ""
    lines.append(f"memory: at most {size_text(plan.memory.host)} beside the page cache{device}")
    return lines


def _planned_lines(target: TargetResult) -> list[str]:
    """Return the lines below a target's row: its reasons and notices, its error, and its tensors."""
    lines = [f"    {text}" for text in (*target.reasons, *target.notices)]
    if target.error and target.error.message not in target.reasons:
        lines.append(f"    {target.error.message}")
    return lines + _tensor_lines(target)


def _tensor_lines(target: TargetResult) -> list[str]:
    """Return a row for each tensor of a target that is listed; names come last, as they are the longest."""
    told = target.tensors or ()
    rows = table(((str(each.how), _origins_text(each.origins), each.tensor) for each in told), indent=4)
    more = target.tensors_computed + target.tensors_reused - len(told) if told else 0
    return [*rows, f"    and {count_text(more, 'more tensor')} (-vv shows all)"] if more > 0 else rows


def _origins_text(origins: Sequence[str]) -> str:
    """Return the first models that a tensor is made of, and how many more there are; sources by name alone."""
    shown = ", ".join(each.removeprefix("source ") for each in origins[:_MOST_ORIGINS])
    return f"{shown} and {len(origins) - _MOST_ORIGINS} more" if len(origins) > _MOST_ORIGINS else shown


def _planned_row(target: TargetResult, shown: Shown) -> tuple[str, ...]:
    row = (str(target.verdict), target.target, shown(target.output) if target.output else "(in the store)")
    if target.verdict not in (Verdict.BUILD, Verdict.RESTORE):
        return row
    counts = f"{target.tensors_computed} to compute, {target.tensors_reused} to reuse"
    return (*row, counts, f"read {size_text(target.bytes_read)}", f"write {size_text(target.bytes_written)}")
