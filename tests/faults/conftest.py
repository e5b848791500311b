"""What the fault suite shares.

Every test with a `bench` is there twice: with few rounds in the normal suite, and with all of them, marked `faults`,
for `pytest -m faults`; what takes a `full_bench` is marked so itself, and there once. `MERGEBUILD_FAULTS_REPORT` names
a file to which each test appends a line of JSON with its figures; `MERGEBUILD_FAULTS_SEED` repeats the random choices
of a run that failed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench import Bench
from forked_runs import Program
from forty_targets import FIRST, OTHER, Reference, make_sources, reference

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def full_bench(
    request: pytest.FixtureRequest, tmp_path: Path, program: Program, sources: Path, first: Reference, other: Reference
) -> Iterator[Bench]:
    """A place to work in, with the full number of rounds."""
    seed = os.environ.get("MERGEBUILD_FAULTS_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"MERGEBUILD_FAULTS_SEED={seed}")
    before = {path: path.read_bytes() for path in sources.iterdir()}
    yield Bench(request.node.name, tmp_path, program, sources, first, other, random.Random(seed), is_long=True)
    assert {path: path.read_bytes() for path in sources.iterdir()} == before, "an input was touched"


@pytest.fixture(params=["short", pytest.param("long", marks=pytest.mark.faults)])
def bench(request: pytest.FixtureRequest, full_bench: Bench) -> Bench:
    """A place to work in, twice: with few rounds for the normal suite, and with all for the fault suite."""
    return replace(full_bench, is_long=request.param == "long")
