"""The laws that every method of the catalog keeps, whatever its formula. A new one is a line in `method_trials.py`.

A law that does not hold for a method says why not in its line; all others are tried with inputs that hypothesis picks.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import import_module
from math import prod
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any

import pytest
import torch
from example_counts import examples
from fake_device import Remote, remotely
from hypothesis import assume, given
from hypothesis import strategies as st
from kernel_cases import KINDS, SHAPES, tensors
from kernel_driver import kernel_of, run, state_of
from method_trials import TRIALS, Given, call_for, count_for
from torch import Tensor

from mergebuild.methods import kernels
from mergebuild.methods.catalog import METHODS
from mergebuild.methods.kernels.kernel import Argument, Call, Grain, Kernel, Statistic
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.tables import experts, lora, model_wide

KERNELS: Mapping[str, Kernel] = {name: kernel_of(METHODS[name]) for name in TRIALS}

every_method = pytest.mark.parametrize("name", TRIALS)


def test_every_method_is_tried() -> None:
    """But for those that need more than one tensor, LoRAs, or layers, which have tests of their own."""
    together = {row.name for row in (*model_wide.ROWS, *lora.ROWS, *experts.ROWS)}
    assert TRIALS.keys() == METHODS.keys() - together


# ---- what is tried ----


@dataclass(frozen=True, slots=True)
class Some:
    """Inputs and parameters of a method."""

    name: str
    call: Call
    inputs: Sequence[Tensor]

    def made(self, cuts: random.Random | None = None) -> Tensor | str:
        """Return the result, or why there is none."""
        try:
            return run(KERNELS[self.name], self.call, self.inputs, cuts)
        except UndefinedError as error:
            return str(error)


_SHAPES = st.lists(st.integers(1, 8), max_size=4).map(tuple).filter(lambda shape: prod(shape) <= 1000)


def _some(
    data: st.DataObject,
    name: str,
    kinds: Sequence[str] = KINDS,
    *,
    coarse: bool | None = None,
    fixed: Given = MappingProxyType({}),
) -> Some:
    """Draw parameters but those `fixed`, a shape and inputs; `coarse` ones have few values, zeros of both signs too."""
    chosen = {**data.draw(st.sampled_from(TRIALS[name].settings), "parameters"), **fixed}
    shape = data.draw(_SHAPES | st.sampled_from([each for each in SHAPES if 0 not in each]), "shape")
    count = count_for(name, chosen)
    x = tensors(data.draw(st.sampled_from(kinds), "kind"), shape, max(count, 2), data.draw(st.integers(0, 999), "seed"))
    if data.draw(st.booleans(), "coarse") if coarse is None else coarse:
        x = [(2 * each).round() / 2 for each in x]
    return Some(name, call_for(name, shape, chosen), x[:count])


def _same(one: Tensor | str, other: Tensor | str) -> bool:
    """Whether two results are the same bits, or the same refusal."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.shape == other.shape and torch.equal(one.view(torch.int32), other.view(torch.int32))


# ---- the laws ----


@every_method
@examples(12)
@given(data=st.data())
def test_no_cut_matters(name: str, data: st.DataObject) -> None:
    """Chunk invariance: the same bits however the tensor is cut within the method's grain, in each pass anew."""
    some = _some(data, name)
    cuts = random.Random(data.draw(st.integers(0, 999), "cuts"))
    assert _same(some.made(), some.made(cuts))


@pytest.mark.parametrize("name", [name for name in TRIALS if KERNELS[name].grain is not Grain.TENSOR])
def test_no_cut_matters_to_large_tensors(name: str) -> None:
    """Of more elements than the blocks that kernels work in."""
    for index, chosen in enumerate(TRIALS[name].settings):
        first, *others = tensors("random", (150, 500), count_for(name, chosen) + 1)[1:]
        # of changes so coarse many are equal, and lie on both sides of the cuts
        inputs = [first, *(first + (2 * each).round() / 2 for each in others)]
        some = Some(name, call_for(name, (150, 500), chosen), inputs)
        assert _same(some.made(), some.made(random.Random(index)))


@every_method
@examples(4)
@given(data=st.data())
def test_no_kernel_cares_where_its_inputs_lie(name: str, data: st.DataObject) -> None:
    """What it makes for itself lies beside them, on any device; an exact one asks only for what all do alike."""
    some = _some(data, name)
    with remotely(exact=METHODS[name].exact):
        there = replace(some, inputs=[Remote(each) for each in some.inputs]).made()
    assert _same(some.made(), there)


@pytest.mark.parametrize("name", [name for name, trial in TRIALS.items() if not trial.not_idempotent])
@examples(10)
@given(data=st.data())
def test_equal_inputs_give_themselves(name: str, data: st.DataObject) -> None:
    """Nothing is rounded and no seed shows where all models agree."""
    some = _some(data, name, ["identical"])
    made = some.made()
    assert isinstance(made, Tensor)
    if TRIALS[name].rounds:
        torch.testing.assert_close(made, some.inputs[0], rtol=1e-6, atol=0)
    else:
        assert torch.equal(made, some.inputs[0])


@every_method
@pytest.mark.parametrize("shape", [(), (1,), (1, 8), (8, 1), (1, 1, 1, 1), (0,), (0, 5), (5, 0)], ids=str)
def test_the_smallest_tensors_have_a_value(name: str, shape: tuple[int, ...]) -> None:
    """Numbers, single elements, single rows and tensors without elements are no special case to a user."""
    for chosen in TRIALS[name].settings:
        for kind in ("random", "fine-tunes", "all zero"):
            count = count_for(name, chosen)
            made = Some(name, call_for(name, shape, chosen), tensors(kind, shape, max(count, 2))[:count]).made()
            assert isinstance(made, Tensor), made
            assert made.shape == shape
            assert bool(made.isfinite().all())


_MANY_AXES = (
    (*(1,) * 63, 2), (2, *(1,) * 63), (1,) * 64, (0,) * 64, (3, *(1,) * 40, 2, *(1,) * 20, 2, 1), (2,) * 8,
    *((1,) * axes for axes in range(5, 64)),
)  # fmt: skip


@pytest.mark.slow
@every_method
def test_tensors_may_have_64_axes(name: str) -> None:
    """As many as a file may say. Those of size 1 are no other signal, nor another matrix."""
    for shape in _MANY_AXES:
        for chosen in TRIALS[name].settings:
            count = count_for(name, chosen)
            made = Some(name, call_for(name, shape, chosen), tensors("random", shape, max(count, 2))[:count]).made()
            assert isinstance(made, Tensor), made
            assert made.shape == shape


@pytest.mark.parametrize("name", [name for name, trial in TRIALS.items() if not trial.line])
@examples(8)
@given(data=st.data())
def test_a_number_is_a_tensor_of_one_element(name: str, data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(TRIALS[name].settings), "parameters")
    count = count_for(name, chosen)
    x = tensors("random", (1,), max(count, 2), data.draw(st.integers(0, 999), "seed"))[:count]
    whole = Some(name, call_for(name, (1,), chosen), x).made()
    number = Some(name, call_for(name, (), chosen), [each.reshape(()) for each in x]).made()
    assert _same(number.reshape(1) if isinstance(number, Tensor) else number, whole)


@every_method
@examples(20)
@given(data=st.data())
def test_what_is_no_number_never_passes_for_one(name: str, data: st.DataObject) -> None:
    """A NaN shows in the result or is refused. If neither, the value at its place is not used: any does as well."""
    some = _some(data, name, ["random", "fine-tunes"], coarse=False)
    which = data.draw(st.integers(0, len(some.inputs) - 1), "input")
    place = data.draw(st.integers(0, some.call.count - 1), "place")

    def with_value(value: float) -> Tensor | str:
        changed = [each.clone() for each in some.inputs]
        changed[which].view(-1)[place] = value
        return replace(some, inputs=changed).made()

    made = with_value(math.nan)
    if isinstance(made, Tensor) and bool(made.isfinite().all()):
        assert all(_same(made, with_value(value)) for value in (0.0, 1000.0, -1000.0))


@pytest.mark.parametrize("name", [name for name, trial in TRIALS.items() if trial.symmetric])
@examples(10)
@given(data=st.data())
def test_the_order_of_inputs_does_not_matter_where_the_method_is_symmetric(name: str, data: st.DataObject) -> None:
    """Each may stand in another's place, with its parameters; of sums, only the rounding changes."""
    row, trial = METHODS[name], TRIALS[name]
    some = _some(data, name, ["random"], coarse=False, fixed=trial.evenly)
    if trial.symmetric == ("models",):
        first, last = len(some.inputs) - trial.models, len(some.inputs)
        order = data.draw(st.permutations(range(trial.models)), "order")
    else:
        first = row.inputs.index(trial.symmetric[0])
        last, order = first + 2, [1, 0]
    turned = [*some.inputs[:first], *(some.inputs[first + index] for index in order), *some.inputs[last:]]
    arguments = {
        key: tuple(each[index] for index in order) if isinstance(each, tuple) else each
        for key, each in some.call.arguments.items()
    }
    made, again = some.made(), replace(some, call=replace(some.call, arguments=arguments), inputs=turned).made()
    if isinstance(made, str) or isinstance(again, str):
        assert made == again
        return
    scale = max(float(each.abs().max()) for each in (made, *some.inputs))
    torch.testing.assert_close(made, again, rtol=0, atol=1e-5 * scale)


ZEROS = [(name, each.name) for name, row in METHODS.items() for each in row.parameters if each.nothing_at_zero]
ONES = [(name, each.name) for name, row in METHODS.items() for each in row.parameters if each.second_at_one]


@pytest.mark.parametrize(
    ("name", "parameter", "value"), [*((*each, 0) for each in ZEROS), *((*each, 1) for each in ONES)]
)
@examples(12)
@given(data=st.data())
def test_inputs_that_a_number_leaves_out_do_not_matter(
    name: str, parameter: str, value: int, data: st.DataObject
) -> None:
    """What is left alone is that tensor; of several, any other may stand in for what is left out."""
    some = _some(data, name, ["random", "fine-tunes"], coarse=False)
    assume(some.call.count > 1)  # two directions are opposite, and their mean is any, where there is one dimension
    number = some.call.arguments[parameter]
    if isinstance(number, tuple):
        out = data.draw(st.sets(st.integers(0, len(number) - 1), min_size=1), "models")
        number = tuple(Fraction(0) if place in out else each for place, each in enumerate(number))
    else:
        number = Fraction(value)
    some = replace(some, call=replace(some.call, arguments={**some.call.arguments, parameter: number}))
    singles = [each for each in METHODS[name].inputs if each != "models"]
    models = len(some.inputs) - len(singles) if "models" in METHODS[name].inputs else 0
    if models < TRIALS[name].models and models:
        singles, models = [], TRIALS[name].models  # the optional base is left out
    roles = [*singles, *(f"models[{place}]" for place in range(models))]
    numbers = {key: each for key, each in some.call.arguments.items() if isinstance(each, Fraction | tuple)}
    used = METHODS[name].used(roles, numbers)
    made, scale = some.made(), max(float(each.abs().max()) for each in some.inputs)
    if len(used) == 1:
        assert isinstance(made, Tensor), made
        torch.testing.assert_close(made, some.inputs[min(used)], rtol=0, atol=1e-5 * scale)
        return
    standing = [each if place in used else some.inputs[min(used)] for place, each in enumerate(some.inputs)]
    again = replace(some, inputs=standing).made()
    if isinstance(made, str) or isinstance(again, str):
        assert made == again
    else:
        torch.testing.assert_close(made, again, rtol=0, atol=1e-5 * scale)


SEEDED = [name for name in TRIALS if METHODS[name].parameter("seed") is not None]


@pytest.mark.parametrize("name", SEEDED)
@given(seed=st.integers(0, 2**64 - 1), other=st.integers(0, 2**64 - 1))
@examples(5)
def test_a_seed_gives_the_same_again_and_another_another(name: str, seed: int, other: int) -> None:
    """As does the name of the tensor: equal tensors of a model get masks and noise of their own."""
    assume(seed != other)
    for chosen in TRIALS[name].settings:
        if "seed" not in chosen:
            continue
        x = tensors("random", (40, 30), count_for(name, chosen) + 1)[1:]
        first, second = (Some(name, call_for(name, (40, 30), {**chosen, "seed": each}), x) for each in (seed, other))
        made = first.made()
        assert isinstance(made, Tensor)
        assert _same(made, first.made())
        assert not _same(made, second.made())
        assert not _same(made, replace(first, call=replace(first.call, tensor="block.1.weight")).made())


# ---- the statistics ----


def _all_kernels() -> Iterator[Kernel]:
    """Yield the kernels of all modules, in the catalog or not."""
    for module in iter_modules(kernels.__path__):
        yield from getattr(import_module(f"{kernels.__name__}.{module.name}"), "KERNELS", {}).values()


def test_a_statistic_has_its_name_to_itself() -> None:
    """What is found is kept by name, arguments and version: two statistics that share these would share findings."""
    named: dict[tuple[str, int], Statistic] = {}
    for statistic in (kernel.statistic for kernel in _all_kernels() if kernel.statistic is not None):
        assert named.setdefault((statistic.name, statistic.version), statistic) is statistic
    assert named


class _Watched(dict[str, Argument]):
    """Arguments that know which of them were asked for."""

    def __init__(self, arguments: Mapping[str, Argument]) -> None:
        super().__init__(arguments)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Argument:
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", [name for name in TRIALS if KERNELS[name].statistic is not None])
def test_a_statistic_depends_on_what_it_says(name: str) -> None:
    """On the parameters that it lists, and on the tensor's name only if it lists some: it is kept by these."""
    kernel = KERNELS[name]
    assert kernel.statistic is not None
    for chosen in TRIALS[name].settings:
        call = call_for(name, (16, 24), chosen)
        watched = _Watched(call.arguments)
        x = [each.view(-1) for each in tensors("random", (16, 24), count_for(name, chosen))]
        state = state_of(kernel.statistic, kernel.grain, replace(call, arguments=watched), x, None)
        assert watched.asked <= set(kernel.statistic.arguments)
        if not kernel.statistic.arguments:
            other = replace(call, tensor="block.1.weight")
            again = state_of(kernel.statistic, kernel.grain, other, x, random.Random(1))
            assert repr(state) == repr(again)


@pytest.mark.parametrize("name", [name for name in TRIALS if KERNELS[name].statistic is not None])
def test_what_was_found_serves_again(name: str) -> None:
    """For other members of a sweep, and as text for the next build, where it is a text at all."""
    kernel = KERNELS[name]
    assert kernel.statistic is not None
    for chosen in TRIALS[name].settings:
        call = call_for(name, (16, 24), chosen)
        x = tensors("random", (16, 24), count_for(name, chosen))
        x = [x[0], *(x[0] + (2 * each).round() / 2 for each in x[1:])]
        flat = [each.reshape(-1) for each in x]
        state = state_of(kernel.statistic, kernel.grain, call, flat, None)
        states = [state, state]
        with suppress(TypeError):
            states.append(_frozen(json.loads(json.dumps(state))))
        made = [kernel.apply(call, flat, 0, each).reshape(-1) for each in states]
        assert all(_same(made[0], each) for each in made)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def test_working_sets_hold_the_inputs() -> None:
    """A method that needs a tensor whole says how much memory that is; others need none worth saying."""
    for name, kernel in KERNELS.items():
        assert (kernel.working_set is not None) == (kernel.grain is Grain.TENSOR)
        for chosen, shape in ((chosen, shape) for chosen in TRIALS[name].settings for shape in SHAPES):
            count = count_for(name, chosen)
            if kernel.working_set is not None:
                assert kernel.working_set(call_for(name, shape, chosen), count) >= 4 * count * prod(shape)
