"""A description compared with its output, the store and the last build; and why a build refuses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mergebuild.errors import MergeBuildError
from mergebuild.plan.description import Description
from mergebuild.results.build import Verdict
from mergebuild.results.looks import Change
from mergebuild.store import ArtifactRow, Presence

__all__ = ["Judgement", "Refused", "Standing", "joint_verdict"]


class Standing(NamedTuple):
    """The state of one file, without regard to other targets."""

    presence: Presence = Presence.ABSENT
    row: ArtifactRow | None = None
    """The artifact at its path, if that is ours."""
    verdict: Verdict = Verdict.BUILD
    whole: ArtifactRow | None = None
    """An artifact that all of it can be restored from."""
    causes: tuple[str, ...] = ()
    """Why it is not up to date."""


@dataclass(frozen=True, eq=False, slots=True)
class Judgement:
    """A description compared with its output, the store and the last build."""

    description: Description
    standings: tuple[Standing, ...]
    """Of its files, in order."""
    changes: tuple[Change, ...] = ()
    """The differences from the last build."""
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
        """What is at its output; for a folder, the most serious state of its files."""
        there = {each.presence for each in self.standings}
        order = (Presence.FOREIGN, Presence.DAMAGED, Presence.OURS, Presence.ABSENT)
        return next(each for each in order if each in there)


class Refused(NamedTuple):
    """Why a build refuses it, known before any work (`project/gate.py`)."""

    error: MergeBuildError
    target: str
    """The target that is the reason: itself, or one that it reads."""


def joint_verdict(verdicts: set[Verdict]) -> Verdict:
    """Return the verdict of files that are published together."""
    return next(each for each in (Verdict.BUILD, Verdict.RESTORE, Verdict.UP_TO_DATE) if each in verdicts)
