"""The methods of sd-mecha that are methods here, with the names and defaults of their parameters, by table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from mergebuild.exchange.decimals import complement
from mergebuild.exchange.draft import Value
from mergebuild.exchange.mecha.numbers import Scalar, UnwordedError

__all__ = ["BASED", "MASKS", "PLAIN", "Based", "MechaWord", "Plain"]

_Keys = dict[str, Value]


class MechaWord(NamedTuple):
    """A parameter: its name there, ours ("": none of ours), and its default there."""

    theirs: str
    name: str
    default: Scalar
    kind: type[Decimal | int | bool] = Decimal

    def told(self, value: Scalar | _Keys) -> Value:
        """Return a value as a mergefile has it.

        Raises:
            UnwordedError: it is none that the parameter can have.
        """
        if self.kind is bool and isinstance(value, bool):
            return value
        if self.kind is Decimal and isinstance(value, (Decimal, dict)):
            return value
        if self.kind is int and isinstance(value, Decimal) and value == value.to_integral_value():
            return int(value)
        raise UnwordedError(f"`{self.theirs}` is {value if isinstance(value, (Decimal, bool, str)) else 'a table'}")


class Plain(NamedTuple):
    """A method whose inputs are models, and which is one of ours."""

    ours: str
    inputs: Sequence[str]
    words: Sequence[MechaWord] = ()
    given: Mapping[str, Value] = {}
    """What ours must be told to be the same."""
    has_models: bool = False
    """Whether any number of models follows; parameters are named then."""

    @property
    def places(self) -> int | None:
        """How many inputs stand before the parameters; None: parameters are named."""
        return None if self.has_models else len(self.inputs)


class Based(NamedTuple):
    """A method of differences, which is one of ours over a base and models."""

    ours: str
    words: Sequence[MechaWord]
    given: Mapping[str, Value]
    has_lambda: bool
    made: Callable[[_Keys], _Keys] = dict
    """Puts the parameters together that are one here."""


def _alpha(default: str, name: str = "alpha") -> MechaWord:
    return MechaWord("alpha", name, Decimal(default))


_BASIS: Final = (
    MechaWord("use_approximate_basis", "approximate", default=True, kind=bool),
    MechaWord("approximate_basis_iters", "iterations", Decimal(2), int),
    MechaWord("approximate_basis_seed", "seed", None, int),
)
_MEDIAN: Final = (
    MechaWord("eps", "eps", Decimal("1e-6")),
    MechaWord("maxiter", "maxiter", Decimal(100), int),
    MechaWord("ftol", "ftol", Decimal("1e-20")),
)
_REGION: Final = (MechaWord("width", "width", Decimal("0.5")), MechaWord("offset", "offset", Decimal(0)))

PLAIN: Final[Mapping[str, Plain]] = {
    "weighted_sum": Plain("weighted_sum", "ab", [_alpha("0.5")]),
    "n_average": Plain("linear", "", given={"weight": 1}, has_models=True),
    "slerp": Plain("slerp", "ab", [_alpha("0.5", "t")], {"magnitude": "lerp"}),
    "subtract": Plain("subtract", "ab"),
    "scale": Plain("scale", "a", [_alpha("1")]),
    "geometric_sum": Plain("geometric", "ab", [_alpha("0.5")]),
    "multiply_quotient": Plain("multiply_quotient", "abc", [_alpha("1")]),
    "add_cosine_a": Plain("cosine_gate", "ab", [_alpha("1")], {"form": "a"}),
    "add_cosine_b": Plain("cosine_gate", "ab", [_alpha("1")], {"form": "b"}),
    "crossover": Plain("crossover", "ab", [_alpha("0.5"), MechaWord("tilt", "tilt", Decimal(0))]),
    "clamp": Plain("clamp", "a", [MechaWord("stiffness", "stiffness", Decimal(0))], has_models=True),
    "tensor_sum": Plain("tensor_sum", "ab", _REGION, {"rounding": "round"}),
    "top_k_tensor_sum": Plain("top_k_tensor_sum", "ab", [MechaWord("width", "width", Decimal(1)), _REGION[1]]),
    "truncate_rank": Plain("truncate_rank", "a", [MechaWord("rank", "rank", Decimal(8), int), *_BASIS]),
    "truncate_kronecker": Plain(
        "truncate_kronecker", "a", [MechaWord("kronecker_ratio", "kronecker_ratio", Decimal("0.5")), *_BASIS]
    ),
    "rotate": Plain(
        "rotate",
        "ab",
        [
            MechaWord("alignment", "alignment", Decimal(1)),
            _alpha("0"),
            MechaWord("centralization", "centralization", Decimal(1)),
            MechaWord("stiefel_eps", "stiefel_eps", Decimal("1e-8")),
            MechaWord("stiefel_max_iters", "stiefel_max_iters", Decimal(100), int),
        ],
    ),
    "geometric_median": Plain("geometric_median", "", _MEDIAN, has_models=True),
    "rebasin": Plain("rebasin", "ab", [MechaWord("iters", "", Decimal(10))]),
    "rebasin_sdxl_sgm": Plain("rebasin", "ab", [MechaWord("iters", "", Decimal(10))]),
    "balance_attention": Plain("balance_attention", "a"),
    "balance_attention_sdxl_sgm": Plain("balance_attention", "a"),
}
"""By their name."""

MASKS: Final = {
    "train_difference_mask": "train_difference",
    "add_opposite_mask": "add_opposite",
    "add_strict_opposite_mask": "add_strict_opposite",
}
"""Masks of three models, by which a difference of two of them is added."""


def _voted(words: _Keys) -> _Keys:
    """Return parameters with the vote that a flag means."""
    by_sum = words.pop("vote_sgn", False)
    return words | {"vote": "sum" if by_sum is True else "count"}


def _ended(words: _Keys) -> _Keys:
    """Return parameters with the end that two flags mean; what is called `apply_stock` leaves the stock out."""
    has_median, no_stock = words.pop("apply_median", False), words.pop("apply_stock", False)
    end = "median" if has_median is True else "mean" if no_stock is True else "stock"
    if end != "median":
        words = {name: value for name, value in words.items() if name not in ("eps", "maxiter", "ftol")}
    return _voted(words) | {"end": end, **({"clamp": False} if end == "stock" else {})}


def _dropped(words: _Keys) -> _Keys:
    probability = words.pop("probability")
    if not isinstance(probability, Decimal):
        raise UnwordedError("the probability of dropping differs from block to block")
    return _ended(words) | {"keep": complement(probability)}


_K: Final = MechaWord("k", "density", Decimal("0.2"))
_VOTE: Final = MechaWord("vote_sgn", "vote_sgn", default=False, kind=bool)
_ENDS: Final = (
    MechaWord("apply_stock", "apply_stock", default=False, kind=bool),
    MechaWord("apply_median", "apply_median", default=False, kind=bool),
    MechaWord("cos_eps", "", Decimal("1e-6")),
    *_MEDIAN,
)
_SEED: Final = MechaWord("seed", "seed", None, int)

BASED: Final[Mapping[str, Based]] = {
    "ties_sum": Based(
        "ties",
        [MechaWord("k", "density", Decimal(1)), _VOTE],
        {"weight": 1, "zero_vote": "none", "average": "count"},
        has_lambda=True,
        made=_voted,
    ),
    "ties_sum_extended": Based("ties_sum_extended", [_K, _VOTE, *_ENDS], {}, has_lambda=True, made=_ended),
    "ties_sum_with_dropout": Based(
        "ties_sum_with_dropout",
        [
            MechaWord("probability", "probability", Decimal("0.9")),
            MechaWord("della_eps", "epsilon", Decimal(0)),
            MechaWord("rescale", "rescale", default=True, kind=bool),
            _K,
            _VOTE,
            *_ENDS,
            _SEED,
        ],
        {},
        has_lambda=True,
        made=_dropped,
    ),
    "model_stock": Based(
        "model_stock",
        [MechaWord("cos_eps", "", Decimal("1e-6"))],
        {"pairs": "adjacent", "per": "row", "clamp": False},
        has_lambda=False,
    ),
    "dropout": Based(
        "dropout",
        [
            MechaWord("probability", "probability", Decimal("0.9")),
            MechaWord("rescale", "rescale", Decimal(1)),
            MechaWord("overlap", "", Decimal(1)),
            MechaWord("overlap_emphasis", "", Decimal(0)),
            _SEED,
        ],
        {},
        has_lambda=False,
    ),
}
"""By their name."""
