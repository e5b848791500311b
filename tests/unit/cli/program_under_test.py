"""What the tests of the command line share: a project that answers what a test wants, and what a run came to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FakeProject", "Mergebuild", "Outcome"]


@dataclass
class FakeProject:
    """Records how it was loaded and called. `answers` maps a verb to what it returns or raises."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    path: Path | None = None
    overrides: Sequence[str] = ()
    variables: Mapping[str, object] | None = None

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb.startswith("_"):
            raise AttributeError(verb)

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((verb, arguments, options))
            answer = self.answers[verb]
            if isinstance(answer, BaseException):
                raise answer
            return answer(*arguments, **options) if callable(answer) else answer

        return call

    @property
    def call(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The only call."""
        (found,) = self.calls
        return found


@dataclass(frozen=True)
class Outcome:
    """What a run of the program came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


Mergebuild = Callable[..., Outcome]
"""Runs one command line, given as its arguments."""
