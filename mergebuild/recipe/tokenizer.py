"""What a mergefile says about the tokenizer and the chat template of a target, as frozen values.

A target numbers its tokens as one model does, or as a union of the models that it is made of. Rows of embeddings and
heads then belong to tokens: those of each input are put into the order of the target's tokens before they are merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mergebuild.recipe.model import Input, Where

__all__ = ["ChatTemplate", "TokenRow", "TokenizerText"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Whose row a token has in the inputs that lack it; an entry of `tokens`."""

    token: str
    input: Input | None
    """The input whose row it is; None: the usual rules say which."""
    of: str | int | None
    """The token of that input whose row it is, or that token's number; None: the token itself."""
    zero: bool
    """Whether the row is zeros."""
    force: bool
    """Whether inputs that have the token get this row too."""
    where: Where = field(compare=False)


@dataclass(frozen=True, slots=True)
class TokenizerText:
    """The tokens of a target: those of one model, or the union of those of its inputs."""

    input: Input | None
    """The model; None: the union."""
    tokens: tuple[TokenRow, ...]
    """Tokens that are added if they are missing, and whose rows do not follow the usual rules; in order."""
    pad_to_multiple_of: int | None
    """The number that the number of rows is a multiple of; None: there are as many rows as tokens."""
    inputs: tuple[Input, ...] = ()
    """The models whose rows are merged, each once, the base first: all inputs of the target and of its rules."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The chat template of a target: that of one model, or the text of a file."""

    input: Input | None
    """The model; None: a file."""
    path: Path | None = field(default=None, compare=False)
    """The file, absolute."""
    text: str = ""
    """Its text."""
