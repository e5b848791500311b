"""Laws on cases that are drawn too rarely. Each has caught a mutation of a key or a comparison that others missed."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from drawing import Step
from laws import LAWS, fresh
from worlds import Own, Rule, Source, Target, World

LLAMA = tuple(Source(f"s{seed}", "llama", seed) for seed in range(3))


def _file(name: str, method: str, end: str = ".safetensors", **given: Any) -> Target:
    """Return a target with an output. `given`: inputs, if they name a source or a target; otherwise values of keys."""
    inputs = tuple((key, value) for key, value in given.items() if key in ("a", "b", "c", "base", "models"))
    values = tuple((key, value) for key, value in given.items() if key not in dict(inputs))
    return Target(name, method, inputs, values, f"out/{name}{end}" if end else "")


def _number(text: str) -> Decimal:
    return Decimal(text)


def _edit(before: World, after: World) -> tuple[Step, ...]:
    return (Step("begin", before), Step("edit", after), Step("back", before))


def _two(one: Target, other: Target, sources: tuple[Source, ...] = LLAMA, *rest: Target) -> tuple[Step, ...]:
    return _edit(World(sources, (*rest, one)), World(sources, (*rest, other)))


_MINE = World(LLAMA, (_file("t0", "mine", a="s0", b="s1", alpha=_number("0.5")),), methods=(Own("mine", "gate", 1),))
_COSINE = World(LLAMA, (_file("t0", "cosine_a", a="s0", b="s1", alpha=_number("0.2")),))
_NAN = (Source("s0", "llama", 0, traits=("nan",)), *LLAMA[1:])
_SUM: dict[str, Any] = {"a": "s0", "b": "s1", "alpha": _number("0.3")}
_TIES: dict[str, Any] = {"base": "s0", "models": ("s1", "s2"), "weight": _number("0.7")}

EDITS = {
    "the text of an own method": _edit(_MINE, replace(_MINE, methods=(Own("mine", "gate", 2),))),
    "a tensor that a method of the whole model looks at": _edit(
        _COSINE, replace(_COSINE, sources=(replace(LLAMA[0], patches=((4, 1),)), *LLAMA[1:]))
    ),
    "what a virtual target below a method is multiplied by": _edit(
        *(
            World(
                LLAMA,
                (
                    _file("v", "scale", "", a="s0", alpha=_number(alpha)),
                    _file("t0", "slerp", a="v", b="s1", t=_number("0.3")),
                ),
            )
            for alpha in ("0.5", "0.25")
        )
    ),
    "metadata": _two(_file("t0", "weighted_sum", **_SUM), _file("t0", "weighted_sum", **_SUM, metadata="full")),
    "whether NaN is allowed": _two(
        _file("t0", "weighted_sum", **_SUM, nonfinite="allow"), _file("t0", "weighted_sum", **_SUM), _NAN
    ),
    "the format of a file": _two(_file("t0", "weighted_sum", ".ckpt", **_SUM), _file("t0", "weighted_sum", **_SUM)),
    "what a statistic depends on": _two(
        _file("t0", "ties", **_TIES, density=_number("0.5")), _file("t0", "ties", **_TIES, density=_number("0.2"))
    ),
    "how large shards are": _two(
        _file("t0", "weighted_sum", "/", **_SUM, max_shard_size="500B"), _file("t0", "weighted_sum", "/", **_SUM)
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_comes_to_what_a_fresh_build_does(edit: str) -> None:
    """Make an edit and undo it: incremental builds give the same as fresh ones."""
    LAWS["incremental_is_fresh"](EDITS[edit])


def test_equal_tensors_of_other_names_are_others_to_a_random_method() -> None:
    """A target that leaves out some tensors has the same others as one that makes all, though tensors are equal."""
    sources = tuple(replace(each, traits=("alike",)) for each in LLAMA)
    values: dict[str, Any] = {**_TIES, "density": _number("0.5"), "seed": _number("1")}
    world = World(sources, (_file("t0", "dare_linear", **values), _file("t1", "dare_linear", **values, drop="L00")))
    LAWS["together_is_alone"](world, (0, 1))


def test_a_survey_with_other_arguments_is_another() -> None:
    """An argument that decides which channels are heads is part of the survey's key."""
    one, other = (_file(f"t{width}", "rebasin", a="s0", b="s1", head_width=_number(width)) for width in "02")
    LAWS["together_is_alone"](World(LLAMA, (one, other)), (1, 0))


def test_the_names_of_models_do_not_matter_to_a_sum() -> None:
    """Terms are in the order of their digests, not of names."""
    weights = tuple(map(Decimal, ("0.3", "0.7", "0.1")))
    world = World(LLAMA, (_file("t0", "linear", models=("s0", "s1", "s2"), weight=weights, normalize=False),))
    names = {"s0": "z", "s1": "y", "s2": "x"}
    LAWS["order_and_names_do_not_matter"](world, world.renamed(names), names)


def test_the_order_of_models_does_not_matter_to_a_sum() -> None:
    """Terms are in the order of their digests, not of inputs."""
    world = World(
        LLAMA,
        tuple(
            _file(f"t{number}", "linear", models=models, weight=tuple(map(Decimal, weights)), normalize=False)
            for number, (models, weights) in enumerate(
                ((("s0", "s1", "s2"), ("0.3", "0.7", "0.1")), (("s2", "s0", "s1"), ("0.1", "0.3", "0.7")))
            )
        ),
    )
    made = fresh(world)
    assert made.artifacts["t0"] == made.artifacts["t1"]
    assert made.made["t0"] == made.made["t1"]


@pytest.mark.parametrize("dtype", ["source", "float32"])
def test_dtypes_differ_where_all_that_is_read_is_alike(dtype: str) -> None:
    """A virtual target's tensors are float32 while they are read, but written in the dtypes of the sources."""
    sources = (Source("s0", "llama", 0, traits=("mixed",)), *LLAMA[1:])
    virtual = _file("v", "max", "", a="s0", b="s1")
    fresh(World(sources, (virtual, _file("t0", "copy", a="v", dtype=dtype))))


def test_the_last_rule_that_selects_a_tensor_counts() -> None:
    """Two rules that select the same tensor."""
    rules = (
        Rule(("*.mlp.*",), "add", ()),
        Rule(("L00",), "subtract", ()),
    )
    fresh(World(LLAMA, (replace(_file("t0", "weighted_sum", **_SUM), rules=rules),)))
