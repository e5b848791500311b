"""What one thread of a pass computes with: the processor, and perhaps a device.

If a device can't do something, the processor does it, with the same result: no build fails because of a device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, TypeVar

import torch

from mergebuild.engine.choice import Choice
from mergebuild.engine.devices import Device
from mergebuild.engine.findings import Findings
from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Outputs
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.transfers import Direct, Staged
from mergebuild.engine.work import StepResult, SurveyJob
from mergebuild.engine.worker import Worker

__all__ = ["DEVICE_CHUNK", "LEAST_DEVICE_CHUNK", "Hands"]

DEVICE_CHUNK = 1 << 21
"""Elements that a device computes at a time: enough to keep it and the bus busy while the next ones are prepared."""

LEAST_DEVICE_CHUNK = 1 << 16

_Result = TypeVar("_Result")


class Hands:
    """What one thread computes with."""

    def __init__(
        self,
        outputs: Outputs,
        mappings: Mappings,
        stop: threading.Event,
        findings: Findings,
        *,
        chunk: int,
        choice: Choice,
        device: Device | None,
        tell: Callable[[str], None],
    ) -> None:
        """Begin without buffers: they are made when first needed. `tell` emits a notice, once."""
        self._outputs = outputs
        self._worker = partial(Worker, mappings=mappings, stop=stop, findings=findings)
        self._usual = chunk
        self._choice = choice
        self._tell = tell
        self._device = device
        self._chunk = DEVICE_CHUNK
        self._there: Worker | None = None

    @cached_property
    def here(self) -> Worker:
        """The worker for the processor."""
        return self._worker(Direct(self._outputs), chunk=self._usual)

    def run(self, cluster: Cluster) -> dict[bytes, StepResult]:
        """Compute and write a cluster with its siblings; return the result of each step."""
        return self._done(cluster, lambda worker: worker.run(cluster))

    def look(self, survey: SurveyJob) -> Any:
        """Return the result of a look at a part of a survey."""
        return self._done(survey, lambda worker: worker.look(survey))

    def _done(self, job: Cluster | SurveyJob, work: Callable[[Worker], _Result]) -> _Result:
        usual = self._chunk
        while self._device is not None and self._choice.is_for_device(job):
            try:
                if self._there is None:
                    self._there = self._worker(Staged(self._outputs, self._device), chunk=self._chunk)
                return work(self._there)
            except torch.OutOfMemoryError:
                if not self._shrunk(self._device):
                    self._chunk = usual  # smaller chunks did not help
                    break
            except RuntimeError as error:
                self._give_up(self._device, error)
        return work(self.here)

    def _shrunk(self, device: Device) -> bool:
        """Free the device's memory, for smaller chunks from now on; return whether there are any."""
        self._let_go()
        device.free_unused()
        if self._chunk == LEAST_DEVICE_CHUNK:
            self._tell(f"{device.name} has too little free memory; the processor computes what it can't")
            return False
        self._tell(f"{device.name} is short of memory: smaller chunks")
        self._chunk //= 2
        return True

    def _give_up(self, device: Device, error: RuntimeError) -> None:
        """Use the device no more: it failed."""
        reason, _, _ = str(error).partition("\n")
        self._tell(f"{device.name} failed, the processor goes on: {reason}")
        self._let_go()
        self._device = None

    def _let_go(self) -> None:
        if self._there is not None:
            with suppress(RuntimeError):  # a failing device does no work any more
                self._there.close()
        self._there = None
