"""The named curves of block weights, from closed forms: 26 exact numbers, BASE first, then IN00 to OUT11.

`i` counts the 25 blocks of the UNet from 0, `x = i/24`, `S(x) = x^2 (3 - 2x)`, and `fold(u)` is the triangle wave `1 -
|1 - (u mod 2)|`. BASE is 0 except in ALL_B. All numbers are rational except the cosines, which are computed to more
than 50 digits and rounded to 30. Names are those of supermerger (`SMOOTHSTEP*2`, `R_SMOOTHSTEP/3`) and of sd-meh
(`2SMOOTHSTEP`, `ONE_THIRD_R_SMOOTHSTEP`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from types import MappingProxyType

from mergebuild.layouts.layout import Layout
from mergebuild.recipe.model import Preset

__all__ = ["BLOCKS", "PRESETS", "SHORT_BLOCKS", "preset_blocks", "preset_numbers", "preset_values"]

_COUNT = 25
BLOCKS: tuple[str, ...] = (
    "BASE",
    *(f"IN{number:02}" for number in range(12)),
    "M00",
    *(f"OUT{number:02}" for number in range(12)),
)
"""The blocks of the 26 numbers, in their order."""
SHORT_BLOCKS: tuple[str, ...] = tuple(block for block in BLOCKS if block[-2:] not in {"09", "10", "11"})
"""The 20 of these blocks that SDXL has; each gets the number of the block with the same name."""

_HALF = Fraction(1, 2)
Curve = Callable[[int], Fraction]
"""A function from a block's index, 0 to 24, to its number."""


def _x(i: int) -> Fraction:
    return Fraction(i, _COUNT - 1)


def _smooth(x: Fraction) -> Fraction:
    return x * x * (3 - 2 * x)


def _fold(u: Fraction) -> Fraction:
    return 1 - abs(1 - u % 2)


def _constant(number: Fraction | int) -> Curve:
    return lambda _i: Fraction(number)


def _reverse(curve: Curve) -> Curve:
    return lambda i: 1 - curve(i)


def _smoothstep_times(m: int) -> Curve:
    return lambda i: _fold(m * _smooth(_x(i)))


def _smoothstep_over(m: int) -> Curve:
    return lambda i: _smooth(_fold(m * _x(i)))


def _wrap(blocks: int) -> Curve:
    return lambda i: Fraction(i < blocks // 2 or i >= _COUNT - blocks // 2)


def _on(*ranges: tuple[str, str], value: Fraction | int = 1) -> Curve:
    """Return a curve that is `value` on ranges of blocks and 0 elsewhere."""
    places = [(BLOCKS.index(first) - 1, BLOCKS.index(last) - 1) for first, last in ranges]
    return lambda i: Fraction(value) if any(first <= i <= last for first, last in places) else Fraction(0)


def _sum(*curves: Curve) -> Curve:
    return lambda i: sum((curve(i) for curve in curves), Fraction(0))


def _fake_hermite(i: int) -> Fraction:
    x = _x(i)
    return (38 * x**3 - 57 * x**2 + 25 * x) / 6


def _true_hermite(i: int) -> Fraction:
    return _fake_hermite(i) + (1 - _smooth(_x(i))) / 24 if i else Fraction(0)


def _cosine(i: int) -> Fraction:
    """Return `(1 + cos(pi x)) / 2`. The second half is 1 minus the first, so nothing cancels and 0 is exact."""
    with localcontext(Context(prec=60)):
        half = (1 + _cos(_pi() * min(i, _COUNT - 1 - i) / (_COUNT - 1))) / 2
        value = half if 2 * i < _COUNT else 1 - half
    return Fraction(Context(prec=30).plus(value))


def _pi() -> Decimal:
    """Return pi to the context's precision (Machin: pi = 16 atan(1/5) - 4 atan(1/239))."""
    with localcontext() as context:
        context.prec += 10
        return 16 * _arctan_of_inverse(5) - 4 * _arctan_of_inverse(239)


def _arctan_of_inverse(n: int) -> Decimal:
    power = total = Decimal(1) / n
    k = 1
    while True:
        power /= -n * n
        k += 2
        if total + power / k == total:
            return total
        total += power / k


def _cos(x: Decimal) -> Decimal:
    """Return the cosine of 0 <= x <= pi/2 by its series; ten extra digits are enough to lose no precision there."""
    with localcontext() as context:
        context.prec += 10
        term = total = Decimal(1)
        k = 0
        while True:
            k += 2
            term = -term * x * x / (k * (k - 1))
            if total + term == total:
                return total
            total += term


def _curves() -> dict[str, Curve]:
    curves: dict[str, Curve] = {
        "GRAD_V": lambda i: abs(2 * _x(i) - 1),
        "GRAD_A": lambda i: 1 - abs(2 * _x(i) - 1),
        "FLAT_25": _constant(Fraction(1, 4)),
        "FLAT_75": _constant(Fraction(3, 4)),
        "WRAP08": _wrap(8),
        "WRAP12": _wrap(12),
        "WRAP14": _wrap(14),
        "WRAP16": _wrap(16),
        "MID12_50": _on(("IN05", "OUT05"), value=_HALF),
        "OUT07": _on(("OUT05", "OUT11")),
        "OUT12": _on(("OUT00", "OUT11")),
        "OUT12_5": _sum(_on(("OUT00", "OUT11")), _on(("M00", "M00"), value=_HALF)),
        "RING08_SOFT": _sum(
            _on(("IN06", "IN08"), ("OUT03", "OUT05")),
            _on(("IN05", "IN05"), ("IN09", "IN09"), ("OUT02", "OUT02"), ("OUT06", "OUT06"), value=_HALF),
        ),
        "RING08_5": _on(("IN06", "IN09"), ("OUT02", "OUT05")),
        "RING10_5": _on(("IN05", "IN09"), ("OUT02", "OUT06")),
        "RING10_3": _on(("IN06", "IN10"), ("OUT01", "OUT05")),
        "ALL_A": _constant(0),
        "ALL_B": _constant(1),
        "SMOOTHSTEP": lambda i: _smooth(_x(i)),
        "COSINE": _cosine,
        "FAKE_CUBIC_HERMITE": _fake_hermite,
        "TRUE_CUBIC_HERMITE": _true_hermite,
        "REVERSE_COSINE": lambda i: _cosine(_COUNT - 1 - i),
        "FAKE_REVERSE_CUBIC_HERMITE": _reverse(_fake_hermite),
        "TRUE_REVERSE_CUBIC_HERMITE": _reverse(_true_hermite),
    }
    return curves | _more_smoothsteps(curves["SMOOTHSTEP"])


def _more_smoothsteps(smoothstep: Curve) -> dict[str, Curve]:
    """Return variants of a curve, by all of their names: reversed, repeated 2, 3 or 4 times, or only a part of it."""
    curves = dict.fromkeys(("REVERSE_SMOOTHSTEP", "REVERSE-SMOOTHSTEP", "R_SMOOTHSTEP"), _reverse(smoothstep))
    for m, part in ((2, "HALF"), (3, "ONE_THIRD"), (4, "ONE_FOURTH")):
        times, over = _smoothstep_times(m), _smoothstep_over(m)
        curves[f"SMOOTHSTEP*{m}"] = curves[f"{m}SMOOTHSTEP"] = times
        curves[f"R_SMOOTHSTEP*{m}"] = curves[f"{m}R_SMOOTHSTEP"] = _reverse(times)
        curves[f"SMOOTHSTEP/{m}"] = curves[f"{part}_SMOOTHSTEP"] = over
        curves[f"R_SMOOTHSTEP/{m}"] = curves[f"{part}_R_SMOOTHSTEP"] = _reverse(over)
    return curves


PRESETS: Mapping[str, Curve] = MappingProxyType(_curves())
"""The curve of every preset, by each of its names. It maps indexes 0 (IN00) to 24 (OUT11) to numbers."""


@cache
def preset_values(name: str) -> Mapping[str, Fraction]:
    """Return the 26 numbers of a preset by block, BASE first.

    Raises:
        KeyError: no preset has this name.
    """
    curve = PRESETS[name]
    base = Fraction(name == "ALL_B")
    return MappingProxyType(dict(zip(BLOCKS, (base, *map(curve, range(_COUNT))), strict=True)))


def preset_blocks(layout: Layout) -> tuple[str, ...] | None:
    """Return the blocks of a layout that presets reach.

    None if presets don't apply to it, by its lists of block weights.
    """
    lists = {frozenset(blocks) for blocks in layout.mbw}
    return next((blocks for blocks in (BLOCKS, SHORT_BLOCKS) if frozenset(blocks) in lists), None)


def preset_numbers(preset: Preset, layout: Layout) -> Mapping[str, Fraction]:
    """Return the numbers of a preset by block of the layout, with 0 and 1 mapped to `low` and `high`.

    Raises:
        KeyError: no preset has this name.
        ValueError: presets don't apply to this layout.
    """
    values = preset_values(preset.name)
    blocks = preset_blocks(layout)
    if blocks is None:
        message = f"presets are curves over the blocks of a UNet, and layout {layout.name} has others"
        raise ValueError(message)
    return {block: preset.low + (preset.high - preset.low) * values[block] for block in blocks}
