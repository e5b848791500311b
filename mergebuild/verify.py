"""Read artifacts again and compare them, tensor by tensor, with what was written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mergebuild.errors import Place, Problem
from mergebuild.results import VerifyResult
from mergebuild.store import ArtifactRow, Store

__all__ = ["verify"]


def verify(store: Store, named: Iterable[tuple[str, ArtifactRow]], shown: dict[Path, str]) -> VerifyResult:
    """Hash files again. `named`: what each is for; `shown`: paths as the user writes them.

    Returns problems with code `corrupt`, one a file, its rows naming the tensors hurt.
    """
    checked: list[str] = []
    problems: list[Problem] = []
    read = 0
    for name, row in named:
        where = shown.get(row.path, row.path.name)
        checked.append(where)
        try:
            damage = store.damage(row)
            read += row.path.stat().st_size
        except OSError as error:
            damage = [f"unreadable: {error.strerror}"]
        if damage:
            listed = tuple(damage[:20]) + ((f"and {len(damage) - 20} more",) if len(damage) > 20 else ())
            problems.append(
                Problem(
                    "corrupt",
                    f"`{where}` of `{name}` is not what was written: {len(damage)} of its tensors differ",
                    Place(where),
                    "`mergebuild build --force` makes it again",
                    listed,
                )
            )
    return VerifyResult(tuple(checked), read, tuple(problems), 5 if problems else 0)
