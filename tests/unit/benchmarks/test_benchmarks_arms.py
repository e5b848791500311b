"""Arms start from the state that they name, leave nothing behind, and notice when a program did nothing."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.arms import Arm, Project, copies, mergekit
from benchmarks.cases import CASES, CHAIN, COMPARED, Round, many_text, method_text, nothing_to_do, target
from benchmarks.lab import Lab, block_share, write_tiny
from benchmarks.process import ProcessFailedError
from mergebuild.formats.header import read_header
from mergebuild.lora import match
from mergebuild.project.project import load
from mergebuild.sources.opening import read_model

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="measures with what only Linux has"),
]


def test_outputs_are_removed_before_and_after(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_text("from before")
    command = ["sh", "-c", f"test ! -e {made} && echo new > {made}"]
    arm = Arm("touch", command, finish=lambda _: {"there": float(made.exists())}, outputs=(made,))
    assert arm.run(0, tmp_path / "log").extra == {"there": 1.0}
    assert not made.exists()


def test_a_program_that_leaves_no_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailedError, match="left no"):
        Arm("true", ["true"], outputs=(tmp_path / "made",)).run(0, tmp_path / "log")


def test_copies_are_so_many(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model.safetensors", 1)
    arm = copies(Lab(tmp_path), tmp_path, model, 3)
    watched = replace(arm, finish=lambda _: {path.name: float(path.stat().st_size) for path in arm.outputs})
    sizes = watched.run(0, tmp_path / "log").extra
    assert list(sizes.values()) == [model.stat().st_size] * 3


def test_tiny_models_are_models(tmp_path: Path) -> None:
    header = read_header(write_tiny(tmp_path / "model.safetensors", 1))
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        "one.weight": ("float32", (16,)),
        "two.weight": ("float32", (16,)),
    }


def test_a_blocks_share_is_its_bytes_over_all(tmp_path: Path) -> None:
    assert block_share(write_tiny(tmp_path / "model.safetensors", 1), "one.") == (64, 0.5)


def test_recipes_of_the_cases_are_mergefiles(tmp_path: Path) -> None:
    models = [write_tiny(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("abcdefghij")]
    for text, count in ((CHAIN, 3), (many_text(30), 30), (target("one", "copy", a="a"), 1)):
        Project(Lab(tmp_path), tmp_path, models, text).write()
        assert len(load(tmp_path / "mergefile.toml").target_names()) == count


@pytest.mark.parametrize("method", COMPARED)
def test_methods_are_built_with_the_numbers_that_the_peer_gets(tmp_path: Path, method: str) -> None:
    models = [write_tiny(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("abc")]
    project = Project(Lab(tmp_path), tmp_path, models, method_text(method, COMPARED[method]))
    assert project.fresh("mergebuild", ["merged.safetensors"]).run(0, tmp_path / "log").extra["merge_seconds"] > 0


@pytest.mark.parametrize(("layout", "program"), [("sd15", "mergekit-pytorch"), ("llama", "mergekit-yaml")])
def test_mergekit_gets_files_or_directories_and_a_base(tmp_path: Path, layout: str, program: str) -> None:
    """It knows no architecture of Stable Diffusion, and has another program for that."""
    (tmp_path / "environments" / "mergekit").mkdir(parents=True)
    (tmp_path / "environments" / "mergekit" / "installed").touch()
    models = [write_tiny(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("abc")]
    arm = mergekit(Lab(tmp_path), tmp_path, models, "ties", {"density": 0.2}, on_llama=layout == "llama")
    recipe = json.loads((tmp_path / "mergekit.json").read_text(encoding="utf-8"))
    paths = [str(tmp_path / name) for name in ("a", "b", "c")] if layout == "llama" else [str(each) for each in models]
    assert Path(arm.command[0]).name == program
    assert recipe["base_model"] == paths[0]
    assert [each["model"] for each in recipe["models"]] == paths
    assert recipe["parameters"] == {"density": 0.2}


def test_a_project_is_built_afresh_each_time_and_its_own_numbers_are_kept(tmp_path: Path) -> None:
    models = [write_tiny(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab")]
    text = target("mix", "weighted_sum", a="a", b="b", alpha=0.3)
    arm = Project(Lab(tmp_path), tmp_path / "project", models, text).fresh("mergebuild", ["mix.safetensors"])
    for number in range(2):
        extra = arm.run(number, tmp_path / "log").extra
        assert 0 < extra["merge_seconds"] <= extra["own_seconds"]
        assert extra["own_bytes_written"] > 0


def test_many_targets_with_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in takes ninja's place: what it would install is not this test's business."""
    lab = Lab(tmp_path)
    monkeypatch.setattr(Lab, "peer", lambda _, name: stand_in(tmp_path / "bin" / name))
    ours, bare, ninja = nothing_to_do(20)(lab, tmp_path / "case")
    assert ours.run(0, tmp_path / "log").extra["own_bytes_written"] == 0
    assert bare.run(0, tmp_path / "log").seconds > 0
    ninja.run(0, tmp_path / "log")
    graph = (tmp_path / "case" / "ninja" / "build.ninja").read_text()
    assert graph.count("\nbuild ") == 20


def stand_in(program: Path) -> Path:
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program.parent


def test_a_case_that_fails_is_written_down_and_the_next_one_runs(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\ncase "$*" in *mergebuild*) exit 5;; esac\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    options = ["--work", str(tmp_path / "work"), "--runs", "1", "--shrink", "64", "--json", str(results)]
    assert main([*options, "--python", str(broken), "--case", "threads", "--case", "sd15_blocks"]) == 1
    written = json.loads(results.read_text())
    assert written["cases"] == {}
    assert list(written["failed"]) == ["threads", "sd15_blocks"]
    assert "ended with 5" in written["failed"]["threads"]


def test_the_command_runs_a_case_from_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    root = str(Path(__file__).resolve().parents[3])
    options = ["--case", "threads", "--runs", "1", "--shrink", "64", "--json", str(results)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=root, capture_output=True, text=True, check=True
    )
    assert "threads: SD1.5 weighted sum on 1, 2 and all threads" in done.stdout
    case = json.loads(results.read_text())["cases"]["threads"]
    assert case["arms"]["mergebuild -j 1"]["runs"][0]["anonymous"] > 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Return a lab of models an eighth as wide as real ones."""
    return Lab(tmp_path_factory.mktemp("small"), shrink=8)


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in read_model(path).tensors.items()}


@pytest.mark.parametrize(("layout", "made"), [("sd15", Lab.checkpoint), ("sd15", Lab.pipeline), ("llama", Lab.shards)])
def test_what_is_made_of_a_model_holds_its_tensors_and_is_kept(
    small: Lab, layout: str, made: Callable[[Lab, Path], Path]
) -> None:
    (model,) = small.models(layout, 1)
    path = made(small, model)
    ids = {name for name in shapes_in(model) if name.endswith("position_ids")}  # diffusers has none
    assert shapes_in(model).items() - shapes_in(path).items() <= {(name, (1, 77)) for name in ids}
    assert shapes_in(path).keys() <= shapes_in(model).keys()
    assert (path.is_dir(), read_model(path).format) != (model.is_dir(), read_model(model).format)
    before = path.stat()
    assert made(small, model) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not list(path.parent.glob("*.project"))


def test_a_llama_has_about_five_shards(small: Lab) -> None:
    assert len(read_model(small.shards(*small.models("llama", 1))).files) in {5, 6}


def test_a_lora_is_of_every_linear_layer_and_convolution_of_unet_and_text_encoder(small: Lab) -> None:
    (model,) = small.models("sd15", 1)
    lora = small.lora(model)
    trained = {
        name
        for name, shape in shapes_in(model).items()
        if name.startswith(("model.diffusion_model.", "cond_stage_model.")) and len(shape) > 1
        if ".embeddings." not in name
    }
    found = match(read_header(lora).tensors, shapes_in(model))
    assert found.deltas.keys() == trained
    assert not found.unmatched


def test_a_lora_holds_small_numbers_and_half_its_rank_as_alpha(small: Lab) -> None:
    lora = small.lora(*small.models("sd15", 1))
    data = lora.read_bytes()
    for info in read_header(lora).tensors.values():
        values = struct.unpack(f"<{(info.end - info.begin) // 2}e", data[info.begin : info.end])
        assert values == (16,) if not info.shape else 0 < max(map(abs, values)) < 1 / 64


@pytest.mark.parametrize("name", ["sd15_ckpt", "sd15_lora", "sd15_diffusers", "llama_shards"])
def test_what_people_have_is_merged_beside_a_weighted_sum_of_files(small: Lab, tmp_path: Path, name: str) -> None:
    ours, beside = CASES[name].arms(small, tmp_path)
    assert (ours.name, beside.name) == ("mergebuild", "weighted_sum")
    sample = ours.run(0, tmp_path / "log")
    assert sample.extra["merge_seconds"] > 0
    measured = Round({each.name: sample for each in (ours, beside)})
    assert {"mergebuild / weighted_sum": 1.0, "anonymous memory, bytes": sample.anonymous} == {
        figure.label: figure.of(measured) for figure in CASES[name].figures
    }
