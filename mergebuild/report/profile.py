"""Where the time of a build went, as lines of text for people: the seconds of its phases and of its threads' work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mergebuild.report.columns import table

if TYPE_CHECKING:
    from mergebuild.system.profile import Seconds

__all__ = ["profile_lines"]


def profile_lines(seconds: Seconds) -> list[str]:
    """Return a row per phase, with their sum, then a row per kind of work, with its seconds summed over all threads."""
    phases = _rows(seconds.phases.items(), seconds.total)
    whole = ("in all", _digits(seconds.total))
    threads = _rows(seconds.threads.items(), None)
    return ["where the time went:", *table((*phases, whole), indent=2), "in all threads:", *table(threads, indent=2)]


def _rows(found: Iterable[tuple[str, float]], total: float | None) -> list[tuple[str, ...]]:
    return [(name, _digits(seconds), *_share(seconds, total)) for name, seconds in found]


def _digits(seconds: float) -> str:
    return f"{seconds:9.3f} s"


def _share(seconds: float, total: float | None) -> tuple[str, ...]:
    return (f"{100 * seconds / total:3.0f} %",) if total else ()
