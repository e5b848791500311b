"""What `adjust` does to a UNet's first and last layers: factors, and an offset in the latent space. No torch.

What a latent's channels mean differs between the autoencoders of SD and SDXL; so does the matrix that turns brightness
and three axes of color into an offset of the channels 1 to 3. Channel 0 is contrast.
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
"""By layout: what brightness and each axis of color (rows) add to the channels 1 to 3."""

_SCALES = {"input_blocks.0.0": "in", "out.0": "out", "out.2": "out2"}


def offset_of(call: Call) -> list[float] | None:
    """Return what is added to each channel of the latent, rounded to float32 once; None of a tensor that is scaled.

    Raises:
        UndefinedError: it is not known what the channels mean.
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
    """Return the float32 by which all other tensors are multiplied."""
    layer, part = _place(call)
    amount = call.number(_SCALES[layer])
    return float32_of(1 - amount / 100 if part == "weight" else 1 + amount / 50)


def _place(call: Call) -> tuple[str, str]:
    layer, _, part = call.tensor.removeprefix("model.diffusion_model.").rpartition(".")
    return layer, part
