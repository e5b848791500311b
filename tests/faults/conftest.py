"""What the fault suite shares: how many rounds, by which dice, and where the figures go.

Every test that repeats something takes `rounds`: it is run twice, with the small number in the normal suite and with the
full one, marked `faults`, by `pytest -m faults`. `MERGEBUILD_FAULTS_REPORT` names a file to which each test appends
a line of JSON with its figures; `MERGEBUILD_FAULTS_SEED` repeats the random choices of a run that failed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked_runs import Program
from forty_targets import FIRST, OTHER, Reference, make_sources, reference

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["short", pytest.param("long", marks=pytest.mark.faults)])
def rounds(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Choose between the number of rounds of the fault suite and that of the normal one."""
    return lambda long, short: long if request.param == "long" else short


@pytest.fixture
def chance() -> random.Random:
    """The dice of one test. The seed is shown when it fails."""
    seed = os.environ.get("MERGEBUILD_FAULTS_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"MERGEBUILD_FAULTS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Report figures: printed, and added to the report where one is asked for."""

    def report(**found: object) -> None:
        line = json.dumps({"test": request.node.name, **found})
        print(line)
        if place := os.environ.get("MERGEBUILD_FAULTS_REPORT"):
            with Path(place).open("a") as file:
                file.write(line + "\n")

    return report


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program, in processes of its own."""
    folder = tmp_path_factory.mktemp("runs")
    apart = {"XDG_CONFIG_HOME": str(folder / "config"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MERGEBUILD_STORE", "MERGEBUILD_MODELS", "MERGEBUILD_BOOT_ID", "MERGEBUILD_PORTABLE"):
            patch.delenv(name, raising=False)
        found = Program(folder, apart)
        yield found
        found.close()


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the three sources. Nothing may change them."""
    return make_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def first(program: Program, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The project as it is, undisturbed."""
    return reference(program, tmp_path_factory.mktemp("reference"), sources, FIRST)


@pytest.fixture(scope="session")
def other(program: Program, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The project with the other `m`, undisturbed."""
    return reference(program, tmp_path_factory.mktemp("reference"), sources, OTHER)
