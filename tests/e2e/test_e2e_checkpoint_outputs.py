"""Outputs that are checkpoints of PyTorch: the same tensors in another file, made and kept as any other."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from model_files import same_bits
from model_folders import checkpoint, sharded
from project_space import Space
from tiny_models import llama, sd15

IN04 = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def mix(pair: Space) -> Space:
    """The pair's mix as a checkpoint, built; its metadata as they are by default."""
    pair.edit('"out/mix.safetensors"', '"out/mix.ckpt"')
    pair.edit("alpha = 0.3", "alpha = { default = 0.3, IN04 = 0.5 }")
    pair.build()
    pair.settle()
    return pair


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors as careful readers load them."""
    found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return found


def flip(path: Path, at: int = -1) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_a_checkpoint_has_the_tensors_of_a_safetensors_file(mix: Space) -> None:
    mix.edit('"out/mix.ckpt"', '"out/mix.safetensors"')
    assert mix.build()["mix"]["tensors_computed"] == 0
    one_file = mix.read("out/mix.safetensors")
    found = loaded(mix / "out/mix.ckpt")
    assert found.keys() == one_file.keys()
    assert all(same_bits(found[name], one_file[name]) for name in one_file)
    with zipfile.ZipFile(mix / "out/mix.ckpt") as archive:
        assert archive.testzip() is None


def test_round_trips_give_the_same_tensors(space: Space) -> None:
    """From a checkpoint to safetensors and back, and by way of a folder."""
    checkpoint(space / "first.ckpt", sd15(1))
    space.write(
        """
        [sources]
        first = "first.ckpt"
        [targets.a]
        method = "copy"
        a = "first"
        output = "a.safetensors"
        [targets.b]
        method = "copy"
        a = "a"
        output = "b.ckpt"
        [targets.c]
        method = "copy"
        a = "b"
        output = "c/"
        [targets.d]
        method = "copy"
        a = "c"
        output = "d.ckpt"
        """
    )
    built = space.build()
    assert len({each["artifact"] for each in built.document["targets"]}) == 1
    assert built.computed == 0
    assert all(same_bits(each, sd15(1)[name]) for name, each in loaded(space / "d.ckpt").items())
    assert space.bytes("b.ckpt") == space.bytes("d.ckpt")
    space.edit('"first.ckpt"', '"b.ckpt"')
    space.edit('"b.ckpt"\n[targets.c]', '"e.ckpt"\n[targets.c]')
    space.build("b")
    assert space.bytes("e.ckpt") == space.bytes("b.ckpt")


def test_the_same_bytes_each_time(mix: Space) -> None:
    before = mix.bytes("out/mix.ckpt")
    mix.run("clean", "--yes")
    mix.run("build", "-j", "1")
    assert mix.bytes("out/mix.ckpt") == before
    assert mix.run("verify", "--rebuild").code == 0


def test_a_second_build_answers_from_stat_data_alone(mix: Space) -> None:
    mix.settle()
    mix.build()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mergebuild", "build"],
        cwd=mix.root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("nothing to do")
    assert "mergebuild.plan.planner" not in done.stderr


def test_a_changed_block_computes_that_block(mix: Space) -> None:
    mix.edit("IN04 = 0.5", "IN04 = 0.75")
    assert mix.build()["mix"]["tensors_computed"] == 2
    assert mix.run("verify", "--rebuild").code == 0
    one, two = sd15(1)[IN04].float(), sd15(2)[IN04].float()
    assert same_bits(loaded(mix / "out/mix.ckpt")[IN04], (two + 0.25 * (one - two)).to(torch.float16))
    with zipfile.ZipFile(mix / "out/mix.ckpt") as archive:
        assert archive.testzip() is None
    mix.edit("IN04 = 0.75", "IN04 = 0.5")
    assert mix.build().verdicts == {"mix": "restored"}


def test_another_dtype_is_another_file(mix: Space) -> None:
    mix.edit('output = "out/mix.ckpt"', 'output = "out/mix.ckpt"\ndtype = "bfloat16"')
    mix.build()
    assert {each.dtype for each in loaded(mix / "out/mix.ckpt").values() if each.is_floating_point()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("link", ["hard", "copy"])
def test_a_deleted_checkpoint_is_restored(pair: Space, link: str) -> None:
    pair.edit('"out/mix.safetensors"', '"out/mix.ckpt"')
    pair.write(f'[project]\nlink = "{link}"\n' + (pair / "mergefile.toml").read_text())
    pair.build()
    before = pair.bytes("out/mix.ckpt")
    (pair / "out/mix.ckpt").unlink()
    assert pair.states() == {"mix": "missing"}
    built = pair.build()
    assert (built.verdicts, built.computed) == ({"mix": "restored"}, 0)
    assert pair.bytes("out/mix.ckpt") == before


def test_two_checkpoints_of_one_artifact_are_one_merge(mix: Space) -> None:
    text = (mix / "mergefile.toml").read_text()
    target = text[text.index("[targets.mix]") :]
    (mix / "mergefile.toml").write_text(text + target.replace("targets.mix", "targets.x").replace("mix.ckpt", "x.ckpt"))
    built = mix.build()
    assert (built["x"]["verdict"], built["x"]["tensors_computed"]) == ("restored", 0)
    assert mix.bytes("out/x.ckpt") == mix.bytes("out/mix.ckpt")


@pytest.mark.parametrize("at", [10, -1, 20_000, 60_000])
def test_verify_finds_a_flipped_bit_wherever_it_is(mix: Space, at: int) -> None:
    """In the pickle, in a tensor, between tensors, in the directory."""
    path = mix / "out/mix.ckpt"
    state = path.stat()
    flip(path, at)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert mix.run("verify", "--json", code=5).errors == ["corrupt"]


def test_every_byte_of_a_checkpoint_is_watched(mix: Space) -> None:
    """Each entry of its table, and what lies before the first: nothing is between them."""
    from mergebuild.store import DiskStore

    store = DiskStore(mix / ".mergebuild", project="mergefile.toml")
    (row,) = store.state.artifacts(path=mix / "out/mix.ckpt")
    entries = sorted(store.shelf.entries(row), key=lambda entry: entry.begin)
    store.close()
    ends = [entry.end for entry in entries]
    assert [entry.begin for entry in entries[1:]] == ends[:-1]
    assert ends[-1] == (mix / "out/mix.ckpt").stat().st_size


def test_a_checkpoint_changed_by_hand_stays(mix: Space) -> None:
    path = mix / "out/mix.ckpt"
    before = path.read_bytes()
    flip(path)
    assert mix.states() == {"mix": "changed-by-hand"}
    assert mix.run("build", "--json", code=1).json["targets"][0]["error"]["code"] == "changed-by-hand"
    assert mix.run("clean", "--yes").out.startswith("kept out/mix.ckpt (changed by hand)")
    mix.run("build", "--force")
    assert path.read_bytes() == before
    assert (mix / "out/mix.by-hand-1.ckpt").exists()


def test_clean_removes_it_and_orphans_are_told(mix: Space) -> None:
    mix.edit('"out/mix.ckpt"', '"out/other.ckpt"')
    assert mix.json("status")["orphans"] == ["out/mix.ckpt"]
    mix.build()
    mix.run("clean", "--orphans")
    assert [path.name for path in (mix / "out").iterdir()] == ["other.ckpt"]
    mix.run("clean", "--yes")
    assert not (mix / "out/other.ckpt").exists()


def test_without_its_records_it_is_known_again(mix: Space) -> None:
    before = mix.bytes("out/mix.ckpt")
    for path in (mix / ".mergebuild").glob("state*"):
        path.unlink()
    assert mix.build()["mix"]["error"] is None
    assert mix.bytes("out/mix.ckpt") == before
    assert mix.build().verdicts == {"mix": "up-to-date"}


DIES = """
import os, signal, sys
from mergebuild.cli import main
from mergebuild.store.publisher import DiskPublisher

def moved(*_arguments, **_words):
    os.kill(os.getpid(), signal.SIGKILL)

DiskPublisher._moved = moved
main(sys.argv[1:])
"""
"""Ends between the rename and the record."""


def test_a_build_that_was_killed_is_healed(pair: Space) -> None:
    pair.edit('"out/mix.safetensors"', '"out/mix.ckpt"')
    died = subprocess.run([sys.executable, "-c", DIES, "build"], cwd=pair.root, capture_output=True, check=False)
    assert died.returncode == -9, died.stderr
    before = pair.bytes("out/mix.ckpt")
    assert pair.states() == {"mix": "up-to-date"}
    assert pair.build().verdicts == {"mix": "up-to-date"}
    assert pair.bytes("out/mix.ckpt") == before
    pair.run("verify")


def test_o_writes_a_checkpoint(mix: Space) -> None:
    mix.run("build", "mix", "-o", "x.ckpt", "--dtype", "float32")
    assert {each.dtype for each in loaded(mix / "x.ckpt").values() if each.is_floating_point()} == {torch.float32}
    assert mix.states() == {"mix": "up-to-date"}


def test_a_folder_becomes_a_checkpoint(space: Space) -> None:
    sharded(space / "one", llama(1))
    space.write('[sources]\none = "one/"\n[targets.x]\nmethod = "copy"\na = "one"\noutput = "x.ckpt"\n')
    space.build()
    found = loaded(space / "x.ckpt")
    assert all(same_bits(found[name], each) for name, each in llama(1).items())
