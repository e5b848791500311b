"""Which model's latents an autoencoder makes: latents of equal shape mean different things for different models.

The autoencoders of Stable Diffusion 1 and XL have the same tensors with the same shapes, but can't read each other's
latents. So they are told apart by the model that they are part of, or by a configuration or metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from mergebuild.naming.renamed import Shapes
from mergebuild.naming.rules import general

__all__ = ["AUTOENCODER", "latents_of"]

AUTOENCODER: Final = "first_stage_model."
"""The prefix of an autoencoder's canonical names."""

_FROM_LATENTS: Final = f"{AUTOENCODER}decoder.conv_in.weight"
_CLASS: Final = "AutoencoderKL"
_DEFAULT: Final = 0.18215
"""The `scaling_factor` in diffusers if the configuration has none."""


def latents_of(
    family: str, shapes: Shapes, facts: Mapping[str, object] | None = None, metadata: Mapping[str, str] | None = None
) -> frozenset[str]:
    """Return the models whose latents a model's autoencoder may make; empty if nothing is known.

    Args:
        family: The family of the model in the rules.
        shapes: Shapes of its tensors by canonical name.
        facts: The configuration, if the autoencoder is a folder of its own.
        metadata: The metadata of the file.
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
