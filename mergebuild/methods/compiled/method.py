"""What the compiled form of a method is: from a call and what is known of whole tensors to a kernel and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mergebuild.methods.call import Call, Grain, State
from mergebuild.native import Prepared

__all__ = ["Applied", "Chunk", "CompiledMethod", "CompiledStatistic"]

Chunk = tuple[memoryview | bytearray, str]
"""The bytes of some elements of a tensor as they lie in a file, and their dtype."""


class Applied(NamedTuple):
    """What makes the chunks of a tensor: a compiled kernel, and which of the inputs it is given, in order."""

    kernel: Prepared
    inputs: Sequence[int]
    more: Callable[[Sequence[Chunk], tuple[int, int]], Sequence[Chunk]] | None = None
    """What it is given besides: it follows from chunks of these inputs, and the index of their first element and how
    many there are."""

    def given(self, chunks: Sequence[Chunk], span: tuple[int, int]) -> Sequence[Chunk]:
        """Return all that the kernel is given: the chunks of the inputs, and more."""
        return chunks if self.more is None else [*chunks, *self.more(chunks, span)]

    @property
    def is_given(self) -> bool:
        """Whether it makes what it is given besides, as it is."""
        return self.more is not None and not self.inputs and self.kernel == Prepared("linear", 0)

    @staticmethod
    def copy_of(index: int) -> Applied:
        """Return what makes an input itself."""
        return Applied(Prepared("linear", 0), (index,))


@dataclass(frozen=True, slots=True)
class CompiledStatistic:
    """As `Statistic` of the torch kernels, over chunks as they lie. Name, arguments and version are that one's.

    `look(call, account, chunks, span)` adds chunks; `span` is the index of their first element, and how many there are.
    No value of them is NaN or infinite, but for a statistic that tells itself of several inputs whether one was.
    """

    name: str
    begin: Callable[[Call, int], Any]
    look: Callable[[Call, Any, Sequence[Chunk], tuple[int, int]], None]
    end: Callable[[Call, Any], State]
    turn: Callable[[Call, Any], bool] = lambda _call, _account: False
    arguments: tuple[str, ...] = ()
    version: int = 1
    is_finite: Callable[[State], bool] | None = None
    """Whether no value of the inputs, if there are several, was NaN or infinite; None: that is looked for first."""


@dataclass(frozen=True, slots=True)
class CompiledMethod:
    """The compiled form of a method.

    `apply(call, count, state)` says what makes all chunks of a tensor with `count` inputs, given the state of the
    statistic, if there is one.
    """

    apply: Callable[[Call, int, State], Applied]
    statistic: CompiledStatistic | None = None
    grain: Grain = Grain.ELEMENT
    takes: Callable[[Call, int], bool] = lambda _call, _count: True
    """Whether it makes a tensor with these arguments, and so many inputs; where not, torch does."""
