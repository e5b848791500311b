"""Answers of the verbs that look, check or clean up, as lines of text. Their JSON form is in `results/looks.py`.

Pure functions from values to lines, so every answer can be tested without a terminal. `shown` turns an output's path,
relative to the project, into one relative to the current folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from mergebuild.report.builds import Shown, as_it_is
from mergebuild.report.columns import table
from mergebuild.results.build import Verdict
from mergebuild.results.quantities import count_text, size_text

if TYPE_CHECKING:
    from mergebuild.results.looks import (
        CleanResult,
        Inspection,
        Lineage,
        StatusResult,
        TensorWhy,
        VerifyResult,
        WhyResult,
    )

__all__ = [
    "clean_lines",
    "combination_text",
    "inspection_lines",
    "lineage_lines",
    "status_lines",
    "tensor_lines",
    "verify_lines",
    "why_lines",
]


def status_lines(status: StatusResult, *, shown: Shown = as_it_is) -> list[str]:
    """Return a line per target, then a line per orphan."""
    rows = [
        (str(each.state), each.target, shown(each.output) if each.output else "", each.reason)
        for each in status.targets
    ]
    rows += [("orphan", "-", shown(path), "") for path in status.orphans]
    return table(rows) if rows else ["no targets"]


def why_lines(why: WhyResult) -> list[str]:
    """Return a line per reason."""
    if why.verdict is Verdict.UP_TO_DATE and not why.reasons:
        return [f"{why.target} is up to date"]
    return list(why.reasons) or [f"{why.target}: {why.verdict}"]


_BESIDE = ("as it was built", "as the mergefile says")


def tensor_lines(tensor: TensorWhy) -> list[str]:
    """Return a tensor's name and digests, then the lines of its key; lines that differ are marked with `*`."""
    columns = [(head, each) for head, each in zip(_BESIDE, (tensor.before, tensor.after), strict=True) if each]
    heads = [(head, each.digest, f"a copy of {each.copy_of}" if each.copy_of else "made") for head, each in columns]
    lines = [tensor.name, *table(heads, indent=2), *([f"  {tensor.note}"] if tensor.note else []), ""]
    rows = [("  ", "", *(head for head, _ in columns))] if len(columns) > 1 else []
    for each in tensor.lines:
        values = (each.before, each.after) if len(columns) > 1 else (each.after if tensor.after else each.before,)
        mark = "* " if len(columns) > 1 and each.before != each.after else "  "
        rows.append((mark, "  " * each.depth + each.what, *(value if value is not None else "-" for value in values)))
    return [*lines, *(line.rstrip() for line in table(rows, gap=2))]


def combination_text(shares: Mapping[str, str]) -> str:
    """Return proportions as a sum: `3/10 opk + 7/10 merong`, `opk - 1/2 base`; `0` if there are none."""
    text = ""
    for name, share in shares.items():
        negative = share.startswith("-")
        size = share.removeprefix("-")
        term = name if size == "1" else f"{size} {name}"
        sign = (" - " if text else "-") if negative else (" + " if text else "")
        text += sign + term
    return text or "0"


def lineage_lines(lineage: Lineage) -> list[str]:
    """Return the proportions of the sources, by block if blocks differ, then the tree of what the target is made of."""
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
    """Yield a row for each run of neighbouring blocks (`IN03`, `IN04`) with equal shares."""
    run: list[str] = []
    for block, shares in by_block.items():
        if run and not (_follows(run[-1], block) and dict(shares) == dict(by_block[run[0]])):
            yield _run_text(run), combination_text(by_block[run[0]])
            run = []
        run.append(block)
    if run:
        yield _run_text(run), combination_text(by_block[run[0]])


def _follows(before: str, block: str) -> bool:
    """Return whether `block` comes right after `before`; False without a number (`M`, a group, most tensors)."""
    from mergebuild.layouts.blocks import block_id  # imports the recipe's rooms, which a null build does not need

    family, number = block_id(block)
    return number > 0 and block_id(before) == (family, number - 1)


def _run_text(run: Sequence[str]) -> str:
    return run[0] if len(run) == 1 else f"{run[0]}, {run[1]}" if len(run) == 2 else f"{run[0]} … {run[-1]}"


def verify_lines(verified: VerifyResult, *, verbose: bool = False, shown: Shown = as_it_is) -> list[str]:
    """Return how many artifacts and bytes were read, and how many problems were found; with `verbose`, each path."""
    lines = [f"checked  {shown(path)}" for path in verified.checked] if verbose else []
    found = f"{count_text(len(verified.problems), 'problem')} found" if verified.problems else "all as written"
    read = size_text(verified.bytes_read)
    return [*lines, f"{count_text(len(verified.checked), 'artifact')} checked, {read} read: {found}"]


def clean_lines(cleaned: CleanResult, *, shown: Shown = as_it_is) -> list[str]:
    """Return the paths that were removed, those that were kept and why, and the bytes freed."""
    would = "would remove" if cleaned.dry_run else "removed"
    lines = [f"{would} {shown(path)}" for path in cleaned.removed]
    lines += (f"kept {text}" for text in cleaned.kept)
    verb = "would free" if cleaned.dry_run else "freed"
    before, after = size_text(cleaned.bytes_before), size_text(cleaned.bytes_after)
    sizes = f" (store: {before} -> {after})" if cleaned.bytes_before else ""
    return [*lines, f"{verb} {size_text(cleaned.bytes_freed)}{sizes}"]


def inspection_lines(found: Inspection) -> list[str]:
    """Return the facts about a file, how it was made, components, metadata, and tensors if they were asked for."""
    lines = [found.path, *table((fact for fact in _facts_of(found) if fact[1]), indent=2)]
    lines += [f"  {sentence}" for sentence in (*found.origin, *found.notices)]
    if found.components:
        lines += ["components:", *table(_component_rows(found.components), indent=2)]
    if found.metadata:
        lines += ["metadata:", *table(((key, _shortened(value)) for key, value in found.metadata.items()), indent=2)]
    if found.tensor_list:
        tensors = ((name, dtype, str(list(shape)), size_text(size)) for name, dtype, shape, size in found.tensor_list)
        lines += ["tensors:", *table(tensors, indent=2)]
    return lines


def _facts_of(found: Inspection) -> list[tuple[str, str]]:
    """Return the facts about a file, each with its name; empty if it does not apply."""
    return [
        ("format", f"{found.format}, {count_text(found.tensors, 'tensor')}, {size_text(found.bytes)}"),
        ("layout", found.layout or "unknown"),
        *(_adapter_rows(found.adapter) if found.adapter is not None else ()),
        ("weights", found.weights),
        ("dtypes", _dtypes_text(found.dtypes)),
        *found.facts.items(),
        *((name, digest or "") for name, digest in found.hashes.items()),
    ]


def _dtypes_text(dtypes: Mapping[str, int]) -> str:
    return ", ".join(f"{dtype} {count}" for dtype, count in dtypes.items())


def _adapter_rows(adapter: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the facts about a LoRA; ranks and alphas of most modules come first."""
    families, ranks, alphas = adapter.get("families"), adapter.get("ranks"), adapter.get("alphas")
    made = " and ".join(families) if isinstance(families, Mapping) else ""
    meant = adapter.get("for")
    yield "kind", " ".join(filter(None, (made, f"for {meant}" if meant else "")))
    yield "rank", _few(ranks) if isinstance(ranks, Mapping) else ""
    yield "alpha", _few(alphas) if isinstance(alphas, Mapping) else ""
    yield "changes", "text encoders too" if adapter.get("text_encoder") is True else ""


def _few(counts: Mapping[str, int], most: int = 4) -> str:
    """Return the only value, or the first `most` of several values with the number of modules that have each."""
    if len(counts) < 2:
        return next(iter(counts), "")
    shown = [f"{value} ({count_text(count, 'module')})" for value, count in list(counts.items())[:most]]
    return ", ".join(shown) + (", …" if len(counts) > most else "")


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
