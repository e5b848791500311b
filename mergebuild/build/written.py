"""Files that a pass has written at their temporary paths: the results for each, its table, and its faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mergebuild.build.pass_work import Wave
from mergebuild.digest import checksum, file_checksum
from mergebuild.engine.run import PassResult
from mergebuild.engine.work import StepResult
from mergebuild.plan.actions import FileAction
from mergebuild.plan.description import FileContent
from mergebuild.plan.made import Made
from mergebuild.plan.origins import Origins
from mergebuild.store import FRAME, Entry, ScatteredEntry

__all__ = ["WrittenFile", "entries", "made_before", "nonfinite", "undefined", "written_files"]


@dataclass(frozen=True, eq=False, slots=True)
class WrittenFile:
    """The results of a pass for a file that it wrote."""

    path: Path
    steps: Mapping[bytes, StepResult]
    """By digest: the results for tensors that were computed."""
    copied: Mapping[bytes, tuple[bytes, int]]
    """By digest: checksum and number of values that are not finite, for tensors that were copied."""
    computed: int
    bytes_read: int
    seconds: float
    changed: frozenset[str]
    """Sources that changed while they were read."""
    header_size: int
    """The bytes of the room left for the header."""
    faulty: Mapping[bytes, StepResult]
    """By digest: the results for inputs that are rounded first, and have values that are not finite then."""


def written_files(
    wave: Wave,
    done: PassResult,
    changed: frozenset[str],
    seconds: float,
    before: Mapping[bytes, StepResult] = MappingProxyType({}),
) -> Iterator[WrittenFile]:
    """Yield the files that a wave has written.

    `seconds`: for all of them together. `before`: the results for intermediate tensors that were written first.
    """
    bad = {digest: each for digest, each in {**before, **done.steps}.items() if each.nonfinite}
    faulty = {digest: each for digest, each in bad.items() if wave.whereabouts.is_rounded_between(digest)}
    for file in wave.files:
        yield WrittenFile(
            file.output.path,
            done.steps,
            wave.copied,
            file.computed,
            file.bytes_read,
            seconds / len(wave.files),
            changed,
            len(file.output.header),
            faulty,
        )


def made_before(actions: Iterable[FileAction]) -> set[FileAction]:
    """Return the files that are equal to an earlier one."""
    first: dict[tuple[bytes | None, str], FileAction] = {}
    return {each for each in actions if first.setdefault(each.content.data, each) is not each}


def undefined(action: FileAction, steps: Mapping[bytes, StepResult]) -> list[tuple[Made, StepResult]]:
    """Return the tensors for which a method has no value."""
    return [(each, result) for each, result in _results(action, steps) if result.problem]


def nonfinite(action: FileAction, written: WrittenFile, origins: Origins) -> list[tuple[Made, StepResult]]:
    """Return the computed tensors with values that are NaN or Inf, unless these may be written.

    A copy of a virtual target's tensor counts as computed, too; and so do inputs that are rounded first, since what is
    made of them need not show that they overflowed.
    """
    if action.description.allows_nonfinite:
        return []
    found = [
        (each, result)
        for each, result in _results(action, written.steps)
        if result.nonfinite and (not each.is_copy or origins.intermediate(each.digest) is not None)
    ]
    computed = [each for each, _ in _results(action, written.steps)]
    faulty = {below.digest: (below, result) for each in computed for below, result in _faulty(each, written, origins)}
    return [*found, *faulty.values()]


def _faulty(made: Made, written: WrittenFile, origins: Origins) -> Iterator[tuple[Made, StepResult]]:
    """Yield the inputs of a tensor that are rounded first, and have values that are not finite then."""
    for below in _below(made, origins) if written.faulty else ():
        if below.digest in written.faulty:
            yield below, written.faulty[below.digest]


def _below(made: Made, origins: Origins) -> Iterator[Made]:
    """Yield the intermediate tensors that a tensor is made of, directly or not."""
    waiting, seen = [made], set[bytes]()
    while waiting:
        for digest in waiting.pop().needs:
            if digest not in seen:
                seen.add(digest)
                ways = origins.ways(digest)
                yield from ways[:1]
                waiting += ways


def _results(action: FileAction, steps: Mapping[bytes, StepResult]) -> Iterator[tuple[Made, StepResult]]:
    return ((each, steps[each.digest]) for each in action.content.made if each.digest in steps)


def entries(content: FileContent, written: WrittenFile, origins: Origins) -> list[Entry]:
    """Return the table of a written file; first the bytes that follow from the others are added to it."""
    found = []
    for each in content.made:
        info = content.header.tensors[each.name]
        made = written.steps.get(each.digest)
        mark, count = (made.checksum, made.nonfinite) if made else written.copied[each.digest]
        count += sum(result.nonfinite for _, result in _faulty(each, written, origins)) if made else 0
        scattered = None
        if pieces := content.pieces(each.name):
            scattered = ScatteredEntry(pieces, mark)
            with written.path.open("rb") as file:
                mark = file_checksum(file.fileno(), info.begin, info.end)
        found.append(Entry(each.name, info.begin, info.end, each.digest, mark, count, scattered))
    return [*found, *_framed(content, written.path)]


def _framed(content: FileContent, temporary: Path) -> Iterator[Entry]:
    """Write the bytes between the tensors of a file and after the last one, and yield entries for them."""
    if not content.packing.fixed:
        return
    with temporary.open("rb+") as file:
        between = content.packing.finish(file.fileno())
    for offset, some in between:
        known = checksum(some)
        yield Entry(FRAME, offset, offset + len(some), known, known, 0)
