"""What should be known of the virtual targets that a target is made of.

A virtual target is no goal of a build, so the targets that are made of it tell what it leaves out: else a chain would
drop in silence what a single merge tells. A target with an output tells its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from mergebuild.fold.folder import Folding
from mergebuild.fold.forms import Blueprint

__all__ = ["step_notices"]


def step_notices(folding: Folding, blueprint: Blueprint) -> tuple[str, ...]:
    """Return the notices of the virtual targets below a target, each sentence once, with the name of the first."""
    own = set(blueprint.notes())
    found: dict[str, str] = {}
    for step in _steps(folding, blueprint):
        for sentence in step.notes():
            if sentence not in own:
                found.setdefault(sentence, f"`{step.target.name}`: {sentence}")
    return tuple(found.values())


def _steps(folding: Folding, blueprint: Blueprint) -> Iterator[Blueprint]:
    """Yield the virtual targets below a target that are read through virtual ones alone, each once."""
    seen = {blueprint.target.name}
    waiting = [each.ref for each in reversed(blueprint.target.reads)]
    while waiting:
        ref = waiting.pop()
        if ref not in seen and folding.is_virtual(ref):
            step = folding.blueprint(ref)
            yield step
            waiting += [each.ref for each in reversed(step.target.reads)]
        seen.add(ref)
