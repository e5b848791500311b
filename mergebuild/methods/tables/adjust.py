"""The row of `adjust`: changes to a UNet's first and last layers that affect detail, contrast, brightness and color."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import NamedTensors
from mergebuild.methods.method import Method, Parameter

__all__ = ["ROWS"]

_UNET = "model.diffusion_model."
_CHANGED = frozenset(
    f"{_UNET}{layer}.{part}" for layer in ("input_blocks.0.0", "out.0", "out.2") for part in ("weight", "bias")
)


def _number(name: str, summary: str) -> Parameter:
    return Parameter(name, f"{summary}; usual from -5 to 5", default=Fraction(0))


ROWS: Sequence[Method] = (
    Method(
        "adjust",
        ("a",),
        (
            _number("in", "detail and noise at the input: more blurs"),
            _number("out", "detail at the last normalization"),
            _number("out2", "detail at the output"),
            _number("cont", "contrast"),
            _number("bri", "brightness"),
            _number("col1", "color, first axis"),
            _number("col2", "color, second axis"),
            _number("col3", "color, third axis"),
        ),
        "input_blocks.0.0, out.0: weight * (1 - in / 100), bias * (1 + in / 50), and so by out; out.2: weight * "
        "(1 - out2 / 100), bias + (cont, c_1, c_2, c_3) / 50, c = (bri, col1, col2, col3) times a matrix of the latent "
        "space; all other tensors are a's",
        "Change detail, contrast, brightness and color of what a checkpoint draws.",
        NamedTensors("adjust", _CHANGED.__contains__),
        aliases=("fine", "fineman"),
        differs="A target of its own, applied after a merge. The matrix is SDXL's for SDXL, and that of SD1 for SD1 "
        "and SD2; for other layouts it is an error.",
        cite="supermerger; sd-webui-model-mixer",
    ),
)
