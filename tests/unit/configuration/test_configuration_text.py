"""A configuration is changed in its text, and only where it is to be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.configuration.text import Path, patched_config

TIED: dict[Path, object] = {("tie_word_embeddings",): True}

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
    assert patched_config(LLAMA, dtype="bfloat16", changes={("tie_word_embeddings",): False}) == LLAMA


def test_only_what_does_not_fit_is_changed() -> None:
    patched = patched_config(LLAMA, dtype="float16", changes=TIED)
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
    ("text", "changes", "patched"),
    [
        ('{"a": 1, "b": [1, 2]}', {("b",): [1]}, '{"a": 1, "b": [1]}'),
        ('{"t_config": {"a": 1}, "a": 2}', {("t_config", "a"): 3}, '{"t_config": {"a": 3}, "a": 2}'),
        ('{"t_config": {"a": 1}, "a": 2}', {("a",): 3}, '{"t_config": {"a": 1}, "a": 3}'),
        ('{"t_config": {"a": 1}}', {("t_config", "b"): True}, '{"t_config": {"a": 1,"b": true}}'),
        ('{"llm": {"a": {"b": 1}}}', {("llm", "a", "b"): 2}, '{"llm": {"a": {"b": 2}}}'),
        ('{"a": 1}', {("id2label",): {"0": "x"}}, '{"a": 1,"id2label": {"0": "x"}}'),
    ],
)
def test_a_member_is_changed_where_it_stands(text: str, changes: dict[Path, object], patched: str) -> None:
    assert patched_config(text.encode(), changes=changes).decode() == patched


def test_what_mlx_says_of_bits_is_taken_out_and_a_codebook_is_not() -> None:
    mlx = b'{"quantization": {"group_size": 64, "bits": 4}, "a": 1}'
    assert patched_config(mlx) == b'{"a": 1}'
    codebook = b'{"quantization": {"size": 64}, "a": 1}'
    assert patched_config(codebook) == codebook


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
    found = json.loads(patched_config(text, dtype="float16", changes=TIED))
    added = set() if {"dtype", "torch_dtype"} & set(config) else {"torch_dtype"}
    assert list(found) == [key for key in config if key != "quantization_config"] + [
        key for key in ("tie_word_embeddings", *sorted(added)) if key not in config
    ]
    assert found["tie_word_embeddings"] is True
    for key in {"dtype", "torch_dtype"} & set(found):
        assert found[key] == "float16"
    for key in set(config) - {"dtype", "torch_dtype", "quantization_config"}:
        assert key.endswith("_config") or found[key] == config[key]
