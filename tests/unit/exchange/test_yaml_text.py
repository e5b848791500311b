"""YAML of strangers: what mergekit's loader makes of it, within bounds, and nothing that a tag could construct."""

from __future__ import annotations

from decimal import Decimal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.errors import RecipeError
from mergebuild.exchange.yaml_text import YamlValue, documents


def only(text: str) -> YamlValue:
    (found,) = documents(text, "r.yml")
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", "1e-3"),
        ("1.0e-3", Decimal("0.0010")),
        ("0.30", Decimal("0.30")),
        ("0.1234567890123456789012345678901234567890", Decimal("0.1234567890123456789012345678901234567890")),
        ("1_000", 1000),
        ("010", 8),
        ("1:30", 90),
        ("off", False),
        ("Yes", True),
        ("~", None),
        ("", None),
        ("null", None),
        ("'off'", "off"),
        (".inf", ".inf"),
        ("2024-01-01", "2024-01-01"),
        ("!!str 1", "1"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_1_and_decimals_keep_their_digits(text: str, value: YamlValue) -> None:
    found = only(f"a: {text}")
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert str(found["a"]) == str(value)


def test_aliases_and_merges_mean_what_they_stand_for() -> None:
    text = "a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\nd: {q: 3, <<: [*x, {r: 4}]}\n"
    assert only(text) == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 2},
        "c": {"p": 1, "q": 3},
        "d": {"p": 1, "q": 3, "r": 4},
    }


def test_each_document_is_by_itself() -> None:
    assert documents("a: &x 1\n---\nb: 2\n---\n", "r.yml") == [{"a": 1}, {"b": 2}, None]
    with pytest.raises(RecipeError, match=r"\*x"):
        documents("a: &x 1\n---\nb: *x\n", "r.yml")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON, st.booleans())
def test_what_yaml_writes_is_read(value: object, flow: bool) -> None:
    """For all that JSON has, a text means what PyYAML's safe loader makes of it."""
    text = yaml.safe_dump(value, default_flow_style=flow)
    assert documents(text, "r.yml") == list(yaml.safe_load_all(text))


_BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_BOMB, "more than 200,000 values"),
        ("a: &a {x: 1}\n" + "b: {<<: [" + "*a," * 199_999 + "]}", "more than 200,000 values"),
        ("[" * 3_000_000, "nest"),
        ("- " * 1_000_000, "nests more than 50 deep"),
        ("- 1\n" * 2_000_000, "more than 200,000 values"),
        ("- 1\n" * 2_001, "more than 2,000 items"),
        ("".join(f"k{n}: 1\n" for n in range(2_001)), "more than 2,000 items"),
        ("--- 1\n" * 501, "more than 500 documents"),
        ("&a [*a]", "stands for nothing"),
        ("!!python/object/apply:os.system [touch x]", "only plain values"),
        ("a: !!python/name:os.system x", "only plain values"),
        ("a: !!binary aGk=", "only plain values"),
        ("!own {a: 1}", "only plain values"),
        ("!!set {a, b}", "only plain values"),
        ("!!int x", "a number that none is"),
        ("9" * 5000, "a number that none is, or of thousands of digits"),
        ("? [a]\n: 1", "a key is no text"),
        ("a: &k b\n*k : 2", "a key is an alias"),
        ("{<<: 1}", "no mapping"),
        ("a: \x01", "no valid YAML"),
        ("a: b: c", "no valid YAML"),
        ("a: [1, 2", "no valid YAML"),
    ],
)
def test_what_strangers_try_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        documents(text, "r.yml")


@pytest.mark.parametrize(
    ("text", "mend"), [("a:\n\t- b", "YAML is indented by blanks, never by tabs"), ("a: b: c", "")]
)
def test_a_tab_is_told(text: str, mend: str) -> None:
    with pytest.raises(RecipeError) as caught:
        documents(text, "r.yml")
    assert [each.help for each in caught.value.problems] == [mend]
