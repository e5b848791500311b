"""What a project may write outside its folder: nothing, until its user has said so.

A mergefile may come from a stranger. It may read models wherever they lie, but its outputs and its store stay inside
its own folder (links resolved) unless `mergebuild trust` was run for exactly those folders. The word is kept outside
the project, by the project's place, and no longer holds when the mergefile asks for other folders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import platformdirs

from mergebuild.errors import TrustError
from mergebuild.recipe.model import Where

__all__ = ["grant", "outside", "require"]


def outside(root: Path, paths: Iterable[Path]) -> list[str]:
    """Return the folders outside `root`, links resolved, that these paths lie in."""
    inside = root.resolve()
    folders = {folder.resolve() for folder in {path.parent for path in paths}}
    return sorted(str(folder) for folder in folders if folder != inside and inside not in folder.parents)


def require(root: Path, paths: Mapping[Path, Where | None], asked: Iterable[Path]) -> None:
    """Refuse to write to `paths` outside the project unless the user trusts what the whole recipe asks for.

    `paths`: with the target of each in the recipe. `asked`: every path that the recipe would write to, which is what
    the word was given for.

    Raises:
        TrustError: a folder is outside and not trusted, or what is asked for changed since.
    """
    wanted = outside(root, paths)
    if not wanted:
        return
    granted = _read().get(str(root.resolve()))
    if granted is None or not set(wanted) <= set(granted) or granted != outside(root, asked):
        changed = granted is not None
        first = next(at for path, at in paths.items() if outside(root, [path]))
        raise TrustError.one(
            "not-trusted",
            "this project would write outside its folder"
            + (", and what it asks for changed since it was trusted" if changed else ""),
            where=first.place("output") if first else None,
            rows=tuple(f"writes into {folder}" for folder in wanted),
            help="look at the mergefile, then run `mergebuild trust`",
        )


def grant(root: Path, asked: Iterable[Path]) -> list[str]:
    """Trust a project with the folders that its recipe asks for now; return them."""
    folders = outside(root, asked)
    known = _read()
    known.pop(str(root.resolve()), None)
    if folders:
        known[str(root.resolve())] = folders
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
    temporary.replace(path)
    return folders


def _file() -> Path:
    return Path(platformdirs.user_config_dir("mergebuild", appauthor=False)) / "trust.json"


def _read() -> dict[str, list[str]]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
