"""The numbers of `adjust`: factors for a UNet's first and last layers, and an offset in the latent space. No torch.

Channel 0 of a latent is contrast. The other three are a mix of brightness and three axes of color, which differs
between the autoencoders of SD and SDXL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from mergebuild.methods.call import Call
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of

__all__ = ["factor_of", "offset_of"]

_THIRD = Fraction(1, 3)
_SD = ((-1, _THIRD, 2 * _THIRD), (1, 1, 0), (0, -1, -1), (1, 0, 1))
_SDXL = ((0, 0, 1), (1, 0, 0), (-1, -1, 0), (-1, 1, 0))
_COLORS: Mapping[str, Sequence[Sequence[Fraction | int]]] = {"sd15": _SD, "sd2": _SD, "sdxl": _SDXL}
"""For each layout a matrix: how much brightness and each axis of color (rows) add to the channels 1 to 3 (columns)."""

_SCALES = {"input_blocks.0.0": "in", "out.0": "out", "out.2": "out2"}


def offset_of(call: Call) -> list[float] | None:
    """Return the float32 that is added to each channel of the latent; None for a tensor that is multiplied instead.

    Raises:
        UndefinedError: the channels' meaning is unknown, as the layout is none of SD1, SD2 and SDXL.
    """
    if _place(call) != ("out.2", "bias"):
        return None
    rows = _COLORS.get(call.word("layout"))
    if rows is None or call.count != 4:
        message = "colors are known of the latent spaces of SD1, SD2 and SDXL, of 4 channels"
        raise UndefinedError(message)
    amounts = [call.number(name) for name in ("bri", "col1", "col2", "col3")]
    colors = [sum((amount * row[j] for amount, row in zip(amounts, rows, strict=True)), Fraction(0)) for j in range(3)]
    return [float32_of(each / 50) for each in (call.number("cont"), *colors)]


def factor_of(call: Call) -> float:
    """Return the float32 by which a tensor is multiplied to which nothing is added."""
    layer, part = _place(call)
    amount = call.number(_SCALES[layer])
    return float32_of(1 - amount / 100 if part == "weight" else 1 + amount / 50)


def _place(call: Call) -> tuple[str, str]:
    layer, _, part = call.tensor.removeprefix("model.diffusion_model.").rpartition(".")
    return layer, part
