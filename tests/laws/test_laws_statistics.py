"""One law, for each method with a statistic: over inputs that the same pass makes.

In one pass, the input is not in a file yet when the statistic reads it. If targets are built one by one, it is in a
file. Both must give the same bytes.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from drawing import STATISTICS
from laws import fresh, names_of, same
from runner import place
from worlds import Source, Target, World

from mergebuild.methods.catalog import METHODS

_GIVEN = {"density": "0.4", "seed": "3", "t": "0.3", "weight": "0.7", "alpha": "0.4", "gamma": "0.2", "epsilon": "0.1"}
_FILES = {"file": "out/file.safetensors", "checkpoint": "out/checkpoint.ckpt", "virtual": ""}


def _world(method: str) -> World:
    """Return targets by a method whose first input, or another one, is made in the same pass."""
    sources = tuple(Source(f"s{seed}", "llama", seed, dtype="float32") for seed in range(3))
    targets = [
        Target(kind, "slerp", (("a", "s1"), ("b", "s2")), (("t", Decimal(f"0.{number}")), *_dtype(output)), output)
        for number, (kind, output) in enumerate(_FILES.items(), 4)
    ]
    # this target writes the input to a file in the same pass
    targets.append(Target("written", "copy", (("a", "virtual"),), (("dtype", "float32"),), "out/written.safetensors"))
    row = METHODS[method]
    values: tuple[tuple[str, Any], ...] = tuple(
        (each.name, Decimal(_GIVEN[each.name])) for each in row.parameters if each.name in _GIVEN
    )
    if method.startswith("dare"):
        values = (*values, ("rescale", "l1"))  # otherwise it needs no statistic
    for kind in _FILES:
        for name, refs in ((f"{kind}-second", ("s0", kind, "s1")), (f"{kind}-first", (kind, "s0", "s2"))):
            rest = list(refs)
            inputs: list[tuple[str, Any]] = [
                (role, tuple(rest[:2]) if role == "models" else rest.pop(0)) for role in row.inputs
            ]
            targets.append(Target(name, method, tuple(inputs), values, f"out/{name}.safetensors"))
    return World(sources, tuple(targets))


def _dtype(output: str) -> tuple[tuple[str, str], ...]:
    return (("dtype", "float16"),) if output else ()


@pytest.mark.parametrize("method", STATISTICS)
def test_what_is_looked_at_is_what_is_made(method: str) -> None:
    """Building all targets at once, with one thread and with two, gives the same as building one after another."""
    world = _world(method)
    wanted = fresh(world)
    assert wanted.code == 0
    with place() as places:
        at_once = places.new(world)
        same(at_once.build(names_of(world), threads=2), at_once, world, wanted)
        there = places.new(world)
        there.build(list(_FILES))
        for kind in _FILES:
            there.build([f"{kind}-first", f"{kind}-second"])
        same(there.build(names_of(world)), there, world, wanted)
