"""`mergefile.lock`: what the sources were and what the targets came to, for others to hold theirs against.

TOML, sorted, meant for version control. Sources by SHA-256, which is what model hubs publish; targets by their
artifact digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli

from mergebuild import publishing
from mergebuild.errors import Place, RecipeError
from mergebuild.texts import read_text

__all__ = ["Locked", "read", "write"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Locked:
    """What a lock file says: (sha256, size in bytes) by source, and the artifact digest by target."""

    sources: Mapping[str, tuple[str, int]]
    targets: Mapping[str, str]


def write(path: Path, locked: Locked) -> None:
    """Write a lock file, whole or not at all."""
    lines = [
        "# Written by `mergebuild lock`; held against by `mergebuild build --locked`.",
        f"version = {_VERSION}",
        "",
    ]
    for name, (sha256, size) in sorted(locked.sources.items()):
        lines += [f"[sources.{_key(name)}]", f'sha256 = "{sha256}"', f"size = {size}", ""]
    if locked.targets:
        lines += ["[targets]", *(f'{_key(name)} = "{digest}"' for name, digest in sorted(locked.targets.items())), ""]
    publishing.write_text(path, "\n".join(lines))


def read(path: Path) -> Locked:
    """Return what a lock file says.

    Raises:
        RecipeError: it is missing, or not a lock file of this version.
    """
    place = Place(path.name)
    try:
        table = tomli.loads(read_text(path))
        if table["version"] != _VERSION:
            raise ValueError(table["version"])
        sources = {str(name): (str(row["sha256"]), int(row["size"])) for name, row in table.get("sources", {}).items()}
        targets = {str(name): str(digest) for name, digest in table.get("targets", {}).items()}
    except FileNotFoundError:
        raise RecipeError.one("no-lock", f"there is no `{path.name}`", help="`mergebuild lock` writes it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RecipeError.one(
            "bad-lock", f"`{path.name}` is not a lock file of this version", where=place, help="write it again"
        ) from error
    return Locked(sources, targets)


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
