from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mergebuild.recipe.expression import ExpressionError, Name, evaluate, names, parse
from mergebuild.recipe.formula import parse_formula
from mergebuild.recipe.variables import Scalar, VariableError, render

small = st.integers(min_value=0, max_value=20).map(lambda number: Fraction(number, 4))
VALUES: Mapping[str, Fraction] = {"x": Fraction(3, 10), "y": Fraction(-2), "odd name": Fraction(5)}


def value_of(text: str) -> Fraction:
    return evaluate(parse(text), lambda name: VALUES[name.name])


@st.composite
def arithmetic(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """Draw a text and its value, computed beside it."""
    kind = draw(st.sampled_from(["number", "name", "sum", "product", "minus", "brackets"])) if depth else "number"
    if kind == "number":
        number = draw(small)
        return f"{float(number)}", number
    if kind == "name":
        name = draw(st.sampled_from(["x", "y"]))
        return name, VALUES[name]
    text, value = draw(arithmetic(depth - 1))
    if kind == "minus":
        return f"-({text})", -value
    if kind == "brackets":
        return f" ( {text} ) ", value
    other_text, other = draw(arithmetic(depth - 1))
    sign = draw(st.sampled_from("+-" if kind == "sum" else "*/"))
    assume(sign != "/" or other != 0)
    result = {"+": value + other, "-": value - other, "*": value * other}.get(sign)
    return f"({text}){sign}({other_text})", value / other if result is None else result


@given(arithmetic())
def test_an_expression_has_the_exact_value_of_its_text(drawn: tuple[str, Fraction]) -> None:
    text, value = drawn
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 - 2 - 3", -4), ("8/2/2", 2), ("2+3*4", 14), ("-2*-3", 6),
     ("1--x", Fraction(13, 10)),
     ("'odd name'/2", Fraction(5, 2)), ('"odd name"', 5), (".5", Fraction(1, 2)), ("1e-1 + 2E1", Fraction("20.1")),
     ("+x", Fraction(3, 10))],
)  # fmt: skip
def test_signs_bind_as_on_paper(text: str, value: Fraction | int) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "message", "start", "end"),
    [
        ("1 +", "expected a number or a name at the end", 2, 3),
        ("", "expected a number or a name at the end", 0, 1),
        ("(1", "expected `)` at the end", 1, 2),
        ("1)", "expected an operator, found `)`", 1, 2),
        ("2 x", "expected an operator, found `x`", 2, 3),
        ("2 'a b'", "expected an operator, found `'a b'`", 2, 7),
        ("x^2", "`^` has no meaning here", 1, 2),
        ("x * *", "expected a number or a name, found `*`", 4, 5),
        ("0,5", "`,` has no meaning here", 1, 2),
        ("1e9999", "`1e9999` is beyond 1e-1000 to 1e1000", 0, 6),
        ("(" * 60 + "1" + ")" * 60, "parentheses and signs nest more than 50 deep", 51, 52),
    ],
)
def test_a_mistake_is_shown_where_it_is(text: str, message: str, start: int, end: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert (str(caught.value), caught.value.start, caught.value.end) == (message, start, end)


def test_a_long_sum_is_no_deep_one() -> None:
    assert value_of(" + ".join(["x"] * 5000)) == 1500
    assert len(names(parse("*".join(["x"] * 5000)))) == 5000


@given(st.text(max_size=30))
def test_any_text_is_an_expression_or_a_mistake_with_a_place(text: str) -> None:
    place = (0, 1)
    try:
        parse(text)
    except ExpressionError as error:
        place = (error.start, error.end)
    assert 0 <= place[0] < place[1] <= max(len(text), 1)


# -- formulas


def refer(name: Name) -> str:
    return {"a": "a", "b": "b", "c": "c", "m@x=0.3": "m@x=0.3", "m@x=0.30": "m@x=0.3"}[name.name]


@st.composite
def linear(draw: st.DrawFn, depth: int = 3) -> tuple[str, dict[str, Fraction]]:
    """Draw a formula over a, b, c with the numbers x, y, and its coefficients, computed beside it."""
    kind = draw(st.sampled_from(["model", "sum", "times", "over", "minus"])) if depth else "model"
    if kind == "model":
        name = draw(st.sampled_from("abc"))
        return name, {name: Fraction(1)}
    text, found = draw(linear(depth - 1))
    if kind == "minus":
        return f"-({text})", {name: -value for name, value in found.items()}
    if kind == "sum":
        other_text, other = draw(linear(depth - 1))
        sign = draw(st.sampled_from([1, -1]))
        total = {name: found.get(name, Fraction(0)) + sign * other.get(name, Fraction(0)) for name in (*found, *other)}
        return f"({text}){'+' if sign > 0 else '-'}({other_text})", total
    number_text, number = draw(arithmetic(2))
    assume(kind == "times" or number != 0)
    if kind == "times":
        first = draw(st.booleans())
        product = f"({number_text})*({text})" if first else f"({text})*({number_text})"
        return product, {name: value * number for name, value in found.items()}
    return f"({text})/({number_text})", {name: value / number for name, value in found.items()}


@given(linear())
def test_a_formula_has_the_exact_coefficients_of_its_text(drawn: tuple[str, dict[str, Fraction]]) -> None:
    text, expected = drawn
    formula = parse_formula(text, ["x", "y"], refer)
    found = dict(zip(formula.models, formula.coefficients(VALUES), strict=True))
    assert found == expected


@given(linear(), linear(), small, small)
def test_a_formula_is_linear(
    one: tuple[str, dict[str, Fraction]], other: tuple[str, dict[str, Fraction]], p: Fraction, q: Fraction
) -> None:
    """The coefficients of p*F + q*G are p times those of F plus q times those of G."""

    def coefficients(text: str) -> dict[str, Fraction]:
        formula = parse_formula(text, ["x", "y"], refer)
        return dict(zip(formula.models, formula.coefficients(VALUES), strict=True))

    both = coefficients(f"{float(p)}*({one[0]}) + {float(q)}*({other[0]})")
    first, second = coefficients(one[0]), coefficients(other[0])
    for model in both:
        assert both[model] == p * first.get(model, Fraction(0)) + q * second.get(model, Fraction(0))


def test_models_stand_in_order_of_first_appearance_and_spellings_of_a_member_are_one() -> None:
    formula = parse_formula("0.5*c + x*('m@x=0.30' - a) + 'm@x=0.3'/2 + c", ["x", "y"], refer)
    assert formula.models == ("c", "m@x=0.3", "a")
    assert formula.numbers == ("x",)
    assert formula.coefficients({"x": Fraction(1, 10)}) == (Fraction(3, 2), Fraction(6, 10), Fraction(-1, 10))


def test_a_divisor_of_0_is_known_only_with_the_numbers() -> None:
    formula = parse_formula("a/(x - 1)", ["x"], refer)
    assert formula.coefficients({"x": Fraction(3)}) == (Fraction(1, 2),)
    with pytest.raises(ZeroDivisionError):
        formula.coefficients({"x": Fraction(1)})


@pytest.mark.parametrize(
    ("text", "message", "start", "end"),
    [
        ("a*b", "a model is multiplied by a model", 2, 3),
        ("x*a*(b+c)", "a model is multiplied by a model", 5, 8),
        ("1/a", "division by a model", 2, 3),
        ("a + 1", "a number is added to a model", 4, 5),
        ("x + a - b", "a number is added to a model", 0, 1),
        ("x*(1 - a)", "a number is added to a model", 3, 4),
        ("2*x", "a formula names at least one model, and every term of it has one", 0, 3),
    ],
)
def test_what_is_not_linear_in_the_models_is_refused_where_it_stands(
    text: str, message: str, start: int, end: int
) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_formula(text, ["x"], refer)
    assert (str(caught.value), caught.value.start, caught.value.end) == (message, start, end)


# -- variables in strings

SCOPE: Mapping[str, Scalar | None] = {
    "m": Fraction(3, 10), "one": Fraction(1), "name": "opk", "yes": True, "models-dir": "big", "third": Fraction(1, 3),
    "lost": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${m}", Fraction(3, 10)),
        ("${ m }", Fraction(3, 10)),
        ("${name}", "opk"),
        ("${yes}", True),
        ("${1 - m}", Fraction(7, 10)),
        ("${third*3}", Fraction(1)),
        ("x${m}", "x0.3"),
        ("${one}${yes}", "1true"),
        ("out/${name}-${1 - m}.safetensors", "out/opk-0.7.safetensors"),
        ("${models-dir}/x", "big/x"),
        ("costs 5$ {m}", "costs 5$ {m}"),
        ("", ""),
    ],
)
def test_a_variable_alone_keeps_its_type_and_is_text_in_a_longer_string(text: str, value: Scalar) -> None:
    found = render(text, SCOPE)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "code", "start", "end"),
    [
        ("x ${mm}", "unknown-variable", 2, 7),
        ("${name + 1}", "bad-variable", 0, 11),
        ("${1/0}", "bad-variable", 0, 6),
        ("${1 +}", "bad-variable", 0, 6),
        ("a${m", "bad-variable", 1, 4),
        ("x${third}", "not-a-decimal", 1, 9),
        ("${lost}", "", 0, 7),
    ],
)
def test_a_variable_without_a_value_is_a_mistake_at_its_place(text: str, code: str, start: int, end: int) -> None:
    with pytest.raises(VariableError) as caught:
        render(text, SCOPE)
    assert (caught.value.code, caught.value.start, caught.value.end) == (code, start, end)
