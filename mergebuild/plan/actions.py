"""The values of a plan, in the order in which they come to be: a goal is described, judged, and becomes an action.

- A `Goal` is a target and the place where it goes.
- A `Description` says what it will be: its tensors, digests, files and their layout. It follows from the recipe and the
  sources alone.
- A `Judgement` compares that with what stands at its place, with the artifacts on offer and with the last build.
- An `Action` is what to do about it in one build, beside the actions before it: a `FileAction` for one file, a
  `FolderAction` for files that are published together. `offers` says where a whole file can come from without
  arithmetic, `work` what must be computed, copied and read otherwise.

All of them are frozen: whoever learns more makes a new value. Descriptions, judgements and actions are compared by
identity. The rest are named tuples: a frozen dataclass takes three times as long to make, and a plan has thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from mergebuild.digest import checksum, tagged
from mergebuild.errors import MergeBuildError, Problem
from mergebuild.fold.forms import Blueprint
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.header import Header, Piece
from mergebuild.formats.layout import Packing
from mergebuild.methods.method import Method
from mergebuild.plan.output_files import SmallFile
from mergebuild.plan.tensors import Made, Tensors
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.results.looks import Change
from mergebuild.store import ArtifactRow, Held, Presence, Shelf

__all__ = [
    "Action",
    "Description",
    "FileAction",
    "FileContent",
    "FolderAction",
    "Goal",
    "Ground",
    "Judgement",
    "Offer",
    "Outcome",
    "Refused",
    "Standing",
    "Stored",
    "Twin",
    "Work",
    "joint_verdict",
]


class Goal(NamedTuple):
    """What is to be made: a target, where it goes (None: into the store) and the dtype it is rounded to there."""

    target: str
    path: Path | None
    dtype: str | None = None
    """Overrides the target's own; None keeps it."""
    is_extra: bool = False
    """Written by `-o`: no record of the target, nothing else changes."""


# Described


@dataclass(frozen=True, eq=False, slots=True)
class Ground:
    """What follows from what a target reads, whatever its coefficients are: kin have it in common."""

    sources: tuple[str, ...]
    """Every source that it, or a target below it, names: for tensors, or for small files."""
    bottom: frozenset[str]
    """The sources at its bottom, also parts of sources and what no recipe names."""
    leaves: frozenset[str]
    """The sources that these are, or are parts of."""
    needs: tuple[str, ...]
    """The file targets whose tensors it reads."""
    notices: tuple[str, ...]
    """What should be known of its sources, a sentence each."""
    programs: tuple[Method, ...]
    """The user's own methods that making it runs."""
    waits_for_files: bool
    """Whether it can only be made once the files that it reads are published: some of their tensors are read whole."""
    operates: bool
    """Whether something below it is not linear in tensors of sources, or is made of others' parts."""


class FileContent(NamedTuple):
    """What one file will be. While its sources are not hashed, its size and layout are known, and nothing else."""

    path: Path | None
    """None: it goes into the store."""
    shown: str | None
    """Its path for people."""
    packing: Packing
    """How it is laid out; with the header it is all but the tensors' bytes."""
    header: Header
    header_checksum: bytes
    """The checksum of everything before the data."""
    digest: bytes | None = None
    """None: not known before its sources are hashed."""
    tensors: Tensors | None = None
    """None: not known, or a small file of a folder."""
    origin: SmallFile | None = None
    """The source's small file that it is, or is made of."""

    @property
    def data(self) -> tuple[bytes | None, str]:
        """Its digest, and how its tensors are laid out: of two files with equal ones each is made of the other."""
        return self.digest, self.packing.layout

    def pieces(self, name: str) -> tuple[Piece, ...]:
        """Return where a tensor lies that is no run of the file, in bytes from where it is said to; none for a run."""
        tensors = self.header.tensors
        info = tensors[name]
        if name in self.packing.turned:
            rows, columns = info.shape
            return (Piece(0, 0, (rows, columns), (1, rows)),)
        if name not in self.packing.scattered:
            return ()
        beginning, views = self.packing.scattered[name]
        begin, width = tensors[beginning].begin - info.begin, DTYPES_BY_WORD[info.dtype].size
        return tuple(Piece(0, begin + view.begin * width, view.shape, view.strides) for view in views)

    @property
    def made(self) -> tuple[Made, ...]:
        """Its tensors one by one, in the order of the file; none while they are not known."""
        return self.tensors.made if self.tensors else ()

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.header.file_size

    @property
    def header_bytes(self) -> bytes:
        """Everything before the data; made anew each time, for it is long, and only whoever writes it needs it."""
        return self.packing.encoded(self.header)


@dataclass(frozen=True, eq=False)
class Description:
    """What a goal will be."""

    goal: Goal
    blueprint: Blueprint
    ground: Ground
    shown: str | None
    """Where it goes, for people."""
    files: tuple[FileContent, ...]
    """The files of a folder, or the one file that it is."""
    is_folder: bool = False
    digest: bytes | None = None
    """The digest of all its tensors; None: not known before its sources are hashed."""
    tensors: Tensors | None = None
    intermediates: tuple[Tensors, ...] = ()
    """The tensors in float32 of the virtual targets below it that make them by operations."""
    manifest: Callable[[], Mapping[str, str]] = dict
    """Returns its lines: they are written when somebody asks."""
    notices: tuple[str, ...] = ()
    """What should be known of its sources and its output, a sentence each."""
    foreseen_bytes: int = 0
    """While it is not known: bytes of sources that are read when all of it is computed."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The file targets whose tensors it reads."""
        return self.ground.needs

    @property
    def sources(self) -> frozenset[str]:
        """The sources whose tensors it comes from, through files as well."""
        return self.ground.leaves

    @property
    def programs(self) -> tuple[Method, ...]:
        """The user's own methods that making it runs."""
        return self.ground.programs

    @property
    def waits_for_files(self) -> bool:
        """Whether it can only be made once the files that it reads are published."""
        return self.ground.waits_for_files

    @cached_property
    def lines(self) -> Mapping[str, str]:
        """Its manifest."""
        return self.manifest()

    @property
    def name(self) -> str:
        """The target's name."""
        return self.goal.target

    @property
    def is_known(self) -> bool:
        """Whether the digests of its sources are known, and so what it will be."""
        return self.digest is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        return (*self.notices, *self.blueprint.notes())

    @property
    def has_only_its_output(self) -> bool:
        """Whether the store gets no second name of it, neither now nor when it is replaced; `-o` asks for none."""
        return self.blueprint.target.has_only_its_output and not self.goal.is_extra

    @property
    def allows_nonfinite(self) -> bool:
        """Whether NaN and Inf may be written."""
        return self.blueprint.target.nonfinite == "allow"


# Judged


class Standing(NamedTuple):
    """How one file stands, looked at by itself."""

    presence: Presence = Presence.ABSENT
    row: ArtifactRow | None = None
    """The artifact at its path, when that is ours."""
    verdict: Verdict = Verdict.BUILD
    whole: ArtifactRow | None = None
    """An artifact that is what is wanted, all of it."""
    causes: tuple[str, ...] = ()
    """Why it is not up to date."""


@dataclass(frozen=True, eq=False, slots=True)
class Judgement:
    """A description compared with what is there, and with the last build."""

    description: Description
    standings: tuple[Standing, ...]
    """Of its files, in their order."""
    changes: tuple[Change, ...] = ()
    """What differs from the last build."""
    causes: tuple[str, ...] = ()
    """Why it is not up to date."""

    @property
    def name(self) -> str:
        """The target's name."""
        return self.description.name

    @property
    def verdict(self) -> Verdict:
        """The verdict of all its files together."""
        return joint_verdict({each.verdict for each in self.standings})

    @property
    def presence(self) -> Presence:
        """What stands at its place: of a folder's files the most notable."""
        there = {each.presence for each in self.standings}
        order = (Presence.FOREIGN, Presence.DAMAGED, Presence.OURS, Presence.ABSENT)
        return next(each for each in order if each in there)


class Refused(NamedTuple):
    """Why a build would not do it, known before any work (`project/gate.py`)."""

    error: MergeBuildError
    target: str
    """The target that it is refused for: itself, or one that it reads."""


# Done


class Stored(NamedTuple):
    """An artifact of the store that is what is wanted."""

    row: ArtifactRow
    may_move: bool = False
    """Whether it may be renamed to its place: it is in the history, as wanted, and no earlier action takes it."""


class Twin(NamedTuple):
    """An earlier action of the same plan makes the same artifact: look it up when that is done."""

    action: FileAction


Offer = Stored | Twin
"""Where a whole file can come from without arithmetic. Later also another machine's store."""


class Work(NamedTuple):
    """What one build does for the tensors of a file, beside the actions before it."""

    compute: frozenset[bytes] = frozenset()
    """Digests that must be computed, and are needed by this file first."""
    held: Mapping[bytes, Held] = MappingProxyType({})
    """Tensors that are in artifacts and are copied from there."""
    seen: frozenset[bytes] = frozenset()
    """Digests that an earlier action computes."""
    bytes_read: int = 0


NO_WORK = Work()


class Outcome(NamedTuple):
    """What became of an action."""

    verdict: Verdict
    computed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    problem: Problem | None = None
    exit_code: int = 0


class Action(Protocol):
    """One thing to do, or to leave as it is. A check, a download or an upload would be another kind."""

    @property
    def name(self) -> str:
        """The target's name."""

    @property
    def judgement(self) -> Judgement:
        """What led to it."""

    @property
    def key(self) -> bytes | None:
        """The digest of what it makes; None while that is not known."""

    @property
    def verdict(self) -> Verdict:
        """What is to be done."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it gets its verdict, beside the other actions of the plan."""

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Where what it makes can come from whole."""

    @property
    def refused(self) -> Refused | None:
        """Why it must not be done."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The targets whose files must be there first."""

    @property
    def files(self) -> tuple[FileAction, ...]:
        """The files that are written by it."""

    def result(self, outcome: Outcome | None = None) -> TargetResult:
        """Return the target as `build` shows it when it is done, and as `plan` does before."""


@dataclass(frozen=True, eq=False, slots=True)
class FileAction:
    """What is to be done about one file: alone, or one of a folder's."""

    judgement: Judgement
    content: FileContent
    standing: Standing
    verdict: Verdict
    offers: tuple[Offer, ...] = ()
    work: Work = NO_WORK
    refused: Refused | None = None
    same_place: FileAction | None = None
    """The earlier action whose file the store keeps at the very same place: then nothing is written for this one."""

    @property
    def description(self) -> Description:
        """What the target will be."""
        return self.judgement.description

    @property
    def goal(self) -> Goal:
        """The target, and where it goes."""
        return self.judgement.description.goal

    @property
    def name(self) -> str:
        """The target's name."""
        return self.judgement.description.goal.target

    @property
    def key(self) -> bytes | None:
        """The digest of what the file holds; None while its sources are not hashed."""
        return self.content.digest

    @property
    def needs(self) -> tuple[str, ...]:
        """The file targets whose tensors it reads."""
        return self.judgement.description.needs

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it gets its verdict, beside the other actions of the plan."""
        return _reasons(self)

    @property
    def files(self) -> tuple[FileAction, ...]:
        """The file itself."""
        return (self,)

    @property
    def is_part(self) -> bool:
        """Whether it is one of a folder's files, which are published together."""
        return self.judgement.description.is_folder

    @property
    def stored(self) -> Stored | None:
        """The artifact on offer, when there is one already."""
        return next((each for each in self.offers if isinstance(each, Stored)), None)

    @property
    def twin(self) -> FileAction | None:
        """The earlier action that makes the same."""
        return next((each.action for each in self.offers if isinstance(each, Twin)), None)

    @property
    def computed(self) -> int:
        """The number of tensors that are computed for it."""
        if self.verdict is not Verdict.BUILD:
            return 0
        known = self.content.digest is not None
        return len(self.work.compute) if known else self.description.blueprint.forms.combined

    @property
    def bytes_read(self) -> int:
        """How many bytes are read for its tensors."""
        return self.work.bytes_read if self.content.digest is not None else self.description.foreseen_bytes

    @property
    def writes(self) -> int:
        """How many bytes are written to its file."""
        if self.same_place is not None or self.verdict is Verdict.UP_TO_DATE:
            return 0
        moves = self.verdict is Verdict.RESTORE and self.stored is not None and self.stored.may_move
        return 0 if moves else self.content.size

    def place(self, shelf: Shelf) -> Path:
        """Return where its file goes: to the output's path, or into the store."""
        content = self.content
        if content.path is not None:
            return content.path
        if content.digest is None:  # not known before its sources are hashed
            return shelf.kept_path(checksum(self.name.encode()))
        return shelf.kept_path(content.digest, content.header_checksum)

    def result(self, outcome: Outcome | None = None) -> TargetResult:
        """Return the target as `build` shows it when it is done, and as `plan` does before."""
        return _result(self, outcome)


@dataclass(frozen=True, eq=False, slots=True)
class FolderAction:
    """What is to be done about a folder: its files, published together."""

    judgement: Judgement
    files: tuple[FileAction, ...]
    refused: Refused | None = None

    @property
    def name(self) -> str:
        """The target's name."""
        return self.judgement.description.goal.target

    @property
    def key(self) -> bytes | None:
        """The digest of all tensors in the folder."""
        return self.judgement.description.digest

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Where each of its files can come from whole."""
        return tuple(offer for file in self.files for offer in file.offers)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it gets its verdict, beside the other actions of the plan."""
        return _reasons(self)

    @property
    def verdict(self) -> Verdict:
        """The verdict of all its files together."""
        return joint_verdict({each.verdict for each in self.files})

    @property
    def needs(self) -> tuple[str, ...]:
        """The file targets whose tensors it reads."""
        return self.judgement.description.needs

    def result(self, outcome: Outcome | None = None) -> TargetResult:
        """Return the target as `build` shows it when it is done, and as `plan` does before."""
        return _result(self, outcome)


def joint_verdict(verdicts: set[Verdict]) -> Verdict:
    """Return the verdict of files that are published together."""
    return next(each for each in (Verdict.BUILD, Verdict.RESTORE, Verdict.UP_TO_DATE) if each in verdicts)


def _reasons(action: Action) -> tuple[str, ...]:
    files = action.files if action.verdict is Verdict.RESTORE else ()
    twins = dict.fromkeys(each.twin.name for each in files if each.twin is not None)
    return (*action.judgement.causes, *(f"it is what `{name}` is" for name in twins))


def _result(action: Action, outcome: Outcome | None) -> TargetResult:
    judgement = action.judgement
    made = judgement.description
    artifact = tagged(made.digest) if made.digest else None
    if outcome is not None:
        return TargetResult(
            action.name,
            outcome.verdict,
            made.shown,
            artifact,
            outcome.seconds,
            tensors_computed=outcome.computed,
            tensors_reused=len(made.blueprint.specs) - outcome.computed,
            bytes_read=outcome.bytes_read,
            bytes_written=outcome.bytes_written,
            error=outcome.problem,
            reasons=action.reasons,
            notices=made.notes,
        )
    if action.refused is not None:
        problems = action.refused.error.problems
        why = [f"it reads `{action.refused.target}`, which is blocked"] if action.refused.target != made.name else []
        why += [problem.message for problem in problems]
        why += action.reasons if judgement.presence is not Presence.FOREIGN else ()
        return TargetResult(
            action.name,
            Verdict.BLOCKED,
            made.shown,
            artifact,
            error=problems[0],
            reasons=tuple(why),
            notices=made.notes,
        )
    computed = sum(each.computed for each in action.files)
    return TargetResult(
        action.name,
        action.verdict,
        made.shown,
        artifact,
        tensors_computed=computed,
        tensors_reused=len(made.blueprint.specs) - computed,
        bytes_read=sum(each.bytes_read for each in action.files),
        bytes_written=sum(each.writes for each in action.files),
        reasons=action.reasons,
        notices=made.notes,
    )
