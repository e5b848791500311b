"""Findings: the results of statistics and surveys, by their keys, for all workers of a pass and the next build.

No torch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mergebuild.engine.work import KernelCall
from mergebuild.key import Key, Line
from mergebuild.methods.method import UndefinedError

__all__ = ["Findings", "statistic_key"]

_STATISTICS = "2"
"""Part of the key of every statistic. With an earlier one, results may come from memory that was not filled."""


class Findings:
    """The results of statistics and surveys, by their keys; shared by all workers of a pass."""

    def __init__(self, known: Mapping[bytes, str]) -> None:
        """Begin with the findings of earlier passes."""
        self._texts = known
        self._known: dict[bytes, Any] = {}
        self.learnt: dict[bytes, str] = {}
        """New findings that can be kept as text."""
        self.problems: dict[bytes, UndefinedError] = {}
        """Why a survey has no result, by its key."""
        self.whole = threading.RLock()
        """Held by a worker while it has a large tensor whole in memory."""

    def get(self, key: bytes) -> Any:
        """Return a finding; None if there is none."""
        if key not in self._known:
            text = self._texts.get(key)
            if text is None:
                return None
            self._known[key] = _frozen(json.loads(text))
        return self._known[key]

    def put(self, key: bytes, state: Any) -> None:
        """Keep a finding."""
        self._known[key] = state
        try:
            text = json.dumps(state)
        except (TypeError, ValueError):  # tensors, such as a number for each column: too large, and quickly found again
            return
        if _frozen(json.loads(text)) == state:
            self.learnt[key] = text


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def statistic_key(operation: KernelCall, name: str, arguments: Sequence[str], version: int, *, device: str) -> bytes:
    """Return the key of a statistic.

    Args:
        operation: The operation that needs it.
        name: The statistic's name.
        arguments: The parameters that it depends on.
        version: Its version.
        device: Where it is computed: if the method is not exact, it depends on that, too.
    """
    lines = [Line("schema", _STATISTICS), Line("statistic", name), Line("version", version)]
    lines.append(Line("shape", str(operation.shape)))
    method = operation.method
    if not method.exact and device != "cpu":
        lines.append(Line("device", device))
    lines += method.makes.statistic_lines(method.name)
    if arguments or method.makes.name_in_key:
        lines.append(Line("tensor", operation.tensor))
        lines += [Line("argument", f"{each}={operation.arguments[each]}") for each in arguments]
    return Key((*lines, *(Line("input", digest) for digest in operation.inputs))).digest_of_values
