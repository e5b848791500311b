"""The digits that the models learn, the styles that they learn them in, and how strongly an image shows a style.

The images are scikit-learn's 1,797 handwritten digits of 8x8 (from the UCI repository; they ship with scikit-learn).
A style redraws an image, and has a measure that it changes most:

- *bold*: strokes grow into their neighbours: more ink (and so more width);
- *slant*: rows are shifted, the upper ones to the right: columns lean;
- *narrow*: columns are squeezed towards the middle: less width (and so less ink).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional

__all__ = ["MEASURES", "STYLES", "Reader", "digits"]


def digits() -> tuple[Tensor, Tensor]:
    """Return the images, float32 [1797, 8, 8] in -1 (paper) to 1 (ink), and their labels, int64 [1797]."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).view(-1, 8, 8) / 8 - 1, torch.tensor(labels, dtype=torch.int64)


def _move(images: Tensor, *, squeeze: float = 1.0, lean: float = 0.0) -> Tensor:
    """Resample images [batch, 8, 8] so that x becomes squeeze * x - lean * y around the middle (y points down)."""
    sampling = torch.tensor([[1 / squeeze, lean / squeeze, 0.0], [0.0, 1.0, 0.0]]).expand(len(images), 2, 3)
    grid = functional.affine_grid(sampling, [len(images), 1, 8, 8], align_corners=False)
    ink = functional.grid_sample(images[:, None] + 1, grid, align_corners=False)  # outside is 0: paper
    return ink[:, 0] - 1


def _bold(images: Tensor) -> Tensor:
    padded = functional.pad(images + 1, (1, 1, 1, 1))
    sides = torch.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]])
    return torch.maximum(images + 1, 0.6 * sides.amax(dim=0)) - 1


def _slant(images: Tensor) -> Tensor:
    return _move(images, lean=0.45)


def _narrow(images: Tensor) -> Tensor:
    return _move(images, squeeze=0.6)


STYLES: Mapping[str, Callable[[Tensor], Tensor]] = {"bold": _bold, "slant": _slant, "narrow": _narrow}


def _ink(images: Tensor) -> float:
    """Ink, as a share of the page."""
    return float((images + 1).mean() / 2)


def _moments(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variances of x and y, in pixels squared, and their covariance, of each image's ink."""
    mass = (images + 1).clamp(min=0) + 1e-6
    mass = mass / mass.sum(dim=(1, 2), keepdim=True)
    places = torch.arange(8.0)
    y, x = places[None, :, None], places[None, None, :]
    x, y = x - (mass * x).sum(dim=(1, 2), keepdim=True), y - (mass * y).sum(dim=(1, 2), keepdim=True)
    return tuple((mass * product).sum(dim=(1, 2)) for product in (x * x, y * y, x * y))  # type: ignore[return-value]


def _lean(images: Tensor) -> float:
    """How far the ink leans to the right, in pixels a row."""
    _, var_y, cov = _moments(images)
    return float((-cov / var_y).mean())


def _width(images: Tensor) -> float:
    """The standard deviation of the ink's columns, in pixels, around each image's own leaning axis."""
    var_x, var_y, cov = _moments(images)
    return float((var_x - cov.square() / var_y).clamp(min=0).sqrt().mean())


MEASURES: Mapping[str, Callable[[Tensor], float]] = {"ink": _ink, "lean": _lean, "width": _width}


class Reader:
    """Reads digits in any of the styles, and in any two or three at once; trained on the real ones."""

    def __init__(self) -> None:
        images, labels = digits()
        seen = [images]
        for style in STYLES.values():
            seen += [style(some) for some in seen]
        self._machine = SVC(C=10.0, gamma=0.02)
        self._machine.fit(torch.cat(seen).flatten(1).numpy(), labels.repeat(len(seen)).numpy())

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Return the share of images read as the digit that they should be."""
        return float(self._machine.score(images.flatten(1).numpy(), labels.numpy()))
