"""First sight: how the tensors of a group are made, now that the bytes of its inputs are hashed. Pure, without torch.

Each tensor is resolved by the same rule as in plans (`key.resolve`): its terms gathered and sorted by digest; as a copy
or a step. So it has the digest and the bytes that it would have if all sources had been hashed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

from mergebuild.digest import source_tensor_digest
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Copy, Leaf, PassDraft, SeenGroup, SeenTensor, Step, UnseenGroup, UnseenTensor, Way
from mergebuild.key import digest_of, resolve
from mergebuild.methods.shares import is_order_free

__all__ = ["SeenWork", "guessed", "names_of", "seen"]


class SeenWork(NamedTuple):
    """The work for a group, and its results as far as they are known."""

    cluster: Cluster | None
    """None: there is nothing to compute."""
    copies: Sequence[Copy]
    found: SeenGroup


def seen(group: UnseenGroup, checksums: Sequence[bytes]) -> SeenWork:
    """Return the work for a group, given the checksums of its unhashed inputs, in order."""
    leaves, found = _known_leaves(group, checksums)
    draft, lying = PassDraft(), {leaf.digest: leaf for leaf in leaves}
    digests = [leaf.digest for leaf in leaves]
    tensors: list[SeenTensor] = []
    for tensor in group.tensors:
        tensors.append(_made(tensor, draft, digests, lying))
        digests.append(tensors[-1].digest)
    return SeenWork(
        _cluster(draft, lying), draft.copies, SeenGroup(tuple(found), tuple(digests[: len(leaves)]), tuple(tensors))
    )


def _known_leaves(group: UnseenGroup, checksums: Sequence[bytes]) -> tuple[list[Leaf], list[bytes]]:
    """Return the inputs of a group by digest, and their checksums."""
    hashed = iter(checksums)
    leaves: list[Leaf] = []
    found: list[bytes] = []
    for leaf, shape, checksum in group.inputs:
        found.append(checksum or next(hashed))
        digest = leaf.digest if checksum else source_tensor_digest(leaf.stored, shape, found[-1])
        leaves.append(replace(leaf, digest=digest))
    return leaves, found


def guessed(group: UnseenGroup) -> Cluster | None:
    """Return what can be computed while the inputs are hashed, if all of them differ; None if that depends on digests.

    In place of digests there are stand-ins: the index among the inputs, followed by the tensors.
    """
    if not group.tensors or not all(_is_order_free(each, group) for each in group.tensors):
        return None
    leaves = [replace(each.leaf, digest=_stand_in(index)) for index, each in enumerate(group.inputs)]
    steps = [_guessed_step(each, len(leaves) + index) for index, each in enumerate(group.tensors)]
    return Cluster(leaves, steps)


def _guessed_step(tensor: UnseenTensor, index: int) -> Step:
    terms = [(_stand_in(term), share) for term, share in tensor.terms]
    return Step(_stand_in(index), tensor.dtype, prod(tensor.shape), terms, (tensor.place,), name=tensor.name)


def names_of(group: UnseenGroup, known: SeenWork) -> Mapping[bytes, bytes] | None:
    """Return the real digests by the stand-ins of `guessed`, if its results are right; None if not."""
    digests = (*known.found.inputs, *(each.digest for each in known.found.tensors))
    made = {step.digest: step for step in known.cluster.steps} if known.cluster else {}
    if len(set(digests)) < len(digests) or len(made) < len(group.tensors) or known.copies:
        return None
    for tensor, digest in zip(group.tensors, digests[len(group.inputs) :], strict=True):
        terms = {digests[index]: share for index, share in tensor.terms}
        if digest not in made or dict(made[digest].terms) != terms:
            return None
    return {_stand_in(index): digest for index, digest in enumerate(digests)}


def _is_order_free(tensor: UnseenTensor, group: UnseenGroup) -> bool:
    """Whether a tensor is made of different ones, is no copy, and has the same bits in any order of these."""
    indices, shares = [index for index, _ in tensor.terms], tuple(share for _, share in tensor.terms)
    if len(shares) == 1 and shares[0] == 1:
        return indices[0] < len(group.inputs) and group.inputs[indices[0]].leaf.stored != tensor.dtype
    return len(set(indices)) == len(indices) and all(shares) and is_order_free(shares)


def _stand_in(index: int) -> bytes:
    return b"%d" % index


def _made(tensor: UnseenTensor, draft: PassDraft, digests: Sequence[bytes], lying: Mapping[bytes, Leaf]) -> SeenTensor:
    """Add what makes a tensor to a draft; return its result."""
    terms = [(digests[index], share) for index, share in tensor.terms]
    steps = draft.steps
    dtypes = {digest: steps[digest].dtype if digest in steps else lying[digest].stored for digest, _ in terms}
    found = resolve(terms, dtypes, tensor.dtype)
    digest = digest_of(found, tensor.dtype, tensor.shape)
    match draft.put(digest, tensor.place, lying.get(digest)):
        case Way.PLACE:
            return SeenTensor(digest, is_computed=False, bytes_read=0)
        case Way.COPY:
            return SeenTensor(digest, is_computed=False, bytes_read=lying[digest].size)
    draft.make(digest, tensor.dtype, prod(tensor.shape), found.terms, name=tensor.name)
    read = sum(lying[term].size for term, _ in found.terms if term in lying)
    return SeenTensor(digest, is_computed=True, bytes_read=read)


def _cluster(draft: PassDraft, lying: Mapping[bytes, Leaf]) -> Cluster | None:
    steps = tuple(draft.steps.values())
    used = dict.fromkeys(digest for step in steps for digest, _ in step.terms)
    return Cluster(tuple(lying[digest] for digest in used if digest in lying), steps) if steps else None
