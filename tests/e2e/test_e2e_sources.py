"""Sources of every format: the same tensors are the same source, remembered as long as nothing of them changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from model_files import Tensors, write_model
from model_folders import SIDECARS, checkpoint, document, llama_pair, sharded
from project_space import Space
from tiny_models import llama, sd15

from mergebuild.plan import describe
from mergebuild.sources import sources

SHARDED = """
[sources]
one = "one/"
two = "two/"

[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.25
output = "mix.safetensors"
"""
FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture
def llamas(space: Space) -> Space:
    """A project with two folders of two shards, and their mix."""
    return llama_pair(space, SHARDED)


def single(folder: Path, tensors: Tensors) -> None:
    sharded(folder, tensors, count=1)


def three(folder: Path, tensors: Tensors) -> None:
    sharded(folder, tensors, count=3)


def pickled_folder(folder: Path, tensors: Tensors) -> None:
    folder.mkdir()
    torch.save(dict(tensors), folder / "pytorch_model.bin")


def legacy(path: Path, tensors: Tensors) -> None:
    checkpoint(path, tensors, legacy=True)


FORMATS: dict[str, Callable[[Path, Tensors], object]] = {
    "two.ckpt": checkpoint,
    "two.pt": legacy,
    "two.bin": lambda path, tensors: torch.save(dict(tensors), path),
    "two/": single,
    "shards/": three,
    "pickles/": pickled_folder,
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_tensors_in_any_format_are_the_same_source(pair: Space, name: str) -> None:
    """A target built from one format is up to date with another: content is tensors."""
    artifact = pair.build()["mix"]["artifact"]
    before = pair.bytes("out/mix.safetensors")
    FORMATS[name](pair / name, sd15(2))
    (pair / "two.safetensors").unlink()
    pair.edit('"two.safetensors"', f'"{name}"')

    assert pair.plan().verdicts == {"mix": "up-to-date"}
    (pair / "out/mix.safetensors").unlink()
    (pair / ".mergebuild/state.sqlite3").unlink()
    again = pair.build()

    assert again["mix"]["artifact"] == artifact
    assert pair.bytes("out/mix.safetensors") == before
    assert pair.run("verify", "--rebuild").code == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_large_source_of_any_format_is_hashed_as_it_is_merged(
    pair: Space, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read once, and the same bytes as where it is hashed before."""
    pair.build()
    before = pair.bytes("out/mix.safetensors")
    shutil.rmtree(pair / ".mergebuild")
    (pair / "out/mix.safetensors").unlink()
    FORMATS[name](pair / name, sd15(2))
    pair.edit('"two.safetensors"', f'"{name}"')
    monkeypatch.setattr(describe, "SMALL", 0)
    monkeypatch.setattr(sources, "SMALL", 0)
    pair.settle()

    built = pair.build()

    assert pair.bytes("out/mix.safetensors") == before
    assert built.bytes_read < 1.2 * 2 * len(pair.bytes("one.safetensors"))
    assert pair.build().verdicts == {"mix": "up-to-date"}


def test_a_checkpoints_leftovers_are_told(pair: Space) -> None:
    """What a source is without, whoever plans or builds with it is told."""
    torch.save({"state_dict": sd15(2), "optimizer_states": [{"state": torch.zeros(3)}]}, pair / "two.ckpt")
    pair.edit('"two.safetensors"', '"two.ckpt"')

    (planned,) = pair.json("plan")["targets"]

    told = "`two`: left out what training needs, not the model: `optimizer_states` (1 tensor)"
    assert planned["notes"] == [told]
    assert told in pair.run("build").err


# Pins


def pinned(space: Space, path: str, **pins: str) -> None:
    """Write the pair's mergefile, its second source pinned."""
    told = ", ".join(f'{name} = "{digits}"' for name, digits in pins.items())
    space.write(
        f"""
        [sources]
        one = "one.safetensors"
        two = {{ path = "{path}", {told} }}

        [targets.mix]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = 0.3
        output = "out/mix.safetensors"
        """
    )


def hashes(space: Space, path: str) -> dict[str, str]:
    found: dict[str, str] = space.json("inspect", path)["hashes"]
    return found


@pytest.mark.parametrize("pin", ["sha256", "autov2", "autov3", "autov3 in short"])
def test_what_inspect_prints_is_a_pin(pair: Space, pin: str) -> None:
    """The right one builds, before and after it is known; a wrong one is refused, and nothing is written."""
    name = pin.split(maxsplit=1)[0]
    right = hashes(pair, "two.safetensors")[name][: 12 if "short" in pin else None]
    wrong = ("1" if right[0] == "0" else "0") + right[1:]
    pinned(pair, "two.safetensors", **{name: wrong})
    outcome = pair.refused("build", code=4)
    assert outcome.errors == ["pin-mismatch"]
    assert wrong in outcome.err
    assert outcome.json["errors"][0]["where"].startswith("mergefile.toml:3:")

    pinned(pair, "two.safetensors", **{name: right})
    assert pair.build().verdicts == {"mix": "built"}
    assert pair.build().verdicts == {"mix": "up-to-date"}

    pinned(pair, "two.safetensors", **{name: wrong})
    assert pair.refused("build", code=4).errors == ["pin-mismatch"]
    assert pair.refused("plan", code=4).errors == ["pin-mismatch"]


def test_all_pins_hold_together(pair: Space) -> None:
    found = hashes(pair, "two.safetensors")
    pins = {name: found[name] for name in ("sha256", "autov2", "autov3")}
    pinned(pair, "two.safetensors", **pins)
    pair.build()
    pinned(pair, "two.safetensors", **(pins | {"autov3": "0" * 64}))
    assert pair.refused("build", code=4).errors == ["pin-mismatch"]


def test_another_header_is_the_same_file_by_autov3(pair: Space) -> None:
    """And another file by the others."""
    old = hashes(pair, "two.safetensors")
    pair.model("two.safetensors", sd15(2), {"title": "the same numbers"})
    pinned(pair, "two.safetensors", autov3=old["autov3"])
    assert pair.build().verdicts == {"mix": "built"}
    pinned(pair, "two.safetensors", autov2=old["autov2"])
    assert pair.refused("build", code=4).errors == ["pin-mismatch"]


def test_a_checkpoint_is_pinned_by_its_bytes_alone(pair: Space) -> None:
    raw = checkpoint(pair / "two.ckpt", sd15(2)).read_bytes()
    sha256 = hashlib.sha256(raw).hexdigest()
    pinned(pair, "two.ckpt", sha256=sha256, autov2=sha256[:10])
    assert pair.build().verdicts == {"mix": "built"}
    pinned(pair, "two.ckpt", autov3=sha256)
    outcome = pair.refused("build", code=4)
    assert outcome.errors == ["pin-mismatch"]
    assert "only a safetensors file has one" in outcome.err


def sha256sum(folder: Path, names: Iterable[str]) -> str:
    """Return what `sha256sum NAMES | LC_ALL=C sort | sha256sum` prints in a folder."""
    lines = sorted(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(pair: Space) -> Space:
    """The pair's project, its second source a folder; a README and code that no pin is of."""
    sharded(pair / "two", sd15(2))
    (pair / "two/README.md").write_text("# Two\n")
    (pair / "two/modeling_two.py").write_text("print()\n")
    (pair / "two/chat_template.jinja").write_text("{{ messages }}\n")
    pair.settle()
    return pair


def test_a_folder_is_pinned_by_what_sha256sum_says_of_its_files(folder: Space) -> None:
    names = [FIRST, "model-00002-of-00002.safetensors", INDEX, *SIDECARS, "chat_template.jinja"]
    sha256 = sha256sum(folder / "two", names)
    assert hashes(folder, "two/") == {"sha256": sha256, "autov1": None, "autov2": None, "autov3": None}
    pinned(folder, "two/", sha256=sha256)
    assert folder.build().verdicts == {"mix": "built"}
    pinned(folder, "two/", autov2=sha256[:10])
    assert "a folder has only `sha256`" in folder.refused("build", code=4).err


@pytest.mark.parametrize("when", ["before it is known", "after it was built"])
@pytest.mark.parametrize("name", [FIRST, INDEX, *SIDECARS, "chat_template.jinja", "vocab.json"])
def test_another_file_of_a_folder_is_not_what_is_pinned(folder: Space, name: str, when: str) -> None:
    """Whatever a client reads of it, also what was not there; put back, it is what is pinned."""
    path = folder / "two" / name
    before = path.read_bytes() if path.exists() else None
    pinned(folder, "two/", sha256=hashes(folder, "two/")["sha256"])
    if when == "after it was built":
        folder.build()
        folder.settle()
        folder.build()
    path.write_bytes((before or b"{}") + b"\n" if name != FIRST else bytes(before or b"")[:-1] + b"\x01")
    assert folder.refused("build", code=4).errors == ["pin-mismatch"]
    folder.settle()
    assert folder.refused("build", code=4).errors == ["pin-mismatch"]
    path.unlink() if before is None else path.write_bytes(before)
    folder.build()


def test_what_no_client_needs_is_in_no_pin(folder: Space) -> None:
    before = hashes(folder, "two/")
    (folder / "two/README.md").write_text("# Another\n")
    (folder / "two/modeling_two.py").unlink()
    assert hashes(folder, "two/") == before


def test_code_that_a_configuration_names_is_in_pin_lock_and_copy(folder: Space) -> None:
    """A client loads the model with it."""
    path = folder / "two/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "modeling_two.Two"}}))
    (folder / "two/layers.py").write_text("")
    folder.settle()
    names = [FIRST, "model-00002-of-00002.safetensors", INDEX, *SIDECARS, "chat_template.jinja"]
    sha256 = sha256sum(folder / "two", [*names, "modeling_two.py", "layers.py"])
    pinned(folder, "two/", sha256=sha256)
    text = (folder / "mergefile.toml").read_text()
    folder.write(f'{text}[targets.copy]\nmethod = "copy"\na = "two"\noutput = "copy/"\n')
    assert folder.build("copy").verdicts == {"copy": "built"}
    assert (folder / "copy/modeling_two.py").read_text() == "print()\n"
    assert (folder / "copy/layers.py").read_text() == ""
    folder.run("lock")
    locked = (folder / "mergefile.lock").read_text()
    assert locked.count('"modeling_two.py" = ') == locked.count('"layers.py" = ') == 2
    (folder / "two/modeling_two.py").write_text("print(1)\n")
    folder.settle()
    assert folder.refused("build", "copy", code=4).errors == ["pin-mismatch"]


def test_a_pin_of_the_weights_alone_is_named_as_one(folder: Space) -> None:
    """As pins were before they were of all files: nobody is let through, and nobody looks for another download."""
    names = [FIRST, "model-00002-of-00002.safetensors"]
    pinned(folder, "two/", sha256=sha256sum(folder / "two", names))
    outcome = folder.refused("build", code=4)
    assert outcome.errors == ["pin-mismatch"]
    assert "what is pinned are the weights alone" in outcome.err
    assert hashes(folder, "two/")["sha256"] in outcome.err


def test_an_edited_tokenizer_costs_reading_a_tokenizer(folder: Space) -> None:
    pinned(folder, "two/", sha256=hashes(folder, "two/")["sha256"])
    folder.build()
    document(folder / "two/tokenizer.json", {"version": "another"})
    folder.settle()
    pinned(folder, "two/", sha256=hashes(folder, "two/")["sha256"])
    found = folder.build()
    assert found.verdicts == {"mix": "up-to-date"}
    assert found.bytes_read == 0


def test_a_folder_and_the_one_file_in_it_have_hashes_of_their_own(pair: Space) -> None:
    """Though they are the same tensors, in the same bytes."""
    sharded(pair / "two", sd15(2), count=1)
    file, folder = hashes(pair, "two/model.safetensors")["sha256"], hashes(pair, "two/")["sha256"]
    assert file != folder
    pair.settle()
    for _ in range(2):
        pinned(pair, "two/model.safetensors", sha256=file)
        pair.build()
        pinned(pair, "two/", sha256=folder)
        assert pair.build().verdicts == {"mix": "up-to-date"}


def test_the_lock_holds_folders_and_checkpoints(pair: Space) -> None:
    sharded(pair / "two", sd15(2))
    checkpoint(pair / "one.ckpt", sd15(1))
    pair.edit('"two.safetensors"', '"two/"')
    pair.edit('"one.safetensors"', '"one.ckpt"')
    pair.build()
    pair.run("lock")
    pair.run("build", "--locked")
    write_model(pair / "two" / FIRST, {name: tensor for name, tensor in sd15(3).items() if name in first(pair)})
    outcome = pair.refused("build", "--locked", code=4)
    assert outcome.errors == ["lock-mismatch"]


def first(space: Space) -> set[str]:
    """Return the names in the first shard of `two`."""
    index = json.loads((space / "two/model.safetensors.index.json").read_text())
    return {name for name, file in index["weight_map"].items() if file == FIRST}


# What is remembered of a folder


def test_a_folder_is_read_once(llamas: Space) -> None:
    assert llamas.build().bytes_read > 0
    again = llamas.build()
    assert again.verdicts == {"mix": "up-to-date"}
    assert again.bytes_read == 0


@pytest.mark.parametrize("name", [FIRST, "model-00002-of-00002.safetensors"])
def test_an_edit_of_one_shard_that_puts_size_and_mtime_back_is_seen(llamas: Space, name: str) -> None:
    llamas.build()
    path = llamas / "two" / name
    state = path.stat()
    llamas.settle()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    assert llamas.states() == {"mix": "stale"}
    assert llamas.build()["mix"]["tensors_computed"] == 1
    assert llamas.run("verify", "--rebuild").code == 0


def test_a_shard_that_takes_the_place_of_another_is_seen(llamas: Space) -> None:
    """Of the same size and the same times."""
    llamas.build()
    path, state = llamas / "two" / FIRST, (llamas / "two" / FIRST).stat()
    other = llamas / "other"
    sharded(other, llama(7))
    os.utime(other / FIRST, ns=(state.st_atime_ns, state.st_mtime_ns))
    (other / FIRST).replace(path)

    assert path.stat().st_size == state.st_size
    assert llamas.states() == {"mix": "stale"}


def test_shards_that_change_places_are_seen(llamas: Space) -> None:
    """All files are those that were there before, with all their times."""
    llamas.build()
    index = llamas / "two/model.safetensors.index.json"
    text = index.read_text()
    one, other = FIRST, "model-00002-of-00002.safetensors"
    (llamas / "two" / one).rename(llamas / "two/x")
    (llamas / "two" / other).rename(llamas / "two" / one)
    (llamas / "two/x").rename(llamas / "two" / other)
    index.write_text(text.replace(one, "x").replace(other, one).replace("x.", other).replace('"x"', f'"{other}"'))

    assert llamas.build().verdicts == {"mix": "up-to-date"}
    assert llamas.run("verify", "--rebuild").code == 0


def test_another_index_is_seen(llamas: Space) -> None:
    """What it says is checked each time, also when nothing else changed."""
    llamas.build()
    llamas.build()
    path = llamas / "two/model.safetensors.index.json"
    path.write_text(path.read_text().replace("model.norm.weight", "model.morn.weight"))

    assert llamas.refused("build", code=4).errors == ["index-mismatch"]


def test_a_shard_that_is_gone_is_named(llamas: Space) -> None:
    llamas.build()
    llamas.build()
    (llamas / "two" / FIRST).unlink()

    outcome = llamas.refused("build", code=4)

    assert outcome.errors == ["shard-missing"]
    assert FIRST in outcome.err
    assert llamas.states() == {"mix": "stale"}
