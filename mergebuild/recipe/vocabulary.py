"""The names of a target's keys: ours, and those of other tools, for which the help has ours."""

from __future__ import annotations

from collections.abc import Collection

from mergebuild.methods.catalog import Method
from mergebuild.recipe.later import LATER_KEYS
from mergebuild.recipe.nodes import misspelt

__all__ = [
    "ANY_KEYS", "COMMON_KEYS", "DTYPES", "DTYPE_HINTS", "FOREIGN", "FOREIGN_SAYINGS", "GATE_HINTS", "INPUTS",
    "OF_A_RULE", "OF_A_SLICE", "foreign", "keys_of", "means",
]  # fmt: skip

DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "source")

DTYPE_HINTS = {
    "fp32": "float32", "f32": "float32", "float": "float32", "full": "float32",
    "fp16": "float16", "f16": "float16", "half": "float16",
    "bf16": "bfloat16", "brain": "bfloat16",
    "fp8": "float8_e4m3fn", "float8": "float8_e4m3fn", "f8_e4m3": "float8_e4m3fn", "fp8_e4m3fn": "float8_e4m3fn",
    "f8_e5m2": "float8_e5m2", "fp8_e5m2": "float8_e5m2",
    "auto": "source", "keep": "source", "same": "source",
}  # fmt: skip
GATE_HINTS = {
    "cheap_embed": "prompts", "uniform_random": "random",
    "hidden": '{ model = "gates" }`, a source that has them, as hidden states need a model to run, or `prompts',
}  # fmt: skip
COMMON_KEYS = (
    "method", "formula", "output", "dtype", "foreach", "merge", "drop", "missing", "ema", "nonfinite", "metadata",
    "compat", "seed", "cache", "rules", "config", "max_shard_size",
    "components", "on_channels", "architectures", "slices", "part", "tokenizer", "chat_template",
)  # fmt: skip
"""Keys that every target may have."""
OF_A_RULE = ("tensors", "method", "formula", "compat", "seed")
"""Keys that a rule may have besides the inputs and parameters of its method."""
OF_A_SLICE = ("method", "formula", "compat", "seed", "layers", "part")
"""Keys that a slice may have besides the inputs and parameters of its method."""
INPUTS = ("a", "b", "c", "base", "models", "loras")
"""Keys that name inputs."""
ANY_KEYS = (*COMMON_KEYS, *INPUTS)
"""Keys that a target may have, whatever its method."""
FOREIGN = {
    "M": "alpha", "m": "alpha", "multiplier": "alpha", "ratio": "alpha", "amount": "alpha", "base_alpha": "alpha",
    "\N{GREEK SMALL LETTER ALPHA}": "alpha", "β": "beta", "λ": "lambda", "lambda_": "lambda",
    "alphas": "alpha", "betas": "beta",
    "merge_method": "method", "interp_method": "method", "mode": "method", "type": "method",
    "base_model": "base", "model_a": "a", "model_b": "b", "model_c": "c", "A": "a", "B": "b", "C": "c",
    "model": "a", "primary_model": "a", "secondary_model": "b", "tertiary_model": "c", "model1": "a", "model2": "b",
    "model_org": "base", "model_tuned": "a", "dim": "rank", "new_rank": "rank", "max_rank": "rank",
    "conv_dim": "conv_rank", "ratios": "strength", "strengths": "strength", "lora": "loras",
    "inputs": "models", "sources": "models", "weights": "weight", "densities": "density",
    "normalise": "normalize", "out_dtype": "dtype", "precision": "dtype", "save_as": "output", "out": "output",
    "output_path": "output", "filename": "output",
    "tokenizer_source": "tokenizer",
}  # fmt: skip
_FIRST_INPUTS = {"base": "a", "a": "base"}
FOREIGN_SAYINGS = {
    "filter": "a number per tensor has selectors as keys: `alpha = { default = 0.3, attn = 0.7 }`",
    "parameters": "parameters are keys of the target itself, such as `alpha = 0.3`",
    "mbw": "block weights belong to a number: `alpha = { mbw = [...] }`",
    "preset": 'a preset belongs to a number: `alpha = { preset = "GRAD_V" }`',
    "elemental": 'elemental rules belong to a number: `alpha = { elemental = "OUT03:attn2:0.5" }`',
    "curve": "a curve belongs to a number: `alpha = { sigmoid = 0.3 }`",
    "allow_crimes": 'models of different architectures are merged with `architectures = "allow"`',
    "int8_mask": "it would change nothing; leave it out",
    "include": "write it in `[project]`",
    "layer_range": 'a slice has `layers`, with the last one: `[0, 16]` is `layers = "L00-L15"`',
    "layers": 'layers of inputs belong to a slice: `slices = [{ a = "base", layers = "L00-L15" }]`',
}


def keys_of(method: Method) -> tuple[str, ...]:
    """Return the keys that a target with this method may have."""
    return tuple(dict.fromkeys((*method.inputs, *(parameter.name for parameter in method.parameters), *COMMON_KEYS)))


def foreign(key: str, allowed: Collection[str]) -> str | None:
    """Return our name for a key of another tool; None if we have none, or it is not among the allowed keys."""
    meant = FOREIGN.get(key, "")
    return next((word for word in (meant, _FIRST_INPUTS.get(meant)) if word in allowed), None)


def means(key: str, wanted: str, allowed: Collection[str]) -> bool:
    """Return whether a key is unknown, and the help for it names `wanted`."""
    if key in allowed or key in LATER_KEYS:
        return False
    meant = foreign(key, allowed)
    return meant == wanted if meant or key in FOREIGN_SAYINGS else misspelt(wanted, [key], allowed)
