"""The answers of `build` and `plan`, as frozen values that `report` prints and `--json` shows.

The keys that `to_json` gives are part of the contract (`docs/mergefile.md`, "JSON"). A build with nothing to do needs
these classes at its start, so they are few, and named tuples: a dataclass takes ten times as long to define. The
answers of other verbs are in `looks.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from mergebuild.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergebuild.results.tensor_work import TensorWork
    from mergebuild.system.profile import Seconds

__all__ = ["BuildResult", "MemoryBounds", "PlanResult", "TargetResult", "Verdict"]


class Verdict(StrEnum):
    """What a build did with a target (RESTORED to SKIPPED), or what a plan says about it (RESTORE to BLOCKED).

    UP_TO_DATE is a verdict of both.
    """

    UP_TO_DATE = "up-to-date"
    RESTORED = "restored"
    BUILT = "built"
    FAILED = "failed"
    SKIPPED = "skipped"
    RESTORE = "restore"
    BUILD = "build"
    BLOCKED = "blocked"


class TargetResult(NamedTuple):
    """One target of a build or a plan. Bytes are those read and written for this target."""

    target: str
    verdict: Verdict
    output: str | None = None
    """The path as the user would write it, relative to the project; None for an artifact that is only in the store."""
    artifact: str | None = None
    """`xxh3-128:...`; None while it is not known."""
    seconds: float = 0.0
    tensors_computed: int = 0
    tensors_reused: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    error: Problem | None = None
    reasons: tuple[str, ...] = ()
    """Why it has its verdict (in JSON only for plans)."""
    notices: tuple[str, ...] = ()
    """Notices for the user, one sentence each, for example about tensors that an input lacks."""
    tensors: Sequence[TensorWork] | None = None
    """What becomes of single tensors, when that was asked for (plans only)."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object for a target of `build`."""
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
            "notices": list(self.notices),
        }

    def _repr_html_(self) -> str:
        return _targets_table((self,))


class BuildResult(NamedTuple):
    """What a build did. `targets`: those asked for, then the file targets built for them."""

    ok: bool
    seconds: float
    bytes_read: int
    bytes_written: int
    targets: tuple[TargetResult, ...]
    exit_code: int = 0
    problems: tuple[Problem, ...] = ()
    """All problems that kept targets from being built, in their order."""
    profile: Seconds | None = None
    """Where the time went, when that was asked for."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object for `build`."""
        found: dict[str, object] = {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "targets": [target.to_json() for target in self.targets],
        }
        return found if self.profile is None else found | {"profile": self.profile.to_json()}

    def _repr_html_(self) -> str:
        from mergebuild.results import html
        from mergebuild.results.quantities import size_text, time_text

        sizes = f"{size_text(self.bytes_read)} read, {size_text(self.bytes_written)} written"
        title = f"build {'done' if self.ok else 'failed'} in {time_text(self.seconds)}: {sizes}"
        phases = self.profile.phases.items() if self.profile else ()
        profile = html.table(("phase", "time"), ((name, time_text(seconds)) for name, seconds in phases))
        return html.page(title, _targets_table(self.targets), html.problems(self.problems), profile)


class MemoryBounds(NamedTuple):
    """The most bytes of memory that a build uses, however large its models are; the page cache does not count."""

    host: int
    device: int
    """For each device; 0 if none is used."""


class PlanResult(NamedTuple):
    """What a build would do."""

    seconds: float
    targets: tuple[TargetResult, ...]
    space_needed: int
    space_free: int
    bytes_to_hash: int = 0
    """Bytes of sources that would have to be read to know more."""
    exit_code: int = 0
    """The exit code of the first problem that blocks a target."""
    memory: MemoryBounds = MemoryBounds(0, 0)
    problems: tuple[Problem, ...] = ()
    """All problems that block targets, in their order."""

    def to_json(self) -> dict[str, object]:
        """Return the contract's object for `plan`: that of `build`, with `reasons`, `notes` (the notices) and space."""
        return {
            "ok": all(target.verdict is not Verdict.BLOCKED for target in self.targets),
            "seconds": round(self.seconds, 3),
            "bytes_read": sum(target.bytes_read for target in self.targets) + self.bytes_to_hash,
            "bytes_written": sum(target.bytes_written for target in self.targets),
            "space_needed": self.space_needed,
            "space_free": self.space_free,
            "memory": self.memory._asdict(),
            "bytes_to_hash": self.bytes_to_hash,
            "targets": [_planned(target) for target in self.targets],
        }

    def _repr_html_(self) -> str:
        from mergebuild.results import html
        from mergebuild.results.quantities import size_text

        title = f"plan: {size_text(self.space_needed)} needed, {size_text(self.space_free)} free"
        work = (
            (each.target, tensor.tensor, tensor.how, html.joined(tensor.origins), size_text(tensor.bytes))
            for each in self.targets
            for tensor in each.tensors or ()
        )
        tensors = html.table(("target", "tensor", "how", "from", "size"), work)
        return html.page(title, _targets_table(self.targets), tensors, html.problems(self.problems))


def _targets_table(targets: Iterable[TargetResult]) -> str:
    """Return a table of targets for a notebook."""
    from mergebuild.results import html
    from mergebuild.results.quantities import size_text

    columns = ("target", "verdict", "output", "computed", "reused", "read", "written", "why", "notes")
    rows = (
        (
            each.target,
            each.verdict,
            each.output,
            each.tensors_computed,
            each.tensors_reused,
            size_text(each.bytes_read),
            size_text(each.bytes_written),
            each.error.message if each.error else html.joined(each.reasons),
            html.joined(each.notices),
        )
        for each in targets
    )
    return html.table(columns, rows)


def _planned(target: TargetResult) -> dict[str, object]:
    """Return the contract's object of a target of `plan`."""
    found = target.to_json() | {"reasons": list(target.reasons), "notes": list(target.notices)}
    return found if target.tensors is None else found | {"tensors": [each.to_json() for each in target.tensors]}
