"""A description compared with what is there: with its place, the store, and the last build; why a build refuses it."""

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


def joint_verdict(verdicts: set[Verdict]) -> Verdict:
    """Return the verdict of files that are published together."""
    return next(each for each in (Verdict.BUILD, Verdict.RESTORE, Verdict.UP_TO_DATE) if each in verdicts)
