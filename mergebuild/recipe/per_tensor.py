"""A number per tensor: a plain number, or rules from selectors to values; later rules win.

Selectors stay as written, since only a layout can tell what they select; `re:` patterns are compiled here to find
mistakes. Curves of a single number are computed here and become constants; gradients, presets, lists of block weights
and elemental rules stay values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from mergebuild.errors import did_you_mean
from mergebuild.recipe.elemental import ElementalError, parse_elemental
from mergebuild.recipe.model import Constant, Gradient, Mbw, NumberPerTensor, Preset, Rule, SelectorText, Value
from mergebuild.recipe.nodes import Node, Reader, described
from mergebuild.recipe.numbers import inverse_sigmoid, sigmoid
from mergebuild.recipe.places import At
from mergebuild.recipe.preset_names import PRESET_NAMES
from mergebuild.system.bounded_text import compiled

__all__ = ["check_selector", "is_value_table", "number_per_tensor", "selectors"]

_FOREIGN = {
    "filter": "selectors are keys of the number itself, such as `attn = 0.7`",
    "value": "the number for everything else is `default`",
    "base_alpha": "the text encoder's number is `BASE`",
    "weights": "a list of block weights is `mbw = [...]`",
    "curve": "curves are `{ sigmoid = 0.3 }` and `{ inverse_sigmoid = 0.3 }`",
}
_PRESET_KEYS = {"preset", "from", "to"}
_EXAMPLES = {
    "gradient": "{ gradient = [0, 0.5, 1] }",
    "sigmoid": "{ sigmoid = 0.3 }",
    "inverse_sigmoid": "{ inverse_sigmoid = 0.3 }",
    "preset": '{ preset = "GRAD_V", from = 0.2, to = 0.8 }',
    "from": '{ preset = "GRAD_V", from = 0.2, to = 0.8 }',
    "to": '{ preset = "GRAD_V", from = 0.2, to = 0.8 }',
}
_SELECTORS = 'name a block, a group or tensors, such as `IN04`, `attn` or `"*.attn2.*"`'
_RULES = 'such as `elemental = "OUT03:attn2:0.5"`'
_PRESET = 'such as `preset = "GRAD_V"`'
_PRESETS = f"presets: {', '.join(sorted(PRESET_NAMES))}"
_ENDS = (("from", Fraction(0)), ("to", Fraction(1)))
_FORMS = "a number, or a table such as `{ default = 0.3, IN00-IN05 = 0.5 }`"


def number_per_tensor(reader: Reader, node: Node, what: str) -> NumberPerTensor | None:
    """Return the rules of a number per tensor; None if something is wrong with it, which is reported."""
    if isinstance(node.value, list):
        hint = "block weights are `{ mbw = [...] }`, a curve over the layers is `{ gradient = [...] }`"
        reader.wrong(node, what, _FORMS, hint)
        return None
    if not isinstance(node.value, dict) or is_value_table(node.value):
        value = _value(reader, node, what)
        return NumberPerTensor((Rule("default", value, node.at),)) if value is not None else None
    if not node.value:
        reader.problems.add("bad-value", f"{what} is an empty table, expected {_FORMS}", node.at,
                            help="write the number itself, or keys such as `default = 0.3`")  # fmt: skip
        return None
    before = len(reader.problems)
    rules = [rule for key, below in node.value.items() for rule in _rules(reader, key, below, what)]
    return NumberPerTensor(tuple(rules)) if len(reader.problems) == before and rules else None


def selectors(reader: Reader, node: Node, what: str) -> tuple[SelectorText, ...] | None:
    """Return the selectors of `merge` or `drop`: a string, or a list of strings."""
    found = reader.texts(node, what, _SELECTORS)
    if found is None:
        return None
    for text, at in found:
        check_selector(reader, text, at, what)
    return tuple(SelectorText(text, at) for text, at in found)


def check_selector(reader: Reader, text: str, at: At, what: str, *, key: bool = False) -> None:
    """Report a selector that is empty, or an invalid pattern."""
    if not text.strip():
        reader.problems.add("bad-selector", f"{what} has an empty selector", at, key=key, help=_SELECTORS)
    elif text.startswith("re:"):
        try:
            compiled(text[3:])
        except re.error as error:
            message = f"`{text}` in {what} is no regular expression: {error}"
            hint = (
                "in TOML a pattern with backslashes stands in single quotes" if "\\" in text
                else 'a sign such as `(` stands for itself as `[(]`; simpler than patterns are globs: `"*.attn2.*"`'
            )  # fmt: skip
            reader.problems.add("bad-selector", message, at, key=key, help=hint)


def is_value_table(table: Mapping[str, object]) -> bool:
    """Return whether a table is one value, such as `{ gradient = [...] }`, and not a table of selectors."""
    keys = set(table)
    return (len(keys) == 1 and keys <= set(_CURVES)) or ("preset" in keys and keys <= _PRESET_KEYS)


def _rules(reader: Reader, key: str, node: Node, what: str) -> list[Rule]:
    name = f"`{key}` in {what}"
    if key in ("mbw", "elemental", "preset"):
        return [Rule(key, value, node.at) for value in _SELECTING[key](reader, node, name)]
    if key in _FOREIGN or key in _CURVES or key in ("from", "to"):
        hint = _FOREIGN.get(key) or f"`{key}` belongs in a value, such as `{_EXAMPLES[key]}`"
        reader.problems.add("unknown-key", f"{name} is no selector", node.at, key=True, help=hint)
        return []
    check_selector(reader, key, node.at, what, key=True)
    value = _value(reader, node, name)
    return [Rule(key, value, node.at)] if value is not None else []


def _value(reader: Reader, node: Node, what: str) -> Value | None:
    table = node.value
    if not isinstance(table, dict):
        number = reader.number(node, what)
        return Constant(number) if number is not None else None
    for key, read in _CURVES.items():
        if set(table) == {key}:
            return read(reader, table[key], what)
    if "preset" in table and set(table) <= _PRESET_KEYS:
        return _preset(reader, table, what)
    expected = f"a number or one of {', '.join(f'`{form}`' for form in dict.fromkeys(_EXAMPLES.values()))}"
    reader.wrong(node, what, expected, "tables of selectors do not nest: give each selector its number", named=True)
    return None


def _gradient(reader: Reader, node: Node, what: str) -> Gradient | None:
    anchors = reader.numbers(node, f"`gradient` of {what}")
    return Gradient(anchors) if anchors is not None else None


def _sigmoid(reader: Reader, node: Node, what: str) -> Constant | None:
    number = reader.number(node, f"`sigmoid` of {what}")
    return Constant(sigmoid(number)) if number is not None else None


def _inverse_sigmoid(reader: Reader, node: Node, what: str) -> Constant | None:
    number = reader.number(node, f"`inverse_sigmoid` of {what}")
    if number is None:
        return None
    if not 0 <= number <= 1:
        message = f"`inverse_sigmoid` of {what} is {described(node)}, expected a number from 0 to 1"
        reader.problems.add("bad-value", message, node.at, help="such as `{ inverse_sigmoid = 0.3 }`")
        return None
    return Constant(inverse_sigmoid(number))


def _preset(reader: Reader, table: dict[str, Node], what: str) -> Preset | None:
    name = reader.text(table["preset"], f"`preset` of {what}", expected="the name of a preset", hint=_PRESET)
    ends = [reader.number(table[key], f"`{key}` of {what}") if key in table else default for key, default in _ENDS]
    if name is not None and name not in PRESET_NAMES:
        hint = did_you_mean(name.upper(), PRESET_NAMES) or _PRESETS
        reader.problems.add("unknown-preset", f"{what} uses unknown preset `{name}`", table["preset"].at, help=hint)
        return None
    low, high = ends
    return Preset(name, low, high) if name is not None and low is not None and high is not None else None


def _selecting_preset(reader: Reader, node: Node, what: str) -> list[Value]:
    table = node.value if isinstance(node.value, dict) else {"preset": node}
    if "preset" not in table or not set(table) <= _PRESET_KEYS:
        reader.wrong(node, what, f"the name of a preset or `{_EXAMPLES['preset']}`", _PRESET)
        return []
    found = _preset(reader, table, what)
    return [found] if found is not None else []


def _mbw(reader: Reader, node: Node, what: str) -> list[Value]:
    if isinstance(node.value, str):
        reader.wrong(node, what, "a list of numbers", "write the block weights as a list: `mbw = [0, 0.5, ...]`")
        return []
    numbers = reader.numbers(node, what)
    return [Mbw(numbers)] if numbers is not None else []


def _elemental(reader: Reader, node: Node, what: str) -> list[Value]:
    found: list[Value] = []
    for text, at in reader.texts(node, what, _RULES) or ():
        try:
            found.extend(parse_elemental(text))
        except ElementalError as error:
            reader.problems.add(error.code, str(error), at.inside(text, error.start, error.end), help=error.hint)
    if node.value == []:
        reader.problems.add("bad-value", f"{what} is an empty list, expected rules", node.at, help=_RULES)
    return found


_CURVES: dict[str, Callable[[Reader, Node, str], Value | None]] = {
    "gradient": _gradient,
    "sigmoid": _sigmoid,
    "inverse_sigmoid": _inverse_sigmoid,
}
_SELECTING: dict[str, Callable[[Reader, Node, str], list[Value]]] = {
    "mbw": _mbw,
    "preset": _selecting_preset,
    "elemental": _elemental,
}
