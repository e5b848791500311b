"""LoRA files: which tensors of a model a LoRA changes, what its own tensors are for, and which ones a new LoRA has.

Begin with `match.py`, which finds the delta of each of a model's tensors, and `roles.py` (what a tensor's name says).
`names.py` makes all names that modules may have in LoRA files, and `adapter.py` reads `adapter_config.json`.
`products.py` and `plans.py` are about LoRAs that are made of other LoRAs, `modules.py` about those extracted from
models, and `making.py` has what kernels are told of either. Deltas are computed in `methods/kernels/lora.py`; no torch
here.

    found = match(lora.tensors, {name: info.shape for name, info in model.tensors.items()}, config)
    found.deltas["model.diffusion_model.input_blocks.1.1.proj_in.weight"][0].family     # "lora"
    found.unmatched                                                                     # what would be lost

May import formats, names, and what is below them; not the store, which is in the same import layer.
"""

from __future__ import annotations

from mergebuild.lora.adapter import Fact
from mergebuild.lora.configuration import ADAPTER_METADATA, adapter_config, adapter_json, adapter_metadata
from mergebuild.lora.kind import is_lora, is_number, is_of_peft, lacks_scale
from mergebuild.lora.making import DeltaSum, Extraction, Merging, Role, ShapedDelta, SketchWords, shaped
from mergebuild.lora.match import Delta, LoraTensor, Match, Misfit, match
from mergebuild.lora.modules import Module, extractable, is_adapter, is_embedding
from mergebuild.lora.names import StoredModule
from mergebuild.lora.needs import Needs, needs
from mergebuild.lora.products import LoraProduct, Products, products_of
from mergebuild.lora.roles import Factor
from mergebuild.lora.scaling import KeptModule, UnscalableError, kept_modules, scaled, weight_of

__all__ = [
    "ADAPTER_METADATA",
    "Delta",
    "DeltaSum",
    "Extraction",
    "Fact",
    "Factor",
    "KeptModule",
    "LoraProduct",
    "LoraTensor",
    "Match",
    "Merging",
    "Misfit",
    "Module",
    "Needs",
    "Products",
    "Role",
    "ShapedDelta",
    "SketchWords",
    "StoredModule",
    "UnscalableError",
    "adapter_config",
    "adapter_json",
    "adapter_metadata",
    "extractable",
    "is_adapter",
    "is_embedding",
    "is_lora",
    "is_number",
    "is_of_peft",
    "kept_modules",
    "lacks_scale",
    "match",
    "needs",
    "products_of",
    "scaled",
    "shaped",
    "weight_of",
]
