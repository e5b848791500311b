"""What the verbs answer, as lines of text for people. The same values as JSON are `results`.

Pure: from values to lines, so every answer can be tested without a terminal. `shown` turns an output's path, relative
to the project, into one relative to where the user stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from mergebuild.report.columns import table
from mergebuild.report.quantities import count_text, size_text, time_text
from mergebuild.results import (
    BuildResult,
    CleanResult,
    Inspection,
    Lineage,
    PlanResult,
    StatusResult,
    TargetResult,
    Verdict,
    VerifyResult,
    WhyResult,
)

__all__ = [
    "Shown",
    "build_lines",
    "clean_lines",
    "combination_text",
    "inspection_lines",
    "lineage_lines",
    "plan_lines",
    "status_lines",
    "verify_lines",
    "why_lines",
]

Shown = Callable[[str], str]


def _as_it_is(path: str) -> str:
    return path


def build_lines(result: BuildResult, *, verbose: bool = False, shown: Shown = _as_it_is) -> list[str]:
    """Return a line a target that something happened to, and a summary; one line when there was nothing to do."""
    if all(target.verdict is Verdict.UP_TO_DATE for target in result.targets) and not verbose:
        return [_nothing_to_do(len(result.targets), result.seconds)]
    told = [target for target in result.targets if verbose or target.verdict is not Verdict.UP_TO_DATE]
    rows = table(_built_row(target, shown) for target in told)
    lines: list[str] = []
    for target, row in zip(told, rows, strict=True):
        lines += [row, *(f"  {note}" for note in target.notes)]
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


def plan_lines(plan: PlanResult, *, verbose: bool = False, shown: Shown = _as_it_is) -> list[str]:
    """Return what a build would do: a row a target, its reasons below it, then the space."""
    if all(target.verdict is Verdict.UP_TO_DATE for target in plan.targets) and not verbose:
        return [_nothing_to_do(len(plan.targets), plan.seconds)]
    lines: list[str] = []
    for target, row in zip(plan.targets, table(_planned_row(each, shown) for each in plan.targets), strict=True):
        lines.append(row)
        lines += (f"    {text}" for text in (*target.reasons, *target.notes))
        if target.error and target.error.message not in target.reasons:
            lines.append(f"    {target.error.message}")
    if plan.bytes_to_hash:
        lines.append(f"{size_text(plan.bytes_to_hash)} of sources are not hashed yet, and would be read to know more")
    lines.append(f"space: {size_text(plan.space_needed)} needed, {size_text(plan.space_free)} free")
    return lines


def _planned_row(target: TargetResult, shown: Shown) -> tuple[str, ...]:
    row = (str(target.verdict), target.target, shown(target.output) if target.output else "(in the store)")
    if target.verdict not in (Verdict.BUILD, Verdict.RESTORE):
        return row
    counts = f"{target.tensors_computed} to compute, {target.tensors_reused} to reuse"
    return (*row, counts, f"read {size_text(target.bytes_read)}", f"write {size_text(target.bytes_written)}")


def status_lines(status: StatusResult, *, shown: Shown = _as_it_is) -> list[str]:
    """Return a line a target, and a line an orphan."""
    rows = [(str(each.state), each.target, shown(each.output) if each.output else "") for each in status.targets]
    rows += [("orphan", "-", shown(path)) for path in status.orphans]
    return table(rows) if rows else ["no targets"]


def why_lines(why: WhyResult) -> list[str]:
    """Return a line a reason."""
    if why.verdict is Verdict.UP_TO_DATE and not why.reasons:
        return [f"{why.target} is up to date"]
    return list(why.reasons) or [f"{why.target}: {why.verdict}"]


def combination_text(shares: Mapping[str, str]) -> str:
    """Return proportions as a sum: `3/10 opk + 7/10 merong`, `opk - 1/2 base`; `0` when there are none."""
    text = ""
    for name, share in shares.items():
        negative = share.startswith("-")
        size = share.removeprefix("-")
        term = name if size == "1" else f"{size} {name}"
        sign = (" - " if text else "-") if negative else (" + " if text else "")
        text += sign + term
    return text or "0"


def lineage_lines(lineage: Lineage) -> list[str]:
    """Return the proportions of the sources, by block where they differ, and the way down."""
    lines: list[str] = []
    if lineage.proportions is not None:
        lines.append(f"{lineage.target} = {combination_text(_by_size(lineage.proportions))}")
    elif lineage.by_block:
        lines.append(f"{lineage.target} =")
        lines += table(_block_rows(lineage.by_block), indent=2)
    elif not lineage.linear:
        lines.append(f"{lineage.target} is not a linear combination of sources")
    lines += (f"rounded at {target}" for target in lineage.rounded_at)
    return [*lines, *(["", *lineage.tree] if lineage.tree else [])]


def _by_size(shares: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(shares.items(), key=lambda item: -abs(Fraction(item[1]))))


def _block_rows(by_block: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield runs of neighbouring blocks (`IN03`, `IN04`) with equal shares as one row each."""
    run: list[str] = []
    for block, shares in by_block.items():
        if run and not (_follows(run[-1], block) and dict(shares) == dict(by_block[run[0]])):
            yield _run_text(run), combination_text(by_block[run[0]])
            run = []
        run.append(block)
    if run:
        yield _run_text(run), combination_text(by_block[run[0]])


def _follows(before: str, block: str) -> bool:
    """Return whether a block is the next of its family; what has no number (`M`, a group, most tensors) never is."""
    from mergebuild.layouts.blocks import block_id  # with it come the recipe's rooms, which a null build has no use for

    family, number = block_id(block)
    return number > 0 and block_id(before) == (family, number - 1)


def _run_text(run: Sequence[str]) -> str:
    return run[0] if len(run) == 1 else f"{run[0]}, {run[1]}" if len(run) == 2 else f"{run[0]} … {run[-1]}"


def verify_lines(verified: VerifyResult, *, verbose: bool = False, shown: Shown = _as_it_is) -> list[str]:
    """Return what was read, and how much of it is not what was written."""
    lines = [f"checked  {shown(path)}" for path in verified.checked] if verbose else []
    found = f"{count_text(len(verified.problems), 'problem')} found" if verified.problems else "all as written"
    read = size_text(verified.bytes_read)
    return [*lines, f"{count_text(len(verified.checked), 'artifact')} checked, {read} read: {found}"]


def clean_lines(cleaned: CleanResult, *, shown: Shown = _as_it_is) -> list[str]:
    """Return what went, what stayed and why, and the bytes freed."""
    would = "would remove" if cleaned.dry_run else "removed"
    lines = [f"{would} {shown(path)}" for path in cleaned.removed]
    lines += (f"kept {text}" for text in cleaned.kept)
    verb = "would free" if cleaned.dry_run else "freed"
    before, after = size_text(cleaned.bytes_before), size_text(cleaned.bytes_after)
    sizes = f" (store: {before} -> {after})" if cleaned.bytes_before else ""
    return [*lines, f"{verb} {size_text(cleaned.bytes_freed)}{sizes}"]


def inspection_lines(found: Inspection) -> list[str]:
    """Return what a file is: a head, its components, hashes, metadata, and its tensors if they were asked for."""
    facts = [
        ("format", f"{found.format}, {count_text(found.tensors, 'tensor')}, {size_text(found.bytes)}"),
        ("layout", found.layout or "unknown"),
        ("weights", found.weights),
        ("dtypes", _dtypes_text(found.dtypes)),
        *((name, digest) for name, digest in found.hashes.items()),
    ]
    lines = [found.path, *table((fact for fact in facts if fact[1]), indent=2)]
    if found.components:
        lines += ["components:", *table(_component_rows(found.components), indent=2)]
    if found.metadata:
        lines += ["metadata:", *table(((key, _shortened(value)) for key, value in found.metadata.items()), indent=2)]
    if found.tensor_list:
        tensors = ((name, dtype, str(list(shape)), size_text(size)) for name, dtype, shape, size in found.tensor_list)
        lines += ["tensors:", *table(tensors, indent=2)]
    return lines


def _dtypes_text(dtypes: Mapping[str, int]) -> str:
    return ", ".join(f"{dtype} {count}" for dtype, count in dtypes.items())


def _component_rows(components: Mapping[str, Mapping[str, object]]) -> Iterable[tuple[str, ...]]:
    for name, facts in components.items():
        tensors, size, dtypes = facts.get("tensors"), facts.get("bytes"), facts.get("dtypes")
        yield (
            name,
            count_text(tensors, "tensor") if isinstance(tensors, int) else "",
            size_text(size) if isinstance(size, int) else "",
            _dtypes_text(dtypes) if isinstance(dtypes, Mapping) else "",
        )


def _shortened(value: str, longest: int = 100) -> str:
    return value if len(value) <= longest else f"{value[: longest - 1]}…"
