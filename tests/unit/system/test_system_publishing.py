"""Laws of publishing: the old file or the new one, and a date that tells every later edit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mergebuild.system import publishing


def test_a_small_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    publishing.write_text(path, "old\n")

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="no"):
            publishing.write_text(path, "new\n")
    assert path.read_text() == "old\n"
    publishing.write_text(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_dated_finer_than_the_clock_of_a_file_system_ticks(tmp_path: Path) -> None:
    """So that an edit in the same tick shows; where times can't be set the file comes to its place all the same."""
    finer = 0
    for number in range(20):
        temporary, path = tmp_path / "new", tmp_path / f"file-{number}"
        temporary.write_bytes(b"1")
        publishing.put(temporary, path, durable=number % 2 == 1)
        finer += path.stat().st_mtime_ns % 1_000_000 != 0
    assert finer > 15


def test_what_is_left_over_goes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder/deep").mkdir(parents=True)
    left = [
        ".x.safetensors.mergebuild-123",
        ".x.safetensors.mergebuild-124-journal",
        "folder/deep/.shard.safetensors.mergebuild-9",
    ]
    stays = [".y.safetensors.mergebuild-123", "x.safetensors", ".x.safetensors", "folder/deep/.hidden", ".mergebuild-1"]
    for name in [*left, *stays]:
        (tmp_path / name).touch()
    publishing.remove_left_over([tmp_path / "x.safetensors", tmp_path / "none/y"], [tmp_path / "folder"])
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        stays
    )


NAMES = [
    *("x" * (length - 12) + ".safetensors" for length in (227, 228, 235, 236, 254, 255)),
    "é" * 121 + ".safetensors",  # of 254 bytes, in which no sign is cut in two
    "\udcff" * 200 + ".safetensors",  # no UTF-8
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{len(os.fsencode(name))}")
def test_every_name_of_a_file_has_a_temporary_one(tmp_path: Path, name: str) -> None:
    """Which fits, with SQLite's journal beside it, says that it is one, and goes with the others that are left."""
    path, other = tmp_path / name, tmp_path / f"y{name[1:]}"
    for each in (path, other):
        temporary = publishing.temporary_path(each)
        assert len(os.fsencode(temporary.name)) <= 255 - len("-journal")
        assert publishing.is_temporary(temporary.name)
        temporary.touch()
    assert len(list(tmp_path.iterdir())) == 2
    publishing.remove_left_over([path])
    assert list(tmp_path.iterdir()) == [publishing.temporary_path(other)]
    publishing.write_text(path, "whole\n")
    assert path.read_text() == "whole\n"


def test_a_link_at_a_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("precious")
    publishing.temporary_path(tmp_path / "file").symlink_to("letter")
    (tmp_path / "file").symlink_to("letter")
    publishing.write_text(tmp_path / "file", "new\n")
    assert (tmp_path / "letter").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "new\n"
    assert not (tmp_path / "file").is_symlink()
