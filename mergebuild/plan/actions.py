"""The values of a plan, in the order in which they are made: a goal is described, judged, and becomes an action.

- A `Goal` is a target and its output (`description`).
- A `Description` says what it will be: its tensors, digests, files and their layout. It depends only on the recipe and
  the sources (`description`).
- A `Judgement` compares that with the output that is there, with artifacts in the store and with the last build
  (`judgement`).
- An `Action` is what to do in one build, given the actions before it: a `FileAction` for one file, a `FolderAction` for
  files that are published together. `offers` says where a whole file can be had without arithmetic; if nowhere, `work`
  says what must be computed, copied and read.

All of them are frozen: code that learns more makes a new value. Descriptions, judgements and actions are compared by
identity. The rest are named tuples: making a frozen dataclass takes three times as long, and a plan has thousands of
these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from mergebuild.digest import checksum, tagged
from mergebuild.errors import Problem
from mergebuild.plan.description import Description, FileContent, Goal
from mergebuild.plan.judgement import Judgement, Refused, Standing, joint_verdict
from mergebuild.results.build import TargetResult, Verdict
from mergebuild.store import ArtifactRow, Held, Presence, Shelf

__all__ = ["NO_WORK", "Action", "FileAction", "FolderAction", "Offer", "Outcome", "Stored", "Twin", "Work"]


class Stored(NamedTuple):
    """An artifact in the store that is what is wanted."""

    row: ArtifactRow
    may_move: bool = False
    """Whether it may be renamed to the output: it is in the history, is exactly what is wanted, and no earlier action
    takes it."""


class Twin(NamedTuple):
    """An earlier action of the same plan that makes the same artifact, which will be in the store when that is done."""

    action: FileAction


Offer = Stored | Twin
"""Where a whole file can be had without arithmetic."""


class Work(NamedTuple):
    """What one build does for the tensors of a file, given the actions before it."""

    compute: frozenset[bytes] = frozenset()
    """Digests of the tensors that must be computed, and that no earlier file needs."""
    held: Mapping[bytes, Held] = MappingProxyType({})
    """Tensors that are in artifacts, and are copied from there."""
    seen: frozenset[bytes] = frozenset()
    """Digests that an earlier action computes."""
    bytes_read: int = 0


NO_WORK = Work()


class Outcome(NamedTuple):
    """The result of an action."""

    verdict: Verdict
    computed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    problem: Problem | None = None
    exit_code: int = 0


class Action(Protocol):
    """Something to do for a target, or to leave as it is."""

    @property
    def name(self) -> str:
        """The target's name."""

    @property
    def judgement(self) -> Judgement:
        """The judgement that it was made from."""

    @property
    def key(self) -> bytes | None:
        """The digest of what it makes; None while that is unknown."""

    @property
    def verdict(self) -> Verdict:
        """What is to be done."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it has its verdict, given the other actions of the plan."""

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Where what it makes can be had as a whole."""

    @property
    def refused(self) -> Refused | None:
        """Why it must not be done."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The targets whose files must be published first."""

    @property
    def files(self) -> tuple[FileAction, ...]:
        """The files that it writes."""

    def result(self, outcome: Outcome | None = None) -> TargetResult:
        """Return the target for the answer of `build` (with an outcome) or of `plan` (without)."""


@dataclass(frozen=True, eq=False, slots=True)
class FileAction:
    """What is to be done for one file: a single one, or one of a folder's."""

    judgement: Judgement
    content: FileContent
    standing: Standing
    verdict: Verdict
    offers: tuple[Offer, ...] = ()
    work: Work = NO_WORK
    refused: Refused | None = None
    same_place: FileAction | None = None
    """The earlier action whose file has the very same path in the store: then nothing is written for this one."""

    @property
    def description(self) -> Description:
        """What the target will be."""
        return self.judgement.description

    @property
    def goal(self) -> Goal:
        """The target and its output."""
        return self.judgement.description.goal

    @property
    def name(self) -> str:
        """The target's name."""
        return self.judgement.description.goal.target

    @property
    def key(self) -> bytes | None:
        """The digest of the file's tensors; None while its sources are not hashed."""
        return self.content.digest

    @property
    def needs(self) -> tuple[str, ...]:
        """The file targets whose tensors it reads."""
        return self.judgement.description.needs

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it has its verdict, given the other actions of the plan."""
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
        """The artifact on offer, if it exists already."""
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
        """Return where its file is published: at the output's path, or in the store."""
        content = self.content
        if content.path is not None:
            return content.path
        if content.digest is None:  # unknown until its sources are hashed
            return shelf.kept_path(checksum(self.name.encode()))
        return shelf.kept_path(content.digest, content.header_checksum)

    def result(self, outcome: Outcome | None = None) -> TargetResult:
        """Return the target for the answer of `build` (with an outcome) or of `plan` (without)."""
        return _result(self, outcome)


@dataclass(frozen=True, eq=False, slots=True)
class FolderAction:
    """What is to be done for a folder: its files are published together."""

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
        """Where each of its files can be had as a whole."""
        return tuple(offer for file in self.files for offer in file.offers)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it has its verdict, given the other actions of the plan."""
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
        """Return the target for the answer of `build` (with an outcome) or of `plan` (without)."""
        return _result(self, outcome)


def _reasons(action: Action) -> tuple[str, ...]:
    files = action.files if action.verdict is Verdict.RESTORE else ()
    twins = [each.twin for each in files]
    # a folder of which only some files are another's, such as the configuration, is not what that one is
    names = dict.fromkeys(each.name for each in twins if each is not None) if None not in twins else ()
    return (*action.judgement.causes, *(f"it is what `{name}` is" for name in names))


def _result(action: Action, outcome: Outcome | None) -> TargetResult:
    if outcome is not None:
        return _done(action, outcome)
    if action.refused is not None:
        return _blocked(action, action.refused)
    made = action.judgement.description
    computed = sum(each.computed for each in action.files)
    return TargetResult(
        action.name,
        action.verdict,
        made.shown,
        tagged(made.digest) if made.digest else None,
        tensors_computed=computed,
        tensors_reused=len(made.blueprint.specs) - computed,
        bytes_read=sum(each.bytes_read for each in action.files),
        bytes_written=sum(each.writes for each in action.files),
        reasons=action.reasons,
        notices=made.notes,
    )


def _done(action: Action, outcome: Outcome) -> TargetResult:
    made = action.judgement.description
    return TargetResult(
        action.name,
        outcome.verdict,
        made.shown,
        tagged(made.digest) if made.digest else None,
        outcome.seconds,
        tensors_computed=outcome.computed,
        tensors_reused=len(made.blueprint.specs) - outcome.computed,
        bytes_read=outcome.bytes_read,
        bytes_written=outcome.bytes_written,
        error=outcome.problem,
        reasons=action.reasons,
        notices=made.notes,
    )


def _blocked(action: Action, refused: Refused) -> TargetResult:
    judgement, made = action.judgement, action.judgement.description
    problems = refused.error.problems
    why = [f"it reads `{refused.target}`, which is blocked"] if refused.target != made.name else []
    why += [problem.message for problem in problems]
    why += action.reasons if judgement.presence is not Presence.FOREIGN else ()
    artifact = tagged(made.digest) if made.digest else None
    return TargetResult(
        action.name, Verdict.BLOCKED, made.shown, artifact, error=problems[0], reasons=tuple(why), notices=made.notes
    )
