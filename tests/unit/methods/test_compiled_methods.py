"""Every compiled form of a method has the bits of the torch kernel, and needs neither torch nor numpy.

All that are in `compiled/catalog.py` are tried, with every dtype of inputs and outputs, every instruction set that this
processor has, parameters that hypothesis draws, any shapes and cuts, and values that are hard on arithmetic.
"""

from __future__ import annotations

import random
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from compiled_driver import Stored, compiled_state_of, rounded, run_compiled, running_with, stored
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import KINDS, SHAPES, tensors
from kernel_driver import kernel_of, run, state_of
from method_trials import TRIALS, Given, call_for, count_for
from torch import Tensor

from mergebuild import native
from mergebuild.methods.catalog import METHODS
from mergebuild.methods.compiled.catalog import FAMILIES, compiled_method
from mergebuild.methods.compiled.method import CompiledMethod, CompiledStatistic
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, Statistic, all_finite
from mergebuild.methods.method import Parameter, UndefinedError

COMPILED: Mapping[str, CompiledMethod] = {
    name: each for name in FAMILIES if (each := compiled_method(name)) is not None
}
KERNELS: Mapping[str, Kernel] = {name: kernel_of(METHODS[name]) for name in FAMILIES}

ON: Mapping[str, Mapping[str, tuple[int, ...] | None]] = {
    "adjust": {
        "model.diffusion_model.input_blocks.0.0.weight": None,
        "model.diffusion_model.out.0.bias": None,
        "model.diffusion_model.out.2.weight": None,
        "model.diffusion_model.out.2.bias": (4,),
    },
    "plus_random": {"block.0.weight": None, "block.0.norm.weight": None},
}
"""The tensors that a method which knows them by name is tried on, and their shapes, where only one will do."""

WORDS: Mapping[str, Mapping[str, Sequence[str]]] = {"adjust": {"layout": ("sd15", "sdxl", "flux")}}
"""What a method is told of its target beside its parameters."""

HOSTILE = (
    0.0, -0.0, 1.0, -1.0, 1 + 2.0**-23, 0.5, 3.0, 2.0**-149, -(2.0**-149), 2.0**-126, -(2.0**-127), 2.0**-75, 1e-30,
    2.0**127, -(2.0**127), 3.4028234663852886e38, -3.4028234663852886e38, 65504.0, 65520.0, 448.0, 57344.0, 2.0**-24,
)  # fmt: skip
"""Where arithmetic ends, or takes another turn."""
NOT_FINITE = (float("inf"), -float("inf"), float("nan"), -float("nan"))

every_compiled_method = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(autouse=True)
def _compiled_kernels() -> None:
    assert native.variants(), "the package was installed without compiled kernels: a C compiler is needed"


# ---- what is tried ----


def _numbers(parameter: Parameter) -> st.SearchStrategy[object]:
    """Draw an argument: what a parameter may be, with the numbers at which formulas take another turn."""
    if parameter.kind == "flag":
        return st.booleans()
    if parameter.kind == "word":
        return st.sampled_from(parameter.choices)
    if parameter.kind == "integer":
        return st.sampled_from((0, 1, 2, 5, 2**63))
    low = -3 if parameter.low is None else float(parameter.low)
    high = 3 if parameter.high is None else float(parameter.high)
    usual = [each for each in (0, 1, -1, 0.5, -0.7, 0.3, 2, 1e-5, 1e-50, 0.1) if low <= each <= high]
    drawn = st.sampled_from(usual) | st.integers(0, 100).map(lambda part: low + (high - low) * part / 100)
    return drawn if parameter.per == "target" else st.lists(drawn, min_size=3, max_size=3)


def _setting(data: st.DataObject, name: str) -> Given:
    """Draw a setting of the method's trial, some of its numbers replaced by others."""
    chosen: dict[str, Any] = dict(data.draw(st.sampled_from(TRIALS[name].settings), "setting"))
    for parameter in METHODS[name].parameters:
        if data.draw(st.booleans(), f"another {parameter.name}"):
            found = data.draw(_numbers(parameter), parameter.name)
            per_model = isinstance(found, list)
            chosen[parameter.name] = found[: TRIALS[name].models] if per_model else found  # type: ignore[index]
    return chosen


def _values(data: st.DataObject, name: str, shape: tuple[int, ...], count: int) -> list[Tensor]:
    """Draw float32 inputs: plain ones, ones of which many are equal, or hostile ones; perhaps some not finite."""
    seed = data.draw(st.integers(0, 999), "seed")
    kind = data.draw(st.sampled_from((*KINDS, "coarse", "hostile", "not finite")), "kind")
    if kind in KINDS:
        return tensors(kind, shape, max(count, 2), seed)[:count]
    found = tensors("fine-tunes" if seed % 2 else "random", shape, max(count, 2), seed)[:count]
    if kind == "coarse":
        return [(2 * each).round() / 2 for each in found]
    chance = random.Random(seed)
    pool = HOSTILE if kind == "hostile" else (*HOSTILE, *NOT_FINITE)
    for each in found:
        flat = each.view(-1)
        for place in range(len(flat)):
            if chance.random() < 0.5:
                flat[place] = chance.choice(pool)
    return found


def _inputs(data: st.DataObject, values: Sequence[Tensor]) -> list[Stored]:
    """Draw the dtype that each input lies in; those of float64 have digits beyond float32's."""
    found = []
    for index, each in enumerate(values):
        dtype = data.draw(st.sampled_from(tuple(native.DTYPES)), f"dtype of input {index}")
        more = each.to(torch.float64) * (1 + 2.0**-30) if dtype == "float64" else each
        found.append(stored(more, dtype))
    return found


def _call(data: st.DataObject, name: str, chosen: Given, shapes: st.SearchStrategy[tuple[int, ...]]) -> Call:
    names = ON.get(name, {TRIALS[name].tensor: None})
    tensor = data.draw(st.sampled_from(tuple(names)), "tensor")
    shape = names[tensor] or data.draw(shapes, "shape")
    words = {key: data.draw(st.sampled_from(each), key) for key, each in WORDS.get(name, {}).items()}
    call = call_for(name, shape, chosen)
    return replace(call, tensor=tensor, arguments={**call.arguments, **words})


def _by_torch(name: str, call: Call, inputs: Sequence[Stored], dtype: str) -> bytes | str:
    """Return the bytes that the torch kernel makes, or why there are none."""
    try:
        return rounded(run(KERNELS[name], call, [each.values for each in inputs], None), dtype)
    except UndefinedError as error:
        return str(error)


def _compiled(
    name: str, call: Call, inputs: Sequence[Stored], dtype: str, cuts: random.Random | None = None
) -> bytes | str:
    try:
        return run_compiled(COMPILED[name], call, inputs, dtype, cuts)[0]
    except UndefinedError as error:
        return str(error)


_SHAPES = st.lists(st.integers(1, 8), max_size=4).map(tuple).filter(lambda shape: prod(shape) <= 1000)


# ---- the laws ----


@every_compiled_method
@examples(60)
@given(data=st.data())
def test_a_compiled_form_has_the_bits_of_the_torch_kernel(name: str, data: st.DataObject) -> None:
    """For all dtypes, small shapes and cuts, values and parameters, whatever the instruction set."""
    chosen = _setting(data, name)
    call = _call(data, name, chosen, st.sampled_from(SHAPES) | _SHAPES)
    inputs = _inputs(data, _values(data, name, call.shape, count_for(name, chosen)))
    dtype = data.draw(st.sampled_from(tuple(native.DTYPES)), "dtype")
    cuts = data.draw(st.none() | st.integers(0, 999).map(random.Random), "cuts")
    if not COMPILED[name].takes(call, len(inputs)):
        return
    wanted = _by_torch(name, call, inputs, dtype)
    for variant in native.variants():
        with running_with(variant):
            assert _compiled(name, call, inputs, dtype, cuts) == wanted, variant


@pytest.mark.parametrize(
    "name", [name for name, method in COMPILED.items() if method.grain is Grain.ELEMENT and method.statistic is None]
)
def test_hostile_values_meet_each_other_and_all_turns_of_a_formula(name: str) -> None:
    """Every two of them, and every three, with the numbers at which formulas take another turn."""
    pool = torch.tensor((*HOSTILE, *NOT_FINITE))
    grid = torch.meshgrid([pool] * 3, indexing="ij")
    parameters = [each for each in METHODS[name].parameters if each.kind == "number" and each.per == "target"]
    usual = [
        [each for each in (0, 1, 0.5, -0.7, 1e-50) if parameter.low is None or each >= parameter.low]
        for parameter in parameters[:2]
    ]
    for numbers in product(*usual):
        chosen = dict(TRIALS[name].settings[0])
        chosen.update(zip((each.name for each in parameters), numbers, strict=False))
        inputs = [stored(grid[index % 3], "float32") for index in range(count_for(name, chosen))]
        call = call_for(name, (len(pool) ** 3,), chosen)
        if not COMPILED[name].takes(call, len(inputs)):
            continue
        wanted = _by_torch(name, call, inputs, "float32")
        for variant in native.variants():
            with running_with(variant):
                assert _compiled(name, call, inputs, "float32") == wanted, (variant, chosen)


LARGE = ((2049,), (3, 1367), (150, 500), (65_537,))
"""More elements than a tile, or than a block of 65,536."""


@every_compiled_method
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_tensors_come_out_alike(name: str, shape: tuple[int, ...]) -> None:
    """As one chunk and cut at random, in half precision, with some values equal and some not finite."""
    for number, chosen in enumerate(TRIALS[name].settings):
        count = count_for(name, chosen)
        values = tensors("fine-tunes", shape, max(count, 2), number)[:count]
        values = [(256 * each).round() / 256 for each in values]
        if number % 2 and COMPILED[name].statistic is None:
            values[-1].view(-1)[-7:-3] = torch.tensor(NOT_FINITE)
        for index, (tensor, fixed) in enumerate(ON.get(name, {TRIALS[name].tensor: None}).items()):
            call = call_for(name, fixed or shape, chosen)
            words = {key: each[0] for key, each in WORDS.get(name, {}).items()}
            call = replace(call, tensor=tensor, arguments={**call.arguments, **words})
            inputs = [stored(each.reshape(-1)[: call.count].reshape(call.shape), "float16") for each in values]
            if not COMPILED[name].takes(call, count):
                continue
            wanted = _by_torch(name, call, inputs, "bfloat16")
            for variant in native.variants():
                with running_with(variant):
                    for cuts in (None, random.Random(index)):
                        assert _compiled(name, call, inputs, "bfloat16", cuts) == wanted, (variant, chosen)


@every_compiled_method
def test_what_is_seen_of_values_is_counted(name: str) -> None:
    """NaN and infinities, and what is finite and too large for the output."""
    chosen = TRIALS[name].settings[0]
    call = call_for(name, (7, 5), chosen)
    values = [30_000 * each for each in tensors("random", (7, 5), max(2, count_for(name, chosen)))]
    for bad in (False, True):
        for each in values[:1] if bad else ():
            each.view(-1)[3:5] = torch.tensor([float("inf"), float("nan")])
        inputs = [stored(each, "float32") for each in values[: count_for(name, chosen)]]
        if not COMPILED[name].takes(call, len(inputs)):
            continue
        made = run(KERNELS[name], call, [each.values for each in inputs], None)
        _, seen = run_compiled(COMPILED[name], call, inputs, "float16", None)
        finite = made.isfinite()
        beyond = int((finite & ~made.half().isfinite()).sum())
        assert seen == (int((~finite).sum()), beyond)


@every_compiled_method
def test_a_compiled_form_serves_the_settings_that_people_use(name: str) -> None:
    """What it leaves to torch is the exception."""
    taken = []
    for chosen in TRIALS[name].settings:
        call = call_for(name, (4, 6), chosen)
        taken.append(COMPILED[name].takes(call, count_for(name, chosen)))
    assert any(taken)


def test_a_compiled_form_stands_for_a_kernel_as_it_is_in_the_catalog() -> None:
    """Its chunks are cut alike; a statistic is known by the same name, arguments and version.

    Of a kernel that sees tensors whole, the compiled form may see them in pieces, and look at them first.
    """
    for name, method in COMPILED.items():
        kernel = KERNELS[name]
        if kernel.grain is Grain.TENSOR:
            continue
        assert method.grain is kernel.grain, name
        assert (method.statistic is None) == (kernel.statistic is None), name
        if method.statistic is not None and kernel.statistic is not None:
            for field in ("name", "arguments", "version"):
                assert getattr(method.statistic, field) == getattr(kernel.statistic, field), (name, field)


@every_compiled_method
@examples(25)
@given(data=st.data())
def test_a_statistic_has_the_value_of_the_torch_kernel_s(name: str, data: st.DataObject) -> None:
    """So that what one found serves the other: now, and in later builds."""
    statistic, reference = COMPILED[name].statistic, KERNELS[name].statistic
    if statistic is None or reference is None:
        return
    chosen = _setting(data, name)
    call = _call(data, name, chosen, st.sampled_from(SHAPES) | _SHAPES | st.sampled_from(((150, 500),)))
    inputs = _inputs(data, _values(data, name, call.shape, count_for(name, chosen)))
    if not COMPILED[name].takes(call, len(inputs)) or not all_finite([each.values for each in inputs]):
        return
    cuts = random.Random(data.draw(st.integers(0, 999), "cuts"))
    flat = [each.values.reshape(-1) for each in inputs]
    wanted = _state_by_torch(reference, KERNELS[name].grain, call, flat)
    for variant in native.variants():
        with running_with(variant):
            assert _state_compiled(statistic, COMPILED[name], call, inputs, cuts) == wanted, variant


def _plain(state: object) -> object:
    """Return a state with lists in place of tensors and arrays."""
    if isinstance(state, tuple):
        return tuple(map(_plain, state))
    return state.tolist() if isinstance(state, Tensor | array) else state


def _state_by_torch(statistic: Statistic, grain: Grain, call: Call, inputs: Sequence[Tensor]) -> str:
    """Return the state as text, or why there is none."""
    try:
        if statistic.begin(call, len(inputs)) is None:
            return repr(None)
        return repr(_plain(state_of(statistic, grain, call, inputs, None)))
    except UndefinedError as error:
        return str(error)


def _state_compiled(
    statistic: CompiledStatistic, method: CompiledMethod, call: Call, inputs: Sequence[Stored], cuts: random.Random
) -> str:
    try:
        return repr(_plain(compiled_state_of(statistic, method, call, inputs, cuts)))
    except UndefinedError as error:
        return str(error)


@pytest.mark.processes
def test_the_compiled_forms_import_neither_torch_nor_numpy() -> None:
    """Nor what they import themselves."""
    program = (
        "import sys\n"
        "from importlib import import_module\n"
        "from pkgutil import iter_modules\n"
        "from mergebuild.methods import compiled\n"
        "for each in iter_modules(compiled.__path__):\n"
        "    import_module(f'{compiled.__name__}.{each.name}')\n"
        "from mergebuild.methods.compiled.catalog import FAMILIES, compiled_method\n"
        "print(all(compiled_method(name) for name in FAMILIES), sorted({'torch', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"
