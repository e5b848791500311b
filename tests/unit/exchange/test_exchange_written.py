from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.written import decimal_text, text_of
from mergebuild.recipe.loading import recipe_of
from mergebuild.recipe.toml_text import toml_number


def loaded(text: str) -> dict[str, object]:
    return dict(tomli.loads(text, parse_float=toml_number))


def test_a_draft_is_written_as_the_reference_writes_mergefiles() -> None:
    draft = Draft(comments=["from r.yml"])
    a = draft.source(ModelName("xl/a.safetensors [0a1b2c3d]"))
    b = draft.source(ModelName("b", sha256="c" * 64, url="https://models.example/b", comment="fill in"))
    table = {f"IN{k:02}": Decimal("0.30") for k in range(9)}
    draft.target("v4.5 mix", {"method": "weighted_sum", "a": a, "b": b, "alpha": table, "output": "m.safetensors"})
    draft.targets["v4.5-mix"].comments.append("line 1")
    draft.targets["v4.5-mix"].notes["output"] = "as there"
    draft.default.append("v4.5-mix")
    assert (
        text_of(draft)
        == f'''\
# from r.yml

[project]
default = ["v4.5-mix"]

[sources]
a = "xl/a.safetensors"  # AutoV1 0a1b2c3d
b = {{ path = "b", sha256 = "{"c" * 64}", url = "https://models.example/b" }}  # fill in

[targets."v4.5-mix"]
# line 1
method = "weighted_sum"
a = "a"
b = "b"
output = "m.safetensors"  # as there
[targets."v4.5-mix".alpha]
IN00 = 0.30
IN01 = 0.30
IN02 = 0.30
IN03 = 0.30
IN04 = 0.30
IN05 = 0.30
IN06 = 0.30
IN07 = 0.30
IN08 = 0.30
'''
    )


@given(st.text(), st.text(), st.text(), st.text())
def test_no_text_ends_its_string_or_its_comment(name: str, path: str, comment: str, selector: str) -> None:
    """Whatever a recipe holds, what is written has its tables and keys, and loads."""
    draft = Draft()
    draft.comments.append(comment)
    source = draft.source(ModelName(path, comment=comment))
    target = draft.target(name, {"method": "copy", "a": source, "drop": [f"re:{selector}"]})
    draft.targets[target].comments.append(comment)
    draft.targets[target].notes["a"] = comment
    found = loaded(text_of(draft))
    assert set(found) - {"vars"} == {"sources", "targets"}
    assert list(found["targets"]) == [target]
    assert list(found["sources"]) == [source]
    assert set(found["targets"][target]) == {"method", "a", "drop"}  # type: ignore[index]


@pytest.mark.parametrize("text", ["${m}", "a${b", "$${x}", "${", "$", "x${dollar}{"])
def test_a_variable_of_a_stranger_is_text(text: str) -> None:
    draft = Draft()
    draft.target("t", {"formula": "x", "output": "o.safetensors", "drop": [f"*{text}*"]})
    a = draft.source(ModelName("a.safetensors"))
    draft.targets["t"].keys = {"method": "copy", "a": a, "drop": [f"*{text}*"]}
    target = recipe_of(loaded(text_of(draft)), Path("/p")).target("t")
    assert target.drop[0].text == f"*{text}*"


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**300), max_value=10**300))
def test_a_number_is_written_with_the_value_that_it_has(number: Decimal) -> None:
    assert Fraction(tomli.loads(f"x = {decimal_text(number)}", parse_float=Decimal)["x"]) == Fraction(number)


@pytest.mark.parametrize(
    ("number", "text"),
    [("1E-3", "0.001"), ("0.30", "0.30"), ("1E+2", "100"), ("-0", "-0"), ("1.5E-70", "1.5e-70"), ("2E+90", "2e90")],
)
def test_numbers_have_no_exponent_where_they_need_none(number: str, text: str) -> None:
    assert decimal_text(Decimal(number)) == text


def test_what_is_no_number_is_not_written() -> None:
    with pytest.raises(ValueError, match="no number"):
        decimal_text(Decimal("NaN"))
