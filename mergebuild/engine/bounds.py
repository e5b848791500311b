"""How much memory a build uses at most, known before it runs; and the limits that keep it so small.

It imports neither torch nor the engine, as `plan` shows this, too.
"""

from __future__ import annotations

from mergebuild.results.build import MemoryBounds

__all__ = ["DEVICE_MEMORY", "PER_DEVICE", "RING", "STAGED", "memory_bounds"]

_HOST = 450 << 20
"""The most bytes that a pass uses without a device, including torch's own."""

DEVICE_MEMORY = 4 << 30
"""The most bytes of a device's memory that are used, besides tensors that a method needs whole."""

PER_DEVICE = 8
"""Threads that keep a device busy; each has its own pinned buffers."""

STAGED = 1 << 23
"""Bytes of a pinned buffer; a multiple of every dtype's width."""

RING = 4
"""Pinned buffers of a thread, in each direction."""


def memory_bounds(whole: int, *, device: bool) -> MemoryBounds:
    """Return the most memory that passes use. `whole`: bytes of the largest tensors that a method needs whole.

    For methods that decompose a tensor it is an estimate: they need several times the size of their inputs.
    """
    host = _HOST + 3 * whole
    if not device:
        return MemoryBounds(host, 0)
    return MemoryBounds(host + PER_DEVICE * 2 * RING * STAGED, DEVICE_MEMORY + 3 * whole)
