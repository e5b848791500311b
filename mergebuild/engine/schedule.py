"""Cuts a pass into jobs, each done by one worker from beginning to end. Pure: no file is opened. No torch.

Surveys come first (`looks`), since steps need their results. Everything else is in `schedule`.

A *cluster* is a smallest set of connected steps and leaves: it is read once, chunk by chunk. The result of a job
depends neither on the worker nor on the time. Jobs are in the order of the files, so that a disk reads on: first
copies, which need no torch, then tensors that must be hashed, then those that are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mergebuild.engine.work import Copy, Leaf, Pass, Step, SurveyJob, UnseenGroup

__all__ = ["Cluster", "Job", "Look", "looks", "schedule"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Steps that share leaves, with all the leaves that they read."""

    leaves: Sequence[Leaf]
    steps: Sequence[Step]
    siblings: Sequence[Cluster] = ()
    """Other clusters with operations that share a computation with some of its own."""

    @property
    def count(self) -> int:
        """The number of elements; the same for all of its tensors."""
        return self.steps[0].count

    def below(self, step: Step) -> list[Step]:
        """Return the cluster's steps that a step is made of, directly or not, each after those that it reads itself.

        A tensor that is in a file is read from there, even if a step makes it.
        """
        lying = {leaf.digest for leaf in self.leaves}
        needed = {*step.reads} - lying
        found = []
        for each in reversed(self.steps):
            if each is not step and each.digest in needed:
                needed |= {*each.reads} - lying
                found.append(each)
        return found[::-1]

    @property
    def reads(self) -> Sequence[Leaf]:
        """All leaves that it and its siblings read, each once, including those that operations take whole."""
        operations = [step.operation for each in (self, *self.siblings) for step in each.steps if step.operation]
        whole = (leaf for operation in operations for part in operation.parts for leaf, _ in part)
        leaves = (leaf for each in (self, *self.siblings) for leaf in each.leaves)
        return list({leaf.digest: leaf for some in (leaves, whole) for leaf in some}.values())


@dataclass(frozen=True, slots=True)
class Look:
    """What a survey looks at together: all of its tensors, or one."""

    survey: bytes
    """Its key."""
    part: SurveyJob


Job = Copy | UnseenGroup | Cluster | Look


def looks(work: Pass) -> list[Look]:
    """Return the jobs for surveys whose findings are unknown."""
    found: list[Look] = []
    for survey in work.surveys:
        if survey.key in work.known:
            continue
        alone = survey.method.makes.looks_at_each
        parts = [survey._replace(tensors=(each,)) for each in survey.tensors] if alone else [survey]
        found += [Look(survey.key, part) for part in parts]
    return found


def schedule(work: Pass) -> list[Job]:
    """Return the jobs of a pass, in the order in which they are best begun."""
    unseen = sorted(work.unseen, key=lambda each: _position(each.unhashed))
    clusters = sorted(_clusters(work), key=lambda each: _position(each.leaves or each.reads))
    return [*_coalesced(work.copies), *unseen, *clusters]


def _position(leaves: Sequence[Leaf]) -> tuple[str, int]:
    """Return where reading begins."""
    return (str(leaves[0].location.path), leaves[0].location.offset) if leaves else ("", 0)


def _clusters(work: Pass) -> Iterator[Cluster]:
    parent: dict[bytes, bytes] = {}

    def root(digest: bytes) -> bytes:
        while (above := parent.setdefault(digest, digest)) != digest:
            parent[digest] = digest = parent[above]
        return digest

    for digest, step in work.steps.items():
        for read in step.reads:
            parent[root(read)] = root(digest)
    found: dict[bytes, list[Step]] = {}
    for digest, step in work.steps.items():
        found.setdefault(root(digest), []).append(step)
    return _led([_cluster(work, steps) for steps in found.values()])


def _cluster(work: Pass, steps: Sequence[Step]) -> Cluster:
    inputs = dict.fromkeys(read for step in steps for read in step.reads)
    return Cluster(tuple(work.leaves[digest] for digest in inputs if digest in work.leaves), tuple(steps))


def _led(clusters: Sequence[Cluster]) -> Iterator[Cluster]:
    """Yield clusters; those that share a computation with an earlier one become its siblings."""
    leaders: dict[bytes, int] = {}
    siblings: dict[int, list[Cluster]] = {}
    for index, cluster in enumerate(clusters):
        keys = [step.operation.together for step in cluster.steps if step.operation and step.operation.together]
        leader = next((leaders[key] for key in keys if key in leaders), index)
        leaders |= {key: leader for key in keys if key not in leaders}
        led = siblings.setdefault(leader, [])
        if leader != index:
            led.append(cluster)
    for index, led in siblings.items():
        yield replace(clusters[index], siblings=tuple(led)) if led else clusters[index]


def _coalesced(copies: Iterable[Copy]) -> list[Copy]:
    """Return copies, joined if they are neighbours on both sides, so that a run of tensors is one range."""
    found: list[Copy] = []
    for each in sorted(copies, key=lambda copy: (copy.place.output, copy.place.offset)):
        if found and _goes_on(found[-1], each):
            last = found[-1].location
            found[-1] = Copy(replace(last, size=last.size + each.location.size), found[-1].place)
        elif each.location.size:
            found.append(each)
    return found


def _goes_on(first: Copy, second: Copy) -> bool:
    """Whether a copy continues where the one before it ends, on both sides."""
    one, other = first.location, second.location
    return (
        first.place.output == second.place.output
        and first.place.offset + one.size == second.place.offset
        and one.path == other.path
        and one.offset + one.size == other.offset
        and not one.pieces
        and not other.pieces
    )
