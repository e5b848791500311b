"""The row of the method that puts rows of embeddings into the order of other tokens. No recipe can name it."""

from __future__ import annotations

from mergebuild.methods.making import GatheredRows
from mergebuild.methods.method import Method

__all__ = ["ROWS_OF_TOKENS"]

ROWS_OF_TOKENS = Method(
    name="rows_of_tokens",
    inputs=("models",),
    parameters=(),
    formula="rows of the inputs, zeros, and means of rows",
    summary="an embedding or a head in the order of other tokens",
    makes=GatheredRows(),
)
"""Makes the embeddings and heads that a target with a `tokenizer` merges."""
