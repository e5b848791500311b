"""Two namings of Stable Diffusion: that of diffusers' folders, and the original one of single files (`ldm`).

made, unknown = to_ldm({"unet": {"conv_in.weight": (320, 4, 3, 3)}})
made["model.diffusion_model.input_blocks.0.0.weight"]     # Renamed((320, 4, 3, 3), (Cut("unet", "conv_in.weight"),))
"""

from __future__ import annotations

from mergebuild.naming.checkpoint import (
    DiffusersPart,
    Kind,
    kind_of,
    kind_of_pipeline,
    parts_of,
    text_encoder_to_ldm,
    to_diffusers,
    to_ldm,
    unet_to_ldm,
    vae_to_ldm,
)
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes, View, view_of

__all__ = [
    "DiffusersPart",
    "Kind",
    "Renamed",
    "RowsOf",
    "Shapes",
    "View",
    "kind_of",
    "kind_of_pipeline",
    "parts_of",
    "text_encoder_to_ldm",
    "to_diffusers",
    "to_ldm",
    "unet_to_ldm",
    "vae_to_ldm",
    "view_of",
]
