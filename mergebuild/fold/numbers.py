"""The numbers of a target in the order of its method's parameters, and the coefficients that follow from them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from mergebuild.errors import Problem, RecipeError
from mergebuild.fold.forms import Form
from mergebuild.layouts import Places, Selector, structure
from mergebuild.methods.arguments import Argument, Numbers
from mergebuild.methods.method import Method, Parameter, UndefinedError
from mergebuild.recipe.model import NumberPerTensor, Target

__all__ = [
    "Usage",
    "check_digits",
    "check_range",
    "defaults_of",
    "given_of",
    "items",
    "listed",
    "places_of",
    "reached_by_amounts",
    "reaching",
    "shares_of",
    "shown",
    "structures",
    "used_of",
    "values_of",
    "words_of",
]

_MOST_BITS = 10_000
"""The most bits of a coefficient's numerator or denominator: a chain of 1000 targets with two-digit weights has
7000."""
_ZERO = Fraction(0)


def listed(number: NumberPerTensor | tuple[NumberPerTensor, ...]) -> tuple[NumberPerTensor, ...]:
    """Return the numbers given for a parameter, one by one."""
    return number if isinstance(number, tuple) else (number,)


def structures(numbers: Mapping[str, NumberPerTensor | tuple[NumberPerTensor, ...]]) -> Hashable:
    """Return what decides which values of a target's numbers reach which tensors."""
    return tuple((name, isinstance(number, tuple), *map(structure, listed(number))) for name, number in numbers.items())


def items(found: Mapping[str, object]) -> Hashable:
    """Return flags or words as a hashable value, for keys."""
    return tuple(sorted(found.items()))


def places_of(target: Target, selector: Selector) -> tuple[Places, ...]:
    """Return which value of each number reaches each tensor.

    Raises:
        RecipeError: with the problems of all numbers.
    """
    found: list[Places] = []
    problems: list[Problem] = []
    for number in target.numbers.values():
        for each in listed(number):
            try:
                found.append(selector.places(each))
            except RecipeError as error:
                problems.extend(error.problems)
    if problems:
        raise RecipeError(problems)
    return tuple(found)


def values_of(target: Target, selector: Selector, places: Sequence[Places]) -> list[list[Fraction]]:
    """Return the values of each of a target's numbers, those of a list one by one. `places`: as from `places_of`."""
    numbers = (number for each in target.numbers.values() for number in listed(each))
    return [selector.values(*each) for each in zip(numbers, places, strict=True)]


def reaching(
    values: Sequence[Sequence[Fraction]], defaults: Sequence[Fraction], indexes: Sequence[int | None]
) -> list[Fraction]:
    """Return the value of each number that reaches a tensor, given its index; the default where the index is None."""
    return [
        default if index is None else each[index]
        for each, default, index in zip(values, defaults, indexes, strict=True)
    ]


def words_of(target: Target) -> Mapping[str, Fraction | str]:
    """Return a target's words and integers, the latter as fractions."""
    return {key: Fraction(word) if isinstance(word, int) else word for key, word in target.words.items()}


def defaults_of(target: Target) -> list[Fraction | None]:
    """Return the method's default of each number, those of a list one by one; None if it has none."""
    method = target.row
    found: list[Fraction | None] = []
    for name, number in target.numbers.items():
        parameter = method.parameter(name) if method else None
        default = parameter.default if parameter else None
        found += [default if isinstance(default, Fraction) else None] * len(listed(number))
    return found


def reached_by_amounts(target: Target, names: Iterable[str], places: Sequence[Places]) -> frozenset[str]:
    """Return the tensors that the target's amounts reach; all of `names` if it has no amounts.

    Amounts are numbers without a default. `places`: those of the target's numbers over these tensors.
    """
    amounts = [each for each, default in zip(places, defaults_of(target), strict=True) if default is None]
    return frozenset().union(*(each.of for each in amounts)) if amounts else frozenset(names)


class Usage(NamedTuple):
    """Which inputs a tensor depends on."""

    inputs: frozenset[int]
    """Their indexes."""
    is_itself: bool = False
    """Whether the tensor is exactly that of its only input."""
    ones: frozenset[int] = frozenset()
    """If LoRAs are added to a model: the indexes of inputs with the factor 1."""


def used_of(target: Target, values: Sequence[Fraction], name: str) -> Usage:
    """Return which inputs a tensor depends on, with one set of the target's numbers.

    Raises:
        RecipeError: the method has no value for these numbers.
    """
    given = given_of(target, values)
    shares = shares_of(target, given, name)
    if shares is not None:
        return _used_in(target, shares)
    assert target.row is not None  # a formula has shares
    found = target.row.used([each.role for each in target.inputs], given)
    return Usage(found, is_itself=len(found) == 1)


def _used_in(target: Target, shares: Sequence[Fraction]) -> Usage:
    """Return which inputs a combination depends on, given its coefficients."""
    found = frozenset(place for place, share in enumerate(shares) if share)
    is_itself = len(found) == 1 and shares[min(found)] == 1
    has_loras = any(target.making.adds_lora(each.role) for each in target.inputs)
    ones = frozenset(place for place in found if shares[place] == 1) if has_loras else frozenset[int]()
    return Usage(found, is_itself, ones)


def given_of(target: Target, values: Sequence[Fraction]) -> dict[str, Fraction | tuple[Fraction, ...]]:
    """Return one set of a target's numbers by parameter, given as a list in the target's order."""
    given: dict[str, Fraction | tuple[Fraction, ...]] = {}
    at = 0
    for parameter, number in target.numbers.items():
        some = tuple(values[at : at + len(listed(number))])
        at += len(some)
        given[parameter] = some if isinstance(number, tuple) else some[0]
    return given


def check_range(target: Target, method: Method, given: Mapping[str, Argument], name: str) -> None:
    """Check that numbers are in the ranges that the catalog allows.

    Raises:
        RecipeError: one is below or above.
    """
    for parameter in method.parameters:
        value = given.get(parameter.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Fraction) and not _is_in_range(parameter, each):
                raise _out_of_range(target, method, parameter, each, name)


def _is_in_range(parameter: Parameter, value: Fraction) -> bool:
    low, high = parameter.low, parameter.high
    return (low is None or value >= low) and (high is None or value <= high)


def _out_of_range(target: Target, method: Method, parameter: Parameter, value: Fraction, name: str) -> RecipeError:
    """Return the error for a number that the catalog does not allow. `name`: the tensor that it reaches."""
    expected = _bounds(parameter.low, parameter.high)
    return RecipeError.one(
        "out-of-range",
        f"`{parameter.name}` of target `{target.name}` is {shown(value)} for `{name}`, expected {expected}",
        where=target.where.place(),
        help=f"`mergebuild methods {method.name}` says what it means",
    )


def _bounds(low: Fraction | None, high: Fraction | None) -> str:
    """Return in words which numbers are allowed; at least one of the bounds is given."""
    if low is not None and high is not None:
        return f"from {shown(low)} to {shown(high)}"
    return f"at least {shown(low)}" if low is not None else f"at most {shown(high or _ZERO)}"


def shares_of(target: Target, given: Numbers, name: str) -> tuple[Fraction, ...] | None:
    """Return the coefficients of the inputs in a tensor; None if it is no combination of them.

    Raises:
        RecipeError: these numbers give no coefficients.
    """
    try:
        return target.making.shares(len(target.inputs), given, target.flags, name)
    except (UndefinedError, ZeroDivisionError, OverflowError) as error:
        why = "it divides by 0" if isinstance(error, ZeroDivisionError) else str(error)
        raise _undefined(target, given, name, why) from error


def _undefined(target: Target, given: Numbers, name: str, why: str) -> RecipeError:
    """Return the error for numbers with which the method has no value for a tensor."""
    return RecipeError.one(
        "undefined",
        f"target `{target.name}` has no value for `{name}`: {why}",
        where=target.where.place(),
        rows=tuple(f"{parameter} = {shown(value)}" for parameter, value in given.items()),
        help="change the numbers that reach it",
    )


def check_digits(target: Target, form: Form) -> None:
    """Check that proportions don't have too many digits: each target of a long chain adds some.

    Raises:
        RecipeError: one has more than 3000 digits.
    """
    for _, coefficient in form.terms:
        if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > _MOST_BITS:
            raise RecipeError.one(
                "too-many-digits",
                f"the proportions of sources in target `{target.name}` have more than 3000 digits",
                where=target.where.place(),
                help="give a target in the middle of the chain an `output`, or use numbers with fewer digits",
            )


def shown(value: Fraction | tuple[Fraction, ...]) -> str:
    """Return a number, or one number per model, for people."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
