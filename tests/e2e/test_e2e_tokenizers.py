"""Targets with a tokenizer: rows of embeddings and heads in the order of its tokens, and its files beside them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
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


def test_an_empty_chat_template_is_none(three: Space) -> None:
    three.write(" \n", "own.jinja")
    source = '[sources]\nbase = "base/"\n'
    three.write(f'{source}[targets.t]\nmethod = "copy"\na = "base"\noutput = "t/"\nchat_template = "own.jinja"\n')
    found = three.run("plan", "--json", code=3).json["errors"][0]
    assert found["code"] == "unreadable-template"
    assert found["message"].endswith("can't be read: it is empty")


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


def test_vocabularies_that_differ_are_refused_without_a_word(three: Space) -> None:
    three.edit("tokenizer = { union = true }\n", "")
    found = three.run("build", "--json", code=9)
    assert found.errors == ["shape-mismatch"]
    (error,) = found.json["errors"]
    assert error["message"] == (
        "the vocabularies of the inputs of `union` differ: `lm_head.weight` has 10 and 11 and 7 rows"
    )
    assert "`tokenizer = { union = true }`" in error["help"]
    assert not (three / "out").exists()


def test_rows_that_are_not_merged_may_differ(three: Space) -> None:
    three.edit("tokenizer = { union = true }\n", 'merge = "mlp"\n')
    three.build()
    assert written(three)[EMBED].equal(BASE.tensors[EMBED])


def test_tokens_of_other_numbers_in_models_of_one_size_are_named(space: Space) -> None:
    BASE.write(space / "base")
    TokenModel([*"abcdefhg"], ["<s>", "</s>"], seed=2).write(space / "chat")
    space.write(UNION.replace('"chat", "third"', '"chat"').replace("0.25, 0.25", "0.5").replace('third = "third/"', ""))
    space.edit("tokenizer = { union = true }\n", "")
    told = space.run("plan").out
    assert "2 numbers are other tokens, such as 6 is `g` in `base` and `h` in `chat`" in told


def test_a_target_with_tokens_is_an_input(three: Space) -> None:
    """A union that is virtual, and one that is a folder: what is made of them has their tokens, and their files."""
    three.write(
        UNION.replace('output = "out/union/"\n', "")
        + """
        [targets.wide]
        method = "weighted_sum"
        a = "union"
        b = "third"
        alpha = 0.5
        tokenizer = "union"
        output = "out/wide/"
        [targets.scaled]
        method = "scale"
        a = "wide"
        alpha = 2
        output = "out/scaled/"
        [targets.shorter]
        method = "copy"
        a = "wide"
        tokenizer = "third"
        output = "out/shorter/"
        """
    )
    three.build("wide", "scaled", "shorter")
    tokens = united([BASE, CHAT, THIRD])
    united_rows = merged([BASE, CHAT, THIRD], tokens, EMBED, [0.5, 0.25, 0.25])
    wide = written(three, "out/wide")[EMBED].double()
    mine = aligned([TokenModel(tokens), THIRD], tokens, EMBED, 1)
    for place, token in enumerate(tokens):
        other = mine[place] if token in THIRD.every else united_rows[place]
        torch.testing.assert_close(wide[place], (united_rows[place] + other) / 2, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(written(three, "out/scaled")[EMBED].double(), 2 * wide, rtol=1e-6, atol=1e-6)
    short = written(three, "out/shorter")[EMBED].double()
    torch.testing.assert_close(short, wide[[tokens.index(token) for token in THIRD.every]])
    for folder in ("out/wide", "out/scaled"):
        assert len(small(three, "tokenizer.json", folder)["added_tokens"]) == len(tokens) - 8
        assert small(three, "config.json", folder)["vocab_size"] == len(tokens)
    assert (three / "out/shorter/tokenizer.json").read_bytes() == (three / "third/tokenizer.json").read_bytes()
    assert three.build("wide", "scaled", "shorter").computed == 0


def test_chat_templates(three: Space) -> None:
    config = json.loads((three / "chat/tokenizer_config.json").read_text())
    (three / "chat/tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "of chat {{ x }}"}))
    (three / "base/chat_template.jinja").write_text("of base {{ x }}")
    three.write(UNION + 'chat_template = "chat"\n')
    three.settle()
    three.build()
    assert (three / "out/union/chat_template.jinja").read_text() == "of chat {{ x }}"
    assert small(three, "tokenizer_config.json")["chat_template"] == "of chat {{ x }}"
    three.settle()
    three.edit('chat_template = "chat"', 'chat_template = "own.jinja"')
    three.write("own {{ x }}", "own.jinja")
    three.settle()
    assert three.build()["union"]["tensors_computed"] == 0
    assert (three / "out/union/chat_template.jinja").read_text() == "own {{ x }}"
    three.settle()
    assert three.build().verdicts == {"union": "up-to-date"}
    three.write("own, changed {{ x }}", "own.jinja")
    three.settle()
    assert "chat_template" in three.run("why", "union").out
    assert three.build().verdicts["union"] != "up-to-date"
    assert small(three, "tokenizer_config.json")["chat_template"] == "own, changed {{ x }}"
    three.edit('chat_template = "own.jinja"', 'chat_template = "third"')
    assert three.run("build", "--json", code=3).errors == ["no-chat-template"]


def test_a_template_alone(three: Space) -> None:
    """Without a word about tokens the donor's files stay, but for the template."""
    three.write("own {{ x }}", "own.jinja")
    three.write("""
        [sources]
        base = "base/"
        [targets.t]
        method = "copy"
        a = "base"
        output = "t/"
        chat_template = "own.jinja"
        """)
    three.build()
    assert small(three, "tokenizer_config.json", "t")["chat_template"] == (three / "t/chat_template.jinja").read_text()
    assert (three / "t/tokenizer.json").read_bytes() == (three / "base/tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nests too deep"),
        ("{", "is not valid JSON"),
        ("[]", "is no JSON object"),
        ("{}", "has no `model`"),
        ('{"model": {"type": "BPE"}}', "has no `vocab`"),
        ('{"model": {"vocab": 3}}', "has no `vocab`"),
        ('{"model": {"vocab": {}}}', "has no tokens"),
        ('{"model": {"vocab": {"a": "0"}}}', "gives the token `a` no number from 0 on"),
        ('{"model": {"vocab": {"a": -1}}}', "gives the token `a` no number from 0 on"),
        ('{"model": {"vocab": {"a": true}}}', "gives the token `a` no number from 0 on"),
        ('{"model": {"vocab": {"a": 1e300}}}', "gives the token `a` no number from 0 on"),
        ('{"model": {"vocab": {"a": 99999999999}}}', "gives the token `a` no number from 0 on"),
        ('{"model": {"vocab": {"a": 0, "b": 0}}}', "gives the number 0 to two tokens, `a` and `b`"),
        ('{"model": {"vocab": {"a": 0, "a": 1}}}', "has `a` twice"),
        ('{"model": {"vocab": {"a": 0, "b": 2}}}', "gives the number 1 to no token, and others above it"),
        ('{"model": {"vocab": {"a": 0, "b": 4}}}', "gives the numbers 1 to 3 to no token, and others above them"),
        ('{"model": {"vocab": [["a"], 3]}}', "has an entry of `vocab` that is no token (that with the number 1)"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": {}}', "has `added_tokens` that are no list"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}', "has an added token without content"),
        (
            '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "a"}]}',
            "gives the token `a` two numbers, 0 and 1",
        ),
        (
            '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "b", "special": 1}]}',
            "has an added token `b` with a flag that is neither true nor false",
        ),
        ('{"model": {"vocab": {"\\ud800": 0}}}', "is not valid JSON"),
        (
            '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "b"}, {"id": 2, "content": "b"}]}',
            "gives the token `b` two numbers, 1 and 2",
        ),
    ],
)
def test_a_tokenizer_that_is_none_is_refused(three: Space, text: str, told: str) -> None:
    (three / "base/tokenizer.json").write_text(text)
    three.settle()
    found = three.run("build", "--json", code=4)
    assert found.errors == ["bad-tokenizer"]
    assert found.json["errors"][0]["message"] == f"`base/tokenizer.json` {told}"
    assert not (three / "out").exists()


def test_a_model_without_a_tokenizer_is_refused(three: Space) -> None:
    (three / "chat/tokenizer.json").unlink()
    three.settle()
    found = three.run("plan", "--json", code=4)
    assert found.errors == ["no-tokenizer"]
    assert found.json["errors"][0]["message"] == "`chat` has no `tokenizer.json`"


def test_a_row_that_there_is_not_is_refused(three: Space) -> None:
    three.edit("{ union = true }", '{ union = true, tokens = { "q" = { model = "chat" } } }')
    refused = three.run("build", "--json", code=3)
    assert refused.errors == ["unknown-token"]
    assert "takes the row of `" in refused.json["errors"][0]["message"]


def test_tokens_beyond_the_rows_are_left_out(space: Space) -> None:
    """Of a base with the merges that make them; what is left is one tokenizer."""
    TokenModel(["a", "b", "ab", "abb"], ["<s>"], rows=3, seed=1, merges=["a b", "ab b"]).write(space / "base")
    TokenModel(["a", "c"], ["<t>", "<u>"], rows=3, seed=2).write(space / "chat")
    space.write(UNION.replace('"chat", "third"', '"chat"').replace("0.25, 0.25", "0.5").replace('third = "third/"', ""))
    told = space.run("plan", "--json").json["targets"][0]
    assert [each for each in told["notices"] if "beyond" in each] == [
        "2 tokens of `base` are beyond its 3 rows and left out, such as `abb`",
        "1 tokens of `chat` are beyond its 3 rows and left out, such as `<u>`",
    ]
    space.build()
    tokenizer = small(space, "tokenizer.json")
    assert tokenizer["model"]["vocab"] == {"a": 0, "b": 1, "ab": 2}
    assert tokenizer["model"]["merges"] == ["a b"]
    assert [each["content"] for each in tokenizer["added_tokens"]] == ["c", "<t>"]


def test_rows_of_padding_are_left_out_and_that_is_said(space: Space) -> None:
    TokenModel([*"abc"], rows=8, seed=1).write(space / "base")
    TokenModel([*"abc"], rows=8, seed=2).write(space / "chat")
    space.write(UNION.replace('"chat", "third"', '"chat"').replace("0.25, 0.25", "0.5").replace('third = "third/"', ""))
    (target,) = space.run("plan", "--json").json["targets"]
    assert any("`base` has 8 rows, and there are 3 tokens" in each for each in target["notices"])
    space.build()
    assert len(written(space)[EMBED]) == 3


def test_a_lock_covers_tokenizers(three: Space) -> None:
    three.build()
    three.run("lock")
    three.settle()
    assert '[files.targets."union"]' in (three / "mergefile.lock").read_text()
    document = json.loads((three / "chat/tokenizer.json").read_text())
    document["model"]["merges"] = ["b a"]
    (three / "chat/tokenizer.json").write_text(json.dumps(document))
    three.settle()
    assert three.run("build", "--locked", "--json", code=4).errors


def test_a_stack_of_models_with_different_tokens(three: Space) -> None:
    """Embeddings come from the first slice and the head from the last, each in the order of the union's tokens."""
    three.write("""
        [sources]
        base = "base/"
        chat = "chat/"
        [targets.stack]
        method = "copy"
        output = "stack/"
        slices = [{ a = "base", layers = "L00" }, { a = "chat", layers = "L00" }]
        tokenizer = { union = true }
        """)
    three.build()
    tokens, found = united([BASE, CHAT]), written(three, "stack")
    for name, at in ((EMBED, 0), (HEAD, 1)):
        torch.testing.assert_close(found[name].double(), aligned([BASE, CHAT], tokens, name, at))
    assert found[LAYER.replace("layers.0", "layers.1")].equal(CHAT.tensors[LAYER])


@pytest.mark.parametrize("tied", [True, False])
def test_a_stack_may_have_the_tokens_of_a_union(space: Space, tied: bool) -> None:
    """The embedding is that of the first slice, the head that of the last; of one tied model they stay one."""
    models = [replace(each, tied=tied) for each in (BASE, CHAT)]
    for name, model in zip(("base", "chat"), models, strict=True):
        model.write(space / name)
    space.write("""
        [sources]
        base = "base/"
        chat = "chat/"
        [targets.stack]
        method = "weighted_sum"
        alpha = 0.25
        a = "base"
        b = "chat"
        output = "out/stack/"
        tokenizer = { union = true }
        slices = [{ layers = "L00" }, { layers = "L00" }]
    """)
    space.settle()
    space.build()
    tokens, found = united(models), written(space, "out/stack")
    for name in (EMBED,) if tied else (EMBED, HEAD):
        rows = [aligned(models, tokens, name, at).float() for at in range(2)]
        torch.testing.assert_close(found[name], rows[0] + (rows[1] - rows[0]) * 0.25)
    assert (HEAD in found) == (not tied)
    assert small(space, "config.json", "out/stack")["num_hidden_layers"] == 2


def test_tokens_of_a_target_are_compared_with_those_of_others(space: Space) -> None:
    """What is made of a union has the union's tokens, not those of its first source."""
    BASE.write(space / "base")
    TokenModel([*"badcefgh"], ["<s>", "</s>"], seed=2).write(space / "chat")
    space.write("""
        [sources]
        base = "base/"
        chat = "chat/"
        [targets.as_chat]
        method = "copy"
        a = "base"
        tokenizer = "chat"
        [targets.one]
        method = "weighted_sum"
        a = "as_chat"
        b = "chat"
        alpha = 0.5
        output = "one/"
        [targets.two]
        method = "weighted_sum"
        a = "as_chat"
        b = "base"
        alpha = 0.5
        output = "two/"
        """)
    told = {each["target"]: each["notices"] for each in space.json("plan")["targets"]}
    assert not [each for each in told["one"] if "tokenizers of" in each]
    (notice,) = (each for each in told["two"] if "tokenizers of" in each)
    assert notice == (
        "the tokenizers of `base` and `as_chat` differ, and rows of embeddings are merged by number: 4 numbers are"
        " other tokens, such as 0 is `a` in `base` and `b` in `as_chat`"
    )
    space.build()
    assert small(space, "tokenizer.json", "one")["model"]["vocab"]["b"] == 0


def test_a_rule_takes_rows_in_the_order_of_the_target(three: Space) -> None:
    three.write(
        UNION.replace('"chat", "third"', '"chat"').replace("0.25, 0.25", "0.5")
        + """
        rules = [{ tensors = ["embed"], method = "weighted_sum", a = "base", b = "third", alpha = 0.25 }]
        """
    )
    three.build()
    models = [BASE, CHAT, THIRD]
    tokens, found = united(models), written(three)
    rows = [aligned(models, tokens, EMBED, at) for at in range(3)]
    torch.testing.assert_close(found[EMBED].double(), 0.75 * rows[0] + 0.25 * rows[2], rtol=1e-6, atol=1e-6)
    heads = [aligned(models, tokens, HEAD, at) for at in range(2)]
    torch.testing.assert_close(found[HEAD].double(), (heads[0] + heads[1]) / 2, rtol=1e-6, atol=1e-6)


def test_loras_have_no_tokens(three: Space) -> None:
    three.write("""
        [sources]
        base = "base/"
        chat = "chat/"
        [targets.lora]
        method = "extract_lora"
        base = "base"
        a = "chat"
        rank = 2
        tokenizer = "chat"
        output = "lora/"
        """)
    assert three.run("build", "--json", code=3).errors == ["tokenizer-of-lora"]


def test_a_tied_model_stays_tied(space: Space) -> None:
    """Its head is no tensor of its own; with an untied one it becomes one, of the same rows."""
    for name, model in (("base", BASE), ("chat", CHAT)):
        TokenModel(model.tokens, model.added, seed=model.seed, tied=True).write(space / name)
    THIRD.write(space / "third")
    space.write(
        UNION
        + """
        [targets.tied]
        method = "linear"
        models = ["base", "chat"]
        weight = 0.5
        output = "tied/"
        tokenizer = { union = true }
        """
    )
    space.build()
    assert set(written(space, "tied")) == {EMBED, LAYER}
    assert small(space, "config.json", "tied")["tie_word_embeddings"] is True
    tied = [TokenModel(each.tokens, each.added, seed=each.seed, tied=True) for each in (BASE, CHAT)]
    tokens, found = united([*tied, THIRD]), written(space)
    torch.testing.assert_close(
        found[HEAD].double(), merged([*tied, THIRD], tokens, HEAD, [0.5, 0.25, 0.25]), rtol=1e-6, atol=1e-6
    )


def test_special_tokens_of_a_configuration_that_are_others_are_named(space: Space) -> None:
    TokenModel([*"abcd"], ["</s>"], seed=1, config={"eos_token_id": 4, "bos_token_id": [0, 1]}).write(space / "base")
    TokenModel([*"abxyz"], ["</s>"], seed=2, config={"eos_token_id": 5}).write(space / "chat")
    space.write("""
        [sources]
        base = "base/"
        chat = "chat/"
        [targets.t]
        method = "copy"
        a = "base"
        output = "t/"
        tokenizer = "chat"
        """)
    (target,) = space.json("plan")["targets"]
    (notice,) = (each for each in target["notices"] if "eos" in each or "bos" in each)
    assert notice == (
        "the configuration is that of `base`, whose `eos_token_id` 4 is `</s>` there and `z` in the tokenizer that is"
        " written; `config` names another"
    )
    space.edit('a = "base"', 'a = "base"\nconfig = "chat"')
    (target,) = space.json("plan")["targets"]
    assert not [each for each in target["notices"] if "eos" in each]
