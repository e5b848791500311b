"""The two streams. An answer is text or one JSON document on stdout, exactly one; everything else goes to stderr.

Nothing here can fail for want of a character: what a console's encoding lacks is written as an escape. Colours and
bars are for terminals alone, and not under `NO_COLOR`, `--no-color` or `TERM=dumb`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from mergebuild.errors import bounded
from mergebuild.report.columns import clean

if TYPE_CHECKING:
    from mergebuild.errors import Problem
    from mergebuild.events import Emit

__all__ = ["Console", "make_streams_safe"]

_STYLES = {"error": "1;31", "warning": "1;33", "help": "1;36", "place": "1;34"}


def make_streams_safe() -> None:
    """Let stdout and stderr write any text: characters that their encoding lacks become escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


class Console:
    """Prints answers, problems and events the way that the flags of the command line say."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: int = 0, color: bool = True) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._color = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._answered = False
        self._close_bar: Callable[[], None] = lambda: None

    def answer(self, document: Mapping[str, object], lines: Iterable[str], *, problems: Sequence[Problem] = ()) -> None:
        """Print the answer of a command: the document under `--json`, else the lines.

        `problems` that it met are the document's `errors`, and stand on stderr; of very many the first.
        """
        problems = bounded(problems)
        if problems:
            document = {**document, "errors": [problem.to_json() for problem in problems]}
        self._answer(document, lines)
        self.problems(problems)

    def _answer(self, document: Mapping[str, object], lines: Iterable[str]) -> None:
        text = ""
        if not self.as_json:
            text = "".join(clean(line).replace("\n", "\\n") + "\n" for line in lines)
        elif not self._answered:
            import json

            text = json.dumps(document, indent=2, ensure_ascii=True) + "\n"
        self._answered = True  # before it is written: whatever cuts this short must not add a second document
        _write(sys.stdout, text)

    def problems(self, problems: Sequence[Problem]) -> None:
        """Print problems on stderr, an empty line between two."""
        if not problems:
            return
        from mergebuild.report.problems import problem_lines

        problems = bounded(problems)
        blocks = ("\n".join(problem_lines(problem, self._paint)) for problem in problems)
        _write(sys.stderr, "\n\n".join(blocks) + "\n")

    def failure(self, problems: Sequence[Problem]) -> None:
        """Print problems on stderr, and under `--json` the contract's error document on stdout.

        From any thread, also while events are listened to: a terminal gets its cursor back.
        """
        self._close_bar()
        problems = bounded(problems)
        self.problems(problems)
        if self.as_json:
            self._answer({"ok": False, "errors": [problem.to_json() for problem in problems]}, ())

    def message(self, text: str) -> None:
        """Print a line on stderr, whatever `--quiet` says."""
        _write(sys.stderr, clean(text) + "\n")

    def can_ask(self) -> bool:
        """Whether somebody sits there who reads a question and can answer it."""
        return _is_terminal(sys.stdin) and _is_terminal(sys.stderr)

    def asked(self, question: str) -> bool:
        """Ask on stderr; return whether the answer is yes. Nothing, or the end of the input, is no."""
        _write(sys.stderr, f"{clean(question)} [y/N] ")
        answer = sys.stdin.readline() if sys.stdin is not None else ""
        if not answer:
            _write(sys.stderr, "\n")
        return answer.strip().lower() in ("y", "yes")

    @contextmanager
    def listening(self) -> Iterator[Emit]:
        """Show the events of a build while it runs: a bar on a terminal, else a line an event."""
        from mergebuild.report.progress import BarListener, PlainListener

        plain = PlainListener(self._event_line, quiet=self.quiet, verbose=self.verbose)
        if self.quiet or not (self._color and _is_terminal(sys.stderr)):
            yield plain
            return
        bar = BarListener(plain)
        self._close_bar = bar.close
        try:
            yield bar
        finally:
            bar.close()

    def _event_line(self, style: str, label: str, text: str) -> None:
        label = f"{self._paint(style, label)}: " if style else label
        _write(sys.stderr, f"{label}{clean(text)}\n")

    def _paint(self, style: str, text: str) -> str:
        painted = self._color and _is_terminal(sys.stderr) and _understands_escapes()
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if painted else text


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _understands_escapes() -> bool:
    # the classic Windows console shows them as text; the newer terminals say who they are
    return os.name != "nt" or bool({"WT_SESSION", "ANSICON", "TERM", "ConEmuANSI"} & os.environ.keys())


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None and text:
        stream.write(text)
        stream.flush()
