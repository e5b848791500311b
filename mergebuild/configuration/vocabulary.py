"""Tensors with a row for each token: embeddings, and heads that score tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["embedding_of", "head_of", "is_embedding", "is_of_tokens"]

_EMBEDDING: Final = re.compile(
    r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings?|shared|embed_in|tok_embeddings|token_embedding|embed_tokens_per_layer"
    r"|(?<=backbone\.)embeddings|(?<=rwkv\.)embeddings)\.weight"
)
_HEAD: Final = re.compile(
    r"(?:.*\.)?(?:lm_head|embed_out|proj_out|output_layer|predictions\.decoder|lm_head\.decoder)\.weight|output\.weight"
)
_SCORES: Final = re.compile(
    r"(?:.*\.)?(?:lm_head(?:\.decoder)?|embed_out|predictions(?:\.decoder)?)\.bias|final_logits_bias"
)


def is_embedding(name: str) -> bool:
    """Return whether a tensor is an embedding of tokens."""
    return _EMBEDDING.fullmatch(name) is not None


def is_of_tokens(name: str) -> bool:
    """Return whether a tensor has a row, or a number, for each token."""
    return any(kind.fullmatch(name) for kind in (_EMBEDDING, _HEAD, _SCORES))


def embedding_of(names: Iterable[str]) -> str | None:
    """Return the embedding of a language model, the least nested of several; None if none is known."""
    return min(filter(is_embedding, names), key=lambda name: (name.count("."), name), default=None)


def head_of(names: Iterable[str]) -> str | None:
    """Return the head of a language model that scores tokens, the least nested of several; None if there is none."""
    return min(filter(_HEAD.fullmatch, names), key=lambda name: (name.count("."), name), default=None)
