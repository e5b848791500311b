"""Methods that make each element from the inputs' elements at the same index; see `methods/kernels/elementwise.py`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction

from mergebuild.methods.call import Call
from mergebuild.methods.compiled.method import Applied, Chunk, CompiledMethod, CompiledStatistic
from mergebuild.methods.emphases import emphases
from mergebuild.methods.latents import factor_of, offset_of
from mergebuild.methods.noise import rescaling, takes_noise
from mergebuild.methods.scalars import cos_pi_of
from mergebuild.methods.shares import float32_of
from mergebuild.methods.streams import key_of, threshold_of
from mergebuild.native import Prepared, count_active, packed, packed_doubles

__all__ = ["COMPILED"]


def _gate(name: str, scale: Fraction) -> CompiledMethod:
    """Return the form of a method that adds a gated difference to a, times `scale * alpha`."""

    def apply(call: Call, _count: int, _state: object) -> Applied:
        alpha = call.number("alpha")
        if not alpha:
            return Applied.copy_of(0)
        return Applied(Prepared(name, 0, packed([float32_of(scale * alpha)])), (0, 1, 2))

    return CompiledMethod(apply)


def _similarity_add_difference(call: Call, _count: int, _state: object) -> Applied:
    alpha, beta = call.number("alpha"), call.number("beta")
    if not alpha:
        return Applied.copy_of(0)
    numbers = packed([float32_of(each) for each in (alpha, beta / 2, beta)])
    return Applied(Prepared("similarity_add_difference", int(beta != 0), numbers), (0, 1, 2))


def _max(_call: Call, _count: int, _state: object) -> Applied:
    return Applied(Prepared("greater"), (0, 1))


def _clamp(call: Call, count: int, _state: object) -> Applied:
    stiffness = call.number("stiffness")
    how = 2 if stiffness == 1 else int(stiffness != 0)
    return Applied(Prepared("clamp", how, packed([float32_of(stiffness)])), range(count))


def _nearswap(call: Call, _count: int, _state: object) -> Applied:
    threshold = float32_of(call.number("t"))
    if not threshold:
        return Applied.copy_of(0)
    return Applied(Prepared("nearswap", 0, packed([threshold])), (0, 1))


def _ram(call: Call, count: int, _state: object) -> Applied:
    return Applied(Prepared("ram", 0, packed([float32_of(call.number("epsilon"))])), range(count))


def _ramplus_tl(call: Call, count: int, state: Sequence[int]) -> Applied:
    numbers = packed([float32_of(call.number("epsilon")), *emphases(call, state)])
    return Applied(Prepared("ram", 1, numbers), range(count))


def _begin_counts(_call: Call, inputs: int) -> list[int]:
    return [0] * (2 * (inputs - 1))


def _look_at_counts(call: Call, account: list[int], chunks: Sequence[Chunk], span: tuple[int, int]) -> None:
    for index, more in enumerate(count_active(chunks, span[1], float32_of(call.number("epsilon")))):
        account[index] += more


def _end_counts(_call: Call, account: list[int]) -> tuple[int, ...]:
    return tuple(account)


def _multiply_difference(call: Call, _count: int, _state: object) -> Applied:
    alpha, beta = call.number("alpha"), call.number("beta")
    if alpha == beta and alpha in {0, 1}:
        return Applied.copy_of(int(alpha))
    simpler = {Fraction(0): 1, Fraction(1): 2}
    option = simpler.get(alpha, 0) | simpler.get(beta, 0) << 2
    numbers = packed_doubles([float(1 - alpha), float(alpha), float32_of(beta)])
    return Applied(Prepared("multiply_difference", option, numbers), (0, 1, 2))


def _geometric(call: Call, _count: int, _state: object) -> Applied:
    alpha = call.number("alpha")
    if alpha in {0, 1}:
        return Applied.copy_of(int(alpha))
    numbers = packed_doubles([float(1 - alpha), float(alpha), cos_pi_of(alpha)])
    return Applied(Prepared("geometric", 0, numbers), (0, 1))


def _multiply_quotient(call: Call, _count: int, _state: object) -> Applied:
    alpha = call.number("alpha")
    if not alpha:
        return Applied.copy_of(0)
    return Applied(Prepared("multiply_quotient", 0, packed_doubles([float(alpha)])), (0, 1, 2))


def _plus_random(call: Call, _count: int, _state: object) -> Applied:
    alpha = float32_of(call.number("alpha"))
    if not alpha or not takes_noise(call.tensor):
        return Applied.copy_of(0)
    numbers = struct.pack("=Qf4x", key_of(int(call.number("seed")), call.tensor, 0), alpha)
    return Applied(Prepared("plus_random", 0, numbers), (0,))


def _dropout(call: Call, count: int, _state: object) -> Applied:
    kept = 1 - call.number("probability")
    if kept <= 0:
        return Applied.copy_of(0)
    if kept >= 1 and count == 2:
        return Applied.copy_of(1)
    keys = [key_of(int(call.number("seed")), call.tensor, position) for position in range(1, count)]
    factor = rescaling(kept, call.number("rescale"))
    numbers = struct.pack(f"=Qf4x{len(keys)}Q", threshold_of(kept), factor, *keys)
    return Applied(Prepared("dropout", 0, numbers), range(count))


def _adjust(call: Call, _count: int, _state: object) -> Applied:
    offset = offset_of(call)
    if offset is None:
        return Applied(Prepared("linear", -1, packed([factor_of(call)])), (0,))
    return Applied(Prepared("add_numbers", 0, packed(offset)), (0,))


COMPILED: Mapping[str, CompiledMethod] = {
    "train_difference": _gate("train_difference", Fraction(9, 5)),
    "add_opposite": _gate("add_opposite", Fraction(2)),
    "add_strict_opposite": _gate("add_strict_opposite", Fraction(2)),
    "similarity_add_difference": CompiledMethod(_similarity_add_difference),
    "max": CompiledMethod(_max),
    "clamp": CompiledMethod(_clamp),
    "nearswap": CompiledMethod(_nearswap),
    "ram": CompiledMethod(_ram),
    "ramplus_tl": CompiledMethod(
        _ramplus_tl,
        CompiledStatistic(
            "lone and shared differences", _begin_counts, _look_at_counts, _end_counts, arguments=("epsilon",)
        ),
    ),
    "multiply_difference": CompiledMethod(_multiply_difference),
    "geometric": CompiledMethod(_geometric),
    "multiply_quotient": CompiledMethod(_multiply_quotient),
    "plus_random": CompiledMethod(_plus_random),
    "dropout": CompiledMethod(_dropout),
    "adjust": CompiledMethod(_adjust),
}
