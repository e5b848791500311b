"""Targets with a tokenizer: rows of embeddings and heads in the order of its tokens, and its files beside them."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from model_files import read_model
from project_space import Space
from token_models import EMBED, HEAD, LAYER, TokenModel, aligned, united

BASE = TokenModel([*"abcdefgh"], ["<s>", "</s>"], seed=1)
CHAT = TokenModel([*"badcefxy"], ["<s>", "<|im|>", "</s>"], seed=2)
THIRD = TokenModel([*"hgfez"], ["<t>", "<|im|>"], seed=3)
UNION = """
[sources]
base = "base/"
chat = "chat/"
third = "third/"

[targets.union]
method = "linear"
models = ["base", "chat", "third"]
weight = [0.5, 0.25, 0.25]
output = "out/union/"
tokenizer = { union = true }
"""


@pytest.fixture
def three(space: Space) -> Space:
    """A project with three models whose tokenizers differ, and a union of them."""
    for name, model in (("base", BASE), ("chat", CHAT), ("third", THIRD)):
        model.write(space / name)
    space.write(UNION)
    space.settle()
    return space


def written(space: Space, folder: str = "out/union") -> dict[str, torch.Tensor]:
    return read_model(space / folder / "model.safetensors")


def small(space: Space, name: str, folder: str = "out/union") -> Any:
    return json.loads((space / folder / name).read_text())


def merged(models: list[TokenModel], tokens: list[str], name: str, weights: list[float], **more: Any) -> torch.Tensor:
    """Return the weighted sum of embeddings in the order of tokens, each rounded to float32 first."""
    parts = [aligned(models, tokens, name, at, **more).float().double() for at in range(len(models))]
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))  # type: ignore[return-value]


def test_rows_of_a_union_are_those_of_its_tokens(three: Space) -> None:
    three.build()
    models, tokens = [BASE, CHAT, THIRD], united([BASE, CHAT, THIRD])
    assert tokens == [*"abcdefgh", "<s>", "</s>", "x", "y", "z", "<|im|>", "<t>"]
    found = written(three)
    for name in (EMBED, HEAD):
        torch.testing.assert_close(
            found[name].double(), merged(models, tokens, name, [0.5, 0.25, 0.25]), rtol=1e-6, atol=1e-7
        )
    torch.testing.assert_close(
        found[LAYER].double(),
        sum(w * m.tensors[LAYER].double() for w, m in zip([0.5, 0.25, 0.25], models, strict=True)),
        rtol=1e-6,
        atol=1e-7,
    )


def test_the_files_of_a_union_agree(three: Space) -> None:
    three.build()
    tokens = united([BASE, CHAT, THIRD])
    tokenizer = small(three, "tokenizer.json")
    assert tokenizer["model"] == BASE.document["model"]
    assert {each["id"]: each["content"] for each in tokenizer["added_tokens"]} == dict(enumerate(tokens[8:], 8))
    assert [each["normalized"] for each in tokenizer["added_tokens"] if each["content"] in "xyz"] == [True] * 3
    decoder = small(three, "tokenizer_config.json")["added_tokens_decoder"]
    assert {int(number): each["content"] for number, each in decoder.items()} == dict(enumerate(tokens[8:], 8))
    assert small(three, "config.json")["vocab_size"] == len(tokens)


def test_padding_is_the_mean_of_all_rows(three: Space) -> None:
    three.edit("{ union = true }", "{ union = true, pad_to_multiple_of = 8 }")
    three.build()
    models, tokens = [BASE, CHAT, THIRD], united([BASE, CHAT, THIRD])
    found = written(three)[EMBED].double()
    assert len(found) == 16 != len(tokens)
    parts = [aligned(models, tokens, EMBED, at) for at in range(3)]
    mean = sum(w * part.mean(0) for w, part in zip([0.5, 0.25, 0.25], parts, strict=True))
    torch.testing.assert_close(found[len(tokens) :], mean.expand(16 - len(tokens), -1), rtol=1e-6, atol=1e-7)
    assert small(three, "config.json")["vocab_size"] == 16
    assert len(small(three, "tokenizer.json")["added_tokens"]) == len(tokens) - 8


def test_rows_that_the_recipe_says(three: Space) -> None:
    """Forced rows, rows of other tokens, zeros; tokens that nobody has are added."""
    three.edit(
        "{ union = true }",
        '{ union = true, tokens = { "a" = { model = "chat", force = true }, "x" = { zero = true }, '
        '"<new>" = { model = "third", token = "z" }, "<zero>" = { zero = true }, "e" = { force = true }, '
        '"b" = { model = "chat", id = 5, force = true } } }',
    )
    three.build()
    wishes = {
        "a": (1, None, False, True), "<new>": (2, "z", False, False), "<zero>": (None, None, True, False),
        "x": (None, None, True, False), "e": (None, None, False, True), "b": (1, "f", False, True),
    }  # fmt: skip
    models = [BASE, CHAT, THIRD]
    tokens = united(models, ["<new>", "<zero>"])
    found = written(three)[EMBED].double()
    torch.testing.assert_close(
        found, merged(models, tokens, EMBED, [0.5, 0.25, 0.25], wishes=wishes), rtol=1e-6, atol=1e-7
    )
    assert found[tokens.index("<zero>")].abs().max() == 0


def test_the_tokens_of_one_input(three: Space) -> None:
    three.edit("{ union = true }", '"chat"')
    three.build()
    models, tokens = [BASE, CHAT, THIRD], CHAT.every
    found = written(three)
    torch.testing.assert_close(
        found[HEAD].double(), merged(models, tokens, HEAD, [0.5, 0.25, 0.25]), rtol=1e-6, atol=1e-7
    )
    assert (three / "out/union/tokenizer.json").read_bytes() == (three / "chat/tokenizer.json").read_bytes()
    assert small(three, "special_tokens_map.json") == {"eos_token": "<s>"}
    assert small(three, "config.json")["vocab_size"] == len(tokens)


def test_a_union_with_itself_is_that_tokenizer(space: Space) -> None:
    """Its artifact is that of the merge without a word about tokens, and so is every file."""
    BASE.write(space / "base")
    TokenModel(BASE.tokens, BASE.added, seed=9).write(space / "chat")
    space.write("""
        [sources]
        base = "base/"
        chat = "chat/"
        [targets.plain]
        method = "linear"
        models = ["base", "chat"]
        weight = 0.5
        output = "plain/"
        [targets.union]
        method = "linear"
        models = ["base", "chat"]
        weight = 0.5
        output = "union/"
        tokenizer = { union = true }
        [targets.named]
        method = "linear"
        models = ["base", "chat"]
        weight = 0.5
        output = "named/"
        tokenizer = "chat"
        """)
    built = space.build()
    assert built["union"]["artifact"] == built["plain"]["artifact"] == built["named"]["artifact"]
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors",
        "config.json",
    ):
        assert (space / "union" / name).read_bytes() == (space / "plain" / name).read_bytes()


def test_only_embedding_and_head_depend_on_tokens(three: Space) -> None:
    """What is built on top of what was there is what a fresh build makes."""
    three.build()
    three.settle()
    assert three.build().verdicts == {"union": "up-to-date"}
    document = json.loads((three / "chat/tokenizer.json").read_text())
    document["model"]["vocab"] |= {"a": 0, "b": 1}  # their numbers are exchanged
    (three / "chat/tokenizer.json").write_text(json.dumps(document))
    three.settle()
    assert "input chat: tokenizer.json changed" in three.run("why", "union").out
    built = three.build()
    assert built["union"]["tensors_computed"] == 2
    models = [BASE, CHAT, THIRD]
    assert not torch.equal(
        written(three)[EMBED].double(), merged(models, united(models), EMBED, [0.5, 0.25, 0.25]).float().double()
    )
    shutil.rmtree(three / ".mergebuild")
    three.edit("out/union/", "out/fresh/")
    assert three.build()["union"]["tensors_computed"] == 3
    for path in (three / "out/union").iterdir():
        assert path.read_bytes() == (three / "out/fresh" / path.name).read_bytes()


def test_the_order_of_keys_in_a_tokenizer_does_not_matter(three: Space) -> None:
    first = three.build()["union"]["artifact"]
    three.settle()
    turned = {
        **CHAT.document,
        "model": {**CHAT.document["model"], "vocab": dict(reversed(CHAT.document["model"]["vocab"].items()))},
    }
    turned["added_tokens"] = turned["added_tokens"][::-1]
    (three / "chat/tokenizer.json").write_text(json.dumps(turned, sort_keys=True))
    three.settle()
    built = three.build()["union"]
    assert (built["artifact"], built["tensors_computed"]) == (first, 0)
    assert united([BASE, CHAT, THIRD])[8:] == [
        each["content"] for each in small(three, "tokenizer.json")["added_tokens"]
    ]


def test_a_merge_rule_rebuilds_the_tokenizer_alone(three: Space) -> None:
    three.build()
    three.settle()
    document = json.loads((three / "base/tokenizer.json").read_text())
    document["model"]["merges"] = ["a b"]
    (three / "base/tokenizer.json").write_text(json.dumps(document))
    three.settle()
    why = three.run("why", "union").out
    assert "input base: tokenizer.json changed" in why
    built = three.build()
    assert built["union"]["tensors_computed"] == 0
    assert built.verdicts["union"] != "up-to-date"
    assert small(three, "tokenizer.json")["model"]["merges"] == ["a b"]
