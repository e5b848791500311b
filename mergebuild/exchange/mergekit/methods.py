"""The methods of mergekit, a row each: which of ours it is, what its inputs are, and what its parameters are called."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Final, NamedTuple

from mergebuild.exchange.draft import Value

__all__ = ["METHODS", "KitMethod", "Shape"]


class Shape(Enum):
    """What the inputs of a method are."""

    ALL = "models, the base among them like any other"
    BASE_AND_MODELS = "a base, and models that are compared with it"
    MODELS = "models, and a base if there is one"
    PAIR = "the base, and one other model"
    ONE = "one model"


class KitMethod(NamedTuple):
    """A method of mergekit."""

    method: str
    shape: Shape
    of_models: Mapping[str, Decimal | int | None] = {}
    """Numbers of each model, with their defaults; None: it must be given."""
    numbers: Mapping[str, Decimal | int | None] = {}
    """Numbers that are one for all models."""
    flags: Mapping[str, tuple[str, Mapping[bool, Value | None]]] = {}
    """Flags: our key, and its value where the flag is set and where it is not; None: our default, not written."""
    fixed: Mapping[str, Value] = {}
    """Keys that are always written: what mergekit does otherwise than others."""
    models: tuple[int, int | None] = (1, None)
    """How many models besides the base there may be at least, and at most."""
    is_random: bool = False


_Flags = Mapping[str, tuple[str, Mapping[bool, Value | None]]]
_NORMALIZE: Final[_Flags] = {"normalize": ("normalize", {True: True, False: False})}
_L1: Final[_Flags] = {"rescale": ("rescale", {True: "l1", False: "none"})}
_TASK: Final[Mapping[str, Decimal | int | None]] = {"weight": None, "density": 1}
_LAMBDA: Final[Mapping[str, Decimal | int | None]] = {"lambda": 1}
_OUTLIERS: Final[Mapping[str, Decimal | int | None]] = {**_TASK, "gamma": Decimal("0.01")}
_DELLA: Final[Mapping[str, Decimal | int | None]] = {**_TASK, "epsilon": Decimal("0.15")}
_AS_MERGEKIT: Final[Mapping[str, Value]] = {"compat": "mergekit"}


def _task(method: str, *, numbers: Mapping[str, Decimal | int | None] = _TASK, **more: object) -> KitMethod:
    flags = {**_NORMALIZE, **_L1}
    return KitMethod(method, Shape.BASE_AND_MODELS, numbers, _LAMBDA, flags)._replace(**more)  # type: ignore[arg-type]


def _dare(method: str) -> KitMethod:
    """Return a row of DARE: what is kept is scaled as mergekit does it, or not at all."""
    flags = {**_NORMALIZE, **_L1}
    return KitMethod(method, Shape.BASE_AND_MODELS, _TASK, _LAMBDA, flags, {"rescale": "l1"}, is_random=True)


METHODS: Final[Mapping[str, KitMethod]] = {
    "linear": KitMethod("linear", Shape.ALL, {"weight": None}, flags=_NORMALIZE),
    "slerp": KitMethod("slerp", Shape.PAIR, numbers={"t": None}),
    "nuslerp": KitMethod("nuslerp", Shape.MODELS, {"weight": None}, models=(2, 2)),
    "multislerp": KitMethod(
        "multislerp", Shape.MODELS, {"weight": None}, {"eps": Decimal("1e-8")},
        {"normalize_weights": ("normalize", {True: True, False: False})},
    ),
    "karcher": KitMethod("karcher", Shape.ALL, numbers={"max_iter": 10, "tol": Decimal("1e-5")}),
    "task_arithmetic": KitMethod("task_arithmetic", Shape.BASE_AND_MODELS, {"weight": None}, _LAMBDA, _NORMALIZE),
    "ties": _task("ties"),
    "dare_linear": _dare("dare_linear"),
    "dare_ties": _dare("dare_ties"),
    "breadcrumbs": _task("breadcrumbs", numbers=_OUTLIERS),
    "breadcrumbs_ties": _task("breadcrumbs_ties", numbers=_OUTLIERS),
    "della": _task("della", numbers=_DELLA, is_random=True, fixed=_AS_MERGEKIT),
    "della_linear": _task("della_linear", numbers=_DELLA, is_random=True, fixed=_AS_MERGEKIT),
    "model_stock": KitMethod(
        "model_stock", Shape.BASE_AND_MODELS, flags={"filter_wise": ("per", {True: "row", False: None})},
        fixed=_AS_MERGEKIT, models=(2, None),
    ),
    "sce": KitMethod("sce", Shape.BASE_AND_MODELS, numbers={"select_topk": 1}, fixed=_AS_MERGEKIT),
    "nearswap": KitMethod("nearswap", Shape.PAIR, numbers={"t": None}),
    "arcee_fusion": KitMethod("arcee_fusion", Shape.PAIR),
    "ram": KitMethod("ram", Shape.BASE_AND_MODELS, numbers={"epsilon": Decimal("1e-5")}),
    "ramplus_tl": KitMethod(
        "ramplus_tl", Shape.BASE_AND_MODELS,
        numbers={"epsilon": Decimal("1e-5"), "r": Decimal("0.1"), "alpha": Decimal("0.2")},
    ),
    "passthrough": KitMethod("copy", Shape.ONE),
}  # fmt: skip
"""By mergekit's name. What `nuslerp`, `passthrough` and older keys of `ties` mean besides is in `merges`."""
