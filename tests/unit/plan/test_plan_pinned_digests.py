"""Digests that stores hold: of each kind of tensor, and of what is found out about tensors. None may ever change.

A digest that changes has every output of that kind built again: that takes another version of the method, or of the
schema, and a line under *Rebuilds* in the changelog.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from mergebuild.engine.makers import Operating
from mergebuild.engine.work import KernelCall, Step
from mergebuild.fold.forms import Form, Kinds, Operation, Slot, Spec
from mergebuild.methods.arguments import Argument
from mergebuild.methods.catalog import METHODS, Method
from mergebuild.methods.making import OwnProgram, Program
from mergebuild.methods.tables.lora import FACTOR
from mergebuild.plan.made import Made, Origin
from mergebuild.plan.tensors import Grid

ORIGINS = {
    "x": Origin(bytes.fromhex("11" * 16), "float16", 64),
    "y": Origin(bytes.fromhex("22" * 16), "float32", 64),
    "z": Origin(bytes.fromhex("33" * 16), "float64", 64),
    "made": Origin(bytes.fromhex("44" * 16), "float32", 64, is_made=True),
}
OWN = """
from mergebuild.kernels import Kernel, Statistic
none = Statistic("none", lambda call: 0, lambda call, account, chunks, start: account, lambda call, account: account)
KERNELS = {"own": Kernel(lambda call, chunks, start, state: chunks[0], none)}
"""
OWN_METHOD = Method("own", ("a",), (), "", "", OwnProgram(Program("own.py", OWN, "")))
INEXACT = replace(METHODS["slerp"], exact=False)
THIRD: dict[str, Argument] = {"t": Fraction(1, 3)}
MANY: dict[str, Argument] = {
    "weight": (Fraction(1, 2), Fraction(-3)),
    "density": (Fraction(1), Fraction(1, 10)),
    "normalize": True,
    "rescale": False,
    "seed": Fraction(7),
    "vote": "sum",
}


def linear(**shares: str) -> Form:
    return Form(tuple((Slot(owner), Fraction(share)) for owner, share in shares.items()))


X, Y, Z, MADE = (linear(**{owner: "1"}) for owner in ORIGINS)


def made_of(form: Form, dtype: str = "float16", *, device: str = "cpu", names: tuple[str, ...] = ("w",)) -> list[Made]:
    """Return what a form comes to, for tensors of one shape."""
    specs = {name: Spec(dtype, (4, 8), is_float=True) for name in names}
    kinds = Kinds(dict.fromkeys(names, 0), specs)
    grid = Grid(names, specs, kinds, [form.slots], lambda owner, _tensor: ORIGINS[owner], device)
    return list(grid.tensors((form,)).made)


def digest(form: Form, dtype: str = "float16", *, device: str = "cpu") -> bytes:
    (made,) = made_of(form, dtype, device=device)
    return made.digest


def operation(method: Method, arguments: Mapping[str, Argument], *inputs: Form) -> Form:
    return Form((), Operation(method, tuple(sorted(arguments.items())), inputs))


def surveyed() -> list[Made]:
    first = replace(METHODS["cosine_a"], version=1)  # it has another since
    return made_of(operation(first, {"alpha": Fraction(1, 4)}, X, Y), names=("w.weight", "v.weight"))


def survey() -> bytes:
    one, two = surveyed()
    assert one.survey is not None
    assert one.survey is two.survey
    return one.survey.key


def factor() -> Made:
    arguments: dict[str, Argument] = {"making": "a text", "role": "down"}
    form = Form((), Operation(FACTOR, tuple(arguments.items()), (linear(x="1", y="-1"),), ((4, 8),)))
    (made,) = made_of(form)
    return made


def statistic(method: Method, arguments: Mapping[str, Argument], *, device: str = "cpu") -> bytes:
    inputs = (ORIGINS["x"].digest, ORIGINS["y"].digest, ORIGINS["z"].digest)
    call = KernelCall(method, "w", (4, 8), arguments, inputs)
    key = Operating(Step(b"s" * 16, "float32", 32, (), operation=call), (0, 1, 2), None, call).state_key(
        torch.device(device)
    )
    assert key is not None
    return key


CASES: dict[str, Callable[[], bytes]] = {
    "two inputs": lambda: digest(linear(x="3/10", y="7/10")),
    "rounded": lambda: digest(Y),
    "a copy": lambda: digest(Y, "float32"),
    "narrowed": lambda: digest(Z, "bfloat16"),
    "float64 to float32": lambda: digest(Z, "float32"),
    "nothing": lambda: digest(Form(())),
    "an operation": lambda: digest(operation(METHODS["slerp"], THIRD, X, Y)),
    "an operation on a combination": lambda: digest(operation(METHODS["slerp"], THIRD, linear(x="1/2", y="1/2"), Y)),
    "an operation on what a target makes": lambda: digest(operation(METHODS["slerp"], THIRD, X, MADE)),
    "numbers, flags and words": lambda: digest(operation(METHODS["dare_ties"], MANY, X, Y, Z)),
    "a method that is not exact": lambda: digest(operation(INEXACT, THIRD, X, Y), device="cuda"),
    "a user's own method": lambda: digest(operation(OWN_METHOD, {}, X)),
    "a survey": survey,
    "a tensor of a survey": lambda: surveyed()[0].digest,
    "another tensor of a survey": lambda: surveyed()[1].digest,
    "a computation of several tensors": lambda: factor().together,
    "a tensor of a computation of several": lambda: factor().digest,
    "a statistic": lambda: statistic(METHODS["slerp"], THIRD),
    "a statistic with words": lambda: statistic(METHODS["nuslerp"], {"has_base": False, "per": "row"}),
    "a statistic with numbers": lambda: statistic(METHODS["sce"], {"select_topk": Fraction(1, 2)}),
    "a statistic with a number a model": lambda: statistic(METHODS["ties"], MANY),
    "a statistic of a device": lambda: statistic(INEXACT, THIRD, device="cuda"),
    "a statistic of a user's own": lambda: statistic(OWN_METHOD, {}),
}

PINNED = {
    "two inputs": "d4341d207135ebc285574800afb89e14",
    "rounded": "415f0e4ac902b013ee1b303b7316e76d",
    "a copy": "22222222222222222222222222222222",
    "narrowed": "fef76516d3a23c6ec5cdbd9695c5a775",
    "float64 to float32": "3bfb022290fa5e404df9a851d4efb766",
    "nothing": "883c631c3ab7e760869db77a0c1ee395",
    "an operation": "af38dec428f52300d060b8c967b36eba",
    "an operation on a combination": "75697310a6702da971f621dfafae8484",
    "an operation on what a target makes": "77946ec40d2eaad38cf86549a3eb93c7",
    "numbers, flags and words": "d361af33380fae97767c68309a99ff82",
    "a method that is not exact": "6d4e82b792b2059fcb442c9af9113d8b",
    "a user's own method": "4cf2657fb695745963925c6ce83c8f2d",
    "a survey": "5c879a38ffef230410a2e8bafd8ec99c",
    "a tensor of a survey": "35a9fe9d82a7f872c15ae22c8aeeeef0",
    "another tensor of a survey": "e839ff79d33e29af4627c19bcbba123e",
    "a computation of several tensors": "9be6d11d0d53bfee193b81e0a86e6c2c",
    "a tensor of a computation of several": "c9f1e3b6f2e424119ca769445f76d93b",
    "a statistic": "883417de31fbe3d8d85a702fc0e61d40",
    "a statistic with words": "2ba6bd22c6b414323b46e0e98bacd173",
    "a statistic with numbers": "20598fde1049539c52ce219ea1dd00df",
    "a statistic with a number a model": "9bdb28a3d74c4e6c751b42fdc65dee22",
    "a statistic of a device": "66f9d86cbcc57a781dd50296a6ab13c2",
    "a statistic of a user's own": "b0a348c8623ec28812e4938e64c9eaec",
}


@pytest.mark.parametrize("case", CASES)
def test_what_stores_hold_is_found_again(case: str) -> None:
    assert CASES[case]().hex() == PINNED[case]
