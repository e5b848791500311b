"""Outputs that are folders: shards, an index, a donor's small files; each is a file of ours, made as any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_files import read_model, same_bits
from model_folders import CONFIG, SIDECARS, document, llama_pair, pipeline, sharded
from project_space import NewSpace, Space
from tiny_models import llama

MERGEFILE = """
[sources]
one = "one/"
two = "two/"

[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
output = "out/mix/"
max_shard_size = "10KB"
[targets.mix.alpha]
default = 0.25
L02 = 0.5
"""
INDEX = "model.safetensors.index.json"


@pytest.fixture
def llamas(space: Space) -> Space:
    """A project with two folders of two shards, and their mix as a folder of smaller shards."""
    return llama_pair(space, MERGEFILE)


@pytest.fixture
def built(llamas: Space) -> Space:
    """The same, built."""
    llamas.build()
    llamas.settle()
    return llamas


def files(space: Space, folder: str = "out/mix") -> set[str]:
    """Return the files of a folder."""
    return {path.relative_to(space / folder).as_posix() for path in (space / folder).rglob("*") if path.is_file()}


def shards(space: Space, folder: str = "out/mix") -> list[str]:
    return sorted(name for name in files(space, folder) if name.endswith(".safetensors"))


def tensors(space: Space, folder: str = "out/mix") -> dict[str, torch.Tensor]:
    """Return the tensors of all shards, each where the index says."""
    where = json.loads((space / folder / INDEX).read_text())["weight_map"]
    found = {name: read_model(space / folder / name) for name in shards(space, folder)}
    assert {name: file for file, some in found.items() for name in some} == where
    return {name: found[file][name] for name, file in where.items()}


def holder(space: Space, layer: int) -> Path:
    """Return the shard that holds a layer."""
    where = json.loads((space / "out/mix" / INDEX).read_text())["weight_map"]
    found: str = where[f"model.layers.{layer}.input_layernorm.weight"]
    return space / "out/mix" / found


def flip(path: Path) -> None:
    """Change the last byte of a file by hand."""
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def plain(space: Space) -> Space:
    """Have the same mix in one file too."""
    text = (space / "mergefile.toml").read_text()
    target = text[text.index("[targets.mix]") :].replace("targets.mix", "targets.plain")
    one_file = target.replace('"out/mix/"', '"plain.safetensors"').replace('max_shard_size = "10KB"\n', "")
    (space / "mergefile.toml").write_text(text + one_file)
    return space


# What is made


def test_a_folder_holds_shards_their_index_and_the_donors_small_files(built: Space) -> None:
    assert len(shards(built)) == 4
    assert files(built) == {*shards(built), INDEX, *SIDECARS, "mergebuild.json"}
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert built.bytes(f"out/mix/{name}") == built.bytes(f"one/{name}")
    assert json.loads((built / "out/mix/config.json").read_text()) == CONFIG
    for name in shards(built):
        assert sum(each.numel() * 2 for each in built.read(f"out/mix/{name}").values()) <= 10_000
    index = json.loads((built / "out/mix" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(each.numel() * 2 for each in llama(1).values())


def test_its_tensors_are_those_of_one_file(built: Space) -> None:
    plain(built).build("plain")
    one_file = built.read("plain.safetensors")
    found = tensors(built)
    assert found.keys() == one_file.keys()
    assert all(same_bits(found[name], one_file[name]) for name in one_file)


def test_it_is_one_artifact_however_it_is_cut(built: Space) -> None:
    plain(built)
    first = built.build()
    assert first["mix"]["artifact"] == first["plain"]["artifact"]
    assert first["plain"]["tensors_computed"] == 0
    built.edit('"10KB"', '"1GB"')
    assert built.build()["mix"]["artifact"] == first["mix"]["artifact"]


def test_the_same_bytes_in_any_folder_and_number_of_threads(built: Space) -> None:
    before = {name: built.bytes(f"out/mix/{name}") for name in files(built)}
    built.run("clean", "--yes")
    built.run("build", "-j", "1")
    assert {name: built.bytes(f"out/mix/{name}") for name in files(built)} == before


def test_a_rounded_folder_says_its_dtype(llamas: Space) -> None:
    llamas.edit('output = "out/mix/"', 'output = "out/mix/"\ndtype = "bfloat16"')
    llamas.build()
    assert json.loads((llamas / "out/mix/config.json").read_text()) == CONFIG | {"torch_dtype": "bfloat16"}
    assert {each.dtype for each in tensors(llamas).values()} == {torch.bfloat16}


def test_a_folder_is_an_input_as_any_file(built: Space) -> None:
    """A target that reads it reads the rounded values; one that reads its files finds the same."""
    (built / "mergefile.toml").write_text(
        (built / "mergefile.toml").read_text()
        + '[targets.next]\nformula = "mix/2 + one/2"\noutput = "next.safetensors"\n'
    )
    built.build()
    next_one = built.read("next.safetensors")
    built.edit('two = "two/"', 'two = "two/"\ncopy = "copy/"')
    (built / "copy").mkdir()
    for name in files(built):
        (built / "copy" / name).write_bytes(built.bytes(f"out/mix/{name}"))
    built.edit('"mix/2 + one/2"', '"copy/2 + one/2"')
    built.build()
    assert all(same_bits(built.read("next.safetensors")[name], each) for name, each in next_one.items())


def test_o_writes_a_folder_too(built: Space) -> None:
    built.run("build", "mix", "-o", "elsewhere/")
    assert files(built, "elsewhere") == files(built)
    assert built.states() == {"mix": "up-to-date"}


def test_o_takes_away_the_shards_that_it_wrote_before(built: Space) -> None:
    built.run("build", "mix", "-o", "elsewhere/")
    built.edit('"10KB"', '"16KB"')
    built.run("build", "mix", "-o", "elsewhere/")
    assert len(shards(built, "elsewhere")) == 2
    assert len(shards(built)) == 4


def test_the_donor_may_have_its_weights_in_a_pickle(llamas: Space) -> None:
    (llamas / "one" / INDEX).unlink()
    for path in (llamas / "one").glob("*.safetensors"):
        path.unlink()
    torch.save(llama(1), llamas / "one/pytorch_model.bin")
    llamas.build()
    assert files(llamas) == {*shards(llamas), INDEX, *SIDECARS, "mergebuild.json"}


def test_without_a_donor_there_are_weights_alone(llamas: Space) -> None:
    for name in ("one", "two"):
        llamas.model(f"{name}.safetensors", llama(1 if name == "one" else 2))
        llamas.edit(f'"{name}/"', f'"{name}.safetensors"')
    llamas.edit("max_shard_size", 'metadata = "none"\nmax_shard_size')
    llamas.build()
    assert files(llamas) == {*shards(llamas), INDEX}


def test_config_names_who_has_a_configuration(llamas: Space) -> None:
    """A source that is a folder, or a target whose own would be copied."""
    llamas.model("three.safetensors", llama(3))
    llamas.edit('two = "two/"', 'two = "two/"\nthree = "three.safetensors"')
    llamas.edit("max_shard_size", 'config = "three"\nmax_shard_size')
    assert llamas.refused("build", code=3).errors == ["no-config"]
    document(llamas / "two/tokenizer.json", {"version": "2.0"})
    (llamas / "mergefile.toml").write_text(
        (llamas / "mergefile.toml").read_text().replace('config = "three"', 'config = "other"')
        + '[targets.other]\nformula = "three + two - one"\n'
    )
    llamas.build()
    assert llamas.bytes("out/mix/tokenizer.json") == llamas.bytes("two/tokenizer.json")


# Pipelines of diffusers

COMPONENTS = {
    "transformer": {"blocks.0.weight": (8, 8), "blocks.1.weight": (8, 8)},
    "text_encoder": {"text_model.weight": (4, 4), "text_model.embeddings.position_ids": (1, 4)},
    "vae": {"conv.weight": (4, 4, 1, 1)},
}
"""Of no architecture that we know."""


def components(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        component: {
            name: torch.arange(4).reshape(1, 4)
            if name.endswith("ids")
            else torch.randn(shape, generator=generator).to(torch.float16)
            for name, shape in shapes.items()
        }
        for component, shapes in COMPONENTS.items()
    }


@pytest.fixture
def pipelines(space: Space) -> Space:
    for number, name in enumerate(("one", "two")):
        pipeline(space / name, components(number))
    space.write(MERGEFILE.replace("L02 = 0.5", '"vae.*" = 0.5').replace('max_shard_size = "10KB"\n', ""))
    space.settle()
    return space


def test_a_pipeline_of_any_architecture_is_merged_component_by_component(pipelines: Space) -> None:
    pipelines.build()
    assert files(pipelines) == {
        "transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors", "mergebuild.json", "model_index.json",
        "scheduler/scheduler_config.json", *(f"{name}/config.json" for name in COMPONENTS),
    }  # fmt: skip
    one, two = components(0), components(1)
    for path in shards(pipelines):
        component = path.partition("/")[0]
        for name, made in pipelines.read(f"out/mix/{path}").items():
            a, b = one[component][name], two[component][name]
            share = 0.5 if component == "vae" else 0.25
            assert same_bits(made, torch.lerp(a.float(), b.float(), share).to(a.dtype) if a.is_floating_point() else a)
    assert pipelines.bytes("out/mix/model_index.json") == pipelines.bytes("one/model_index.json")
    pipelines.settle()
    assert pipelines.build().verdicts == {"mix": "up-to-date"}
    assert "nothing to do" in imports(pipelines)[1]
    assert pipelines.run("verify", "--rebuild").code == 0


def test_a_pipeline_is_read_as_it_is_written(pipelines: Space) -> None:
    pipelines.build()
    by_name = {
        folder: pipelines.json("inspect", f"{folder}/", "--tensors")["tensor_list"] for folder in ("one", "out/mix")
    }
    assert by_name["one"] == by_name["out/mix"]


def test_a_file_in_a_component_is_watched(pipelines: Space) -> None:
    pipelines.build()
    pipelines.settle()
    pipelines.build()
    assert "mergebuild.plan.planner" not in imports(pipelines)[0]
    document(pipelines / "one/transformer/notes.json", {})
    assert pipelines.build().verdicts == {"mix": "built"}
    assert "transformer/notes.json" in files(pipelines)
    document(pipelines / "one/vae/config.json", {"_diffusers_version": "0.31.0"})
    assert pipelines.build()["mix"]["tensors_computed"] == 0
    assert pipelines.bytes("out/mix/vae/config.json") == pipelines.bytes("one/vae/config.json")


def test_dropped_components_are_in_no_index(pipelines: Space) -> None:
    pipelines.edit('output = "out/mix/"', 'output = "out/mix/"\ndrop = ["vae.*"]')
    pipelines.edit('"vae.*" = 0.5\n', "")
    pipelines.build()
    assert json.loads((pipelines / "out/mix/model_index.json").read_text())["vae"] == [None, None]
    assert "vae/diffusion_pytorch_model.safetensors" not in files(pipelines)


def test_clean_takes_away_a_pipeline_with_its_folders(pipelines: Space) -> None:
    pipelines.build()
    (pipelines / "out/mix/unet").mkdir()
    pipelines.run("clean", "mix")
    assert [path.name for path in (pipelines / "out/mix").iterdir()] == ["unet"]


def test_what_is_no_pipeline_takes_no_pipelines_place(pipelines: Space) -> None:
    pipelines.model("llama.safetensors", llama(1))
    pipelines.write(
        """
        [sources]
        one = "one/"
        llama = "llama.safetensors"
        [targets.mix]
        method = "copy"
        a = "llama"
        config = "one"
        output = "out/mix/"
        """
    )
    assert pipelines.refused("build", code=9).errors == ["no-pipeline"]


# Nothing to do


def imports(space: Space) -> tuple[set[str], str]:
    """Build in a process of its own; return the modules that it imported, and what it said."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mergebuild", "build"],
        cwd=space.root,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}, done.stdout


def test_a_second_build_answers_from_stat_data_alone(built: Space) -> None:
    built.settle()
    built.build()
    modules, said = imports(built)
    assert said.startswith("nothing to do: 1 target is up to date")
    assert "mergebuild.project.stamp" in modules
    assert not modules & {"mergebuild.plan.planner", "mergebuild.sources.sources", "mergebuild.recipe", "torch"}


@pytest.mark.parametrize(
    "name",
    [
        "one/tokenizer.json", "one/config.json", f"one/{INDEX}", "two/model-00002-of-00002.safetensors",
        "two/config.json", "out/mix/tokenizer.json", f"out/mix/{INDEX}", "out/mix/model-00002-of-00004.safetensors",
    ],
)  # fmt: skip
def test_a_touch_of_any_file_is_looked_at(built: Space, name: str) -> None:
    """And changes nothing."""
    built.settle()
    built.build()
    os.utime(built / name)
    modules, said = imports(built)
    assert "mergebuild.plan.planner" in modules
    assert said.startswith("nothing to do")


def test_a_new_file_beside_a_source_is_looked_at(built: Space) -> None:
    built.build()
    built.settle()
    document(built / "one/added_tokens.json", {"<pad>": 64})
    assert built.build().verdicts == {"mix": "built"}
    assert built.bytes("out/mix/added_tokens.json") == built.bytes("one/added_tokens.json")
    (built / "one/added_tokens.json").unlink()
    built.build()
    assert "added_tokens.json" not in files(built)


# Changes


def test_an_edited_tokenizer_is_copied_and_computes_nothing(built: Space) -> None:
    document(built / "one/tokenizer.json", {"version": "2.0"})
    assert built.states() == {"mix": "stale"}
    again = built.build()
    assert again["mix"]["tensors_computed"] == 0
    assert built.bytes("out/mix/tokenizer.json") == built.bytes("one/tokenizer.json")
    assert built.states() == {"mix": "up-to-date"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config.json", CONFIG | {"rms_norm_eps": 1e-5}),
        ("config.json", CONFIG | {"rope_theta": 500_000}),
        ("generation_config.json", {"do_sample": False}),
        ("tokenizer_config.json", {"model_max_length": 4096}),
    ],
)
def test_an_edited_small_file_is_named_by_why_and_written(built: Space, name: str, value: object) -> None:
    assert built.reasons("mix") == []
    document(built / "one" / name, value)
    assert built.states() == {"mix": "stale"}
    assert built.reasons("mix") == [f"input one: {name} changed"]
    (change,) = built.json("why", "mix")["changes"]
    assert change["what"] == f"input one: {name}"
    built.build()
    assert json.loads((built / "out/mix" / name).read_text()) == value
    assert built.reasons("mix") == []


def test_folders_that_have_a_new_configuration_in_common_are_no_twins(built: Space) -> None:
    """Their weights are not the same."""
    text = (built / "mergefile.toml").read_text()
    other = text[text.index("[targets.mix]") :].replace("mix", "other").replace("0.5", "0.25")
    (built / "mergefile.toml").write_text(f"{text}\n{other}")
    built.build()
    document(built / "one/config.json", CONFIG | {"rope_theta": 500_000})
    planned = built.plan("mix", "other")
    assert [planned[name]["reasons"] for name in ("mix", "other")] == 2 * [["input one: config.json changed"]]


def test_small_files_that_are_new_or_gone_are_named_by_why(built: Space) -> None:
    document(built / "one/added_tokens.json", {})
    assert "input one: added_tokens.json is new" in built.reasons("mix")
    built.build()
    (built / "one/added_tokens.json").unlink()
    built.edit("L02 = 0.5", "L02 = 0.75")
    assert built.reasons("mix") == ["alpha[L02] 0.5 -> 0.75", "input one: added_tokens.json is gone"]


def test_another_donor_is_named_by_why(built: Space) -> None:
    document(built / "two/tokenizer.json", {"version": "2.0"})
    built.edit("max_shard_size", 'config = "two"\nmax_shard_size')
    assert "config (none) -> two" in built.reasons("mix")


def test_a_pin_holds_for_who_only_gives_its_small_files(llamas: Space, new_space: NewSpace) -> None:
    """No tensor of it is used, and its tokenizer is published."""
    other = new_space("other")
    sharded(other / "three", llama(3))
    right = other.json("inspect", "three/")["hashes"]["sha256"]
    sharded(llamas / "three", llama(3))
    llamas.edit('two = "two/"', f'two = "two/"\nthree = {{ path = "three/", sha256 = "{right}" }}')
    llamas.edit("max_shard_size", 'config = "three"\nmax_shard_size')
    llamas.settle()
    llamas.build()
    document(llamas / "three/tokenizer.json", {"version": "2.0"})
    assert llamas.refused("build", code=4).errors == ["pin-mismatch"]


def test_an_edited_tokenizer_of_another_source_changes_nothing(built: Space) -> None:
    document(built / "two/tokenizer.json", {"version": "2.0"})
    assert built.build().verdicts == {"mix": "up-to-date"}
    built.edit("max_shard_size", 'config = "two"\nmax_shard_size')
    assert built.build()["mix"]["tensors_computed"] == 0
    assert built.bytes("out/mix/tokenizer.json") == built.bytes("two/tokenizer.json")


def test_a_changed_layer_computes_that_layer_and_writes_its_shard(built: Space) -> None:
    before = {name: (built / "out/mix" / name).stat().st_ino for name in shards(built)}
    built.edit("L02 = 0.5", "L02 = 0.75")
    assert built.plan()["mix"]["tensors_computed"] == 8
    again = built.build()
    assert again["mix"]["tensors_computed"] == 8
    after = {name: (built / "out/mix" / name).stat().st_ino for name in shards(built)}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {holder(built, 2).name}
    assert built.run("verify", "--rebuild").code == 0


@pytest.mark.parametrize("link", ["hard", "auto"])
def test_a_deleted_file_comes_back(built: Space, link: str) -> None:
    """From the store where it keeps one; else only what was in it is computed."""
    built.write(f'[project]\nlink = "{link}"\n' + (built / "mergefile.toml").read_text())
    built.build()
    for name in (holder(built, 2).name, "tokenizer.json", INDEX):
        path = built / "out/mix" / name
        before = path.read_bytes()
        path.unlink()
        assert built.states() == {"mix": "stale"}
        again = built.build()["mix"]
        assert again["verdict"] == "restored" if link == "hard" else again["verdict"] in {"built", "restored"}
        assert again["tensors_computed"] <= (0 if link == "hard" else 8)
        assert path.read_bytes() == before
    assert built.states() == {"mix": "up-to-date"}


@pytest.mark.parametrize("link", ["hard", "auto"])
def test_without_cache_the_store_keeps_nothing_of_a_folder(built: Space, link: str) -> None:
    """Neither shards that changed nor those that it has no more; what did not change stays where it is."""
    built.write(f'[project]\nlink = "{link}"\n' + (built / "mergefile.toml").read_text())
    built.edit('max_shard_size = "10KB"', 'cache = false\nmax_shard_size = "10KB"')
    before = {name: built.bytes(f"out/mix/{name}") for name in files(built)}
    changed = holder(built, 2).name
    for old, new in (("0.5", "0.75"), ("0.75", "0.5")):
        inodes = {name: (built / "out/mix" / name).stat().st_ino for name in shards(built)}
        built.edit(f"L02 = {old}", f"L02 = {new}")
        assert built.build()["mix"]["tensors_computed"] == 8
        # After each build: the number of a file that is gone may be given to the one after next.
        assert {name for name in inodes if inodes[name] != (built / "out/mix" / name).stat().st_ino} == {changed}
    for old, new in (("10KB", "1GB"), ("1GB", "10KB")):
        built.edit(f'"{old}"', f'"{new}"')
        assert built.build()["mix"]["tensors_computed"] == 0
        assert built.states() == {"mix": "up-to-date"}
    assert {name: built.bytes(f"out/mix/{name}") for name in files(built)} == before
    assert [path for kind in ("history", "kept") for path in (built / ".mergebuild" / kind).glob("*")] == []
    assert {path.stat().st_nlink for path in (built / "out/mix").iterdir()} == {1}
    assert built.run("verify", "--rebuild").code == 0


def test_other_shards_take_the_place_of_all(built: Space) -> None:
    """With no arithmetic; what the folder had before is gone, and comes back the same."""
    before = {name: built.bytes(f"out/mix/{name}") for name in files(built)}
    built.edit('"10KB"', '"16KB"')
    assert built.states() == {"mix": "stale"}
    assert built.build()["mix"]["tensors_computed"] == 0
    assert len(shards(built)) == 2
    assert built.build().verdicts == {"mix": "up-to-date"}
    assert built.run("verify", "--rebuild").code == 0
    built.edit('"16KB"', '"1GB"')
    assert built.build()["mix"]["tensors_computed"] == 0
    assert shards(built) == ["model.safetensors"]
    assert INDEX not in files(built)
    built.edit('"1GB"', '"10KB"')
    assert built.build()["mix"]["tensors_computed"] == 0
    assert {name: built.bytes(f"out/mix/{name}") for name in files(built)} == before


def test_why_tells_what_changed(built: Space) -> None:
    assert built.reasons("mix") == []
    built.edit("L02 = 0.5", "L02 = 0.75")
    assert built.reasons("mix") == ["alpha[L02] 0.5 -> 0.75"]
    holder(built, 3).unlink()
    assert f"out/mix/{holder(built, 2).name} is missing" not in built.reasons("mix")


# By hand


@pytest.mark.parametrize("which", ["shard", "config.json", INDEX])
def test_a_file_changed_by_hand_stops_the_build(built: Space, which: str) -> None:
    """By force it is kept aside and made again."""
    path = holder(built, 1) if which == "shard" else built / "out/mix" / which
    before = path.read_bytes()
    flip(path)
    by_hand = path.read_bytes()
    assert built.states() == {"mix": "changed-by-hand"}
    outcome = built.run("build", "--json", code=1)
    assert outcome.json["targets"][0]["error"]["code"] == "changed-by-hand"
    assert path.name in outcome.err
    assert path.read_bytes() == by_hand

    built.run("build", "--force")

    assert path.read_bytes() == before
    assert (built / ".mergebuild/by-hand/mix-1" / path.name).read_bytes() == by_hand
    assert not [name for name in files(built) if "by-hand" in name]
    assert built.states() == {"mix": "up-to-date"}


def test_what_was_always_there_is_no_part_of_it(llamas: Space) -> None:
    """A stranger's file in the folder stays; one that a client would load instead is told."""
    document(llamas / "out/mix/notes.json", "mine")
    (llamas / "out/mix/model.safetensors").write_bytes(b"an older one")
    outcome = llamas.run("build")
    assert "out/mix/model.safetensors is not ours" in outcome.err
    assert llamas.bytes("out/mix/model.safetensors") == b"an older one"
    assert {"notes.json", "model.safetensors"} <= files(llamas)


def test_without_its_records_a_folder_is_known_again(built: Space) -> None:
    before = {name: (built / "out/mix" / name).read_bytes() for name in files(built)}
    for path in (built / ".mergebuild").glob("state*"):
        path.unlink()
    assert built.build(code=None)["mix"]["error"] is None
    assert {name: (built / "out/mix" / name).read_bytes() for name in files(built)} == before
    assert built.build().verdicts == {"mix": "up-to-date"}


# Verify, clean, orphans


def test_verify_finds_a_flipped_bit_in_a_shard(built: Space) -> None:
    path = holder(built, 1)
    state = path.stat()
    flip(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    outcome = built.run("verify", "--json", code=5)
    (problem,) = outcome.json["errors"]
    assert problem["code"] == "corrupt"
    assert path.name in problem["message"]
    assert built.run("verify", "mix", code=5).code == 5


def test_verify_finds_another_text(built: Space) -> None:
    (built / "out/mix/tokenizer.json").write_text("{}")
    assert "tokenizer.json" in built.run("verify", code=5).err


def test_clean_removes_what_is_ours_and_the_empty_folder(built: Space) -> None:
    built.run("clean", "mix")
    assert not (built / "out/mix").exists()
    assert built.states() == {"mix": "missing"}
    assert (built / "one/tokenizer.json").exists()


def test_clean_keeps_what_is_not_ours(built: Space) -> None:
    (built / "out/mix/README.md").write_text("mine")
    (built / "out/mix/empty").mkdir()
    flip(holder(built, 1))
    kept = holder(built, 1).name
    outcome = built.run("clean", "mix")
    assert files(built) == {"README.md", kept}
    assert (built / "out/mix/empty").is_dir()
    assert f"kept out/mix/{kept} (changed by hand)" in outcome.out


def test_a_folder_that_no_target_makes_is_orphaned_file_by_file(built: Space) -> None:
    ours = {f"out/mix/{name}" for name in files(built)}
    built.edit('"out/mix/"', '"out/other/"')
    assert set(built.json("status")["orphans"]) == ours
    built.build()
    built.run("clean", "--orphans")
    assert not (built / "out/mix").exists()
    assert len(shards(built, "out/other")) == 4
    assert built.json("status")["orphans"] == []


def test_a_folder_that_becomes_a_file_is_an_orphan(built: Space) -> None:
    built.edit('"out/mix/"', '"out/mix.safetensors"')
    built.edit('max_shard_size = "10KB"\n', "")
    assert built.build()["mix"]["tensors_computed"] == 0
    assert len(built.json("status")["orphans"]) == 4 + 1 + len(SIDECARS) + 1


def test_the_lock_holds_a_folder_by_its_tensors(built: Space) -> None:
    built.run("lock")
    built.edit('"10KB"', '"16KB"')
    built.run("build", "--locked")
    built.edit("L02 = 0.5", "L02 = 0.75")
    assert built.run("build", "--locked", "--json", code=6).errors == ["lock-result"]


# Killed

DIES = """
import os, signal, sys
from mergebuild.cli import main
from mergebuild.store.publisher import DiskPublisher

left, taken = int(sys.argv.pop(1)), DiskPublisher._take_away

def take_away(store, *args, **words):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return taken(store, *args, **words)

DiskPublisher._take_away = take_away
main(sys.argv[1:])
"""
"""Ends while the folder's former files are taken away, once so many were."""


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5])
def test_a_build_that_was_killed_behind_the_exchange_is_healed(built: Space, taken: int) -> None:
    """All files are new, and on record; the next build tidies up."""
    plain(built)
    built.edit('max_shard_size = "10KB"\n[targets.mix.alpha]', 'max_shard_size = "6KB"\n[targets.mix.alpha]')
    text = (built / "mergefile.toml").read_text().replace("default = 0.25", "default = 0.3")
    (built / "mergefile.toml").write_text(text)
    built.build("plain")

    died = subprocess.run(
        [sys.executable, "-c", DIES, str(taken), "build", "mix"], cwd=built.root, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert built.states()["mix"] == "up-to-date"
    assert built.build("mix").document["ok"]

    assert not [path for path in (built / "out").rglob("*") if "mergebuild-" in path.name]
    one_file = built.read("plain.safetensors")
    assert all(same_bits(each, one_file[name]) for name, each in tensors(built).items())
    assert files(built) == {*shards(built), INDEX, *SIDECARS, "mergebuild.json"}
    assert built.build("mix").verdicts == {"mix": "up-to-date"}
    built.run("verify")


def test_a_half_written_shard_of_another_layout_is_swept(built: Space) -> None:
    left = built / "out/mix/.model-00001-of-00009.safetensors.mergebuild-1234"
    left.write_bytes(b"half")
    built.edit("L02 = 0.5", "L02 = 0.75")
    built.build()
    assert not left.exists()
