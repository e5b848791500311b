"""Six tensors of the UNet change as supermerger changes them, and no others."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product

import pytest
import torch
from kernel_driver import run

from mergebuild.methods.catalog import METHODS
from mergebuild.methods.kernels.adjust import KERNELS
from mergebuild.methods.kernels.kernel import Argument, Call
from mergebuild.methods.method import UndefinedError

UNET = "model.diffusion_model."
LAYERS = ("input_blocks.0.0", "out.0", "out.2")
NAMES = [f"{UNET}{layer}.{part}" for layer, part in product(LAYERS, ("weight", "bias"))]
VALUES = (1.5, -2.0, 3.0, 0.5, -1.0, 2.0, 4.0, -0.5)
WORDS = ("in", "out", "out2", "cont", "bri", "col1", "col2", "col3")
COLORS = {
    "sd15": ((-1, 1 / 3, 2 / 3), (1, 1, 0), (0, -1, -1), (1, 0, 1)),
    "sdxl": ((0, 0, 1), (1, 0, 0), (-1, -1, 0), (-1, 1, 0)),
}


def call(name: str, shape: tuple[int, ...], layout: str = "sd15", values: tuple[float, ...] = VALUES) -> Call:
    arguments: dict[str, Argument] = {word: Fraction(str(value)) for word, value in zip(WORDS, values, strict=True)}
    return Call(name, shape, {**arguments, "layout": layout})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", COLORS)
def test_each_tensor_changes_as_written(name: str, layout: str) -> None:
    shape = (4,) if name.endswith("bias") else (4, 6, 3, 3)
    a = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = run(KERNELS["adjust"], call(name, shape, layout), [a], random.Random(2))
    amount = dict(zip(LAYERS, VALUES, strict=False))[name.removeprefix(UNET).rpartition(".")[0]]
    if name == f"{UNET}out.2.bias":
        colors = [sum(0.02 * VALUES[4 + i] * row[j] for i, row in enumerate(COLORS[layout])) for j in range(3)]
        expected = a.double() + torch.tensor([0.02 * VALUES[3], *colors], dtype=torch.float64)
    else:
        factor = 1 - 0.01 * amount if name.endswith("weight") else 1 + 0.02 * amount
        expected = a.double() * factor
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_nothing_to_change_changes_nothing() -> None:
    a = torch.randn((4,), generator=torch.Generator().manual_seed(1))
    for name in NAMES:
        assert torch.equal(run(KERNELS["adjust"], call(name, (4,), values=(0,) * 8), [a], None), a)


def test_only_these_tensors_are_changed() -> None:
    others = ("out.2.bias", f"{UNET}out.1.weight", f"{UNET}input_blocks.0.1.weight")
    assert METHODS["adjust"].makes.taken_up(dict.fromkeys((*others, *NAMES), ()), {}) == list(NAMES)


@pytest.mark.parametrize("layout", ["flux", ""])
def test_colors_of_other_latents_are_not_known(layout: str) -> None:
    with pytest.raises(UndefinedError, match="latent"):
        run(KERNELS["adjust"], call(f"{UNET}out.2.bias", (4,), layout), [torch.zeros(4)], None)
