"""MBW GUI and auto-MBW: histories, presets and results with 25 or 27 block weights."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
import tiny_models
from recipe_lab import RecipeLab, sd15_block
from torch import Tensor

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.blocks import LONG
from mergebuild.exchange.readers import auto_mbw, block_weight_presets, block_weighted_history
from mergebuild.exchange.recipe_file import RecipeFile

NUMBERS = [Decimal(n) / 100 for n in range(10, 60, 2)]
OTHERS = [Decimal(n) / 100 for n in range(60, 85)]
HEADER = (
    "model_A\tmodel_A_hash\tmodel_A_sha256\tmodel_B\tmodel_B_hash\tmodel_B_sha256\tmodel_O\tmodel_O_hash\tmodel_O_sha256"
    "\tbase_alpha\tweight_name\tweight_values\tweight_values2\tdatetime\n"
)


def row(a: str = "a", b: str = "b", out: str = "mbw1", base: str = "0.3", values: str = "", values2: str = "") -> str:
    listed = values or ",".join(map(str, NUMBERS))
    return f"{a}\t\t\t{b}\t\t\t{out}\t\t\t{base}\t\t{listed}\t{values2}\t2023-04-02\n"


@pytest.fixture
def lab(tmp_path: Path) -> RecipeLab:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("ab", 1):
        lab.model(name, seed)
    return lab


def by_block(base: float, numbers: list[Decimal]) -> Mapping[str, float]:
    return dict(zip(LONG, [base, *map(float, numbers)], strict=True))


def test_a_row_is_its_weights_and_all_else_base_alpha(lab: RecipeLab) -> None:
    lab.take(HEADER + row(), "history.tsv")
    (path,) = lab.build().values()
    weights = by_block(0.3, NUMBERS)

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        return (1 - weights[sd15_block(name)]) * of["a"] + weights[sd15_block(name)] * of["b"]

    lab.assert_made(path, formula)


def test_a_second_list_is_a_sum_that_is_not_normalized(lab: RecipeLab) -> None:
    lab.take(HEADER + row(values2=",".join(map(str, OTHERS))), "history.tsv")
    (path,) = lab.build().values()
    first, second = by_block(0.7, NUMBERS), by_block(0.3, OTHERS)

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        return first[sd15_block(name)] * of["a"] + second[sd15_block(name)] * of["b"]

    lab.assert_made(path, formula)


def test_rows_are_linked_by_name_and_broken_ones_are_told() -> None:
    text = HEADER + row() + row(a="mbw1", out="mbw2", base="0") + row(values="1,2") + row(a="") + row(base="x")
    file = RecipeFile(Path("h.tsv"), text.encode())
    assert block_weighted_history.recognizes(file)
    draft = Draft()
    block_weighted_history.read(file, draft)
    assert draft.targets["mbw2"].keys["a"] == "mbw1"
    assert draft.targets["mbw2"].keys["alpha"] == {"mbw": [Decimal(0), *NUMBERS]}
    assert "output" not in draft.targets["mbw1"].keys
    assert len(draft.unmapped) == 3


def test_presets_are_lists_in_comments(lab: RecipeLab) -> None:
    made = lab.take("preset_name\tpreset_weights\nMINE\t0,0.5,1\nBAD\tx\n", "preset.tsv")
    assert "# MINE: mbw = [0, 0.5, 1]" in made.text
    assert len(made.unmapped) == 1
    assert block_weight_presets.recognizes(RecipeFile(Path("p"), b"preset_name\tpreset_weights\n"))


RESULT = "modelA=a\nmodelB=b\nmodelO=best\nposition_id_fix=Fix\noutput_mode=Max Precision\n"


def test_a_result_of_auto_mbw_leaves_the_text_encoder_and_has_weights_of_its_own_for_the_ends(lab: RecipeLab) -> None:
    numbers = [*NUMBERS[:13], Decimal("0.9"), *NUMBERS[13:], Decimal("0.8")]
    made = lab.take(RESULT + ",".join(map(str, numbers)), "x.recipe.txt")
    assert [each.message[:10] for each in made.notices] == ["27 weights"]
    (path,) = lab.build().values()
    weights = by_block(0, NUMBERS)

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        number = weights[sd15_block(name)]
        number = 0.8 if "time_embed" in name else number
        number = 0.9 if name.startswith(f"{tiny_models.UNET}out.") else number
        return (1 - number) * of["a"] + number * of["b"]

    lab.assert_made(path, formula)


@pytest.mark.parametrize("numbers", ["", "1," * 26, "1," * 28, "x," * 27])
def test_another_count_of_numbers_is_an_error(numbers: str) -> None:
    with pytest.raises(RecipeError):
        auto_mbw.read(RecipeFile(Path("x"), (RESULT + numbers).encode()), Draft())
