"""Unions of real tokenizers: the rows of mergekit, token by token, and the logits of its folder.

The tokenizers are trained here, on different texts. New tokens may have other numbers than mergekit's, which takes them
in the order of a hash table; so rows and logits are compared by token. Where mergekit is wrong, the specification's
row is expected: each such test says so.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import mergebuild

with warnings.catch_warnings():  # of numpy, whose private names mergekit reads
    warnings.simplefilter("ignore")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

pytestmark = pytest.mark.filterwarnings("ignore")  # what clients warn of is theirs

TEXTS = {
    "base": "the cat sat on the mat and the dog ran after the cat into the garden where the sun shone " * 20,
    "chat": "hello assistant please write code that prints numbers and the answer to the question " * 20,
    "math": "sum of numbers is one two three four times the square root of the product of numbers " * 20,
}
ADDED = {
    "base": ["<s>", "</s>"],
    "chat": ["<s>", "<|im_start|>", "<|im_end|>"],
    "math": ["</s>", "<think>", "<|im_end|>"],
}
SAMPLE = "<s>the cat prints numbers<|im_end|> three times <think>the dog"


def trained(name: str, size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on a text, with added tokens behind its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXTS[name]], trainer)
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in ADDED[name]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=ADDED[name][0])


def put(folder: Path, name: str, seed: int, *, tied: bool = False, padding: int = 0, size: int = 280) -> None:
    """Write a model with a trained tokenizer; `padding`: rows beyond its tokens."""
    tokenizer = trained(name, size)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + padding, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied,
        dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for seed, name in enumerate(TEXTS):
        put(tmp_path, name, seed)
    return tmp_path


def theirs(folder: Path, config: Mapping[str, Any]) -> Path:
    """Merge with mergekit."""
    named = json.loads(json.dumps(config).replace("DIR", str(folder)))
    out = folder / "theirs"
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(named))), str(out), MergeOptions())
    return out


def ours(folder: Path, target: str) -> Path:
    """Merge with this program."""
    sources = "\n".join(f'{path.name} = "{path.name}/"' for path in sorted(folder.iterdir()) if path.name in TEXTS)
    (folder / "mergefile.toml").write_text(f'[sources]\n{sources}\n[targets.t]\noutput = "ours/"\n{target}')
    mergebuild.load(folder / "mergefile.toml").build()
    return folder / "ours"


def assert_alike(mine: Path, other: Path) -> None:
    """Both folders have the same tokens, each with the same rows, and give the same logits."""
    one, two = AutoTokenizer.from_pretrained(mine), AutoTokenizer.from_pretrained(other)
    assert one.get_vocab().keys() == two.get_vocab().keys()
    tokens = list(one.get_vocab())
    model, expected = (AutoModelForCausalLM.from_pretrained(each, dtype="float32").eval() for each in (mine, other))
    at, there = ([each.get_vocab()[token] for token in tokens] for each in (one, two))
    assert model.config.vocab_size == expected.config.vocab_size
    for name, tensor in expected.state_dict().items():
        found = model.state_dict()[name]
        assert found.shape == tensor.shape
        is_of_tokens = "embed_tokens" in name or "lm_head" in name
        pair = (found[at], tensor[there]) if is_of_tokens else (found, tensor)
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-6)
    assert one.tokenize(SAMPLE) == two.tokenize(SAMPLE)
    with torch.no_grad():
        ids = [torch.tensor([each.convert_tokens_to_ids(each.tokenize(SAMPLE))]) for each in (one, two)]
        logits = [each(found).logits[0] for each, found in zip((model, expected), ids, strict=True)]
    torch.testing.assert_close(logits[0][:, at], logits[1][:, there], rtol=1e-4, atol=1e-5)


def test_a_union_of_two(three: Path) -> None:
    config = {  # without a base it takes one of a set, now this and now that
        "merge_method": "linear", "dtype": "float32", "tokenizer_source": "union", "base_model": "DIR/base",
        "models": [{"model": f"DIR/{name}", "parameters": {"weight": 0.5}} for name in ("base", "chat")],
    }  # fmt: skip
    mine = ours(three, 'method = "linear"\nmodels = ["base", "chat"]\nweight = 0.5\ntokenizer = { union = true }')
    assert_alike(mine, theirs(three, config))


@pytest.mark.parametrize("tied", [False, True])
def test_a_union_of_three_with_a_base_padded_and_told(tmp_path: Path, *, tied: bool) -> None:
    for seed, name in enumerate(TEXTS):
        put(tmp_path, name, seed, tied=tied)
    tokens = {
        "<|im_end|>": {"source": "DIR/math", "force": True},
        "<new>": {"source": {"kind": "model_token", "model": "DIR/chat", "token": "<|im_start|>"}},
        "<zero>": {"source": {"kind": "zero"}},
    }
    config = {
        "merge_method": "task_arithmetic", "dtype": "float32", "base_model": "DIR/base",
        "tokenizer": {"source": "union", "pad_to_multiple_of": 64, "tokens": tokens},
        "models": [
            {"model": "DIR/chat", "parameters": {"weight": 0.4}}, {"model": "DIR/math", "parameters": {"weight": 0.7}},
        ],
    }  # fmt: skip
    mine = ours(
        tmp_path,
        'method = "task_arithmetic"\nbase = "base"\nmodels = ["chat", "math"]\nweight = [0.4, 0.7]\n'
        "tokenizer = { union = true, pad_to_multiple_of = 64, tokens = {"
        ' "<|im_end|>" = { model = "math", force = true }, "<new>" = { model = "chat", token = "<|im_start|>" },'
        ' "<zero>" = { zero = true } } }',
    )
    other = theirs(tmp_path, config)
    assert_alike(mine, other)
    last = [AutoModelForCausalLM.from_pretrained(each).get_input_embeddings().weight[-1] for each in (mine, other)]
    torch.testing.assert_close(last[0], last[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["base", "chat"])
def test_the_tokens_of_one_model(three: Path, name: str) -> None:
    config = {
        "merge_method": "linear", "dtype": "float32", "tokenizer_source": f"DIR/{name}",
        "models": [{"model": f"DIR/{each}", "parameters": {"weight": 0.5}} for each in ("base", "chat")],
    }  # fmt: skip
    mine = ours(three, f'method = "linear"\nmodels = ["base", "chat"]\nweight = 0.5\ntokenizer = "{name}"')
    assert_alike(mine, theirs(three, config))


def test_rows_of_padding_vanish_with_both(tmp_path: Path) -> None:
    put(tmp_path, "base", 1, padding=20)
    put(tmp_path, "chat", 2, padding=5)
    config = {
        "merge_method": "slerp", "dtype": "float32", "tokenizer_source": "union", "base_model": "DIR/base",
        "parameters": {"t": 0.3}, "models": [{"model": "DIR/base"}, {"model": "DIR/chat"}],
    }  # fmt: skip
    mine = ours(tmp_path, 'method = "slerp"\na = "base"\nb = "chat"\nt = 0.3\ntokenizer = { union = true }')
    assert_alike(mine, theirs(tmp_path, config))


def test_a_token_that_a_third_model_lacks_has_the_first_ones_row(three: Path) -> None:
    """The specification's base is the first model where the method has none; mergekit takes the mean of those there."""
    config = {
        "merge_method": "linear", "dtype": "float32", "tokenizer_source": "union",
        "models": [{"model": f"DIR/{name}", "parameters": {"weight": 1 / 3}} for name in TEXTS],
    }  # fmt: skip
    target = 'method = "linear"\nmodels = ["base", "chat", "math"]\nweight = 1\ntokenizer = { union = true }'
    mine, other = ours(three, target), theirs(three, config)
    vocabularies = {name: AutoTokenizer.from_pretrained(three / name).get_vocab() for name in TEXTS}
    rows = {name: AutoModelForCausalLM.from_pretrained(three / name).get_input_embeddings().weight for name in TEXTS}
    doubtful = {
        token: number
        for token, number in vocabularies["base"].items()
        if sum(token in vocabulary for vocabulary in vocabularies.values()) == 2
    }
    assert doubtful
    assert_rows(mine, other, set(doubtful))
    token, number = next(iter(doubtful.items()))
    parts = [
        rows[name][vocabulary[token]] if token in vocabulary else rows["base"][number]
        for name, vocabulary in vocabularies.items()
    ]
    found = AutoModelForCausalLM.from_pretrained(mine).get_input_embeddings().weight
    torch.testing.assert_close(found[AutoTokenizer.from_pretrained(mine).get_vocab()[token]], sum(parts) / 3)


def assert_rows(mine: Path, other: Path, but: set[str]) -> None:
    """Embeddings are alike but for some tokens, and differ there."""
    found = []
    for each in (mine, other):
        vocabulary = AutoTokenizer.from_pretrained(each).get_vocab()
        weight = AutoModelForCausalLM.from_pretrained(each).get_input_embeddings().weight
        found.append({token: weight[number] for token, number in vocabulary.items()})
    one, two = found
    assert one.keys() == two.keys()
    unlike = {token for token in one if not torch.allclose(one[token], two[token], rtol=1e-4, atol=1e-6)}
    assert unlike == but


def test_merges_that_make_tokens_beyond_the_rows_are_cut(tmp_path: Path) -> None:
    """With mergekit they stay, and the library refuses its tokenizer; so the folder of ours is loaded alone."""
    put(tmp_path, "base", 1)
    put(tmp_path, "chat", 2)
    cut = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    cut.resize_token_embeddings(270)
    cut.save_pretrained(tmp_path / "base")
    mine = ours(tmp_path, 'method = "linear"\nmodels = ["base", "chat"]\nweight = 0.5\ntokenizer = { union = true }')
    tokenizer, model = AutoTokenizer.from_pretrained(mine), AutoModelForCausalLM.from_pretrained(mine)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert max(tokenizer("the cat prints numbers<|im_end|>")["input_ids"]) < len(tokenizer)


def test_a_template_is_what_transformers_loads(three: Path) -> None:
    (three / "own.jinja").write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    mine = ours(
        three,
        'method = "copy"\na = "base"\ntokenizer = "chat"\nchat_template = "own.jinja"',
    )
    tokenizer = AutoTokenizer.from_pretrained(mine)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "[user]hi"
