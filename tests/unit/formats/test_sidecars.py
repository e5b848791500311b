"""Laws of what stands beside weights: what is copied, what is patched, which shard holds what, what is stale."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from folder_making import document, weights
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.formats import sidecars as sidecars_module
from mergebuild.formats.sidecars import (
    has_own_code,
    index_json,
    shard_names,
    shards,
    sidecars_of,
    stale,
)

# which files


def test_a_tokenizer_and_templates_and_licences_are_copied(tmp_path: Path) -> None:
    kept = (
        "LICENSE LICENSE.md NOTICE Notice.txt USE_POLICY.md added_tokens.json chat_template.jinja config.json "
        "chat_template.j2 chat_template.jinja2 tekken.json tokenizer.model.v3 mistral.model.v7m1 "
        "generation_config.json merges.txt preprocessor_config.json sentencepiece.bpe.model special_tokens_map.json "
        "spiece.model tokenizer.json tokenizer.model tokenizer_config.json qwen.tiktoken vocab.json vocab.txt"
    ).split()
    left = (
        ".gitattributes README.md all_results.json flax_model.msgpack model.onnx model.safetensors training_args.bin "
        "model.safetensors.index.json model.safetensors.index.fp16.json pytorch_model.bin pytorch_model.bin.index.json "
        "requirements.txt scheduler.pt trainer_state.json x.Q4.gguf preview.png adapter_config.json .hidden.json "
        "hf_quant_config.json quantize_config.json quanto_qmap.json "
        "mergebuild.json"
    ).split()
    for name in kept + left:
        (tmp_path / name).touch()
    (tmp_path / "folder.json").mkdir()
    found = sidecars_of(tmp_path)
    assert found.names == tuple(sorted(kept))
    assert found.left_out == ()


def test_code_is_left_out_and_said_so(tmp_path: Path) -> None:
    (tmp_path / "modeling_odd.py").touch()
    assert sidecars_of(tmp_path) == ((), ("`modeling_odd.py` is code, and is not copied",))


def test_code_that_the_folder_is_made_of_is_copied(tmp_path: Path) -> None:
    """One file of it imports another, so all of them are; of subfolders none is."""
    code = ("configuration_odd.py", "layers_odd.py", "modeling_odd.py")
    for name in code:
        (tmp_path / name).touch()
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "odd.py").touch()
    found = sidecars_of(tmp_path, ["vae"], with_code=True)
    assert found == (code, ("`vae/odd.py` is code, and is not copied",))


def test_code_out_of_the_folder_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "modeling_odd.py").symlink_to(tmp_path / "elsewhere.py")
    assert sidecars_of(tmp_path / "home", with_code=True).names == ()


@pytest.mark.parametrize(
    ("auto_map", "own"),
    [
        ({"AutoConfig": "configuration_odd.OddConfig", "AutoModel": "modeling_odd.OddModel"}, True),
        ({"AutoTokenizer": ["modeling_odd.OddTokenizer", None]}, True),
        ({"AutoTokenizer": [None, "modeling_odd.OddTokenizer"]}, True),
        ({"AutoModel": "someone/odd--modeling_odd.OddModel"}, False),
        ({"AutoModel": "other.OddModel"}, False),
        ({"AutoModel": 7}, False),
        (["modeling_odd.OddModel"], False),
        (None, False),
        ({}, False),
    ],
)
def test_a_configuration_names_code_in_its_auto_map(auto_map: object, own: bool) -> None:
    assert has_own_code({"auto_map": auto_map}, {"config.json", "modeling_odd.py"}) is own


def test_a_large_file_is_left_out_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecars_module, "MAX_SIDECAR", 1 << 20)
    for name, size in (("most.json", 1 << 20), ("more.json", (1 << 20) + 1)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    assert sidecars_of(tmp_path) == (("most.json",), ("`more.json` is larger than 1 MiB, and is not copied",))


def test_links_count_where_they_stay_in_the_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    secret = document(tmp_path / "secret.json", {"token": 1})
    real = document(home / "real.json", {})
    (home / "inner.json").symlink_to(real)
    (home / "outer.json").symlink_to(secret)
    (home / "lost.json").symlink_to(home / "none.json")
    (home / "loop.json").symlink_to("loop.json")
    (home / "tokenizer").symlink_to(tmp_path)
    found = sidecars_of(home, ["tokenizer"])
    assert found.names == ("inner.json", "real.json")
    assert found.left_out == (
        "`loop.json` leads nowhere, and is not copied",
        "`lost.json` leads nowhere, and is not copied",
        "`outer.json` is a link to a file outside of its folder, and is not copied",
        "`tokenizer/secret.json` is a link to a file outside of its folder, and is not copied",
    )


def test_blobs_are_of_the_cache_that_a_snapshot_is_of(tmp_path: Path) -> None:
    for cache, is_cache in (("models--a--b", True), ("elsewhere", False)):
        snapshot = tmp_path / cache / "snapshots" / "0123" / "tokenizer"
        document(tmp_path / cache / "blobs" / "77", {})
        snapshot.mkdir(parents=True)
        (snapshot / "vocab.json").symlink_to("../../../blobs/77")
        found = sidecars_of(snapshot.parent, ["tokenizer"])
        assert found.names == (("tokenizer/vocab.json",) if is_cache else ())


def test_modules_of_a_sentence_encoder_bring_their_weights(tmp_path: Path) -> None:
    document(tmp_path / "1_Pooling" / "config.json", {})
    weights(tmp_path / "2_Dense" / "model.safetensors", "linear.weight")
    weights(tmp_path / "onnx" / "model.safetensors", "a")
    document(tmp_path / "onnx" / "config.json", {})
    found = sidecars_of(tmp_path, modules=["1_Pooling", "2_Dense"])
    assert found.names == ("1_Pooling/config.json", "2_Dense/model.safetensors")


def test_further_chat_templates_are_copied(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tools.jinja").touch()
    assert sidecars_of(tmp_path).names == ("additional_chat_templates/tools.jinja",)


# shards

SIZES = st.dictionaries(
    st.from_regex(r"(model\.)?(layers\.[0-9]{1,2}\.|blocks\.[0-9]\.)?(w|b|norm)(\.weight)?", fullmatch=True),
    st.integers(0, 40),
    min_size=1,
)


@given(SIZES, st.integers(1, 100), st.randoms())
def test_shards_hold_each_tensor_once_within_the_limit(sizes: dict[str, int], most: int, random: object) -> None:
    found = shards(sizes.items(), most)
    assert sorted(name for names in found for name in names) == sorted(sizes)
    assert all(names for names in found)
    assert all(sum(sizes[name] for name in names) <= most or len(names) == 1 for names in found)
    shuffled = list(sizes.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert shards(shuffled, most) == found


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 5))
def test_a_layer_is_in_one_shard_where_it_fits(layers: int, tensors: int, per_shard: int) -> None:
    sizes = {f"model.layers.{layer}.{part}.weight": 10 for layer in range(layers) for part in range(tensors)}
    found = shards(sizes.items(), 10 * tensors * per_shard)
    holders = [{int(re.findall(r"\d+", name)[0]) for name in names} for names in found]
    assert sorted(layer for held in holders for layer in held) == list(range(layers))
    assert [sorted(held) for held in holders] == sorted(sorted(held) for held in holders)


def test_shards_follow_the_numbers_of_layers() -> None:
    sizes = [(f"model.layers.{layer}.w", 10) for layer in range(12)]
    sizes += [("lm_head.weight", 30), ("model.embed_tokens.weight", 30), ("model.norm.weight", 1)]
    assert shards(sizes, 60) == [
        ["lm_head.weight", "model.embed_tokens.weight"],
        [f"model.layers.{layer}.w" for layer in range(6)],
        [f"model.layers.{layer}.w" for layer in range(6, 12)],
        ["model.norm.weight"],
    ]


def test_a_number_of_any_length_sorts() -> None:
    long = "9" * 5000
    assert shards([(f"h.{long}.w", 1), ("h.10.w", 1), ("h.9.w", 1), ("h.09.x", 1)], 9) == [
        ["h.9.w", "h.09.x", "h.10.w", f"h.{long}.w"]
    ]


def test_nothing_takes_one_empty_shard() -> None:
    assert shards([], 10) == [[]]


def test_shards_are_named_as_clients_name_them() -> None:
    assert shard_names(1, "model") == ["model.safetensors"]
    assert shard_names(2, "model") == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert shard_names(3, "diffusion_pytorch_model")[2] == "diffusion_pytorch_model-00003-of-00003.safetensors"


def test_an_index_is_a_function_of_what_it_says() -> None:
    weight_map = {"b": "2", "a": "1"}
    text = index_json(weight_map, 10)
    assert text == index_json(dict(sorted(weight_map.items())), 10)
    assert text.decode() == (
        '{\n  "metadata": {\n    "total_size": 10\n  },\n  "weight_map": {\n    "a": "1",\n    "b": "2"\n  }\n}\n'
    )


# what is stale


def test_weights_of_another_layout_are_stale() -> None:
    present = [
        "model.safetensors",
        "model.safetensors.index.json",
        *shard_names(2, "model"),
        *shard_names(3, "model"),
        "config.json",
        "pytorch_model.bin",
        "model.fp16.safetensors",
        "my-model.safetensors",
        "model-1-of-2.safetensors",
        ".model.safetensors",
    ]
    shard_layout = [*shard_names(2, "model"), "model.safetensors.index.json"]
    assert stale(present, ["model.safetensors"]) == tuple(
        sorted([*shard_names(2, "model"), *shard_names(3, "model"), "model.safetensors.index.json"])
    )
    assert stale(present, shard_layout) == tuple(sorted([*shard_names(3, "model"), "model.safetensors"]))
    assert stale(["config.json"], shard_layout) == ()
