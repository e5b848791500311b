"""The names of the store's own files.

A store may be in a folder that has other things too (`MERGEBUILD_STORE`, `[project] store`), even a `history` or a
`kept` that isn't ours. So a file in the store's folders counts as the store's by its name: a digest, and a number or
the beginning of a checksum. Other programs hardly name files like that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mergebuild.store.database import UNREADABLE

__all__ = ["SCRATCH", "is_own", "own_files", "scratch_folders"]

SCRATCH: Final = ".verify-"
"""The prefix of the name of a scratch folder in the store, which exists while `verify` builds to compare."""

_NUMBERED = re.compile(r"[0-9a-f]{32}-[0-9]+")
_FORMS: Final = {
    "kept": re.compile(r"[0-9a-f]{32}-[0-9a-f]{8}"),
    "history": _NUMBERED,
    "quarantine": _NUMBERED,
}
_SCRATCH = re.compile(re.escape(SCRATCH) + r"[a-z0-9_]{8}")  # `tempfile` adds eight characters


def is_own(folder: str, name: str) -> bool:
    """Return whether the store gives its files such a name in this folder of its own."""
    form = _FORMS.get(folder)
    return form is not None and form.fullmatch(name) is not None


def own_files(root: Path, state: str) -> Iterator[Path]:
    """Yield the files in a store that are its own by their names, with the databases that were put aside.

    `state`: the database's name. Links are not followed.
    """
    for folder in _FORMS:
        if (root / folder).is_dir():
            yield from (path for path in sorted((root / folder).iterdir()) if is_own(folder, path.name))
    aside = re.compile(re.escape(state + UNREADABLE) + r"(-[0-9]+)?")
    yield from (path for path in sorted(root.glob(f"{state}{UNREADABLE}*")) if aside.fullmatch(path.name))


def scratch_folders(root: Path) -> list[Path]:
    """Return the scratch folders in a store, those of killed processes among them."""
    return [path for path in root.glob(f"{SCRATCH}*") if _SCRATCH.fullmatch(path.name) and path.is_dir()]
