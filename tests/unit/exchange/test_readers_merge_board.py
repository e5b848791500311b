# ruff: noqa: RUF001 -- recipes have signs of full width
"""Merge Board: what a line means, and the traps of its grammar."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import tomli
from recipe_lab import RecipeLab
from torch import Tensor

from mergebuild.exchange.draft import Draft
from mergebuild.exchange.readers import merge_board, merge_board_history
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of

CHAIN = """
# base first
__REAL__, a photographic model
StepOne = animeA + __REAL__, 0.3, fp16
StepTwo = __O1__ + styleB + sdbase, 0.85, fp16, safetensors
Final   = __O2__ + __O1__, 0.25, safetensors   # smooth
"""


def drafted(text: str) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    """Return the targets of a recipe by name, and the draft."""
    file = RecipeFile(Path("recipe.txt"), text.encode())
    assert merge_board.recognizes(file)
    draft = Draft()
    merge_board.read(file, draft)
    return tomli.loads(text_of(draft)).get("targets", {}), draft


def lost(draft: Draft) -> list[str]:
    return [each.message for each in draft.unmapped]


def told(draft: Draft) -> list[str]:
    return [each.message for each in draft.notices]


def test_a_chain_is_what_its_formulas_say(tmp_path: Path) -> None:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate(("animeA", "REAL", "styleB", "sdbase"), 1):
        lab.model(name, seed)
    made = lab.take(CHAIN)
    assert made.unmapped == ()

    outputs = lab.build()

    def formula(_: str, of: Mapping[str, Tensor]) -> Tensor:
        one = 0.7 * of["animeA"] + 0.3 * of["REAL"]
        two = one + 0.85 * (of["styleB"] - of["sdbase"])
        return 0.75 * two + 0.25 * one

    assert list(outputs) == ["Final"]
    lab.assert_made(outputs["Final"], formula)


def test_lines_that_others_use_are_virtual_and_the_last_is_the_default() -> None:
    targets, draft = drafted(CHAIN)
    assert [name for name, keys in targets.items() if "output" in keys] == ["Final"]
    assert "dtype" not in targets["StepOne"]
    assert "saved as float16" in text_of(draft)
    assert draft.default == ["Final"]


def test_flags_say_the_dtype_and_the_format() -> None:
    targets, _ = drafted("X = a + b, 0.30, safetensors, fp16\nY = a + c, 1.5\n")
    assert (targets["X"]["dtype"], targets["X"]["output"]) == ("float16", "X.safetensors")
    assert ("dtype" in targets["Y"], targets["Y"]["output"]) == (False, "Y.ckpt")


def test_another_flag_is_passed_over_and_told() -> None:
    targets, draft = drafted("X = a + b, 0,3\n")
    assert targets["X"]["alpha"] == 0
    assert told(draft) == ["`3` is no flag, and Merge Board passes over it; a decimal comma is none there"]


def test_two_lines_of_one_name_are_two_targets_of_which_the_last_has_the_file() -> None:
    targets, _ = drafted("X = a + b, 0.3\nX = a + c, 0.4\n")
    assert "output" not in targets["X"]
    assert targets["X-2"]["output"] == "X.ckpt"


def test_its_own_name_among_the_models_is_the_older_file() -> None:
    targets, draft = drafted("X = X + b, 0.3, safetensors\n")
    (target,) = targets.values()
    assert target["a"] == "X"
    assert list(draft.sources) == ["X", "b"]
    assert target["output"] != "X.safetensors"


def test_the_name_of_an_earlier_line_is_its_result() -> None:
    targets, draft = drafted("One = a + b, 0.3\nTwo = One.ckpt [0123456789] + c, 0.4\n")
    assert targets["Two"]["a"] == "One"
    assert list(draft.sources) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["__O3__", "__O2__", "__O0__", "__O99__"])
def test_a_reference_to_no_earlier_line_is_left_out_and_told(name: str) -> None:
    targets, draft = drafted(f"X = a + b, 0.3\nY = {name} + b, 0.3\n")
    assert list(targets) == ["X"]
    assert lost(draft) == [f"`{name}` is the result of no line before this one, an error of Merge Board"]
    assert draft.default == []


def test_a_line_that_needs_one_that_was_left_out_is_left_out_too() -> None:
    targets, draft = drafted("V = a + b, 0.5\nX = a + b\nY = __O2__ + b, 0.3\n")
    assert list(targets) == ["V"]
    assert len(lost(draft)) == 2


def test_signs_of_full_width_are_those_of_half() -> None:
    targets, draft = drafted("混合 ＝ アニメ＋b＋c，0.5，fp16 ＃ 备注\n")
    (target,) = targets.values()
    assert target["method"] == "add_difference"
    assert [source.path for source in draft.sources.values()] == ["アニメ", "b", "c"]
    assert "备注" in text_of(draft)


def test_a_full_width_sign_in_the_name_of_a_file_stays(tmp_path: Path) -> None:
    (tmp_path / "a＋x.safetensors").touch()
    draft = Draft()
    merge_board.read(RecipeFile(tmp_path / "r.txt", "X ＝ a＋x + b，0.3".encode()), draft)
    assert [source.path for source in draft.sources.values()] == ["a＋x", "b"]


def test_a_plus_in_a_name_survives_between_spaced_ones() -> None:
    _, draft = drafted("X = a+b + c, 0.3\n")
    assert [source.path for source in draft.sources.values()] == ["a+b", "c"]


def test_notes_explain_models_that_are_chosen_later() -> None:
    _, draft = drafted("__V__, a model, of people\n__W__ no comma\nX = __V__ + __W__, 0.3\n")
    assert "__V__: a model, of people; fill in the file" in text_of(draft)
    assert told(draft) == ["`__W__ no comma` has no comma: Merge Board passes over such a note"]


def test_lines_behind_the_tenth_are_passed_over_and_told() -> None:
    targets, draft = drafted("".join(f"X{number} = a + b, 0.{number}\n" for number in range(10, 22)))
    assert len(targets) == 10
    assert len(told(draft)) == 2
    assert "X21 = a + b, 0.21" in text_of(draft)


def test_a_line_without_a_number_is_told() -> None:
    _, draft = drafted("X = a + b, 0.3\nY = a + b\nZ = a + b, much\n")
    assert [message[:13] for message in lost(draft)] == ["`Y = a + b` h", "`Z = a + b, m"]


def test_a_result_without_a_name_gets_that_of_the_web_ui() -> None:
    targets, _ = drafted(" = a + b, 0.3\n")
    assert [each["output"] for each in targets.values()] == ["a_0.7-b_0.3-Weighted_sum-merged.ckpt"]


def test_signs_that_no_file_has_become_hyphens() -> None:
    targets, _ = drafted('a:b?"c = x + y, 0.1, safetensors\n')
    assert [each["output"] for each in targets.values()] == ["a-b--c.safetensors"]


def test_a_multiplier_of_the_sigmoid_is_kept_and_told() -> None:
    _, draft = drafted("X = a + b, 0.3632574910905676\n")
    assert "alpha = 0.3632574910905676  # sigmoid of 0.3?" in text_of(draft)


def test_a_path_outside_stays_inside() -> None:
    targets, _ = drafted("../../etc/X = a + b, 0.3, safetensors\n")
    assert [each["output"] for each in targets.values()] == ["etc/X.safetensors"]


SLIDER = "0.30000000000000004"
HISTORY = (
    "model_O\tmodel_O_hash\tmodel_O_sha256\tmodel_A\tmodel_A_hash\tmodel_A_sha256\tmodel_B\tmodel_B_hash\tmodel_B_sha256"
    "\tmodel_C\tmodel_C_hash\tmodel_C_sha256\tmultiplier\tinterpolation_method\tsave_as_float16\tcheckpoint_format"
    "\tlane_index\tdatetime\n"
)


def row(out: str, a: str, b: str, c: str = "\t\t", number: str = "0.3", how: str = "Weighted sum") -> str:
    return f"{out}\t{a}\t{b}\t{c}\t{number}\t{how}\tTrue\tsafetensors\t0\t2023-05-01\n"


def history(*rows: str) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    file = RecipeFile(Path("history.tsv"), (HISTORY + "".join(rows)).encode())
    assert merge_board_history.recognizes(file)
    draft = Draft()
    merge_board_history.read(file, draft)
    return tomli.loads(text_of(draft)).get("targets", {}), draft


def test_rows_of_the_history_are_linked_by_name() -> None:
    targets, draft = history(
        row("mid\t\t" + "1" * 64, "a.ckpt\t1234abcd\t", "b\t0123456789\t"),
        row(
            "end\t\t",
            "mid.safetensors\t\t",
            "b\t0123456789\t",
            "c\t\t" + "c" * 64,
            "0.30000000000000004",
            "Add difference",
        ),
    )
    assert targets["end"]["a"] == "mid"
    assert targets["end"]["alpha"] == 0.3
    assert "output" not in targets["mid"]
    assert draft.sources["a"].model.autov1 == "1234abcd"
    assert draft.sources["b"].pins == {"autov2": "0123456789"}
    assert draft.sources["c"].pins == {"sha256": "c" * 64}
    assert "# 0.30000000000000004" in text_of(draft)


def test_a_row_whose_model_has_another_hash_than_the_result_took_an_older_file() -> None:
    targets, draft = history(row("mid\t\t" + "1" * 64, "a\t\t", "b\t\t"), row("end\t\t", "mid\t\t" + "2" * 64, "b\t\t"))
    assert list(draft.sources) == ["a", "b", "mid"]
    assert targets["end"]["a"] == "mid"


def test_an_add_difference_without_a_third_model_is_a_weighted_sum_and_told() -> None:
    targets, draft = history(row("x\t\t", "a\t\t", "b\t\t", how="Add difference"))
    assert targets["x"]["method"] == "weighted_sum"
    assert len(told(draft)) == 1


def test_a_row_that_can_not_be_said_is_left_out() -> None:
    targets, draft = history(row("x\t\t", "a\t\t", "b\t\t", number="x"), row("y\t\t", "a\t\t", "b\t\t", how="Sigmoid?"))
    assert targets == {}
    assert len(lost(draft)) == 2


def test_a_hostile_board_ends_soon() -> None:
    begin = time.monotonic()
    for text in (
        "X = " + "+" * 9_000_000,
        "X = a + b, 0.3\n" * 600_000,
        "__" * 4_000_000,
        "X=a+b" * 2_000_000,
        "+" * 9_000_000,
    ):
        file = RecipeFile(Path("r.txt"), text.encode())
        if merge_board.recognizes(file):
            draft = Draft()
            merge_board.read(file, draft)
            assert len(draft.notices) < 200
    assert time.monotonic() - begin < 20
