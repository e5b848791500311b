"""Help for a path at which there is nothing: a file with almost the same name, and where a link leads.

Names that look alike may differ in letter case, which some systems ignore, and in their Unicode form: `é` is one
character in most programs (NFC), and a letter followed by an accent in older ones of macOS (NFD). Programs that keep
large files elsewhere leave a link or a note in their place; each has a command that brings the file back.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from mergebuild.system.filestate import is_gone

__all__ = ["Near", "brought_back_by", "near"]

_MOST_LOOKED_AT: Final = 20_000
"""The most entries of a folder that are compared with a name."""


class Near(NamedTuple):
    """A file or folder with almost the same name."""

    path: Path
    why: str
    """How its name differs."""
    help: str


def near(path: Path) -> Near | None:
    """Return the existing path that looks like a missing one; None if there is none."""
    found, names = Path(path.anchor), path.parts[1:] if path.anchor else path.parts
    differing: list[tuple[str, str]] = []
    for name in names:
        if not is_gone(found / name):
            found /= name
            continue
        other = next((each for each in _names(found) if _folded(each) == _folded(name)), None)
        if other is None:
            return None
        found /= other
        differing.append((name, other))
    return Near(found, *_difference(differing)) if differing else None


def brought_back_by(path: Path) -> str | None:
    """Return the command that brings a missing file back, if a link or a note shows which program keeps it."""
    for each in (path, *path.parents):
        if os.path.islink(each) and is_gone(os.path.realpath(each)):  # noqa: PTH114 -- these never raise
            return _of_a_link(each, PurePath(os.path.realpath(each)))
        if each.name and os.path.isfile(f"{each}.dvc"):  # noqa: PTH113
            return f"`dvc pull {each.name}.dvc` in its folder"
        if not is_gone(each):
            break
    return None


def _of_a_link(path: Path, end: PurePath) -> str | None:
    """Return the command that brings back the file that a link leads to."""
    parts = end.parts
    if ".dvc" in parts or (len(parts) > 3 and parts[-3] == "md5"):
        return "`dvc pull` in its repository"
    if "annex" in parts and "objects" in parts:
        return f"`git annex get {path.name}` in its folder"
    repository = next((each for each in parts if each.startswith(("models--", "datasets--"))), "")
    if repository:
        return f"`hf download {repository.partition('--')[2].replace('--', '/')}`"
    return None


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry, _ in zip(entries, range(_MOST_LOOKED_AT), strict=False)]
    except OSError:
        return []


def _folded(name: str) -> str:
    """Return a form that is equal for names that look alike."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def _difference(names: list[tuple[str, str]]) -> tuple[str, str]:
    """Return how names differ from the existing ones, and what to do."""
    if all(unicodedata.normalize("NFC", wanted) == unicodedata.normalize("NFC", there) for wanted, there in names):
        wanted, there = names[0]
        forms = f"it is in the Unicode form {_form(there)} there, and in {_form(wanted)} as it is written here"
        return forms, "copy the name from the folder (`ls`), or rename the file: both forms look alike"
    if all(wanted.casefold() == there.casefold() for wanted, there in names):
        return "it differs in letter case", "write the name as it is there"
    return "it differs in spaces, or in characters that look alike", "copy the name from the folder (`ls`)"


def _form(name: str) -> str:
    """Return the Unicode form of a name, with its first letter that is written differently in other forms."""
    form = next((each for each in ("NFC", "NFD") if unicodedata.is_normalized(each, name)), "")
    composed = next((each for each in unicodedata.normalize("NFC", name) if not each.isascii()), "")
    written = composed if form == "NFC" else unicodedata.normalize("NFD", composed)
    points = " ".join(f"U+{ord(each):04X}" for each in written)
    return f"{form} ({composed}: {points})" if form and composed else form or "that mixes NFC and NFD"
