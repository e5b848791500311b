"""Inputs that can't be merged, results that can't be written: a clear error, its exit code, and nothing written."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from model_files import write_model
from project_space import NewSpace, Space
from tiny_models import block_names, sd15, sdxl

from mergebuild.formats.layout import encode_header

QUANTIZED = encode_header([("a.weight", "int8", (2, 2))], {})[0] + bytes(4)
IN04 = block_names("IN04")[0]
OUT03 = block_names("OUT03")[1]


# Sources


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _short(path: Path) -> None:
    path.write_bytes(b"\x01\x02")


def _pickle(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + b"archive/data.pkl" * 100)


def _gguf(path: Path) -> None:
    path.write_bytes(b"GGUF" + bytes(5000))


def _web_page(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><html><body>404 not found</body></html>" * 10)


def _lfs_pointer(path: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 2132625894\n"
    path.write_text(text)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(10_000))


def _trailing(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def _huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{" + bytes(100))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _missing(path: Path) -> None:
    path.unlink()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.safetensors")


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        server.bind(path.name)
        os.chdir(here)


@pytest.mark.parametrize(
    "damage",
    [
        _truncated, _cut_in_the_header, _empty, _short, _pickle, _gguf, _web_page, _lfs_pointer, _zeros, _trailing,
        _huge_header, _folder, _missing, _dangling, _socket,
    ],
)  # fmt: skip
def test_a_source_that_is_no_sound_file(pair: Space, damage: Callable[[Path], None]) -> None:
    """Exit 4; the error names the source or its file, and says what to do."""
    damage(pair / "two.safetensors")

    outcome = pair.refused("build", code=4)

    (error,) = outcome.json["errors"]
    assert "two" in error["message"]
    assert error["help"]
    assert not (pair / "out").exists()


def test_a_missing_source_tells_where_it_was_looked_for_and_its_url(pair: Space) -> None:
    pair.edit('"two.safetensors"', '{ path = "sub/two.safetensors", url = "https://example.org/two" }')

    outcome = pair.refused("build", code=4)

    assert "sub/two.safetensors" in outcome.err
    assert "https://example.org/two" in outcome.err
    assert outcome.json["errors"][0]["where"].startswith("mergefile.toml:3:")


def test_all_missing_sources_are_told_in_one_run(pair: Space) -> None:
    (pair / "one.safetensors").unlink()
    (pair / "two.safetensors").unlink()

    errors = pair.refused("build", code=4).json["errors"]

    assert [error["code"] for error in errors] == ["source-missing", "source-missing"]


def test_sources_are_found_in_the_folders_of_mergebuild_models(
    pair: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (pair / "two.safetensors").rename(models / "two.safetensors")
    monkeypatch.setenv("MERGEBUILD_MODELS", os.pathsep.join([str(tmp_path / "none"), str(models)]))

    assert pair.build().verdicts == {"mix": "built"}


def test_sources_are_found_under_the_home_folder(pair: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (pair / "two.safetensors").rename(tmp_path / "two.safetensors")
    pair.edit('"two.safetensors"', '"~/two.safetensors"')

    assert pair.build().verdicts == {"mix": "built"}


def test_a_wrong_pin_is_refused_before_anything_is_built(pair: Space) -> None:
    """Exit 4, with both hashes; the right pin builds."""
    wrong, right = "0" * 64, hashlib.sha256(pair.bytes("two.safetensors")).hexdigest()
    pair.edit('"two.safetensors"', f'{{ path = "two.safetensors", sha256 = "{wrong}" }}')

    outcome = pair.refused("build", code=4)

    assert outcome.errors == ["pin-mismatch"]
    assert wrong in outcome.err
    assert right in outcome.err
    pair.edit(wrong, right.upper())
    assert pair.build().verdicts == {"mix": "built"}


def test_a_pinned_source_that_changes_is_refused(pair: Space) -> None:
    digest = hashlib.sha256(pair.bytes("two.safetensors")).hexdigest()
    pair.edit('"two.safetensors"', f'{{ path = "two.safetensors", sha256 = "{digest}" }}')
    pair.build()
    pair.model("two.safetensors", sd15(9))

    assert pair.refused("build", code=4).errors == ["pin-mismatch"]


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("two.gguf", b"GGUF\x03\0\0\0" + bytes(64), "not-in-this-version", "the unquantized safetensors release"),
        ("two.ckpt", b"PK\x03\x04", "zip-truncated", "the download or copy stopped early"),
        ("two.pt", b"\x80\x02}q\x00.", "not-a-model", "state_dict"),
        ("two.bin", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs-pointer", "git lfs pull"),
        ("two.safetensors.index.json", b'{"metadata": {}, "weight_map": {}}', "index-alone", "name the folder"),
    ],
)
def test_what_is_no_model_is_named(pair: Space, name: str, content: bytes, code: str, says: str) -> None:
    (pair / name).write_bytes(content)
    pair.edit('"two.safetensors"', f'"{name}"')

    outcome = pair.refused("build", code=4)

    assert outcome.errors == [code]
    assert says in outcome.json["errors"][0]["help"]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({}, "weights-missing"),
        ({"model.gguf": b"GGUF"}, "not-in-this-version"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'},
            "shard-missing",
        ),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "../two.safetensors"}}'}, "index-outside"),
        (
            {
                "config.json": b'{"quantization_config": {"quant_method": "gptq"}}',
                "model.safetensors": QUANTIZED,
            },
            "quantized-weights",
        ),
        ({"model_index.json": b'{"unet": ["diffusers", "UNet2DConditionModel"]}'}, "component-missing"),
        ({"adapter_config.json": b"{}"}, "weights-missing"),
    ],
)
def test_a_folder_that_is_no_model_is_named(pair: Space, files: dict[str, bytes], code: str) -> None:
    (pair / "two").mkdir()
    for name, content in files.items():
        (pair / "two" / name).write_bytes(content)
    pair.edit('"two.safetensors"', '"two/"')

    assert pair.refused("build", code=4).errors == [code]
    assert pair.refused("inspect", "two", code=4).errors == [code]


# Inputs that do not fit


def test_different_architectures_do_not_fit(pair: Space) -> None:
    """Exit 9, from the headers alone; the error names both layouts."""
    pair.model("two.safetensors", sdxl(2))

    outcome = pair.refused("build", code=9)

    assert "sd15" in outcome.err
    assert "sdxl" in outcome.err
    assert "can't be merged" in outcome.json["errors"][0]["help"]
    assert pair.run("plan", code=9).err == outcome.err


def test_one_tensor_of_another_shape_does_not_fit(pair: Space) -> None:
    """In the contract's form: the tensor, both inputs with file, dtype and shape."""
    model = sd15(2)
    model[IN04] = torch.zeros(3, 3, dtype=torch.bfloat16)
    pair.model("two.safetensors", model)

    outcome = pair.refused("build", code=9)

    shape = list(sd15(1)[IN04].shape)
    assert outcome.err == (
        f"error[shape-mismatch]: `{IN04}` differs between the inputs of `mix`\n"
        "  --> mergefile.toml:5  [targets.mix]\n"
        f"  one  one.safetensors  float16 {shape}\n"
        "  two  two.safetensors  bfloat16 [3, 3]\n"
        f"  help: {outcome.json['errors'][0]['help']}\n"
    )


def test_shapes_are_never_broadcast(pair: Space) -> None:
    model = sd15(2)
    model[IN04] = model[IN04].reshape(1, *model[IN04].shape)
    pair.model("two.safetensors", model)

    pair.refused("build", code=9)


def test_a_shape_that_no_number_reaches_does_no_harm(pair: Space) -> None:
    """What is not merged need not fit."""
    model = sd15(2)
    model[IN04] = torch.zeros(3, dtype=torch.float16)
    pair.model("two.safetensors", model)
    pair.edit("alpha = 0.3", 'alpha = 0.3\nmerge = ["OUT"]')

    assert pair.build().verdicts == {"mix": "built"}


def test_inputs_with_too_little_in_common_do_not_fit(pair: Space) -> None:
    for name, prefix in (("one", "x"), ("two", "y")):
        tensors = {f"{prefix}.{number}": torch.ones(2) for number in range(6)} | {"shared": torch.ones(2)}
        pair.model(f"{name}.safetensors", tensors)

    pair.refused("build", code=9)


def test_a_mismatch_deep_in_a_chain_is_found_before_any_work(pair: Space) -> None:
    pair.model("xl.safetensors", sdxl(3))
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        xl = "xl.safetensors"
        [targets.good]
        formula = "one/2 + two/2"
        output = "good.safetensors"
        [targets.bad]
        formula = "good/2 + xl/2"
        output = "bad.safetensors"
        """
    )

    pair.refused("build", code=9)


# Values that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_in_an_input_fails_the_target(pair: Space, value: float) -> None:
    """Exit 1; the error names the tensors, counts the values, and nothing of the target is published."""
    model = sd15(2)
    model[IN04].reshape(-1)[:3] = value
    model[OUT03].reshape(-1)[5] = value
    pair.model("two.safetensors", model)

    outcome = pair.run("build", "--json", code=1)

    failed = outcome.json["targets"][0]
    assert outcome.json["ok"] is False
    assert failed["verdict"] == "failed"
    assert failed["error"]["code"] == "nonfinite"
    assert f"{IN04}: 3 values are NaN or Inf (3 in `two`)" in outcome.err
    assert f"{OUT03}: 1 values are NaN or Inf (1 in `two`)" in outcome.err
    assert not list(pair.root.rglob("*mix*"))
    assert pair.states() == {"mix": "missing"}


def test_overflow_of_float16_fails_the_target(pair: Space) -> None:
    """Made by finite inputs: the error names the tensor and counts what overflowed."""
    one, two = sd15(1, dtype=torch.float32), sd15(2, dtype=torch.float32)
    one[IN04].reshape(-1)[:5] = 70_000.0
    pair.model("one.safetensors", one)
    pair.model("two.safetensors", two)
    pair.edit("alpha = 0.3", 'alpha = 0.01\ndtype = "float16"')

    outcome = pair.run("build", "--json", code=1)

    assert f"{IN04}: 5 values overflow float16" in outcome.err
    assert not list(pair.root.rglob("*mix*"))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 65520.0), ("float8_e4m3fn", 480.0), ("float8_e5m2", 65536.0), ("bfloat16", 3.4e38)],
)
def test_overflow_of_every_dtype_fails_the_target(pair: Space, dtype: str, value: float) -> None:
    """Where torch saturates silently as well; a copy with a change of dtype is no exception."""
    one = sd15(1, dtype=torch.float32)
    one[IN04].reshape(-1)[0] = value
    pair.model("one.safetensors", one)
    pair.write(
        f"""
        [sources]
        one = "one.safetensors"
        [targets.small]
        method = "copy"
        a = "one"
        dtype = "{dtype}"
        output = "small.safetensors"
        """
    )

    outcome = pair.run("build", "--json", code=1)

    assert f"{IN04}: 1 values overflow {dtype}" in outcome.err
    assert not (pair / "small.safetensors").exists()


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65519.0), ("float8_e4m3fn", 464.0), ("float8_e5m2", 61439.0)])
def test_what_rounds_to_the_largest_value_does_not_overflow(pair: Space, dtype: str, value: float) -> None:
    one = sd15(1, dtype=torch.float32)
    one[IN04].reshape(-1)[0] = value
    pair.model("one.safetensors", one)
    pair.write(
        f"""
        [sources]
        one = "one.safetensors"
        [targets.small]
        method = "copy"
        a = "one"
        dtype = "{dtype}"
        output = "small.safetensors"
        """
    )

    pair.build()

    assert torch.isfinite(pair.read("small.safetensors")[IN04].float()).all()


def test_nonfinite_allow_writes_them(pair: Space) -> None:
    one, two = sd15(1), sd15(2)
    two[IN04].reshape(-1)[:3] = float("nan")
    one[OUT03].reshape(-1)[:2] = 60_000.0
    two[OUT03].reshape(-1)[:2] = 60_000.0
    pair.model("one.safetensors", one)
    pair.model("two.safetensors", two)
    pair.edit("alpha = 0.3", 'alpha = 0.3\nnonfinite = "allow"')
    pair.edit('method = "weighted_sum"', 'formula = "one + 0.3*two"')
    pair.edit('a = "one"\n', "")
    pair.edit('b = "two"\n', "")
    pair.edit("alpha = 0.3\n", "")

    pair.build()

    result = pair.read("out/mix.safetensors")
    assert torch.isnan(result[IN04].reshape(-1)[:3]).all()
    assert torch.isinf(result[OUT03].reshape(-1)[:2]).all()


def test_what_allow_made_is_not_reused_where_it_is_an_error(pair: Space) -> None:
    """Tensors that hold NaN do not slip into a strict target by way of the store."""
    two = sd15(2)
    two[IN04].reshape(-1)[0] = float("nan")
    pair.model("two.safetensors", two)
    pair.edit("alpha = 0.3", 'alpha = 0.3\nnonfinite = "allow"')
    pair.build()
    pair.edit('nonfinite = "allow"\n', "")

    outcome = pair.run("build", "--json", code=1)

    assert outcome.json["targets"][0]["error"]["code"] == "nonfinite"
    assert IN04 in outcome.err


def test_a_tensor_that_is_not_computed_with_may_hold_nan(pair: Space) -> None:
    """What passes through as it is, is no error."""
    one = sd15(1)
    one[IN04].reshape(-1)[0] = float("nan")
    pair.model("one.safetensors", one)
    pair.edit("alpha = 0.3", "alpha = { default = 0.3, IN04 = 0 }")

    assert pair.build().verdicts == {"mix": "built"}


def test_keep_going_builds_what_can_be_built(pair: Space) -> None:
    """`-k`: the rest is built, what reads the failed one is skipped, and the exit code is the first failing one's."""
    two = sd15(2)
    two[IN04].reshape(-1)[0] = float("nan")
    pair.model("two.safetensors", two)
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.bad]
        formula = "one/2 + two/2"
        output = "bad.safetensors"
        [targets.below]
        formula = "bad/2 + one/2"
        output = "below.safetensors"
        [targets.good]
        formula = "0.9*one"
        output = "good.safetensors"
        """
    )

    built = pair.build("-k", code=1)

    assert built.verdicts == {"bad": "failed", "below": "skipped", "good": "built"}
    assert (pair / "good.safetensors").exists()
    assert not (pair / "bad.safetensors").exists()
    assert not (pair / "below.safetensors").exists()


def test_keep_going_builds_beside_a_target_whose_source_is_missing(pair: Space) -> None:
    pair.write(
        (pair / "mergefile.toml").read_text().replace("[sources]", '[sources]\ngone = "gone.safetensors"')
        + '\n[targets.other]\nmethod = "copy"\na = "gone"\noutput = "other.safetensors"\n'
    )

    built = pair.build("-k", code=4)

    assert built.verdicts == {"mix": "built", "other": "failed"}
    assert built["other"]["error"]["code"] == "source-missing"


def test_the_output_of_a_failed_target_stays_as_it_was(pair: Space) -> None:
    pair.build()
    before = pair.bytes("out/mix.safetensors")
    two = sd15(2)
    two[IN04].reshape(-1)[0] = float("nan")
    pair.model("two.safetensors", two)

    pair.build(code=1)

    assert pair.bytes("out/mix.safetensors") == before
    assert [path.name for path in (pair / "out").iterdir()] == ["mix.safetensors"]


# Space


def test_no_space_is_told_before_any_work(pair: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 7, with what is needed and what is free; nothing is written."""
    monkeypatch.setattr("mergebuild.system.platform.free_space", lambda _path: 1000)
    monkeypatch.setattr("mergebuild.project.looking.free_space", lambda _path: 1000)

    outcome = pair.refused("build", code=7)

    assert outcome.errors == ["no-space"]
    assert "1,000" in outcome.err


@pytest.mark.parametrize("size", [160_000, 20_000], ids=["for the output", "for the store"])
def test_no_space_on_the_way_leaves_nothing_behind(pair: Space, size: int) -> None:
    """A file that may not grow (the same as a full disk): exit 7, and no partial file."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    outcome = pair.process("build", "--json", code=7, preexec_fn=limit)

    assert outcome.errors == ["no-space"]
    assert not (pair / "out/mix.safetensors").exists()
    assert not list((pair / "out").iterdir()) if (pair / "out").exists() else True
    assert pair.build().verdicts == {"mix": "built"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB; where none can be mounted, the limit on a file's size stands for it (above)."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(path)], check=False, capture_output=True
    )
    yield path if mounted.returncode == 0 else tmp_path / "unlimited"
    if mounted.returncode == 0:
        subprocess.run(["umount", str(path)], check=True)


def test_a_disk_too_small_for_an_output(pair: Space, small_disk: Path) -> None:
    """Exit 7 on a real file system that fills up, and afterwards it is as empty as before."""
    command = ["build", "mix", "-o", small_disk / "mix.safetensors", "--dtype", "float32"]
    if small_disk.name == "unlimited":
        pair.build(*command[1:])
        return

    outcome = pair.refused(*command, code=7)

    assert outcome.errors == ["no-space"]
    assert list(small_disk.iterdir()) == []


# Trust


@pytest.fixture
def outside(pair: Space, tmp_path: Path) -> Path:
    """A project whose output is in a folder outside of it."""
    pair.edit('"out/mix.safetensors"', f'"{tmp_path}/outside/mix.safetensors"')
    return tmp_path / "outside"


def test_an_output_outside_the_project_needs_trust(pair: Space, outside: Path, tmp_path: Path) -> None:
    """Exit 10 with nothing written; after `trust` it is built; the word is kept outside the project."""
    outcome = pair.refused("build", code=10)
    assert str(outside) in outcome.err
    assert "mergebuild trust" in outcome.json["errors"][0]["help"]
    assert not outside.exists()
    before = pair.tree()

    trusted = pair.json("trust")

    assert trusted["trusted"] == [str(outside)]
    assert pair.tree() == before
    assert list((tmp_path / "config").rglob("*"))
    assert pair.build().verdicts == {"mix": "built"}
    assert (outside / "mix.safetensors").exists()


def test_trust_is_void_when_other_folders_are_asked_for(pair: Space, outside: Path, tmp_path: Path) -> None:
    pair.run("trust")
    pair.build()
    pair.edit("outside/mix", "elsewhere/mix")

    pair.refused("build", code=10)

    assert not (tmp_path / "elsewhere").exists()
    pair.run("trust")
    assert pair.build().verdicts["mix"] in {"built", "restored"}


def test_trust_holds_for_its_project_alone(pair: Space, outside: Path, new_space: NewSpace) -> None:
    other = new_space("other")
    for name in ("one.safetensors", "two.safetensors"):
        write_model(other / name, sd15(1))
    other.write((pair / "mergefile.toml").read_text())
    pair.run("trust")

    other.refused("build", code=10)


def test_trust_holds_when_other_things_change(pair: Space, outside: Path) -> None:
    pair.run("trust")
    pair.edit("alpha = 0.3", "alpha = 0.4")

    assert pair.build().verdicts == {"mix": "built"}


def test_a_link_out_of_the_project_needs_trust(pair: Space, tmp_path: Path) -> None:
    """Folders are compared with links resolved."""
    (tmp_path / "outside").mkdir()
    (pair / "out").symlink_to(tmp_path / "outside")

    pair.refused("build", code=10)


def test_dots_out_of_the_project_need_trust(pair: Space) -> None:
    pair.edit('"out/mix.safetensors"', '"../mix.safetensors"')

    pair.refused("build", code=10)


def test_a_store_outside_the_project_needs_trust(pair: Space, tmp_path: Path) -> None:
    """A mergefile from a stranger names no folder outside; the user's own environment may."""
    pair.write(f'[project]\nstore = "{tmp_path}/store"\n' + (pair / "mergefile.toml").read_text())

    pair.refused("build", code=10)

    assert not (tmp_path / "store").exists()


def test_o_is_the_users_own_word(pair: Space, tmp_path: Path) -> None:
    """`-o` writes wherever the user says."""
    assert pair.build("mix", "-o", tmp_path / "anywhere/mix.safetensors").verdicts == {"mix": "built"}


def test_o_onto_a_source_is_refused(pair: Space) -> None:
    pair.refused("build", "mix", "-o", "two.safetensors", code=2)


def test_o_onto_a_file_that_is_not_ours_is_refused(pair: Space) -> None:
    """Nothing is lost: what stands there is not overwritten without `--force`."""
    (pair / "precious.safetensors").write_bytes(b"precious")

    pair.run("build", "mix", "-o", "precious.safetensors", code=1)

    assert pair.bytes("precious.safetensors") == b"precious"


def test_an_output_through_a_link_onto_a_source_is_refused(pair: Space) -> None:
    """Under whatever name: a source is never overwritten."""
    (pair / "alias.safetensors").symlink_to("two.safetensors")
    pair.edit('"out/mix.safetensors"', '"alias.safetensors"')
    before = pair.bytes("two.safetensors")

    outcome = pair.run("build", "--json", code=None)

    assert outcome.code in {1, 3}
    assert pair.bytes("two.safetensors") == before


def test_no_read_only_folder_is_a_bug_of_ours(pair: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system is told as one, not as a traceback."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", "out")

    monkeypatch.setattr("mergebuild.engine.outputs._OpenOutput", refuse)

    outcome = pair.run("build", "--json", code=1)

    assert "permission denied" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_bug_of_ours_is_exit_70_with_a_traceback(pair: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mergebuild.project.session.Planner", fail)

    outcome = pair.run("build", "--json", code=70)

    assert "Traceback" in outcome.err
    assert outcome.errors == ["internal"]
