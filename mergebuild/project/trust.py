"""What a project may do besides writing to its own folder: nothing, unless its user has allowed it.

A mergefile may be untrusted. It may read models anywhere, but its outputs and its store must be inside its own folder
(with links resolved), and none of its own code runs, unless `mergebuild trust` was run for exactly those folders and
that code. The permission is stored outside of the project, by the project's path. For folders it ends when the
mergefile asks for other ones; for a method, when its file's text or its table changes. A project that was moved or
copied has no permission.

The store's folder may come with the project's files, too. A link in it would redirect what is written or removed there
to anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mergebuild.errors import Place, TrustError
from mergebuild.methods.making import Program
from mergebuild.methods.method import Method
from mergebuild.recipe.model import Where
from mergebuild.results.looks import Trusted
from mergebuild.system import locks
from mergebuild.system.bounded_text import read_text
from mergebuild.system.publishing import write_text

__all__ = ["grant", "may_write", "outside", "require", "require_code", "require_plain", "require_store"]

_HELP = "look at the mergefile, then run `mergebuild trust`"


class _Word(NamedTuple):
    """What a user allows a project: folders, and methods by name, each with the SHA-256 of its program."""

    folders: tuple[str, ...] = ()
    methods: Mapping[str, str] = {}


def outside(root: Path, paths: Iterable[Path]) -> list[str]:
    """Return the folders outside of `root`, with links resolved, that these paths are in."""
    inside = root.resolve()
    folders = {Path(os.path.realpath(folder)) for folder in {path.parent for path in paths}}  # no loop of links raises
    return sorted(str(folder) for folder in folders if folder != inside and inside not in folder.parents)


def require(root: Path, paths: Mapping[Path, Where | None], asked: Iterable[Path]) -> None:
    """Refuse to write to `paths` outside of the project unless the user trusts everything that the recipe asks for.

    `paths`: each with the place of its target in the recipe. `asked`: every path that the recipe would write to, for
    which the permission was given.

    Raises:
        TrustError: a folder is outside and not trusted, or the recipe asks for other folders since.
    """
    wanted = outside(root, paths)
    if not wanted:
        return
    granted = list(_word_for(root).folders)
    if not set(wanted) <= set(granted) or granted != outside(root, asked):
        raise _not_trusted(root, paths, wanted, was_trusted=bool(granted))


def _not_trusted(
    root: Path, paths: Mapping[Path, Where | None], wanted: Iterable[str], *, was_trusted: bool
) -> TrustError:
    """Return the error of a project that would write to these paths, which are in the `wanted` folders outside."""
    first = next(at for path, at in paths.items() if outside(root, [path]))
    return TrustError.one(
        "not-trusted",
        "this project would write outside its folder"
        + (", and what it asks for changed since it was trusted" if was_trusted else ""),
        where=first.place("output") if first else None,
        rows=tuple(f"writes into {folder}" for folder in wanted),
        help=_HELP,
    )


def require_plain(root: Path, path: Path) -> None:
    """Refuse a path from the command line that is written as one inside of the project and leads out of it by a link.

    A user who types a path in another folder means it; but where a link in an untrusted project leads can't be seen in
    the path.

    Raises:
        TrustError: it does.
    """
    written = Path(os.path.abspath(path))  # noqa: PTH100 -- links as they are
    led = outside(root, [path])
    if led and root in written.parents:
        raise TrustError.one(
            "not-trusted",
            f"`{written.relative_to(root).as_posix()}` leads out of the project by a link",
            rows=tuple(f"writes into {folder}" for folder in led),
            help="if that is meant, name the folder that it leads to",
        )


def require_store(root: Path, store: Path, asked: Iterable[Path]) -> None:
    """Refuse a project's own store that is outside of its folder and not trusted, or that contains links.

    `asked`: as for `require`; includes the store.

    Raises:
        TrustError: it is one of these.
    """
    require(root, {store / "any": None}, asked)
    if odd := _odd_in(store):
        message = f"the store `{store.name}` holds what mergebuild never puts there"
        rows = tuple(f"`{name}` is a link, or no file" for name in sorted(odd)[:8])
        mend = "it came with the project's files, or was changed: remove that, or the whole folder"
        raise TrustError.one("foreign-store", message, where=Place(store.name), rows=rows, help=mend)


def _odd_in(store: Path) -> list[str]:
    """Return the names in a store that are neither files nor folders; none if there is no store."""
    try:
        with os.scandir(store) as entries:
            return [each.name for each in entries if _is_odd(each)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_odd(entry: os.DirEntry[str]) -> bool:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:  # another process is at work
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def may_write(root: Path, path: Path) -> bool:
    """Return whether a project may write to a path, and remove it: in its own folder and in trusted ones.

    A path that comes only from the store's records may be any path.
    """
    wanted = outside(root, [path])
    return not wanted or set(wanted) <= set(_word_for(root).folders)


def require_code(root: Path, methods: Iterable[Method]) -> None:
    """Refuse to run the programs of a project's own methods unless the user trusts each as it is now.

    Raises:
        TrustError: one is not trusted, or has changed since.
    """
    granted = _word_for(root).methods
    wanted = {name: each for name, each in _programs(methods).items() if granted.get(name) != _seal(each)}
    if wanted:
        raise _untrusted_code(wanted, was_trusted=bool(granted.keys() & wanted.keys()))


def _untrusted_code(wanted: Mapping[str, Program], *, was_trusted: bool) -> TrustError:
    """Return the error of a project whose programs, by the methods' names, are not trusted as they are now."""
    first = next(iter(wanted.values()))
    return TrustError.one(
        "not-trusted",
        "this project would run code of its own" + (", which changed since it was trusted" if was_trusted else ""),
        where=Place(first.file),
        rows=tuple(f"runs {program.file} for `{name}`" for name, program in wanted.items()),
        help="look at the code, then run `mergebuild trust`",
    )


def grant(root: Path, asked: Iterable[Path], methods: Iterable[Method] = ()) -> Trusted:
    """Trust a project with the folders that its recipe asks for now, and with its own methods as they are now."""
    own = _programs(methods)
    word = _Word(tuple(outside(root, asked)), {name: _seal(each) for name, each in own.items()})
    with _locked() as path:
        known = _read()
        known.pop(str(root.resolve()), None)
        if any(word):
            known[str(root.resolve())] = word._asdict()
        write_text(path, json.dumps(known, indent=1, sort_keys=True))
    return Trusted(word.folders, tuple(dict.fromkeys(each.file for each in own.values())))


def _programs(methods: Iterable[Method]) -> Mapping[str, Program]:
    """Return the programs of the user's own methods among these, by the method's name."""
    return {each.name: program for each in methods if (program := each.makes.program)}


def _seal(program: Program) -> str:
    """Return the SHA-256 of a user's own method: its file's name and text, and its table."""
    whole = json.dumps([program.file, program.table, program.text])
    return hashlib.sha256(whole.encode()).hexdigest()


def _file() -> Path:
    import platformdirs  # here: most projects write to no other folder, and don't need it

    return Path(platformdirs.user_config_dir("mergebuild", appauthor=False)) / "trust.json"


@contextmanager
def _locked() -> Iterator[Path]:
    """Give the file with all permissions while no other process changes it.

    Reading needs no lock: it is always complete.
    """
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.lock_at(path.with_suffix(".lock")):
        yield path


def _word_for(root: Path) -> _Word:
    found = _read().get(str(root.resolve()))
    try:
        return _Word(tuple(map(str, found["folders"])), dict(found["methods"])) if isinstance(found, dict) else _Word()
    except (KeyError, TypeError, ValueError):
        return _Word()


def _read() -> dict[str, object]:
    try:
        found = json.loads(read_text(_file()))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
