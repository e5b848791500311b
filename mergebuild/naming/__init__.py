"""Names of tensors: which parameter each tensor of a file is, however it is spelled, and how a file would spell it.

Begin with `canonical.py` (from a file's names to canonical ones) and `spelling.py` (the way back). `rules.py` reads the
rules, one file of `data/` per architecture, and `data/README.md` explains their keys; `renamed.py` has the values in
which a tensor is described as made of others. `checkpoint.py` maps Stable Diffusion between diffusers' names and the
original ones.

    found = canonical({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9216, 3072)})
    found.made                      # {"double_blocks.0.img_attn.qkv.weight": Renamed((9216, 3072), ...)}

No file but those of `data/` is opened. May import digests, results, errors and the system.
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
