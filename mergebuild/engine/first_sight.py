"""First sight: what a group of tensors comes to, now that the bytes of its inputs are hashed. Pure, and without torch.

Each tensor is resolved by the rule that every plan goes by (`key.resolve`): its terms gathered and ordered by digest, a
copy or a step. So it has the digest and the bytes that it would have if all had been hashed before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

from mergebuild.digest import source_tensor_digest
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Copy, Leaf, PassDraft, SeenGroup, SeenTensor, UnseenGroup, UnseenTensor, Way
from mergebuild.key import digest_of, resolve

__all__ = ["SeenWork", "seen"]


class SeenWork(NamedTuple):
    """What is to be done for a group, and what it came to."""

    cluster: Cluster | None
    """None: there is nothing to compute."""
    copies: Sequence[Copy]
    found: SeenGroup


def seen(group: UnseenGroup, checksums: Sequence[bytes]) -> SeenWork:
    """Return what is to be done for a group, given the checksums of its unhashed inputs in their order."""
    hashed = iter(checksums)
    leaves: list[Leaf] = []
    found: list[bytes] = []
    for leaf, shape, checksum in group.inputs:
        found.append(checksum or next(hashed))
        digest = leaf.digest if checksum else source_tensor_digest(leaf.stored, shape, found[-1])
        leaves.append(replace(leaf, digest=digest))
    draft, lying = PassDraft(), {leaf.digest: leaf for leaf in leaves}
    digests = [leaf.digest for leaf in leaves]
    tensors: list[SeenTensor] = []
    for tensor in group.tensors:
        tensors.append(_made(tensor, draft, digests, lying))
        digests.append(tensors[-1].digest)
    return SeenWork(
        _cluster(draft, lying), draft.copies, SeenGroup(tuple(found), tuple(digests[: len(leaves)]), tuple(tensors))
    )


def _made(tensor: UnseenTensor, draft: PassDraft, digests: Sequence[bytes], lying: Mapping[bytes, Leaf]) -> SeenTensor:
    """Add to a draft what makes a tensor; return what it came to."""
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
    draft.make(digest, tensor.dtype, prod(tensor.shape), found.terms)
    read = sum(lying[term].size for term, _ in found.terms if term in lying)
    return SeenTensor(digest, is_computed=True, bytes_read=read)


def _cluster(draft: PassDraft, lying: Mapping[bytes, Leaf]) -> Cluster | None:
    steps = tuple(draft.steps.values())
    used = dict.fromkeys(digest for step in steps for digest, _ in step.terms)
    return Cluster(tuple(lying[digest] for digest in used if digest in lying), steps) if steps else None
