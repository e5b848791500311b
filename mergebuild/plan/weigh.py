"""Turns judgements, in the order of work, into actions: what each file needs, given those before it.

If several files will be equal, the first is made, and the others are restored from it. A tensor is computed for the
first file that needs it. An artifact of the history is moved to the first output that wants it. A refused target makes
nothing, so it is left out here, and targets that would have shared with it are weighed without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mergebuild.plan.actions import NO_WORK, Action, FileAction, FolderAction, Offer, Stored, Twin, Work
from mergebuild.plan.batch import TensorRow
from mergebuild.plan.description import FileContent
from mergebuild.plan.judgement import Judgement, Refused, Standing
from mergebuild.plan.made import Made
from mergebuild.plan.origins import Origins
from mergebuild.plan.tensors import Tensors
from mergebuild.results.build import Verdict
from mergebuild.store import Held, Shelf

__all__ = ["weigh"]


def weigh(
    judged: Iterable[Judgement], refused: Mapping[Judgement, Refused], shelf: Shelf, origins: Origins
) -> tuple[Action, ...]:
    """Return an action for each judgement, in order."""
    judged = list(judged)
    weighing = _Weighing(shelf, origins, _lost([each for each in judged if each not in refused]))
    return tuple(weighing.action(each, refused.get(each)) for each in judged)


class _Weighing:
    """What the actions so far make and take."""

    def __init__(self, shelf: Shelf, origins: Origins, lost: frozenset[int]) -> None:
        self._shelf = shelf
        self._origins = origins
        self._lost = lost
        self._making: dict[tuple[bytes | None, str], FileAction] = {}
        """What will be made, by its data: the first action for each."""
        self._kept: dict[Path, FileAction] = {}
        """What is made or restored in the store, by its path there: the first action for each."""
        self._leaving: set[int] = set()
        """Artifacts that actions take out of the history."""
        self._claimed: set[bytes] = set()
        """Tensors that are computed for some action."""
        self._computing: list[FileAction] = []
        """Actions with operations in or below them whose intermediate tensors are not in `_claimed` yet."""

    def action(self, judgement: Judgement, refused: Refused | None) -> Action:
        """Return what is to be done for a target."""
        made = judgement.description
        files = tuple(
            self._file(judgement, file, standing, refused)
            for file, standing in zip(made.files, judgement.standings, strict=True)
        )
        return FolderAction(judgement, files, refused) if made.is_folder else files[0]

    def _file(self, judgement: Judgement, file: FileContent, standing: Standing, refused: Refused | None) -> FileAction:
        verdict, offers, work = standing.verdict, tuple(self._offers(file, standing)), NO_WORK
        if refused is not None:
            return FileAction(judgement, file, standing, verdict, offers, refused=refused)
        if verdict is Verdict.BUILD and file.digest is not None:
            twin = self._making.get(file.data)
            if twin is not None:
                verdict, offers = Verdict.RESTORE, (Twin(twin),)
            elif file.tensors is not None:
                work = self._work(judgement, file)
        same_place = None
        if file.path is None and file.digest is not None and verdict is not Verdict.UP_TO_DATE:
            same_place = self._kept.get(self._shelf.kept_path(file.digest, file.header_checksum))
        action = FileAction(judgement, file, standing, verdict, offers, work, same_place=same_place)
        self._note(action)
        return action

    def _offers(self, file: FileContent, standing: Standing) -> Iterator[Offer]:
        """Yield the artifact that a file can be restored from; it may be moved for one action only."""
        row = standing.whole
        if row is not None:
            is_spare = row.kind == "history" and row.id not in self._leaving
            yield Stored(row, may_move=is_spare and row.header == file.header_checksum)

    def _note(self, action: FileAction) -> None:
        """Record what actions after this one need not do."""
        file = action.content
        if action.verdict is Verdict.RESTORE and action.stored is not None and action.stored.row.kind == "history":
            self._leaving.add(action.stored.row.id)
        if file.digest is None or action.verdict is Verdict.UP_TO_DATE:
            return
        if action.verdict is Verdict.BUILD:
            self._making.setdefault(file.data, action)
            if file.tensors is not None and (file.tensors.operates or action.description.intermediates):
                self._computing.append(action)
        if file.path is None:
            self._kept.setdefault(self._shelf.kept_path(file.digest, file.header_checksum), action)

    def _work(self, judgement: Judgement, file: FileContent) -> Work:
        """Decide for each tensor of a file that must be built: whether an artifact has it, or it must be computed."""
        assert file.tensors is not None
        copies, made = self._copied_and_made(file.tensors)
        wanted = made | copies
        if self._computing and (self._origins.intermediate_among(wanted) or file.tensors.has_float32_combinations):
            self._claim_intermediates()
        seen = frozenset(wanted & self._claimed)
        made -= seen
        copies -= seen | made
        allows_nonfinite = judgement.description.allows_nonfinite
        held = self._find(copies, allow_nonfinite=True) | self._find(made, allow_nonfinite=allows_nonfinite)
        compute = frozenset(wanted - seen - held.keys())
        self._claimed |= compute
        return Work(compute, held, seen, _total_read(file.tensors, compute, seen, is_partly_there=bool(seen or held)))

    def _find(self, digests: Iterable[bytes], *, allow_nonfinite: bool) -> dict[bytes, Held]:
        """Return where tensors are, in artifacts that will still exist when tensors are computed."""
        return self._shelf.find(digests, allow_nonfinite=allow_nonfinite, besides=self._lost)

    def _copied_and_made(self, tensors: Tensors) -> tuple[set[bytes], set[bytes]]:
        """Return which tensors are copies of anything but a source's tensor, and which are computed."""
        copies: set[bytes] = set()
        made: set[bytes] = set()
        for row in tensors.rows:
            if row.is_copy:
                copies.update(digest for digest in row.digests if self._origins.source_of(digest) is None)
            else:
                made.update(row.digests)
        return copies, made

    def _claim_intermediates(self) -> None:
        """Add the intermediate tensors of earlier actions, which are in no file, to those that are computed.

        Only few plans need this: those that also write a virtual target's tensors, or a float32 combination that an
        operation reads.
        """
        computed = [made for action in self._computing for made in _computed_by(action)]
        wanted = {digest for made in computed for digest in made.needs}
        self._computing.clear()
        between = {digest for made in computed for digest in _combined_for(made)}
        while wanted:
            made = {digest: found for digest in wanted - between if (found := self._origins.intermediate(digest))}
            held = self._find(made.keys(), allow_nonfinite=True)
            computed = [found for digest, found in made.items() if digest not in held]
            between |= made.keys() - held.keys()
            between.update(digest for found in computed for digest in _combined_for(found))
            wanted = {each for found in computed for each in found.needs}
        self._claimed |= between


def _lost(judged: Sequence[Judgement]) -> frozenset[int]:
    """Return the row numbers of outputs that are gone before anything is computed.

    Whole artifacts are restored first. If one replaces the output of a target that is kept nowhere else, the old output
    is gone, unless it was itself restored to another place.
    """
    restored = [each for each in judged if each.verdict is Verdict.RESTORE]
    replaced = {
        standing.row.id
        for each in restored
        if each.description.has_only_its_output
        for standing in each.standings
        if standing.row is not None and standing.verdict is Verdict.RESTORE
    }
    there = {standing.whole.id for each in restored for standing in each.standings if standing.whole is not None}
    return frozenset(replaced - there) if replaced else frozenset()


def _total_read(tensors: Tensors, compute: frozenset[bytes], seen: frozenset[bytes], *, is_partly_there: bool) -> int:
    """Return how many bytes must be read for a file; what several of its tensors read counts once."""
    read: dict[bytes, int] = {}
    for row in tensors.rows:
        read |= _bytes_read(row, tensors.sizes, compute, seen, is_partly_there=is_partly_there)
    return sum(read.values())


def _bytes_read(
    row: TensorRow, sizes: Sequence[int], compute: frozenset[bytes], seen: frozenset[bytes], *, is_partly_there: bool
) -> Mapping[bytes, int]:
    """Return what must be read for a row of a file: sizes by digest."""
    if not is_partly_there or compute.issuperset(row.digests):
        return row.read
    read: dict[bytes, int] = {}
    for place, digest, origins in zip(row.places, row.digests, row.origins, strict=True):
        if digest in compute:
            inputs = list(origins.items())
            read |= [inputs[index] for index, _ in row.terms]
        elif digest not in seen:
            read[digest] = sizes[place]
    return read


def _computed_by(action: FileAction) -> Iterator[Made]:
    """Yield a file's tensors that are computed."""
    compute = action.work.compute
    return (made for made in action.content.made if made.digest in compute)


def _combined_for(made: Made) -> Iterator[bytes]:
    """Yield the digests of the float32 combinations that the operation which makes a tensor reads."""
    return (operand.digest for operand in made.inputs if operand.terms is not None)
