"""What must be done to each target, and why: a plan, as a value.

It says what each target will be (its tensors, their digests, its bytes' layout), what stands where it goes, what of it
lies somewhere already, and what must be computed. `planner.py` makes it, `build/builder.py` does it, `report` shows it.

The order of `Plan.items` is the order of work: a file target stands before those that read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mergebuild.digest import checksum, tagged
from mergebuild.errors import MergeBuildError
from mergebuild.fold.forms import Blueprint
from mergebuild.formats import Header, Packing
from mergebuild.plan.output_files import SmallFile
from mergebuild.plan.tensors import Made, Tensors
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.results.looks import Change
from mergebuild.store import ArtifactRow, Held, Presence, Shelf

__all__ = ["Goal", "Item", "Made", "Plan"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be made: a target, where it goes (None: into the store) and the dtype it is rounded to there."""

    target: str
    path: Path | None
    dtype: str | None = None
    """Overrides the target's own; None keeps it."""
    is_extra: bool = False
    """Written by `-o`: no record of the target, nothing else changes."""


@dataclass(eq=False)
class Item:
    """One goal of a plan, judged. What depends on unknown sources is None until they are hashed."""

    goal: Goal
    blueprint: Blueprint
    shown: str | None
    needs: tuple[str, ...]
    """The file targets whose tensors it reads."""
    tensors: Tensors | None = None
    between: tuple[Tensors, ...] = ()
    """What virtual targets below it make by operations: it only stands between its tensors and those of files."""
    digest: bytes | None = None
    header: Header | None = None
    header_checksum: bytes = b""
    """The checksum of everything before the data."""
    packing: Packing | None = None
    """How the file is laid out; with the header it is all but the tensors' bytes."""
    parts: list[Item] = field(default_factory=list)
    """The files of a directory, one item each. It is what they are, and has no file of its own."""
    whole: Item | None = None
    """The directory that it is a file of."""
    origin: SmallFile | None = None
    """Of a file of a directory, the source's small file that it is, or was made of."""
    presence: Presence = Presence.ABSENT
    row: ArtifactRow | None = None
    """What stands at its path, when it is ours."""
    is_copied: bool = False
    """Whether an earlier item takes what it is restored from out of the history, so that it must be copied."""
    is_kept_once: bool = False
    """Whether an earlier item of the plan is kept by the store at the very same place."""
    restore: ArtifactRow | None = None
    """A whole artifact that is what is wanted."""
    twin: Item | None = None
    """The earlier item of the plan that will be the very same, which it is then restored from."""
    verdict: Verdict = Verdict.BUILD
    causes: tuple[str, ...] = ()
    """Why it is not up to date, looked at by itself."""
    changes: tuple[Change, ...] = ()
    lines: dict[str, str] = field(default_factory=dict)
    """Its manifest."""
    refusal: MergeBuildError | None = None
    """What a build would refuse it for before any work (`project/gate.py`)."""
    refused_for: str = ""
    """The target that it is refused for: itself, or one that it reads."""
    compute: frozenset[bytes] = frozenset()
    """Digests whose first target it is and that must be computed."""
    held: Mapping[bytes, Held] = field(default_factory=dict)
    """Tensors that lie in artifacts and are copied from there."""
    seen: frozenset[bytes] = frozenset()
    """Digests that an earlier item computes in the same build."""
    bytes_read: int = 0
    notices: tuple[str, ...] = ()
    """What should be known of its sources, a sentence each."""

    @property
    def name(self) -> str:
        """The target's name."""
        return self.goal.target

    @property
    def is_known(self) -> bool:
        """Whether the digests of its sources are known, and so what it will be."""
        return self.digest is not None

    @property
    def made(self) -> tuple[Made, ...] | None:
        """Its tensors one by one, in the order of the file; None while it is not known."""
        return self.tensors.made if self.tensors else None

    @property
    def header_bytes(self) -> bytes:
        """Everything before the data; made anew each time, for it is long, and only whoever writes it needs it."""
        return self.packing.encoded(self.header) if self.packing and self.header else b""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        return (*self.notices, *self.blueprint.notes())

    @property
    def allows_nonfinite(self) -> bool:
        """Whether NaN and Inf may be written."""
        return self.blueprint.target.nonfinite == "allow"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it gets its verdict, beside the other items of the plan."""
        files = (self.parts or [self]) if self.verdict is Verdict.RESTORE else ()
        twins = dict.fromkeys(each.twin.name for each in files if each.twin is not None)
        return (*self.causes, *(f"it is what `{name}` is" for name in twins))

    @property
    def size(self) -> int:
        """The size of the file."""
        return self.header.file_size if self.header else 0

    @property
    def computed(self) -> int:
        """The number of tensors that are computed for it."""
        if self.verdict is not Verdict.BUILD:
            return 0
        return len(self.compute) if self.is_known else self.blueprint.forms.combined

    def place(self, shelf: Shelf) -> Path:
        """Return where its file goes: to the output's path, or into the store."""
        if self.goal.path is not None:
            return self.goal.path
        if self.digest is None:  # not known before its sources are hashed
            return shelf.kept_path(checksum(self.name.encode()))
        return shelf.kept_path(self.digest, self.header_checksum)

    def result(self) -> TargetResult:
        """Return the item as `plan` shows it."""
        artifact = tagged(self.digest) if self.digest else None
        if self.refusal is not None:
            first = self.refusal.problems[0]
            why = [f"it reads `{self.refused_for}`, which is blocked"] if self.refused_for != self.name else []
            why += [problem.message for problem in self.refusal.problems]
            why += self.reasons if self.presence is not Presence.FOREIGN else ()
            reasons = tuple(why)
            return TargetResult(
                self.name, Verdict.BLOCKED, self.shown, artifact, error=first, reasons=reasons, notes=self.notes
            )
        total = len(self.blueprint.specs)
        files = self.parts or [self]
        computed = sum(each.computed for each in files)
        return TargetResult(
            target=self.name,
            verdict=self.verdict,
            output=self.shown,
            artifact=artifact,
            tensors_computed=computed,
            tensors_reused=total - computed,
            bytes_read=sum(each.bytes_read for each in files),
            bytes_written=sum(each.writes for each in files),
            reasons=self.reasons,
            notes=self.notes,
        )

    @property
    def writes(self) -> int:
        """How many bytes are written to its file."""
        if self.is_kept_once:
            return 0
        row = self.restore
        moves = row is not None and row.kind == "history" and row.header == self.header_checksum
        restores_by_copy = self.verdict is Verdict.RESTORE and (not moves or self.is_copied)
        return self.size if self.verdict is Verdict.BUILD or restores_by_copy else 0


@dataclass
class Plan:
    """The items in the order of work, and the targets that were asked for."""

    items: list[Item]
    asked: tuple[str, ...]
    blocked: list[TargetResult]
    """Targets that cannot be planned, with the problem that blocks each."""
    errors: list[MergeBuildError]
    """Of each blocked target, in their order."""
    bytes_to_hash: int = 0
    fresh: Mapping[str, TargetResult] = field(default_factory=dict)
    """Targets that were seen to be up to date without being planned."""

    @property
    def space_needed(self) -> int:
        """Bytes that the build needs on disk while it runs."""
        return sum(item.writes for item in self.items if not item.parts)

    @property
    def largest_whole(self) -> int:
        """Bytes of the largest tensors that a method must have whole, all of its inputs and its result as float32."""
        return max((item.tensors.largest_whole for item in self.items if item.computed and item.tensors), default=0)

    @property
    def refusals(self) -> Mapping[str, MergeBuildError]:
        """Why targets can't be built, as far as it shows before any work, in the order of the results."""
        found = dict(zip((each.target for each in self.blocked), self.errors, strict=True))
        found |= {item.name: item.refusal for item in self.items if item.whole is None and item.refusal is not None}
        return {each.target: found[each.target] for each in self.results() if each.target in found} if found else {}

    def results(self) -> tuple[TargetResult, ...]:
        """Return the targets asked for, then the file targets built for them."""
        return self.in_order({item.name: item.result() for item in self.items if item.whole is None})

    def in_order(self, found: Mapping[str, TargetResult]) -> tuple[TargetResult, ...]:
        """Put results in the contract's order: asked for, then what was built for them; blocked ones added."""
        every = dict(found) | {each.target: each for each in self.blocked} | dict(self.fresh)
        asked = dict.fromkeys(self.asked)
        rest = [each for name, each in every.items() if name not in asked and each.verdict is not Verdict.UP_TO_DATE]
        return (*(every[name] for name in asked if name in every), *rest)
