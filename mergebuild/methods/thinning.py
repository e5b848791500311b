"""The numbers of merges of task vectors: which elements of each delta are kept, and the factors they get. No torch.

`kernels/task_vectors.py` says what the methods compute. It and the compiled form take their numbers from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, prod
from typing import Generic, Protocol, TypeVar

from mergebuild.methods.call import Call
from mergebuild.methods.cuts import Cut
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of

__all__ = ["METHODS", "STATISTICS", "Account", "Chances", "Election", "Sparsity", "begin", "chances_of", "input_alone"]
__all__ += ["is_thinned", "row_of", "scale_of", "shares_of", "takes", "voters"]

_LEAST_L1 = 1e-7
"""A sum of magnitudes below this says nothing about scale."""
_LEAST_TOTAL = Fraction(1, 10**8)
"""Without a vote, the result is not divided by a sum of weights that is nearer to 0 than this."""

Sparsity = tuple[tuple[float | int, ...], ...]
"""For each model: the sum of magnitudes before and after thinning, then the key and the index of each cut."""


@dataclass(frozen=True, slots=True)
class Election:
    """What distinguishes the methods from each other."""

    keeps: str
    """Which elements of a delta are kept: `largest`, `middle`, `random` or `ranked`."""
    votes: bool


METHODS: Mapping[str, Election] = {
    "ties": Election("largest", votes=True),
    "breadcrumbs": Election("middle", votes=False),
    "breadcrumbs_ties": Election("middle", votes=True),
    "dare_linear": Election("random", votes=False),
    "dare_ties": Election("random", votes=True),
    "della": Election("ranked", votes=True),
    "della_linear": Election("ranked", votes=False),
}

_BY_MAGNITUDE = ("density", "rescale")
_AT_RANDOM = ("density", "rescale", "compat", "seed")
STATISTICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "largest": ("sparsity, largest", _BY_MAGNITUDE),
    "middle": ("sparsity, middle", (*_BY_MAGNITUDE, "gamma")),
    "random": ("sparsity, random", _AT_RANDOM),
    "ranked": ("sparsity, ranked", (*_AT_RANDOM, "epsilon")),
}
"""By way to keep: the name and the arguments of its statistic, the same for methods with and without a vote."""


# ---- what is kept ----


def is_thinned(call: Call, position: int) -> bool:
    """Return whether some but not all of a model's delta is kept. `position`: the model's index."""
    return 0 < call.numbers("density")[position] < 1


def takes(rule: Election, call: Call, position: int) -> tuple[int, ...]:
    """Return how many of the largest magnitudes are kept; for `middle`, also how many of these are dropped again."""
    count, density = call.count, call.numbers("density")[position]
    kept = int(density * count)
    if rule.keeps == "largest":
        return (max(1, kept),)
    dropped = min(int(call.numbers("gamma")[position] * count), count - kept)
    return (dropped + kept, dropped)


def row_of(call: Call) -> tuple[int, int, int]:
    """Return the shape for ranking as (rows, magnitudes of a row that are ranked, values after each of them)."""
    if len(call.shape) < 2:
        return 1, call.count, 1
    if call.word("compat") == "mergekit":
        return call.shape[0], call.shape[1], prod(call.shape[2:])
    return call.shape[0], prod(call.shape[1:]), 1


@dataclass(frozen=True, slots=True)
class Chances:
    """The probability to be kept, `rank * step + least` in float64; rank 0 is the smallest magnitude of a row."""

    length: int
    """How many magnitudes are ranked among each other."""
    least: float
    step: float


def chances_of(call: Call, position: int) -> Chances:
    """Return the probability to be kept by rank, for a model's delta.

    Raises:
        UndefinedError: a probability would not be between 0 and 1.
    """
    density, epsilon = call.numbers("density")[position], call.numbers("epsilon")[position]
    if density <= epsilon or density + epsilon >= 1:
        message = f"`density` {density} with `epsilon` {epsilon}: their difference and sum must lie between 0 and 1"
        raise UndefinedError(message)
    length = row_of(call)[1]
    if length == 1:
        return Chances(1, float(density), 0.0)
    return Chances(length, float(density - epsilon), float(2 * epsilon / (length - 1)))


# ---- the statistic ----


class _CutsOfAStream(Protocol):
    """The search for the cuts of one stream of keys."""

    def turn(self) -> bool: ...
    def found(self) -> Sequence[Cut]: ...


class _SumOfAStream(Protocol):
    """A running sum of one stream of numbers."""

    def value(self) -> float: ...


S = TypeVar("S", bound=_CutsOfAStream)
R = TypeVar("R", bound=_SumOfAStream)


@dataclass(slots=True)
class Account(Generic[S, R]):
    """The state of a statistic: first it finds each model's cuts, then sums of magnitudes if the scale needs them."""

    selections: list[S | None]
    sums: list[tuple[R, R]] | None
    """For each model: the sum of all magnitudes, and of those that are kept. None: not needed."""
    selecting: bool

    def turn(self) -> bool:
        """End a look through all chunks; return whether another one is needed."""
        if not self.selecting:
            return False
        open_still = [selection.turn() for selection in self.selections if selection is not None]
        self.selecting = any(open_still)
        return self.selecting or self.sums is not None

    def cuts(self, position: int) -> Sequence[Cut]:
        """Return the cuts of a model, by its index."""
        selection = self.selections[position]
        return () if selection is None else selection.found()

    def end(self) -> Sparsity:
        """Return what the statistic found."""
        found = []
        for position in range(len(self.selections)):
            before, after = (0.0, 0.0)
            if self.sums is not None:
                before, after = (each.value() for each in self.sums[position])
            found.append((before, after, *(number for cut in self.cuts(position) for number in cut)))
        return tuple(found)


def begin(
    rule: Election, call: Call, inputs: int, selection: Callable[[Sequence[int]], S], running_sum: Callable[[], R]
) -> Account[S, R] | None:
    """Return the account of a new statistic; None if nothing needs to be known."""
    models = range(inputs - 1)
    thinned = [is_thinned(call, i) for i in models]
    sums = [(running_sum(), running_sum()) for _ in models] if scale_of(rule, call) == "l1" else None
    by_magnitude = rule.keeps in ("largest", "middle")
    if not any(thinned) or (sums is None and not by_magnitude):
        return None
    selections = [selection(takes(rule, call, i)) if by_magnitude and thinned[i] else None for i in models]
    return Account(selections, sums, selecting=by_magnitude)


# ---- the merge ----


def scale_of(rule: Election, call: Call) -> str:
    """Return how kept elements are scaled: `none`, `l1` or `1/p`."""
    if rule.keeps == "random" and call.word("compat") == "mergekit":
        return "l1"
    return call.word("rescale")


def voters(call: Call) -> Sequence[int]:
    """Return the indexes of the models that take part: their weight and density are not 0."""
    return [i for i, weight in enumerate(call.numbers("weight")) if weight and call.numbers("density")[i] > 0]


def input_alone(rule: Election, call: Call) -> int | None:
    """Return the index of the input that the result equals: the base's, or that of an only model of weight 1.

    None: the result is no single input.
    """
    there = voters(call)
    if not there or not call.number("lambda"):
        return 0
    if len(there) != 1 or call.numbers("density")[there[0]] < 1:
        return None
    weights = call.numbers("weight")
    weight = weights[there[0]]
    if call.flag("normalize"):
        counted = rule.votes and call.word("average") == "count"
        weight /= 1 if counted else weight if rule.votes else _total(weights)
    return 1 + there[0] if weight * call.number("lambda") == 1 else None


def shares_of(rule: Election, call: Call, state: Sparsity | None) -> Mapping[int, float]:
    """Return, by the index of each model that takes part, the float32 factor of its kept elements.

    Raises:
        UndefinedError: a model's difference from the base overflows float32, so that its factor is not known.
    """
    weights = call.numbers("weight")
    whole = Fraction(1)
    if not rule.votes:
        whole = call.number("lambda") / (_total(weights) if call.flag("normalize") else 1)
    return {i: float32_of(whole * weights[i] * _factor(rule, call, i, state)) for i in voters(call)}


def _total(weights: Sequence[Fraction]) -> Fraction:
    """Return the number by which a sum without a vote is divided."""
    total = sum(weights, Fraction(0))
    return total if abs(total) >= _LEAST_TOTAL else Fraction(1)


def _factor(rule: Election, call: Call, position: int, state: Sparsity | None) -> Fraction:
    """Return the factor of a model's kept elements, without its weight."""
    scale = scale_of(rule, call)
    if not is_thinned(call, position) or scale == "none":
        return Fraction(1)
    if scale == "1/p":
        return Fraction(1) if rule.keeps == "ranked" else 1 / call.numbers("density")[position]
    assert state is not None
    before, after = state[position][:2]
    if not (isfinite(before) and isfinite(after)):
        message = f"the difference of model {position + 1} from the base overflows float32, so that it has no scale"
        raise UndefinedError(message)
    return Fraction(before) / Fraction(after) if min(before, after) >= _LEAST_L1 else Fraction(1)
