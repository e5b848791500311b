"""What a kernel is: a pure function from chunks of the inputs to the chunk of the result, and what it must know first.

A tensor is made in chunks, so that one larger than memory passes. Some methods need a few numbers about the whole
tensor before the first chunk can be made: a dot product, the k-th largest magnitude. That is a `Statistic`: looks at
all chunks in order, then a small state. `Kernel.apply` gets that state with every chunk. How a tensor may be cut is
the kernel's `Grain`. What must be known of several tensors together, such as a layer's, is a `Survey`.

Values are float32, whatever the files hold; sums are taken by `reduction.py`, order statistics by `selection.py`,
random numbers by `randomness.py`, so that a result depends neither on chunks nor on threads nor on the processor.

What sees a whole tensor (a statistic, a survey, a kernel of grain TENSOR) never sees a NaN or an infinity: of such a
tensor nothing is known, and its result is NaN throughout. Elsewhere a NaN goes where its value would have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from mergebuild.methods.arguments import Argument
from mergebuild.methods.call import Call, Grain, State

__all__ = ["Argument", "Call", "Grain", "Kernel", "State", "Statistic", "Survey", "all_finite"]


@dataclass(frozen=True, slots=True)
class Statistic:
    """Numbers about whole tensors, found by looking at all their chunks in order, perhaps several times.

    `begin(call, inputs)` returns a mutable account for so many inputs, or None when nothing needs to be known;
    `look(call, account, chunks, start)` adds chunks, float32 [n] each, the first of whose elements has the index
    `start`; `turn(call, account)` is called after each look through all chunks and says whether one more is needed;
    `end(call, account)` returns the state.
    """

    name: str
    begin: Callable[[Call, int], Any]
    look: Callable[[Call, Any, Sequence[Tensor], int], None]
    end: Callable[[Call, Any], State]
    turn: Callable[[Call, Any], bool] = lambda _call, _account: False
    arguments: tuple[str, ...] = ()
    """The parameters that it depends on. With none it follows from the inputs alone, and a sweep over the method's
    parameters takes it once."""
    version: int = 1


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of several tensors together, before any of them is made: those of a scope of the method.

    `look(arguments, tensors)` gets each tensor's inputs by its name, float32 and in their shapes: of all the scope, or
    of one tensor at a time, as the method's making says; `end(looks)` makes the state of what the looks returned, in
    the order of the names.
    """

    look: Callable[[Mapping[str, Argument], Mapping[str, Sequence[Tensor]]], Any]
    end: Callable[[Sequence[Any]], State] = lambda looks: looks[0]


@dataclass(frozen=True, slots=True)
class Kernel:
    """The arithmetic of a method.

    `apply(call, chunks, start, state)` returns float32 [n] (or, of grain TENSOR, any shape of as many elements) from
    chunks of the same n, the inputs in the order of the method's inputs; `start` is the index of the first element.
    Chunks come in the order of their indices. It changes neither chunks nor state, but for what a state says is its
    own to change (a count of ties that were let through). `state` is the statistic's or the survey's, else None.
    """

    apply: Callable[[Call, Sequence[Tensor], int, State], Tensor]
    statistic: Statistic | None = None
    grain: Grain = Grain.ELEMENT
    working_set: Callable[[Call, int], int] | None = None
    """Of grain TENSOR: bytes of memory needed for a call with so many inputs, these included."""
    survey: Survey | None = None


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value of float32 tensors is NaN or infinite."""
    return all(isfinite(each.sum().item()) or bool(torch.isfinite(each).all()) for each in tensors)
