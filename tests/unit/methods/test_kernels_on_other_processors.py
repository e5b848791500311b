"""Methods that call themselves exact have the same bits with any instructions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from method_trials import TRIALS

from mergebuild.methods.catalog import METHODS

pytestmark = pytest.mark.processes

_PROGRAM = """
import torch, xxhash
from kernel_driver import kernel_of, run
from model_files import as_bytes
from method_trials import METHODS, TRIALS, call_for, count_for

for name, trial in TRIALS.items():
    if not METHODS[name].exact:
        continue
    running = xxhash.xxh3_64()
    for setting in trial.settings:
        draw = torch.Generator().manual_seed(0)
        first, *others = torch.randint(-(2**15), 2**15, (4, 40, 101), generator=draw).float().mul(2.0**-20).unbind()
        inputs = [first, *(first + each / 64 for each in others)][: count_for(name, setting)]
        made = run(kernel_of(METHODS[name]), call_for(name, (40, 101), setting), inputs, None)
        running.update(as_bytes(made))
    print(name, running.hexdigest())
"""

_LORAS = """
import torch, xxhash
from model_files import as_bytes
from mergebuild.methods.kernels.lora import delta

draw = torch.Generator().manual_seed(0)
drawn = lambda *shape: torch.randint(-(2**23), 2**23, shape, generator=draw).float() * 2.0**-24
shapes = {"lora": {"up": (96, 40), "down": (40, 300)},
          "tucker": {"up": (96, 8), "mid": (8, 9, 3, 3), "down": (9, 100)},
          "loha": {"w1_a": (96, 7), "w1_b": (7, 300), "w2_a": (96, 7), "w2_b": (7, 300)},
          "lokr": {"w1_a": (3, 2), "w1_b": (2, 10), "w2_a": (32, 5), "w2_b": (5, 30)}}
for family, factors in shapes.items():
    shape = (96, 100, 3, 3) if family == "tucker" else (96, 300)
    weight = drawn(*shape)
    for facts in ({}, {"dora": "rows"}, {"dora": "columns"}):
        made = {role: drawn(*each) for role, each in factors.items()}
        made["scale"] = torch.tensor(0.3)
        if facts:
            made["dora_scale"] = drawn(shape[facts["dora"] == "columns"])
        print(family, facts, xxhash.xxh3_64_hexdigest(as_bytes(delta(family, made, facts, shape, weight))))
"""


def _said(program: str) -> list[list[str]]:
    """Return what a program says without vector instructions and fused multiply-add, and with all that are here."""
    found = []
    for capability in ({"ATEN_CPU_CAPABILITY": "default"}, {}):
        environment = {name: each for name, each in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)} | capability,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout.splitlines())
    return found


def test_the_bits_do_not_depend_on_the_instructions() -> None:
    without, every = _said(_PROGRAM)
    assert len(without) == sum(METHODS[name].exact for name in TRIALS)
    assert without == every


def test_nor_do_those_of_what_loras_add() -> None:
    """Of products, of what was multiplied before, and of decomposed weights."""
    without, every = _said(_LORAS)
    assert len(without) == 12
    assert without == every
