"""`[layouts.NAME]`: what a declaration may say, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from layout_headers import AtPath

from mergebuild.errors import Problem, RecipeError
from mergebuild.layouts import parse_layout
from mergebuild.recipe.model import LayoutText

ROWS = [[r"^layers\.(\d+)\.", "L{:02}"], [r"^top\.", "top"]]


def declared(**table: object) -> LayoutText:
    whole = {"detect": ["layers.0.*"], "blocks": ROWS} | table
    given = {key: value for key, value in whole.items() if value is not None}
    return LayoutText("mine", given, AtPath("layouts.mine"))


def problems_of(text: LayoutText) -> tuple[Problem, ...]:
    with pytest.raises(RecipeError) as caught:
        parse_layout(text)
    return caught.value.problems


def told(text: LayoutText) -> list[str]:
    """Return the problems as `code: message @ place`."""
    return [f"{p.code}: {p.message} @ {p.where.note if p.where else ''}" for p in problems_of(text)]


def test_the_first_row_that_fits_says_the_block() -> None:
    layout = parse_layout(declared(blocks=[["special", "S"], *ROWS, ["", "rest"]]))
    assert layout.block("layers.3.weight") == "L03"
    assert layout.block("layers.12.weight") == "L12"
    assert layout.block("layers.3.special") == "S"
    assert layout.block("other") == "rest"


def test_a_tensor_that_no_row_fits_is_in_no_block() -> None:
    assert parse_layout(declared()).block("other") is None


def test_a_template_is_filled_with_an_integer_or_its_row_does_not_fit() -> None:
    layout = parse_layout(declared(blocks=[[r"layers\.(\w+)", "L{}"], ["", "rest"]]))
    assert layout.block("layers.07") == "L7"
    assert layout.block("layers.last") == "rest"


def test_a_number_may_stand_inside_a_name() -> None:
    layout = parse_layout(declared(blocks=[[r"layers\.(\d+)\.attn", "L{}_attn"]], mbw=["L0_attn", "L1_attn"]))
    assert layout.block("layers.1.attn.weight") == "L1_attn"
    assert layout.mbw_of(2) == ("L0_attn", "L1_attn")


def test_layers_are_the_numbered_blocks_as_they_come_unless_declared() -> None:
    names = ["top.weight", "layers.10.weight", "layers.2.weight", "layers.0.weight"]
    assert parse_layout(declared()).layers(names) == ("L00", "L02", "L10")
    assert parse_layout(declared(layers=["top", "L*"])).layers(names) == ("top", "L00", "L02", "L10")
    assert parse_layout(declared(layers=["L02", "L00-L01"])).layers(names) == ("L02", "L00")
    assert parse_layout(declared(blocks=[["^top", "top"], ["", "rest"]])).layers(names) == ("rest", "top")


def test_lists_of_block_weights_may_be_one_or_several() -> None:
    assert parse_layout(declared(mbw=["top", "L00-L02"])).mbw == (("top", "L00", "L01", "L02"),)
    assert parse_layout(declared(mbw=[["L00"], ["top", "L00"]])).mbw == (("L00",), ("top", "L00"))


@pytest.mark.parametrize(
    ("table", "message", "at"),
    [
        ({"detct": ["x"]}, "`detct` is no key of a layout", "detct (key)"),
        ({"title": 3}, "`title` is not text", "title"),
        ({"detect": None}, "has no `detect`, so no model would ever have it", ""),
        ({"detect": []}, "has no `detect`, so no model would ever have it", "detect"),
        (
            {"detect": "x"},
            "`detect` is no array of names, table of shapes or array of such tables", "detect",
        ),
        (
            {"detect": ["re:x"]},
            "`re:x` in `detect` is a regular expression, expected the name of a tensor, or a glob", "detect.0",
        ),
        (
            {"detect": [{"re:x": "*"}]},
            "`re:x` in `detect` is a regular expression, expected the name of a tensor, or a glob", "detect.0.re:x",
        ),
        (
            {"unless": ["re:x"]},
            "`re:x` in `unless` is a regular expression, expected the name of a tensor, or a glob", "unless.0",
        ),
        ({"detect": {"x": [1, "?"]}}, "[1, '?'] is not a shape", "detect.x"),
        ({"detect": [{"x": True}]}, "True is not a shape", "detect.0.x"),
        ({"unless": "x"}, "`unless` is not an array of texts", "unless"),
        ({"blocks": None}, "has no `blocks`", ""),
        ({"blocks": "x"}, "`blocks` is not an array of rows", "blocks"),
        (
            {"blocks": [["x"]]},
            "row 1 of `blocks` is not a regular expression and a block", "blocks.0",
        ),
        (
            {"blocks": [["(", "X"]]},
            "`(` is not a regular expression: missing ), unterminated subpattern at position 0", "blocks.0.0",
        ),
        (
            {"blocks": [[r"\d+", "X{}"]]},
            r"`X{}` needs a number, and `\d+` has no group that finds one", "blocks.0",
        ),
        ({"blocks": [["x", "X{0}"]]}, "'X{0}' is not the name of a block", "blocks.0.1"),
        ({"blocks": [["x", "X{:x}"]]}, "'X{:x}' is not the name of a block", "blocks.0.1"),
        ({"blocks": [["x", "a b"]]}, "'a b' cannot be the name of a block", "blocks.0.1"),
        ({"blocks": [["x", "mbw"]]}, "'mbw' cannot be the name of a block", "blocks.0.1"),
        ({"blocks": [["x", ""]]}, "'' cannot be the name of a block", "blocks.0.1"),
        ({"mbw": ["top", "M00"]}, "`M00` in `mbw` is a block that no row makes", "mbw"),
        ({"mbw": [["top"], ["M00"]]}, "`M00` in `mbw[1]` is a block that no row makes", "mbw.1"),
        ({"mbw": ["L*"]}, "`mbw` needs every block by name: a list of numbers has a length", "mbw"),
        (
            {"layers": ["L05-L00"]},
            "`L05-L00` is not a range of blocks such as `IN00-IN05`", "layers",
        ),
        ({"stack": "top"}, "`stack` is 'top', not a family of numbered blocks", "stack"),
        (
            {"groups": ["x"]},
            "`groups` is not a table of names and regular expressions", "groups",
        ),
        (
            {"groups": {"a-b": "x"}},
            "`a-b` cannot be a name in `groups`", "groups.a-b",
        ),
        (
            {"components": {"unet": 1}},
            "`components.unet` is not a regular expression in quotes", "components.unet",
        ),
    ],
)  # fmt: skip
def test_nonsense_is_refused_where_it_stands(table: dict[str, object], message: str, at: str) -> None:
    unknown = "detct" in table
    code, said = ("unknown-key", message) if unknown else ("invalid-layout", f"layout `mine`: {message}")
    place = f"layouts.mine.{at}" if at else "layouts.mine"
    assert told(declared(**table)) == [f"{code}: {said} @ {place}"]
    assert all(problem.help for problem in problems_of(declared(**table)))


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = declared(detct=1, detect=None, blocks=[["(", "X"], ["x", "{"]], groups={"attn": ")"})
    assert len(problems_of(text)) == 5


def test_a_misspelt_key_is_told_the_right_one() -> None:
    assert problems_of(declared(block=[]))[0].help.startswith("did you mean `blocks`?")


def test_the_declaration_that_the_documentation_shows_is_sound() -> None:
    page = (Path(__file__).parents[3] / "docs" / "layouts.md").read_text(encoding="utf-8")
    shown = tomli.loads(page.split("```toml\n")[1].split("```")[0])
    ((name, table),) = shown["layouts"].items()
    layout = parse_layout(LayoutText(name, table, AtPath()))
    tensors = [f"layers.{n}.attention.qkv.weight" for n in range(30)]
    assert layout.layers(["cap_embedder.0.weight", *tensors, "first_stage_model.x"]) == (
        "BASE",
        *(f"L{n:02}" for n in range(30)),
    )
    assert layout.mbw_of(31) is not None
