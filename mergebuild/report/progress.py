"""Events as a user sees them: a bar with bytes per second and time left on a terminal, plain lines elsewhere.

rich is imported when the first pass begins, so a command that writes no tensors doesn't pay for it. Listeners may be
called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mergebuild.events import Event, Hashing, Notice, PassBegun, PassEnded, Progress, TargetDone
from mergebuild.report.columns import clean
from mergebuild.results.build import Verdict
from mergebuild.results.quantities import count_text, size_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["BarListener", "PlainListener"]

WriteLine = Callable[[str, str, str], None]
"""(style, label, text): write one line; with an empty style the label is not painted, and has no colon after it."""

_WORTH_SAYING = 64_000_000
"""Bytes of a file from which its hashing is reported: less is done before anyone would notice."""


class PlainListener:
    """Writes a line for each event that is worth showing."""

    def __init__(self, write: WriteLine, *, quiet: bool, verbose: int) -> None:
        self.write = write
        self._quiet = quiet
        self._verbose = verbose
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        found = self.line(event)
        if found is not None:
            with self._lock:
                self.write(*found)

    def line(self, event: Event) -> tuple[str, str, str] | None:
        """Return an event as (style, label, text); None if it is not shown at this verbosity."""
        if isinstance(event, Notice) and event.warning:
            return "warning", "warning", event.text
        if self._quiet:
            return None
        match event:
            case Notice():
                return "help", "note", event.text
            case Hashing() if event.size >= _WORTH_SAYING or self._verbose:
                return "", "", f"hashing {event.path} ({size_text(event.size)})"
            case PassBegun():
                return "", "", f"building {_pass_text(event)}: {size_text(event.bytes_total)} to write"
            case TargetDone() if event.verdict != Verdict.UP_TO_DATE or self._verbose:
                detail = f": {event.detail}" if event.detail else ""
                return "", "", f"{event.verdict} {event.target}{detail}"
        return None


class BarListener:
    """Shows a progress bar for each pass, and other events as lines above it."""

    def __init__(self, plain: PlainListener) -> None:
        self._plain = plain
        self._lock = threading.Lock()
        self._bar: tuple[RichProgress, TaskID] | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case PassBegun():
                self._begin(event)
            case Progress():
                if (bar := self._bar) is not None:
                    bar[0].update(bar[1], advance=event.bytes_written)
            case PassEnded():
                self.close()
            case TargetDone():
                pass  # the answer, printed on the same screen when the build ends, says it
            case _:
                self._line(event)

    def close(self) -> None:
        """Remove the bar from the screen, if there is one."""
        with self._lock:
            bar, self._bar = self._bar, None
        if bar is not None:
            bar[0].stop()

    def _begin(self, event: PassBegun) -> None:
        self.close()
        progress = _bar()
        task = progress.add_task(clean(_pass_text(event)), total=event.bytes_total)
        progress.start()
        self._bar = (progress, task)

    def _line(self, event: Event) -> None:
        bar = self._bar
        if bar is None:
            self._plain(event)
        elif (found := self._plain.line(event)) is not None:
            _, label, text = found
            shown = f"{label}: {clean(text)}" if label else clean(text)
            bar[0].console.print(shown, markup=False, highlight=False, soft_wrap=True)


def _bar() -> RichProgress:
    """Return a bar for one pass, which is not on the screen yet."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=RichConsole(stderr=True),
        transient=True,
    )


def _pass_text(event: PassBegun) -> str:
    return event.targets[0] if len(event.targets) == 1 else count_text(len(event.targets), "target")
