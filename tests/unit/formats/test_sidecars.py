"""Laws of what stands beside weights: what is copied, what is patched, which shard holds what, what is stale."""

from __future__ import annotations

import json
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
    patched_config,
    shard_names,
    shards,
    sidecars_of,
    stale,
    tying,
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


# the configuration

LLAMA = b"""{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "rms_norm_eps": 1E-05,
  "name": "\xc3\xa9",
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16"
}
"""


def test_a_configuration_that_fits_stays_as_it_is() -> None:
    assert patched_config(LLAMA) == LLAMA
    assert patched_config(LLAMA, dtype="bfloat16", tied=False) == LLAMA


def test_only_what_does_not_fit_is_changed() -> None:
    patched = patched_config(LLAMA, dtype="float16", tied=True)
    assert patched == LLAMA.replace(b"bfloat16", b"float16").replace(b"false", b"true")


@pytest.mark.parametrize(
    ("text", "patched"),
    [
        ('{"dtype": "bfloat16"}', '{"dtype": "float32"}'),
        ('{"dtype": null, "torch_dtype": "float16"}', '{"dtype": "float32", "torch_dtype": "float32"}'),
        ('{\n  "a": 1,\n  "b": 2\n}\n', '{\n  "a": 1,\n  "b": 2,\n  "torch_dtype": "float32"\n}\n'),
        ('{\n  "a": 1\n}', '{\n  "a": 1,\n  "torch_dtype": "float32"\n}'),
        ('{"a":1}', '{"a":1,"torch_dtype": "float32"}'),
        ("{}", '{"torch_dtype": "float32"}'),
        (" { } ", ' { "torch_dtype": "float32"} '),
        ('{"_diffusers_version": "0.42.1"}', '{"_diffusers_version": "0.42.1"}'),
        ('{"dtype": "float16", "_diffusers_version": "0"}', '{"dtype": "float32", "_diffusers_version": "0"}'),
        (
            '{"text_config": {"dtype": "float16", "x": [{"dtype": "int8"}]}, "x": {"dtype": 0}, "dtype": "float16"}',
            '{"text_config": {"dtype": "float32", "x": [{"dtype": "int8"}]}, "x": {"dtype": 0}, "dtype": "float32"}',
        ),
    ],
)
def test_the_dtype_is_said_where_it_was_said_or_last(text: str, patched: str) -> None:
    assert patched_config(text.encode(), dtype="float32").decode() == patched


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", None])
def test_a_dtype_that_nothing_computes_in_leaves_the_donors(dtype: str | None) -> None:
    assert patched_config(LLAMA, dtype=dtype) == LLAMA


@pytest.mark.parametrize(
    ("text", "patched"),
    [
        ('{\n "quantization_config": {"a": [1]},\n "b": 2\n}', '{\n "b": 2\n}'),
        ('{\n "b": 2,\n "quantization_config": null\n}', '{\n "b": 2\n}'),
        ('{"a": 1, "quantization_config": {}, "b": 2}', '{"a": 1, "b": 2}'),
        ('{"quantization_config": {}, "transformers_weights": "x"}', "{}"),
        ('{"compression_config": {"format": "x"}, "b": 2}', '{"b": 2}'),
        ('{"vision_config": {"quantization_config": 1, "b": 2}}', '{"vision_config": {"b": 2}}'),
    ],
)
def test_what_says_that_weights_are_quantized_is_taken_out(text: str, patched: str) -> None:
    assert patched_config(text.encode()).decode() == patched


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b'{"a": 1,}', b"\xff{}", b"\xef\xbb\xbf{}"])
def test_what_is_no_configuration_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        patched_config(text, dtype="float16")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(["dtype", "x_config", "quantization_config"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.text(max_size=4) | st.sampled_from(["dtype", "torch_dtype", "quantization_config", "text_config"]), JSON
    ),
    st.sampled_from([None, 0, 2, "\t"]),
    st.booleans(),
)
def test_any_configuration_keeps_all_else(
    config: dict[str, object], indent: int | str | None, ascii_only: bool
) -> None:
    text = json.dumps(config, indent=indent, ensure_ascii=ascii_only).encode()
    found = json.loads(patched_config(text, dtype="float16", tied=True))
    added = set() if {"dtype", "torch_dtype"} & set(config) else {"torch_dtype"}
    assert list(found) == [key for key in config if key != "quantization_config"] + [
        key for key in ("tie_word_embeddings", *sorted(added)) if key not in config
    ]
    assert found["tie_word_embeddings"] is True
    for key in {"dtype", "torch_dtype"} & set(found):
        assert found[key] == "float16"
    for key in set(config) - {"dtype", "torch_dtype", "quantization_config"}:
        assert key.endswith("_config") or found[key] == config[key]


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("donor", "written", "tied"),
    [
        ([EMBEDDING], {EMBEDDING: b"e"}, None),
        ([EMBEDDING, "lm_head.weight"], {EMBEDDING: b"e", "lm_head.weight": b"h"}, False),
        ([EMBEDDING, "lm_head.weight"], {EMBEDDING: b"e", "lm_head.weight": b"e"}, None),
        ([EMBEDDING, "lm_head.weight"], {EMBEDDING: b"e"}, True),
        (["lm_head.weight"], {"lm_head.weight": b"h"}, None),
        (
            ["shared.weight", "lm_head.weight"],
            {"shared.weight": b"e", "decoder.embed_tokens.weight": b"x", "lm_head.weight": b"e"},
            None,
        ),
        (["x.wte.weight", "x.lm_head.weight"], {"x.wte.weight": b"e", "x.lm_head.weight": b"h"}, False),
        (["bert.embeddings.word_embeddings.weight"], {"bert.embeddings.word_embeddings.weight": b"e"}, None),
    ],
)
def test_a_head_is_tied_only_where_it_is_the_embedding(
    donor: list[str], written: dict[str, bytes], tied: bool | None
) -> None:
    assert tying(donor, written) is tied


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
