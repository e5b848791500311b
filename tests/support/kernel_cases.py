"""Inputs for tests of kernels, and calls made from the rows of the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Argument, Call
from mergebuild.methods.method import Method

__all__ = ["KINDS", "SHAPES", "call_of", "tensors"]

SHAPES: Sequence[tuple[int, ...]] = ((), (1,), (7,), (1, 8), (8, 1), (16, 24), (4, 3, 3, 3), (0, 5))

KINDS: Sequence[str] = ("random", "fine-tunes", "identical", "one delta zero", "one zero", "all zero", "antipodal")
"""How the inputs are related to each other. If a method has a base, it is the first input."""


def tensors(kind: str, shape: tuple[int, ...], count: int, seed: int = 0) -> list[Tensor]:
    """Return `count` float32 tensors of a kind."""
    source = torch.Generator().manual_seed(1000 * seed + sum(shape) + 17 * count + 131 * KINDS.index(kind))

    def normal() -> Tensor:
        return torch.randn(shape, generator=source)

    first = normal()
    match kind:
        case "random":
            return [first, *(normal() for _ in range(count - 1))]
        case "fine-tunes":
            return [first, *(first + 0.01 * normal() for _ in range(count - 1))]
        case "identical":
            return [first.clone() for _ in range(count)]
        case "one delta zero":
            return [first, first.clone(), *(normal() for _ in range(count - 2))]
        case "one zero":
            return [first, torch.zeros(shape), *(normal() for _ in range(count - 2))]
        case "all zero":
            return [torch.zeros(shape) for _ in range(count)]
        case "antipodal":
            return [first, -first, *(normal() for _ in range(count - 2))]
    raise AssertionError(kind)


def call_of(
    row: Method, shape: tuple[int, ...], models: int, given: Mapping[str, object], *, has_base: bool = True
) -> Call:
    """Return a call with the arguments in `given`, as plain numbers, and the row's defaults for all others."""
    arguments: dict[str, Argument] = {"has_base": has_base} if row.optional else {}
    for parameter in row.parameters:
        value = given.get(parameter.name, parameter.default)
        assert value is not None, parameter.name
        if parameter.kind in ("number", "integer"):
            each = value if isinstance(value, Sequence) else [value] * models
            arguments[parameter.name] = (
                tuple(Fraction(str(number)) for number in each) if parameter.per == "model" else Fraction(str(value))
            )
        else:
            assert isinstance(value, bool | str)
            assert parameter.kind != "word" or value in parameter.choices
            arguments[parameter.name] = value
    assert set(given) <= set(arguments)
    return Call("block.0.weight", shape, arguments)
