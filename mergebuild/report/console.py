"""The two output streams: exactly one answer, text or a JSON document, goes to stdout; everything else to stderr.

Characters that a console's encoding lacks are written as escapes, so printing never fails because of them. Colours and
bars appear only on terminals, and not with `NO_COLOR`, `--no-color` or `TERM=dumb`.
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
    """Prints answers, problems and events, as the options of the command line (`--json`, `--quiet`, …) ask."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: int = 0, color: bool = True) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._color = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._answered = False
        self._close_bar: Callable[[], None] = lambda: None

    def answer(self, document: Mapping[str, object], lines: Iterable[str], *, problems: Sequence[Problem] = ()) -> None:
        """Print the answer of a command: the document under `--json`, else the lines.

        `problems` go to stderr, and into the document as `errors`; if there are very many, only the first ones.
        """
        problems = bounded(problems)
        if problems:
            document = {**document, "errors": [problem.to_json() for problem in problems]}
        self._answer(document, lines)
        self.problems(problems)

    def answer_exactly(self, document: Mapping[str, object], text: str) -> None:
        """Print a text that is another program's to read, to the last character; the document under `--json`."""
        self._answer(document, ())
        if not self.as_json:
            _write(sys.stdout, text)

    def _answer(self, document: Mapping[str, object], lines: Iterable[str]) -> None:
        text = ""
        if not self.as_json:
            text = "".join(clean(line).replace("\n", "\\n") + "\n" for line in lines)
        elif not self._answered:
            import json

            text = json.dumps(document, indent=2, ensure_ascii=True) + "\n"
        self._answered = True  # before writing: an interruption while writing must not print a second document
        _write(sys.stdout, text)

    def problems(self, problems: Sequence[Problem]) -> None:
        """Print problems on stderr, separated by empty lines."""
        if not problems:
            return
        from mergebuild.report.problems import problem_lines

        problems = bounded(problems)
        blocks = ("\n".join(problem_lines(problem, self._paint)) for problem in problems)
        _write(sys.stderr, "\n\n".join(blocks) + "\n")

    def failure(self, problems: Sequence[Problem]) -> None:
        """Print problems on stderr, and under `--json` the contract's error document on stdout.

        May be called in any thread, also inside `listening`: a progress bar is closed first, which restores the cursor.
        """
        self._close_bar()
        problems = bounded(problems)
        self.problems(problems)
        if self.as_json:
            self._answer({"ok": False, "errors": [problem.to_json() for problem in problems]}, ())

    def message(self, text: str) -> None:
        """Print a line on stderr, even with `--quiet`."""
        _write(sys.stderr, clean(text) + "\n")

    def can_ask(self) -> bool:
        """Return whether a question can be asked and answered: stdin and stderr are terminals."""
        return _is_terminal(sys.stdin) and _is_terminal(sys.stderr)

    def asked(self, question: str) -> bool:
        """Ask on stderr; return whether the answer is yes. An empty line, or the end of the input, means no."""
        _write(sys.stderr, f"{clean(question)} [y/N] ")
        answer = sys.stdin.readline() if sys.stdin is not None else ""
        if not answer:
            _write(sys.stderr, "\n")
        return answer.strip().lower() in ("y", "yes")

    @contextmanager
    def listening(self) -> Iterator[Emit]:
        """Show events while this block runs: a bar on a terminal, otherwise a line per event."""
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
    # the classic Windows console shows escapes as text; newer terminals set one of these variables
    return os.name != "nt" or bool({"WT_SESSION", "ANSICON", "TERM", "ConEmuANSI"} & os.environ.keys())


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None and text:
        stream.write(text)
        stream.flush()
