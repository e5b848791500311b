"""Do an unseen group: hash its inputs, make what can be made on the way, and learn what it comes to.

Where no order of digests tells, compiled kernels make the tensors while their inputs are hashed
(`first_sight.guessed`), so that these are read once; what was made is kept if it is what the digests come to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mergebuild import native
from mergebuild.digest import new_checksum, scaled_checksum
from mergebuild.engine import compiled, torch_import
from mergebuild.engine.copying import Copier
from mergebuild.engine.first_sight import SeenWork, guessed, names_of, seen
from mergebuild.engine.jobs import is_compiled
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Outputs
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Leaf, SeenGroup, StepResult, UnseenGroup
from mergebuild.events import Emit, Progress
from mergebuild.system.spans import span

__all__ = ["SeenSteps", "UnseenWorker"]

_PIECE = 1 << 26
"""Bytes hashed between two looks at whether to stop."""

_HEAD = 1 << 12
"""Bytes of tensors that are compared before it is supposed that these are different."""


class SeenSteps(NamedTuple):
    """What came of a group, what came of the steps that were done, and what is left to be computed by torch."""

    found: SeenGroup
    steps: Mapping[bytes, StepResult]
    left: Cluster | None


class UnseenWorker:
    """Does the unseen groups of a pass, in any thread. `awaits_torch`: whether other work of the pass needs it."""

    def __init__(
        self,
        outputs: Outputs,
        mappings: Mappings,
        copier: Copier,
        emit: Emit,
        stop: threading.Event,
        *,
        device: str,
        awaits_torch: bool,
    ) -> None:
        self._outputs = outputs
        self._mappings = mappings
        self._copier = copier
        self._emit = emit
        self._stop = stop
        self._device = device
        self._awaits_torch = awaits_torch

    def run(self, group: UnseenGroup, worker: compiled.CompiledWorker) -> SeenSteps:
        """Hash what is to be known, and do what needs no torch. `worker`: this thread's."""
        unhashed = group.unhashed
        guess = guessed(group)
        if guess is not None and (not is_compiled(guess, self._device) or self._has_twins(unhashed)):
            guess = None
        made, checksums = self._made_as_hashed(group, guess, worker)
        work = seen(group, checksums)
        names = names_of(group, work) if guess is not None else None
        if made and guess is not None and names is None:
            self._outputs.settle()  # what is there was made for nothing: all of it is written anew
            self._emit(Progress(-_bytes_made(guess)))
        self._copier.share(work.copies)
        if names is not None:
            return SeenSteps(work.found, _named(made, names, work), None)
        return self._computed(work, unhashed, worker)

    def _computed(self, work: SeenWork, unhashed: Sequence[Leaf], worker: compiled.CompiledWorker) -> SeenSteps:
        """Compute what a group came to, as far as that needs no torch."""
        cluster = work.cluster
        if cluster is not None and is_compiled(cluster, self._device):
            return SeenSteps(work.found, worker.run(cluster), None)
        if cluster is None or not torch_import.TORCH.is_there.is_set():
            for leaf in unhashed:
                self._mappings.release_all(leaf)
        return SeenSteps(work.found, {}, cluster)

    def _made_as_hashed(
        self, group: UnseenGroup, guess: Cluster | None, worker: compiled.CompiledWorker
    ) -> tuple[Mapping[bytes, StepResult], Sequence[bytes]]:
        """Hash the inputs of a group, and make what is guessed of them on the way, so that they are read once.

        Return what came of the steps, and the checksums.
        """
        if guess is None:
            return {}, [self._checksum(leaf) for leaf in group.unhashed]
        stand_ins = [leaf.digest for leaf, each in zip(guess.leaves, group.inputs, strict=True) if not each.checksum]
        hashes = {digest: native.Hash() for digest in stand_ins}
        made = worker.run(guess, hashes)
        found = zip(group.unhashed, (each.digest() for each in hashes.values()), strict=True)
        return made, [self._with_scales(leaf, checksum) for leaf, checksum in found]

    def _has_twins(self, leaves: Sequence[Leaf]) -> bool:
        """Whether two leaves begin alike: two models share a tensor more often than its first bytes."""
        heads = [
            bytes(self._mappings.view(leaf.location.path, leaf.location.offset, min(_HEAD, leaf.location.size)))
            for leaf in leaves
            if not leaf.location.pieces
        ]
        return len(set(heads)) < len(heads)

    def _checksum(self, leaf: Leaf) -> bytes:
        """Return the checksum of a tensor's bytes; they are in the page cache then for whoever computes with them."""
        running = new_checksum()
        with span("checksum", file=leaf.location.path, offset=leaf.location.offset, bytes=leaf.location.size):
            for piece in self._pieces(leaf):
                if self._stop.is_set():
                    break
                running.update(piece)
        return self._with_scales(leaf, running.digest())

    def _with_scales(self, leaf: Leaf, checksum: bytes) -> bytes:
        """Return the checksum of a tensor from that of its bytes without its scales."""
        return scaled_checksum(checksum, self._checksum(leaf.scale.leaf)) if leaf.scale else checksum

    def _pieces(self, leaf: Leaf) -> Iterator[memoryview | bytearray]:
        """Yield the bytes of a tensor, each piece to be used before the next is asked for.

        Mapped, for whoever computes with them next; read where that must wait for torch: the system call that lets go
        of mapped memory keeps the interpreter, which the import needs, to itself.
        """
        lying = leaf.location
        if lying.pieces:
            for start in range(0, leaf.count, _PIECE // 8):
                yield self._mappings.gathered(lying, start, min(_PIECE // 8, leaf.count - start))
        elif torch_import.TORCH.is_there.is_set() or not self._awaits_torch:
            for start in range(0, lying.size, _PIECE):
                yield self._mappings.view(lying.path, lying.offset + start, min(_PIECE, lying.size - start))
        else:
            yield from self._read(leaf)

    def _read(self, leaf: Leaf) -> Iterator[memoryview]:
        """Yield the bytes of a tensor that lies in one run, read into a block."""
        lying, block = leaf.location, self._outputs.block()
        try:
            for start in range(0, lying.size, len(block.memory)):
                piece = block.memory[: lying.size - start]
                self._mappings.read_into(piece, lying.path, lying.offset + start)
                yield piece
        finally:
            self._outputs.put(block, 0, ())


def _bytes_made(cluster: Cluster) -> int:
    """Return how many bytes a cluster that compiled kernels make has written."""
    return sum(step.count * native.DTYPES[step.dtype][1] * len(step.places) for step in cluster.steps)


def _named(
    made: Mapping[bytes, StepResult], names: Mapping[bytes, bytes], work: SeenWork
) -> Mapping[bytes, StepResult]:
    """Return what came of steps by their digests, not by what stood in for them."""
    cluster = work.cluster
    assert cluster is not None  # else nothing would have its bits
    order = {step.digest: compiled.read_by(step, cluster) for step in cluster.steps}
    return {
        names[stand_in]: each.called(names, order[names[stand_in]])  # in the order of what it reads
        for stand_in, each in made.items()
    }
