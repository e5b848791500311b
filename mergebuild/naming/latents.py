"""Whose latents an autoencoder makes: those of one size mean other things in another model.

The autoencoders of Stable Diffusion 1 and XL have the same tensors in the same shapes, and what one writes the other
can't read. So it is not their shapes that tell them apart, but what they are part of, or what is said of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from mergebuild.naming.renamed import Shapes
from mergebuild.naming.rules import general

__all__ = ["AUTOENCODER", "latents_of"]

AUTOENCODER: Final = "first_stage_model."
"""What the canonical names of its tensors begin with."""

_FROM_LATENTS: Final = f"{AUTOENCODER}decoder.conv_in.weight"
_CLASS: Final = "AutoencoderKL"
_DEFAULT: Final = 0.18215
"""The `scaling_factor` of a configuration of diffusers that says none."""


def latents_of(
    family: str, shapes: Shapes, facts: Mapping[str, object] | None = None, metadata: Mapping[str, str] | None = None
) -> frozenset[str]:
    """Return whose latents the autoencoder of a model makes, or may make; empty where nothing is known.

    Args:
        family: that of the model, by its canonical names.
        shapes: its tensors, by canonical name.
        facts: the configuration of an autoencoder that is a folder of its own.
        metadata: what a file says of itself.
    """
    known = general().latents
    said = (metadata or {}).get("modelspec.architecture", "")
    factor = (facts or {}).get("scaling_factor", _DEFAULT if (facts or {}).get("_class_name") == _CLASS else None)
    shape = shapes.get(_FROM_LATENTS, ())
    for found in (
        [each for each in known if family in each.families],
        [each for each in known if each.scaling_factor is not None and _is_near(factor, each.scaling_factor)],
        [each for each in known if said.startswith(each.modelspec) and each.modelspec],
        [each for each in known if len(shape) == 4 and shape[1] == each.channels],
    ):
        if found:
            return frozenset(each.title for each in found)
    return frozenset()


def _is_near(value: object, number: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isclose(value, number, rel_tol=1e-4)
