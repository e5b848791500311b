"""The parts of models: what people call them, and which part of another model a file is or holds.

A text encoder or autoencoder may be a file of its own, or a part of a whole checkpoint under other names. The rules say
of each part its *kind*: the family of files that hold this part alone. So a part of one model can be taken from any
file that holds a part of its kind: alone, in a checkpoint of the same family, or in one of another family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Final, NamedTuple

from mergebuild.naming.aliases import part_of
from mergebuild.naming.canonical import canonical
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes
from mergebuild.naming.rules import Part, family
from mergebuild.naming.templates import Templates, family_of

__all__ = ["PlacedPart", "components", "family_in", "parts_called", "parts_of_kind", "place", "prefixes_of_new"]

_TEXT_ENCODER: Final = "text_encoder"
_EMBEDDINGS: Final = ("token_embedding.weight", "shared.weight", "embed_tokens.weight")
"""The ends of names of matrices with a row for each token."""


@dataclass(frozen=True, slots=True)
class PlacedPart:
    """Tensors of a file under the names of the model that they are for."""

    made: Mapping[str, Renamed] = field(default_factory=dict)
    """What each tensor is made of, by its name in the model; cuts refer to the file's canonical names."""
    left: tuple[str, ...] = ()
    """The file's tensors that are not in the part that the file is."""
    doubtful: tuple[str, ...] = ()
    """If the file could be several parts of the model: what these are called."""

    @property
    def is_same(self) -> bool:
        """Whether every tensor keeps its name."""
        return all(each.is_whole and each.cuts[0].tensor == name for name, each in self.made.items())


def family_in(shapes: Shapes) -> str:
    """Return the family of some tensors; empty if no rule covers them."""
    return family_of(Templates(shapes))


def components(of: str) -> Mapping[str, re.Pattern[str]]:
    """Return the parts of a family by their names for people, each as the pattern of how its canonical names begin.

    These are the names in the rules (`clip_l`, `t5xxl`), other names in use (`t5`), and the folders of diffusers'
    pipelines. `text_encoder` is all text encoders together.
    """
    return _components(of) if of else {}


@cache
def _components(of: str) -> Mapping[str, re.Pattern[str]]:
    parts = _parts(of)
    if not any(part.kind or part.pipeline for part in parts) or (_is_alone(of) and len(parts) > 1):
        return {}
    named: dict[str, list[Part]] = {}
    encoders = [part for part in parts if part.pipeline.startswith(_TEXT_ENCODER)]
    if encoders:
        named[_TEXT_ENCODER] = encoders
    for part in parts:
        for word in (part.name, *part.called):
            named.setdefault(word, [part])
    for part in parts:
        if part.pipeline:
            named.setdefault(part.pipeline, [part])
    return {word: _pattern(some, parts) for word, some in named.items()}


def _pattern(some: Sequence[Part], parts: Sequence[Part]) -> re.Pattern[str]:
    """Return the pattern that finds the names of `some` parts among all `parts`."""
    prefixes = [part.prefix for part in some]
    if all(prefixes):
        return re.compile(f"^(?:{'|'.join(map(re.escape, prefixes))})")
    others = [part.prefix for part in parts if part.prefix and part.prefix not in prefixes]
    return re.compile(f"^(?!{'|'.join(map(re.escape, others))})" if others else "")


def parts_called(of: str, word: str, pattern: re.Pattern[str]) -> tuple[Part, ...]:
    """Return the parts of a family that a component is, given its name and the pattern of its tensors."""
    if not of:
        return ()
    return tuple(
        part
        for part in _parts(of)
        if (pattern.search(part.prefix) if part.prefix else word in {part.name, *part.called, part.pipeline})
    )


def parts_of_kind(of: str, other: str) -> tuple[Part, ...]:
    """Return the parts of a family that a model of another may hold, if one of the two is such a part alone."""
    if not of or not other or of == other:
        return ()
    mine, theirs = _parts(of), _parts(other)
    kinds = {part.kind for part in theirs if part.kind} if _is_alone(of) else {other} if _is_alone(other) else set()
    return tuple(part for part in mine if part.kind in kinds)


def _is_alone(of: str) -> bool:
    return _parts(of)[0].kind == of


def prefixes_of_new(of: str, new: Iterable[str], stored: Mapping[str, str]) -> Mapping[str, str]:
    """Return the prefixes that a file would use for parts that it lacks, by canonical prefix; only those that differ.

    Args:
        of: The file's family.
        new: The tensors that are added to it, by canonical name.
        stored: The stored names of its own tensors, by canonical name.
    """
    lacking = {part.prefix: part for name in new if (part := part_of(of, name)) is not None and part.prefix}
    words = {name.partition(".")[0] for name in stored.values()}
    found: dict[str, str] = {}
    for prefix, part in lacking.items():
        if not any(name.startswith(prefix) for name in stored) and (written := _prefix_of_new(part, words)) != prefix:
            found[prefix] = written
    return found


def _prefix_of_new(part: Part, words: Collection[str]) -> str:
    """Return the prefix of a part that is added to a file whose stored names begin with these words."""
    alone = _parts(part.kind)[0] if part.kind else part
    others = part.prefixes if {*part.inside} <= {*alone.inside} else ()
    beside = (each for each in others if each.partition(".")[0] in words and each != f"{part.pipeline}.")
    return next(beside, part.written or part.prefix)


def _parts(of: str) -> tuple[Part, ...]:
    return family(of).parts


class _HeldPart(NamedTuple):
    """A part that a file holds."""

    kind: str
    prefix: str
    """The prefix of its names in the file."""
    shapes: Shapes
    """Shapes of its tensors, by name without the prefix."""
    is_alone: bool
    """Whether the file consists of this part alone."""


def place(own: Shapes, of: str, wanted: Iterable[Part], there: Shapes) -> PlacedPart:
    """Return the tensors of a file that are certain parts of a model, under the model's names.

    Args:
        own: Shapes of the file's tensors by canonical name.
        of: The family of the model.
        wanted: The parts.
        there: Shapes of the model's tensors by canonical name; it may lack those of the parts.
    """
    family_of_own = family_in(own)
    held = list(_held(own, family_of_own))
    made: dict[str, Renamed] = {}
    rest: list[Part] = []
    for part in wanted:
        found = _with_its_names(part, own, of, family_of_own)
        made |= found
        if not found:
            rest.append(part)
    doubtful = _take_held(held, rest, of, there, made)
    is_alone = any(each.is_alone for each in held)
    if not made and not family_of_own:
        made = _by_names(own, rest, there)
        is_alone = bool(made)
    if not is_alone or not made:
        return PlacedPart(made, (), doubtful)
    used = {cut.tensor for renamed in made.values() for cut in renamed.cuts}
    silent = tuple(each for one in held for part in _parts(one.kind) for each in (*part.outside, *part.spare))
    return PlacedPart(made, tuple(name for name in own if name not in used and not name.startswith(silent)), doubtful)


def _take_held(
    held: Iterable[_HeldPart], rest: list[Part], of: str, there: Shapes, made: dict[str, Renamed]
) -> tuple[str, ...]:
    """Move the parts that a file holds from `rest` to `made`.

    Returns:
        The name of another part that the file may hold as well, if there is one.
    """
    doubtful: tuple[str, ...] = ()
    for each in held:
        choice = _choices(each, rest, of, there) if not made or not each.is_alone else []
        if len(choice) == 1:
            made |= _as_part(each, choice[0], of, there)
            rest.remove(choice[0])
        doubtful = doubtful or tuple((*part.called, part.name)[0] for part in choice[1:] and choice)
    return doubtful


def _with_its_names(part: Part, own: Shapes, of: str, family_of_own: str) -> Mapping[str, Renamed]:
    """Return the tensors of a file that already have a part's names, or its prefix in other files."""
    if not part.prefix:
        same = {name: shape for name, shape in own.items() if part_of(of, name) == part} if family_of_own == of else {}
        return {name: Renamed(shape, (RowsOf("", name),)) for name, shape in same.items()}
    prefixes = (part.prefix, *part.prefixes)
    found = next((each for each in prefixes if any(name.startswith(each) for name in own)), None)
    if found is None:
        return {}
    return canonical({name: shape for name, shape in own.items() if name.startswith(found)}, of=of).made


def _held(own: Shapes, of: str) -> Iterator[_HeldPart]:
    """Yield the parts of a file that may be parts of other models."""
    parts = [part for part in _parts(of) if part.kind] if of else []
    is_alone = bool(parts) and _is_alone(of)
    for part in parts:
        prefix = "" if is_alone else part.prefix
        shapes = {name[len(prefix) :]: shape for name, shape in own.items() if part_of(of, name) == part}
        if shapes:
            yield _HeldPart(part.kind, prefix, shapes, is_alone)


def _choices(held: _HeldPart, parts: Sequence[Part], of: str, there: Shapes) -> Sequence[Part]:
    """Return the parts that one held by a file may be; a single one if that can be decided.

    A part that the model has is recognized by its shapes.
    """
    found = [part for part in parts if part.kind == held.kind]
    absent = [part for part in found if not _is_in(part, there)]
    fitting = [part for part in found if part not in absent and _fits(held, part, of, there)]
    if fitting:
        return _narrowed(
            fitting, lambda part: _covers(held, part, of, there), lambda part: _is_marked(held, part, found)
        )
    return _choices_by_width(held, found, absent)


def _choices_by_width(held: _HeldPart, found: Sequence[Part], absent: Sequence[Part]) -> Sequence[Part]:
    """Return which of the parts `found`, of the kind of the one held, that one may be if no shapes of the model fit.

    A part that the model lacks (`absent`) is recognized by its width, which only works for models of real size, or by
    tensors that others of its kind lack. So is a file of a part alone that fits nowhere, which is refused later.
    """
    unlike = list({(part.width, part.marks): part for part in reversed(absent)}.values())[::-1]
    of_width = [part for part in unlike if part.width == _width(held)]
    if of_width or not held.is_alone:
        return of_width
    return _narrowed(unlike or found, lambda part: _is_marked(held, part, found))


def _narrowed(parts: Sequence[Part], *tests: Callable[[Part], bool]) -> Sequence[Part]:
    """Return the parts that pass some tests.

    A test counts only if several parts are left and at least one passes it.
    """
    for test in tests:
        if len(parts) > 1:
            parts = [part for part in parts if test(part)] or parts
    return parts


def _is_in(part: Part, there: Shapes) -> bool:
    return any(name.startswith(part.prefix) for name in there)


def _covers(held: _HeldPart, part: Part, of: str, there: Shapes) -> bool:
    """Whether a held part has as many tensors as a part of the model."""
    return sum(name.startswith(part.prefix) for name in there) == len(_as_part(held, part, of, there))


def _is_marked(held: _HeldPart, part: Part, others: Sequence[Part]) -> bool:
    """Whether a held part has the marks of `part`, or no marks if `part` has none."""
    marks = tuple(mark for each in others for mark in each.marks)
    return any(name.startswith(marks) for name in held.shapes) is bool(part.marks)


def _fits(held: _HeldPart, part: Part, of: str, there: Shapes) -> bool:
    """Whether most elements of a model's part are in tensors with the same shapes in the held part."""
    made = _as_part(held, part, of, there)
    sizes = [(prod(each.shape), each.shape == there[name]) for name, each in made.items() if name in there]
    return 2 * sum(size for size, is_equal in sizes if is_equal) > sum(size for size, _ in sizes)


def _width(held: _HeldPart) -> int:
    """Return how many columns the matrix with a row for each token has; 0 if there is none."""
    matrices = (shape for name, shape in held.shapes.items() if name.endswith(_EMBEDDINGS))
    return next((shape[1] for shape in matrices if len(shape) == 2), 0)


def _as_part(held: _HeldPart, part: Part, of: str, there: Shapes) -> Mapping[str, Renamed]:
    """Return the tensors that a held part becomes as `part` of the model."""
    spelled = {part.prefix + name: shape for name, shape in held.shapes.items()}
    spare = tuple(part.prefix + each for each in part.spare)
    is_there = _is_in(part, there)
    made: dict[str, Renamed] = {}
    for name, renamed in canonical(spelled, of=of).made.items():
        is_spare = is_there and name not in there and all(cut.tensor.startswith(spare) for cut in renamed.cuts)
        is_inside = name.startswith(part.prefix) and name[len(part.prefix) :].startswith(part.inside or ("",))
        if (is_inside or name in there) and not is_spare:
            cuts = (cut._replace(tensor=held.prefix + cut.tensor[len(part.prefix) :]) for cut in renamed.cuts)
            made[name] = Renamed(renamed.shape, tuple(cuts))
    return made


def _by_names(own: Shapes, parts: Sequence[Part], there: Shapes) -> dict[str, Renamed]:
    """Return the tensors of a file of unknown family that have the names of a model's part, without its prefix."""
    for part in parts:
        shared = [name for name in own if part.prefix and part.prefix + name in there]
        if 2 * len(shared) > len(own):
            return {part.prefix + name: Renamed(own[name], (RowsOf("", name),)) for name in shared}
    return {}
