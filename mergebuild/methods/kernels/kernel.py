"""What a kernel is: a pure function from chunks of the inputs to the chunk of the result, and what it must know first.

A tensor is made in chunks, so that a tensor larger than memory can be made too. Some methods need a few numbers about
the whole tensor before they can make the first chunk, such as a dot product or the k-th largest magnitude. Such numbers
are a `Statistic`: it looks at all chunks in order, and returns a small state, which `Kernel.apply` gets with every
chunk. How a tensor may be cut is the kernel's `Grain`. A `Survey` is the same for several tensors together, such as a
layer's.

Values are float32, whatever dtype the files have. Sums come from `reduction.py`, order statistics from `selection.py`
and random numbers from `randomness.py`, so that a result depends neither on chunks nor on threads nor on the processor.

A statistic, a survey and a kernel of grain TENSOR never see a NaN or an infinity: if an input has one, nothing is found
out about the tensor, and its result is NaN throughout. Other kernels treat a NaN as a value like any other.
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

    `begin(call, inputs)` returns a mutable account for that many inputs, or None if nothing needs to be known;
    `look(call, account, chunks, start)` adds chunks, float32 [n] each, whose first element has the index `start`;
    `turn(call, account)` is called after each look through all chunks, and returns whether another one is needed;
    `end(call, account)` returns the state.
    """

    name: str
    begin: Callable[[Call, int], Any]
    look: Callable[[Call, Any, Sequence[Tensor], int], None]
    end: Callable[[Call, Any], State]
    turn: Callable[[Call, Any], bool] = lambda _call, _account: False
    arguments: tuple[str, ...] = ()
    """The parameters that it depends on. If there are none it depends on the inputs alone, and a sweep over the
    method's parameters takes it once."""
    version: int = 1


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of all tensors of a scope before any of them is made.

    `look(arguments, tensors)` gets the inputs of each tensor by its name, float32 and in their shapes: of all tensors
    of the scope, or of one at a time, as the method's `makes.looks_at_each` says. `end(looks)` makes the state of the
    results of all looks, in the order of the tensors' names.
    """

    look: Callable[[Mapping[str, Argument], Mapping[str, Sequence[Tensor]]], Any]
    end: Callable[[Sequence[Any]], State] = lambda looks: looks[0]


@dataclass(frozen=True, slots=True)
class Kernel:
    """The arithmetic of a method.

    `apply(call, chunks, start, state)` gets a chunk float32 [n] of each input, in the order of the method's inputs, and
    returns float32 [n]; of grain TENSOR, any shape with as many elements. `start` is the index of the first element.
    Chunks come in the order of their indices. It changes neither chunks nor state, except for parts of a state that are
    there to be changed, such as a count of ties taken so far. `state` is that of the statistic or the survey, or None.
    """

    apply: Callable[[Call, Sequence[Tensor], int, State], Tensor]
    statistic: Statistic | None = None
    grain: Grain = Grain.ELEMENT
    working_set: Callable[[Call, int], int] | None = None
    """For grain TENSOR: the bytes of memory needed for a call with that many inputs, including the inputs."""
    survey: Survey | None = None


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value of some float32 tensors is NaN or infinite."""
    return all(isfinite(each.sum().item()) or bool(torch.isfinite(each).all()) for each in tensors)
