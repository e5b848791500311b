"""How much memory a build takes at most, said before there is anything to compute with; and what keeps it so small.

No torch here, nor the engine: `plan` says it too.
"""

from __future__ import annotations

from mergebuild.results.build import MemoryBounds

__all__ = ["DEVICE_MEMORY", "PER_DEVICE", "RING", "STAGED", "memory_bounds"]

_HOST = 450 << 20
"""Bytes that a pass takes at most without a device, torch's own included."""

DEVICE_MEMORY = 4 << 30
"""Bytes that are taken of a device's memory at most, but for tensors that a method must have whole."""

PER_DEVICE = 8
"""Threads that keep a device busy; each has pinned buffers of its own."""

STAGED = 1 << 23
"""Bytes of a pinned buffer; a multiple of every dtype's width."""

RING = 4
"""Pinned buffers of a thread, each way."""


def memory_bounds(whole: int, *, device: bool) -> MemoryBounds:
    """Return what passes take at most. `whole`: bytes of the largest tensors that a method must have whole.

    Of methods that decompose a tensor the bound is an estimate: they need several times what they are given.
    """
    host = _HOST + 3 * whole
    if not device:
        return MemoryBounds(host, 0)
    return MemoryBounds(host + PER_DEVICE * 2 * RING * STAGED, DEVICE_MEMORY + 3 * whole)
