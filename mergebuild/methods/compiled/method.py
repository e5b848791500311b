"""The compiled form of a method: it turns a call and a statistic into a compiled kernel and the numbers for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mergebuild.methods.call import Call, Grain, State
from mergebuild.native import Chunk, Plain, Prepared

__all__ = ["Applied", "Chunk", "CompiledMethod", "CompiledStatistic", "Plain"]


class Applied(NamedTuple):
    """How to make the chunks of a tensor: a compiled kernel, and the indices of the method's inputs that it takes."""

    kernel: Prepared
    inputs: Sequence[int]
    more: Callable[[Sequence[Chunk], tuple[int, int]], Sequence[Chunk]] | None = None
    """Computes further inputs of the kernel, from the chunks of `inputs` and their span: the index in the tensor of
    the first element, and the number of elements."""

    def given(self, chunks: Sequence[Chunk], span: tuple[int, int]) -> Sequence[Chunk]:
        """Return all inputs of the kernel: the chunks of `inputs`, then those that `more` computes."""
        return chunks if self.more is None else [*chunks, *self.more(chunks, span)]

    @property
    def is_given(self) -> bool:
        """Whether it only copies the input that `more` computes."""
        return self.more is not None and not self.inputs and self.kernel == Prepared("linear", 0)

    @staticmethod
    def copy_of(index: int) -> Applied:
        """Return the form that copies an input."""
        return Applied(Prepared("linear", 0), (index,))


@dataclass(frozen=True, slots=True)
class CompiledStatistic:
    """`Statistic` of the torch kernels, on chunks as they are in files. Name, arguments and version must be equal.

    `look(call, account, chunks, span)` adds chunks; `span` is the index of their first element, and the number of
    elements. They have no NaN and no infinite values, as the engine looks for these first; it doesn't if there are
    several inputs and `is_finite` is given.
    """

    name: str
    begin: Callable[[Call, int], Any]
    look: Callable[[Call, Any, Sequence[Chunk], tuple[int, int]], None]
    end: Callable[[Call, Any], State]
    turn: Callable[[Call, Any], bool] = lambda _call, _account: False
    arguments: tuple[str, ...] = ()
    version: int = 1
    is_finite: Callable[[State], bool] | None = None
    """Returns, by the state, whether no value of several inputs was NaN or infinite. None: the engine looks first."""
    tells_of: Callable[[Call], bool] = lambda _call: True
    """Returns whether `is_finite` can say that with these arguments."""

    def tells(self, call: Call, inputs: int) -> bool:
        """Return whether the state for this number of inputs says whether a value was NaN or infinite."""
        return self.is_finite is not None and inputs > 1 and self.tells_of(call)


@dataclass(frozen=True, slots=True)
class CompiledMethod:
    """The compiled form of a method.

    `apply(call, count, state)` returns how to make all chunks of a tensor with `count` inputs. `state` is that of the
    statistic; None if there is none, or if it needs to know nothing with these arguments.
    """

    apply: Callable[[Call, int, State], Applied]
    statistic: CompiledStatistic | None = None
    grain: Grain = Grain.ELEMENT
    takes: Callable[[Call, int], bool] = lambda _call, _count: True
    """Returns whether it can make a tensor, by its call and the number of inputs; if not, torch makes it."""
    working_set: Callable[[Call], int] | None = None
    """Of grain TENSOR: returns the bytes of memory needed besides the inputs and the result."""
