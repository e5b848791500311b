"""Devices that compute besides the processor, with memory of their own, and what the engine asks of them.

A device works through *streams*: each in order, several at the same time. An *event* marks a position in a stream:
another stream, or a thread, waits until everything before it is done. The engine waits for nothing else, and never for
a whole device.

Only what is asked here may differ between kinds of devices. Kernels don't know where they run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mergebuild.errors import UsageError

__all__ = ["Cuda", "Device", "Event", "Stream", "device_named", "devices"]


class Event(ABC):
    """A position in a stream."""

    @abstractmethod
    def wait(self) -> None:
        """Make this thread wait until everything before it is done."""


class Stream(ABC):
    """Work that a device does in order. No method here waits for it."""

    @abstractmethod
    def copy(self, to: Tensor, of: Tensor) -> None:
        """Copy bytes between pinned memory and the device's. Both must not be changed until it is done."""

    @abstractmethod
    def record(self) -> Event:
        """Return the position after everything that it was asked so far."""

    @abstractmethod
    def wait(self, event: Event) -> None:
        """Make what comes next wait for another stream's event."""

    @abstractmethod
    def entered(self) -> AbstractContextManager[object]:
        """Return a context in which this thread's torch operations run on this stream."""


class Device(ABC):
    """One device."""

    name: str
    """Such as `cuda:0`."""
    place: torch.device
    memory: int
    """Its bytes of memory, in use or not."""

    @abstractmethod
    def stream(self) -> Stream:
        """Return a new stream."""

    @abstractmethod
    def pinned(self, size: int) -> Tensor:
        """Return host memory (uint8 [size]) that it can copy to and from by itself."""

    @abstractmethod
    def limit(self, size: int) -> None:
        """Allow this process at most so many bytes of its memory: beyond that, allocating fails."""

    @abstractmethod
    def free_unused(self) -> None:
        """Free memory that was allocated and is not in use."""


class _CudaEvent(Event):
    def __init__(self, stream: torch.cuda.Stream) -> None:
        # `blocking`: a thread that waits leaves its processor to others.
        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    def wait(self) -> None:
        self.event.synchronize()


class _CudaStream(Stream):
    def __init__(self, place: torch.device) -> None:
        self._stream = torch.cuda.Stream(place)  # type: ignore[no-untyped-call]

    def copy(self, to: Tensor, of: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            to.copy_(of, non_blocking=True)

    def record(self) -> Event:
        return _CudaEvent(self._stream)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent)
        self._stream.wait_event(event.event)

    def entered(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)


class Cuda(Device):
    """An NVIDIA GPU, or another one that torch calls `cuda`."""

    def __init__(self, index: int) -> None:
        self.name = f"cuda:{index}"
        self.place = torch.device("cuda", index)
        self.memory = torch.cuda.get_device_properties(self.place).total_memory

    def stream(self) -> Stream:
        """Return a new stream; it waits for no other."""
        return _CudaStream(self.place)

    def pinned(self, size: int) -> Tensor:
        """Return page-locked memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def limit(self, size: int) -> None:
        """Make torch's allocator raise `torch.OutOfMemoryError` beyond so many bytes."""
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / self.memory), self.place)

    def free_unused(self) -> None:
        """Empty the allocator's cache."""
        torch.cuda.empty_cache()


def devices() -> Sequence[Device]:
    """Return the machine's devices; none if torch is built without them, or they are hidden."""
    return [Cuda(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def device_named(name: str) -> Sequence[Device]:
    """Return the devices that `cuda` (all) or `cuda:N` (one) means.

    Raises:
        UsageError: there is none (`no-such-device`).
    """
    found = devices()
    chosen = [each for each in found if name in ("cuda", each.name)]
    if not chosen:
        there = ", ".join(f"`{each.name}`" for each in found)
        message = f"there is no device `{name}` here" + (f", only {there}" if there else f": {_why_none()}")
        raise UsageError.one("no-such-device", message, help="`--device auto`, the default, takes what is there")
    return chosen


def _why_none() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return "torch finds no GPU that it can use (driver, `CUDA_VISIBLE_DEVICES`)"
