"""Hashes are what their definitions say, from one reading, whatever the chunks; pins are met or told apart."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.sources import hashes
from mergebuild.sources.hashes import EVERY, Difference, differs, of_file, of_files


def a_file(path: Path, size: int, header: bytes = b'{"a":1}') -> bytes:
    """Write a file that begins as a safetensors file does; return it whole."""
    raw = len(header).to_bytes(8, "little") + header + random.Random(size).randbytes(size)
    path.write_bytes(raw)
    return raw


@pytest.mark.parametrize("size", [0, 8, 0x100000, 0x110000, 0x100000 + 100, 3 << 20])
@pytest.mark.parametrize("chunk", [1 << 16, 1000003, 4 << 20])
def test_hashes_are_those_of_their_definitions(
    size: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AutoV1: 64 KiB at 1 MiB. AutoV2: the beginning of SHA-256. AutoV3: without the length and the header."""
    monkeypatch.setattr(hashes, "_CHUNK", chunk)
    raw = a_file(tmp_path / "m", size)
    sha256 = hashlib.sha256(raw).hexdigest()
    found = of_file(tmp_path / "m", has_length=True)
    assert list(found) == list(EVERY)
    assert found == {
        "sha256": sha256,
        "autov1": hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8],
        "autov2": sha256[:10],
        "autov3": hashlib.sha256(raw[8 + 7 :]).hexdigest(),
    }


@given(st.sets(st.sampled_from(EVERY)), st.booleans())
def test_those_wanted_are_the_same_as_among_all(
    tmp_path_factory: pytest.TempPathFactory, wanted: set[str], has_length: bool
) -> None:
    path = tmp_path_factory.mktemp("m") / "m"
    a_file(path, 100)
    every = of_file(path, has_length=has_length)
    assert of_file(path, has_length=has_length, wanted=wanted) == {
        name: digits for name, digits in every.items() if name in wanted
    }


def test_what_is_no_safetensors_file_has_no_autov3(tmp_path: Path) -> None:
    raw = a_file(tmp_path / "m.ckpt", 50)
    found = of_file(tmp_path / "m.ckpt", has_length=False)
    assert found["autov3"] is None
    assert found["sha256"] == hashlib.sha256(raw).hexdigest()


def test_a_folder_is_hashed_as_the_usual_tools_would(tmp_path: Path) -> None:
    """`sha256sum a b/c | sort | sha256sum`, whatever the order of the files and wherever the folder lies."""
    (tmp_path / "b").mkdir()
    paths = [tmp_path / "b" / "c", tmp_path / "a"]
    digests = [hashlib.sha256(a_file(path, 10 + at)).hexdigest() for at, path in enumerate(paths)]
    text = "".join(sorted([f"{digests[0]}  b/c\n", f"{digests[1]}  a\n"]))
    wanted = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "autov1": None, "autov2": None, "autov3": None}
    assert of_files(tmp_path, paths) == of_files(tmp_path, paths[::-1]) == wanted
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert of_files(moved, [moved / "a", moved / "b" / "c"]) == wanted


FOUND = {"sha256": "9a" * 32, "autov1": "12345678", "autov2": "9a9a9a9a9a", "autov3": "7b" * 32}


@pytest.mark.parametrize(
    ("pins", "difference"),
    [
        ({}, None),
        ({"sha256": "9a" * 32, "autov2": "9a9a9a9a9a", "autov3": "7b" * 32}, None),
        ({"autov3": "7b" * 6}, None),
        ({"autov3": "7c" * 6}, Difference("autov3", "7c" * 6, "7b" * 32)),
        ({"autov2": "9a9a9a9a9a", "sha256": "0" * 64}, Difference("sha256", "0" * 64, "9a" * 32)),
    ],
)
def test_every_pin_must_be_met(pins: dict[str, str], difference: Difference | None) -> None:
    assert differs(pins, FOUND) == difference


def test_a_hash_that_a_file_does_not_have_meets_no_pin() -> None:
    assert differs({"autov3": "7b" * 6}, FOUND | {"autov3": None}) == Difference("autov3", "7b" * 6, None)
    assert differs({"autov3": "7b" * 6}, {}) == Difference("autov3", "7b" * 6, None)
