"""Every kind of mistake in a mergefile: its code, its place, how to mend it, exit 3, and nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from project_space import Space
from tiny_models import sd15

GOOD = """\
[sources]
one = "one.safetensors"
two = "two.safetensors"
[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.3
output = "mix.safetensors"
"""


@dataclass(frozen=True)
class Mistake:
    """A mergefile with one thing wrong: how `GOOD` is changed, and what the error must be."""

    name: str
    before: str
    after: str
    code: str
    where: str
    says: Sequence[str] = ()


MISTAKES = [
    Mistake("method", '"weighted_sum"', '"weigted_sum"', "unknown-method", "5:10", ["weigted_sum", "`weighted_sum`?"]),
    Mistake("method of LoRAs", '"weighted_sum"', '"add_lora"', "missing-key", "4", ["`loras`", "`base`"]),
    Mistake("key", "output =", "ouput =", "unknown-key", "9:1", ["ouput", "`output`?"]),
    Mistake("key M", "alpha =", "M =", "unknown-key", "8:1", ["`M`", "`alpha`"]),
    Mistake("key multiplier", "alpha =", "multiplier =", "unknown-key", "8:1", ["`multiplier`", "`alpha`"]),
    Mistake("key merge_method", "method =", "merge_method =", "unknown-key", "5:1", ["`merge_method`", "`method`"]),
    Mistake("key filter", "alpha = 0.3", "alpha = 0.3\nfilter = 1", "unknown-key", "9:1", ["`filter`", "selectors"]),
    Mistake("input too many", "alpha =", 'c = "one"\nalpha =', "unknown-key", "8:1", ["`c`"]),
    Mistake("input missing", 'b = "two"\n', "", "missing-key", "4", ["`b`"]),
    Mistake("amount missing", "alpha = 0.3\n", "", "missing-key", "4", ["`alpha`"]),
    Mistake("table", "[targets.mix]", "[target.mix]", "unknown-table", "4:2", ["`target`", "`targets`?"]),
    Mistake("reference", 'b = "two"', 'b = "twoo"', "unknown-reference", "7:5", ["`twoo`", "`two`?"]),
    Mistake("variable", "0.3", '"${m}"', "unknown-variable", "8:10", ["`m`"]),
    Mistake("components", "alpha = 0.3", "alpha = 0.3\ncomponents = 1", "wrong-type", "9:14", ["components"]),
    Mistake("rules", "alpha = 0.3", "alpha = 0.3\nrules = []", "bad-value", "9:9", ["rules"]),
    Mistake("slices", "alpha = 0.3", "alpha = 0.3\nslices = []", "bad-value", "9:10", ["slices"]),
    Mistake("tokenizer", "alpha = 0.3", "alpha = 0.3\ntokenizer = 1", "wrong-type", "9:13", ["tokenizer"]),
    Mistake("config", "alpha = 0.3", "alpha = 0.3\nconfig = 1", "wrong-type", "9:10", ["config"]),
    Mistake("config of a file", "alpha = 0.3", 'alpha = 0.3\nconfig = "one"', "no-folder", "9:1", ["`/`"]),
    Mistake("checks", "[sources]", "[checks]\n[sources]", "not-in-this-version", "1:2", ["checks"]),
    Mistake("searches", "[sources]", "[searches]\n[sources]", "not-in-this-version", "1:2", ["searches"]),
    Mistake("pt output", "mix.safetensors", "mix.pt", "bad-output", "9:10", ["`.ckpt`"]),
    Mistake("directory output", "mix.safetensors", "mix", "bad-output", "9:10", ["`/`"]),
    Mistake("output of no format", "mix.safetensors", "mix.sft", "bad-output", "9:10", ["`.safetensors`"]),
    Mistake("backslash", "mix.safetensors", "out\\mix.safetensors", "toml-syntax", "9:16", ["`/`"]),
    Mistake("backslash U", "one.safetensors", "C:\\Users\\a.safetensors", "toml-syntax", "2:12", ["`/`"]),
    Mistake("dotted key", "one =", "v4.5 =", "dotted-key", "2:4", ['"v4.5"']),
    Mistake("non-ASCII key", "one =", "öl =", "toml-syntax", "2:1", ["quotes"]),
    Mistake("decimal comma", "0.3", "0,3", "toml-syntax", "8:10", ["point"]),
    Mistake("no quotes", '"one"', "one", "toml-syntax", "6:5", ["quotes"]),
    Mistake("key twice", 'a = "one"', 'a = "one"\na = "two"', "toml-syntax", "7", ["twice"]),
    Mistake("string as number", "0.3", '"0.3"', "wrong-type", "8:9", ["without quotes"]),
    Mistake("boolean as number", "0.3", "true", "wrong-type", "8:9", ["expected a number"]),
    Mistake("nan", "0.3", "nan", "bad-number", "8:9", ["nan"]),
    Mistake("inf", "0.3", "-inf", "bad-number", "8:9", ["inf"]),
    Mistake("list as number", "0.3", "[0.1, 0.2]", "wrong-type", "8:9", ["mbw"]),
    Mistake("dtype", "alpha = 0.3", 'alpha = 0.3\ndtype = "fp16"', "bad-value", "9:9", ["fp16", "`float16`"]),
    Mistake(
        "dtype of a virtual target", "output =", 'dtype = "float16"\n# =', "dtype-on-virtual", "9:1", ["`output`"]
    ),
    Mistake("output is a source", '"mix.safetensors"', '"two.safetensors"', "output-is-source", "9:10", ["`two`"]),
    Mistake("output is a source, spelled otherwise", '"mix.', '"x/../two.', "output-is-source", "9:10", ["`two`"]),
    Mistake(
        "two targets, one output",
        "[targets.mix]",
        '[targets.b]\nmethod = "copy"\na = "one"\noutput = "./mix.safetensors"\n[targets.mix]',
        "duplicate-output",
        "13:10",
        ["`mix`", "`b`"],
    ),
    Mistake("cycle of one", 'b = "two"', 'b = "mix"', "dependency-cycle", "7:5", ["mix -> mix"]),
    Mistake(
        "cycle",
        'b = "two"',
        'b = "y"\n[targets.y]\nmethod = "copy"\na = "x"\n[targets.x]\nformula = "mix"\n[targets.z]\n'
        'method = "weighted_sum"\na = "one"\nb = "two"',
        "dependency-cycle",
        "",
        ["->"],
    ),
    Mistake("unknown block", "0.3", "{ default = 0.3, IN12 = 0.5 }", "selector-matches-nothing", "8:26", ["`IN11`?"]),
    Mistake("unknown group", "0.3", "{ default = 0.3, atn = 0.5 }", "selector-matches-nothing", "8:26", ["`attn`?"]),
    Mistake("glob of nothing", "0.3", '{ default = 0, "*.atn.*" = 1 }', "selector-matches-nothing", "8:24", ["glob"]),
    Mistake("regex", "0.3", '{ default = 0.3, "re:(" = 0.5 }', "bad-selector", "8:26", ["regular expression"]),
    Mistake("overridden", "0.3", "{ IN04 = 0.3, default = 0.5 }", "selector-overridden", "8:11", ["`default`"]),
    Mistake("overridden by many", "0.3", "{ IN = 0.3, IN00-IN11 = 0.5 }", "selector-overridden", "8:11", ["`IN`"]),
    Mistake("mbw of 3", "0.3", "{ mbw = [1, 2, 3] }", "mbw-length", "8:11", ["26", "25"]),
    Mistake("preset", "0.3", '{ preset = "GRAD_X" }', "unknown-preset", "8:20", ["GRAD_X", "`GRAD_V`?"]),
    Mistake("elemental", "0.3", '{ elemental = "OUT03:attn2" }', "bad-elemental", "8:24", ["blocks:elements:number"]),
    Mistake("gradient of nothing", "0.3", "{ gradient = [] }", "bad-value", "8:22", ["empty"]),
    Mistake("inverse sigmoid of 2", "0.3", "{ inverse_sigmoid = 2 }", "bad-value", "8:29", ["from 0 to 1"]),
    Mistake("method and formula", "alpha = 0.3", 'alpha = 0.3\nformula = "one"', "method-and-formula", "9:1"),
    Mistake("neither", 'method = "weighted_sum"\n', "", "missing-key", "4", ["`method`", "`formula`"]),
    Mistake("pin", '"one.safetensors"', '{ path = "one.safetensors", sha256 = "abc" }', "bad-pin", "2:44", ["64"]),
    Mistake("key of a source", '"one.safetensors"', '{ path = "o", sha = "a" }', "unknown-key", "2:21", ["`sha256`?"]),
    Mistake("key of the project", "[sources]", "[project]\nnmae = 1\n[sources]", "unknown-key", "2:1", ["`name`?"]),
    Mistake("default", "[sources]", '[project]\ndefault = ["nix"]\n[sources]', "unknown-target", "2:12", ["`nix`"]),
    Mistake("link", "[sources]", '[project]\nlink = "soft"\n[sources]', "bad-value", "2:8", ["`hard`"]),
    Mistake("history", "[sources]", '[project]\nhistory = "many"\n[sources]', "bad-value", "2:11", ["10GB"]),
    Mistake("include", "[sources]", '[project]\ninclude = ["no.toml"]\n[sources]', "no-such-include", "2:12", ["no."]),
    Mistake("name twice", "[targets.mix]", '[targets.one]\nmethod = "copy"\na = "two"\n[targets.mix]', "duplicate-name",
            "4:10", ["`one`"]),
    Mistake("empty range", "[targets.mix]", "[targets.mix]\nforeach.x = { from = 2, to = 1, step = 1 }", "empty-range",
            "5:13", ["`x`"]),
    Mistake("empty list", "[targets.mix]", "[targets.mix]\nforeach.x = []", "empty-range", "5:13", ["`x`"]),
    Mistake("endless range", "[targets.mix]", "[targets.mix]\nforeach.x = { from = 1, to = 2, step = 0 }",
            "endless-range", "5:40", ["`x`"]),
    Mistake("too many members", "[targets.mix]", "[targets.mix]\nforeach.x = { from = 0, to = 1, step = 0.00001 }",
            "too-many-members", "5:13", ["100000"]),
    Mistake("a family's one output", "[targets.mix]", "[targets.mix]\nforeach.x = [1, 2]", "duplicate-output", "10:10",
            ["`mix@x=1`", "`mix@x=2`"]),
    Mistake("max_shard_size", "alpha =", 'max_shard_size = "5GB"\nalpha =', "no-folder", "8:1",
            ["max_shard_size"]),
    Mistake("missing", "alpha =", 'missing = "ignore"\nalpha =', "bad-value", "8:11", ["`error`"]),
    Mistake("nonfinite", "alpha =", 'nonfinite = "ignore"\nalpha =', "bad-value", "8:13", ["`allow`"]),
    Mistake("drop of nothing", "alpha =", 'drop = ["lora*"]\nalpha =', "selector-matches-nothing", "8:9", ["`lora*`"]),
    Mistake("merge of nothing", "alpha =", 'merge = ["IN77"]\nalpha =', "selector-matches-nothing", "8:10", ["`IN77`"]),
]  # fmt: skip

FORMULAS = [
    Mistake("product", "", "one*two", "bad-formula", "4:16", ["model"]),
    Mistake("unknown name", "", "one + tow", "unknown-reference", "4:18", ["`tow`", "`two`?"]),
    Mistake("cut short", "", "one*(2 + ", "bad-formula", "", ["end"]),
    Mistake("division by a model", "", "2/one", "bad-formula", "", ["divi"]),
    Mistake("a number added", "", "one + 2", "bad-formula", "", ["model"]),
    Mistake("no model", "", "1 + 2", "bad-formula", "", ["model"]),
    Mistake("division by 0", "", "one/0", "", "", ["0"]),
]


def check(space: Space, text: str, mistake: Mistake) -> None:
    space.model("one.safetensors", sd15(1))
    space.model("two.safetensors", sd15(2))
    space.write(text)

    for command in ("build", "plan"):
        outcome = space.refused(command, code=3)
        first = next(error for error in outcome.json["errors"] if not mistake.code or error["code"] == mistake.code)
        if mistake.where:
            assert first["where"].startswith(f"mergefile.toml:{mistake.where}"), first
        shown = f"{first['message']} {first['help']}"
        assert all(word in shown for word in mistake.says), first


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_in_a_mergefile(space: Space, mistake: Mistake) -> None:
    assert GOOD.count(mistake.before) >= 1
    check(space, GOOD.replace(mistake.before, mistake.after, 1), mistake)


@pytest.mark.parametrize("mistake", FORMULAS, ids=lambda mistake: mistake.name)
def test_a_mistake_in_a_formula(space: Space, mistake: Mistake) -> None:
    sources = '[sources]\none = "one.safetensors"\ntwo = "two.safetensors"\n'
    check(space, f'[targets.x]\noutput = "x.safetensors"\n\nformula = "{mistake.after}"\n{sources}', mistake)


def test_every_mistake_comes_with_how_to_mend_it(space: Space) -> None:
    """An error of the contract's form says what is wrong, where, and how to mend it."""
    space.model("one.safetensors", sd15(1))
    space.model("two.safetensors", sd15(2))
    silent = []
    for mistake in MISTAKES:
        space.write(GOOD.replace(mistake.before, mistake.after, 1))
        errors = space.run("plan", "--json", code=3).json["errors"]
        silent += [f"{mistake.name}: {error['message']}" for error in errors if not error["help"]]

    assert not silent, "\n".join(silent)


UNDEFINED = {
    "linear of sum 0": 'method = "linear"\nmodels = ["one", "two"]\nweight = [1, -1]',
    "weighted_subtraction of product 1": 'method = "weighted_subtraction"\na = "one"\nb = "two"\nalpha = 1\nbeta = 1',
    "task_arithmetic of mixed signs": (
        'method = "task_arithmetic"\nbase = "one"\nmodels = ["two", "two"]\nweight = [1, -2]\nnormalize = true'
    ),
    "division by a number that is 0": 'formula = "one/z"\nz = 0',
}


@pytest.mark.parametrize("body", UNDEFINED.values(), ids=UNDEFINED)
def test_numbers_without_a_value_are_a_mistake_of_the_mergefile(space: Space, body: str) -> None:
    space.model("one.safetensors", sd15(1))
    space.model("two.safetensors", sd15(2))
    space.write(
        f'[sources]\none = "one.safetensors"\ntwo = "two.safetensors"\n[targets.x]\noutput = "x.safetensors"\n{body}\n'
    )

    assert space.refused("build", code=3).errors == ["undefined"]


def test_the_contracts_first_error_to_the_letter(space: Space) -> None:
    space.write(
        """
        [sources]
        opk = "opk.safetensors"
        merong = "merong.safetensors"







        [targets.orange]

        a = "opk"
        method = "weigted_sum"
        b = "merong"
        alpha = 0.5
        output = "orange.safetensors"
        """
    )

    assert space.run("build", code=3).err == (
        "error[unknown-method]: target `orange` uses unknown method `weigted_sum`\n"
        "  --> mergefile.toml:14:10\n"
        "   |\n"
        '14 | method = "weigted_sum"\n'
        "   |          ^^^^^^^^^^^^^\n"
        "  help: did you mean `weighted_sum`?  `mergebuild methods` shows all\n"
    )


def test_all_mistakes_of_a_file_are_told_in_one_run(space: Space) -> None:
    """Whatever one mistake hides of the rest of its own target, all others are told."""
    space.write(
        """
        [project]
        nmae = "x"
        [sources]
        one = { path = "one.safetensors", sha = "abc" }
        [targets.first]
        method = "weigted_sum"
        a = "one"
        b = "tow"
        alpha = 0.5
        output = "first.sft"
        dtype = "fp16"
        [targets.second]
        method = "weighted_sum"
        a = "one"
        b = "one"
        alpha = "${nix}"
        outptu = "second.safetensors"
        [colours]
        """
    )

    outcome = space.refused("build", code=3)

    assert sorted(outcome.errors) == sorted(
        [
            "unknown-key",
            "unknown-key",
            "unknown-method",
            "unknown-reference",
            "bad-output",
            "bad-value",
            "unknown-variable",
            "unknown-key",
            "unknown-table",
        ]
    )
    lines = [int(error["where"].split(":")[1]) for error in outcome.json["errors"]]
    assert lines == sorted(lines)


def test_selectors_are_all_checked_in_one_run(space: Space) -> None:
    space.model("one.safetensors", sd15(1))
    space.model("two.safetensors", sd15(2))
    space.write(GOOD.replace("0.3", "{ default = 0.3, IN99 = 1, blah = 2, OUT44 = 3 }"))

    assert space.refused("build", code=3).errors == ["selector-matches-nothing"] * 3


def test_an_unknown_layout_says_how_to_declare_one(space: Space) -> None:
    import torch

    for name in ("one", "two"):
        space.model(f"{name}.safetensors", {"conv.weight": torch.ones(4), "head.weight": torch.ones(4)})
    space.write(GOOD.replace("0.3", "{ default = 0.3, IN04 = 1 }"))

    outcome = space.refused("build", code=3)

    assert "[layouts.NAME]" in outcome.json["errors"][0]["help"]


def test_a_file_that_is_not_utf8_is_an_error(space: Space) -> None:
    (space / "mergefile.toml").write_bytes(b'[project]\nname = "caf\xe9"\n')

    outcome = space.refused("build", code=3)

    assert outcome.json["errors"][0]["where"].startswith("mergefile.toml")


def test_a_mergefile_from_windows_is_read(pair: Space) -> None:
    """With a byte order mark and CRLF."""
    text = (pair / "mergefile.toml").read_text()
    (pair / "mergefile.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())

    assert pair.build().verdicts == {"mix": "built"}


def test_mistakes_of_an_included_file_are_placed_there(pair: Space) -> None:
    pair.write('[project]\ninclude = ["parts/more.toml"]\n' + (pair / "mergefile.toml").read_text())
    pair.write('[targets.x]\nmethod = "nope"\n', "parts/more.toml")

    outcome = pair.refused("build", code=3)

    assert outcome.json["errors"][0]["where"] == "parts/more.toml:2:10"


def test_no_mergefile_is_an_error_of_the_mergefile(space: Space) -> None:
    outcome = space.refused("build", code=3)

    assert outcome.errors == ["no-mergefile"]
    assert "mergebuild init" in outcome.json["errors"][0]["help"]


def test_a_mistake_in_set_is_told(pair: Space) -> None:
    """What `--set` names must be there; a value of the wrong kind is an error as in the file."""
    pair.refused("build", "--set", "nope=1", code=2)
    pair.refused("build", "--set", "mix.alfa=1", code=2)
    pair.refused("build", "--set", "mix.alpha=high", code=2)
    pair.refused("build", "--set", "mix.alpha.IN99=0.5", code=3)
