"""A lock is read back as it was written, and held against sources and results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from mergebuild import lockfile
from mergebuild.errors import RecipeError, ResultDiffersError, SourceError

SUM = '[targets.t]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}\noutput = "t.safetensors"\n'
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@given(
    st.dictionaries(NAMES, st.tuples(st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(0, 2**60))),
    st.dictionaries(NAMES, st.text("0123456789abcdef:-xh", max_size=41)),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sources: dict[str, tuple[str, int]], targets: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("lock") / "mergefile.lock"
    lockfile.write(path, lockfile.Locked(sources, targets))
    assert lockfile.read(path) == lockfile.Locked(sources, targets)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version = 2\n",
        "nonsense",
        "version = 1\n[sources.x]\nsize = 3\n",
        "\xff",
        "version = " + "[" * 100_000,
        'version = 1\n[sources.x]\nsha256 = "0"\nsize = inf\n',
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mergefile.lock"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecipeError):
        lockfile.read(path)


def test_a_missing_lock_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "mergefile.lock", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(RecipeError):
            lockfile.read(path)


def test_a_locked_build_refuses_other_sources_and_other_results(lab: Lab) -> None:
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    lab.write(SUM.format(0.25))
    lab.build()
    first = lab.project.lock().read_text()
    assert lab.build(locked=True).ok
    assert lab.project.lock().read_text() == first
    before = (lab / "t.safetensors").read_bytes()
    lab.write(SUM.format(0.5))
    with pytest.raises(ResultDiffersError):
        lab.build(locked=True)
    lab.write(SUM.format(0.25))
    lab.edit_in_place("x.safetensors")
    with pytest.raises(SourceError):
        lab.build(locked=True)
    assert (lab / "t.safetensors").read_bytes() == before
