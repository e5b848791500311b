"""How a folder of files comes to its place: all of it, or nothing.

The files of a folder are written in a *stage*: a hidden folder beside the output, with a mark in it that says so. When
all of them are written, the stage gets a second name of whatever is to stay (unchanged shards, and what somebody else
keeps in the folder), and stage and output exchange their names in one step. Then the mark goes, and what was the output
until now, the *former* folder, is taken apart (`Store.publish_folder`).

Who is killed before that step leaves the old folder, and a stage, which the next build removes. Who is killed after it
leaves the new folder, and a former one, which has no mark and which the next build takes apart. Where the system can't
exchange names the old folder is renamed first, and renamed back by the next build if that was all that was done. Where
a folder can't be renamed (a mount point, a parent that can't be written to) its files take their places one by one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from mergebuild import portable, publishing
from mergebuild.filestate import is_folder, is_gone

__all__ = ["Stage", "files_below", "former_folders", "is_same_file", "remove_empty"]

_MARK = "stage"
_FORMER = "-former"


class Stage:
    """The hidden folder in which the files of an output that is a folder are written."""

    def __init__(self, folder: Path) -> None:
        """Make one for `folder`, which need not be there.

        Raises:
            OSError: neither beside the folder nor in it can be written; or there is something else than a folder.
        """
        self.folder = folder
        self._real = Path(os.path.realpath(folder))  # through a link: what it leads to is exchanged
        if not is_gone(folder) and not is_folder(self._real):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(folder))
        self._real.parent.mkdir(parents=True, exist_ok=True)
        self.can_be_exchanged = not os.path.ismount(self._real)
        """Whether it lies beside the folder."""
        try:
            self.path = self._begun(self._real.parent if self.can_be_exchanged else self._real)
        except PermissionError:
            if not self.can_be_exchanged or not is_folder(self._real):
                raise
            self.can_be_exchanged = False
            self.path = self._begun(self._real)

    def _begun(self, home: Path) -> Path:
        path = publishing.temporary_path(home / self._real.name)
        if _is_stage(path):  # of one who was killed and had the same number
            _remove(path)
        path.mkdir()
        (path / publishing.temporary_path(path / _MARK).name).touch()
        return path

    def place(self, path: Path) -> Path:
        """Return where the file is written that will be at `path`, a path in the folder."""
        return self.path / path.relative_to(self.folder)

    def remove(self) -> None:
        """Remove it with all that is in it; nothing happens where it has become the folder."""
        if _is_stage(self.path):
            _remove(self.path)

    def fill(self, *, without: Collection[Path]) -> None:
        """Give whatever else is in the folder, but for the files at these paths, a second name in the stage.

        Raises:
            OSError: something can't be copied where there are no second names.
        """
        if is_folder(self._real):
            self._fill(self.folder, self.path, without)

    def _fill(self, here: Path, there: Path, without: Collection[Path]) -> None:
        with os.scandir(here) as entries:
            found = [entry for entry in entries if not publishing.is_temporary(entry.name)]
        for entry in found:
            path, new = here / entry.name, there / entry.name
            if path in without or not (is_gone(new) or is_folder(new)):
                continue
            if entry.is_symlink():
                new.symlink_to(path.readlink())
            elif entry.is_dir():
                new.mkdir(exist_ok=True)
                self._fill(path, new, without)
                if not os.listdir(new) and os.listdir(path):  # noqa: PTH208 -- what was in it is not carried over
                    new.rmdir()
            elif entry.is_file():
                _second_name(path, new)
        with suppress(OSError):  # of somebody else
            shutil.copystat(here, there)

    def take_place(self) -> Path | None:
        """Become the folder, in one step; return where the former one is now, if there was one.

        Raises:
            OSError: it can't be renamed; the folder is what it was.
        """
        former: Path | None = None
        if not is_folder(self._real):
            self.path.rename(self._real)
        elif portable.exchange(self.path, self._real):
            former = self.path
        else:
            former = self.path.with_name(self.path.name + _FORMER)
            self._real.rename(former)
            try:
                self.path.rename(self._real)
            except BaseException:
                former.rename(self._real)
                raise
        with suppress(OSError):  # it has taken place, whatever becomes of the mark: the next build removes it
            _unmark(self._real)
        return former


def former_folders(folder: Path) -> Iterator[Path]:
    """Yield what a killed process left beside a folder and did not take apart, stages removed first.

    Where the folder itself was moved out of the way and nothing put in its place, it is moved back. Nobody else may be
    writing there.
    """
    real = Path(os.path.realpath(folder))
    left = [path for path in publishing.left_over(real) if not path.is_symlink() and is_folder(path)]
    for path in left:
        if _is_stage(path):
            _remove(path)
        elif is_folder(real):
            yield path
        else:
            path.rename(real)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all in a folder and its folders that is no folder, links among it."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path))
        else:
            yield Path(entry.path)


def remove_empty(folder: Path) -> bool:
    """Remove a folder with the folders in it; return whether there was nothing else in it."""
    with os.scandir(folder) as entries:
        found = list(entries)
    is_empty = True
    for entry in found:
        is_empty &= entry.is_dir(follow_symlinks=False) and remove_empty(Path(entry.path))
    if is_empty:
        folder.rmdir()
    return is_empty


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file, or a file and its copy as `Stage.fill` makes it."""
    first, second = one.lstat(), other.lstat()
    if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
        return True
    if one.is_symlink() and other.is_symlink():
        return one.readlink() == other.readlink()
    return (first.st_mode, first.st_size, first.st_mtime_ns) == (second.st_mode, second.st_size, second.st_mtime_ns)


def _second_name(path: Path, new: Path) -> None:
    """Give a file a second name, or a copy where there is no such thing; what can't be read is moved over later."""
    with suppress(PermissionError, FileNotFoundError):
        if not portable.link_or_none(path, new):
            if not portable.clone_file(path, new):
                shutil.copyfile(path, new)
            shutil.copystat(path, new)


def _is_stage(path: Path) -> bool:
    return bool(_marks(path))


def _marks(path: Path) -> list[Path]:
    """Return the marks of a stage: none where there is no folder. What can't be looked at raises."""
    try:
        names = os.listdir(path)  # noqa: PTH208 -- `glob` answers nothing where a folder can't be read
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path / name for name in names if name.startswith(f".{_MARK}{publishing.MARK}")]


def _unmark(path: Path) -> None:
    for mark in _marks(path):
        mark.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Remove a stage, its mark last: what is left of one after a failure is still known as one."""
    marks = _marks(path)
    for entry in list(os.scandir(path)):
        if Path(entry.path) in marks:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()
    for mark in marks:
        mark.unlink()
    path.rmdir()
