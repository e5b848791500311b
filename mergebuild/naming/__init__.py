"""What parameter each tensor of a file is, however it is spelled, and the two namings of Stable Diffusion.

found = canonical({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9216, 3072)})      # naming.canonical
found.made                      # {"double_blocks.0.img_attn.qkv.weight": Renamed((9216, 3072), ...)}
made, unknown = to_ldm({"unet": {"conv_in.weight": (320, 4, 3, 3)}})           # a pipeline as one checkpoint
made["model.diffusion_model.input_blocks.0.0.weight"]    # Renamed((320, 4, 3, 3), (RowsOf("unet", "conv_in.weight"),))
"""

from __future__ import annotations

from mergebuild.naming.checkpoint import (
    DiffusersPart,
    Kind,
    kind_of,
    kind_of_pipeline,
    parts_of,
    to_diffusers,
    to_ldm,
)
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes, TensorView, view_of

__all__ = [
    "DiffusersPart",
    "Kind",
    "Renamed",
    "RowsOf",
    "Shapes",
    "TensorView",
    "kind_of",
    "kind_of_pipeline",
    "parts_of",
    "to_diffusers",
    "to_ldm",
    "view_of",
]
