"""What the verbs answer, as frozen values that `report` prints and `--json` shows.

The keys that `to_json` gives are part of the contract (`docs/mergefile.md`, "JSON").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mergebuild.errors import Problem

__all__ = [
    "BuildResult",
    "Change",
    "CleanResult",
    "Inspection",
    "Lineage",
    "PlanResult",
    "State",
    "StatusResult",
    "TargetResult",
    "TargetState",
    "Verdict",
    "VerifyResult",
    "WhyResult",
]


class Verdict(StrEnum):
    """What becomes of a target. The first four are a build's, UP_TO_DATE and the last three a plan's."""

    UP_TO_DATE = "up-to-date"
    RESTORED = "restored"
    BUILT = "built"
    FAILED = "failed"
    SKIPPED = "skipped"
    RESTORE = "restore"
    BUILD = "build"
    BLOCKED = "blocked"


class State(StrEnum):
    """What `status` says of a target."""

    UP_TO_DATE = "up-to-date"
    STALE = "stale"
    MISSING = "missing"
    CHANGED_BY_HAND = "changed-by-hand"


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One target of a build or a plan. Bytes are of this target's reading and writing."""

    target: str
    verdict: Verdict
    output: str | None = None
    """As the user would write it, relative to the project; None for what is kept in the store."""
    artifact: str | None = None
    """`xxh3-128:...`, None while it is not known."""
    seconds: float = 0.0
    tensors_computed: int = 0
    tensors_reused: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    error: Problem | None = None
    reasons: tuple[str, ...] = ()
    """Why (plans only in JSON)."""
    notes: tuple[str, ...] = ()
    """Facts worth a line: tensors that an input lacks, bytes to be read to know more."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of a target of `build`."""
        return {
            "target": self.target,
            "verdict": str(self.verdict),
            "output": self.output,
            "artifact": self.artifact,
            "seconds": round(self.seconds, 3),
            "tensors_computed": self.tensors_computed,
            "tensors_reused": self.tensors_reused,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "error": self.error.to_json() if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build did. `targets`: those asked for, then the file targets built for them."""

    ok: bool
    seconds: float
    bytes_read: int
    bytes_written: int
    targets: tuple[TargetResult, ...]
    exit_code: int = 0

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of `build`."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "targets": [target.to_json() for target in self.targets],
        }


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What a build would do."""

    seconds: float
    targets: tuple[TargetResult, ...]
    space_needed: int
    space_free: int
    bytes_to_hash: int = 0
    """Bytes of sources that would have to be read to know more."""
    exit_code: int = 0
    """Of the first problem that blocks a target."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object of `plan`: the build's, with `reasons` and the space."""
        return {
            "ok": all(target.verdict is not Verdict.BLOCKED for target in self.targets),
            "seconds": round(self.seconds, 3),
            "bytes_read": sum(target.bytes_read for target in self.targets) + self.bytes_to_hash,
            "bytes_written": sum(target.bytes_written for target in self.targets),
            "space_needed": self.space_needed,
            "space_free": self.space_free,
            "bytes_to_hash": self.bytes_to_hash,
            "targets": [
                target.to_json() | {"reasons": list(target.reasons), "notes": list(target.notes)}
                for target in self.targets
            ],
        }


@dataclass(frozen=True, slots=True)
class TargetState:
    """One line of `status`."""

    target: str
    state: State
    output: str | None


@dataclass(frozen=True, slots=True)
class StatusResult:
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


@dataclass(frozen=True, slots=True)
class Change:
    """One difference from the last build, such as `alpha[IN04]` `0.35` `0.4`; `text` is the whole line."""

    what: str
    before: str | None
    after: str | None
    text: str


@dataclass(frozen=True, slots=True)
class WhyResult:
    """`why`: what differs from the last build of a target; no changes means up to date."""

    target: str
    verdict: Verdict
    changes: tuple[Change, ...]
    reasons: tuple[str, ...]
    """Everything that makes it not up to date, the changes' texts among them."""

    def to_json(self) -> dict[str, object]:
        """Return the object of `why`."""
        return {
            "target": self.target,
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "changes": [{"what": each.what, "before": each.before, "after": each.after} for each in self.changes],
        }


@dataclass(frozen=True, slots=True)
class Lineage:
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


@dataclass(frozen=True, slots=True)
class Inspection:
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
    hashes: Mapping[str, str]
    weights: str = ""
    """`full` (with EMA copies) or `pruned`."""
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
        }
        if self.tensor_list:
            found["tensor_list"] = [
                {"name": name, "dtype": dtype, "shape": list(shape), "bytes": size}
                for name, dtype, shape, size in self.tensor_list
            ]
        return found


@dataclass(frozen=True, slots=True)
class VerifyResult:
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


@dataclass(frozen=True, slots=True)
class CleanResult:
    """`clean` and `gc`: what went, what stayed and why, and the bytes."""

    removed: tuple[str, ...]
    kept: tuple[str, ...] = field(default_factory=tuple)
    bytes_freed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    dry_run: bool = False

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
