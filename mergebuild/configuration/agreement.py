"""What a configuration must say beside the tensors that are written, so that a client loads exactly these.

A folder gets the configuration of one model, the donor. If the written tensors differ from the donor's (in the number
of tokens, in layers, in the head), members that follow from tensors are changed. If the configuration can't be made to
agree, that is an error before any work, because a client would fill missing tensors with random values or refuse the
folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from mergebuild.configuration.labels import is_of_labels, labelled
from mergebuild.configuration.layers import IN_PLACE, Origins, Stack, counted, layered, stacks
from mergebuild.configuration.parts import Config, config_of, part_of, path_of
from mergebuild.configuration.per_layer import says_layers_apart
from mergebuild.configuration.sizes import is_implied, sized
from mergebuild.configuration.text import Path
from mergebuild.configuration.ties import TIE, Heads, agreed
from mergebuild.configuration.vocabulary import embedding_of, head_of, is_of_tokens

__all__ = ["Agreement", "WrittenTensors", "agreement"]

Shapes = Mapping[str, tuple[int, ...]]
_VOCAB: Final = "vocab_size"
_LISTED: Final = 4
_UNNEEDED: Final = re.compile(
    r"(?:.*\.)?(?:inv_freq|position_ids|masked_bias|num_batches_tracked|cos_cached|sin_cached|rotary_emb\..*"
    r"|attn\.bias|attention\.bias|embed_positions\.weights|logit_scale_buffer)"
)
"""Tensors that clients compute themselves."""


class WrittenTensors(NamedTuple):
    """The tensors written beside a configuration, and those of the donor, spelled in the same way."""

    shapes: Shapes
    """Shapes of the tensors that are written."""
    donor: Shapes
    """Shapes of the tensors of the model whose configuration it is."""
    heads: Heads
    origins: Origins = IN_PLACE
    """Where layers come from that are not where their own models have them."""


class Agreement(NamedTuple):
    """What is done about a configuration: changes to its members, notices, and contradictions that make it an error."""

    changes: Mapping[Path, object]
    notices: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()


def agreement(config: Config, written: WrittenTensors) -> Agreement:
    """Return what is done about a configuration, so that it agrees with what is written."""
    layers = counted(config, written.shapes, written.donor, written.origins)
    sizes = sized(config, written.shapes, written.donor, layers.changes)
    ties = agreed(config, written.heads)
    labels = labelled(config, written.shapes, written.heads.first_config)
    rows = _rows(config, written)
    changes = {**rows, **sizes.changes, **layers.changes, **ties.changes, **labels.changes}
    unlike, written = _unlike(config, written), _in_place(written)
    missing, lost = _missing(config, written)
    told = [_told(config, path, value) for path, value in {**rows, **sizes.changes, **layers.changes}.items()]
    notices = (*told, *sizes.notices, ties.notice, labels.notice, missing)
    wrong = [*sizes.contradictions, *layers.contradictions, ties.contradiction, *_heads(config, written), *lost]
    wrong += [*_reshaped(config, written), *unlike]
    return Agreement(changes, tuple(filter(None, notices)), tuple(filter(None, wrong)))


def _in_place(written: WrittenTensors) -> WrittenTensors:
    """Return what is written, beside a donor that has the layers of stacks as they are written."""
    if not written.origins:
        return written
    moved = {name: shape for name, shape in written.shapes.items() if _is_moved(name, written.origins)}
    kept = {name: shape for name, shape in written.donor.items() if not _is_moved(name, written.origins)}
    return written._replace(donor={**kept, **moved})


def _is_moved(name: str, origins: Origins) -> bool:
    at = layered(name)
    return at is not None and at.stack in origins


def _unlike(config: Config, written: WrittenTensors) -> list[str]:
    """Return what is wrong with layers from elsewhere that have other tensors than the donor's layers.

    If these differ among themselves, the configuration must say of which kind each is.
    """
    wrong: list[str] = []
    for stack in written.origins:
        made, had = (_layers_of(config, each, stack) for each in (written.shapes, written.donor))
        part = config_of(config, part_of(f"{stack}.weight"))
        kinds = set(had.values())
        varies = len(kinds) > 1 and says_layers_apart(part, len(had))
        last, before = (had.get(len(had) - back) for back in (1, 2))
        tail = last if last == before else None  # the first layers may be special, as one of T5 is
        odd = [at for at, kind in made.items() if had.get(at, tail) != kind]
        odd = [at for at in odd if made[at] not in kinds or (len(kinds) > 1 and not varies)]
        if odd:
            wrong.append(
                f"layer {min(odd)} of `{stack}` has other tensors than a model of this configuration has there"
            )
    return wrong


def _layers_of(config: Config, shapes: Shapes, stack: str) -> Mapping[int, frozenset[object]]:
    """Return the tensors of each layer of a stack; with shapes, unless sizes in the configuration tell these."""
    found: dict[int, set[object]] = {}
    for name, shape in shapes.items():
        at = layered(name)
        if at is not None and at.stack == stack and not _UNNEEDED.fullmatch(name):
            found.setdefault(at.number, set()).add((at.rest, () if is_implied(config, name) else shape))
    return {number: frozenset(each) for number, each in found.items()}


def _rows(config: Config, written: WrittenTensors) -> Mapping[Path, object]:
    """Return the changes to the number of tokens, if the architecture is unknown.

    The difference between this number and the rows of the embedding stays as it is: some models have more rows than
    tokens.
    """
    path, said = path_of(config, "text"), config_of(config, "text").get(_VOCAB)
    name, before = embedding_of(written.shapes), embedding_of(written.donor)
    if not isinstance(said, int) or isinstance(said, bool) or name is None or before is None:
        return {}
    if is_implied(config, name):
        return {}
    now = said + written.shapes[name][0] - written.donor[before][0]
    if now == said or now < 1:
        return {}
    found: dict[Path, object] = {(*path, _VOCAB): now}
    if config.get(_VOCAB) == said:
        found[(_VOCAB,)] = now
    return found


def _heads(config: Config, written: WrittenTensors) -> list[str]:
    """Return what is wrong if head and embedding differ in their number of rows, unless the donor's differ as much."""
    pairs = [(embedding_of(each), head_of(each)) for each in (written.shapes, written.donor)]
    gaps = [
        each[head][0] - each[embedding][0] if embedding and head and each[head] and each[embedding] else None
        for each, (embedding, head) in zip((written.shapes, written.donor), pairs, strict=True)
    ]
    embedding, head = pairs[0]
    if embedding is None or head is None or gaps[0] in (None, 0, gaps[1]) or is_implied(config, head):
        return []
    count = f"{written.shapes[embedding][0]} and {written.shapes[head][0]}"
    return [f"`{embedding}` and `{head}` have {count} rows, and one size is said of both"]


def _reshaped(config: Config, written: WrittenTensors) -> list[str]:
    """Return what is wrong with tensors whose shapes differ from the donor's and that no known size explains."""
    found = [
        f"`{name}` is {list(shape)}, and {list(before)} in the model that the configuration is of"
        for name, shape in written.shapes.items()
        if (before := written.donor.get(name, shape)) != shape
        and not is_implied(config, name)
        and not ((is_of_tokens(name) or is_of_labels(name)) and before[1:] == shape[1:])
    ]
    return found if len(found) <= _LISTED else [*found[:_LISTED], f"and {len(found) - _LISTED} more"]


def _missing(config: Config, written: WrittenTensors) -> tuple[str, list[str]]:
    """Return a notice about tensors of the donor that are not written, and what is wrong with leaving them out."""
    lost = _lost(written)
    parts = {part_of(name) for name in lost} - {part_of(name) for name in written.shapes}
    wrong = [
        f"nothing of the part `{part}` is written, and `{'.'.join(path_of(config, part))}` describes one"
        for part in sorted(parts)
        if path_of(config, part)
    ]
    implied = [name for name in lost if is_implied(config, name)]
    if implied:
        more = f" and {len(implied) - 1} more are" if len(implied) > 1 else " is"
        wrong.append(f"`{implied[0]}`{more} not written, and a model of this configuration has it")
    rest = [name for name in lost if name not in implied and part_of(name) not in parts]
    return _left_out(rest), wrong


def _left_out(names: list[str]) -> str:
    """Return the notice about tensors of the donor that are left out; empty if there are none."""
    if not names:
        return ""
    count = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    sentence = f"{count} of the model whose configuration is written, such as `{names[0]}`, are left out"
    return f"{sentence}: a client that needs them draws random values"


def _lost(written: WrittenTensors) -> list[str]:
    """Return the donor's tensors that are not written, except those that are missing because layers were left out."""
    kept, head = stacks(written.shapes), head_of(written.donor)
    return [
        name
        for name in written.donor
        if name not in written.shapes
        and name != head
        and not _UNNEEDED.fullmatch(name)
        and not _is_of_a_layer_left_out(name, kept)
    ]


def _is_of_a_layer_left_out(name: str, kept: Mapping[str, Stack]) -> bool:
    """Return whether a tensor is in a layer that is left out completely, of a stack that is written in part."""
    return any(stack in kept and each.numbers.isdisjoint(kept[stack].numbers) for stack, each in stacks([name]).items())


def _told(config: Config, path: Path, value: object) -> str:
    """Return the notice about a changed member; empty if users need not know."""
    before: object = config
    for key in path:
        before = before.get(key) if isinstance(before, Mapping) else None
    if path[-1] == TIE or isinstance(value, list | dict):
        return ""
    return f"`{'.'.join(path)}` of the configuration is written as {value} and not {before}, as the tensors have it"
