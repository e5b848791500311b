"""What life does to a project: damaged stores, odd files in the way, edits that hide, two builds at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from project_space import NewSpace, Space
from tiny_models import NAMES, sd15

pytestmark = pytest.mark.portable


def rewrite_quietly(path: Path, offset: int) -> None:
    """Flip a bit in place, and restore size and mtime."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(offset, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# What a build with nothing to do must still see


def test_an_output_edited_in_place_with_mtime_restored_is_changed_by_hand(pair: Space) -> None:
    pair.settle()
    pair.build()
    pair.build()
    rewrite_quietly(pair / "out/mix.safetensors", -5)

    assert pair.states() == {"mix": "changed-by-hand"}
    pair.run("build", code=1)


def test_a_change_in_an_included_file_is_seen(pair: Space) -> None:
    pair.write('[project]\ninclude = ["more.toml"]\n' + (pair / "mergefile.toml").read_text().replace("0.3", '"${m}"'))
    pair.write("[vars]\nm = 0.3\n", "more.toml")
    pair.settle()
    pair.build()
    pair.build()
    pair.write("[vars]\nm = 0.4\n", "more.toml")

    assert pair.build().verdicts == {"mix": "built"}


def test_a_mergefile_edited_with_size_and_mtime_restored_is_seen(pair: Space) -> None:
    pair.settle()
    pair.build()
    pair.build()
    path = pair / "mergefile.toml"
    before = path.stat()
    pair.edit("alpha = 0.3", "alpha = 0.4")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert pair.build().verdicts == {"mix": "built"}


def test_an_override_is_seen_and_its_end_too(pair: Space) -> None:
    pair.settle()
    pair.build()
    pair.build()

    assert pair.build("--set", "mix.alpha=0.4").verdicts == {"mix": "built"}
    assert pair.build("--set", "mix.alpha=0.4").verdicts == {"mix": "up-to-date"}
    assert pair.build().verdicts == {"mix": "restored"}
    assert pair.build().verdicts == {"mix": "up-to-date"}


def test_a_store_that_is_gone_is_seen(pair: Space) -> None:
    pair.settle()
    pair.build()
    pair.build()
    shutil.rmtree(pair / ".mergebuild")
    (pair / "out/mix.safetensors").unlink()

    assert pair.build().verdicts == {"mix": "built"}


def test_another_store_is_seen(pair: Space, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair.settle()
    pair.build()
    pair.build()
    monkeypatch.setenv("MERGEBUILD_STORE", str(tmp_path / "store"))
    (pair / "out/mix.safetensors").unlink()

    assert pair.build().verdicts == {"mix": "built"}


def test_a_source_that_appears_nearer_is_seen(pair: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the mergefile is preferred to one in the folders of `MERGEBUILD_MODELS`."""
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("MERGEBUILD_MODELS", str(tmp_path / "models"))
    (pair / "two.safetensors").rename(tmp_path / "models/two.safetensors")
    pair.settle()
    pair.build()
    pair.build()
    pair.model("two.safetensors", sd15(9))

    assert pair.build().verdicts == {"mix": "built"}


def test_a_source_that_becomes_a_link_to_another_is_seen(pair: Space) -> None:
    pair.settle()
    pair.build()
    pair.build()
    pair.model("other.safetensors", sd15(9))
    (pair / "two.safetensors").unlink()
    (pair / "two.safetensors").symlink_to("other.safetensors")

    assert pair.build().verdicts == {"mix": "built"}


def test_a_source_gone_after_the_build_is_told(pair: Space) -> None:
    """What cannot be verified is not called up to date."""
    pair.settle()
    pair.build()
    pair.build()
    (pair / "two.safetensors").unlink()

    pair.refused("build", code=4)


def test_a_wrong_pin_added_after_the_build_is_told(pair: Space) -> None:
    pair.build()
    pair.build()
    pair.edit('"two.safetensors"', f'{{ path = "two.safetensors", sha256 = "{"0" * 64}" }}')

    pair.refused("build", code=4)


# Damage in the store


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut"])
def test_a_damaged_database_is_no_bug_of_ours(pair: Space, damage: str) -> None:
    """The state is told to be damaged (exit 5), or made anew; never a traceback, never a wrong result."""
    pair.build()
    before = pair.bytes("out/mix.safetensors")
    for path in (pair / ".mergebuild").glob("state.sqlite3*"):
        raw = path.read_bytes()
        path.write_bytes({"garbage": b"no database at all" * 400, "empty": b"", "cut": raw[: len(raw) // 2]}[damage])

    outcome = pair.run("build", "--json", code=None)

    assert outcome.code in {0, 5}, outcome.err
    assert "Traceback" not in outcome.err
    assert pair.bytes("out/mix.safetensors") == before


@pytest.mark.parametrize("link", ["copy", "hard"])
def test_a_damaged_copy_in_the_store_is_never_restored(pair: Space, link: str) -> None:
    pair.write(f'[project]\nlink = "{link}"\n' + (pair / "mergefile.toml").read_text())
    pair.build()
    before = pair.bytes("out/mix.safetensors")
    (pair / "out/mix.safetensors").unlink()
    (kept,) = (pair / ".mergebuild/kept").iterdir()
    rewrite_quietly(kept, -5)

    built = pair.build()

    assert built.verdicts == {"mix": "built"}
    assert pair.bytes("out/mix.safetensors") == before


def test_a_damaged_history_is_never_restored(pair: Space) -> None:
    pair.build()
    before = pair.bytes("out/mix.safetensors")
    pair.build("--set", "mix.alpha=0.4")
    (kept,) = (pair / ".mergebuild/history").iterdir()
    rewrite_quietly(kept, -5)

    pair.build()

    assert pair.bytes("out/mix.safetensors") == before


def test_tensors_are_not_taken_from_an_output_that_was_changed(pair: Space) -> None:
    """Not even where another target reads the same ones."""
    pair.build()
    pair.build("mix", "-o", "clean.safetensors")
    clean = pair.bytes("clean.safetensors")
    (pair / "clean.safetensors").unlink()
    rewrite_quietly(pair / "out/mix.safetensors", -5)

    pair.build("mix", "-o", "again.safetensors")

    assert pair.bytes("again.safetensors") == clean


def test_verify_names_damage_in_the_history(pair: Space) -> None:
    pair.build()
    pair.build("--set", "mix.alpha=0.4")
    (kept,) = (pair / ".mergebuild/history").iterdir()
    rewrite_quietly(kept, -5)

    pair.run("verify", code=5)


# Things in the way


def test_a_folder_where_the_output_goes_is_told(pair: Space) -> None:
    (pair / "out/mix.safetensors").mkdir(parents=True)

    outcome = pair.run("build", "--json", code=1)

    assert "Traceback" not in outcome.err
    assert (pair / "out/mix.safetensors").is_dir()


def test_a_file_where_the_outputs_folder_goes_is_told(pair: Space) -> None:
    (pair / "out").write_text("a file")

    outcome = pair.run("build", "--json", code=1)

    assert "Traceback" not in outcome.err
    assert (pair / "out").read_text() == "a file"


def test_an_output_that_is_a_link_within_the_project_is_not_followed_blindly(pair: Space) -> None:
    """A link at an output's path is not ours: refused, and what it leads to stays."""
    (pair / "out").mkdir()
    (pair / "elsewhere").write_bytes(b"precious")
    (pair / "out/mix.safetensors").symlink_to("../elsewhere")

    pair.run("build", code=1)

    assert pair.bytes("elsewhere") == b"precious"


def test_an_output_replaced_by_a_broken_link_is_not_overwritten(pair: Space) -> None:
    pair.build()
    (pair / "out/mix.safetensors").unlink()
    (pair / "out/mix.safetensors").symlink_to("nowhere")

    assert pair.states()["mix"] != "up-to-date"
    outcome = pair.run("build", "--json", code=None)
    assert outcome.code in {0, 1}
    assert "Traceback" not in outcome.err


def test_o_writes_again_over_what_o_wrote(pair: Space) -> None:
    """What `-o` wrote is ours: the next `-o` replaces it, and leaves it alone where it is the same."""
    pair.build("mix", "-o", "copy.safetensors")
    first = pair.bytes("copy.safetensors")

    assert pair.build("mix", "-o", "copy.safetensors").verdicts == {"mix": "up-to-date"}
    pair.build("mix", "-o", "copy.safetensors", "--set", "mix.alpha=0.9")
    assert pair.bytes("copy.safetensors") != first


def test_a_target_whose_output_became_anothers(pair: Space) -> None:
    """Two targets that swap their outputs are both right afterwards, and nothing is lost on the way."""
    text = (pair / "mergefile.toml").read_text().split("[targets")[0]
    body = '[targets.{0}]\nformula = "{1}"\noutput = "out/{2}.safetensors"\n'
    pair.write(text + body.format("x", "0.1*one + 0.9*two", "x") + body.format("y", "0.6*one + 0.4*two", "y"))
    pair.build()
    x, y = pair.bytes("out/x.safetensors"), pair.bytes("out/y.safetensors")
    pair.write(text + body.format("x", "0.1*one + 0.9*two", "y") + body.format("y", "0.6*one + 0.4*two", "x"))

    built = pair.build()

    assert set(built.verdicts.values()) <= {"built", "restored"}
    assert (pair.bytes("out/x.safetensors"), pair.bytes("out/y.safetensors")) == (y, x)
    assert set(pair.build().verdicts.values()) == {"up-to-date"}


def test_a_source_that_was_an_output_before(pair: Space) -> None:
    """An output that a later recipe takes as its source is never touched again."""
    pair.build()
    before = pair.bytes("out/mix.safetensors")
    pair.write(
        """
        [sources]
        old = "out/mix.safetensors"
        [targets.next]
        formula = "old*0.5"
        output = "out/next.safetensors"
        """
    )

    pair.build()
    pair.run("clean", "--orphans")
    pair.run("clean", "--yes")
    pair.run("gc", "--max-size", "0")

    assert pair.bytes("out/mix.safetensors") == before


# Two at once


def test_two_builds_at_once_take_turns(pair: Space) -> None:
    processes = [pair.spawn("build", "--json") for _ in range(2)]

    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert pair.build().verdicts == {"mix": "up-to-date"}


def test_projects_in_one_folder_share_nothing_but_the_store(pair: Space) -> None:
    """Two mergefiles side by side: neither's outputs are the other's orphans."""
    pair.write((pair / "mergefile.toml").read_text().replace("out/mix", "out/second"), "second.toml")
    pair.build()
    pair.build("-f", "second.toml")

    assert pair.json("status")["orphans"] == []
    assert pair.json("status", "-f", "second.toml")["orphans"] == []
    pair.run("clean", "--orphans")
    assert (pair / "out/second.safetensors").exists()


def test_a_store_on_another_file_system(pair: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be linked or renamed between store and outputs, all verdicts and bytes are right still."""
    shm = Path("/dev/shm")
    place = shm if shm.is_dir() and shm.stat().st_dev != pair.root.stat().st_dev else pair.root
    store = place / f"mergebuild-test-{os.getpid()}"
    monkeypatch.setenv("MERGEBUILD_STORE", str(store))
    try:
        pair.build()
        before = pair.bytes("out/mix.safetensors")
        pair.build("--set", "mix.alpha=0.4")
        assert set(pair.build().verdicts.values()) <= {"restored", "built"}
        assert pair.bytes("out/mix.safetensors") == before
        pair.write('[project]\nlink = "hard"\n' + (pair / "mergefile.toml").read_text())
        pair.build()
        (pair / "out/mix.safetensors").unlink()
        pair.build()
        assert pair.bytes("out/mix.safetensors") == before
    finally:
        shutil.rmtree(store, ignore_errors=True)


def test_a_copy_of_the_project_with_its_store_trusts_nothing_blindly(pair: Space, new_space: NewSpace) -> None:
    """A store that was copied with its folder still describes what stands in the copy."""
    pair.build()
    copy = new_space("copy")
    shutil.copytree(pair.root, copy.root, dirs_exist_ok=True)

    assert copy.build().verdicts == {"mix": "up-to-date"}
    assert copy.build("--set", "mix.alpha=0.4").verdicts == {"mix": "built"}
    assert pair.build().verdicts == {"mix": "up-to-date"}


def test_sources_with_other_headers_and_orders_are_the_same_tensors(pair: Space) -> None:
    """Written by another tool: tensors in another order, an odd header length, another key order."""
    import json

    from mergebuild.formats.header import read_header

    pair.build()
    path = pair / "two.safetensors"
    raw, header = path.read_bytes(), read_header(path)
    entries: dict[str, object] = {}
    data = b""
    for name, info in reversed(list(header.tensors.items())):
        piece = raw[info.begin : info.end]
        tag = {"float16": "F16", "int64": "I64"}[info.dtype]
        entries[name] = {"data_offsets": [len(data), len(data) + len(piece)], "shape": list(info.shape), "dtype": tag}
        data += piece
    text = json.dumps(entries).encode()
    text += b" " * (3 - len(text) % 2)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert (8 + len(text)) % 2 == 1

    assert pair.build().verdicts == {"mix": "up-to-date"}
    shutil.rmtree(pair / ".mergebuild")
    before = pair.bytes("out/mix.safetensors")
    (pair / "out/mix.safetensors").unlink()
    pair.build()
    assert pair.bytes("out/mix.safetensors") == before


def test_many_outputs_in_one_build(pair: Space) -> None:
    """More targets than a wave holds open files for."""
    pair.model("one.safetensors", sd15(1, names=NAMES[:6]))
    pair.model("two.safetensors", sd15(2, names=NAMES[:6]))
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.mix]
        foreach.alpha = { from = 0.001, to = 0.45, step = 0.001 }
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${alpha}"
        output = "out/mix-${alpha}.safetensors"
        """
    )

    built = pair.build()

    assert list(built.verdicts.values()) == ["built"] * 450
    assert set(pair.build().verdicts.values()) == {"up-to-date"}
