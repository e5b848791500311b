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


def test_the_bits_do_not_depend_on_the_instructions() -> None:
    """Without vector instructions and fused multiply-add, and with all that this processor has."""
    found = []
    for capability in ({"ATEN_CPU_CAPABILITY": "default"}, {}):
        environment = {name: each for name, each in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM],
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)} | capability,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout.splitlines())
    assert len(found[0]) == sum(METHODS[name].exact for name in TRIALS)
    assert found[0] == found[1]
