"""The text of supermerger's LoRA tab."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import tomli

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.lora_blocks import module_table
from mergebuild.exchange.readers import supermerger_loras
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of


def drafted(text: str) -> tuple[dict[str, object], Draft]:
    file = RecipeFile(Path("both.txt"), text.encode())
    assert supermerger_loras.recognizes(file)
    draft = Draft()
    supermerger_loras.read(file, draft)
    return tomli.loads(text_of(draft), parse_float=Decimal)["targets"]["both"], draft


def test_loras_are_put_together_with_their_ratios_and_block_weights() -> None:
    listed = ["1", *["0.5"] * 16]
    target, draft = drafted(f"style:0.8,my char:-.5:{','.join(listed)},last:1\n")
    assert target["loras"] == [
        {"lora": "style", "strength": Decimal("0.8")},
        {"lora": "my-char", "strength": module_table(Decimal("-0.5"), [Decimal(each) for each in listed])},
        {"lora": "last", "strength": 1},
    ]
    assert (target["method"], target["output"], draft.unmapped) == ("merge_loras", "both.safetensors", [])


def test_a_preset_is_told_and_another_count_an_error() -> None:
    _, draft = drafted("style:0.8:OUTALL")
    assert [each.message for each in draft.unmapped] == ["block weights `OUTALL` of `style`, which are no list"]
    with pytest.raises(RecipeError):
        drafted("style:0.8:1,0,1")


@pytest.mark.parametrize(
    "text", ["", "a", "merge_method: 0.5", "a:0.5,b", "a:x", "a:0.5\nb:0.5", "http://x", "a:0.5,1"]
)
def test_other_texts_are_none(text: str) -> None:
    assert not supermerger_loras.recognizes(RecipeFile(Path("x"), text.encode()))
