"""How each method of the catalog is tested: arguments, and which laws of all methods don't hold for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kernel_cases import call_of

from mergebuild.methods.call import Call
from mergebuild.methods.catalog import METHODS

__all__ = ["TRIALS", "Given", "Trial", "call_for", "count_for"]

Given = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """How one method is tested."""

    settings: Sequence[Given] = ({},)
    """Arguments, a mapping per test; others are the row's defaults. `has_base` False leaves out an optional base."""
    models: int = 3
    not_idempotent: str = ""
    """Why equal inputs do not give the same tensor; empty if they do."""
    rounds: str = ""
    """Why they give it only up to rounding; empty if exactly."""
    symmetric: tuple[str, ...] = ()
    """Inputs that can be exchanged without changing the result."""
    evenly: Given = field(default_factory=dict)
    """The arguments with which they can be exchanged."""
    line: str = ""
    """Why it treats a tensor without dimensions differently from one with one element; empty if it doesn't."""
    tensor: str = "block.0.weight"
    """The name of the tensor, for methods that depend on names."""


W = [1.0, 0.5, 0.75]
SIGNED = [1.0, 0.5, -0.75]
NOT_A_MEAN = "its coefficients do not add up to 1"

TRIALS: Mapping[str, Trial] = {
    # linear
    "weighted_sum": Trial([{"alpha": 0.3}, {"alpha": 1.4}], symmetric=("a", "b"), evenly={"alpha": 0.5}),
    "add_difference": Trial([{"alpha": 1}, {"alpha": -0.7}]),
    "sum_twice": Trial([{"alpha": 0.3, "beta": 0.6}]),
    "triple_sum": Trial([{"alpha": 0.3, "beta": 0.6}], symmetric=("b", "c"), evenly={"alpha": 0.2, "beta": 0.2}),
    "linear": Trial([{"weight": W}, {"weight": [1, 2, -0.5]}], symmetric=("models",)),
    "task_arithmetic": Trial([{"weight": SIGNED}, {"weight": W, "normalize": True}], symmetric=("models",)),
    "block_mix": Trial([{"weight": [0.3, 0.1, -0.2]}], symmetric=("models",)),
    "weighted_subtraction": Trial([{"alpha": 0.3, "beta": 0.6}]),
    "subtract": Trial(not_idempotent=NOT_A_MEAN),
    "add": Trial(not_idempotent=NOT_A_MEAN, symmetric=("a", "b")),
    "scale": Trial([{"alpha": 0.3}], not_idempotent=NOT_A_MEAN),
    "copy": Trial(),
    "fallback": Trial(),
    "scale_self": Trial([{"alpha": 0.3}], not_idempotent=NOT_A_MEAN),
    "replace": Trial([{"alpha": 0.3}], not_idempotent=NOT_A_MEAN),
    "adjust": Trial(
        [{"in": 2}], tensor="model.diffusion_model.input_blocks.0.0.weight", not_idempotent="it changes its only input"
    ),
    # elementwise
    "train_difference": Trial([{"alpha": 1}, {"alpha": -0.7}]),
    "add_opposite": Trial([{"alpha": 1}, {"alpha": -0.7}]),
    "add_strict_opposite": Trial([{"alpha": 1}, {"alpha": -0.7}]),
    "similarity_add_difference": Trial([{"alpha": 0.3, "beta": 0.6}, {"alpha": 1, "beta": 0}]),
    "multiply_difference": Trial(
        [{"alpha": 0.3, "beta": 0.6}, {"alpha": 1, "beta": 0.3}, {"alpha": 0, "beta": 1}],
        symmetric=("a", "b"), evenly={"alpha": 0.5, "beta": 0.5},
    ),
    "geometric": Trial(
        [{"alpha": 0.3}], rounds="powers are rounded", symmetric=("a", "b"), evenly={"alpha": 0.5}
    ),
    "multiply_quotient": Trial([{"alpha": 0.3}, {"alpha": 1}]),
    "max": Trial(symmetric=("a", "b")),
    "clamp": Trial([{}, {"stiffness": 0.3}, {"stiffness": 1}], symmetric=("models",)),
    "nearswap": Trial([{"t": 0.01}, {"t": 0.5}]),
    "ram": Trial([{}, {"epsilon": 0.05}], symmetric=("models",)),
    "ramplus_tl": Trial([{}, {"epsilon": 0.05, "r": -2, "alpha": 5}], symmetric=("models",)),
    "plus_random": Trial([{"alpha": 0.3, "seed": 5}], not_idempotent="noise is added"),
    "dropout": Trial([{"seed": 5}, {"probability": 0.4, "rescale": 0.5, "seed": 5}]),
    # from dot products
    "slerp": Trial(
        [{"t": 0.3}, {"t": 1.25}, {"t": 0.3, "magnitude": "lerp"}], symmetric=("a", "b"), evenly={"t": 0.5}
    ),
    "nuslerp": Trial(
        [
            {"weight": [1, 2]}, {"weight": [1, 2], "has_base": False}, {"weight": [1, -0.25], "per": "row"},
            {"weight": [1, 0.5], "per": "column"}, {"weight": [1, 0.5], "per": "column", "has_base": False},
        ],
        models=2, symmetric=("models",),
    ),
    "multislerp": Trial(
        [{"weight": W}, {"weight": W, "has_base": False}, {"weight": SIGNED, "linear_fallback": True}],
        symmetric=("models",),
    ),
    "karcher": Trial([{}, {"weight": W}, {"max_iter": 0}], symmetric=("models",)),
    "model_stock": Trial(
        [{}, {"clamp": False}, {"compat": "mergekit"}, {"per": "row"}, {"per": "row", "pairs": "adjacent"}],
        symmetric=("models",), evenly={"pairs": "all"},
    ),
    "add_perpendicular": Trial([{}, {"alpha": -0.7}]),
    "norm_direction": Trial([{"alpha": 0.3}], symmetric=("a", "b"), evenly={"alpha": 0.5}),
    "geometric_median": Trial([{}, {"maxiter": 0}], symmetric=("models",)),
    "euclidean_add_difference": Trial([{"alpha": 0.3}], symmetric=("a", "b"), evenly={"alpha": 0.5}),
    # task vectors
    "ties": Trial(
        [
            {"weight": 1, "density": 0.3}, {"weight": SIGNED, "density": [0.3, 0.01, 0.9], "lambda": 1.5},
            {"weight": SIGNED, "density": [0.5, 1, 0], "normalize": False, "rescale": "l1"},
            {"weight": W, "density": 0.6, "rescale": "1/p", "vote": "count", "zero_vote": "none", "average": "count"},
        ],
        symmetric=("models",),
    ),
    "dare_linear": Trial(
        [{"weight": SIGNED, "density": [0.3, 0.5, 1], "seed": 7}, {"weight": 1, "density": 0.4, "seed": 7,
         "compat": "mergekit"}],
    ),
    "dare_ties": Trial(
        [{"weight": SIGNED, "density": [0.3, 0.5, 1], "seed": 7},
         {"weight": 1, "density": 0.6, "seed": 7, "rescale": "l1", "normalize": True}],
    ),
    "breadcrumbs": Trial(
        [{"weight": W, "density": 0.7, "gamma": 0.1}, {"weight": SIGNED, "density": [0.5, 0.9, 0.3],
         "gamma": [0.1, 0.5, 0], "rescale": "l1"}],
        symmetric=("models",),
    ),
    "breadcrumbs_ties": Trial(
        [{"weight": SIGNED, "density": [0.5, 0.9, 0.3], "gamma": [0.1, 0.5, 0]}], symmetric=("models",)
    ),
    "della": Trial(
        [{"weight": SIGNED, "density": 0.5, "seed": 3},
         {"weight": 1, "density": [0.4, 1, 0], "epsilon": 0.3, "seed": 3, "rescale": "1/p"}],
    ),
    "della_linear": Trial(
        [{"weight": SIGNED, "density": 0.6, "epsilon": 0.1, "seed": 3, "compat": "mergekit"},
         {"weight": 1, "density": 0.6, "seed": 3, "rescale": "none"}],
    ),
    "ties_sum_extended": Trial(
        [{}, {"density": 0.7, "vote": "sum", "end": "stock"}, {"density": 0.5, "end": "median", "lambda": -0.5}],
        symmetric=("models",), evenly={"end": "mean"},
    ),
    "ties_sum_with_dropout": Trial(
        [{"seed": 3}, {"seed": 3, "keep": 0.5, "epsilon": 0.4, "end": "stock", "rescale": False}],
    ),
    "sce": Trial([{}, {"select_topk": 0.3}, {"select_topk": 0.5, "compat": "mergekit"}], symmetric=("models",)),
    "arcee_fusion": Trial(),
    "topk_mask": Trial([{"alpha": 0.3}, {"alpha": 1, "density": 0.2}]),
    # rows
    "tensor_sum": Trial([{"width": 0.4, "offset": 0.3}, {"width": 0.5, "offset": 0.7, "rounding": "round"}]),
    "tensor_sum2": Trial(
        [{"width": 0.4, "offset": 0.3}, {"width": 0.5, "offset": 0.7}], line="a number has no row to give"
    ),
    "extract": Trial(
        [{"alpha": 0.4, "beta": 0.3, "gamma": 1.7}], symmetric=("a", "b"), evenly={"alpha": 0.5}
    ),
    "cosine_gate": Trial([{"alpha": 0.25}, {"alpha": -0.1, "form": "b"}]),
    # signals
    "crossover": Trial(
        [{"alpha": 0.3}, {"alpha": 0.3, "tilt": 0.5}, {"alpha": 0.3, "tilt": 1}],
        line="a line of one element has a frequency, a number has none",
    ),
    "distribution_crossover": Trial(
        [{"alpha": 0.4, "beta": 0.2}, {"alpha": 0.5, "beta": 0}],
        line="a line of one element has a frequency, a number has none",
    ),
    "smooth_add": Trial([{}, {"alpha": -0.7}]),
    "top_k_tensor_sum": Trial([{}, {"width": 0.4, "offset": 0.3}]),
    # directions
    "truncate_rank": Trial(
        [{"rank": 2}, {"rank": 2, "approximate": True, "seed": 3}], not_idempotent="it keeps a part of its only input"
    ),
    "lowrank_diff": Trial([{"rank": 2}, {"rank": 2, "approximate": True, "seed": 3}]),
    "truncate_kronecker": Trial(
        [{}, {"approximate": True, "iterations": 0, "seed": 3}],
        not_idempotent="it keeps a part of its only input",
    ),
    "rotate": Trial([{}, {"alignment": 0.5, "alpha": 0.3}]),
}  # fmt: skip


def count_for(name: str, chosen: Given) -> int:
    """Return the number of inputs."""
    row, trial = METHODS[name], TRIALS[name]
    has_base = chosen.get("has_base", True)
    singles = sum(each != "models" and (each not in row.optional or has_base) for each in row.inputs)
    return singles + (trial.models if "models" in row.inputs else 0)


def call_for(name: str, shape: tuple[int, ...], chosen: Given) -> Call:
    """Return a call with the arguments of a trial's setting."""
    numbers = {key: each for key, each in chosen.items() if key != "has_base"}
    call = call_of(METHODS[name], shape, TRIALS[name].models, numbers, has_base=chosen.get("has_base", True))
    return replace(call, tensor=TRIALS[name].tensor)
