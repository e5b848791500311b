"""What is known of whole tensors, by what it follows from: for all workers of a pass and the next build. No torch."""

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
"""Part of the key of every statistic: those kept under an earlier one may be of memory that nothing had filled."""


class Findings:
    """What is known of whole tensors, by what it follows from; shared by all workers of a pass."""

    def __init__(self, known: Mapping[bytes, str]) -> None:
        """Begin with what earlier passes learnt."""
        self._texts = known
        self._known: dict[bytes, Any] = {}
        self.learnt: dict[bytes, str] = {}
        """What was not known before and can be kept as text."""
        self.problems: dict[bytes, UndefinedError] = {}
        """Why there is nothing to be known."""
        self.whole = threading.RLock()
        """Held by whoever has a large tensor whole in memory."""

    def get(self, key: bytes) -> Any:
        """Return what was found; None when nothing was."""
        if key not in self._known:
            text = self._texts.get(key)
            if text is None:
                return None
            self._known[key] = _frozen(json.loads(text))
        return self._known[key]

    def put(self, key: bytes, state: Any) -> None:
        """Keep what was found."""
        self._known[key] = state
        try:
            text = json.dumps(state)
        except (TypeError, ValueError):  # tensors, such as a number a column: too much to keep, and quickly found again
            return
        if _frozen(json.loads(text)) == state:
            self.learnt[key] = text


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(each) for key, each in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def statistic_key(operation: KernelCall, name: str, arguments: Sequence[str], version: int, *, device: str) -> bytes:
    """Return what a statistic depends on, hashed.

    Args:
        operation: what it is taken for.
        name: the statistic's.
        arguments: the parameters that it depends on.
        version: its version.
        device: where it is computed: of a method that is not exact, it depends on that too.
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
