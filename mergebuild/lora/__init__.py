"""LoRA files: which tensors of a model they change, and what each of their own tensors is for. No torch here.

found = match(lora.tensors, {name: info.shape for name, info in model.tensors.items()}, config)
found.deltas["model.diffusion_model.input_blocks.1.1.proj_in.weight"][0].family     # "lora"
found.unmatched                                                                     # what would be lost
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
