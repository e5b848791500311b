"""Transfers of chunks: from files' bytes to float32 on the device that computes, and from there to the outputs.

`Direct` is for the processor: it computes with mapped pages, and rounds into the blocks that are written. `Staged` is
for a device with memory of its own: bytes go through small pinned buffers, a ring of them in each direction. There,
three streams copy chunks in, run kernels, and copy results back at the same time; events tell each when it may go on.
Meanwhile the worker fills the next buffers, and hashes and writes results: it waits only until a buffer is free again.

Values are widened and rounded on the device, so that they are transferred in the files' dtypes, and once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from mergebuild.digest import RunningChecksum
from mergebuild.engine import rounding
from mergebuild.engine.bounds import RING, STAGED
from mergebuild.engine.devices import Device, Event
from mergebuild.engine.makers import LARGEST, Maker
from mergebuild.engine.outputs import Block, Outputs
from mergebuild.engine.work import OutputRange

__all__ = ["Direct", "Sending", "Staged", "Transfers"]

Bytes = memoryview | bytearray

_NAN: Mapping[torch.dtype, tuple[torch.dtype, int]] = {
    torch.float64: (torch.int64, 0x7FF8000000000000),
    torch.float32: (torch.int32, 0x7FC00000),
    torch.float16: (torch.int16, 0x7E00),
    torch.bfloat16: (torch.int16, 0x7FC0),
    torch.float8_e4m3fn: (torch.uint8, 0x7F),
    torch.float8_e5m2: (torch.uint8, 0x7F),
}
"""The NaN that is written for a dtype, as an integer of the same size."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What is done with a chunk."""

    dtype: torch.dtype
    """The dtype to which it is rounded."""
    places: Sequence[OutputRange]
    """Where it is written."""
    running: RunningChecksum | None = None
    """The hash that its bytes are added to."""
    kept: Tensor | None = None
    """Where it is kept, rounded, for other steps."""
    may_have_nan: bool = True
    """Whether its values may include a NaN."""

    def round(self, values: Tensor, room: Tensor) -> Tensor:
        """Write values (float32) to `room`, rounded to its dtype; return it.

        Every NaN becomes the one NaN of the dtype, since a NaN's other bits depend on the processor.
        """
        room.copy_(values)
        if self.may_have_nan:
            word, bits = _NAN[self.dtype]
            room.view(word).masked_fill_(values.isnan(), bits)
        return room

    def keep(self, rounded: Tensor) -> None:
        """Keep it if another step needs it."""
        if self.kept is not None:
            self.kept.copy_(rounded)

    def hash(self, data: memoryview) -> None:
        """Hash its bytes if that is asked for."""
        if self.running is not None:
            self.running.update(data)


class Transfers(ABC):
    """The transfers of one worker."""

    place: torch.device
    """Where chunks are computed with."""
    most: int
    """The most bytes of a result that can be sent at once."""

    @abstractmethod
    def entered(self) -> AbstractContextManager[object]:
        """Return a context in which this thread makes buffers and computes there."""

    @abstractmethod
    def floats(self, count: int) -> Tensor:
        """Return a buffer of float32 values."""

    @abstractmethod
    def bring(self, data: Bytes, dtype: torch.dtype, room: Tensor, *, to_odd: bool = False) -> Tensor:
        """Return the values of a file's bytes as float32: in `room` (as many values), or a view of them.

        float64 values are rounded to the nearest, or to odd: see `rounding`.
        """

    @abstractmethod
    def whole(self, values: Tensor) -> Tensor:
        """Return a tensor of any dtype from the host's memory where it can be computed with."""

    @abstractmethod
    def check(self, maker: Maker, value: Tensor) -> bool:
        """Count values that are not finite, or too large for the maker's dtype; return whether there may be any."""

    @abstractmethod
    def send(self, value: Tensor, sending: Sending) -> None:
        """Round a chunk (float32), hash it and write it."""

    def close(self) -> None:  # noqa: B027 -- most have nothing to do
        """Wait until no buffer is in use any more, before they are freed."""

    def cluster(self, makers: Sequence[Maker]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context in which a cluster is made.

        At its end everything was sent, and its makers have their counts.
        """
        return nullcontext()


class Direct(Transfers):
    """For the processor: nothing is transferred."""

    place = torch.device("cpu")

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self.most = outputs.block_size

    def entered(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()

    def floats(self, count: int) -> Tensor:
        """Return a page-aligned buffer."""
        return _view(Block(4 * count), torch.float32, count)

    def bring(self, data: Bytes, dtype: torch.dtype, room: Tensor, *, to_odd: bool = False) -> Tensor:
        """Return a view of the bytes if possible."""
        values = torch.frombuffer(data, dtype=torch.uint8)
        is_odd = bool(values.data_ptr() % dtype.itemsize)  # not aligned, because of the header's length
        values = (values.clone() if is_odd else values).view(dtype)
        return values if dtype is torch.float32 and not is_odd else _widened(values, room, to_odd=to_odd)

    def whole(self, values: Tensor) -> Tensor:
        """Return the same tensor."""
        return values

    def check(self, maker: Maker, value: Tensor) -> bool:
        """Count them; in the common case this looks only at one or two numbers."""
        if maker.cannot_overflow and math.isfinite(value.sum().item()):
            return False
        low, high = torch.aminmax(value)
        largest = _largest(maker)
        if -largest <= low.item() and high.item() <= largest:
            return False
        finite = torch.isfinite(value)
        maker.nonfinite += int((~finite).sum())
        maker.overflowed += int((finite & (value.abs() > largest)).sum())
        return True

    def send(self, value: Tensor, sending: Sending) -> None:
        """Round, hash and write it at once."""
        block = self._outputs.block()
        rounded = sending.round(value, _view(block, sending.dtype, len(value)))
        sending.keep(rounded)
        sending.hash(block.memory[: rounded.nbytes])
        self._outputs.put(block, rounded.nbytes, sending.places)  # from now on the block is not ours


@dataclass(slots=True)
class _Buffer:
    """Pinned memory, and device memory of the same size."""

    host: Tensor
    device: Tensor
    copied: Event | None = None
    """When the last copy between the two is done."""
    used: Event | None = None
    """When the device memory was last computed with."""


class Staged(Transfers):
    """For a device with memory of its own."""

    def __init__(self, outputs: Outputs, device: Device) -> None:
        self._outputs = outputs
        self.most = min(STAGED, outputs.block_size)
        self.place = device.place
        self._arriving, self._computing, self._leaving = device.stream(), device.stream(), device.stream()
        with self._computing.entered():
            self._buffers = [
                _Buffer(device.pinned(STAGED), torch.empty(STAGED, dtype=torch.uint8, device=self.place))
                for _ in range(2 * RING)
            ]
        self._in, self._out = cycle(self._buffers[:RING]), cycle(self._buffers[RING:])
        self._sent: deque[tuple[_Buffer, int, Sending]] = deque()
        """Results being copied back, each with its number of bytes."""
        self._counts: dict[int, Tensor] = {}
        """By a maker's identity: how many of its values are not finite, and how many are too large (int64 [2])."""

    def entered(self) -> AbstractContextManager[object]:
        """Return a context for the stream of the kernels."""
        return self._computing.entered()

    def floats(self, count: int) -> Tensor:
        """Return a buffer in the device's memory."""
        return torch.empty(count, device=self.place)

    def bring(self, data: Bytes, dtype: torch.dtype, room: Tensor, *, to_odd: bool = False) -> Tensor:
        """Return the values, which are copied through pinned buffers in the dtype of the file."""
        lying = torch.frombuffer(data, dtype=torch.uint8)
        for start in range(0, len(lying), STAGED):
            part = lying[start : start + STAGED]
            buffer = next(self._in)
            if buffer.copied is not None and buffer.used is not None:
                buffer.copied.wait()
                self._arriving.wait(buffer.used)
            host, device = buffer.host[: len(part)], buffer.device[: len(part)]
            host.copy_(part)
            self._arriving.copy(device, host)
            buffer.copied = self._arriving.record()
            self._computing.wait(buffer.copied)
            values = device.view(dtype)
            _widened(values, room[start // dtype.itemsize :][: len(values)], to_odd=to_odd)
            buffer.used = self._computing.record()
        return room

    def whole(self, values: Tensor) -> Tensor:
        """Return a copy on the device."""
        return values.to(self.place)

    def check(self, maker: Maker, value: Tensor) -> bool:
        """Count them on the device; the counts are only read at the end of the cluster."""
        finite = torch.isfinite(value)
        found = torch.stack([(~finite).sum(), (finite & (value.abs() > _largest(maker))).sum()])
        before = self._counts.get(id(maker))
        self._counts[id(maker)] = found if before is None else before.add_(found)
        return True

    def send(self, value: Tensor, sending: Sending) -> None:
        """Begin to copy it back; it is hashed and written when it has arrived."""
        if len(self._sent) == RING:
            self._deliver()  # makes the next buffer free
        buffer = next(self._out)
        size = len(value) * sending.dtype.itemsize
        sending.keep(sending.round(value, buffer.device[:size].view(sending.dtype)))
        self._leaving.wait(self._computing.record())
        self._leaving.copy(buffer.host[:size], buffer.device[:size])
        buffer.copied = self._leaving.record()
        self._sent.append((buffer, size, sending))

    def _deliver(self) -> None:
        """Wait for the oldest result, hash it and write it."""
        buffer, size, sending = self._sent.popleft()
        assert buffer.copied is not None
        buffer.copied.wait()
        block = self._outputs.block()
        _view(block, torch.uint8, size).copy_(buffer.host[:size])
        sending.hash(block.memory[:size])
        self._outputs.put(block, size, sending.places)

    def close(self) -> None:
        """Wait for all copies, since the memory may be allocated for something else next."""
        for buffer in self._buffers:
            if buffer.copied is not None:
                buffer.copied.wait()
        self._computing.record().wait()

    @contextmanager
    def cluster(self, makers: Sequence[Maker]) -> Iterator[None]:
        """Return a context in which a cluster is made; if it fails, nothing of it is sent later."""
        try:
            yield
            while self._sent:
                self._deliver()
            for maker in makers:
                if id(maker) in self._counts:
                    maker.nonfinite, maker.overflowed = self._counts[id(maker)].tolist()
        finally:
            self._sent.clear()
            self._counts.clear()


def _widened(values: Tensor, room: Tensor, *, to_odd: bool) -> Tensor:
    return rounding.to_odd(values, room) if to_odd else room.copy_(values)


def _largest(maker: Maker) -> float:
    return LARGEST.get(maker.step.dtype, torch.finfo(torch.float32).max)


def _view(block: Block, dtype: torch.dtype, count: int) -> Tensor:
    """Return the start of a block as `count` values of a dtype."""
    return torch.frombuffer(block.memory, dtype=dtype, count=count)
