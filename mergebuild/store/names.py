"""What the store's own files are called.

A store may lie in a folder that somebody has for other things as well (`MERGEBUILD_STORE`, `[project] store`), with a
`history` or a `kept` of its own. So a file in the store's folders is the store's by its name, which says what is
in it: a digest, and a number or the begin of another. Nobody else calls files so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mergebuild.store.database import UNREADABLE

__all__ = ["SCRATCH", "is_own", "own_files", "scratch_folders"]

SCRATCH: Final = ".verify-"
"""What the name of a folder in the store begins with in which somebody builds to compare, as long as that one runs."""

_NUMBERED = re.compile(r"[0-9a-f]{32}-[0-9]+")
_FORMS: Final = {
    "kept": re.compile(r"[0-9a-f]{32}-[0-9a-f]{8}"),
    "history": _NUMBERED,
    "quarantine": _NUMBERED,
}
_SCRATCH = re.compile(re.escape(SCRATCH) + r"[a-z0-9_]{8}")  # as `tempfile` fills it up


def is_own(folder: str, name: str) -> bool:
    """Return whether the store calls files so in this folder of its own."""
    form = _FORMS.get(folder)
    return form is not None and form.fullmatch(name) is not None


def own_files(root: Path, state: str) -> Iterator[Path]:
    """Yield the files in a store that have names of its own, those of databases put aside among them.

    `state`: the database's name. No link is followed.
    """
    for folder in _FORMS:
        if (root / folder).is_dir():
            yield from (path for path in sorted((root / folder).iterdir()) if is_own(folder, path.name))
    aside = re.compile(re.escape(state + UNREADABLE) + r"(-[0-9]+)?")
    yield from (path for path in sorted(root.glob(f"{state}{UNREADABLE}*")) if aside.fullmatch(path.name))


def scratch_folders(root: Path) -> list[Path]:
    """Return the folders in a store in which somebody builds to compare, or did until killed."""
    return [path for path in root.glob(f"{SCRATCH}*") if _SCRATCH.fullmatch(path.name) and path.is_dir()]
