"""What the verbs answer that look, check or clean up, as frozen values that `report` prints and `--json` shows.

The keys that `to_json` gives are part of the contract (`docs/mergefile.md`, "JSON").
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from mergebuild.errors import Problem
from mergebuild.results.build import Verdict

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
    """What `status` says of a target."""

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
    """Why it can't be planned, if it can't."""


class StatusResult(NamedTuple):
    """`status`: targets and orphans (outputs of ours that no target makes now)."""

    targets: tuple[TargetState, ...]
    orphans: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of `status`."""
        return {
            "targets": [
                {"target": each.target, "state": str(each.state), "output": each.output} for each in self.targets
            ],
            "orphans": list(self.orphans),
        }


class Change(NamedTuple):
    """One difference from the last build, such as `alpha[IN04]` `0.35` `0.4`; `text` is the whole line."""

    what: str
    before: str | None
    after: str | None
    text: str


class WhatItIs(NamedTuple):
    """What a tensor is: its digest as text and, of a copy, what it is a copy of."""

    digest: str
    copy_of: str | None

    def to_json(self) -> dict[str, object]:
        """Return it as part of the object of `why`."""
        return {"digest": self.digest, "copy_of": self.copy_of}


class KeyLine(NamedTuple):
    """One line that a tensor's digest is made of, as it was when the tensor was built, and now. None: no such line."""

    what: str
    before: str | None
    after: str | None
    depth: int = 0
    """How many lines it stands below: those of what an operation reads stand below the line that names it."""


class TensorWhy(NamedTuple):
    """`why --tensor`: what one tensor follows from, as it was last built and as the mergefile says now."""

    name: str
    before: WhatItIs | None
    """None: it was not built, or it is not known what it was built from; see `note`."""
    after: WhatItIs | None
    """None: the target has no such tensor now."""
    lines: tuple[KeyLine, ...]
    note: str = ""
    """Why there is nothing to compare with, if there is nothing."""

    def to_json(self) -> dict[str, object]:
        """Return it as part of the object of `why`."""
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


class WhyResult(NamedTuple):
    """`why`: what differs from the last build of a target; no changes means up to date."""

    target: str
    verdict: Verdict
    changes: tuple[Change, ...]
    reasons: tuple[str, ...]
    """Everything that makes it not up to date, the changes' texts among them; of a blocked target, what blocks it."""
    problems: tuple[Problem, ...] = ()
    """What blocks it, with places and help."""
    tensor: TensorWhy | None = None
    """The tensor that was asked for; None where none was, or where it can't be planned."""

    def to_json(self) -> dict[str, object]:
        """Return the object of `why`."""
        found: dict[str, object] = {
            "target": self.target,
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "changes": [{"what": each.what, "before": each.before, "after": each.after} for each in self.changes],
        }
        if self.tensor is not None:
            found["tensor"] = self.tensor.to_json()
        return found


class Lineage(NamedTuple):
    """`lineage`: exact proportions of sources as text (`3/10`), and the targets where values were rounded."""

    target: str
    linear: bool
    proportions: Mapping[str, str] | None
    by_block: Mapping[str, Mapping[str, str]]
    rounded_at: tuple[str, ...]
    tree: tuple[str, ...] = ()
    """The way down, a line a step, for people."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of `lineage`."""
        return {
            "target": self.target,
            "linear": self.linear,
            "proportions": dict(self.proportions) if self.proportions is not None else None,
            "by_block": {block: dict(shares) for block, shares in self.by_block.items()},
            "rounded_at": list(self.rounded_at),
        }


class Inspection(NamedTuple):
    """`inspect`: what a file is."""

    path: str
    format: str
    layout: str | None
    tensors: int
    bytes: int
    dtypes: Mapping[str, int]
    """Number of tensors by dtype, in the contract's words (`float16`)."""
    components: Mapping[str, Mapping[str, object]]
    """By component (`unet`, `text_encoder`, `vae`, `ema`, ...): `tensors`, `bytes`, `dtypes`."""
    metadata: Mapping[str, str]
    hashes: Mapping[str, str | None]
    """`sha256`, `autov1`, `autov2`, `autov3`; None where the format has none."""
    weights: str = ""
    """`full` (with EMA copies), `pruned` or `ema-only`; empty where the words mean nothing."""
    facts: Mapping[str, str] = MappingProxyType({})
    """What else there is to say in a few words: `precision`, `vae`, `input channels`, `position ids`, ..."""
    adapter: Mapping[str, object] | None = None
    """Of a LoRA: `families`, `ranks`, `alphas`, `for`, `text_encoder`."""
    origin: tuple[str, ...] = ()
    """What its metadata say of how it was made, a sentence each."""
    notices: tuple[str, ...] = ()
    """What the reader left out and should be known."""
    tensor_list: tuple[tuple[str, str, tuple[int, ...], int], ...] = ()
    """(name, dtype, shape, bytes), for `--tensors`."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of `inspect`."""
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


class VerifyResult(NamedTuple):
    """`verify`: what was read again, and what is not what was written."""

    checked: tuple[str, ...]
    bytes_read: int
    problems: tuple[Problem, ...]
    exit_code: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the object of `verify`."""
        return {
            "ok": not self.problems,
            "checked": list(self.checked),
            "bytes_read": self.bytes_read,
            "errors": [problem.to_json() for problem in self.problems],
        }


class Trusted(NamedTuple):
    """`trust`: the folders outside the project that it may write into, and the files whose code it may run."""

    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the object of `trust`."""
        return {"ok": True, "trusted": [*self.folders, *self.files]}


class CleanResult(NamedTuple):
    """`clean` and `gc`: what went, what stayed and why, and the bytes."""

    removed: tuple[str, ...]
    kept: tuple[str, ...] = ()
    bytes_freed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    dry_run: bool = False
    files: frozenset[tuple[int, str]] = frozenset()
    """Of a dry run of `clean`: which files these are, so that no other goes in their place. Not for people."""

    def to_json(self) -> dict[str, object]:
        """Return the object of `clean` and `gc`."""
        return {
            "removed": list(self.removed),
            "kept": list(self.kept),
            "bytes_freed": self.bytes_freed,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "dry_run": self.dry_run,
        }
