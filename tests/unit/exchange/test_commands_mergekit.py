"""Command lines of mergekit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.kinds import reader_of
from mergebuild.exchange.recipe_file import RecipeFile


def draft_of(text: str) -> Draft:
    draft = Draft()
    file = RecipeFile(Path("run.sh"), text.encode())
    reader = reader_of(file)
    assert reader is not None
    reader.read(file, draft)
    return draft


def keys_of(text: str) -> dict[str, Any]:
    *_, target = draft_of(text).targets.values()
    return dict(target.keys)


def test_the_nth_weight_of_mergekit_legacy_is_the_nth_models() -> None:
    text = """\
mergekit-legacy ./out/mine --method ties --base-model org/base \\
  --merge org/a --merge org/b --weight 0.3 --weight 1e-1 --density 0.5 --no-normalize --naive-count --bf16 --cuda
"""
    draft = draft_of(text)
    assert draft.targets["mine"].keys == {
        "method": "ties",
        "base": "base",
        "models": ["a", "b"],
        "weight": keys_of(text)["weight"],
        "density": keys_of(text)["density"],
        "normalize": False,
        "vote": "count",
        "output": "mine/",
        "dtype": "bfloat16",
    }
    assert [str(each) for each in keys_of(text)["weight"]] == ["0.3", "0.1"]
    assert next(said.message for said in draft.notices) == "`--cuda` is about how mergekit runs"


def test_slerp_of_mergekit_legacy_has_one_weight() -> None:
    found = keys_of("mergekit-legacy out --method slerp --base-model a --merge a --merge b --weight 0.25")
    assert (found["method"], found["a"], found["b"], str(found["t"])) == ("slerp", "a", "b", "0.25")
    with pytest.raises(RecipeError, match="once for slerp"):
        draft_of("mergekit-legacy out --method slerp --base-model a --merge b")


@pytest.mark.parametrize(
    "text",
    [
        "mergekit-extract-lora --model org/tuned --base-model org/base --out-path out/lora --max-rank 32 -e lm_head\n",
        "mergekit-extract-lora org/tuned org/base out/lora --rank=32 -e lm_head\n",
    ],
)
def test_an_extracted_lora(text: str) -> None:
    assert keys_of(text) == {
        "method": "extract_lora",
        "base": "base",
        "a": "tuned",
        "rank": 32,
        "drop": ["re:lm_head"],
        "output": "lora/",
    }


def test_what_no_lora_here_has_is_told() -> None:
    draft = draft_of("mergekit-extract-lora a b c --sv-epsilon 0.1 --save-module norm --embed-lora\n")
    assert [lost.message.split(":")[0] for lost in draft.unmapped] == [
        "`--sv-epsilon 0.1`",
        "`--save-module norm`",
        "`--embed-lora`",
    ]
    assert draft.targets["c"].keys["rank"] == 128


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mergekit-yaml config.yml ./out --cuda\n", "import `config.yml` itself"),
        ("mergekit-legacy --merge a\n", "without a folder"),
        ("mergekit-legacy out --merge\n", "nothing behind it"),
        ("mergekit-extract-lora a b\n", "without a model"),
    ],
)
def test_a_command_that_says_no_merge_is_told(text: str, said: str) -> None:
    draft = draft_of(text)
    assert not draft.targets
    assert said in draft.unmapped[0].message
