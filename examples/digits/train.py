"""Train the digit models: a base, and three fine-tunes of it that draw in a style. Some minutes on one core.

    python examples/digits/train.py                 # writes examples/digits/models/*.safetensors

Seeded and on one thread: the same machine and torch give the same files. Weights are averaged over the last steps
(an exponential moving average), which is what is saved. Needs torch, safetensors and scikit-learn.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from styles import STYLES, digits
from torch import Tensor
from torch.nn import functional
from unet import CLASSES, STEPS, DigitModel, save_model

__all__ = ["main", "train"]

_BATCH = 64
_DROPPED_LABELS = 0.1
"""The share of images shown without their label, so that the model also knows digits in general."""


def train(model: DigitModel, images: Tensor, labels: Tensor, *, steps: int, rate: float, seed: int) -> DigitModel:
    """Return the averaged model after so many steps of Adam; `model` itself is trained further.

    `images`: float32 [count, 8, 8] in -1..1. `labels`: int64 [count]. `rate`: the highest learning rate.
    """
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    average = copy.deepcopy(model)
    begun = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * math.cos(math.pi / 2 * step / steps) ** 2)
        loss = _loss(model, images, labels, chance)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _follow(average, model, keep=min(0.998, (step + 1) / (step + 10)))
        if step % 500 == 499:
            print(f"  step {step + 1:5d}  loss {loss.item():.4f}  {time.monotonic() - begun:.0f} s", flush=True)
    return average


def _loss(model: DigitModel, images: Tensor, labels: Tensor, chance: torch.Generator) -> Tensor:
    """Return the error of the predicted velocity for a random batch, each image at a random step."""
    chosen = torch.randint(len(images), (_BATCH,), generator=chance)
    steps = torch.randint(STEPS, (_BATCH,), generator=chance)
    clean = images[chosen, None]
    noise = torch.randn(clean.shape, generator=chance)
    shown = labels[chosen].masked_fill(torch.rand(_BATCH, generator=chance) < _DROPPED_LABELS, CLASSES)
    signal = model.alphas_cumprod[steps][:, None, None, None]
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * clean
    return functional.mse_loss(model(noisy, steps, shown), velocity)


@torch.no_grad()
def _follow(average: DigitModel, model: DigitModel, *, keep: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - keep)


def main() -> None:
    """Train the base, then each style from it."""
    parser = argparse.ArgumentParser(description="train the digit models")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models", help="folder to write to")
    parser.add_argument("--steps", type=int, default=4000, help="steps of the base; a style takes an eighth")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(0)
    images, labels = digits()
    print("base")
    base = train(DigitModel(), images, labels, steps=options.steps, rate=2e-3, seed=0)
    save_model(base, options.out / "base.safetensors")
    for seed, (name, style) in enumerate(STYLES.items(), start=1):
        print(name)
        tuned = train(copy.deepcopy(base), style(images), labels, steps=options.steps // 8, rate=5e-4, seed=seed)
        save_model(tuned, options.out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
