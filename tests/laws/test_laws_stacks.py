"""The laws of stacks: of every method, and of slices drawn at random.

A stack that restates what a target does without slices is that target's artifact, however it is divided. Each layer of
a stack is the layer that the target without slices would make of the same layers of its inputs. What is built on top
of what was there is what a fresh build makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from example_counts import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from lab import Lab
from method_trials import TRIALS
from model_files import write_model
from tiny_models import llama

from mergebuild.methods.catalog import METHODS
from mergebuild.methods.method import Method

DEPTH = 4
NAMES = ("x", "y", "z", "v")

ON_MODELS = sorted(
    name
    for name, row in METHODS.items()
    if not row.makes.makes_lora and "loras" not in row.inputs and not row.makes.reads_loras and name in TRIALS
)


def filled(root: Path, *, tied: bool = False) -> Lab:
    """Return a project with four models of a few layers, which are fine-tunes of one."""
    lab = Lab(root)
    for seed, name in enumerate(NAMES):
        state = llama(seed, dtype=torch.float32 if seed == 2 else torch.bfloat16, layers=DEPTH)
        if tied:
            del state["lm_head.weight"]
        write_model(root / f"{name}.safetensors", state)
        lab.sources[name] = f"{name}.safetensors"
    return lab


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def making(row: Method, given: Mapping[str, Any], models: int) -> str:
    """Return the lines of a target with a method and the arguments of a trial."""
    lines, names = [f'method = "{row.name}"'], iter(NAMES)
    for role in row.inputs:
        if role in row.optional and not given.get(f"has_{role}", True):
            continue
        lines.append(f"{role} = {toml([next(names) for _ in range(models)] if role == 'models' else next(names))}")
    seeded = {"seed": 3} if row.parameter("seed") else {}
    arguments = {**seeded, **{key: value for key, value in given.items() if not key.startswith("has_")}}
    return "\n".join([*lines, *(f"{key} = {toml(value)}" for key, value in arguments.items())])


def artifact(lab: Lab, text: str) -> str:
    """Build the target `t`, and return its artifact."""
    lab.write(f'[targets.t]\noutput = "t.safetensors"\n{text}')
    (found,) = lab.build("t").targets
    assert found.artifact, found.error
    return found.artifact


def listed(*ranges: tuple[int, int]) -> str:
    """Return slices with these layers, first and last."""
    texts = [f"L{first:02}-L{last:02}" for first, last in ranges]
    return f"slices = [{', '.join(f'{{ layers = {toml(text)} }}' for text in texts)}]"


@pytest.mark.parametrize("name", ON_MODELS)
def test_slices_that_restate_a_target_are_it_for_every_method(tmp_path: Path, name: str) -> None:
    row, trial = METHODS[name], TRIALS[name]
    lab = filled(tmp_path)
    text = making(row, trial.settings[0], trial.models)
    plain = artifact(lab, text)
    assert artifact(lab, f"{text}\n{listed((0, DEPTH - 1))}") == plain
    assert artifact(lab, f"{text}\n{listed((0, 1), (2, DEPTH - 1))}") == plain


CUTS = st.sets(st.integers(1, DEPTH - 1)).map(lambda cuts: [*pairwise([0, *sorted(cuts), DEPTH])])
NUMBERS = st.sampled_from(
    ["0.3", "{ default = 0.25, L01-L02 = 0.5 }", "{ default = 1, attn = 0.5, L03 = 0.125, head = 0.75 }",
     '{ "*.mlp.*" = 0.5, embed = 0.25 }', '{ default = 0, elemental = "L01-L03:mlp:0.5" }']
)  # fmt: skip
SOME_METHODS = st.sampled_from(
    ['method = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}', 'method = "slerp"\na = "x"\nb = "z"\nt = {}',
     'method = "dare_ties"\nbase = "x"\nmodels = ["y", "z"]\nweight = {}\ndensity = 0.5\nseed = 1',
     'method = "task_arithmetic"\nbase = "z"\nmodels = ["x"]\nweight = {}', 'formula = "x + n*(y - z)"\nn = {}']
)  # fmt: skip


@examples(12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=SOME_METHODS, number=NUMBERS, cuts=CUTS, tied=st.booleans())
def test_a_slice_that_is_divided_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, method: str, number: str, cuts: Sequence[tuple[int, int]], tied: bool
) -> None:
    lab = filled(tmp_path_factory.mktemp("law"), tied=tied)
    text = method.format(number)
    plain = artifact(lab, text)
    assert artifact(lab, f"{text}\n{listed(*((first, last - 1) for first, last in cuts))}") == plain


RANGE = st.tuples(st.integers(0, DEPTH - 1), st.integers(0, DEPTH - 1)).map(lambda pair: (min(pair), max(pair)))
RANGES = st.lists(RANGE, min_size=1, max_size=4)


@examples(12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=SOME_METHODS, walk=st.lists(RANGES, min_size=2, max_size=3), dtype=st.sampled_from(["float16", "source"]))
def test_layers_are_those_of_the_target_without_slices_whatever_was_built_before(
    tmp_path_factory: pytest.TempPathFactory, method: str, walk: Sequence[Sequence[tuple[int, int]]], dtype: str
) -> None:
    """And nothing is computed that was there: the target without slices has made every layer."""
    root = tmp_path_factory.mktemp("law")
    (root / "one").mkdir()
    lab = filled(root / "one")
    text = f'dtype = "{dtype}"\n{method.format("0.3")}'
    artifact(lab, text)
    plain = lab.read("t.safetensors")
    for number, ranges in enumerate(walk):
        lab.write(f'[targets.t]\noutput = "t.safetensors"\n{text}\n{listed(*ranges)}')
        (built,) = lab.build("t").targets
        assert built.tensors_computed == 0
        found, layers = lab.read("t.safetensors"), [at for first, last in ranges for at in range(first, last + 1)]
        assert len(found) == 3 + 8 * len(layers)
        for name, tensor in found.items():
            words = name.split(".")
            own = ".".join([*words[:2], str(layers[int(words[2])]), *words[3:]]) if "layers" in words else name
            assert torch.equal(tensor.view(torch.uint8), plain[own].view(torch.uint8)), name
        (root / f"fresh{number}").mkdir()
        fresh = filled(root / f"fresh{number}")
        with mock.patch("mergebuild.plan.describe.SMALL", -1):  # sources are hashed in the pass that merges them
            assert artifact(fresh, f"{text}\n{listed(*ranges)}") == built.artifact
        assert (root / f"fresh{number}/t.safetensors").read_bytes() == (root / "one/t.safetensors").read_bytes()


@examples(8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=SOME_METHODS, some=st.lists(RANGES, min_size=2, max_size=3))
def test_stacks_that_are_built_together_are_what_each_is_alone(
    tmp_path_factory: pytest.TempPathFactory, method: str, some: Sequence[Sequence[tuple[int, int]]]
) -> None:
    root = tmp_path_factory.mktemp("law")
    texts = [
        f'[targets.t{number}]\noutput = "t{number}.safetensors"\n{method.format("0.3")}\n{listed(*ranges)}\n'
        for number, ranges in enumerate(some)
    ]
    made: list[Mapping[str, tuple[str | None, bytes]]] = []
    for at, parts in enumerate((["".join(texts)], texts)):
        (root / str(at)).mkdir()
        lab = filled(root / str(at))
        found: dict[str, tuple[str | None, bytes]] = {}
        for part in parts:
            lab.write(part)
            for each in lab.build().targets:
                found[each.target] = (each.artifact, (lab / f"{each.target}.safetensors").read_bytes())
        made.append(found)
    assert made[0] == made[1]
