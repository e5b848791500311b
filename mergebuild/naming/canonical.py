"""The canonical names of a file's tensors: what parameter each of them is.

A file's names are spelling. Programs write the same parameter under a wrapper (`module.`, `model.diffusion_model.`),
under another name (diffusers' for the authors'), fused with its neighbours (queries, keys and values in one tensor), or
twice (the embedding and the head of a tied model). `canonical` says which parameters a file holds, and of which of its
tensors each is made; everything that merges, selects, adapts or reports works on these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergebuild.naming.renamed import Renamed, RowsOf, Shapes

__all__ = ["Canonical", "canonical"]


@dataclass(frozen=True, slots=True)
class Canonical:
    """The parameters of a file, by canonical name."""

    made: Mapping[str, Renamed]
    """What each parameter is made of, in the order of the file. A tensor of no known name keeps its own."""
    twice: Mapping[str, str] = field(default_factory=dict)
    """By stored name, the parameter that it is, where the file holds that under another name already."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """By canonical name, the parameter whose values it has, where the file does not hold it by itself."""
    family: str = ""
    """What the rules call the architecture; empty where no rule is of it alone."""


def canonical(
    shapes: Shapes, facts: Mapping[str, object] | None = None, same_place: Mapping[str, str] | None = None
) -> Canonical:
    """Return the canonical names of a file's tensors.

    Args:
        shapes: the tensors' shapes by stored name.
        facts: `config.json` of the folder, parsed; None where there is none.
        same_place: names that share their bytes with an earlier one, as pickles store ties, and that name.
    """
    del facts, same_place
    return Canonical({name: Renamed(shape, (RowsOf("", name),)) for name, shape in shapes.items()})
