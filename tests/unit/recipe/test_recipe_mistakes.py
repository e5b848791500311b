"""What a wrong mergefile is told: code, place, marked text, message and help, as golden text."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_texts import ORANGE, SOURCES, Fail, Load, shown

from mergebuild.errors import Problem, RecipeError, UsageError
from mergebuild.layouts.declare import parse_layout
from mergebuild.recipe import load_recipe

HERE = Path(__file__).parent
GOLDEN = (HERE / "mistakes.txt").read_text(encoding="utf-8")
MISTAKES = [
    pytest.param(text, expected.rstrip("\n"), id=name)
    for name, text, expected in re.findall(r"^=== (.*)\n([\s\S]*?)^---\n([\s\S]*?)(?=^=== |\Z)", GOLDEN, re.MULTILINE)
]
"""Of `mistakes.txt`: mergefiles, and behind `---` all that is said about each."""
OVERRIDES = [
    pytest.param(override, expected.rstrip("\n"), id=override)
    for override, expected in re.findall(
        r"^=== (.*)\n([\s\S]*?)(?=^=== |\Z)", (HERE / "overrides.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
]
"""Of `overrides.txt`: a `--set`, and what is said about it."""


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_is_told_as_written_down(fail: Fail, text: str, expected: str) -> None:
    assert shown(fail(text)) == expected


def test_the_golden_text_is_all_read() -> None:
    assert len(MISTAKES) == GOLDEN.count("\n=== ") + 1 > 60


def test_the_contracts_example_is_the_contracts_text(fail: Fail) -> None:
    """Line 14, column 10 of the contract's section 4."""
    text = "\n" * 8 + SOURCES + ORANGE.replace("weighted_sum", "weigted_sum")
    (problem,) = fail(text)
    assert problem.message == "target `orange` uses unknown method `weigted_sum`"
    assert problem.help == "did you mean `weighted_sum`?  `mergebuild methods` shows all"
    assert problem.where is not None
    assert str(problem.where) == "mergefile.toml:14:10"
    assert (problem.where.text, problem.where.length) == ('method = "weigted_sum"', 13)
    assert problem.to_json() == {
        "code": "unknown-method", "message": problem.message, "where": "mergefile.toml:14:10", "help": problem.help,
    }  # fmt: skip


def test_a_whole_table_is_shown_by_its_line_and_name(fail: Fail) -> None:
    (problem,) = fail(SOURCES + '[targets.t]\nmethod = "copy"\n')
    assert problem.where is not None
    assert (str(problem.where), problem.where.note, problem.where.text) == ("mergefile.toml:5", "[targets.t]", "")


def test_every_sentence_begins_in_lower_case_and_ends_without_a_stop(fail: Fail) -> None:
    """The law of messages, over all golden mistakes."""
    for mistake in MISTAKES:
        for problem in fail(mistake.values[0]):
            assert problem.message[0].islower() or not problem.message[0].isalpha()
            assert not problem.message.endswith((".", " "))
            assert problem.where is not None


def test_every_mistake_says_how_to_mend_it(fail: Fail) -> None:
    """The law of help, over all golden mistakes: one line, of which the message is no part."""
    for mistake in MISTAKES:
        for problem in fail(mistake.values[0]):
            assert problem.help.strip(), problem.message
            assert "\n" not in problem.help
            assert problem.help not in problem.message


@pytest.mark.parametrize(("override", "expected"), OVERRIDES)
def test_every_wrong_set_says_how_to_mend_it(override: str, expected: str) -> None:
    assert "\n  ? " in expected, override


def test_mistakes_of_the_files_say_how_to_mend_them(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(include("mergefile.toml"))
    for number in range(12):
        (tmp_path / f"{number}.toml").write_text(include(f"{number + 1}.toml"))
    deep = "[vars]\n" + "".join(f'v{n} = "${{v{n + 1}}}"\n' for n in range(300)) + "v300 = 1\n"
    for text in (
        include("x.toml"),
        include("0.toml"),
        include("."),
        "[layouts]\n" + ".".join("x" * 60) + " = 1\n",
        deep,
    ):
        assert all(problem.help for problem in fail(text))


@pytest.mark.parametrize(
    "made",
    ['method = "weigted_sum"', "method = 3", 'merge_method = "ties"', 'metod = "copy"', ""],
)
def test_a_method_that_is_none_hides_no_unknown_reference(fail: Fail, made: str) -> None:
    """Inputs have the same names in every method, so what they name is checked without knowing it."""
    inputs = 'a = "opkk"\nbase = "opk"\nmodels = ["merongg", { model = "nix", density = 1 }, { weight = 1 }]\n'
    problems = fail(f"{SOURCES}[targets.t]\n{made}\n{inputs}")
    assert [problem.message for problem in problems if problem.code == "unknown-reference"] == [
        "`a` of target `t`: `opkk` is no source and no target",
        "`models[0]` of target `t`: `merongg` is no source and no target",
        "`models[1]` of target `t`: `nix` is no source and no target",
    ]
    assert len(problems) == 4


def test_a_target_without_its_method_is_told_of_a_circle_all_the_same(fail: Fail) -> None:
    assert {problem.code for problem in fail('[targets.t]\nmethod = "nope"\na = "t"\n')} == {
        "unknown-method", "dependency-cycle",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "help_"),
    [
        ('[targets.t]\nmethod = "scale"\na = "opk"\nalfa = 1\n', "did you mean `alpha`?"),
        ('[targets.t]\nmethod = "linear"\nmodle = ["opk"]\nmodels = ["opk"]\nweigth = 1\n', ""),
        ('[targets.t]\nmethod = "linear"\nmodls = ["opk"]\nweight = 1\n', "did you mean `models`?"),
        ('[targets.t]\nmethod = "weighted_sum"\nbase_model = "opk"\nb = "opk"\nalpha = 1\n', "it is called `a` here"),
        ('[targets.t]\nmethod = "linear"\nmodels = [{ modle = "opk", weight = 1 }]\n', "did you mean `model`?"),
        ('[targets.t]\nformla = "opk"\n', "did you mean `formula`?"),
        ('[targets.t]\nmetod = "copy"\na = "opk"\n', "did you mean `method`?"),
        ('x = { pth = "x" }\n', "did you mean `path`?"),
    ],
)
def test_a_misspelt_key_is_one_mistake(fail: Fail, text: str, help_: str) -> None:
    """It is not missing too when its suggestion is just the missing key."""
    problems = fail(SOURCES + text)
    assert {problem.code for problem in problems} == {"unknown-key"}
    assert [problem.help.startswith(help_) for problem in problems] == [True] * len(problems)


def test_a_key_that_means_another_one_leaves_a_key_missing(fail: Fail) -> None:
    problems = fail(SOURCES + '[targets.t]\nmethod = "weighted_sum"\na = "opk"\nb = "opk"\nouptut = "x"\n')
    assert [problem.code for problem in problems] == ["missing-key", "unknown-key"]


def test_an_output_whose_variable_has_no_value_is_reported_where_the_variable_is(fail: Fail) -> None:
    text = '[targets.t]\nmethod = "copy"\na = "opk"\nforeach.x = [1, 2]\noutput = "o-${x}-${m}.safetensors"\n'
    assert [problem.code for problem in fail("[vars]\nm = [1]\n" + SOURCES + text)] == ["wrong-type"]


def test_a_whole_number_too_large_for_anything_is_refused(fail: Fail) -> None:
    (problem,) = fail(SOURCES + ORANGE.replace("0.5", "0x" + "f" * 900))
    assert (problem.code, problem.message) == ("bad-number", "a whole number beyond 1e1000")
    assert fail(SOURCES + ORANGE.replace("0.5", "9" * 5000))[0].code == "toml-syntax"


def test_what_nests_without_end_is_refused(fail: Fail) -> None:
    dotted = ".".join("x" * 60)
    assert [problem.code for problem in fail(f"[layouts]\n{dotted} = 1\n")] == ["too-deep"]
    assert [problem.code for problem in fail("x = " + "[" * 3000 + "]" * 3000)] == ["toml-syntax"]
    deep = "[vars]\n" + "".join(f'v{n} = "${{v{n + 1}}}"\n' for n in range(300)) + "v300 = 1\n"
    assert [problem.code for problem in fail(deep)] == ["too-deep"]


# -- files


def test_no_mergefile_is_an_error_that_names_init(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "mergefile.toml")
    (problem,) = caught.value.problems
    assert problem.code == "no-mergefile"
    assert "mergebuild init" in problem.help


def test_a_folder_is_no_mergefile(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path)
    assert [problem.code for problem in caught.value.problems] == ["unreadable-mergefile"]


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mergefile.toml"
    path.write_bytes("[sources]\nö = 1\n".encode("latin-1"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.message) == ("not-utf8", "`mergefile.toml` is not UTF-8: byte 10 is wrong")


def include(*names: str) -> str:
    return f"[project]\ninclude = {list(names)!r}\n"


SECRET = "root:$6$s4lt:19000:0:99999:7:::"


@pytest.mark.parametrize("text", [f"{SECRET}\n", f'[token]\n"{SECRET}" = "{SECRET}"\n[token]\n', f'k = "{SECRET}"\n'])
@pytest.mark.parametrize("kind", ["outside", "outside.toml", "link.toml", "notes"])
def test_no_text_is_shown_of_what_may_be_no_mergefile(fail: Fail, tmp_path: Path, text: str, kind: str) -> None:
    """A stranger's mergefile may include any file that the user may read, and logs are read by others. Lines are told.

    Outside of the project's folder, by a link too, or without the ending.
    """
    outside = tmp_path.parent / f"{tmp_path.name}-{kind}"
    path = tmp_path / "notes" if kind == "notes" else outside
    path.write_text(f"# one\n\n{text}")
    if kind == "link.toml":
        (tmp_path / kind).symlink_to(outside)
    (problem,) = fail(include(kind if kind in ("link.toml", "notes") else str(outside)))
    assert "s4lt" not in f"{problem.message} {problem.help}"
    assert problem.where is not None
    assert problem.where.line in (3, 4, 5)
    assert problem.where.text == ""


@pytest.mark.parametrize(
    "text",
    [
        'hunter2 = "hunter2"',
        "[hunter2]",
        '[targets.t]\nmethod = "hunter2"',
        '[targets.t]\nmethod = "hun`ter2"\n[targets.u]\nmethod = "x`hunter2`"',
        '[targets.t]\nmethod = "copy"\na = "hunter2"',
        "[targets.hunter2]\nmethod = 7182818",
        '[targets.t]\nformula = "hunter2 * 7182818"',
        '[vars]\nk = ["hunter2"]\n"hunter2 x" = 1',
        '[layouts.m]\ndetect = ["hunter2"]\nblocks = [["hunter2", "hunter2 7182818"], ["(", "L{}"]]',
        "[layouts.m]\ndetect = { x = [1, 'hunter2'] }\nblocks = [['', 'B']]\nhunter2 = 1",
        '[methods.hunter2]\nfile = 7182818\nhunter2 = "x"',
        '[project]\nhunter2 = 7182818\ninclude = ["hunter2.toml"]',
    ],
)
def test_nothing_is_quoted_of_what_may_be_no_mergefile(load: Load, tmp_path: Path, text: str) -> None:
    """It may be valid TOML, and then what is in it is told to be wrong: by its place alone."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside.toml"
    outside.write_text(text)

    def read() -> None:
        for layout in load(include(str(outside))).layouts.values():
            parse_layout(layout)

    with pytest.raises(RecipeError) as caught:
        read()
    for problem in caught.value.problems:
        assert problem.where is not None
        told = " ".join((problem.message, problem.help, *problem.rows, problem.where.text, problem.where.note))
        assert not {"hunter", "ter2", "7182818"} & set(re.findall("hunter|ter2|7182818", told)), told
        assert outside.name in problem.where.file


def test_the_text_of_a_projects_own_include_is_shown(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text("k = = 2\n")
    (problem,) = fail(include("more.toml"))
    assert problem.where is not None
    assert problem.where.text == "k = = 2"


def test_files_that_include_each_other_are_an_error(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/x.toml").write_text(include("y.toml"))
    (tmp_path / "sub/y.toml").write_text(include("../mergefile.toml"))
    (problem,) = fail(include("sub/x.toml"))
    assert problem.message == "files include each other: mergefile.toml -> sub/x.toml -> sub/y.toml -> mergefile.toml"
    assert (problem.code, str(problem.where)) == ("include-cycle", "sub/y.toml:2:12")


def test_all_files_that_can_t_be_read_are_told_at_once(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[sources\n")
    (tmp_path / "latin.toml").write_bytes(b"# \xf6\n")
    problems = fail(include("bad.toml", "gone.toml", "latin.toml", ".") + "[targets.x]\n")
    assert [(problem.code, str(problem.where)) for problem in problems] == [
        ("no-such-include", "mergefile.toml:2:24"),
        ("not-utf8", "mergefile.toml:2:37"),
        ("unreadable-mergefile", "mergefile.toml:2:51"),
        ("toml-syntax", "bad.toml:1:9"),
    ]


def test_an_included_file_has_no_project_and_no_defaults(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('[project]\nname = "x"\n[defaults]\ndtype = "float16"\n[what]\n')
    problems = fail(include("x.toml"))
    assert [(problem.code, str(problem.where)) for problem in problems] == [
        ("not-in-an-include", "x.toml:2:1"),
        ("not-in-an-include", "x.toml:3:2"),
        ("unknown-table", "x.toml:5:2"),
    ]


def test_a_name_in_two_files_is_an_error_with_both_places(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('[sources]\nopk = "other"\n[vars]\nm = 1\n[layouts.l]\n')
    problems = fail(include("x.toml") + "[vars]\nm = 2\n[layouts.l]\n" + SOURCES)
    assert [(problem.code, str(problem.where), problem.rows) for problem in problems] == [
        ("duplicate-name", "x.toml:2:1", ("first declared at mergefile.toml:7:1",)),
        ("duplicate-name", "x.toml:4:1", ("first declared at mergefile.toml:4:1",)),
        ("duplicate-name", "x.toml:5:10", ("first declared at mergefile.toml:5:10",)),
    ]


def test_includes_have_an_end(fail: Fail, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.toml").write_text(include(f"{number + 1}.toml"))
    assert [problem.code for problem in fail(include("0.toml"))] == ["too-many-includes"]
    for number in range(300):
        (tmp_path / f"w{number}.toml").write_text("")
    codes = {problem.code for problem in fail(include(*(f"w{number}.toml" for number in range(300))))}
    assert codes == {"too-many-includes"}


def test_problems_come_in_the_order_of_the_files_and_their_lines(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('[targets.x]\nmethod = "nope"\n[sources]\ns = 3\n')
    problems = fail(include("x.toml") + '[targets.y]\nmethod = "nope"\n[sources]\nt = 3\n')
    assert [str(problem.where) for problem in problems] == [
        "mergefile.toml:4:10", "mergefile.toml:6:5", "x.toml:2:10", "x.toml:4:5",
    ]  # fmt: skip


# -- outputs against sources


def test_an_output_that_is_a_source_through_a_link_is_refused(fail: Fail, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "opk.safetensors").touch()
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "alias.safetensors").symlink_to("opk.safetensors")
    for output in ("linked/opk.safetensors", "alias.safetensors", str(tmp_path / "opk.safetensors")):
        assert [problem.code for problem in fail(SOURCES + ORANGE.replace("out/orange.safetensors", output))] == [
            "output-is-source"
        ]


@pytest.mark.parametrize("member", [0, 99, 100, 101, 149])
def test_one_of_many_outputs_that_is_a_link_to_a_source_is_refused(fail: Fail, tmp_path: Path, member: int) -> None:
    """The links of a folder are read at once, behind its first hundred outputs."""
    (tmp_path / "opk.safetensors").write_bytes(b"")
    (tmp_path / f"f-{member}.safetensors").symlink_to("opk.safetensors")
    family = 'foreach.x = { from = 0, to = 149, step = 1 }\nmethod = "scale"\na = "merong"\nalpha = "${x}"\n'
    (problem,) = fail(f'{SOURCES}[targets.f]\n{family}output = "f-${{x}}.safetensors"\n')
    assert problem.message == f"the output of target `f@x={member}` is the source `opk`"


def test_an_output_that_is_a_source_of_the_models_folders_is_refused(
    fail: Fail, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("MERGEBUILD_MODELS", str(folder))
    text = SOURCES + ORANGE.replace("out/orange", "models/opk")
    assert load(text).resolve([]) == ("orange",)
    (folder / "opk.safetensors").touch()
    assert [problem.code for problem in fail(text)] == ["output-is-source"]


def test_a_source_that_cannot_be_looked_at_may_be_there(
    fail: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails is no leave to write there."""
    path = tmp_path / "models/opk.safetensors"
    monkeypatch.setenv("MERGEBUILD_MODELS", str(path.parent))
    real = os.lstat

    def broken(asked: Path | str, **options: object) -> os.stat_result:
        if os.fspath(asked) == str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(asked, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "lstat", broken)
    assert [problem.code for problem in fail(SOURCES + ORANGE.replace("out/orange", "models/opk"))] == [
        "output-is-source"
    ]


def test_a_member_made_on_demand_takes_no_output_of_another(load: Load) -> None:
    recipe = load(
        SOURCES + ORANGE.replace("orange.safetensors", "x-${a}${b}.safetensors") + 'foreach = { a = [1], b = ["1x"] }\n'
    )
    recipe.target("orange@a=2,b=2")
    with pytest.raises(RecipeError) as caught:
        recipe.target("orange@a=11,b=x")
    assert [problem.code for problem in caught.value.problems] == ["duplicate-output"]


# -- the command line


@pytest.mark.parametrize(("override", "expected"), OVERRIDES)
def test_a_wrong_set_is_a_usage_error(fail: Fail, override: str, expected: str) -> None:
    """Whatever is wrong because of the command line alone is exit 2, and is shown there."""
    many = '[targets.many]\nmethod = "linear"\nmodels = ["opk", "merong"]\nweight = [1, 2]\n'
    assert shown(fail("[vars]\nm = 1\n" + SOURCES + ORANGE + many, override, code=2)) == expected


def test_all_wrong_sets_are_told_at_once(fail: Fail) -> None:
    problems = fail(SOURCES + ORANGE, "x=1", "y.z=1", "orange=1", code=2)
    assert [problem.code for problem in problems] == ["unknown-variable", "unknown-target", "bad-set"]


def test_a_set_of_a_mergefile_that_is_wrong_itself_is_no_usage_error(fail: Fail) -> None:
    assert len(fail(SOURCES + ORANGE.replace("merong", "merongg"), "orange.alpha=x")) == 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mm", 1, "unknown variable `mm`"),
        ("m", None, "variable `m` is nothing, expected a number, a string or a boolean"),
        ("m", {}, "variable `m` is a table, expected a number, a string or a boolean"),
        ("m", [1], "variable `m` is a list or a date, expected a number, a string or a boolean"),
        ("m", float("inf"), "variable `m` is not a finite number, expected a number, a string or a boolean"),
    ],
)
def test_a_wrong_given_variable_is_a_usage_error(fail: Fail, name: str, value: object, message: str) -> None:
    (problem,) = fail("[vars]\nm = 1\n" + SOURCES, variables={name: value}, code=2)
    assert (problem.message, str(problem.where)) == (message, "--vars")


@given(st.text(st.sampled_from("ab.=\"'[]{}01\n#@,${} "), max_size=20))
def test_any_override_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("recipe") / "mergefile.toml"
    path.write_text("[vars]\na = 1\n" + SOURCES + '[targets.b]\nmethod = "scale"\na = "opk"\nalpha = 1\n')
    problems = found(path, text)
    assert all(problem.code and problem.message for problem in problems)


WORDS = [
    "[project]", "[vars]", "[sources]", "[targets.t]", "[targets.u]", "[targets.t.alpha]",
    "m = 1", 'm = "${m}"', 'opk = "x"', 'method = "copy"', 'method = "linear"', 'a = "opk"', 'a = "t"', 'a = "u@x=1"',
    "alpha = 0.5", "foreach.x = [1, 2]",
    "foreach = { x = { from = 0, to = 1, step = 0.5 } }", 'formula = "opk*x - t"', "x = {}", 'output = "o.safetensors"',
    'output = "o-${x}.safetensors"', "models = [{}]", "weight = [[]]", "default = []",
    'include = ["mergefile.toml"]', "0 = 0",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=14))
def test_any_mergefile_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """No text makes anything but a recipe whose targets can all be had, or problems with a code."""
    path = tmp_path_factory.mktemp("recipe") / "mergefile.toml"
    path.write_text("\n".join(lines))
    problems = found(path)
    assert all(problem.code and problem.message and problem.where for problem in problems)
    if not problems:
        recipe = load_recipe(path)
        assert [recipe.target(name).name for name in recipe.target_names()] == recipe.target_names()


def found(path: Path, *overrides: str) -> tuple[Problem, ...]:
    """Return the problems of a file, none if it can be loaded; anything but problems passes through."""
    try:
        load_recipe(path, overrides=overrides)
    except (RecipeError, UsageError) as error:
        return error.problems
    return ()
