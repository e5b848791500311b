"""The answers of all verbs but `build` and `plan`, as frozen values that `report` prints and `--json` shows.

The keys that `to_json` gives are part of the contract (`docs/mergefile.md`, "JSON").
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from mergebuild.errors import Problem
from mergebuild.results import html
from mergebuild.results.build import Verdict
from mergebuild.results.quantities import size_text

__all__ = [
    "Change",
    "CleanResult",
    "Inspection",
    "KeyLine",
    "Lineage",
    "OutputState",
    "StatusResult",
    "TargetState",
    "TensorWhy",
    "Trusted",
    "VerifyResult",
    "WhatItIs",
    "WhyResult",
]


class OutputState(StrEnum):
    """The state of a target in `status`."""

    UP_TO_DATE = "up-to-date"
    STALE = "stale"
    MISSING = "missing"
    CHANGED_BY_HAND = "changed-by-hand"


class TargetState(NamedTuple):
    """One line of `status`."""

    target: str
    state: OutputState
    output: str | None
    reason: str = ""
    """Why it can't be planned; empty if it can."""


class StatusResult(NamedTuple):
    """`status`: targets, and orphans (outputs of ours that no target makes any more)."""

    targets: tuple[TargetState, ...]
    orphans: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the contract's object for `status`."""
        return {
            "targets": [
                {"target": each.target, "state": str(each.state), "output": each.output} for each in self.targets
            ],
            "orphans": list(self.orphans),
        }

    def _repr_html_(self) -> str:
        rows = ((each.target, each.state, each.output, each.reason) for each in self.targets)
        orphans = html.table(("orphan",), ((each,) for each in self.orphans))
        return html.page("status", html.table(("target", "state", "output", "why"), rows), orphans)


class Change(NamedTuple):
    """One difference from the last build, such as `alpha[IN04]` `0.35` `0.4`; `text` is the whole line."""

    what: str
    before: str | None
    after: str | None
    text: str


class WhatItIs(NamedTuple):
    """What a tensor is: its digest as text, and for a copy the digest of the tensor that it copies."""

    digest: str
    copy_of: str | None

    def to_json(self) -> dict[str, object]:
        """Return it as part of the object for `why`."""
        return {"digest": self.digest, "copy_of": self.copy_of}


class KeyLine(NamedTuple):
    """One line of a tensor's key, at the last build and now. None: that key has no such line."""

    what: str
    before: str | None
    after: str | None
    depth: int = 0
    """Its level of indentation: lines of a key that an operation reads are below the line that names it."""


class TensorWhy(NamedTuple):
    """`why --tensor`: the key of one tensor, at the last build and by the mergefile now."""

    name: str
    before: WhatItIs | None
    """None: it was not built, or its key is not on record; see `note`."""
    after: WhatItIs | None
    """None: the target has no such tensor now."""
    lines: tuple[KeyLine, ...]
    note: str = ""
    """Why there is nothing to compare with; empty if there is."""

    def to_json(self) -> dict[str, object]:
        """Return it as part of the object for `why`."""
        return {
            "name": self.name,
            "before": self.before.to_json() if self.before else None,
            "after": self.after.to_json() if self.after else None,
            "lines": [
                {"what": each.what, "before": each.before, "after": each.after, "depth": each.depth}
                for each in self.lines
            ],
            "note": self.note or None,
        }

    def _repr_html_(self) -> str:
        rows = (("\u2003" * each.depth + each.what, each.before, each.after) for each in self.lines)
        title = f"tensor {self.name}{f': {self.note}' if self.note else ''}"
        return html.page(title, html.table(("what", "as it was built", "now"), rows))


class WhyResult(NamedTuple):
    """`why`: the differences from a target's last build; none if it is up to date."""

    target: str
    verdict: Verdict
    changes: tuple[Change, ...]
    reasons: tuple[str, ...]
    """Everything that makes it not up to date, including the texts of changes; for a blocked target, what blocks it."""
    problems: tuple[Problem, ...] = ()
    """The problems that block it, with places and help."""
    tensor: TensorWhy | None = None
    """The tensor that was asked for; None if none was, or if the target can't be planned."""

    def to_json(self) -> dict[str, object]:
        """Return the object for `why`."""
        found: dict[str, object] = {
            "target": self.target,
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "changes": [{"what": each.what, "before": each.before, "after": each.after} for each in self.changes],
        }
        if self.tensor is not None:
            found["tensor"] = self.tensor.to_json()
        return found

    def _repr_html_(self) -> str:
        texts = {each.text for each in self.changes}
        others = html.table(("why",), ((each,) for each in self.reasons if each not in texts))
        return html.page(
            f"{self.target}: {self.verdict}",
            html.table(("what", "before", "now"), ((each.what, each.before, each.after) for each in self.changes)),
            others,
            html.problems(self.problems),
            self.tensor._repr_html_() if self.tensor is not None else "",
        )


class Lineage(NamedTuple):
    """`lineage`: exact proportions of sources as text (`3/10`), and the targets at which values were rounded."""

    target: str
    linear: bool
    proportions: Mapping[str, str] | None
    by_block: Mapping[str, Mapping[str, str]]
    rounded_at: tuple[str, ...]
    tree: tuple[str, ...] = ()
    """The path down to sources, one line per step, for people."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object for `lineage`."""
        return {
            "target": self.target,
            "linear": self.linear,
            "proportions": dict(self.proportions) if self.proportions is not None else None,
            "by_block": {block: dict(shares) for block, shares in self.by_block.items()},
            "rounded_at": list(self.rounded_at),
        }

    def _repr_html_(self) -> str:
        blocks = (
            (block, html.joined(f"{source} {share}" for source, share in shares.items()))
            for block, shares in self.by_block.items()
        )
        return html.page(
            f"{self.target}: {'linear' if self.linear else 'not linear'}",
            html.table(("source", "share"), (self.proportions or {}).items()),
            html.table(("block", "shares"), blocks),
            html.table(("rounded at",), ((each,) for each in self.rounded_at)),
        )


class Inspection(NamedTuple):
    """`inspect`: what a file is."""

    path: str
    format: str
    layout: str | None
    tensors: int
    bytes: int
    dtypes: Mapping[str, int]
    """Numbers of tensors by dtype, in the contract's words (`float16`)."""
    components: Mapping[str, Mapping[str, object]]
    """By component (`unet`, `text_encoder`, `vae`, `ema`, ...): `tensors`, `bytes`, `dtypes`."""
    metadata: Mapping[str, str]
    hashes: Mapping[str, str | None]
    """`sha256`, `autov1`, `autov2`, `autov3`; None if the format has none."""
    weights: str = ""
    """`full` (with EMA copies), `pruned` or `ema-only`; empty if these words don't apply."""
    facts: Mapping[str, str] = MappingProxyType({})
    """Other short facts: `precision`, `vae`, `input channels`, `position ids`, ..."""
    adapter: Mapping[str, object] | None = None
    """For a LoRA: `families`, `ranks`, `alphas`, `for`, `text_encoder`."""
    origin: tuple[str, ...] = ()
    """What its metadata say about how it was made, one sentence each."""
    notices: tuple[str, ...] = ()
    """What the reader left out and users should know."""
    tensor_list: tuple[tuple[str, str, tuple[int, ...], int], ...] = ()
    """(name, dtype, shape, bytes), for `--tensors`."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object for `inspect`."""
        found: dict[str, object] = {
            "path": self.path,
            "format": self.format,
            "layout": self.layout,
            "tensors": self.tensors,
            "bytes": self.bytes,
            "dtypes": dict(self.dtypes),
            "components": {name: dict(facts) for name, facts in self.components.items()},
            "metadata": dict(self.metadata),
            "hashes": dict(self.hashes),
            "weights": self.weights,
            "facts": dict(self.facts),
            "adapter": dict(self.adapter) if self.adapter is not None else None,
            "origin": list(self.origin),
            "notices": list(self.notices),
        }
        if self.tensor_list:
            found["tensor_list"] = [
                {"name": name, "dtype": dtype, "shape": list(shape), "bytes": size}
                for name, dtype, shape, size in self.tensor_list
            ]
        return found

    def _repr_html_(self) -> str:
        facts = {"layout": self.layout, "tensors": f"{self.tensors:,}", "bytes": f"{self.bytes:,}", **self.facts}
        facts |= {"dtypes": html.joined(f"{count} {dtype}" for dtype, count in self.dtypes.items())}
        return html.page(
            f"{self.path}: {self.format}",
            html.table(("what", "is"), [*facts.items(), *self.hashes.items()]),
            html.table(("metadata", "says"), self.metadata.items()),
            html.table(("note",), ((each,) for each in (*self.origin, *self.notices))),
            html.table(("tensor", "dtype", "shape", "bytes"), self.tensor_list),
        )


class VerifyResult(NamedTuple):
    """`verify`: the artifacts that were read again, and problems with those that have changed."""

    checked: tuple[str, ...]
    bytes_read: int
    problems: tuple[Problem, ...]
    exit_code: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the object for `verify`."""
        return {
            "ok": not self.problems,
            "checked": list(self.checked),
            "bytes_read": self.bytes_read,
            "errors": [problem.to_json() for problem in self.problems],
        }

    def _repr_html_(self) -> str:
        title = f"{len(self.checked):,} files checked, {size_text(self.bytes_read)} read"
        return html.page(title, html.problems(self.problems))


class Trusted(NamedTuple):
    """`trust`: the folders outside the project that it may write to, and the files whose code it may run."""

    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the object for `trust`."""
        return {"ok": True, "trusted": [*self.folders, *self.files]}

    def _repr_html_(self) -> str:
        rows = [(each, "may be written to") for each in self.folders] + [(each, "may be run") for each in self.files]
        return html.page("trusted now", html.table(("what", "may"), rows))


class CleanResult(NamedTuple):
    """`clean` and `gc`: what was removed, what was kept and why, and the bytes freed."""

    removed: tuple[str, ...]
    kept: tuple[str, ...] = ()
    bytes_freed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    dry_run: bool = False
    files: frozenset[tuple[int, str]] = frozenset()
    """For a dry run of `clean`: the identity of each file, so that only these are removed later. Not shown."""

    def to_json(self) -> dict[str, object]:
        """Return the object for `clean` and `gc`."""
        return {
            "removed": list(self.removed),
            "kept": list(self.kept),
            "bytes_freed": self.bytes_freed,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "dry_run": self.dry_run,
        }

    def _repr_html_(self) -> str:
        rows = [(each, "would go" if self.dry_run else "gone") for each in self.removed]
        rows += [(each, "stays") for each in self.kept]
        return html.page(f"{size_text(self.bytes_freed)} freed", html.table(("what", "becomes of it"), rows))
