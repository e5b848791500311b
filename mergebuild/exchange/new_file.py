"""Writes what `import` and `export` make where no file is yet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mergebuild.errors import UsageError

__all__ = ["write_new"]

_CODES = {"mergefile": "mergefile-exists", "recipe": "file-exists"}


def write_new(path: Path, text: str, kind: Literal["mergefile", "recipe"]) -> None:
    """Write a text into a new file.

    Raises:
        UsageError: there is something, or it can't be written.
    """
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError as error:
        mend = f"nothing was written; name another file, or none to print the {kind}"
        raise UsageError.one(_CODES[kind], f"`{path}` exists already", help=mend) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError.one("unwritable", f"`{path}` can't be written: {reason}") from error
