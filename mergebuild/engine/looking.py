"""Computes what must be known before a tensor is made: surveys of several tensors, statistics of a whole one.

All chunks are gone through for this. The results are kept by their keys, for other members of a family and for the next
build.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from math import prod
from typing import Any

import torch

from mergebuild.engine.cluster_work import ClusterWork
from mergebuild.engine.findings import Findings
from mergebuild.engine.leaves import LeafReader
from mergebuild.engine.makers import Maker, Operating, kernel_of
from mergebuild.engine.transfers import Transfers
from mergebuild.engine.work import SurveyJob
from mergebuild.methods.kernels.kernel import Statistic, all_finite
from mergebuild.methods.method import UndefinedError

__all__ = ["Looking", "moved_to"]

_HOST = torch.device("cpu")
"""Where findings are kept, whichever device needs them."""

_SMALL = 1 << 24
"""Fewer elements are surveyed together without waiting for another worker that does so."""


class Looking:
    """Computes statistics and surveys for one worker. `reader`: the worker's."""

    def __init__(self, reader: LeafReader, transfers: Transfers, findings: Findings, stop: threading.Event) -> None:
        self._reader = reader
        self._transfers = transfers
        self._findings = findings
        self._stop = stop

    # Several tensors

    def look(self, survey: SurveyJob) -> Any:
        """Return the result of a look at a part of a survey, or the error that it raised, to be raised in `settle`."""
        kernel = kernel_of(survey.method).survey
        assert kernel is not None  # as there is a survey
        elements = sum(prod(each.shape) * len(each.inputs) for each in survey.tensors)
        try:
            with self._findings.whole if elements > _SMALL else nullcontext(), self._transfers.entered():
                return moved_to(_HOST, kernel.look(survey.arguments, self._surveyed(survey)))
        except UndefinedError as error:
            return error
        finally:
            self._reader.release(survey.leaves)

    def _surveyed(self, survey: SurveyJob) -> dict[str, list[torch.Tensor]]:
        """Return the tensors of a survey, whole.

        Raises:
            UndefinedError: one has values that are NaN or Inf.
        """
        tensors = {
            each.name: [self._reader.combined(terms, (0, prod(each.shape))).view(each.shape) for terms in each.inputs]
            for each in survey.tensors
        }
        bad = next((name for name, inputs in tensors.items() if not all_finite(inputs)), None)
        if bad is not None:
            message = f"`{bad}`, which it depends on, has values that are NaN or Inf"
            raise UndefinedError(message)
        return tensors

    def settle(self, survey: SurveyJob, looks: Sequence[Any]) -> None:
        """Keep the common result of all looks of a survey."""
        kernel = kernel_of(survey.method).survey
        assert kernel is not None  # as there is a survey
        try:
            for look in looks:
                if isinstance(look, UndefinedError):
                    raise look
            self._findings.put(survey.key, kernel.end(looks))
        except UndefinedError as error:
            self._findings.problems[survey.key] = error

    # One tensor

    def find_out(self, maker: Operating, work: ClusterWork) -> None:
        """Give a maker the state of its statistic, or of its survey."""
        if maker.kernel.survey is not None:
            self._recall_survey(maker)
            return
        key = maker.state_key(self._transfers.place)
        if key is None:
            return
        maker.state = self._found(key)
        if maker.state is None:
            self._find_out_anew(maker, work, key)

    def _find_out_anew(self, maker: Operating, work: ClusterWork, key: bytes) -> None:
        """Give a maker the state of its statistic by going through its inputs, and keep it as a finding."""
        try:
            maker.state = self._looked_through(maker, work)
        except UndefinedError as error:
            maker.problem = error
        if maker.state is not None:
            self._findings.put(key, moved_to(_HOST, maker.state))

    def _recall_survey(self, maker: Operating) -> None:
        maker.state = self._found(maker.survey) if maker.survey else None
        if maker.state is None:
            maker.problem = self._findings.problems.get(
                maker.survey, UndefinedError("what it must be merged together with is not merged the same way")
            )

    def _found(self, key: bytes) -> Any:
        return moved_to(self._transfers.place, self._findings.get(key))

    def _looked_through(self, maker: Operating, work: ClusterWork) -> Any:
        """Go through a maker's inputs as often as its statistic needs; return the state, or None if there is none."""
        statistic, below = maker.kernel.statistic, work.below(maker)
        assert statistic is not None  # as there is a key
        account = statistic.begin(maker.call, len(maker.inputs))
        first = more = account is not None  # None: no statistic is needed with these arguments
        while more:
            if not self._looked_once(maker, work, statistic, below, account, is_first=first):
                return None
            first = False
            more = statistic.turn(maker.call, account)
        return statistic.end(maker.call, account)

    def _looked_once(
        self,
        maker: Operating,
        work: ClusterWork,
        statistic: Statistic,
        below: Sequence[Maker],
        account: Any,
        *,
        is_first: bool,
    ) -> bool:
        """Go through all chunks of a maker's inputs once; return whether that was possible."""
        for extent in work.extents():
            if self._stop.is_set():
                return False
            chunks = work.chunks(extent)
            for each in below:
                value = work.made(each, chunks, extent)
                if value is not None and each.step.places and each.kept is not None:
                    chunks[each.kept].copy_(value.to(each.dtype))  # rounded, as in the file
            if any(each.problem for each in below):
                return False  # the reason is in `problem`
            inputs = [chunks[slot] for slot in maker.inputs]
            if is_first and not all_finite(inputs):
                maker.unknowable = True
                return False
            statistic.look(maker.call, account, inputs, extent[0])
        return True


def moved_to(place: torch.device, value: Any) -> Any:
    """Return a state with its tensors at a place; the same object if none must be moved."""
    match value:
        case torch.Tensor():
            return value.to(place)
        case tuple() | list():
            parts = [moved_to(place, each) for each in value]
            if all(part is each for part, each in zip(parts, value, strict=True)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        case dict():
            held = [*value.values()]
            moved = moved_to(place, held)
            return value if moved is held else dict(zip(value, moved, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        known = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        moved = moved_to(place, known)
        return value if moved is known else replace(value, **moved)
    return value
