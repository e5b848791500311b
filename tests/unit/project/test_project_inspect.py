"""What `inspect` says is what the bytes are."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.errors import SourceError
from mergebuild.events import Event, Hashing
from mergebuild.formats.header import TensorInfo
from mergebuild.formats.model import Model
from mergebuild.project.inspect import inspect, inspect_model


def write(path: Path, tensors: dict[str, tuple[str, list[int], int]], metadata: dict[str, str] | None = None) -> bytes:
    """Write tensors, given as tag, shape and size in bytes; return the whole file."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (tag, shape, size) in tensors.items():
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    data = hashlib.shake_128(raw).digest(offset)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path.read_bytes()


SD15 = {
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": ("F16", [320, 320, 1, 1], 204800),
    "model.diffusion_model.input_blocks.0.0.weight": ("F16", [320, 4, 3, 3], 23040),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": ("I64", [1, 77], 616),
    "model_ema.decay": ("F32", [], 4),
    "odd": ("F32", [2], 8),
}


def test_counts_and_components_add_up(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    raw = write(path, SD15, {"z": "1", "format": "pt"})
    found = inspect(path, with_tensors=True)
    assert (found.path, found.format, found.tensors, found.bytes) == (str(path), "safetensors", 5, len(raw))
    assert found.dtypes == {"float16": 2, "float32": 2, "int64": 1}
    assert found.metadata == {"format": "pt", "z": "1"}
    assert list(found.metadata) == ["format", "z"]
    assert sum(int(str(facts["tensors"])) for facts in found.components.values()) == 5
    assert sum(int(str(facts["bytes"])) for facts in found.components.values()) == 228468
    assert found.components["ema"] == {"tensors": 1, "bytes": 4, "dtypes": {"float32": 1}}
    assert ("odd", "float32", (2,), 8) in found.tensor_list


def test_ema_copies_make_a_file_full(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, SD15)
    assert inspect(path).weights == "full"
    write(path, {"odd": ("F32", [2], 8)})
    assert inspect(path).weights == "pruned"
    assert inspect(path).tensor_list == ()


def test_what_sets_a_checkpoint_apart_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, SD15 | {"v_pred": ("F32", [0], 0), "ztsnr": ("F32", [0], 0)}, {"modelspec.predict_key": "epsilon"})
    (tmp_path / "m.vae.pt").touch()
    found = inspect(path)
    assert dict(found.facts) | {"position ids": ""} == {
        "precision": "mixed: float16 > 99 %, float32 < 1 %",
        "vae": "none in it, m.vae.pt beside it",
        "input channels": "4",
        "marks": "v_pred, ztsnr",
        "prediction": "v",
        "position ids": "",
    }
    assert found.facts["position ids"].startswith("broken: 77 of 77 are wrong, at 0 stands ")
    assert found.adapter is None
    assert found.origin == ("described by modelspec: prediction epsilon",)


def test_an_inpainting_model_with_a_vae_and_sound_positions(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": ("I64", [1, 77], 616),
        "first_stage_model.quant_conv.bias": ("F16", [4], 8),
        "model.diffusion_model.input_blocks.0.0.weight": ("F16", [4, 9, 1, 1], 72),
    }
    raw = write(path, tensors, {"modelspec.prediction_type": "v"})
    start = 8 + int.from_bytes(raw[:8], "little")
    path.write_bytes(raw[:start] + struct.pack("<77q", *range(77)) + raw[start + 616 :])
    assert inspect(path).facts == {
        "precision": "float16",
        "vae": "baked in",
        "input channels": "9 (inpainting)",
        "prediction": "v (says modelspec)",
        "position ids": "0 to 76",
    }


def test_a_lora_is_no_pruned_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(
        path,
        {
            "lora_unet_x.lora_down.weight": ("F16", [4, 8], 64),
            "lora_unet_x.lora_up.weight": ("F16", [8, 4], 64),
        },
        {"ss_network_dim": "4"},
    )
    found = inspect(path)
    assert found.weights == ""
    assert found.adapter is not None
    assert found.adapter["ranks"] == {"4": 1}
    assert found.origin == ("trained with sd-scripts: dim 4",)
    assert json.loads(json.dumps(found.to_json()))["adapter"]["families"] == {"LoRA": 2}


def test_a_vae_of_its_own_and_ema_alone_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, {"decoder.conv_in.weight": ("F32", [4, 4, 1, 1], 64), "quant_conv.bias": ("F32", [4], 16)})
    assert inspect(path).facts == {"precision": "float32", "kind": "a VAE, in ldm names"}
    write(path, {"model_ema.decay": ("F32", [], 4), "model_ema.x": ("F32", [4], 16)})
    assert inspect(path).weights == "ema-only"


def test_a_folder_and_other_formats_have_fewer_hashes(tmp_path: Path) -> None:
    raw = write(tmp_path / "a.bin", {"a": ("U8", [64], 64)})
    tensor = {"a": TensorInfo("a", "uint8", (64,), len(raw) - 64, len(raw))}
    pickle = Model("pickle", (tmp_path / "a.bin",), (len(raw),), tensor, {}, notices=("an optimizer is left out",))
    found = inspect_model(pickle, "a.bin")
    assert found.hashes["sha256"] == hashlib.sha256(raw).hexdigest()
    assert found.hashes["autov3"] is None
    assert found.notices == ("an optimizer is left out",)
    folder = Model("sharded", (tmp_path / "a.bin",), (len(raw),), tensor, {}, folder=tmp_path)
    line = f"{hashlib.sha256(raw).hexdigest()}  a.bin\n"
    found = inspect_model(folder, "folder")
    assert found.hashes == {
        "sha256": hashlib.sha256(line.encode()).hexdigest(), "autov1": None, "autov2": None, "autov3": None,
    }  # fmt: skip


def test_a_folder_of_peft_is_an_adapter_with_the_alpha_of_its_configuration(tmp_path: Path) -> None:
    base = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{base}.lora_A.weight": ("F16", [4, 8], 64), f"{base}.lora_B.weight": ("F16", [8, 4], 64)}
    write(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    found = inspect(tmp_path)
    assert found.format == "peft"
    assert found.adapter is not None
    assert (found.adapter["ranks"], found.adapter["alphas"]) == ({"4": 1}, {"8": 0})
    file = inspect(tmp_path / "adapter_model.safetensors")
    assert (file.format, file.adapter, file.hashes) == (found.format, found.adapter, found.hashes)
    write(tmp_path / "one.safetensors", tensors, {"lora_adapter_metadata": '{"r": 4, "lora_alpha": 8}'})
    assert inspect(tmp_path / "one.safetensors").adapter == found.adapter


def test_a_folder_of_shards_is_one_model(tmp_path: Path) -> None:
    sizes = [len(write(tmp_path / f"{name}.safetensors", {name: ("F16", [4], 8)})) for name in "ab"]
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = inspect(tmp_path, with_tensors=True)
    assert (found.format, found.tensors, found.bytes) == ("sharded", 2, sum(sizes))
    assert [name for name, *_ in found.tensor_list] == ["a", "b"]
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(SourceError) as caught:
        inspect(tmp_path)
    assert caught.value.problems[0].code == "shard-missing"


def test_a_file_that_goes_away_is_an_error_of_the_source(tmp_path: Path) -> None:
    gone = Model("pickle", (tmp_path / "gone",), (0,), {}, {})
    with pytest.raises(SourceError) as caught:
        inspect_model(gone, "models/gone")
    assert caught.value.problems[0].code == "file-unreadable"
    assert "models/gone" in caught.value.problems[0].message


@given(st.dictionaries(st.text("abc", min_size=1), st.text(max_size=5), max_size=3))
def test_metadata_change_all_hashes_but_autov3(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    raw = write(path, {"a": ("U8", [64], 64)}, metadata | {"x": "1"})
    with_metadata = inspect(path).hashes
    header = b'{"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[-64:])
    without = inspect(path).hashes
    assert with_metadata["autov3"] == without["autov3"]
    assert with_metadata["sha256"] != without["sha256"]


def test_the_reading_is_announced_under_the_name_that_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    raw = write(path, {"a": ("U8", [8], 8)})
    events: list[Event] = []
    assert inspect(path, shown="models/m", emit=events.append).path == "models/m"
    assert events == [Hashing("models/m", len(raw))]


def test_what_is_no_safetensors_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"oops")
    with pytest.raises(SourceError):
        inspect(tmp_path / "m.safetensors")
    with pytest.raises(SourceError):
        inspect(tmp_path / "missing.safetensors")
