"""How a folder of files is published: all of it at once, or nothing.

The files of a folder are written in a *stage*: a hidden folder beside the output, marked by a file in it. When all of
them are finished, whatever else is to stay (unchanged shards, and files that users keep in the folder) gets a second
name (hard link) in the stage. Then stage and output exchange their names in one step, the rows of the state are updated
(`DiskPublisher.publish_folder`), the mark is removed, and so is the *former* folder, which was the output until now.

If the process is killed before the exchange, the old folder is unchanged, and the next build removes the stage. If it
is killed after it, the new folder has its mark until the rows are updated, and there is a former folder; the next build
goes on from there. If the system can't exchange names the old folder is renamed first, and if nothing more was done,
the next build renames it back.

In some cases the folder can't be replaced as a whole: it is a mount point, or the folder above it isn't writable; or
something in it can't have a second name, or would not be the same there (a file on a disk without hard links, a folder
of another owner or disk, a link in the way of our files). Then the files are put at their places one by one, once all
are finished.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from mergebuild.system import platform, publishing
from mergebuild.system.filestate import is_folder, is_gone

__all__ = ["Stage", "files_below", "former_of", "is_same_file", "left_of", "marked_stage", "remove_empty", "unmark"]

_MARK = "stage"
_FORMER = "-former"

_own: set[Path] = set()
"""The stages of this process."""


class Stage:
    """The hidden folder in which the files of an output that is a folder are written."""

    def __init__(self, folder: Path) -> None:
        """Make one for `folder`, which need not exist.

        Raises:
            OSError: neither the folder nor the one above it is writable; or there is something else than a folder.
        """
        self.folder = folder
        self._real = Path(os.path.realpath(folder))  # if it is a link, the folder that it leads to is exchanged
        if not is_gone(folder) and not is_folder(self._real):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(folder))
        self._real.parent.mkdir(parents=True, exist_ok=True)
        self.is_beside = not os.path.ismount(self._real)
        """Whether the stage is beside the folder; else it is in it."""
        try:
            self.path = self._begun(self._real.parent if self.is_beside else self._real)
        except PermissionError:
            if not self.is_beside or not is_folder(self._real):
                raise
            self.is_beside = False
            self.path = self._begun(self._real)

    def _begun(self, home: Path) -> Path:
        path = publishing.temporary_path(home / self._real.name)
        if path not in _own and _is_stage(path):  # left by a killed process that had the same number
            _remove(path)
        path.mkdir()  # fails if two outputs are one folder
        try:
            _own.add(path)
            (path / publishing.temporary_path(path / _MARK).name).write_text(path.name, encoding="utf-8")
        except BaseException:  # an interrupt may come here: nobody else knows of the folder yet
            shutil.rmtree(path, ignore_errors=True)
            _own.discard(path)
            raise
        return path

    def place(self, path: Path) -> Path:
        """Return where to write the file for `path`, a path in the folder."""
        return self.path / path.relative_to(self.folder)

    def remove(self) -> None:
        """Remove it with all that is in it. Does nothing once it has replaced the folder."""
        if _is_stage(self.path):
            _remove(self.path)
        _own.discard(self.path)

    def sync(self) -> None:
        """Wait until the names in it are on the disk."""
        for folder in (self.path, *_folders_below(self.path)):
            platform.sync_folder(folder)

    def carry_over(self, *, without: Collection[Path]) -> bool:
        """Give whatever is in the folder, except the files at these paths, a second name in the stage.

        Returns:
            Whether that was possible for all of it, so that the folder will have the same; if not, the folder is
                unchanged.
        """
        if not is_folder(self._real):
            return True
        try:
            unmark(self._real)
            return self._carry_over(self.folder, self.path, without)
        except OSError:
            return False

    def _carry_over(self, here: Path, there: Path, without: Collection[Path]) -> bool:
        state = here.stat()
        if state.st_dev != self.path.stat().st_dev or not os.access(here, os.R_OK | os.W_OK | os.X_OK):
            return False
        with os.scandir(here) as entries:
            found = [entry for entry in entries if not publishing.is_temporary(entry.name)]
        if not all(self._carry_entry(entry, there / entry.name, without) for entry in found):
            return False
        return _is_made_alike(there, state, here)

    def _carry_entry(self, entry: os.DirEntry[str], new: Path, without: Collection[Path]) -> bool:
        """Carry over one file or folder; return whether that is possible."""
        path = Path(entry.path)
        if path in without:
            return entry.is_file(follow_symlinks=False)
        if not entry.is_dir(follow_symlinks=False):
            return is_gone(new) and _second_name(path, new)
        new.mkdir(exist_ok=True)
        can_be = self._carry_over(path, new, without)
        if not os.listdir(new) and os.listdir(path):  # noqa: PTH208 -- nothing in it is carried over
            new.rmdir()
        return can_be

    def take_place(self) -> Path | None:
        """Replace the folder, in one step if possible; return where the former one is now, if there was one.

        Raises:
            OSError: it can't be renamed; the folder is what it was.
        """
        former = former_of(self.path)
        if not is_folder(self._real):
            self.path.rename(self._real)
            return None
        if platform.exchange(self.path, self._real):
            try:
                self.path.rename(former)
            except OSError:  # the next build finds it by either name
                return self.path
            return former
        self._rename_both(former)
        return former

    def _rename_both(self, former: Path) -> None:
        """Replace the folder in two steps, on systems that can't exchange names."""
        self._real.rename(former)
        try:
            self.path.rename(self._real)
        except BaseException:
            former.rename(self._real)
            raise

    def step_back(self, former: Path | None) -> None:
        """Undo `take_place`, because what had to follow failed.

        `former`: as `take_place` returned it.

        Raises:
            OSError: one of them can't be renamed; the next build goes on from what there is.
        """
        if former is None:
            self._real.rename(self.path)
        elif platform.exchange(former, self._real):
            if former != self.path:
                former.rename(self.path)
        else:
            self._real.rename(self.path)
            former.rename(self._real)


def former_of(stage: Path) -> Path:
    """Return the path of the former folder that a stage replaces; rows of its files have this path meanwhile."""
    return stage.with_name(stage.name.removesuffix(_FORMER) + _FORMER)


def left_of(folder: Path) -> Iterator[Path]:
    """Yield the former folders that a killed process left beside a folder; stages are removed.

    If the folder itself was renamed and not replaced, it is renamed back. No other process may write there.
    """
    real = Path(os.path.realpath(folder))
    for path in list(publishing.left_over(real)):
        if path.is_symlink() or not is_folder(path):
            continue
        if _is_stage(path):
            _remove(path)
        elif is_folder(real):
            yield path
        else:
            path.rename(real)


def marked_stage(folder: Path) -> Path | None:
    """Return the path that a folder had as a stage, if it still has its mark: the rows may not be updated."""
    real = Path(os.path.realpath(folder))
    for mark in _marks(real):
        name = mark.read_bytes()[:1000].decode(errors="replace")
        if publishing.is_temporary(name) and "/" not in name and os.sep not in name:
            return real.with_name(name)
    return None


def unmark(folder: Path) -> None:
    """Remove the mark of a stage."""
    for mark in _marks(folder):
        mark.unlink(missing_ok=True)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield whatever is no folder in a folder and the folders below it; links are not followed."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path))
        else:
            yield Path(entry.path)


def remove_empty(folder: Path) -> bool:
    """Remove a folder with the folders in it if there is nothing else in them; return whether it is gone."""
    with os.scandir(folder) as entries:
        found = list(entries)
    is_empty = True
    for entry in found:
        is_empty &= entry.is_dir(follow_symlinks=False) and remove_empty(Path(entry.path))
    if is_empty:
        folder.rmdir()
    return is_empty


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file, or are links with the same target."""
    if one.is_symlink() and other.is_symlink():
        return one.readlink() == other.readlink()
    first, second = one.lstat(), other.lstat()
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _second_name(path: Path, new: Path) -> bool:
    """Give a file (or a pipe) a second name, or copy a link; return whether that is possible."""
    if path.is_symlink():
        new.symlink_to(path.readlink())
        return True
    return platform.link_or_none(path, new)


def _is_made_alike(folder: Path, state: os.stat_result, model: Path) -> bool:
    """Give a folder the owner, mode, times and attributes of another; return True."""
    mine = folder.stat()
    if (mine.st_uid, mine.st_gid) != (state.st_uid, state.st_gid):
        os.chown(folder, state.st_uid, state.st_gid)
    shutil.copystat(model, folder)
    return True


def _folders_below(folder: Path) -> Iterator[Path]:
    for parent, names, _ in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _is_stage(path: Path) -> bool:
    return bool(_marks(path))


def _marks(path: Path) -> list[Path]:
    """Return the marks in a folder; none if there is no folder. Raises OSError if it can't be read."""
    try:
        names = os.listdir(path)  # noqa: PTH208 -- `glob` finds nothing, without an error, if a folder can't be read
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path / name for name in names if name.startswith(f".{_MARK}{publishing.MARK}")]


def _remove(path: Path) -> None:
    """Remove a stage, its mark last: if this fails midway, the rest is still known to be one."""
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
