"""A user's own method: from its Python file to the output, and what is never run, or reported where it fails."""

from __future__ import annotations

import os
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from model_files import same_bits
from project_space import Space
from tiny_models import INTEGERS, NAMES, block_names, sd15

from mergebuild.build.options import BuilderOptions

MERGEFILE = """
[sources]
one = "one.safetensors"
two = "two.safetensors"

[methods.my_blend]
file = "methods/my_blend.py"
inputs = ["a", "b"]
formula = "a + alpha (b - a)"
summary = "A blend of our own."
exact = true
[methods.my_blend.parameters]
alpha = {}
gamma = 1

[targets.mix]
method = "my_blend"
a = "one"
b = "two"
alpha = { default = 0.3, IN04 = 0.2 }
output = "mix.safetensors"

[targets.plain]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.5
output = "plain.safetensors"
"""

PROGRAM = """
from mergebuild.kernels import Kernel, lerp


def blend(call, chunks, start, state):
    a, b = chunks
    return lerp(a, b, call.number("alpha") * call.number("gamma"))


KERNELS = {"my_blend": Kernel(blend)}
"""

SCALED = """
from __future__ import annotations

from dataclasses import dataclass, field

from mergebuild.kernels import Kernel, Statistic, Sum, float32_of


@dataclass
class Account:
    sums: list[Sum] = field(default_factory=lambda: [Sum(), Sum()])


def look(call, account, chunks, start):
    for total, chunk in zip(account.sums, chunks):
        total.add(chunk.abs_())  # the chunk is this program's own


def end(call, account):
    return tuple(total.value() for total in account.sums)


def blend(call, chunks, start, state):
    a, b = chunks
    share = float32_of(call.number("alpha")) * state[0] / (state[0] + state[1])
    return a.mul_(1 - share).add_(b.mul_(share))


KERNELS = {"my_blend": Kernel(blend, Statistic("sizes", lambda call, inputs: Account(), look, end))}
"""


@pytest.fixture
def project(space: Space) -> Space:
    """A project with a method of its own, not trusted yet."""
    for seed, name in enumerate(("one", "two"), 1):
        space.model(f"{name}.safetensors", sd15(seed))
    space.write(MERGEFILE)
    space.write(PROGRAM, "methods/my_blend.py")
    return space


@pytest.fixture
def trusted(project: Space) -> Space:
    project.run("trust")
    return project


def replace(space: Space, program: str) -> None:
    """Write another program, and trust it."""
    space.write(program, "methods/my_blend.py")
    space.run("trust")


def test_it_works_like_any_other_method(trusted: Space) -> None:
    """A number per tensor, a default, one rounding, integers from the first input."""
    built = trusted.build("mix")
    found, one, two = (trusted.read(f"{name}.safetensors") for name in ("mix", "one", "two"))
    fourth = set(block_names("IN04"))
    for name in NAMES:
        a, b = one[name].float(), two[name].float()
        expected = a + torch.tensor(0.2 if name in fourth else 0.3) * (b - a)
        assert same_bits(found[name], expected.to(found[name].dtype)), name
    assert same_bits(found[INTEGERS], one[INTEGERS])
    assert built["mix"]["tensors_computed"] == len(NAMES)
    assert trusted.build("mix").verdicts == {"mix": "up-to-date"}


def test_a_number_of_one_block_costs_that_block(trusted: Space) -> None:
    trusted.build("mix")
    trusted.edit("IN04 = 0.2", "IN04 = 0.1")
    assert trusted.build("mix")["mix"]["tensors_computed"] == len(block_names("IN04"))


def test_another_text_rebuilds_just_what_uses_it(trusted: Space) -> None:
    """`why` says so; a touch costs nothing, and the former text brings the former file back without arithmetic."""
    trusted.build()
    before = trusted.bytes("mix.safetensors")
    path = trusted / "methods/my_blend.py"
    trusted.settle()
    os.utime(path)
    assert trusted.build().verdicts == {"mix": "up-to-date", "plain": "up-to-date"}
    replace(trusted, PROGRAM.replace('number("gamma")', 'number("gamma") / 2'))
    assert "program methods/my_blend.py: contents changed" in trusted.run("why", "mix").out
    built = trusted.build()
    assert built.verdicts == {"mix": "built", "plain": "up-to-date"}
    assert built["mix"]["tensors_computed"] == len(NAMES)
    assert trusted.bytes("mix.safetensors") != before
    replace(trusted, PROGRAM)
    assert trusted.build().verdicts == {"mix": "restored", "plain": "up-to-date"}
    assert trusted.bytes("mix.safetensors") == before


def test_nothing_of_it_runs_before_it_is_trusted(project: Space) -> None:
    """Neither by looking, nor by a build, which ends with 10 and writes nothing; what needs no code is built."""
    project.write(f"from pathlib import Path\nPath('ran').touch()\n{dedent(PROGRAM)}", "methods/my_blend.py")
    before = project.tree()
    assert project.plan(code=10)["mix"]["verdict"] == "blocked"
    for command in ("status", "list", "methods", "graph"):
        project.run(command)
    for command in ("why", "lineage"):
        project.run(command, "mix")
    outcome = project.run("build", "--json", code=10)
    assert outcome.errors == ["not-trusted"]
    assert "methods/my_blend.py" in outcome.err
    assert "mergebuild trust" in outcome.json["errors"][0]["help"]
    assert project.tree() == before
    assert project.build("plain").verdicts == {"plain": "built"}
    assert project.run("build", "mix", "-o", "else.safetensors", code=10)
    assert not (project / "ran").exists()
    assert project.json("trust") == {"ok": True, "trusted": ["methods/my_blend.py"]}
    assert not (project / "ran").exists()
    project.build("mix")
    assert (project / "ran").exists()


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [("lerp(a, b", "lerp(b, a", "methods/my_blend.py"), ("gamma = 1", "gamma = 2", "mergefile.toml")],
)
def test_trust_is_void_when_the_code_or_its_table_changes(trusted: Space, before: str, after: str, name: str) -> None:
    trusted.build("mix")
    trusted.edit(before, after, name)
    assert trusted.run("build", "--json", code=10).errors == ["not-trusted"]
    trusted.run("trust")
    assert trusted.build("mix").verdicts == {"mix": "built"}


def test_trust_holds_when_other_things_change(trusted: Space) -> None:
    trusted.edit("default = 0.3", "default = 0.4")
    trusted.build("mix")


def test_verify_rebuilds_only_what_is_trusted(trusted: Space) -> None:
    trusted.build("mix")
    trusted.run("verify", "--rebuild")
    trusted.edit("a, b = chunks", "a, b = chunks  #", "methods/my_blend.py")
    trusted.run("verify")
    assert trusted.run("verify", "--rebuild", "--json", code=10).errors == ["not-trusted"]


@pytest.mark.parametrize("program", [PROGRAM, SCALED], ids=["elementwise", "with a statistic"])
def test_chunks_and_threads_change_no_byte(trusted: Space, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the work is cut; a program may change the chunks that it gets."""
    replace(trusted, program)
    trusted.build("mix")
    expected, sources = trusted.bytes("mix.safetensors"), trusted.bytes("one.safetensors")
    options = BuilderOptions
    for chunk, threads in ((64, 1), (1000, 3)):

        def cut(*args: Any, chunk: int = chunk, **kwargs: Any) -> Any:
            return options(*args, **{**kwargs, "chunk": chunk})

        monkeypatch.setattr("mergebuild.build.options.BuilderOptions", cut)
        trusted.run("clean", "--yes")
        trusted.run("gc", "--max-size", "0")
        assert trusted.build("mix", "-j", str(threads)).verdicts == {"mix": "built"}
        assert trusted.bytes("mix.safetensors") == expected
    assert trusted.bytes("one.safetensors") == sources


def test_a_statistic_of_another_text_is_taken_anew(trusted: Space) -> None:
    """Though it has the same name, of the same tensors."""
    replace(trusted, SCALED)
    trusted.build("mix")
    before = trusted.bytes("mix.safetensors")
    replace(trusted, SCALED.replace("total.value()", "total.value() + 1000 * len(call.tensor)"))
    assert trusted.build("mix").verdicts == {"mix": "built"}
    assert trusted.bytes("mix.safetensors") != before


def test_it_stands_in_rules_and_between_others(trusted: Space) -> None:
    """A virtual target of it is read unrounded, and needs trust as well."""
    trusted.write(
        MERGEFILE.replace('output = "mix.safetensors"', "")
        + """
        [targets.last]
        method = "weighted_sum"
        a = "mix"
        b = "two"
        alpha = 0
        output = "last.safetensors"
        [[targets.last.rules]]
        tensors = ["IN05"]
        method = "my_blend"
        a = "mix"
        b = "two"
        alpha = 1
        """
    )
    trusted.build("last")
    found, one, two = (trusted.read(f"{name}.safetensors") for name in ("last", "one", "two"))
    for name in NAMES:
        a, b = one[name].float(), two[name].float()
        share = 1 if name in block_names("IN05") else 0.2 if name in block_names("IN04") else 0.3
        expected = b if share == 1 else a + torch.tensor(share) * (b - a)
        assert same_bits(found[name], expected.to(found[name].dtype)), name
    trusted.edit("a, b = chunks", "b, a = chunks", "methods/my_blend.py")
    assert trusted.run("build", "last", "--json", code=10).errors == ["not-trusted"]


@pytest.mark.parametrize(
    ("before", "after", "where", "said"),
    [
        ("a, b = chunks", "a, b, c = chunks", ":5:5", "ValueError: not enough values"),
        ("a, b = chunks", "a, b = chunks; 1 / 0", ":5:5", "ZeroDivisionError"),
        ("a, b = chunks", "raise SystemExit(0)", ":5:5", "SystemExit"),
        ("return lerp(a, b,", "return lerp(a.double(), b.double(),", ":4:1", "returned float64"),
        ("return lerp(a, b,", "return lerp(a[1:], b[1:],", ":4:1", "returned float32 ["),
        ("return lerp(a, b,", "return str(", ":4:1", "returned a str"),
        ("return lerp(a, b,", "return a.to('meta') or (", ":6:5", "Error"),
        ("def blend", "dex blend", ":4:1", "SyntaxError"),
        ("from mergebuild.kernels import Kernel", "import no_such_module", ":1:1", "ModuleNotFoundError"),
        ("KERNELS =", "OTHERS =", "", "defines no `KERNELS`"),
        ('{"my_blend"', '{"other"', "", 'KERNELS["my_blend"]` is nothing'),
        ("Kernel(blend)", "blend", "", "is a function"),
        ("Kernel(blend)", "Kernel(blend, grain='row')", "", "no `Grain`"),
        ("Kernel(blend)", "Kernel(blend, statistic=3)", "", "no `Statistic`"),
        ('"alpha")', '"beta")', ":6:5", "KeyError"),
    ],
)
def test_what_is_wrong_with_it_is_told_by_file_and_line(
    trusted: Space, before: str, after: str, where: str, said: str
) -> None:
    """Of that target alone; nothing of it is written, and others are built."""
    replace(trusted, PROGRAM.replace(before, after))
    outcome = trusted.run("build", "-k", "--json", code=1)
    verdicts = {each["target"]: each for each in outcome.json["targets"]}
    assert verdicts["plain"]["verdict"] == "built"
    error = verdicts["mix"]["error"]
    assert (verdicts["mix"]["verdict"], error["code"]) == ("failed", "program-failed")
    assert error["where"].removesuffix(where) == "methods/my_blend.py"
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert not (trusted / "mix.safetensors").exists()


def test_a_statistic_that_fails_is_told_too(trusted: Space) -> None:
    replace(trusted, SCALED.replace("return tuple(", "return 1 / 0, tuple("))
    (failed,) = trusted.run("build", "mix", "--json", code=1).json["targets"]
    assert failed["error"]["where"] == "methods/my_blend.py:19:5"


def test_a_statistic_sees_the_parameters_that_it_names(trusted: Space) -> None:
    """What it finds is kept by these alone, so that it may depend on no other."""
    program = SCALED.replace("total.value()", 'total.value() + float(call.number("gamma"))')
    replace(trusted, program)
    (failed,) = trusted.run("build", "mix", "--json", code=1).json["targets"]
    assert failed["error"]["rows"][0].startswith("KeyError: 'gamma'")
    replace(trusted, program.replace("look, end)", 'look, end, arguments=("gamma",))'))
    assert trusted.build("mix").verdicts == {"mix": "built"}


def test_its_own_word_that_there_is_no_value_is_none_of_a_failure(trusted: Space) -> None:
    program = PROGRAM.replace("import Kernel", "import UndefinedError, Kernel")
    replace(trusted, program.replace("a, b = chunks", 'raise UndefinedError("not for these")'))
    (failed,) = trusted.run("build", "mix", "--json", code=1).json["targets"]
    assert failed["error"]["code"] == "undefined"


def test_what_needs_a_tensor_whole_says_how_much_memory(trusted: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own word, or twice its inputs and the result; a word that fails is told."""
    monkeypatch.setattr("mergebuild.system.platform.memory_bytes", lambda: 1000)
    whole = PROGRAM.replace("import Kernel", "import Grain, Kernel")
    for grain, code in (
        ("grain=Grain.TENSOR", "too-large"),
        ("grain=Grain.TENSOR, working_set=lambda call, inputs: 1001", "too-large"),
        ("grain=Grain.TENSOR, working_set=lambda call, inputs: 1 / 0", "program-failed"),
    ):
        replace(trusted, whole.replace("Kernel(blend)", f"Kernel(blend, {grain})"))
        (failed,) = trusted.run("build", "mix", "--json", code=1).json["targets"]
        assert failed["error"]["code"] == code
    replace(trusted, whole.replace("Kernel(blend)", "Kernel(blend, grain=Grain.TENSOR, working_set=lambda *_: 1)"))
    assert trusted.build("mix").verdicts == {"mix": "built"}


def test_what_it_prints_is_no_answer(trusted: Space) -> None:
    """Of one document on stdout."""
    replace(trusted, PROGRAM.replace("a, b = chunks", 'a, b = chunks; print("here")'))
    outcome = trusted.run("build", "mix", "--json")
    assert outcome.json["ok"]
    assert "here" in outcome.err


def test_the_text_that_was_read_is_the_text_that_runs(trusted: Space) -> None:
    """Not what the file holds by then."""
    from mergebuild.project.project import load

    project = load(trusted / "mergefile.toml")
    trusted.write(PROGRAM.replace("a, b = chunks", "b, a = chunks"), "methods/my_blend.py")
    assert project.build(["mix"]).ok
    one, two, found = (trusted.read(f"{name}.safetensors")[NAMES[0]] for name in ("one", "two", "mix"))
    share = 0.2 if NAMES[0] in block_names("IN04") else 0.3
    assert same_bits(found, (one.float() + torch.tensor(share) * (two.float() - one.float())).to(found.dtype))
    assert trusted.run("build", "mix", "--json", code=10).errors == ["not-trusted"]


def test_equal_tensors_of_two_names_are_two_tensors_to_a_program(trusted: Space) -> None:
    """It knows the name, and may make something of it."""
    first, second = "model.diffusion_model.out.0.weight", "model.diffusion_model.out.2.weight"
    for name in ("one", "two"):
        trusted.model(f"{name}.safetensors", {first: torch.ones(3), second: torch.ones(3)})
    trusted.edit("{ default = 0.3, IN04 = 0.2 }", "0.3")
    replace(trusted, PROGRAM.replace("return lerp(", "return a * (1 + ('0' in call.tensor)) + 0 * lerp("))
    trusted.build("mix")
    found = trusted.read("mix.safetensors")
    assert found[first].tolist() == [2.0] * 3
    assert found[second].tolist() == [1.0] * 3


def test_it_is_listed_with_the_catalog(project: Space) -> None:
    """From the text alone; a mergefile that is wrong elsewhere hides the catalog from nobody."""
    listed = project.json("methods")["methods"]
    assert listed[-1]["name"] == "my_blend"
    shown = project.run("methods", "my_blend").out
    assert "A blend of our own." in shown
    assert "file: methods/my_blend.py" in shown
    assert project.json("methods", "my_blend")["parameters"][1]["default"] == "1"
    project.edit('method = "my_blend"', 'method = "my_bland"')
    outcome = project.run("plan", code=3)
    assert "did you mean `my_blend`?" in outcome.err
    assert project.run("methods", "my_blend").out == shown
    project.write("[sources")
    project.run("methods", "ties")
    project.run("methods", "my_blend", code=2)
    project.run("methods", "my_blend", "-f", "mergefile.toml", code=3)


def test_the_documentations_example_builds(project: Space) -> None:
    """As the page has it, but for the names of the sources."""
    page = (Path(__file__).parents[2] / "docs/mergefile.md").read_text(encoding="utf-8")
    (text,) = [each for each in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[methods." in each]
    ((name, program),) = re.findall(r"```python\n# (\S+)\n(.*?)```", page, re.DOTALL)
    project.write('[sources]\nopk = "one.safetensors"\nmerong = "two.safetensors"\n' + text)
    project.write(program, name)
    project.run("trust")
    assert project.build()["lean"]["tensors_computed"] == len(NAMES)


def test_a_missing_file_is_a_mistake_of_the_mergefile(project: Space) -> None:
    (project / "methods/my_blend.py").unlink()
    outcome = project.run("plan", "--json", code=3)
    assert outcome.errors == ["no-program"]
