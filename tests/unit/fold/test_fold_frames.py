"""Shapes matter where they are used: what the numbers take from one input alone is not held against the others."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from lab import Lab
from test_fold_folder import error_of, folder_of
from torch import Tensor

from mergebuild.errors import MismatchError

TWO = '[targets.t]\nmethod = "{method}"\na = "p"\nb = "q"\n{numbers}\noutput = "t.safetensors"\n'
MODELS = '[targets.t]\nmethod = "{method}"\nmodels = ["p", "q"]\n{numbers}\noutput = "t.safetensors"\n'
BASED = '[targets.t]\nmethod = "{method}"\nbase = "p"\nmodels = ["r", "q"]\n{numbers}\noutput = "t.safetensors"\n'
FORMULA = '[targets.t]\nformula = "p*x + q*(1-x)"\n{numbers}\noutput = "t.safetensors"\n'
RULE = '[[targets.t.rules]]\ntensors = ["head"]\n{}\n'


@pytest.fixture
def rows(lab: Lab) -> Lab:
    """Two models whose heads have 3 and 5 rows, and one like the first."""
    lab.model("p", w=torch.arange(4.0), head=torch.arange(6.0).view(3, 2))
    lab.model("q", w=torch.arange(4.0) + 4, head=torch.arange(10.0).view(5, 2) + 100)
    lab.model("r", w=torch.arange(4.0) * 3, head=torch.arange(6.0).view(3, 2) * 2)
    return lab


ONE_ALONE = [
    # the target, which model the head is, the factor
    (TWO.format(method="weighted_sum", numbers="alpha = { default = 0.5, head = 0 }"), "p", 1),
    (TWO.format(method="weighted_sum", numbers="alpha = { default = 0.5, head = 1 }"), "q", 1),
    (TWO.format(method="weighted_sum", numbers="alpha = { w = 0.5 }"), "p", 1),
    (TWO.format(method="weighted_sum", numbers='alpha = 0.5\nmerge = ["w"]'), "p", 1),
    (TWO.format(method="slerp", numbers="t = { default = 0.5, head = 0 }"), "p", 1),
    (TWO.format(method="slerp", numbers="t = { default = 0.5, head = 1 }"), "q", 1),
    (TWO.format(method="nearswap", numbers="t = { default = 0.5, head = 0 }"), "p", 1),
    (MODELS.format(method="linear", numbers="weight = [1, { default = 1, head = 0 }]"), "p", 1),
    (MODELS.format(method="linear", numbers="weight = [{ default = 1, head = 0 }, 1]"), "q", 1),
    (MODELS.format(method="linear", numbers="weight = [{ default = 1, head = 0 }, 2]\nnormalize = false"), "q", 2),
    (BASED.format(method="ties", numbers="weight = { default = 1, head = 0 }"), "p", 1),
    (BASED.format(method="ties", numbers="weight = 1\nlambda = { default = 1, head = 0 }"), "p", 1),
    (FORMULA.format(numbers="x = { default = 0.5, head = 0 }"), "q", 1),
    (FORMULA.format(numbers="x = { default = 0.5, head = 1 }"), "p", 1),
    (TWO.format(method="weighted_sum", numbers="alpha = 0.5") + RULE.format('method = "copy"'), "p", 1),
    (TWO.format(method="weighted_sum", numbers="alpha = 0.5") + RULE.format("alpha = 0"), "p", 1),
    (TWO.format(method="weighted_sum", numbers="alpha = 0.5") + RULE.format("alpha = 1"), "q", 1),
    (TWO.format(method="slerp", numbers="t = 0.5") + RULE.format('method = "weighted_sum"\nalpha = 1'), "q", 1),
]


@pytest.mark.parametrize(("text", "owner", "factor"), ONE_ALONE)
def test_a_tensor_of_one_input_may_have_any_shape_in_the_others(rows: Lab, text: str, owner: str, factor: int) -> None:
    """It is that input's, in its shape; all else is merged as ever."""
    rows.write(text)
    (found,) = rows.build().targets
    made, whole = rows.read("t.safetensors"), rows.read(f"{owner}.safetensors")
    assert torch.equal(made["head"], whole["head"] * factor)
    assert made["w"].shape == (4,)
    assert found.notices == ()
    assert rows.verdicts() == {"t": "up-to-date"}


@pytest.mark.parametrize(
    "text", [each[0].replace("head = 0", "head = 0.5").replace("head = 1", "head = 0.5") for each in ONE_ALONE[:2]]
)
def test_where_both_are_used_they_must_agree(rows: Lab, text: str) -> None:
    """And the help has a table for the numbers that does it."""
    error = error_of(rows, text)
    assert isinstance(error, MismatchError)
    (problem,) = error.problems
    assert problem.code == "shape-mismatch"
    assert [row.split()[0] for row in problem.rows] == ["p", "q"]
    assert '"head" = 0 }`' in (problem.help or "")


def test_the_table_that_the_help_writes_out_builds(rows: Lab) -> None:
    text = TWO.format(method="weighted_sum", numbers="alpha = 0.25")
    (problem,) = error_of(rows, text).problems
    assert problem.help == 'take such tensors from one input only: `alpha = { default = 0.25, "head" = 0 }`'
    rows.write(text.replace("alpha = 0.25", problem.help.split("`")[1]))
    assert rows.build().ok


def test_only_the_inputs_that_are_used_must_agree(rows: Lab) -> None:
    """Of three, the two that are, whichever the first one's shape is; another stands in for the one that is not."""
    rows.model("s", w=torch.ones(4), head=torch.ones(5, 2))
    for method, numbers in (
        ("ties", "weight = [1, { default = 1, head = 0 }]"),
        ("multislerp", "weight = [1, { default = 1, head = 0 }]"),
        ("task_arithmetic", "weight = [0.5, { default = 1, head = 0 }]"),
    ):
        rows.write(BASED.format(method=method, numbers=numbers))
        assert rows.build().ok, method
        with_all = rows.read("t.safetensors")
        rows.write(BASED.format(method=method, numbers=numbers).replace('"r", "q"', '"r", "p"'))
        rows.build()
        assert torch.equal(with_all["head"], rows.read("t.safetensors")["head"]), method
    text = '[targets.t]\nformula = "x*p + y*q + (1 - x - y)*s"\n{}\noutput = "t.safetensors"\n'
    rows.write(text.format("x = { default = 0.5, head = 0 }\ny = 0.25"))
    assert rows.build().ok
    q, s = rows.read("q.safetensors")["head"], rows.read("s.safetensors")["head"]
    assert torch.allclose(rows.read("t.safetensors")["head"], 0.25 * q + 0.75 * s)


def test_an_input_that_is_not_used_need_not_have_the_tensor(rows: Lab) -> None:
    """Its number is 0 there: the others are merged, and nothing is said."""
    rows.model("few", w=torch.ones(4))
    rows.write(
        '[targets.t]\nmethod = "linear"\nmodels = ["p", "r", "few"]\n'
        'weight = [1, 1, { default = 1, head = 0 }]\noutput = "t.safetensors"\n'
    )
    (found,) = rows.build().targets
    assert found.notices == ()
    p, r = rows.read("p.safetensors")["head"], rows.read("r.safetensors")["head"]
    assert torch.allclose(rows.read("t.safetensors")["head"], (p + r) / 2)


def test_through_virtual_targets_a_shape_is_that_of_what_was_taken(rows: Lab) -> None:
    """The virtual one has the second input's head, and merges with its like."""
    rows.write(
        '[targets.v]\nmethod = "weighted_sum"\na = "p"\nb = "q"\nalpha = { default = 0.5, head = 1 }\n'
        '[targets.t]\nmethod = "weighted_sum"\na = "v"\nb = "q"\nalpha = 0.5\noutput = "t.safetensors"\n'
        '[targets.u]\nmethod = "slerp"\na = "v"\nb = "q"\nt = 0.5\noutput = "u.safetensors"\n'
    )
    assert rows.build().ok
    for name in ("t", "u"):
        assert torch.allclose(rows.read(f"{name}.safetensors")["head"], rows.read("q.safetensors")["head"])


def test_members_with_the_number_0_and_without_are_each_what_they_are_alone(rows: Lab) -> None:
    """One is refused, as its number needs both shapes; the others share what they have in common."""
    text = TWO.format(method="weighted_sum", numbers='alpha = { default = "${x}", head = "${h}" }')
    family = text.replace("[targets.t]", "[targets.t]\nforeach.x = [0.25, 0.5]\nforeach.h = [0, 1, 0.5]").replace(
        "t.safetensors", "${x}-${h}.safetensors"
    )
    rows.write(family)
    together = folder_of(rows.root, (rows / "mergefile.toml").read_text())
    for x in ("0.25", "0.5"):
        for h, shape in (("0", (3, 2)), ("1", (5, 2))):
            found = together.blueprint(f"t@x={x},h={h}")
            assert found.specs["head"].shape == shape
            assert len(found.forms["head"].terms) == 1
            assert dict(found.forms["w"].terms).keys()
        with pytest.raises(MismatchError):
            together.blueprint(f"t@x={x},h=0.5")
    one, other = (together.blueprint(f"t@x={x},h=0") for x in ("0.25", "0.5"))
    assert one.forms.kinds is other.forms.kinds
    assert one.specs is other.specs
    assert one.forms["w"] != other.forms["w"]
    assert {share for _, share in other.forms["w"].terms} == {Fraction(1, 2)}


def test_a_rank_of_0_leaves_a_layer_out_whatever_its_shape(lab: Lab) -> None:
    def model(rows: int) -> dict[str, Tensor]:
        return {"model.layers.0.mlp.up_proj.weight": torch.randn(6, 4), "lm_head.weight": torch.randn(rows, 4)} | {
            f"model.layers.{number}.self_attn.q_proj.weight": torch.randn(4, 4) for number in range(2)
        }

    lab.model("base", **model(8))
    lab.model("tuned", **model(9))
    text = '[targets.x]\nmethod = "extract_lora"\nbase = "base"\na = "tuned"\nrank = {}\noutput = "x.safetensors"\n'
    assert error_of(lab, text.format("2")).problems[0].code == "shape-mismatch"
    lab.write(text.format('{ default = 2, "lm_head.weight" = 0 }'))
    assert lab.build().ok
    assert not any("lm_head" in name for name in lab.read("x.safetensors"))
