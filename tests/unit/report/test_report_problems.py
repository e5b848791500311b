"""Errors look as the contract shows them, whatever is in the line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mergebuild.errors import Place, Problem
from mergebuild.report.columns import width
from mergebuild.report.problems import problem_lines


def shown(problem: Problem) -> str:
    return "\n".join(problem_lines(problem))


def test_a_problem_in_a_line_is_shown_as_the_contract_shows_it() -> None:
    problem = Problem(
        "unknown-method",
        "target `orange` uses unknown method `weigted_sum`",
        Place("mergefile.toml", 14, 10, 13, 'method = "weigted_sum"'),
        "did you mean `weighted_sum`?  `mergebuild methods` shows all",
    )
    assert shown(problem) == (
        "error[unknown-method]: target `orange` uses unknown method `weigted_sum`\n"
        "  --> mergefile.toml:14:10\n"
        "   |\n"
        '14 | method = "weigted_sum"\n'
        "   |          ^^^^^^^^^^^^^\n"
        "  help: did you mean `weighted_sum`?  `mergebuild methods` shows all"
    )


def test_a_problem_with_rows_is_shown_as_the_contract_shows_it() -> None:
    problem = Problem(
        "shape-mismatch",
        "`cond_stage_model…weight` differs between the inputs of `orange`",
        Place("mergefile.toml", 12, note="[targets.orange]"),
        "these are `sd15` and `sdxl`; checkpoints of different architectures can't be merged",
        (
            "opk      models/opk.safetensors   float16 [768, 768]",
            "merong   models/sdxl.safetensors  float16 [1280, 1280]",
        ),
    )
    assert shown(problem) == (
        "error[shape-mismatch]: `cond_stage_model…weight` differs between the inputs of `orange`\n"
        "  --> mergefile.toml:12  [targets.orange]\n"
        "  opk      models/opk.safetensors   float16 [768, 768]\n"
        "  merong   models/sdxl.safetensors  float16 [1280, 1280]\n"
        "  help: these are `sd15` and `sdxl`; checkpoints of different architectures can't be merged"
    )


def test_a_problem_without_a_place_is_a_line_and_its_help() -> None:
    assert shown(Problem("usage", "no command", help="one\ntwo")) == (
        "error[usage]: no command\n  help: one\n        two"
    )


def test_the_caret_stands_below_its_character_behind_wide_characters_and_tabs() -> None:
    """A wide character takes two cells; a tab stays a tab, whatever its width."""
    *_, line, caret = problem_lines(Problem("x", "y", Place("m.toml", 3, 8, 2, '\t橙色 = "é"')))
    assert line == ' 3 | \t橙色 = "é"'
    assert caret == "   | \t        ^^"
    assert width(line[: line.index("é")]) == caret.index("^")


def test_a_place_in_a_long_line_is_cut_out_of_it() -> None:
    text = "x = [" + ", ".join(map(str, range(1000))) + "]"
    column = text.index(" 500,") + 2
    *_, line, caret = problem_lines(Problem("x", "y", Place("m.toml", 1, column, 3, text)))
    assert len(line) < 130
    assert line[caret.index("^") : caret.rindex("^") + 1] == "500"


def test_a_place_beyond_the_end_of_its_line_gets_one_caret() -> None:
    *_, caret = problem_lines(Problem("x", "y", Place("m.toml", 1, 99, 5, "a =")))
    assert caret.count("^") == 1


def test_escape_sequences_in_a_problem_are_shown_and_not_sent() -> None:
    text = shown(
        Problem("x", "name `\x1b[31mred`", Place("m\x07.toml", 1, 1, 1, "\x1b]0;title\x07"), "\x9b2J", ("\x1b[H",))
    )
    assert not any((ord(each) < 32 and each != "\n") or 127 <= ord(each) < 160 for each in text)
    assert "\\x1b[31mred" in text


@given(
    st.text(max_size=200),
    st.integers(0, 250),
    st.integers(0, 250),
    st.integers(1, 10**6),
)
def test_no_line_and_no_place_breaks_the_form(text: str, column: int, length: int, number: int) -> None:
    """Whatever a place says, there are lines without line breaks, and carets if a column is known."""
    line = text.replace("\n", " ").replace("\r", " ")
    found = problem_lines(Problem("code", "message", Place("m.toml", number, column, length, line)))
    assert all("\n" not in each for each in found)
    assert bool(column and line) == (found[-1].strip(" |\t").startswith("^") and len(found) == 5)
