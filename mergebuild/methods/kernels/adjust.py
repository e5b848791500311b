"""Changes of a UNet's first and last layers: scales of six tensors, and an offset in the latent space.

What a latent's channels mean differs between the autoencoders of SD and SDXL; so does the matrix that turns brightness
and three axes of color into an offset of the channels 1 to 3. Channel 0 is contrast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from mergebuild.methods.kernels.kernel import Call, Kernel, State
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of

__all__ = ["KERNELS"]

_THIRD = Fraction(1, 3)
_SD = ((-1, _THIRD, 2 * _THIRD), (1, 1, 0), (0, -1, -1), (1, 0, 1))
_SDXL = ((0, 0, 1), (1, 0, 0), (-1, -1, 0), (-1, 1, 0))
_COLORS: Mapping[str, Sequence[Sequence[Fraction | int]]] = {"sd15": _SD, "sd2": _SD, "sdxl": _SDXL}
"""By layout: what brightness and each axis of color (rows) add to the channels 1 to 3."""

_SCALES = {"input_blocks.0.0": "in", "out.0": "out", "out.2": "out2"}


def _adjust(call: Call, chunks: Sequence[Tensor], start: int, _state: State) -> Tensor:
    layer, _, part = call.tensor.removeprefix("model.diffusion_model.").rpartition(".")
    if layer == "out.2" and part == "bias":
        return chunks[0] + torch.tensor(_offset(call)[start : start + len(chunks[0])]).to(chunks[0].device)
    amount = call.number(_SCALES[layer])
    factor = 1 - amount / 100 if part == "weight" else 1 + amount / 50
    return chunks[0] * float32_of(factor)


def _offset(call: Call) -> list[float]:
    """Return what is added to each channel of the latent, rounded to float32 once."""
    rows = _COLORS.get(call.word("layout"))
    if rows is None or call.count != 4:
        message = "colors are known of the latent spaces of SD1, SD2 and SDXL, of 4 channels"
        raise UndefinedError(message)
    amounts = [call.number(name) for name in ("bri", "col1", "col2", "col3")]
    colors = [sum((amount * row[j] for amount, row in zip(amounts, rows, strict=True)), Fraction(0)) for j in range(3)]
    return [float32_of(each / 50) for each in (call.number("cont"), *colors)]


KERNELS: Mapping[str, Kernel] = {"adjust": Kernel(_adjust)}
