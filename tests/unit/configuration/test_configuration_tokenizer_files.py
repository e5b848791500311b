"""The files beside `tokenizer.json` say the same of tokens and of the template, and are otherwise as they were."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from mergebuild.configuration.tokenizer_files import WrittenTokens, chat_template, is_of_tokenizer, tokenizer_files
from mergebuild.configuration.tokenizer_json import AddedToken, TokenizerJson, read_tokenizer_json

ENTRY = {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
WAS = read_tokenizer_json(
    json.dumps({"added_tokens": [{"id": 2, **ENTRY}], "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}}).encode()
)
FILES = {
    "tokenizer.json": WAS.encoded(),
    "tokenizer_config.json": json.dumps({"added_tokens_decoder": {"2": ENTRY}, "x": 1, "chat_template": "t"}).encode(),
    "added_tokens.json": b'{"<s>": 2}',
    "special_tokens_map.json": b'{"eos_token": "<s>"}',
    "vocab.json": b'{"a": 0, "b": 1}',
    "merges.txt": b"#version: 0.2\n",
    "config.json": b"{}",
}


def written(now: TokenizerJson, template: object = None, more: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    files = {**FILES, **(more or {})}
    content = FILES["tokenizer.json"] if now is WAS else now.encoded()
    return tokenizer_files(files, files.__getitem__, WrittenTokens(content, now, WAS), template)


def test_nothing_changes_where_nothing_is_to_be_said() -> None:
    assert written(WAS) == {name: raw for name, raw in FILES.items() if name != "config.json"}


def test_new_tokens_are_listed_everywhere() -> None:
    now = WAS.with_added([AddedToken("<new>"), AddedToken("b", special=True)])
    found = written(now)
    decoder = json.loads(found["tokenizer_config.json"])["added_tokens_decoder"]
    assert {number: each["content"] for number, each in decoder.items()} == {"2": "<s>", "1": "b", "3": "<new>"}
    assert decoder["2"] == ENTRY
    assert json.loads(found["added_tokens.json"]) == {"<s>": 2, "<new>": 3, "b": 1}
    assert json.loads(found["tokenizer_config.json"])["x"] == 1
    assert found["vocab.json"] == FILES["vocab.json"]


def test_files_of_tokens_that_are_cut_are_left_out() -> None:
    found = written(WAS.cut(1))
    assert not {"vocab.json", "merges.txt"} & found.keys()
    assert json.loads(found["tokenizer_config.json"])["added_tokens_decoder"] == {}
    assert json.loads(found["added_tokens.json"]) == {}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("new {{ x }}", "new {{ x }}"),
        ([{"name": "tool", "template": "u"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "tool", "template": "u"}], None),
    ],
)
def test_a_template_is_in_both_places_and_takes_that_of_others(template: object, text: str | None) -> None:
    others = {"chat_template.jinja": b"old", "additional_chat_templates/tool.jinja": b"old"}
    found = written(WAS, template, others)
    assert json.loads(found["tokenizer_config.json"])["chat_template"] == template
    assert found.get("chat_template.jinja") == (text.encode() if text is not None else None)
    assert "additional_chat_templates/tool.jinja" not in found
    assert written(WAS, None, others)["chat_template.jinja"] == b"old"


def test_the_template_of_a_folder_is_what_clients_read_first() -> None:
    assert chat_template(FILES, FILES.__getitem__) == "t"
    newer = {**FILES, "chat_template.jinja": b"newer"}
    assert chat_template(newer, newer.__getitem__) == "newer"
    assert chat_template(["config.json"], FILES.__getitem__) is None


def test_a_file_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="no JSON object"):
        written(WAS.with_added([AddedToken("x")]), None, {"tokenizer_config.json": b"[]"})


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("tokenizer.json", True), ("tokenizer.model", True), ("tokenizer.model.v3", True), ("spiece.model", True),
        ("vocab.txt", True), ("qwen.tiktoken", True), ("chat_template.json", True), ("config.json", False),
        ("generation_config.json", False), ("tokenizer/vocab.json", False), ("LICENSE", False),
    ],
)  # fmt: skip
def test_files_of_tokenizers_are_known_by_their_names(name: str, is_one: bool) -> None:
    assert is_of_tokenizer(name) == is_one
