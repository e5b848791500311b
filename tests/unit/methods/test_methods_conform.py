"""Every row of the catalog, and the rows behind LoRAs, keep the laws of `mergebuild.testing.methods`."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
from planning import Bench, Declared

from mergebuild.configuration.token_rows import RowRun, RowsOfTokens
from mergebuild.fold.forms import Form, Operation, Slot
from mergebuild.lora import DeltaSum, Extraction, ShapedDelta
from mergebuild.methods import making
from mergebuild.methods.arguments import Arguments
from mergebuild.methods.catalog import METHODS, Method, Parameter
from mergebuild.methods.gates import PromptTokens
from mergebuild.methods.making import OwnProgram, Program
from mergebuild.methods.tables.experts import PROMPT_GATE, RANDOM_GATE
from mergebuild.methods.tables.lora import DELTA, FACTOR
from mergebuild.methods.tables.rows_of_tokens import ROWS_OF_TOKENS
from mergebuild.testing.methods import SHAPES, MethodTests, OperationTests

OWN = Method("mine", ("a", "b"), (Parameter("alpha", ""),), "", "", OwnProgram(Program("m.py", "KERNELS = {}", "")))
ROWS = {row.name: row for row in (*METHODS.values(), DELTA, FACTOR, ROWS_OF_TOKENS, RANDOM_GATE, PROMPT_GATE, OWN)}
OPERATIONS = [name for name, row in ROWS.items() if row.makes.maker]
TARGETS = [
    name
    for name, row in METHODS.items()
    if not row.makes.makes_lora and not row.makes.makes_experts and "loras" not in row.inputs
]
SOURCES = "abcde"
REACHING = "*_model.*"
REACHED = [tensor for tensor in SHAPES if "_model." in tensor]
UNCHANGING = ("copy", "fallback")
"""Methods of which a tensor that the first input has is the first input's."""


def _amounts(row: Method) -> list[str]:
    """Return the numbers that must be given."""
    return [each.name for each in row.parameters if each.kind == "number" and each.default is None]


class TestEveryRow(MethodTests):
    @pytest.fixture(params=ROWS)
    def method(self, request: pytest.FixtureRequest) -> Method:
        return ROWS[request.param]


class TestEveryOperation(OperationTests):
    @pytest.fixture(params=OPERATIONS)
    def method(self, request: pytest.FixtureRequest) -> Method:
        return ROWS[request.param]

    def operation(self, method: Method) -> Operation:
        """Those behind LoRAs, tokenizers and experts are told what no recipe says, and read what is of other shapes."""
        described: dict[str, Arguments] = {
            DELTA.name: (("deltas", DeltaSum((ShapedDelta("full", (("diff", (6, 4)),), None, ()),))),),
            ROWS_OF_TOKENS.name: (("rows", RowsOfTokens((RowRun(0, 0, 6),), (), 0)),),
            PROMPT_GATE.name: (("tokens", PromptTokens(((((1, 2),), ()),))),),
            FACTOR.name: (("making", Extraction((6, 4), None, 2, None, None, None)), ("role", "up")),
        }
        if method.name.removesuffix(" too") not in described:
            return super().operation(method)
        whole = Form(((Slot("0"), Fraction(1)),))
        return Operation(method, described[method.name], (whole,), ((6, 4),))


def test_every_class_of_makings_is_some_rows() -> None:
    """But for those that only have others below them."""
    classes = {getattr(making, name) for name in making.__all__}
    kinds = {each for each in classes if isinstance(each, type) and issubclass(each, making.Making)}
    above = {base for each in kinds for base in each.__mro__[1:]}
    used = {type(row.makes) for row in ROWS.values()}
    assert used >= kinds - above
    assert used <= kinds


def test_people_are_told_how_each_method_reads() -> None:
    assert all(row.makes.reads for row in METHODS.values())


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_target_does_not_merge_is_the_first_inputs(bench: Bench, name: str) -> None:
    """By `merge`, and what its method does not take up."""
    row = METHODS[name]
    words = {each.name: each.default for each in row.parameters if each.kind in ("integer", "word")}
    taken = {*row.makes.taken_up({tensor: SHAPES[tensor] for tensor in REACHED}, words)}
    changed = _changed(bench, _target(row, {}, f'merge = ["{REACHING}"]'))
    if name in UNCHANGING:
        assert not changed
    elif row.makes.shares_by_name:
        assert changed
        assert changed < taken
    else:
        assert changed == taken


@pytest.mark.parametrize("name", [name for name in TARGETS if _amounts(METHODS[name])])
def test_what_amounts_do_not_reach_is_the_first_inputs(bench: Bench, name: str) -> None:
    amounts = dict.fromkeys(_amounts(METHODS[name]), f'{{ "{REACHING}" = 0.3 }}')
    changed = _changed(bench, _target(METHODS[name], amounts))
    assert changed
    assert changed <= {*REACHED}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Sources with the same tensors and other values."""
    found = {tensor: Declared(tensor, shape) for tensor, shape in SHAPES.items()}
    return Bench(tmp_path, {name: {each: it._replace(content=name) for each, it in found.items()} for name in SOURCES})


def _changed(bench: Bench, target: str) -> set[str]:
    """Return which of a target's tensors are not its first input's."""
    copy = bench.planned(_target(METHODS["copy"], {}))["t"].tensors
    found = bench.planned(target)["t"].tensors
    assert found.keys() == copy.keys()
    return {tensor for tensor in SHAPES if found[tensor] != copy[tensor]}


def _target(row: Method, given: Mapping[str, str], more: str = "") -> str:
    """Return a target of the method, with all that it must be given."""
    left = iter(SOURCES)
    lines = [f"{role} = '{next(left)}'" for role in row.inputs if role != "models"]
    lines += [f"models = ['{next(left)}', '{next(left)}']"] if "models" in row.inputs else []
    for each in row.parameters:
        if each.default is None or each.name in given:
            value = f"'{each.choices[0]}'" if each.choices else "7" if each.kind == "integer" else "0.3"
            lines.append(f"{each.name} = {given.get(each.name, value)}")
    return "\n".join(["[targets.t]", f"method = '{row.name}'", "output = 't.safetensors'", *lines, more, ""])
