"""Answers a build with nothing to do before the mergefile is parsed, and usually before click is imported.

A stamp shows that there is nothing to do in less time than click takes to import. So a plain `mergebuild build`, with
names of targets or without, is handled here. Any other command line is parsed by click; `build` then calls this too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergebuild.cli.locate import path_of_mergefile, shown_from_here, targets_from_here
from mergebuild.project.stamp import Stamp
from mergebuild.report.builds import build_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergebuild.cli.settings import Settings
    from mergebuild.results.build import BuildResult

__all__ = ["is_answered", "nothing_to_do", "show"]


def is_answered(arguments: Sequence[str], settings: Settings) -> bool:
    """Answer a command line that has no options, if it is a build with nothing to do; return whether it was."""
    command, *targets = arguments
    is_plain = command == "build" and not any(each.startswith("-") for each in targets)
    result = nothing_to_do(settings, tuple(targets)) if is_plain else None
    if result is not None:
        show(settings, result)
    return result is not None


def nothing_to_do(settings: Settings, targets: tuple[str, ...]) -> BuildResult | None:
    """Return the result of a build with nothing to do; None if the stamp doesn't show that."""
    named = targets_from_here(settings, targets)
    return Stamp(path_of_mergefile(settings), settings.overrides, settings.variables, named).answer()


def show(settings: Settings, result: BuildResult) -> None:
    """Print the result of a build."""
    is_told = not settings.quiet and not settings.as_json
    lines = build_lines(result, verbose=settings.verbose > 0, shown=shown_from_here(settings)) if is_told else []
    if result.profile is not None:
        from mergebuild.report.profile import profile_lines

        lines += profile_lines(result.profile)
    settings.console.answer(result.to_json(), lines, problems=result.problems)
