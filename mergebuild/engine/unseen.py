"""Does an unseen group: hashes its inputs, makes what can be made meanwhile, and finds its digests.

If the order of digests does not matter, compiled kernels make the tensors while their inputs are hashed
(`first_sight.guessed`), so that these are read once. The results are kept if they are right by the digests.
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
"""Bytes hashed between two checks whether to stop."""

_HEAD = 1 << 12
"""Bytes at the beginning of tensors that are compared: if they differ, the tensors do."""


class SeenSteps(NamedTuple):
    """The results of a group and of the steps that were done, and what is left for torch to compute."""

    found: SeenGroup
    steps: Mapping[bytes, StepResult]
    left: Cluster | None


class UnseenWorker:
    """Does the unseen groups of a pass; any thread may use it.

    `awaits_torch`: whether other work of the pass needs torch.
    """

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
        """Hash the inputs of a group, and do what needs no torch. `worker`: this thread's."""
        unhashed = group.unhashed
        guess = self._guess(group, unhashed)
        made, checksums = self._made_as_hashed(group, guess, worker)
        work = seen(group, checksums)
        names = names_of(group, work) if guess is not None else None
        if made and guess is not None and names is None:
            self._outputs.settle()  # the guess was wrong: everything is written again
            self._emit(Progress(-_bytes_made(guess)))
        self._copier.share(work.copies)
        if names is not None:
            return SeenSteps(work.found, _named(made, names, work), None)
        return self._computed(work, unhashed, worker)

    def _guess(self, group: UnseenGroup, unhashed: Sequence[Leaf]) -> Cluster | None:
        """Return what can be computed while a group is hashed, by compiled kernels; None if it is most likely wrong."""
        guess = guessed(group)
        if guess is not None and (not is_compiled(guess, self._device) or self._has_twins(unhashed)):
            return None
        return guess

    def _computed(self, work: SeenWork, unhashed: Sequence[Leaf], worker: compiled.CompiledWorker) -> SeenSteps:
        """Compute the cluster of a group, if that needs no torch."""
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
        """Hash the inputs of a group, and meanwhile make the guessed cluster, so that they are read once.

        Returns the results of its steps, and the checksums.
        """
        if guess is None:
            return {}, [self._checksum(leaf) for leaf in group.unhashed]
        stand_ins = [leaf.digest for leaf, each in zip(guess.leaves, group.inputs, strict=True) if not each.checksum]
        hashes = {digest: native.Hash() for digest in stand_ins}
        made = worker.run(guess, hashes)
        found = zip(group.unhashed, (each.digest() for each in hashes.values()), strict=True)
        return made, [self._with_scales(leaf, checksum) for leaf, checksum in found]

    def _has_twins(self, leaves: Sequence[Leaf]) -> bool:
        """Whether two leaves begin with the same bytes: if so, they are most likely the same tensor of two models."""
        heads = [
            bytes(self._mappings.view(leaf.location.path, leaf.location.offset, min(_HEAD, leaf.location.size)))
            for leaf in leaves
            if not leaf.location.pieces
        ]
        return len(set(heads)) < len(heads)

    def _checksum(self, leaf: Leaf) -> bytes:
        """Return the checksum of a tensor's bytes, which are then in the page cache for computing."""
        running = new_checksum()
        with span("checksum", file=leaf.location.path, offset=leaf.location.offset, bytes=leaf.location.size):
            for piece in self._pieces(leaf):
                if self._stop.is_set():
                    break
                running.update(piece)
        return self._with_scales(leaf, running.digest())

    def _with_scales(self, leaf: Leaf, checksum: bytes) -> bytes:
        """Return the checksum of a scaled tensor, given that of its bytes without the scales."""
        return scaled_checksum(checksum, self._checksum(leaf.scale.leaf)) if leaf.scale else checksum

    def _pieces(self, leaf: Leaf) -> Iterator[memoryview | bytearray]:
        """Yield the bytes of a tensor; each piece must be used before the next is asked for.

        They are mapped, for computing afterwards. But if that must wait for torch, they are read: the system call that
        releases mapped memory holds the interpreter's lock, which the import needs.
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
        """Yield the bytes of a contiguous tensor, read into a block."""
        lying, block = leaf.location, self._outputs.block()
        try:
            for start in range(0, lying.size, len(block.memory)):
                piece = block.memory[: lying.size - start]
                self._mappings.read_into(piece, lying.path, lying.offset + start)
                yield piece
        finally:
            self._outputs.put(block, 0, ())


def _bytes_made(cluster: Cluster) -> int:
    """Return how many bytes a cluster with compiled kernels has written."""
    return sum(step.count * native.DTYPES[step.dtype][1] * len(step.places) for step in cluster.steps)


def _named(
    made: Mapping[bytes, StepResult], names: Mapping[bytes, bytes], work: SeenWork
) -> Mapping[bytes, StepResult]:
    """Return the results of steps by their real digests, instead of stand-ins."""
    cluster = work.cluster
    assert cluster is not None  # as the guess was right
    order = {step.digest: compiled.read_by(step, cluster) for step in cluster.steps}
    return {
        names[stand_in]: each.called(names, order[names[stand_in]])  # in the order of what it reads
        for stand_in, each in made.items()
    }
