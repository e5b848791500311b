"""Methods that treat a tensor as a signal: by frequencies, by neighbouring values, or by the order of values.

The Fourier transform is linear, so a mix of two spectra, `(1 - F) a^ + F b^`, is `a^ + F (b - a)^`: one transform of
the small difference instead of two of the weights. It costs half, and its rounding error is relative to the difference.

The median of 3 in every direction and the Gaussian (sigma 1, cut at 4) are those of scipy.ndimage with mode `reflect`:
at the edge the signal is mirrored (d c b a | a b c d | d c b a). Dimensions of size 1 are left out, as neither filter
changes anything along them. The Gaussian takes one pass per dimension, summed in float64 and rounded to float32 after
each.

Sorts are stable: equal values keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache
from itertools import product
from math import prod

import torch
from torch import Tensor

from mergebuild.methods.kernels.blend import lerp
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, State
from mergebuild.methods.regions import region
from mergebuild.methods.scalars import cos_pi_of
from mergebuild.methods.shares import float32_of

__all__ = ["KERNELS", "smoothed", "tilted_filter"]

_SLAB = 1 << 21
"""Elements that filters process at a time."""
_AXES = 7
"""The most axes that torch's CPU library transforms together; with more (the format allows 64), axes are transformed
one by one."""
_RADIUS = 4
_ALIKE = Fraction(1, 10**10)
"""Tilts and widths that differ by less count as equal."""
_NOISE = 1e-12
"""A frequency nearer to a cut than this counts as being at the cut, so that rounding errors don't decide."""


def _crossover(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    a, b = chunks
    alpha, tilt = call.number("alpha"), call.number("tilt") % 4
    if alpha in {0, 1} or tilt % 2 == 1 or not call.shape or not call.count or torch.allclose(a, b):
        return lerp(a, b, alpha)
    shape = call.shape
    spectrum = _spectrum((b - a).view(shape))
    spectrum.mul_(tilted_filter(tuple(spectrum.shape), alpha, tilt, a.device))
    return _signal(spectrum, shape).add_(a.view(shape))


def _spectrum(values: Tensor) -> Tensor:
    """Return the half spectrum (complex64) of a signal (float32); the last axis is halved."""
    together = values.dim() <= _AXES
    found: Tensor = torch.fft.rfftn(values) if together else torch.fft.rfft(values)
    for axis, size in enumerate(() if together else values.shape[:-1]):
        if size > 1:  # a single value is its own spectrum
            found = _along(axis, torch.fft.fft, found)
    return found


def _signal(spectrum: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the signal (float32, of this shape) with a half spectrum."""
    together = len(shape) <= _AXES
    for axis, size in enumerate(() if together else shape[:-1]):
        if size > 1:
            spectrum = _along(axis, torch.fft.ifft, spectrum)
    found: Tensor = torch.fft.irfftn(spectrum, s=shape) if together else torch.fft.irfft(spectrum, n=shape[-1])
    return found


def _along(axis: int, transform: Callable[..., Tensor], values: Tensor) -> Tensor:
    """Apply a transform along one axis."""
    shape = values.shape
    table = values.reshape(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
    return transform(table, dim=1).reshape(shape)


def tilted_filter(shape: tuple[int, ...], alpha: Fraction, tilt: Fraction, device: torch.device) -> Tensor:
    """Return the share of b (float32, 0..1) in each frequency of a half spectrum of `shape`.

    The frequencies' root mean square over the axes is cut at `1 - alpha`. `tilt` (0 to 4) turns the cut: 0 is sharp
    with b above it, 2 sharp with b below it, and at 1 and 3 the share is the same everywhere.
    """
    inverted = tilt > 2
    if inverted:
        alpha = 1 - alpha
    mesh = _frequencies(shape, device)
    if tilt < _ALIKE or 4 - tilt < _ALIKE:
        found = (mesh > float(1 - alpha) + _NOISE).to(torch.float32)
    elif abs(tilt - 2) < _ALIKE:
        found = (mesh < float(1 - alpha) - _NOISE).to(torch.float32)
    else:
        factor = cos_pi_of(tilt / 2) / cos_pi_of((tilt - 1) / 2)  # the cotangent of half the tilt's angle
        gentle = tilt <= 1 or 2 < tilt <= 3
        share = float(alpha)
        offset = share * factor + share - factor if gentle else share - share * factor
        found = mesh.mul_(factor).add_(offset).clamp_(0, 1).to(torch.float32)
    return torch.sub(1, found) if inverted else found


def _frequencies(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the root mean square over the axes of each frequency, as a share of the highest (float64)."""
    squares = torch.zeros(shape, dtype=torch.float64, device=device)
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        steps = torch.arange(size, dtype=torch.float64, device=device)
        if axis == len(shape) - 1:
            steps /= size - 1
        else:  # the second half holds the negative frequencies
            steps = torch.minimum(steps, size - steps) / (size // 2)
        squares += (steps * steps).view([-1 if axis == at else 1 for at in range(len(shape))])
    return squares.div_(len(shape)).sqrt_()


def _distribution_crossover(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    a, b, c = chunks
    alpha, beta = call.number("alpha"), call.number("beta")
    if not call.shape or not call.count:
        return lerp(a, b, alpha)
    order = torch.argsort(c, stable=True)
    spectrum = torch.fft.rfft((b - a)[order])
    place = torch.arange(len(spectrum), dtype=torch.float64, device=a.device).div_(len(spectrum))
    if beta <= _ALIKE:
        share = (place >= float(alpha)).to(torch.float32)
    else:
        share = place.sub_(float(alpha)).div_(float(beta)).add_(0.5).clamp_(0, 1).to(torch.float32)
    result = a.clone()
    result[order] += torch.fft.irfft(spectrum.mul_(share), n=call.count)
    return result


def _smooth_add(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    a, b, c = chunks
    alpha = call.number("alpha")
    if alpha == 0 or not call.count:
        return a.clone()
    return smoothed((b - c).view(call.shape)).mul_(float32_of(alpha)).view(-1).add_(a)


def smoothed(values: Tensor) -> Tensor:
    """Return the Gaussian of the median of 3 of `values` (float32, any shape), over all dimensions, new."""
    squeezed = values.reshape([size for size in values.shape if size > 1])
    result = _median(squeezed)
    for axis in range(squeezed.dim()):
        _blur(result, axis)
    return result.view(values.shape)


def _median(values: Tensor) -> Tensor:
    """Return the median of the 3 ** d values around each value."""
    if not values.dim():
        return values.clone()
    result = torch.empty_like(values)
    rows = max(1, _SLAB // max(1, values[0].numel() * 3 ** max(0, values.dim() - 2)))
    for first in range(0, len(values), rows):
        last = min(first + rows, len(values))
        at = torch.arange(first - 1, last + 1, device=values.device)
        slab = values.index_select(0, _reflected(at, len(values)))
        result[first:last] = _median_of_slab(slab)
    return result


def _median_of_slab(slab: Tensor) -> Tensor:
    """Return the medians of a slab that has one extra row at each end of dimension 0."""
    for axis in range(1, slab.dim()):
        at = torch.arange(-1, slab.shape[axis] + 1, device=slab.device)
        slab = slab.index_select(axis, _reflected(at, slab.shape[axis]))
    if slab.dim() == 1:
        low, middle, high = _sorted_three(slab.unfold(0, 3, 1))
        return middle
    if slab.dim() == 2:  # sort each column of 3; the median of 9 is the median of these three values
        low, middle, high = _sorted_three(slab.unfold(0, 3, 1))
        return _middle(
            low.unfold(1, 3, 1).amax(-1), _sorted_three(middle.unfold(1, 3, 1))[1], high.unfold(1, 3, 1).amin(-1)
        )
    return _median_of_windows(slab)


def _median_of_windows(slab: Tensor) -> Tensor:
    """Return the medians of all windows of 3 ** d values, for any number of dimensions."""
    inner = [size - 2 for size in slab.shape]
    windows = [
        slab[tuple(slice(shift, shift + size) for shift, size in zip(shifts, inner, strict=True))]
        for shifts in product(range(3), repeat=slab.dim())
    ]
    return torch.stack(windows, dim=-1).median(dim=-1).values


def _sorted_three(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least, the middle and the greatest value along the last dimension, of size 3."""
    first, second, third = values.unbind(-1)
    return (
        torch.minimum(torch.minimum(first, second), third),
        _middle(first, second, third),
        torch.maximum(torch.maximum(first, second), third),
    )


def _middle(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return torch.maximum(low, torch.minimum(high, third))


@cache
def _gaussian() -> tuple[float, ...]:
    """Return the weights of values at the distances 0 to 4."""
    context = Context(prec=40)
    heights = [context.exp(Decimal(-distance * distance) / 2) for distance in range(_RADIUS + 1)]
    total = heights[0]
    for height in heights[1:]:
        total = context.add(total, context.add(height, height))
    return tuple(float(context.divide(height, total)) for height in heights)


def _blur(values: Tensor, axis: int) -> None:
    """Convolve `values` (contiguous) with the Gaussian along an axis, in place."""
    size = values.shape[axis]
    table = values.view(prod(values.shape[:axis]), size, prod(values.shape[axis + 1 :]))
    wide = max(1, _SLAB // size)
    outer, inner = max(1, wide // table.shape[2]), min(wide, table.shape[2])
    near = torch.arange(size, device=values.device)
    weights = _gaussian()
    for top in range(0, table.shape[0], outer):
        for left in range(0, table.shape[2], inner):
            part = table[top : top + outer, :, left : left + inner]
            exact = part.to(torch.float64)
            total = exact * weights[0]
            for distance in range(_RADIUS, 0, -1):  # the order in which scipy sums
                pair = exact.index_select(1, _reflected(near - distance, size))
                pair += exact.index_select(1, _reflected(near + distance, size))
                total += pair.mul_(weights[distance])
            part.copy_(total)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Return the index at which a signal of `size` is read for each place.

    Places may be before its begin or after its end.
    """
    around = places.remainder(2 * size)
    return torch.where(around < size, around, 2 * size - 1 - around)


def _top_k_tensor_sum(call: Call, chunks: Sequence[Tensor], _start: int, _state: State) -> Tensor:
    a, b = chunks
    result = a.clone()
    if not call.count:
        return result
    start, end, inverted = region(call.number("width"), call.number("offset"), call.count)
    above, below = _bounds(a, start, end)
    ascending = a.sort(stable=True).values
    sizes = ascending.abs()
    taken = (sizes > above if call.word("lower") == "strict" else sizes >= above).logical_and_(sizes <= below)
    if inverted:
        taken.logical_not_()
    order = torch.argsort(b, stable=True)
    result[order[taken]] = ascending[taken]
    return result


def _bounds(a: Tensor, start: int, end: int) -> tuple[float, float]:
    """Return the magnitudes before the indices `start` and `end` in ascending order; -1 before the first."""
    magnitudes = a.abs().sort().values
    above = -1.0 if start == 0 else float(magnitudes[start - 1])
    below = -1.0 if end == 0 else float(magnitudes[end - 1])
    return above, below


def _memory(per_element: int) -> Callable[[Call, int], int]:
    """Return a function that returns the bytes needed, at this many per element."""
    return lambda call, _inputs: per_element * call.count


def _smooth_memory(call: Call, _inputs: int) -> int:
    sizes = [size for size in call.shape if size > 1]
    window = 8 * 3 ** len(sizes) if len(sizes) > 2 else 48  # all neighbours of a value are copied next to each other
    return 32 * call.count + 64 * _SLAB + window * prod(sizes[1:])


KERNELS: Mapping[str, Kernel] = {
    "crossover": Kernel(_crossover, grain=Grain.TENSOR, working_set=_memory(44)),
    "distribution_crossover": Kernel(_distribution_crossover, grain=Grain.TENSOR, working_set=_memory(56)),
    "smooth_add": Kernel(_smooth_add, grain=Grain.TENSOR, working_set=_smooth_memory),
    "top_k_tensor_sum": Kernel(_top_k_tensor_sum, grain=Grain.TENSOR, working_set=_memory(48)),
}
