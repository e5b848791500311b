"""A folder that is read, as the readers of folders know it: its entries, its small files, and errors that name it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from mergebuild.errors import Place, SourceError
from mergebuild.formats.documents import read_document
from mergebuild.formats.model import Model
from mergebuild.formats.reading import quoted
from mergebuild.formats.sidecars import Sidecars, sidecars_of
from mergebuild.system.filestate import is_file, is_folder

__all__ = ["FileReader", "FolderPlace"]

FileReader = Callable[[Path, str], Model]
"""Reads one file of weights; the second argument is its name in errors."""


class FolderPlace(NamedTuple):
    """A folder, its name in errors, the folder that the user named, and how to read files."""

    path: Path
    shown: str
    home: Path
    read_file: FileReader
    within: tuple[Path, ...] = ()
    """Folders in which links of small files may also end."""

    def names(self) -> frozenset[str]:
        """Return the names of its entries."""
        try:
            return frozenset(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            raise self.error("folder-missing", "does not exist", "mend the path, or put the folder there") from None
        except (OSError, ValueError) as error:
            raise self.unreadable(error) from error

    def has(self, name: str) -> bool:
        """Return whether a file with this name exists, or a link to one."""
        try:
            return is_file(self.path / name)
        except OSError as error:
            raise self.unreadable(error) from error

    def is_there(self) -> bool:
        """Return whether it exists and is a folder."""
        try:
            return is_folder(self.path)
        except OSError as error:
            raise self.unreadable(error) from error

    def below(self, name: str) -> FolderPlace:
        """Return a folder inside it."""
        return self._replace(path=self.path / name, shown=f"{self.shown}/{name}")

    def document(self, name: str) -> dict[str, object]:
        """Return a JSON object inside it."""
        shown = f"{self.shown}/{name}"
        return read_document(self.path / name, home=self.home, shown=shown, within=self.within)

    def beside(
        self, subfolders: Iterable[str] = (), modules: Iterable[str] = (), *, with_code: bool = False
    ) -> Sidecars:
        """Return its small files."""
        try:
            return sidecars_of(self.path, subfolders, modules, with_code=with_code, within=self.within)
        except OSError as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: OSError | ValueError) -> SourceError:
        """Return the error for a folder whose entries can't be listed."""
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        return self.error("folder-unreadable", f"can't be read: {reason}", "check the path and its permissions")

    def error(self, code: str, sentence: str, help: str, rows: Iterable[str] = ()) -> SourceError:
        """Return an error about it."""
        return SourceError.one(code, f"{quoted(self.shown)} {sentence}", where=Place(self.shown), help=help, rows=rows)
