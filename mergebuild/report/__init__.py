"""Everything that is printed: answers on stdout, progress and messages on stderr. No other room prints.

Begin with `console.py`: a command gives it an answer both as a JSON document and as lines of text, and it prints one of
them. `builds.py`, `looks.py`, `catalog.py` and `profile.py` make the lines from values of `mergebuild.results` and
others; they are pure functions, so tests need no terminal. `problems.py` makes the text of an error, `progress.py`
shows events while a build runs, and `columns.py` aligns tables and escapes control characters.

May import results, events, errors, and rooms below `build`; only this one imports rich.
"""

from mergebuild.report.console import Console

__all__ = ["Console"]
