"""The compiled methods by name. A family's module is imported when one of its methods is first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from mergebuild.methods.compiled.method import CompiledMethod

__all__ = ["FAMILIES", "compiled_method"]

FAMILIES = {
    **dict.fromkeys(("train_difference", "add_opposite", "add_strict_opposite"), "elementwise"),
    **dict.fromkeys(("similarity_add_difference", "max", "clamp", "nearswap", "ram", "adjust"), "elementwise"),
    **dict.fromkeys(("ramplus_tl", "multiply_difference", "geometric", "multiply_quotient"), "elementwise"),
    **dict.fromkeys(("plus_random", "dropout"), "elementwise"),
    **dict.fromkeys(("tensor_sum", "tensor_sum2", "extract", "cosine_gate"), "rows"),
    "top_k_tensor_sum": "spectra",
    **dict.fromkeys(("ties_sum_extended", "ties_sum_with_dropout"), "ties_sums"),
    **dict.fromkeys(("ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties"), "task_vectors"),
    **dict.fromkeys(("della", "della_linear"), "task_vectors"),
    **dict.fromkeys(("sce", "arcee_fusion", "topk_mask"), "importance"),
    **dict.fromkeys(("slerp", "nuslerp", "multislerp", "karcher", "model_stock", "add_perpendicular"), "gram"),
    **dict.fromkeys(("norm_direction", "geometric_median", "euclidean_add_difference"), "gram"),
}
"""By method, the module of this folder that has its compiled form."""


@cache
def compiled_method(name: str) -> CompiledMethod | None:
    """Return the compiled form of a method; None if it has none."""
    family = FAMILIES.get(name)
    if family is None:
        return None
    found: CompiledMethod = import_module(f"mergebuild.methods.compiled.{family}").COMPILED[name]
    return found
