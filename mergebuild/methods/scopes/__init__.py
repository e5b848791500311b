"""Which tensors of a model a method must know together: its *scopes*, from names and shapes alone. No torch here.

A tensor is in one scope at most. What is in none is not merged: it stays the first input's.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from mergebuild.methods.scopes.attention import attentions
from mergebuild.methods.scopes.channels import Shapes, blocks

__all__ = ["Scope", "attention_layers", "channel_blocks", "whole_model"]

Scope = tuple[str, ...]
"""The names of tensors, sorted."""

_NOT_MERGED = ("first_stage_model.", "vae.")


def whole_model(shapes: Shapes, _arguments: Mapping[str, object]) -> list[Scope]:
    """Return all tensors but those of the VAE as one scope."""
    names = sorted(name for name in shapes if not name.startswith(_NOT_MERGED))
    return [tuple(names)] if names else []


def attention_layers(shapes: Shapes, _arguments: Mapping[str, object]) -> list[Scope]:
    """Return the tensors of each attention layer."""
    return [tuple(sorted(layer.tensors)) for layer in attentions(shapes)]


def channel_blocks(shapes: Shapes, arguments: Mapping[str, object]) -> list[Scope]:
    """Return the tensors of each block of hidden channels; `head_width` of the arguments is 0 or Llama's."""
    width = arguments["head_width"]
    assert isinstance(width, Fraction)
    return [tuple(sorted(block.tensors)) for block in blocks(shapes, int(width) or None)]
