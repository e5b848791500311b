"""What the gates of a stack of experts are made of: the tokens of each expert's prompts. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["PromptTokens", "TokenCounts", "counted"]

TokenCounts = tuple[tuple[int, int], ...]
"""Numbers of tokens, in order, and how often each occurs."""


def counted(prompts: Iterable[Sequence[int]]) -> TokenCounts:
    """Return how often each token occurs in some prompts together."""
    return tuple(sorted(Counter(number for prompt in prompts for number in prompt).items()))


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of the prompts of each expert, and of those that it is not for."""

    experts: tuple[tuple[TokenCounts, TokenCounts], ...]

    @property
    def key_text(self) -> str:
        """Its text in keys."""
        return " ".join("-".join(map(_text, each)) for each in self.experts)


def _text(counts: TokenCounts) -> str:
    return ",".join(f"{number}:{count}" for number, count in counts)
