"""`why --tensor`: what one tensor of a target follows from, beside what it was built from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mergebuild.errors import UsageError, did_you_mean
from mergebuild.plan.built_keys import BuiltKeys, packed_keys
from mergebuild.plan.description import Description
from mergebuild.plan.explanation import ExplainedTensor, explained, labelled
from mergebuild.plan.origins import Origins
from mergebuild.results.looks import TensorWhy
from mergebuild.store import Ledger

__all__ = ["tensor_why"]


def tensor_why(description: Description, origins: Origins, ledger: Ledger, tensor: str) -> TensorWhy:
    """Return what a tensor of a target follows from, and what it was built from if that is recorded.

    `description`: of the target, with hashed sources; `tensor`: its canonical name, or its name in the target's files.

    Raises:
        UsageError: neither the target nor its last build has such a tensor, or it contains several parameters.
    """
    tensor = _parameter(description, tensor)
    assert description.tensors is not None  # its sources are hashed
    now = BuiltKeys.of(packed_keys(description.tensors, description.intermediates), description.tensors.artifact)
    packed, record = ledger.keys(description.name), ledger.record(description.name)
    built = BuiltKeys.of(packed, record.artifact) if packed and record else None
    labels = labelled(  # a tensor has the same name in both columns
        _labels(now.owners(tensor) if now else (), built.owners(tensor) if built else (), origins),
        _labels(now.owners() if now else (), built.owners() if built else (), origins),
    )
    before, after = (_described(each, tensor, labels) for each in (built, now))
    if before is None and after is None:
        hint = did_you_mean(
            tensor,
            description.blueprint.specs,
            otherwise=f"`mergebuild inspect --tensors {description.name}` lists them",
        )
        raise UsageError.one("unknown-tensor", f"target `{description.name}` has no tensor `{tensor}`", help=hint)
    if record is None:
        note = "never built"
    elif built is None:
        note = "built by an earlier version, which did not record what its tensors followed from"
    elif before is None:
        note = "its last build had no such tensor"
    else:
        note = "" if after is not None else "the mergefile makes no such tensor now"
    return explained(tensor, before, after, note)


def _labels(
    now: Iterable[tuple[bytes, str, str]], built: Iterable[tuple[bytes, str, str]], origins: Origins
) -> Iterator[tuple[bytes, str]]:
    """Yield names for digests: of inputs as they are `now`, and of others as they were when the target was `built`.

    To which tensor a digest belongs now is not taken from the key that is explained: a key with two inputs mixed up
    would then explain itself wrongly, too.
    """
    known: set[bytes] = set()
    for digest, owner, tensor in now:
        if origins.digest(owner, tensor) == digest:
            yield digest, origins.label(owner, tensor)
        elif source := origins.source_of(digest):
            yield digest, origins.label(*source)
        known.add(digest)
    yield from ((digest, origins.label(owner, tensor)) for digest, owner, tensor in built if digest not in known)


def _parameter(description: Description, tensor: str) -> str:
    """Return the canonical name of a tensor.

    Raises:
        UsageError: it contains several parameters.
    """
    blueprint = description.blueprint
    found = blueprint.spelling.aliases.get(tensor, (blueprint.tied.get(tensor, tensor),))
    if len(found) > 1:
        raise _several(description.name, tensor, found)
    return found[0]


def _several(target: str, tensor: str, parameters: Sequence[str]) -> UsageError:
    return UsageError.one(
        "several-parameters",
        f"`{tensor}` of target `{target}` is {len(parameters)} parameters, each made by itself",
        rows=parameters[:8],
        help="name one of them",
    )


def _described(keys: BuiltKeys | None, tensor: str, labels: Mapping[bytes, str]) -> ExplainedTensor | None:
    key = keys.key(tensor) if keys else None
    return ExplainedTensor(key, keys.intermediate, labels) if keys and key else None
