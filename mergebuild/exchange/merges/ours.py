"""A target of ours, as `metadata = "full"` has it in its file: all targets below it, and the hashes of the sources.

Exact numbers are quotients there, and values of numbers per tensor the texts of their classes: both are read as they
were written, and anything else is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import Final

from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.json_texts import listed, table_of, words_of
from mergebuild.exchange.merges.chain import MOST_MERGES
from mergebuild.exchange.merges.node import MergeNode, UnsayableError
from mergebuild.methods.catalog import METHODS

__all__ = ["add", "models_of"]

_MANY: Final = ("models", "loras")
_EXACT: Final = Context(prec=100, traps=[Inexact])
_LONGEST: Final = 10_000
_CHOICES: Final = ("merge", "drop", "on_channels", "ema", "missing", "nonfinite", "architectures")
"""Keys of a target that stand in its node as they are."""


def models_of(recipe: Mapping[str, object]) -> tuple[str, ...]:
    """Return the hashes of the sources."""
    return tuple(digest for digest in map(words_of, table_of(recipe.get("sources")).values()) if digest)


def add(node: MergeNode, draft: Draft) -> str:
    """Add the target and all below it."""
    nodes, last = table_of(node.recipe.get("recipe")), words_of(node.recipe.get("target"))
    if last not in nodes or len(nodes) > MOST_MERGES:
        raise UnsayableError(f"the recipe has no target {last[:60]!r}")
    given = _Given(node, draft, nodes)
    order = given.order(last)
    keys = {name: given.keys(name) for name in order}
    for name in order:
        given.write(name, keys[name], is_last=name == last)
    return given.names[last]


class _Given:
    """The targets of one recipe."""

    def __init__(self, node: MergeNode, draft: Draft, nodes: Mapping[str, object]) -> None:
        self.node = node
        self.draft = draft
        self.nodes = {name: table_of(each) for name, each in nodes.items()}
        self.sources = table_of(node.recipe.get("sources"))
        self.names: dict[str, str] = {}
        """In the draft, by the names there."""
        self.left_out: dict[str, list[str]] = {}

    def order(self, last: str) -> list[str]:
        """Return the targets, each after those that it needs."""
        found: dict[str, None] = {}
        todo, open_ = [(last, False)], set[str]()
        while todo:
            name, closes = todo.pop()
            if closes:
                open_.discard(name)
                found[name] = None
            elif name in open_:
                raise UnsayableError(f"target {name[:60]!r} is made of itself")
            elif name in self.nodes and name not in found:
                open_.add(name)
                todo += [(name, True), *((each, False) for each in reversed(self._refs(name)))]
        return list(found)

    def _refs(self, name: str) -> list[str]:
        node = self.nodes[name]
        parts = [table_of(each).get("model") for each in table_of(node.get("components")).values()]
        rules = [each for rule in listed(node.get("rules")) for each in listed(table_of(rule).get("inputs"))]
        return [each for each in (*listed(node.get("inputs")), *parts, *rules) if isinstance(each, str)]

    def keys(self, name: str) -> dict[str, Value]:
        """Return the keys of a target; inputs have their names there."""
        node = self.nodes[name]
        self.left_out[name] = []
        if "program" in node:
            raise UnsayableError(f"target {name[:60]!r} is made by a method of its project's own")
        keys = self._method(name, node)
        for key in _CHOICES:
            if key in node:
                keys[key] = _plain(node[key])
        return keys

    def _method(self, name: str, node: Mapping[str, object]) -> dict[str, Value]:
        keys: dict[str, Value] = {}
        inputs = [words_of(each) for each in listed(node.get("inputs"))]
        if formula := words_of(node.get("formula")):
            keys["formula"] = formula
        else:
            method = words_of(node.get("method"))
            keys |= {"method": method, **_roles(method, inputs, _count_of_models(node))}
        order = table_of(node.get("order"))
        for key, number in table_of(node.get("numbers")).items():
            keys[key] = self._number(name, number, order.get(key))
        for said in ("flags", "words"):
            keys |= {key: _plain(each) for key, each in table_of(node.get(said)).items()}
        return keys

    def _number(self, name: str, said: object, order: object) -> Value:
        """Return a number; `order`: of its keys, or of those of each number of a list."""
        if isinstance(said, str):
            return _decimal(_fraction(said))
        if isinstance(said, list):
            orders = [*listed(order), *[None] * len(said)]
            return [self._number(name, each, keys) for each, keys in zip(said, orders, strict=False)]
        table = table_of(said)
        keys = [key for key in listed(order) if isinstance(key, str)] or list(table)
        if set(keys) != set(table) or (len(table) > 1 and not order):
            self.left_out[name].append("the order of the keys of a number, of which later ones win")
        if keys.count("elemental") > 1:
            self.left_out[name].append("elemental rules but the last")
        return {key: _value(words_of(table[key])) for key in keys if key in table}

    def write(self, name: str, keys: dict[str, Value], *, is_last: bool) -> None:
        """Add a target."""
        node = self.nodes[name]
        whole = {key: self._named(key, each) for key, each in keys.items()}
        if parts := table_of(node.get("components")):
            whole["components"] = {part: self._part(each) for part, each in parts.items()}
        if listed(node.get("rules")):
            self.left_out[name].append("rules for some of the tensors")
        rounded = words_of(node.get("rounded"))
        output = self.node.output if is_last else f"{name}.safetensors" if rounded else None
        wished, dtype = self.node.name if is_last else name, rounded if rounded != "source" else None
        made = self.draft.target(wished, whole, comments=self.node.comments, output=output, dtype=dtype)
        self.names[name] = made
        for text in self.left_out[name]:
            self.draft.leave_out(self.node.where, text, target=made)

    def _named(self, key: str, value: Value) -> Value:
        """Return a value with the names of the draft for those of the recipe."""
        if key in ("base", "a", "b", "c") and isinstance(value, str):
            return self._input(value)
        if key in _MANY and isinstance(value, list):
            return [self._input(each) if isinstance(each, str) else each for each in value]
        return self._formula(value) if key == "formula" and isinstance(value, str) else value

    def _formula(self, text: str) -> str:
        """Return a formula in which names that changed are other ones."""
        for name in sorted({*self.names, *self.sources}, key=len, reverse=True):
            new = self._input(name) if name in text else name
            if new != name:
                raise UnsayableError(f"a formula names {name[:60]!r}, which is another name here")
        return text

    def _part(self, said: object) -> Value:
        table = table_of(said)
        model, dtype = words_of(table.get("model")), words_of(table.get("dtype"))
        whole: dict[str, Value] = {"model": self._input(model)} if model else {}
        return whole | ({"dtype": dtype} if dtype else {})

    def _input(self, name: str) -> str:
        if name in self.names:
            return self.names[name]
        digest = words_of(self.sources.get(name))
        made = self.node.input_of(digest) if digest else self.draft.source(ModelName(name))
        self.names[name] = made
        return made


def _count_of_models(node: Mapping[str, object]) -> int | None:
    """Return how many models have a number each; None where none has."""
    lists = [each for each in table_of(node.get("numbers")).values() if isinstance(each, list)]
    return len(lists[0]) if lists else None


def _roles(method: str, inputs: Sequence[str], count: int | None) -> dict[str, Value]:
    """Return the inputs by their roles: those that may be left out are, where there are too few."""
    row = METHODS.get(method)
    if row is None:
        raise UnsayableError(f"method {method[:60]!r} is none of this version")
    many = next((role for role in row.inputs if role in _MANY), None)
    single = [role for role in row.inputs if role not in _MANY]
    models = 0 if many is None else len(inputs) - len(single) if count is None else count
    single = [role for role in single if role not in row.optional or len(inputs) - models == len(single)]
    if len(single) + models != len(inputs) or models < (many is not None):
        raise UnsayableError(f"{method} with {len(inputs)} inputs")
    found: dict[str, Value] = dict(zip(single, inputs, strict=False))
    return found | ({many: list(inputs[len(single) :])} if many else {})


def _plain(said: object) -> Value:
    if isinstance(said, (bool, int, str, Decimal)):
        return said
    if isinstance(said, list):
        return [_plain(each) for each in said]
    raise UnsayableError("a value that no target has")


def _fraction(text: str) -> Fraction:
    try:
        return Fraction(text) if len(text) < _LONGEST else Fraction("x")
    except (ValueError, ZeroDivisionError):
        raise UnsayableError(f"{text[:60]!r} is no number") from None


def _decimal(number: Fraction) -> Decimal:
    """Return an exact decimal; raise `UnsayableError` where a number has none."""
    try:
        return _EXACT.divide(Decimal(number.numerator), Decimal(number.denominator))
    except Inexact:
        raise UnsayableError(f"{number} has no finite decimal form") from None


def _value(text: str) -> Value:
    """Return a value of a number per tensor, which stands there as the text of its class."""
    try:
        call = ast.parse(text, mode="eval").body if len(text) < _LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise UnsayableError(f"{text[:60]!r} is no value of a number")
    said = {each.arg: _argument(each.value) for each in call.keywords}
    match call.func.id, said:
        case "Constant", {"number": Fraction() as number}:
            return _decimal(number)
        case "Gradient", {"anchors": tuple() as anchors}:
            return {"gradient": [_decimal(_fraction(str(each))) for each in anchors]}
        case "Mbw", {"numbers": tuple() as numbers}:
            return [_decimal(_fraction(str(each))) for each in numbers]
        case "Preset", {"name": str() as name, "low": Fraction() as low, "high": Fraction() as high}:
            return {"preset": name, "from": _decimal(low), "to": _decimal(high)}
        case "Elemental", {
            "blocks": tuple() as blocks,
            "elements": tuple() as elements,
            "number": Fraction() as number,
        }:
            words = [
                ("NOT " if said.get(f"not_{kind}") else "") + " ".join(map(str, names))
                for kind, names in (("blocks", blocks), ("elements", elements))
            ]
            return f"{':'.join(words)}:{format(_decimal(number), 'f')}"
    raise UnsayableError(f"{text[:60]!r} is no value of a number")


def _argument(node: ast.expr) -> object:
    """Return a number, a text, a flag, or a tuple of these."""
    match node:
        case ast.Constant(value=str() | bool() | int() as value):
            return value
        case ast.Call(func=ast.Name(id="Fraction"), args=[over, under]):
            return Fraction(_whole(over), _whole(under) or 1)
        case ast.Tuple(elts=items) if len(items) <= _LONGEST:
            return tuple(_argument(each) for each in items)
    raise UnsayableError("a value of a number that is not understood")


def _whole(node: ast.expr) -> int:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_whole(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    raise UnsayableError("a value of a number that is not understood")
