"""Which tensors of a pass are computed on a device: all, if the user says so, or those that are faster there.

The time for a tensor is estimated from how often its method goes over the values (`Making.passes`) and how fast this
machine does that: the processor, the device, and the transfers between them. This is measured once, in a moment, and
kept with the findings. A merge that is as fast as memory can gain nothing from transfers that take twice as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import xxhash

from mergebuild.engine.devices import Device, device_named, devices
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import Step, SurveyJob
from mergebuild.methods.making import Linear

__all__ = ["Choice", "Rates", "chosen", "measured"]

_WORTH = 2.0
"""Seconds that a pass must save: starting a device takes about as long."""

_MARGIN = 1.5
"""How many times as fast a tensor must be made there; the estimates are not more precise than that."""

_SLOW = 1e9
"""Values that a thread of any processor goes over in a second."""

_COUNT = 1 << 19
"""Values for measuring the processor: as many as it computes with at a time."""

_ROUNDS = 8

_STEPS = 16
"""Kernels that a device is asked for before waiting for it."""


class Rates(NamedTuple):
    """The speed of a machine, per second."""

    processor: float
    """Values that one thread goes over once."""
    device: float
    """Values that the device goes over once."""
    host: float
    """Bytes that one thread copies to pinned memory."""
    bus: float
    """Bytes that are transferred to the device."""


class Choice:
    """What a pass is computed with: the processor, and perhaps devices."""

    def __init__(self, found: Sequence[Device] = (), pays: Callable[[Sequence[Step]], bool] | None = None) -> None:
        """Take the devices, and what tells whether steps are faster there; None: all are."""
        self.devices = found
        self._pays = pays

    def is_for_device(self, job: Cluster | SurveyJob) -> bool:
        """Whether a cluster, or a part of a survey, is to be computed on a device."""
        if self._pays is None or not self.devices:
            return bool(self.devices)
        if isinstance(job, SurveyJob):  # there is no estimate for surveys
            return False
        return self._pays([step for each in (job, *job.siblings) for step in each.steps])


def chosen(
    option: str,
    steps: Sequence[Step],
    threads: int,
    rates_of: Callable[[bytes, Callable[[], Rates]], Rates],
) -> Choice:
    """Choose for a pass.

    Args:
        option: `auto`, `cpu`, `cuda` or `cuda:N`.
        steps: All steps that are known to be computed.
        threads: How many threads compute on the processor.
        rates_of: Returns what was measured under a key before, or else measures and keeps it.

    Raises:
        UsageError: there is no such device.
        RuntimeError: the device does not work, with torch's message.
    """
    if option != "auto":
        return Choice(device_named(option) if option != "cpu" else ())
    able = [step for step in steps if _is_exact(step)]
    if sum(map(_passes, (step for step in able if step.operation))) < _WORTH * threads * _SLOW:
        return Choice()  # without waiting for a driver
    found = devices()
    if not found:
        return Choice()
    rates = rates_of(_key(found[0]), lambda: measured(found[0]))

    def pays(some: Sequence[Step]) -> bool:
        return all(map(_is_exact, some)) and _saved(some, rates, threads, len(found)) > 0

    gain = sum(max(0.0, _saved([step], rates, threads, len(found))) for step in able)
    return Choice(found, pays) if gain >= _WORTH else Choice()


def _is_exact(step: Step) -> bool:
    """Whether a step has the same bytes on every device."""
    return step.operation is None or step.operation.method.exact


def _passes(step: Step) -> int:
    """Return how many values are gone over to make a step."""
    return step.count * len(step.reads) * (step.operation.method.makes if step.operation else Linear).passes


def _saved(steps: Iterable[Step], rates: Rates, threads: int, count: int) -> float:
    """Return how many seconds a device saves, less a margin."""
    here = there = 0.0
    for step in steps:
        passes = _passes(step)
        moved = 2 * step.count * (len(step.reads) + len(step.places))  # files are mostly in half precision
        here += passes / (rates.processor * threads)
        there += passes / (rates.device * count) + moved / min(rates.bus * count, rates.host * threads)
    return here - _MARGIN * there


def _key(device: Device) -> bytes:
    facts = f"rates 1 {torch.__version__} {device.name} {device.memory}"
    return xxhash.xxh3_128_digest(facts.encode())


def measured(device: Device) -> Rates:
    """Measure the speed of this machine, in about a tenth of a second besides the device's start.

    Raises:
        RuntimeError: the device does not work, with torch's message.
    """
    values = torch.ones(_COUNT)
    processor = _COUNT / _least(lambda: values.mul_(1.0))
    lying = torch.zeros(16 * _COUNT, dtype=torch.uint8)
    stream = device.stream()
    with stream.entered():
        raw = device.pinned(len(lying))
        there = torch.empty(len(raw), dtype=torch.uint8, device=device.place)
        many = torch.ones(16 * _COUNT, device=device.place)

    host = len(raw) / _least(lambda: raw.copy_(lying))

    def carry() -> None:
        stream.copy(there, raw)
        stream.record().wait()

    def compute() -> None:
        with stream.entered():
            for _ in range(_STEPS):
                many.mul_(1.0)
        stream.record().wait()

    return Rates(processor, _STEPS * len(many) / _least(compute), host, len(raw) / _least(carry))


def _least(work: Callable[[], object]) -> float:
    """Return the fewest seconds that some work took."""
    taken = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return max(min(taken), 1e-9)
