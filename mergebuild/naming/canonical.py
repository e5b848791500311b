"""The canonical names of a file's tensors: which parameter each of them is.

The names in a file are one spelling of many. Programs write the same parameter with a wrapper's prefix (`module.`,
`model.diffusion_model.`), under another name (diffusers' instead of the authors'), fused with others (queries, keys and
values in one tensor), or twice (the embedding and the head of a tied model). `canonical` says which parameters a file
holds and of which of its tensors each is made. Everything that merges, selects, adapts or reports uses canonical names.

The rules are data (`rules.py`). A file's family follows from its names and shapes (`templates.py`), and the names of
its parts and modules from the family's rows. A name that no rule covers is kept, after the canonical prefix of its
part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from mergebuild.naming.renamed import Renamed, RowsOf, Shapes
from mergebuild.naming.rules import family, general
from mergebuild.naming.spelled import Claim, PieceOf, Pieces, WholeParameter, claims
from mergebuild.naming.templates import Templates, family_of
from mergebuild.naming.ties import tied

__all__ = ["Canonical", "canonical", "is_constant", "is_first_layer", "is_outdated"]


_WEIGHT: Final = ".weight"


@dataclass(frozen=True, slots=True)
class Canonical:
    """The parameters of a file, by canonical name."""

    made: Mapping[str, Renamed]
    """What each parameter is made of, in the order of the file. A tensor that no rule covers keeps its name."""
    twice: Mapping[str, str] = field(default_factory=dict)
    """Stored tensors that are a parameter which the file holds under another name too: stored name -> that
    parameter."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Parameters that the file does not hold by themselves: canonical name -> the parameter whose values it has."""
    copies: Mapping[str, Renamed] = field(default_factory=dict)
    """For each name in `tied` of which the file holds a second copy: what that copy is made of."""
    family: str = ""
    """The architecture's name in the rules; empty if the rules that apply are general ones."""


def canonical(
    shapes: Shapes,
    facts: Mapping[str, object] | None = None,
    same_place: Mapping[str, str] | None = None,
    of: str = "",
) -> Canonical:
    """Return the canonical names of a file's tensors.

    Args:
        shapes: The tensors' shapes by stored name.
        facts: The folder's `config.json`, parsed; None if there is none.
        same_place: Names of tensors that share their bytes with an earlier one, as pickles store ties -> the earlier
            name.
        of: The family, if it is known.
    """
    if facts is None and not same_place:
        return _of_names(tuple(shapes.items()), of)
    return _found(shapes, facts, same_place, of)


@lru_cache(maxsize=4)
def _of_names(shapes: tuple[tuple[str, tuple[int, ...]], ...], of: str) -> Canonical:
    """Return what follows from names and shapes alone: models that are merged, and the result, mostly have the same."""
    return _found(dict(shapes), None, None, of)


def _found(
    shapes: Shapes, facts: Mapping[str, object] | None, same_place: Mapping[str, str] | None, of: str
) -> Canonical:
    templates = Templates(shapes)
    name = of or family_of(templates, facts)
    if not name:
        found: Mapping[str, Claim] = {
            each: WholeParameter(bare, Renamed(shapes[each], (_all_of(each),))) for each, bare in templates.bare.items()
        }
    else:
        found = claims(templates, name, facts)
    made, twice = _gathered(found)
    ties = tied(made, facts, same_place)
    known = "" if not name or family(name).generic else name
    return Canonical(ties.made, {**twice, **ties.twice}, ties.tied, ties.copies, known)


def is_outdated(name: str, stored: str) -> bool:
    """Return whether a stored name is one that no program writes any more: a new file gets the present name."""
    return any(name.startswith(new) and stored == old + name[len(new) :] for old, new in general().outdated)


def is_constant(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is a constant, by its canonical name.

    Constants are never merged but taken from the first input.

    They are buffers of the noise schedule, and others that follow from the architecture alone, such as causal masks and
    the frequencies of positions.
    """
    rules = general()
    if name in rules.schedule:
        return True
    return name.endswith(rules.constant_ends) and any(each.fits(name, shape) for each in rules.constants)


def is_first_layer(name: str) -> bool:
    """Return whether a tensor is the weight of a layer whose input is an image or its latents.

    Dimension 1 is the input's channels, of which variants of an architecture, such as those for inpainting, have more.
    """
    module, weight = name[: -len(_WEIGHT)], name[-len(_WEIGHT) :]
    if weight != _WEIGHT:
        return False
    known = general()
    return any(
        module == each or (module.endswith(f".{each}") and not any(word in name for word in known.no_first_layers))
        for each in known.first_layers
    )


def _gathered(found: Mapping[str, Claim]) -> tuple[Mapping[str, Renamed], Mapping[str, str]]:
    """Return what each parameter is made of, and the stored tensors whose parameter another tensor holds already."""
    fused = _fused(found)
    made: dict[str, Renamed] = {}
    twice: dict[str, str] = {}
    for stored, claim in found.items():
        for name, renamed in _results(claim, fused):
            known = made.setdefault(name, renamed)
            if (known is not renamed or isinstance(claim, PieceOf)) and all(cut.tensor != stored for cut in known.cuts):
                twice[stored] = name
    _prefer_canonical(found, fused, made, twice)
    return made, twice


def _prefer_canonical(
    found: Mapping[str, Claim], fused: Mapping[str, Renamed], made: dict[str, Renamed], twice: dict[str, str]
) -> None:
    """Of two stored names for one parameter, put the canonical one into `made`, and the other one into `twice`."""
    for name in [stored for stored, name in twice.items() if stored == name and len(made[name].cuts) == 1]:
        (other,) = made[name].cuts
        made[name] = next(renamed for each, renamed in _results(found[name], fused) if each == name)
        del twice[name]
        twice[other.tensor] = name


def _results(claim: Claim, fused: Mapping[str, Renamed]) -> Sequence[tuple[str, Renamed]]:
    """Return the parameters that a stored tensor is, or is a piece of, each with what it is made of."""
    match claim:
        case WholeParameter():
            return (claim,)
        case Pieces(parts):
            return parts
        case PieceOf(name, _, _, _, alone):
            return ((name, fused[name]),) if name in fused else (alone,)


def _fused(found: Mapping[str, Claim]) -> Mapping[str, Renamed]:
    """Return the parameters that are made of several consecutive stored tensors, all of which exist."""
    pieces: dict[str, dict[int, tuple[str, PieceOf]]] = {}
    for stored, claim in found.items():
        if isinstance(claim, PieceOf):
            pieces.setdefault(claim.name, {}).setdefault(claim.place, (stored, claim))
    made: dict[str, Renamed] = {}
    for name, parts in pieces.items():
        ordered = [parts[place] for place in sorted(parts)]
        if renamed := _one_after_another(ordered):
            made[name] = renamed
    return made


def _one_after_another(parts: list[tuple[str, PieceOf]]) -> Renamed | None:
    """Return the parameter that several stored tensors make together.

    None if one is missing or the shapes don't fit.
    """
    row, shapes = parts[0][1].row, [piece.shape for _, piece in parts]
    if len(parts) < len(row.theirs) or not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
        return None
    shares = row.shares or (1,) * len(parts)
    sizes = [shape[0] for shape in shapes]
    if any(size * shares[0] != sizes[0] * share for size, share in zip(sizes, shares, strict=True)):
        return None
    return Renamed((sum(sizes), *shapes[0][1:]), tuple(_all_of(stored) for stored, _ in parts))


def _all_of(stored: str) -> RowsOf:
    return RowsOf("", stored)
