"""How a folder of files comes to its place: all of it, or nothing.

The files of a folder are written in a *stage*: a hidden folder beside the output, with a mark in it that says so. When
all of them are written, the stage gets a second name (hard link) of whatever else is to stay: unchanged shards, and
what somebody else keeps in the folder. Then stage and output exchange their names in one step, the rows of the state
follow (`DiskPublisher.publish_folder`), the mark goes, and what was the output until now, the *former* folder, is taken
apart.

Who is killed before the exchange leaves the old folder and a stage, which the next build removes. Who is killed after
it leaves the new folder, with the mark in it until the rows have followed, and a former one; the next build goes on
from there. Where the system can't exchange names the old folder is renamed first, and renamed back by the next build if
that was all that was done.

The files take their places one by one, once all are written, where the folder as a whole can't be replaced: it is a
mount point, or what it lies in can't be written to; or something in it can't have a second name, or would not be the
same there: a file where there are no hard links, a folder of another owner or disk, a link in our files' way.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
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
        """Make one for `folder`, which need not be there.

        Raises:
            OSError: neither beside the folder nor in it can be written; or there is something else than a folder.
        """
        self.folder = folder
        self._real = Path(os.path.realpath(folder))  # through a link: what it leads to is exchanged
        if not is_gone(folder) and not is_folder(self._real):
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(folder))
        self._real.parent.mkdir(parents=True, exist_ok=True)
        self.is_beside = not os.path.ismount(self._real)
        """Whether it lies beside the folder; else in it."""
        try:
            self.path = self._begun(self._real.parent if self.is_beside else self._real)
        except PermissionError:
            if not self.is_beside or not is_folder(self._real):
                raise
            self.is_beside = False
            self.path = self._begun(self._real)

    def _begun(self, home: Path) -> Path:
        path = publishing.temporary_path(home / self._real.name)
        if path not in _own and _is_stage(path):  # of one who was killed and had the same number
            _remove(path)
        path.mkdir()  # which fails where two outputs are one folder
        _own.add(path)
        (path / publishing.temporary_path(path / _MARK).name).write_text(path.name, encoding="utf-8")
        return path

    def place(self, path: Path) -> Path:
        """Return where the file is written that will be at `path`, a path in the folder."""
        return self.path / path.relative_to(self.folder)

    def remove(self) -> None:
        """Remove it with all that is in it; nothing happens where it has become the folder."""
        if _is_stage(self.path):
            _remove(self.path)
        _own.discard(self.path)

    def sync(self) -> None:
        """Wait until the names in it are on the disk."""
        for folder in (self.path, *_folders_below(self.path)):
            platform.sync_folder(folder)

    def carry_over(self, *, without: Collection[Path]) -> bool:
        """Give whatever is in the folder, but for the files at these paths, a second name in the stage.

        Returns:
            Whether that is possible of all of it, and the folder would be the same; if not, nothing was changed.
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
        """Carry over one thing of a folder; return whether that is possible."""
        path = Path(entry.path)
        if path in without:
            return entry.is_file(follow_symlinks=False)
        if not entry.is_dir(follow_symlinks=False):
            return is_gone(new) and _second_name(path, new)
        new.mkdir(exist_ok=True)
        can_be = self._carry_over(path, new, without)
        if not os.listdir(new) and os.listdir(path):  # noqa: PTH208 -- what was in it is not carried over
            new.rmdir()
        return can_be

    def take_place(self) -> Path | None:
        """Become the folder, in one step; return where the former one is now, if there was one.

        Raises:
            OSError: it can't be renamed; the folder is what it was.
        """
        former = former_of(self.path)
        if not is_folder(self._real):
            self.path.rename(self._real)
            return None
        if platform.exchange(self.path, self._real):
            with suppress(OSError):  # the next build finds it under either name
                self.path.rename(former)
            return former if is_folder(former) else self.path
        self._rename_both(former)
        return former

    def _rename_both(self, former: Path) -> None:
        """Take the place of the folder in two steps, where names can't be exchanged in one."""
        self._real.rename(former)
        try:
            self.path.rename(self._real)
        except BaseException:
            former.rename(self._real)
            raise

    def step_back(self, former: Path | None) -> None:
        """Be a stage again, and let the former folder be the folder: what was to follow could not be done.

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
    """Return where what a stage replaced lies until it is taken apart, and lies by the records."""
    return stage.with_name(stage.name.removesuffix(_FORMER) + _FORMER)


def left_of(folder: Path) -> Iterator[Path]:
    """Yield the former folders that a killed process left beside a folder, stages removed first.

    Where the folder itself was renamed and nothing put in its place, it is renamed back. Nobody else may write there.
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
    """Return what a folder was called as a stage, if it has its mark still: perhaps the rows did not follow."""
    real = Path(os.path.realpath(folder))
    for mark in _marks(real):
        name = mark.read_bytes()[:1000].decode(errors="replace")
        if publishing.is_temporary(name) and "/" not in name and os.sep not in name:
            return real.with_name(name)
    return None


def unmark(folder: Path) -> None:
    """Have a folder be no stage any more."""
    for mark in _marks(folder):
        mark.unlink(missing_ok=True)


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
    """Whether two paths name one file, or are links that lead to the same."""
    if one.is_symlink() and other.is_symlink():
        return one.readlink() == other.readlink()
    first, second = one.lstat(), other.lstat()
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _second_name(path: Path, new: Path) -> bool:
    """Give a file (or a pipe) a second name, and make a link again; return whether that is possible."""
    if path.is_symlink():
        new.symlink_to(path.readlink())
        return True
    return platform.link_or_none(path, new)


def _is_made_alike(folder: Path, state: os.stat_result, model: Path) -> bool:
    """Give a folder the owner, mode, times and attributes of another; return whether that is possible."""
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
    """Return the marks of a stage: none where there is no folder. What can't be looked at raises."""
    try:
        names = os.listdir(path)  # noqa: PTH208 -- `glob` answers nothing where a folder can't be read
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path / name for name in names if name.startswith(f".{_MARK}{publishing.MARK}")]


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
