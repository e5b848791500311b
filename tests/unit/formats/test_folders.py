"""Laws of reading folders: which files hold the weights, and what is said where they don't agree."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from folder_making import SHARDS, document, index, pipeline, sharded, weights

from mergebuild.errors import Problem, SourceError
from mergebuild.formats.folders import Folder, read_folder
from mergebuild.formats.header import Piece, TensorInfo
from mergebuild.formats.model import Model, read_safetensors


def refused(folder: Path) -> Problem:
    """Return the problem that a folder, shown as `hf/x/`, is refused for."""
    with pytest.raises(SourceError) as caught:
        read_folder(folder, shown="hf/x/")
    (problem,) = caught.value.problems
    assert problem.where is not None
    assert problem.where.file.startswith("hf/x")
    assert problem.help
    assert str(folder) not in f"{problem}"
    return problem


def files_of(found: Folder, component: str = "") -> list[str]:
    return [path.name for path in found.components[component].files]


# transformers


def test_a_model_in_shards_is_one_model(tmp_path: Path) -> None:
    found = read_folder(sharded(tmp_path), shown="hf/x/")
    model = found.components[""]
    assert (found.kind, model.format, model.folder) == ("sharded", "sharded", tmp_path)
    assert {name: (info.file, info.shape) for name, info in model.tensors.items()} == {
        "a": (0, (2, 2)),
        "b": (0, (2, 2)),
        "c": (1, (2, 2)),
    }
    assert files_of(found) == list(SHARDS)
    assert model.sizes == tuple(path.stat().st_size for path in model.files)
    assert model.metadata == {"format": "pt"}
    assert found.config == model.facts == {"model_type": "llama", "torch_dtype": "float16"}
    assert found.sidecars == ("config.json",)
    assert found.notices == ()


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        (["model.safetensors"], "model.safetensors"),
        (["diffusion_pytorch_model.safetensors"], "diffusion_pytorch_model.safetensors"),
        (["anything.safetensors"], "anything.safetensors"),
        (["model.safetensors", "consolidated.safetensors", "lora.safetensors"], "model.safetensors"),
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["model.safetensors", "model.fp16.safetensors"], "model.safetensors"),
        (["anything.safetensors", "training_args.bin", "optimizer.pt", "rng_state_0.pth"], "anything.safetensors"),
        (["anything.SAFETENSORS", "model.onnx"], "anything.SAFETENSORS"),
    ],
)
def test_the_files_that_the_client_takes_are_taken(tmp_path: Path, present: list[str], taken: str) -> None:
    for name in present:
        weights(tmp_path / name, "a")
    found = read_folder(tmp_path, shown="hf/x")
    assert files_of(found) == [taken]
    assert found.notices == ()
    assert found.config == {}


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        (["pytorch_model.bin", "training_args.bin", "model.fp16.safetensors"], "pytorch_model.bin"),
        (["epoch=3.ckpt", "optimizer.bin"], "epoch=3.ckpt"),
    ],
)
def test_pickles_are_read_by_who_can(tmp_path: Path, present: list[str], taken: str) -> None:
    for name in present:
        (tmp_path / name).touch()
    asked: list[tuple[str, str]] = []

    def read_file(path: Path, shown: str) -> Model:
        asked.append((path.name, shown))
        return Model("pickle", (path,), (4,), {"a": TensorInfo("a", "uint8", (4,), 0, 4)}, {})

    found = read_folder(tmp_path, shown="hf/x", read_file=read_file)
    assert asked == [(taken, f"hf/x/{taken}")]
    assert found.components[""].tensors.keys() == {"a"}


def test_shards_of_pickles_keep_their_pieces(tmp_path: Path) -> None:
    index(tmp_path / "pytorch_model.bin.index.json", {"a": "1.bin", "b": "2.bin"})
    for name in ("1.bin", "2.bin"):
        (tmp_path / name).touch()

    def read_file(path: Path, shown: str) -> Model:
        name = "a" if path.name == "1.bin" else "b"
        piece = Piece(1, 8, (4,), (1,))
        tensors = {name: TensorInfo(name, "uint8", (4,), 0, 4, 0, (piece,))}
        return Model("pickle", (path, path.with_suffix(".2")), (4, 12), tensors, {}, notices=(f"{shown} is odd",))

    model = read_folder(tmp_path, shown="x", read_file=read_file).components[""]
    assert [path.name for path in model.files] == ["1.bin", "1.2", "2.bin", "2.2"]
    assert model.tensors["a"].pieces[0].file == 1
    assert (model.tensors["b"].file, model.tensors["b"].pieces[0].file) == (2, 3)
    assert model.notices == ("x/1.bin is odd", "x/2.bin is odd")


def test_transformers_takes_the_single_file_before_an_index(tmp_path: Path) -> None:
    weights(sharded(tmp_path) / "model.safetensors", "a")
    found = read_folder(tmp_path, shown="hf/x")
    assert files_of(found) == ["model.safetensors"]
    both = "`hf/x` has both `model.safetensors` and `model.safetensors.index.json`"
    assert found.notices == (f"{both}; the first was taken, as its client does",)


def test_diffusers_takes_the_index_first_unless_its_shards_are_missing(tmp_path: Path) -> None:
    base = "diffusion_pytorch_model"
    weights(tmp_path / f"{base}.safetensors", "a")
    index(tmp_path / f"{base}.safetensors.index.json", {"a": f"{base}-00001-of-00001.safetensors"})
    found = read_folder(tmp_path, shown="hf/x")
    assert files_of(found) == [f"{base}.safetensors"]
    assert found.notices == (
        f"`hf/x/{base}.safetensors.index.json` names missing shards; `{base}.safetensors` was taken",
    )
    weights(tmp_path / f"{base}-00001-of-00001.safetensors", "a")
    assert files_of(read_folder(tmp_path, shown="hf/x")) == [f"{base}-00001-of-00001.safetensors"]


@pytest.mark.parametrize(
    ("present", "taken"),
    [
        (["model.fp16.safetensors"], "model.fp16.safetensors"),
        (["model.non_ema.safetensors"], "model.non_ema.safetensors"),
        (["model.fp16.safetensors", "model.non_ema.safetensors"], "model.fp16.safetensors"),
        (["model.fp16.safetensors", "pytorch_model.fp16.bin"], "model.fp16.safetensors"),
    ],
)
def test_a_variant_is_taken_where_there_is_nothing_plain(tmp_path: Path, present: list[str], taken: str) -> None:
    for name in present:
        weights(tmp_path / name, "a")
    found = read_folder(tmp_path, shown="hf/x")
    assert files_of(found) == [taken]
    assert found.notices == (f"`hf/x` has no plain weights; its variant `{taken}` was taken",)


def test_a_variant_in_shards_is_taken(tmp_path: Path) -> None:
    weights(tmp_path / "model.fp16-00001-of-00001.safetensors", "a")
    index(tmp_path / "model.safetensors.index.fp16.json", {"a": "model.fp16-00001-of-00001.safetensors"})
    assert files_of(read_folder(tmp_path, shown="hf/x")) == ["model.fp16-00001-of-00001.safetensors"]


def test_the_file_that_a_configuration_names_is_taken(tmp_path: Path) -> None:
    document(tmp_path / "config.json", {"transformers_weights": "other.safetensors"})
    weights(tmp_path / "model.safetensors", "a")
    weights(tmp_path / "other.safetensors", "a")
    assert files_of(read_folder(tmp_path, shown="hf/x")) == ["other.safetensors"]


def test_tensors_that_the_index_does_not_name_belong_to_the_model(tmp_path: Path) -> None:
    """As transformers loads all that is in the shards."""
    index(sharded(tmp_path) / "model.safetensors.index.json", {"a": SHARDS[0], "c": SHARDS[1]})
    found = read_folder(tmp_path, shown="hf/x")
    assert found.components[""].tensors.keys() == {"a", "b", "c"}
    assert found.notices == ("`hf/x` has 1 tensors that its index does not name, such as `b`",)


def test_a_folder_of_links_into_the_cache_is_read(tmp_path: Path) -> None:
    cache = tmp_path / "models--meta--llama"
    snapshot = cache / "snapshots" / "0123abc"
    made = sharded(tmp_path / "made")
    document(made / "tokenizer.json", {})
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(made.iterdir())):
        path.rename(cache / "blobs" / f"{number:x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:x}")
    found = read_folder(snapshot, shown="hf/x")
    assert found.components[""].tensors.keys() == {"a", "b", "c"}
    assert found.config["model_type"] == "llama"
    assert found.sidecars == ("config.json", "tokenizer.json")
    assert found.left_out == ()


def test_nothing_of_a_folder_is_needed_but_weights(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", "a")
    found = read_folder(tmp_path, shown="hf/x")
    assert (found.kind, found.config, found.sidecars, found.left_out) == ("sharded", {}, (), ())


def test_a_lone_file_is_a_model(tmp_path: Path) -> None:
    path = weights(tmp_path / "x.safetensors", "a")
    model = read_safetensors(path, "x")
    assert (model.format, model.files, model.size, model.folder) == ("safetensors", (path,), path.stat().st_size, None)


def test_a_small_file_that_is_a_pointer_to_one_is_left_out(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", "a")
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    found = read_folder(tmp_path, shown="hf/x")
    assert found.sidecars == ()
    assert found.left_out == (
        "`tokenizer.json` is a git-lfs pointer, not the file that it points to, and is not copied",
    )


# what is refused


def test_a_configuration_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", "a")
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert refused(tmp_path).code == "git-lfs-pointer"


def test_a_missing_shard_that_another_program_keeps_says_so(tmp_path: Path) -> None:
    (sharded(tmp_path) / SHARDS[1]).unlink()
    (tmp_path / SHARDS[1]).symlink_to("../.dvc/cache/files/md5/12/34")
    assert refused(tmp_path).help == "another program keeps them: `dvc pull` in its repository brings them back"
    (tmp_path / SHARDS[1]).unlink()
    weights(tmp_path / SHARDS[1].replace("model", "Model"), "c")
    there = f"there is `{SHARDS[1].replace('model', 'Model')}`: it differs in letter case"
    assert refused(tmp_path).rows[1:] == (there,)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (sharded(tmp_path) / SHARDS[1]).unlink()
    found = refused(tmp_path)
    assert found.code == "shard-missing"
    assert found.message == "`hf/x` lacks 1 of the 2 shards that its index names"
    assert found.rows == (f"`{SHARDS[1]}`",)
    assert found.help == "download the missing files"


def test_many_missing_shards_are_counted(tmp_path: Path) -> None:
    names = [f"model-{number:05}-of-00099.safetensors" for number in range(1, 100)]
    index(tmp_path / "model.safetensors.index.json", {name: name for name in names})
    found = refused(tmp_path)
    assert found.rows == (*(f"`{name}`" for name in names[:8]), "… 99 in all")


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    index(sharded(tmp_path) / "model.safetensors.index.json", {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]})
    found = refused(tmp_path)
    assert found.code == "index-mismatch"
    assert found.message == "`hf/x` has an index that names 1 tensors in shards that don't hold them"
    assert found.rows == (f"`b` is not in `{SHARDS[1]}`",)


def test_a_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    weights(sharded(tmp_path) / SHARDS[1], "a", "c")
    found = refused(tmp_path)
    assert found.code == "duplicate-tensor"
    assert found.message == "`hf/x` has `a` in two shards"
    assert found.rows == SHARDS


def test_shards_without_an_index_are_refused(tmp_path: Path) -> None:
    (sharded(tmp_path) / "model.safetensors.index.json").unlink()
    found = refused(tmp_path)
    assert found.code == "index-missing"
    assert found.message == "`hf/x` has 2 shards of weights, and no index that says what is in them"


def test_a_folder_of_several_models_is_refused(tmp_path: Path) -> None:
    for name in ("anything", "orange"):
        weights(tmp_path / f"{name}.safetensors", "a")
    found = refused(tmp_path)
    assert found.code == "ambiguous-folder"
    assert found.message == "`hf/x` has 2 files of weights, and nothing says which of them is meant"
    assert found.rows == ("`anything.safetensors`", "`orange.safetensors`")
    assert found.help == "name one of the files"


def test_several_variants_without_a_usual_one_are_refused(tmp_path: Path) -> None:
    for name in ("ema", "non_ema"):
        weights(tmp_path / f"model.{name}.safetensors", "a")
    assert refused(tmp_path).code == "ambiguous-folder"


@pytest.mark.parametrize(
    ("names", "code", "sentence"),
    [
        ([], "weights-missing", "`hf/x` has no file of weights"),
        (["config.json.txt"], "weights-missing", "`hf/x` has no file of weights"),
        (
            ["x.Q4_K_M.gguf", "x.Q8_0.gguf"],
            "not-in-this-version",
            "`hf/x` has its weights in GGUF only, which this version does not read",
        ),
        (["model.onnx", "flax_model.msgpack"], "weights-missing", "`hf/x` has no weights in safetensors"),
    ],
)
def test_what_has_no_weights_says_what_it_has(tmp_path: Path, names: list[str], code: str, sentence: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    found = refused(tmp_path)
    assert (found.code, found.message) == (code, sentence)


def test_the_cache_itself_names_its_snapshots(tmp_path: Path) -> None:
    for name in ("blobs", "refs", "snapshots/0123abc"):
        (tmp_path / name).mkdir(parents=True)
    found = refused(tmp_path)
    assert found.message == "`hf/x` is a cache of downloads"
    assert found.rows == ("`hf/x/snapshots/0123abc`",)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none").message == "`hf/x` does not exist"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = weights(tmp_path / "x.safetensors", "a")
    assert refused(path).message == "`hf/x` can't be read: not a directory"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "`quantization_config` (bitsandbytes)",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "`quantization_config` (gptq)"),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
            "`quantization_config` (fp8)",
        ),
        ({"quantization_config": {"load_in_8bit": True}}, "`quantization_config`"),
        ({"quantization_config": {"quant_method": "\x1b[31m"}}, "`quantization_config`"),
        ({"compression_config": {"format": "int-quantized"}}, "`compression_config`"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "`text_config.quantization_config` (awq)"),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float8_e4m3fn"])
def test_quantized_weights_are_refused_by_the_field_that_says_so(
    tmp_path: Path, config: dict[str, object], field: str, dtype: str
) -> None:
    document(tmp_path / "config.json", config)
    weights(tmp_path / "model.safetensors", "model.layers.0.mlp.up_proj.weight", dtype=dtype)
    found = refused(tmp_path)
    assert found.code == "quantized-weights"
    assert found.message == f"`hf/x/config.json` has a {field}: its weights are quantized, and can't be merged"
    assert found.help == "take the unquantized release of the model, or dequantize it first"


@pytest.mark.parametrize("part", ["", "text_config"])
def test_a_sentence_about_quantization_that_the_tensors_do_not_bear_out_is_told(tmp_path: Path, part: str) -> None:
    """What was trained on a quantized model and saved in floats keeps it. Positions and counts are no weights."""
    said = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    document(sharded(tmp_path) / "config.json", {part: said} if part else said)
    weights(tmp_path / SHARDS[1], "c", "position_ids", dtype="int64")
    index(tmp_path / "model.safetensors.index.json", {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1]})
    field = f"{part}.quantization_config".lstrip(".")
    assert read_folder(tmp_path, shown="x").notices[0] == (
        f"`x/config.json` has a `{field}` (bitsandbytes), and no tensor is quantized: it is not written"
    )


@pytest.mark.parametrize("value", [None, {}])
def test_a_field_that_says_nothing_refuses_nothing(tmp_path: Path, value: object) -> None:
    document(sharded(tmp_path) / "config.json", {"quantization_config": value})
    assert len(read_folder(tmp_path, shown="x").components[""].tensors) == 3


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.up_proj.qweight",
        "model.layers.0.mlp.up_proj.weight_scale_inv",
        "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
        "model.layers.0.mlp.up_proj.weight.absmax",
        "model.layers.0.mlp.up_proj.SCB",
    ],
)
def test_quantized_weights_are_refused_by_their_names_too(tmp_path: Path, name: str) -> None:
    weights(tmp_path / "model.safetensors", "lm_head.weight", name)
    found = refused(tmp_path)
    assert found.message == "`hf/x` holds quantized weights, which can't be merged"
    assert found.rows == (f"`{name}` is a part of a quantized weight",)


def test_scales_lie_in_another_shard_than_their_weights(tmp_path: Path) -> None:
    weights(tmp_path / SHARDS[0], "a.weight", dtype="float8_e4m3fn", shape=(256, 128))
    weights(tmp_path / SHARDS[1], "a.weight_scale_inv", dtype="float32", shape=(2, 1))
    index(tmp_path / "model.safetensors.index.json", {"a.weight": SHARDS[0], "a.weight_scale_inv": SHARDS[1]})
    document(tmp_path / "config.json", {"quantization_config": {"quant_method": "fp8"}})
    found = read_folder(tmp_path, shown="x").components[""]
    (weight,) = found.tensors.values()
    assert weight.scale is not None
    assert (weight.file, weight.scale.info.file) == (0, 1)


# diffusers


def test_a_pipeline_has_a_model_for_each_component(tmp_path: Path) -> None:
    found = read_folder(pipeline(tmp_path), shown="hf/x")
    assert found.kind == "diffusers"
    assert {name: (list(model.tensors), model.format) for name, model in found.components.items()} == {
        "text_encoder": (["text_encoder.weight"], "diffusers"),
        "unet": (["unet.weight"], "diffusers"),
        "vae": (["vae.weight"], "diffusers"),
    }
    assert found.components["unet"].folder == tmp_path / "unet"
    assert found.components["unet"].facts == {"_class_name": "unet"}
    assert found.config["_class_name"] == "StableDiffusionPipeline"
    assert found.sidecars == (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "vae/config.json",
    )
    assert found.notices == ("`hf/x/safety_checker` is not there, though `model_index.json` names it",)


def test_a_safety_checker_is_a_component_like_others(tmp_path: Path) -> None:
    weights(pipeline(tmp_path) / "safety_checker" / "model.safetensors", "special_care_embeds")
    document(tmp_path / "safety_checker" / "config.json", {})
    assert read_folder(tmp_path, shown="x").components["safety_checker"].tensors.keys() == {"special_care_embeds"}


def test_a_component_may_be_in_shards(tmp_path: Path) -> None:
    base = "diffusion_pytorch_model"
    (pipeline(tmp_path) / "unet" / f"{base}.safetensors").unlink()
    for number, name in enumerate("ab", start=1):
        weights(tmp_path / "unet" / f"{base}-0000{number}-of-00002.safetensors", name)
    weight_map = {name: f"{base}-0000{number}-of-00002.safetensors" for number, name in enumerate("ab", start=1)}
    index(tmp_path / "unet" / f"{base}.safetensors.index.json", weight_map)
    assert read_folder(tmp_path, shown="x").components["unet"].tensors.keys() == {"a", "b"}


def test_folders_that_the_pipeline_does_not_name_are_not_of_it(tmp_path: Path) -> None:
    weights(pipeline(tmp_path) / "text_encoder_9" / "model.safetensors", "a")
    document(tmp_path / "text_encoder_9" / "config.json", {})
    found = read_folder(tmp_path, shown="x")
    assert "text_encoder_9" not in found.components
    assert "text_encoder_9/config.json" not in found.sidecars


def test_a_component_whose_folder_is_missing_is_named(tmp_path: Path) -> None:
    pipeline(tmp_path)
    (tmp_path / "vae").rename(tmp_path / "vae_old")
    found = refused(tmp_path)
    assert found.code == "component-missing"
    assert found.message == "`hf/x` names the component `vae` in its `model_index.json`, and has no such folder"


def test_a_component_without_its_weights_is_named(tmp_path: Path) -> None:
    (pipeline(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert refused(tmp_path).message == "`hf/x/unet` has no file of weights"
    (tmp_path / "unet" / "config.json").unlink()
    assert refused(tmp_path).message == "`hf/x/unet` has no file of weights"


def test_a_quantized_component_is_named(tmp_path: Path) -> None:
    document(pipeline(tmp_path) / "unet" / "config.json", {"quantization_config": {"quant_method": "bitsandbytes"}})
    weights(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", "conv_in.weight", dtype="uint8")
    assert refused(tmp_path).message.startswith("`hf/x/unet/config.json` has a `quantization_config` (bitsandbytes)")


def test_a_pipeline_without_any_model_is_refused(tmp_path: Path) -> None:
    document(tmp_path / "model_index.json", {"_class_name": "X", "unet": [None, None]})
    assert refused(tmp_path).message == "`hf/x` has a `model_index.json`, and no component with weights"


# adapters


def test_an_adapter_comes_with_its_configuration(tmp_path: Path) -> None:
    weights(tmp_path / "adapter_model.safetensors", "base_model.model.q.lora_A.weight")
    document(tmp_path / "adapter_config.json", {"peft_type": "LORA", "r": 8, "lora_alpha": 16})
    found = read_folder(tmp_path, shown="hf/x")
    assert (found.kind, files_of(found)) == ("peft", ["adapter_model.safetensors"])
    assert found.components[""].format == "peft"
    assert found.config == found.components[""].facts == {"peft_type": "LORA", "r": 8, "lora_alpha": 16}


def test_an_adapter_needs_both_its_files(tmp_path: Path) -> None:
    document(tmp_path / "adapter_config.json", {})
    assert refused(tmp_path).message == (
        "`hf/x` has an `adapter_config.json`, and neither `adapter_model.safetensors` nor `adapter_model.bin`"
    )
    (tmp_path / "adapter_config.json").unlink()
    weights(tmp_path / "adapter_model.safetensors", "a")
    assert refused(tmp_path).message == "`hf/x/adapter_config.json` does not exist"


def test_a_model_and_an_adapter_in_one_folder_are_two_things(tmp_path: Path) -> None:
    """Some clients load the one, some the other, some both."""
    weights(sharded(tmp_path) / "adapter_model.safetensors", "a")
    document(tmp_path / "adapter_config.json", {})
    problem = refused(tmp_path)
    moved = "or move the files of one of them into a folder of their own"
    assert (problem.code, problem.message) == ("ambiguous-folder", "`hf/x` holds a model and an adapter")
    assert problem.rows == ("model.safetensors.index.json", "adapter_model.safetensors")
    assert problem.help == f"name the adapter as `hf/x/adapter_model.safetensors`, {moved}"
    weights(tmp_path / "model.safetensors", "a")
    assert refused(tmp_path).help == (
        f"name the adapter as `hf/x/adapter_model.safetensors`, the model as `hf/x/model.safetensors`, {moved}"
    )


def test_a_configuration_alone_makes_no_adapter_of_a_model(tmp_path: Path) -> None:
    document(sharded(tmp_path) / "adapter_config.json", {})
    found = read_folder(tmp_path, shown="hf/x")
    assert (found.kind, found.sidecars) == ("sharded", ("config.json",))


def test_names_in_messages_are_short_and_printable(tmp_path: Path) -> None:
    index(tmp_path / "model.safetensors.index.json", {"\x1b]0;" + "a" * 500: "../\x07"})
    message = refused(tmp_path).message
    assert not re.search(r"[\x00-\x1f]", message)
    assert len(message) < 400


@pytest.mark.parametrize("name", ["config.json", SHARDS[1], "additional_chat_templates"])
def test_a_disk_that_fails_takes_nothing_out_of_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be looked at is not as good as absent: a model would be published without its configuration."""
    folder, real = sharded(tmp_path), os.stat

    def fail(path: Path | str | int, **options: object) -> os.stat_result:
        if path == folder / name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", fail)
    assert refused(folder).code == "folder-unreadable"
