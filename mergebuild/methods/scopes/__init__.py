"""Scopes: which tensors of a model a method must know together, from names and shapes alone. No torch here.

A tensor is in one scope at most. A tensor in no scope stays as in the first input.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from mergebuild.methods.scopes.attention import attentions
from mergebuild.methods.scopes.channels import Shapes, blocks

__all__ = ["Scope", "attention_layers", "channel_blocks", "whole_model"]

Scope = tuple[str, ...]
"""The names of the scope's tensors, sorted."""

_NOT_MERGED = ("first_stage_model.", "vae.")


def whole_model(shapes: Shapes, _arguments: Mapping[str, object]) -> list[Scope]:
    """Return one scope of all tensors except the VAE's."""
    names = sorted(name for name in shapes if not name.startswith(_NOT_MERGED))
    return [tuple(names)] if names else []


def attention_layers(shapes: Shapes, _arguments: Mapping[str, object]) -> list[Scope]:
    """Return a scope for each attention layer."""
    return [tuple(sorted(layer.tensors)) for layer in attentions(shapes)]


def channel_blocks(shapes: Shapes, arguments: Mapping[str, object]) -> list[Scope]:
    """Return a scope for each block of hidden channels.

    The argument `head_width` is the width of Llama's heads, or 0.
    """
    width = arguments["head_width"]
    assert isinstance(width, Fraction)
    return [tuple(sorted(block.tensors)) for block in blocks(shapes, int(width) or None)]
