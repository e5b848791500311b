"""A formula: a linear combination of models, written as `0.7*opk + x*(merong - base_mix) - 'odd-name'/4`.

It is checked when it is read, by its form alone: every term has exactly one model, no model is multiplied or divided by
one, and no number is added to one. So, for any values of its numbers, it gives one exact coefficient for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from mergebuild.recipe.expression import (
    NOT_ZERO,
    UNWIELDY,
    Expression,
    ExpressionError,
    Name,
    Number,
    Product,
    Sum,
    parse,
)
from mergebuild.recipe.expression import names as names_in
from mergebuild.recipe.numbers import is_unwieldy

__all__ = ["LinearFormula", "parse_formula"]

_Linear = Fraction | dict[int, Fraction]
"""A number, or coefficients by the model's index."""


@dataclass(frozen=True, slots=True)
class LinearFormula:
    """See `mergebuild.recipe.model.Formula`."""

    text: str
    models: tuple[str, ...]
    numbers: tuple[str, ...]
    tree: Expression
    spellings: Mapping[str, int]
    """From a name in the text to the model's index; two spellings of one member are one model."""

    def coefficients(self, numbers: Mapping[str, Fraction]) -> tuple[Fraction, ...]:
        """Return one coefficient for each model.

        Raises:
            ZeroDivisionError: a divisor is 0 with these numbers.
            OverflowError: a coefficient has more than 1000 digits.
        """
        found = self._evaluate(self.tree, numbers)
        assert isinstance(found, dict)  # checked when it was read
        return tuple(found.get(number, Fraction(0)) for number in range(len(self.models)))

    def _evaluate(self, tree: Expression, numbers: Mapping[str, Fraction]) -> _Linear:
        match tree:
            case Number():
                return tree.value
            case Name():
                model = self.spellings.get(tree.name)
                return numbers[tree.name] if model is None else {model: Fraction(1)}
            case Sum():
                return _sum([_times(self._evaluate(term, numbers), Fraction(sign)) for sign, term in tree.terms])
            case Product():
                return self._product(tree, numbers)

    def _product(self, tree: Product, numbers: Mapping[str, Fraction]) -> _Linear:
        scale = Fraction(1)
        models: dict[int, Fraction] | None = None
        for divides, factor in tree.factors:
            value = self._evaluate(factor, numbers)
            if isinstance(value, dict):
                models = value
            elif divides:
                scale /= value
            else:
                scale *= value
            _check(scale)
        return scale if models is None else _times(models, scale)


def parse_formula(text: str, numbers: Collection[str], refer: Callable[[Name], str]) -> LinearFormula:
    """Return the formula of a text. `refer` returns the canonical name of a model; its errors are not caught.

    Raises:
        ExpressionError: it is no formula, or not linear in its models; with the offsets.
    """
    tree = parse(text)
    models, spellings, used = _names_by_kind(tree, numbers, refer)
    _check_models(tree, spellings)
    formula = LinearFormula(text, tuple(models), tuple(used), tree, MappingProxyType(spellings))
    if not used:  # else it is checked when the numbers are known
        _check_value(formula)
    return formula


def _names_by_kind(
    tree: Expression, numbers: Collection[str], refer: Callable[[Name], str]
) -> tuple[dict[str, int], dict[str, int], dict[str, None]]:
    """Return the models of a formula and their spellings, with the models' indexes, and the numbers that it uses."""
    models: dict[str, int] = {}
    spellings: dict[str, int] = {}
    used: dict[str, None] = {}
    for name in names_in(tree):
        if name.name in numbers:
            used[name.name] = None
        elif name.name not in spellings:
            spellings[name.name] = models.setdefault(refer(name), len(models))
    return models, spellings, used


def _check_models(tree: Expression, spellings: Mapping[str, int]) -> None:
    """Raise `ExpressionError` if a formula, or a term of it, has no model."""
    if not _holds_model(tree, spellings):
        message = "a formula names at least one model, and every term of it has one"
        hint = "such as `0.7*a + 0.3*b`; `mergebuild list` shows the names"
        raise ExpressionError(message, tree.start, tree.end, hint)


def _check_value(formula: LinearFormula) -> None:
    """Refuse a formula without named numbers whose coefficients can't be computed."""
    tree = formula.tree
    try:
        formula.coefficients({})
    except ZeroDivisionError:
        message = "division by 0"
        raise ExpressionError(message, tree.start, tree.end, NOT_ZERO) from None
    except OverflowError as error:
        hint = "write rounded numbers, or fewer of them"
        raise ExpressionError(str(error), tree.start, tree.end, hint) from None


def _holds_model(tree: Expression, models: Collection[str]) -> bool:
    """Return whether a part of the formula has a model in it (True) or is a number (False).

    Raises:
        ExpressionError: it is neither: not linear in the models.
    """
    match tree:
        case Number():
            return False
        case Name():
            return tree.name in models
        case Sum():
            return _sum_holds_model(tree, models)
        case Product():
            return _product_holds_model(tree, models)


def _sum_holds_model(tree: Sum, models: Collection[str]) -> bool:
    kinds = [_holds_model(term, models) for _, term in tree.terms]
    for (_, term), kind in zip(tree.terms, kinds, strict=True):
        if kind != kinds[0]:
            alone = term if not kind else tree.terms[0][1]
            message = "a number is added to a model"
            hint = "a formula adds up models, each multiplied by a number"
            raise ExpressionError(message, alone.start, alone.end, hint)
    return kinds[0]


def _product_holds_model(tree: Product, models: Collection[str]) -> bool:
    found = False
    for divides, factor in tree.factors:
        holds = _holds_model(factor, models)
        if holds and divides:
            message = "division by a model"
            raise ExpressionError(message, factor.start, factor.end, "divide by numbers only")
        if holds and found:
            message = "a model is multiplied by a model"
            raise ExpressionError(message, factor.start, factor.end, "multiply models by numbers only")
        found = found or holds
    return found


def _times(value: _Linear, factor: Fraction) -> _Linear:
    if isinstance(value, dict):
        return {model: _check(coefficient * factor) for model, coefficient in value.items()}
    return _check(value * factor)


def _sum(values: list[_Linear]) -> _Linear:
    total = Fraction(0)
    models: dict[int, Fraction] = {}
    for value in values:
        if isinstance(value, dict):
            for model, coefficient in value.items():
                models[model] = _check(models.get(model, Fraction(0)) + coefficient)
        else:
            total = _check(total + value)
    return models or total


def _check(number: Fraction) -> Fraction:
    """Return the number.

    Raises:
        OverflowError: it has more than 1000 digits.
    """
    if is_unwieldy(number):
        raise OverflowError(UNWIELDY)
    return number
